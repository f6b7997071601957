//! `keyferry demo`: the whole job on this machine, with no cluster. Everything in it is real except the API server and the driver. [`Issuer`]
//! plays the API server, and the client of `keyferry mount` plays the driver.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Duration;

use super::answer::Answer;
use super::client::{self, CallError, Client};
use super::manifest::ClassManifest;
use super::mount::{PodSpec, VolumeSpec, mount_request, tree};
use super::{Failure, TempFolder};
use crate::app::App;
use crate::backend::store::file::{Vault, generate_identity};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::identity::Issuer;
use crate::model::{Field, PodClaims, SecretBytes};

const EXAMPLES: &str = "\
Examples:
  keyferry demo
  keyferry demo --keep       # keeps the folder, and prints its name

Exit code 1: a step failed.";

/// Show the whole job on this machine, with no cluster.
///
/// The demo makes a vault, keys and tokens in a temporary folder, and starts a provider. A Pod that may have the secrets mounts its class.
/// Then the demo rotates the secret and mounts again. At the end a Pod of another namespace asks, and the provider refuses. Each step shows
/// the command that does it. The demo removes the folder at the end, also after Ctrl-C. The exit code is 0 only if every step did what it says.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct DemoArgs {
    /// Keep the folder, so that you can look into it.
    #[arg(long)]
    keep: bool,

    /// Print only errors: the exit code says whether all steps did what they say.
    #[arg(short, long)]
    pub(super) quiet: bool,
}

const ISSUER: &str = "https://demo.keyferry.example";

const CLASS: &str = "\
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: shop
spec:
  provider: keyferry
  parameters:
    objects: |
      - secret: shop/db          # one field, as a file that only root may read
        field: password
        path: db/password
        mode: 0400
      - secret: shop/db          # the whole secret, as JSON
        path: db.json
      - secret: shop/flags       # a file for each field
        fields: \"*\"
        path: flags/
";

/// The demo compares the passwords, and never prints one.
const FIRST: &str = "correct horse battery staple";
const SECOND: &str = "rotated: Tr0ub4dor";

/// # Errors
/// A step failed.
pub async fn run(args: DemoArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let signalled = stopped_by_a_signal()?;
    let folder = TempFolder::new("keyferry-demo").map_err(Failure::fault)?;
    let stage = Stage::set(folder.path()).map_err(|error| Failure::fault(format!("the demo's files cannot be made: {error}")))?;
    let app = App::start(stage.config.clone(), None, Arc::default()).await.map_err(Failure::fault)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(app.serve(async move { drop(stopped.await) }));
    let played = tokio::select! {
        played = stage.play(out) => played,
        () = signalled => Err(Failure::interrupted()),
    };
    let _ = stop.send(());
    let drained = serving.await.map_err(Failure::fault)?;
    played?;
    check(drained, "the provider stopped while mounts were running")?;
    if args.keep {
        let kept = folder.keep();
        say(out, &format!("\nThat was all of it: 2 mounts served, 1 refused. Kept: {}", kept.display()))?;
    } else {
        say(out, "\nThat was all of it: 2 mounts served, 1 refused, nothing left behind.")?;
    }
    say(out, NEXT)
}

const NEXT: &str = "
Next, for an application of yours:
    $ keyferry vault init --vault vault --identity age.key
    $ keyferry vault set --vault vault shop/api token=-   # asks for the value
    $ keyferry example one-container > class.yaml         # a class and a Pod to start from; `keyferry example` lists all
    $ keyferry check class.yaml                           # says what is wrong with it, with line and column
    $ kubectl apply -f class.yaml                         # once the provider is installed: docs/install.md
A Pod's volume names the class:
    csi: { driver: secrets-store.csi.k8s.io, readOnly: true, volumeAttributes: { secretProviderClass: one-container } }";

/// Waits for SIGINT, SIGTERM or SIGHUP, so that the demo also removes its folder then.
fn stopped_by_a_signal() -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| signal(kind).map_err(Failure::fault);
    let (mut interrupt, mut terminate, mut hangup) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

/// The files and values of the demo.
struct Stage {
    root: PathBuf,
    config: Config,
    issuer: Issuer,
    vault: Vault,
    class: ClassManifest,
}

