//! `rekey`, `export` and `import`: the commands for a whole vault.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use data_encoding::BASE64;
use serde_json::json;
use zeroize::Zeroizing;

use super::arguments::{Conflict, Export, Form, Format, Import, Rekey, recipients};
use super::incoming::{Given, read_all, secret_name};
use super::progress::{Progress, Stop};
use super::prompt::Input;
use super::{VaultCliError, count, emit, reader_of, say, warn};
use crate::backend::store::file::{Key, Opened, Outgoing, Rekeying, SecretType, Vault, Writer, write_exchange};
use crate::dotenv;
use crate::model::{Field, FieldName, SecretName};

/// How many secrets are written with one sync.
const BATCH: usize = 1_000;

// === impl Rekey ===

impl Rekey {
    pub(super) fn run(self, input: &mut Input<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
        let (add, remove) = (recipients(&self.add)?, recipients(&self.remove)?);
        let wanted = Rekeying { add: &add, remove: &remove, skip_unreadable: self.skip_unreadable, dry_run: self.trial.dry_run };
        let vault = Vault::open_for_writing(&self.folder.vault)?;
        let _stop = Stop::with("a part of the vault may be encrypted for its new recipients (run the same command again to finish)");
        let mut progress = Progress::of("encrypting again", input.shows_progress, err);
        let done = vault.rekey(&self.keys.identity, wanted, &mut |done, all| progress.tick(done, all))?;
        drop(progress);
        let (mut line, verb) = (String::new(), if self.trial.dry_run { "would be encrypted again" } else { "encrypted again" });
        if done.added + done.removed > 0 {
            line = format!("recipients: {} added, {} removed\n", done.added, done.removed);
        }
        let (secrets, earlier) = (count(done.secrets, "secret"), count(done.earlier, "earlier revision"));
        line.push_str(&format!("{verb}: {secrets} and {earlier}, for {}", count(done.recipients, "recipient")));
        let document = json!({
            "secrets": done.secrets,
            "earlier": done.earlier,
            "recipients": done.recipients,
            "added": done.added,
            "removed": done.removed,
            "skipped": done.skipped.len(),
        });
        self.trial.tell(out, &line, document)?;
        if done.skipped.is_empty() {
            return Ok(());
        }
        let mut faults = done.skipped;
        faults.push(format!(
            "note: {} skipped, encrypted as before (give the identities that open them, and run it again)",
            count(faults.len(), "file")
        ));
        Err(VaultCliError::Faults(faults))
    }
}

// === impl Export ===

type Secrets = Vec<(SecretName, Opened)>;

/// Paths below a folder, and texts.
type Texts = Vec<(String, Zeroizing<Vec<u8>>)>;

impl Export {
    pub(super) fn run(self, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
        if self.to.is_none() && !self.force && io::stdout().is_terminal() {
            return Err(VaultCliError::Usage(
                "the values would be shown on this terminal (send the output elsewhere, write files with --to DIR, or use --force)"
                    .to_owned(),
            ));
        }
        let secrets = self.read()?;
        let files = self.files(&secrets)?;
        if self.format == Format::Dotenv {
            warn_of_names(&secrets, err)?;
        }
        match &self.to {
            Some(folder) => {
                write_files(folder, &files)?;
                say(out, &format!("wrote {} in the clear to {}", count(secrets.len(), "secret"), folder.display()))
            }
            None if self.format == Format::Json => emit(out, &write_exchange(secrets.iter().map(outgoing))),
            None if self.format == Format::Dotenv && files.len() > 1 => Err(VaultCliError::Usage(format!(
                "{} secrets cannot be in one dotenv file (name one, or write files with --to DIR)",
                files.len()
            ))),
            None => files.iter().try_for_each(|(_, text)| emit(out, text)),
        }
    }

    fn read(&self) -> Result<Secrets, VaultCliError> {
        let vault = Vault::open_for_writing(&self.folder.vault)?;
        let mut names = BTreeSet::new();
        for name in &self.names {
            if name.ends_with('/') {
                let below = vault.list(name)?;
                if below.is_empty() {
                    return Err(VaultCliError::Faults(vec![format!(
                        "{name}: no secret has a name that starts with this (`keyferry vault list` shows them)"
                    )]));
                }
                names.extend(below);
            } else {
                let name = name.parse::<SecretName>().map_err(|cause| VaultCliError::Usage(format!("the name {name:?} {cause}")))?;
                names.insert(name);
            }
        }
        if self.names.is_empty() {
            names.extend(vault.list("")?);
        }
        let reader = reader_of(&self.folder.vault, &self.keys.identity).map_err(VaultCliError::Recipients)?;
        let (mut secrets, mut faults) = (Secrets::new(), Vec::new());
        for name in names {
            match reader.read(&Key { name: name.clone(), pin: None }) {
                Ok(opened) => secrets.push((name, opened)),
                Err(fault) => faults.push(format!("{name}: {fault}")),
            }
        }
        if faults.is_empty() { Ok(secrets) } else { Err(VaultCliError::Faults(faults)) }
    }

