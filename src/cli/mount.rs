//! `keyferry mount`: plays the Secrets Store CSI driver, for one Pod, against a provider's socket.
//!
//! It shows what a Pod would get, without a cluster. A user can try a class before it is applied, and can see why a mount fails; tests check the
//! provider's contract with it. The command sends what kubelet and driver would send. It checks and writes the answer as the driver would.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use jiff::{SignedDuration, Timestamp};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value as Json, json};
use thiserror::Error;
use tokio::time::Duration;
use zeroize::Zeroizing;

use super::answer::Answer;
use super::check::{Account, account};
use super::client::{self, CallError, ConnectError, DEFAULT_SOCKET};
use super::manifest::{ClassManifest, ManifestFaults, strings};
use super::report::Report;
use super::streams::warn;
use super::{Failure, Format, Shown};
use crate::clock::Clock;
use crate::delivery::volume::{VolumeError, Written, is_in_memory};
use crate::model::{FileMode, FilePath, RawTokens, SecretBytes};
use crate::server::proto::MountRequest;
use crate::text::{self, NotText};
use crate::units::parse_duration;
use crate::yaml::{Faults, Reader, parse};

pub use super::report::tree;

/// The mode of files whose class has no `permission`, by the driver's default: 0644.
const DEFAULT_PERMISSION: &str = "0644";

/// How long a token lives that does not say when it expires: the API server's default.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(1);

const EXAMPLES: &str = "\
Examples:
  Make a token of a running Pod, for the audience `keyferry`:
    kubectl create token web -n shop --audience keyferry \\
      --bound-object-kind Pod --bound-object-name web-0 > token.jwt

  What would this Pod get? The uid is the Pod's own. Nothing is written:
    keyferry mount -f shop.yaml --as shop/web --pod web-0 --uid 7a1c... \\
      --token keyferry=token.jwt --dry-run

  The same, as files in a folder (best on a tmpfs, such as below /dev/shm):
    keyferry mount -f shop.yaml --as shop/web --pod web-0 --uid 7a1c... \\
      --token keyferry=token.jwt --target /dev/shm/web-0

  With `verify: driver` no token is needed. Mount again every 5 seconds:
    keyferry mount -f shop.yaml --as shop/web --target /dev/shm/web-0 --watch 5s

Exit code 0: mounted; 1: the provider refused or did not answer, or the files could not be written; 2: something is wrong with the \
command line or with a file that it names.";

/// Ask a provider for a Pod's volume, as the driver would, and write it.
///
/// The command plays the Secrets Store CSI driver for one Pod, without a cluster. It reads a SecretProviderClass from a manifest, and sends
/// the provider the same Mount call as the driver. It checks the answer as the driver does, and writes the files with the same atomic layout.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct MountArgs {
    /// The provider's socket.
    #[arg(long, value_name = "SOCKET", default_value = DEFAULT_SOCKET, env = "KEYFERRY_SOCKET")]
    pub socket: PathBuf,

    /// A YAML file with a SecretProviderClass. Other kinds in it are ignored. `-` is the standard input.
    #[arg(short = 'f', long, visible_alias = "file", value_name = "FILE")]
    pub class: PathBuf,

    /// The class's name, if the file has several classes.
    #[arg(long, value_name = "NAME")]
    pub class_name: Option<String>,

    /// The Pod's namespace and its ServiceAccount, in one argument.
    #[arg(long = "as", value_name = "NAMESPACE/SERVICEACCOUNT", value_parser = account, conflicts_with_all = ["namespace", "service_account"])]
    pub account: Option<Account>,

    /// The Pod's namespace.
    #[arg(short, long, value_name = "NAMESPACE", required_unless_present = "account")]
    pub namespace: Option<String>,

    /// The Pod's ServiceAccount.
    #[arg(long, value_name = "NAME", required_unless_present = "account")]
    pub service_account: Option<String>,

    /// The Pod's name. Without it: the ServiceAccount's name with `-0` behind it.
    #[arg(long, value_name = "NAME")]
    pub pod: Option<String>,

    /// The Pod's uid. A token must be for a Pod with the same uid. Without it, Keyferry makes a uid from namespace, ServiceAccount and Pod. It
    /// is always the same, so the next mount finds the leases of this one.
    #[arg(long, value_name = "UID")]
    pub uid: Option<String>,

    /// An audience, and a file with a ServiceAccount token for it. An empty audience is the API server's own. May be repeated.
    #[arg(long = "token", value_name = "AUDIENCE=FILE", value_parser = pair)]
    pub tokens: Vec<(String, String)>,

    /// A YAML or JSON file with keys and texts: the data of the volume's `nodePublishSecretRef`.
    #[arg(long, value_name = "FILE")]
    pub secrets: Option<PathBuf>,

    /// An attribute of the Pod's volume. It replaces the class's parameter of the same name. May be repeated.
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = pair)]
    pub attributes: Vec<(String, String)>,

    /// The mode of files whose object has no mode: octal such as 0440, or decimal such as 288.
    #[arg(long, value_name = "MODE", default_value = DEFAULT_PERMISSION)]
    pub permission: FileMode,

    /// The folder where the node's kubelet keeps its Pods. The target path that the provider gets is below it.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    pub kubelet_dir: PathBuf,

    /// The folder to write into. It is created if it is missing. The files of an earlier mount there are replaced. A provider that writes
    /// volumes itself (`delivery: provider`) does not use this folder: it writes below `--kubelet-dir`, where a tmpfs must be mounted.
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    pub target: Option<PathBuf>,

    /// Show a table of the files, and write nothing.
    #[arg(long)]
    pub dry_run: bool,

    /// Mount again and again, wait this long between two mounts, and print what changed. Ctrl-C ends it.
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "output")]
    pub watch: Option<Duration>,

    /// How long the provider may take. kubelet waits 2 minutes.
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration)]
    pub timeout: Duration,

    #[command(flatten)]
    pub shown: Shown,
}