impl Stage {
    fn set(root: &Path) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let identity = root.join("age.key");
        let recipient = generate_identity(&identity, SystemClock.now())?;
        let vault = Vault::init(root.join("vault"), &[recipient])?.vault;
        vault.set(&"shop/db".parse()?, &fields(&[("username", "shop"), ("password", FIRST)])?)?;
        vault.set(&"shop/flags".parse()?, &fields(&[("dark-mode", "on"), ("beta", "off")])?)?;
        let issuer = Issuer::new(ISSUER)?;
        fs::write(root.join("jwks.json"), issuer.jwks())?;
        let file = root.join("keyferry.yaml");
        fs::write(&file, configuration(root))?;
        fs::write(root.join("class.yaml"), CLASS)?;
        let config = Config::load(&file)?;
        let class = ClassManifest::read("class.yaml", CLASS, None)?;
        Ok(Self { root: root.to_owned(), config, issuer, vault, class })
    }

    async fn play(&self, out: &mut dyn Write) -> Result<(), Failure> {
        step(out, 1, "A vault of age files, encrypted for one key")?;
        command(out, "vault init --vault vault --identity age.key")?;
        command(out, "vault set --vault vault shop/db username=shop password=-")?;
        command(out, "vault set --vault vault shop/flags dark-mode=on beta=off")?;
        say(out, &indented(&listing(&self.root.join("vault"))?))?;

        step(out, 2, "A provider, listening where the Secrets Store CSI driver would look for it")?;
        command(out, "serve --config keyferry.yaml")?;
        command(out, "health --socket sockets/keyferry.sock")?;
        let socket = self.config.sockets.path("keyferry");
        let mut driver = client::connect(&socket).await.map_err(Failure::fault)?;
        let version = client::version(&mut driver, Duration::from_secs(5)).await.map_err(Failure::fault)?;
        say(out, &format!("    {} answers Version: {} {}", socket.display(), version.runtime_name, version.runtime_version))?;

        step(out, 3, "Pod shop/web-0 mounts its class: its token proves who it is, a policy rule lets it read files/shop/**")?;
        command(out, "mount --socket sockets/keyferry.sock --class class.yaml --as shop/web --token keyferry=FILE --target web-0")?;
        let target = self.root.join("web-0");
        fs::create_dir(&target).map_err(Failure::fault)?;
        let answer = self.mount(&mut driver, "shop").await.map_err(Failure::fault)?;
        write(&answer, &target)?;
        say(out, &indented(&tree(&target, &answer.files).map_err(Failure::fault)?))?;
        check(read(&target, "db/password")? == FIRST, "db/password does not hold the password")?;
        check(mode(&target, "db/password")? == 0o400, "db/password does not have the mode 0400")?;
        check(read(&target, "flags/beta")? == "off", "flags/beta does not hold the flag")?;
        say(out, "    db/password holds the password of the vault, byte for byte, with mode 0400")?;

        step(out, 4, "The password is rotated; kubelet asks again within a minute or so, and the files follow")?;
        command(out, "vault patch --vault vault --identity age.key shop/db password=-")?;
        self.vault
            .set(&"shop/db".parse().map_err(Failure::fault)?, &fields(&[("username", "shop"), ("password", SECOND)])?)
            .map_err(Failure::fault)?;
        let rotated = self.mount(&mut driver, "shop").await.map_err(Failure::fault)?;
        write(&rotated, &target)?;
        check(read(&target, "db/password")? == SECOND, "db/password does not hold the new password")?;
        for (before, after) in answer.objects.iter().zip(&rotated.objects) {
            say(out, &format!("    {}: version {} -> {}", after.id, before.version, after.version))?;
        }
        check(answer.objects != rotated.objects, "the version did not change")?;

        step(out, 5, "Pod bank/web-0, with a good token of its own, asks for the same class")?;
        command(out, "mount --socket sockets/keyferry.sock --class class.yaml --as bank/web --token keyferry=FILE --dry-run")?;
        match self.mount(&mut driver, "bank").await {
            Err(CallError::Status(status)) if status.message().starts_with("PolicyDenied: ") => {
                say(out, &indented(&wrapped(status.message())))
            }
            Err(other) => Err(Failure::fault(format!("it was refused, but not by policy: {other}"))),
            Ok(_) => Err(Failure::fault("Pod bank/web-0 got the secrets of another namespace")),
        }
    }

    async fn mount(&self, driver: &mut Client, namespace: &str) -> Result<Answer, CallError> {
        let pod = PodClaims {
            namespace: namespace.to_owned(),
            name: "web-0".to_owned(),
            uid: format!("00000000-0000-4000-8000-{namespace:0>12}"),
            service_account: "web".to_owned(),
        };
        let jwt = self.issuer.token(&pod, "keyferry", Duration::from_hours(1), &SystemClock).unwrap_or_default();
        let tokens = BTreeMap::from([("keyferry".to_owned(), Arc::new(SecretBytes::new(jwt.into_bytes())))]);
        let PodClaims { namespace, name, uid, service_account } = pod;
        let pod = PodSpec { namespace, name, uid, service_account, tokens };
        let request = mount_request(&self.class, &pod, &VolumeSpec::default(), SystemClock.now());
        client::mount(driver, request, Duration::from_secs(30)).await
    }
}