    /// One file per secret: its path below the folder, and its text.
    fn files(&self, secrets: &Secrets) -> Result<Texts, VaultCliError> {
        let (mut files, mut faults) = (Texts::new(), Vec::new());
        for secret in secrets {
            let Outgoing { name, secret_type, fields } = outgoing(secret);
            let (ending, text) = match self.format {
                Format::Dotenv if !comes_back(name) => {
                    ("env", Err(vec![format!("{name}: a dotenv file with this name would be read as another secret (use json)")]))
                }
                Format::Dotenv => ("env", to_dotenv(name, fields)),
                Format::Json => ("json", Ok(write_exchange([outgoing(secret)]))),
                Format::Kubernetes => {
                    ("yaml", to_manifest(name, secret_type, fields).map_err(|problem| vec![format!("{name}: {problem}")]))
                }
            };
            match text {
                Ok(text) => files.push((format!("{name}.{ending}"), text)),
                Err(problems) => faults.extend(problems),
            }
        }
        if faults.is_empty() { Ok(files) } else { Err(VaultCliError::Faults(faults)) }
    }
}

/// Whether the file that `--to` makes is read as the same secret.
fn comes_back(name: &SecretName) -> bool {
    let root = Path::new("export");
    secret_name(Some(root), &root.join(format!("{name}.env"))).as_deref() == Some(name.as_str())
}

fn outgoing((name, opened): &(SecretName, Opened)) -> Outgoing<'_> {
    Outgoing { name, secret_type: opened.secret_type.as_ref(), fields: &opened.secret.fields }
}

fn to_dotenv(secret: &SecretName, fields: &BTreeMap<FieldName, Field>) -> Result<Zeroizing<Vec<u8>>, Vec<String>> {
    let (mut lines, mut faults) = (Vec::new(), Vec::new());
    for (name, field) in fields {
        match dotenv::write(name.as_str(), field.bytes.expose()) {
            Ok(line) => lines.push(line),
            Err(why) => faults.push(format!("{secret}: the field {name} {why} (use json)")),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut text = Zeroizing::new(Vec::with_capacity(lines.iter().map(|line| line.len()).sum()));
    for line in &lines {
        text.extend_from_slice(line.as_bytes());
    }
    Ok(text)
}

fn warn_of_names(secrets: &Secrets, err: &mut dyn Write) -> Result<(), VaultCliError> {
    for (name, opened) in secrets {
        let fields = opened.secret.fields.keys().map(FieldName::as_str);
        let unfit: Vec<&str> = fields.filter(|field| !dotenv::fits_a_shell(field)).collect();
        if !unfit.is_empty() {
            let fields = unfit.join(", ");
            warn(err, &format!("{name}: sh cannot read {fields} from this file by `. FILE` (node's dotenv and python-dotenv can)"))?;
        }
    }
    Ok(())
}

/// <https://kubernetes.io/docs/concepts/configuration/secret/>
fn to_manifest(
    name: &SecretName,
    secret_type: Option<&SecretType>,
    fields: &BTreeMap<FieldName, Field>,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let Some((namespace, secret)) =
        name.as_str().split_once('/').filter(|(namespace, secret)| is_dns(namespace, 63) && is_dns(secret, 253))
    else {
        return Err("is not the name of a Kubernetes Secret: <namespace>/<name> in lower case (use json)".to_owned());
    };
    let is_key =
        |key: &str| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) && key != "." && !key.starts_with("..");
    let unfit: Vec<&str> = fields.keys().map(FieldName::as_str).filter(|key| !is_key(key)).collect();
    if !unfit.is_empty() {
        return Err(format!("a Secret cannot have the keys {} (letters, digits, `_`, `-` and `.`): use json", unfit.join(", ")));
    }
    // JSON's quotes are YAML's too.
    let secret_type = secret_type.map_or("Opaque".to_owned(), |secret_type| serde_json::json!(secret_type.as_str()).to_string());
    let head = format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: \"{secret}\"\n  namespace: \"{namespace}\"\ntype: {secret_type}\ndata:\n"
    );
    let room: usize = fields.iter().map(|(key, field)| key.as_str().len() + field.bytes.len() / 3 * 4 + 16).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(head.len() + room));
    text.extend_from_slice(head.as_bytes());
    for (key, field) in fields {
        let value = Zeroizing::new(BASE64.encode(field.bytes.expose()));
        text.extend_from_slice(format!("  \"{key}\": ").as_bytes());
        text.push(b'"');
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\"\n");
    }
    Ok(text)
}