/// The Pod that a volume is for.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub service_account: String,
    /// By audience. Empty: the CSIDriver object has no `tokenRequests`.
    pub tokens: RawTokens,
}

/// The rest of what kubelet and driver know: the volume in the Pod's spec, and the node.
#[derive(Debug)]
pub struct VolumeSpec {
    /// `volumeAttributes`, except `secretProviderClass`.
    pub attributes: BTreeMap<String, String>,
    /// The data of `nodePublishSecretRef`.
    pub secrets: Option<BTreeMap<String, SecretBytes>>,
    pub permission: FileMode,
    pub kubelet_dir: PathBuf,
}

/// Why `keyferry mount` failed.
#[derive(Debug, Error)]
pub enum MountCommandError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Input(#[from] ManifestFaults),
    #[error("cannot write the output: {0}")]
    Print(#[from] io::Error),
    #[error("--target {dir}: {cause}", dir = dir.display())]
    Target { dir: PathBuf, cause: io::Error },
    #[error("{file}: is not a token: it {problem} (`keyferry mount --help` has a command that makes one)", file = file.display())]
    Token { file: PathBuf, problem: &'static str },
    #[error("cannot read {file}: {cause}", file = file.display())]
    Unreadable { file: PathBuf, cause: io::Error },
    #[error("--target {dir}: {cause}", dir = dir.display())]
    Volume { dir: PathBuf, cause: VolumeError },
}

/// Runs the command. Files and tables go to `out`, warnings to `err`; the caller prints the returned error.
pub async fn run(args: &MountArgs, clock: &dyn Clock, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), MountCommandError> {
    let class = read_class(&args.class, args.class_name.as_deref())?;
    let (pod, volume) = (args.pod()?, args.volume()?);
    for warning in doubts(args, &class, &pod) {
        warn(err, &warning);
    }
    let mut answer = ask(args, &class, &pod, &volume, clock, err).await?;
    show(args, &class, &pod, &volume, clock, &answer, out, err)?;
    let Some(pause) = args.watch else { return Ok(()) };
    loop {
        out.flush()?;
        tokio::time::sleep(pause).await;
        match ask(args, &class, &pod, &volume, clock, err).await {
            Ok(next) => {
                let changed = changes(&answer, &next);
                if !changed.is_empty() {
                    if let Some(dir) = args.target.as_deref().filter(|_| !args.dry_run && !next.files.is_empty()) {
                        write_files(&next, dir, clock.now())?;
                    }
                    writeln!(out, "{:.0}\n{changed}", clock.now())?;
                }
                answer = next;
            }
            // As in a cluster: the Pod keeps its files, and the next mount is tried.
            Err(error) => warn(err, &format!("{:.0}: {error}", clock.now())),
        }
    }
}

async fn ask(
    args: &MountArgs,
    class: &ClassManifest,
    pod: &PodSpec,
    volume: &VolumeSpec,
    clock: &dyn Clock,
    err: &mut dyn Write,
) -> Result<Answer, MountCommandError> {
    let mut client = client::connect(&args.socket).await?;
    let answer = client::mount(&mut client, mount_request(class, pod, volume, clock.now()), args.timeout).await;
    if let Err(CallError::Status(status)) = &answer
        && client::is_trap(status)
    {
        warn(err, "kubelet takes this code as \"may still be going on\": the Pod may start with an empty volume");
    }
    let answer = answer?;
    for warning in &answer.warnings {
        warn(err, warning);
    }
    Ok(answer)
}

#[allow(clippy::too_many_arguments)] // the request of one mount, and its result
fn show(
    args: &MountArgs,
    class: &ClassManifest,
    pod: &PodSpec,
    volume: &VolumeSpec,
    clock: &dyn Clock,
    answer: &Answer,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), MountCommandError> {
    let report = Report::of(answer, class);
    if answer.files.is_empty() {
        // Such a provider writes also in a dry run.
        let volume_dir = target_path(pod, volume);
        return print(
            args.shown.output,
            out,
            || Ok(report.written_by_provider(&volume_dir)),
            || report.json("provider", Some(&volume_dir)),
        );
    }
    if let Some(dir) = args.target.as_deref().filter(|_| !args.dry_run) {
        return deliver(&report, dir, clock.now(), args.shown.output, out, err);
    }
    let text = || Ok(format!("{}\nDry run: nothing was written.\n", report.table()));
    print(args.shown.output, out, text, || report.json("dry-run", None))
}

/// What changed since the last mount, one line per file and version: never a file's contents.
fn changes(before: &Answer, after: &Answer) -> String {
    let mut lines = String::new();
    let found = |answer: &'_ Answer, path: &FilePath| answer.files.iter().position(|file| file.path == *path);
    for file in &after.files {
        match found(before, &file.path).map(|at| &before.files[at]) {
            None => lines.push_str(&format!("+ {}\n", file.path)),
            Some(former) if former.contents != file.contents || former.mode != file.mode => lines.push_str(&format!("~ {}\n", file.path)),
            Some(_) => {}
        }
    }
    for gone in before.files.iter().filter(|file| found(after, &file.path).is_none()) {
        lines.push_str(&format!("- {}\n", gone.path));
    }
    for object in &after.objects {
        let former = before.objects.iter().find(|former| former.id == object.id).map_or("none", |former| &former.version);
        if former != object.version {
            lines.push_str(&format!("  {}: version {former} -> {}\n", object.id, object.version));
        }
    }
    lines
}

/// The Mount call that the driver would make. The volume's attributes replace the class's parameters, and kubelet's replace both.
pub fn mount_request(class: &ClassManifest, pod: &PodSpec, volume: &VolumeSpec, now: Timestamp) -> MountRequest {
    let mut attributes = class.parameters.clone();
    attributes.extend(volume.attributes.clone());
    attributes.extend(kubelet_attributes(class, pod, now));
    MountRequest {
        attributes: json!(attributes).to_string(),
        secrets: volume.secrets.as_ref().map_or(Json::Null, secrets_json).to_string(),
        target_path: target_path(pod, volume).display().to_string(),
        permission: volume.permission.bits().to_string(),
        current_object_version: Vec::new(),
    }
}

/// How the command ends after this error. If the reader stops reading (`| head`), that is not a failure.
pub(super) fn failure(error: MountCommandError) -> Result<(), Failure> {
    if matches!(&error, MountCommandError::Print(cause) if cause.kind() == io::ErrorKind::BrokenPipe) {
        return Ok(());
    }
    Err(if error.exit_code() == 2 { Failure::usage(error) } else { Failure::fault(error) })
}

/// The path at which kubelet asks the driver to make the volume.
fn target_path(pod: &PodSpec, volume: &VolumeSpec) -> PathBuf {
    volume.kubelet_dir.join("pods").join(&pod.uid).join("volumes/kubernetes.io~csi/secrets/mount")
}

impl MountCommandError {
    /// 2: something is wrong with the arguments or their files; 1: everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) | Self::Token { .. } | Self::Unreadable { .. } => 2,
            Self::Call(_) | Self::Connect(_) | Self::Print(_) | Self::Target { .. } | Self::Volume { .. } => 1,
        }
    }
}

