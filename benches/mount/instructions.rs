//! The warm mount in figures that the machine's other work does not change: `make instructions`.

use std::fs;

use crate::counts::{Counted, heading, missing};
use crate::files::House;
use crate::measure::{Outcome, connect_when_ready};
use crate::store::{AUDIENCES, SECRETS, Store, objects};

const KIB: usize = 1024;

pub async fn count() -> Outcome<()> {
    if let Some(tool) = missing() {
        println!("not counted: {tool} is not installed (apt install valgrind strace)");
        return Ok(());
    }
    println!("10 files of 256 bytes, 1 in flight\n");
    heading();
    let house = House::build("")?;
    let request = house.requests("small", 1)?.remove(0);
    let folder = house.folder.path();
    let answer = {
        let _process = house.serve()?;
        connect_when_ready(&house.socket()).await?.mount(request.clone()).await?.into_inner()
    };
    let (socket, file) = (folder.join("echo.sock"), folder.join("answer"));
    fs::write(&file, prost::Message::encode_to_vec(&answer))?;
    let server = vec![std::env::current_exe()?.display().to_string(), "--echo".to_owned(), text(&socket), text(&file)];
    Counted { what: "bare tonic echo", before: Vec::new(), server, socket, request: request.clone() }.count(folder).await?;
    Counted { what: "file vault", before: Vec::new(), server: house.command(), socket: house.socket(), request }.count(folder).await?;
    written().await?;
    cached().await?;
    rendered(&house).await
}

/// What rendering adds to a mount of one secret of ten fields.
async fn rendered(house: &House) -> Outcome<()> {
    let values: String = (0..SECRETS).map(|n| format!("setting.number.{n} = {{{{ s.field{n} | toml }}}}\n")).collect();
    let template = format!("{}\n{values}", "# A comment of the file.\n".repeat((KIB - values.len()) / 25));
    let template: String = template.lines().map(|line| format!("    {line}\n")).collect();
    println!();
    let row = async |what: &str, object: &str| {
        let request = house.formed(object)?;
        Counted { what, before: Vec::new(), server: house.command(), socket: house.socket(), request }.count(house.folder.path()).await
    };
    row("one secret of ten fields", "").await?;
    for format in ["dotenv", "json", "properties", "toml", "yaml"] {
        let object = format!("- secret: form/ten\n  format: {format}\n  path: formed\n");
        row(&format!("the same, and as {format}"), &object).await?;
    }
    let object = format!("- template: |\n{template}  secrets: {{ s: form/ten }}\n  path: formed\n");
    row("the same, and a template of 1 KiB with ten values", &object).await
}

/// The daemon writes the volume itself, and finds that nothing has changed.
async fn written() -> Outcome<()> {
    if !rustix::process::geteuid().is_root() {
        println!("not counted: `delivery: provider` needs root, to mount a volume");
        return Ok(());
    }
    let kubelet = tempfile::tempdir()?;
    let house = House::build(&format!("delivery: provider\nkubeletDir: {}\n", kubelet.path().display()))?;
    let mut request = house.requests("small", 1)?.remove(0);
    let target = request.target_path.strip_prefix("/var/lib/kubelet/").ok_or("another target")?;
    let target = kubelet.path().join(target);
    fs::create_dir_all(&target)?;
    request.target_path = text(&target);
    let script = format!("mount -t tmpfs tmpfs {} && exec \"$0\" \"$@\"", target.display());
    let before = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script].map(str::to_owned).into();
    let what = "file vault, delivery: provider, unchanged";
    Counted { what, before, server: house.command(), socket: house.socket(), request }.count(house.folder.path()).await
}

async fn cached() -> Outcome<()> {
    let store = Store::build().await?;
    let (folder, server) = store.configure("fresh: 10m")?;
    let request = crate::measure::request(&store.issuer, &AUDIENCES, 0, &objects(SECRETS))?;
    let socket = folder.path().join("sockets/keyferry.sock");
    Counted { what: "fresh cache", before: Vec::new(), server, socket, request }.count(folder.path()).await
}

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}