fn configuration(root: &Path) -> String {
    let (root, uid) = (root.display(), rustix::process::geteuid().as_raw());
    format!(
        "socketDir: {root}/sockets\n\
         stateDir: {root}/state\n\
         allowedPeers: [{uid}]\n\
         identity: {{ verify: jwks, audience: keyferry, issuer: {ISSUER}, jwks: {{ file: {root}/jwks.json }} }}\n\
         backends: {{ files: {{ kind: file, vault: {root}/vault, identity: {root}/age.key }} }}\n\
         policy:\n\
         \x20 - pods: {{ namespace: \"*\" }}\n\
         \x20   read: [\"files/${{namespace}}/**\"]\n\
         audit: {{ file: {root}/audit.jsonl }}\n"
    )
}

fn fields(pairs: &[(&str, &str)]) -> Result<BTreeMap<crate::model::FieldName, Field>, Failure> {
    let field =
        |(name, value): &(&str, &str)| Ok((name.parse().map_err(Failure::fault)?, Field::of_bytes(SecretBytes::new((*value).into()))));
    pairs.iter().map(field).collect()
}

fn write(answer: &Answer, target: &Path) -> Result<(), Failure> {
    let folder = File::open(target).map_err(Failure::fault)?;
    answer.write(&folder, SystemClock.now()).map(drop).map_err(Failure::fault)
}

fn read(target: &Path, file: &str) -> Result<String, Failure> {
    fs::read_to_string(target.join(file)).map_err(|error| Failure::fault(format!("{file}: {error}")))
}

fn mode(target: &Path, file: &str) -> Result<u32, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let found = fs::metadata(target.join(file)).map_err(|error| Failure::fault(format!("{file}: {error}")))?;
    Ok(found.permissions().mode() & 0o7777)
}

/// The vault's visible files, with the start of their content.
fn listing(vault: &Path) -> Result<String, Failure> {
    let mut lines = String::new();
    for name in ["shop/db.age", "shop/flags.age"] {
        let bytes = fs::read(vault.join(name)).map_err(Failure::fault)?;
        let begins = String::from_utf8_lossy(&bytes[..bytes.len().min(21)]).into_owned();
        lines += &format!("{name:<16} {:>5} bytes   {begins} ...\n", bytes.len());
    }
    Ok(lines)
}

fn check(holds: bool, otherwise: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::fault(format!("the demo failed: {otherwise}"))) }
}

fn step(out: &mut dyn Write, number: usize, title: &str) -> Result<(), Failure> {
    say(out, &format!("\n{number}. {title}"))
}

/// Shows the command that does this step.
fn command(out: &mut dyn Write, arguments: &str) -> Result<(), Failure> {
    say(out, &format!("    $ keyferry {arguments}"))
}

fn say(out: &mut dyn Write, text: &(impl Display + ?Sized)) -> Result<(), Failure> {
    super::streams::write(out, &format!("{text}\n"))
}

fn indented(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// One line per fault, because a message with several faults is long.
fn wrapped(message: &str) -> String {
    message.replace("; object", ";\nobject")
}