// === impl MountArgs ===

impl MountArgs {
    fn pod(&self) -> Result<PodSpec, MountCommandError> {
        let mut tokens = RawTokens::new();
        for (audience, file) in &self.tokens {
            tokens.insert(audience.clone(), Arc::new(read_token(Path::new(file))?));
        }
        // clap makes sure that one of both is there.
        let of_account = |part: fn(&Account) -> &String| self.account.as_ref().map(|account| part(account).clone()).unwrap_or_default();
        let namespace = self.namespace.clone().unwrap_or_else(|| of_account(|account| &account.namespace));
        let service_account = self.service_account.clone().unwrap_or_else(|| of_account(|account| &account.name));
        let name = self.pod.clone().unwrap_or_else(|| format!("{service_account}-0"));
        let uid = self.uid.clone().unwrap_or_else(|| uid_of(&[&namespace, &service_account, &name]));
        Ok(PodSpec { namespace, name, uid, service_account, tokens })
    }

    fn volume(&self) -> Result<VolumeSpec, MountCommandError> {
        Ok(VolumeSpec {
            attributes: self.attributes.iter().cloned().collect(),
            secrets: self.secrets.as_deref().map(read_secrets).transpose()?,
            permission: self.permission,
            kubelet_dir: self.kubelet_dir.clone(),
        })
    }
}