fn is_dns(text: &str, longest: usize) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = text.len() <= longest && text.bytes().all(|byte| letter(byte) || byte == b'-' || byte == b'.');
    fits && text.bytes().next().is_some_and(letter) && text.bytes().last().is_some_and(letter)
}

/// Writes into a folder that is new or empty. So nothing is overwritten, and the folder has only the export.
fn write_files(folder: &Path, files: &[(String, Zeroizing<Vec<u8>>)]) -> Result<(), VaultCliError> {
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |cause| VaultCliError::Written { path, cause }
    };
    let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fault(path));
    make(folder)?;
    if std::fs::read_dir(folder).map_err(fault(folder))?.next().is_some() {
        return Err(VaultCliError::Usage(format!("{} is not empty (name a new folder)", folder.display())));
    }
    for (name, text) in files {
        let path = folder.join(name);
        path.parent().map_or(Ok(()), make)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text)).map_err(fault(&path))?;
    }
    Ok(())
}

// === impl Import ===

impl Import {
    pub(super) fn run(self, input: &mut Input<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
        let vault = Vault::open_for_writing(&self.folder.vault)?;
        let incoming = read_all(&self, input.stream)?;
        for note in &incoming.notes {
            warn(err, note)?;
        }
        let writer = vault.lock()?;
        let existing = incoming.secrets.keys().map(|name| Ok((name, vault.has(name)?))).collect::<Result<Vec<_>, VaultCliError>>()?;
        let existing: BTreeSet<&SecretName> = existing.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
        if self.on_conflict == Conflict::Fail && !existing.is_empty() {
            let remedy = "is in the vault already (--on-conflict skip, or replace)";
            return Err(VaultCliError::Faults(existing.iter().map(|name| format!("{name}: {remedy}")).collect()));
        }
        let skips = |name: &SecretName| self.on_conflict == Conflict::Skip && existing.contains(name);
        let (skipped, set): (Vec<_>, Vec<_>) = incoming.secrets.iter().partition(|(name, _)| skips(name));
        // A person gets a line for each secret when it is set. A program gets one document at the end.
        let (mut nothing, all) = (io::sink(), out);
        let out: &mut dyn Write = if self.trial.form.output == Form::Json { &mut nothing } else { &mut *all };
        if self.trial.dry_run {
            for (name, given) in &set {
                let verb = if existing.contains(name) { "would be replaced" } else { "would be set" };
                let names: Vec<&str> = given.fields.keys().map(FieldName::as_str).collect();
                say(out, &format!("{name}: {verb}, {} ({})", count(given.fields.len(), "field"), names.join(", ")))?;
            }
        } else {
            let mut progress = Progress::of("importing", input.shows_progress, err);
            write(&writer, &set, &mut progress, out)?;
        }
        for (name, _) in &skipped {
            say(out, &format!("{name}: skipped, it is in the vault already"))?;
        }
        let verb = if self.trial.dry_run { "would be set" } else { "set" };
        let names = |list: &[(&SecretName, &Given)]| list.iter().map(|(name, _)| name.as_str().to_owned()).collect::<Vec<_>>();
        let document = json!({ "set": names(&set), "skipped": names(&skipped) });
        self.trial.tell(all, &format!("{} {verb}, {} skipped", count(set.len(), "secret"), skipped.len()), document)
    }
}

/// Writes batch by batch. When a line reports a secret, the secret is on the disk.
fn write(
    writer: &Writer,
    secrets: &[(&SecretName, &Given)],
    progress: &mut Progress<'_>,
    out: &mut dyn Write,
) -> Result<(), VaultCliError> {
    let _stop = Stop::with("a part of the secrets was set (run it again with --on-conflict skip)");
    let mut set = 0;
    for batch in secrets.chunks(BATCH) {
        progress.tick(set, secrets.len());
        let given = batch.iter().map(|(name, given)| (*name, given.secret_type.as_ref(), &given.fields));
        let revisions = writer.set_all(given).map_err(|cause| VaultCliError::Interrupted { set, cause: Box::new(cause) })?;
        for ((name, given), revision) in batch.iter().zip(revisions) {
            say(out, &format!("{name}: revision {revision}, {}", count(given.fields.len(), "field")))?;
        }
        set += batch.len();
    }
    Ok(())
}