impl Default for VolumeSpec {
    fn default() -> Self {
        Self { attributes: BTreeMap::new(), secrets: None, permission: FileMode::DEFAULT, kubelet_dir: "/var/lib/kubelet".into() }
    }
}

/// A uid that is always the same for one Pod. It has the form of a uid. Its version (8: custom) shows that no API server made it (RFC 9562, 5.8).
fn uid_of(parts: &[&str; 3]) -> String {
    let digest = digest(&SHA256, parts.join("/").as_bytes());
    let hex = HEXLOWER.encode(&digest.as_ref()[..16]);
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

fn write_files(answer: &Answer, dir: &Path, now: Timestamp) -> Result<Written, MountCommandError> {
    let target = open_folder(dir).map_err(|cause| MountCommandError::Target { dir: dir.to_owned(), cause })?;
    answer.write(&target, now).map_err(|cause| MountCommandError::Volume { dir: dir.to_owned(), cause })
}

/// Writes the answer's files, and reports the result.
fn deliver(
    report: &Report<'_>,
    dir: &Path,
    now: Timestamp,
    output: Format,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), MountCommandError> {
    let failed = |cause| MountCommandError::Target { dir: dir.to_owned(), cause };
    let target = open_folder(dir).map_err(failed)?;
    if is_in_memory(&target) == Ok(false) {
        warn(err, &format!("{} is not in memory: its files are secrets in the clear on a disk", dir.display()));
    }
    let written = report.answer.write(&target, now).map_err(|cause| MountCommandError::Volume { dir: dir.to_owned(), cause })?;
    let (word, sentence) = match written {
        Written::Changed => ("changed", "Written."),
        Written::Unchanged => ("unchanged", "Unchanged: the volume already held these files."),
    };
    let text = || Ok(format!("{}\n{sentence}\n", tree(dir, &report.answer.files).map_err(failed)?));
    print(output, out, text, || report.json(word, Some(dir)))
}

fn print(
    output: Format,
    out: &mut dyn Write,
    text: impl FnOnce() -> Result<String, MountCommandError>,
    json: impl FnOnce() -> String,
) -> Result<(), MountCommandError> {
    let shown = match output {
        Format::Json => json(),
        Format::Text => text()?,
    };
    Ok(out.write_all(shown.as_bytes())?)
}

/// Opens the target, and makes it if it is missing. If the command line names a link, this follows it.
pub(super) fn open_folder(dir: &Path) -> io::Result<OwnedFd> {
    if !fs::exists(dir)? {
        fs::create_dir_all(dir)?;
    }
    Ok(rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// What would be different in a cluster.
fn doubts(args: &MountArgs, class: &ClassManifest, pod: &PodSpec) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(namespace) = class.namespace.as_ref().filter(|namespace| **namespace != pod.namespace) {
        doubts.push(format!(
            "the class is in the namespace {namespace}, the Pod in {}: the driver looks for a class only in the Pod's namespace",
            pod.namespace
        ));
    }
    let socket = format!("{}.sock", class.provider);
    if args.socket.file_name().is_none_or(|name| name != socket.as_str()) {
        doubts.push(format!(
            "the class names the provider {}: the driver would call the socket {socket}, not {}",
            class.provider,
            args.socket.display()
        ));
    }
    doubts
}

/// The attributes that kubelet itself sends: nobody can put other values there.
fn kubelet_attributes(class: &ClassManifest, pod: &PodSpec, now: Timestamp) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::from([("secretProviderClass".to_owned(), class.name.clone())]);
    let own = [
        ("ephemeral", "true"),
        ("pod.name", &pod.name),
        ("pod.namespace", &pod.namespace),
        ("pod.uid", &pod.uid),
        ("serviceAccount.name", &pod.service_account),
    ];
    attributes.extend(own.map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value.to_owned())));
    if !pod.tokens.is_empty() {
        let tokens: serde_json::Map<_, _> = pod.tokens.iter().map(|(audience, token)| (audience.clone(), token_json(token, now))).collect();
        attributes.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), Json::from(tokens).to_string());
    }
    attributes
}

fn token_json(token: &SecretBytes, now: Timestamp) -> Json {
    let token = String::from_utf8_lossy(token.expose());
    let expires = expiry(&token).unwrap_or_else(|| now.checked_add(TOKEN_LIFE).unwrap_or(now));
    json!({ "token": token, "expirationTimestamp": expires.to_string() })
}

/// The `exp` of a JWT, not verified: kubelet sends it beside the token too.
fn expiry(token: &str) -> Option<Timestamp> {
    let payload = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    let claims: Json = serde_json::from_slice(&payload).ok()?;
    Timestamp::from_second(claims.get("exp")?.as_i64()?).ok()
}

fn secrets_json(secrets: &BTreeMap<String, SecretBytes>) -> Json {
    secrets.iter().map(|(key, value)| (key.clone(), String::from_utf8_lossy(value.expose()).into_owned())).collect()
}

fn read_class(file: &Path, name: Option<&str>) -> Result<ClassManifest, MountCommandError> {
    let text = text_of(file, text::read_manifest)?;
    let shown = if file == Path::new("-") { "(standard input)".to_owned() } else { file.display().to_string() };
    Ok(ClassManifest::read(&shown, &text, name)?)
}

fn read_secrets(file: &Path) -> Result<BTreeMap<String, SecretBytes>, MountCommandError> {
    let text = text_of(file, owned)?;
    let refuse = |faults| ManifestFaults { file: file.display().to_string(), faults };
    let node = parse(&text).map_err(|fault| refuse(vec![fault]))?;
    let mut faults = Faults::default();
    let secrets = Reader::of(&node, "", &mut faults).map(|reader| strings(&reader, &mut faults)).unwrap_or_default();
    if faults.is_empty() {
        Ok(secrets.into_iter().map(|(key, value)| (key, SecretBytes::new(value.into_bytes()))).collect())
    } else {
        Err(refuse(faults.into_sorted()).into())
    }
}

pub(super) fn read_token(file: &Path) -> Result<SecretBytes, MountCommandError> {
    let text = text_of(file, owned)?;
    let token = text.trim();
    let problem = |problem| Err(MountCommandError::Token { file: file.to_owned(), problem });
    match token {
        "" => problem("is empty"),
        token if token.contains(char::is_whitespace) => problem("has a space or a second line in it"),
        token => Ok(SecretBytes::new(token.as_bytes().to_vec())),
    }
}

/// A file's text, or the standard input's. Secrets may be in it.
fn text_of(file: &Path, read: fn(&[u8]) -> Result<Zeroizing<String>, NotText>) -> Result<Zeroizing<String>, MountCommandError> {
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(file)
    };
    let text = bytes.map(Zeroizing::new).and_then(|bytes| Ok(read(&bytes)?));
    text.map_err(|cause| MountCommandError::Unreadable { file: file.to_owned(), cause })
}

fn owned(bytes: &[u8]) -> Result<Zeroizing<String>, NotText> {
    text::read(bytes).map(|text| Zeroizing::new(text.to_owned()))
}

/// `KEY=VALUE`, split at the first `=`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("there is no `=` in it (write a name, `=` and a value)".to_owned()),
    }
}

/// As in the configuration, but not 0.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration.is_zero() { Err("must be longer than 0 (write a time, such as 90s)".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests;
