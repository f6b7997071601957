//! `keyferry vault`: makes and changes a file vault.
//!
//! Values go out by `get --field` and `export` alone, and come in by a file, standard input or a prompt; one given as an argument is warned of.

mod arguments;
mod change;
mod changes;
mod edit;
mod fields;
mod incoming;
mod marks;
mod past;
mod place;
mod progress;
mod prompt;
mod prune;
mod recipients;
#[cfg(test)]
mod tests;
mod transfer;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use thiserror::Error;

pub use arguments::{Get, Init, List, VaultCommand};
pub use prompt::Input;

use self::arguments::{Form, ListForm, Trial, usage};
use self::fields::Fields;
use crate::backend::Fault;
use crate::backend::store::file::{
    self, Key, MAX_BYTES, Opened, ReadFault, Reader, Recipient, RekeyError, Revision, Vault, VaultError, Writer, generate_identity,
};
use crate::clock::{Clock, SystemClock};
use crate::model::{FieldKind, FieldName, SecretName};
use crate::nearest::nearest;

/// The daemon's `limits.secretBytes` where it is not configured.
const USUAL_LIMIT: usize = 1024 * 1024;

/// Why a command failed.
#[derive(Debug, Error)]
pub enum VaultCliError {
    /// `diff --exit-code` has said how.
    #[error("")]
    Differs,
    /// A line for each; nothing was written.
    #[error("{}", .0.join("\n"))]
    Faults(Vec<String>),
    #[error("{} lies in the vault's folder, and whoever gets the vault would get the key (keep the identity elsewhere)", .0.display())]
    IdentityInVault(PathBuf),
    #[error("cannot make the identity file {}: {cause} (name another by --identity)", .path.display())]
    NewIdentity { path: PathBuf, cause: io::Error },
    #[error("{cause}\n{set} secrets were set before that (run it again with --on-conflict skip)")]
    Interrupted { set: usize, cause: Box<VaultError> },
    #[error("{secret} has no field {field:?}{hint}")]
    NoField { secret: SecretName, field: String, hint: String },
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    #[error("{secret}: {fault}{hint}")]
    Read { secret: SecretName, fault: ReadFault, hint: String },
    #[error("{0}")]
    Recipients(ReadFault),
    #[error(transparent)]
    Rekey(#[from] RekeyError),
    #[error("interrupted, and nothing was set")]
    Stopped,
    #[error("{0}")]
    Usage(String),
    #[error("cannot read the field {field} from {source_name}: {cause}")]
    Value { field: FieldName, source_name: String, cause: io::Error },
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("cannot write {}: {cause}", .path.display())]
    Written { path: PathBuf, cause: io::Error },
}

/// Runs a command: what was asked for goes to `out`, warnings go to `err`.
pub fn run(command: VaultCommand, input: &mut Input<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
    if command.is_quiet() {
        // A prompt is all that is left.
        let (mut nothing, mut unsaid) = (io::sink(), io::sink());
        let err: &mut dyn Write = if input.terminal { err } else { &mut unsaid };
        return run_aloud(command, input, &mut nothing, err);
    }
    run_aloud(command, input, out, err)
}

fn run_aloud(command: VaultCommand, input: &mut Input<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
    match command {
        VaultCommand::Copy(copy) => copy.run(out),
        VaultCommand::Diff(diff) => diff.run(out),
        VaultCommand::Edit(edit) => edit.run(input, out, err),
        VaultCommand::Export(export) => export.run(out, err),
        VaultCommand::Get(get) => get.run(out),
        VaultCommand::History(history) => history.run(out),
        VaultCommand::Import(import) => import.run(input, out, err),
        VaultCommand::Init(init) => init.run(out),
        VaultCommand::List(list) => list.run(out),
        VaultCommand::Patch(patch) => patch.run(input, out, err),
        VaultCommand::Prune(prune) => prune.run(input, out, err),
        VaultCommand::Recipients(recipients) => recipients.run(out, err),
        VaultCommand::Rekey(rekey) => rekey.run(input, out, err),
        VaultCommand::Remove(remove) => remove.run(out),
        VaultCommand::Rename(rename) => rename.run(out, err),
        VaultCommand::Rollback(rollback) => rollback.run(out),
        VaultCommand::Set(set) => set.run(input, out, err),
    }
}

// === impl Init ===

impl Init {
    fn run(self, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let mut recipients = arguments::recipients(&self.recipients)?;
        if let Some(outer) = vault_around(&self.folder.vault) {
            let (vault, outer) = (self.folder.vault.display(), outer.display());
            return Err(fault(format!("{vault}: is inside the vault {outer} (make the vault elsewhere)")));
        }
        // Before an identity is made that would then be left over.
        Vault::check_place(&self.folder.vault)?;
        if let Some(identity) = &self.identity {
            if lies_in(identity, &self.folder.vault) {
                return Err(VaultCliError::IdentityInVault(identity.clone()));
            }
            if self.trial.dry_run && !identity.exists() {
                say(out, &format!("would make the identity {}", identity.display()))?;
            } else {
                recipients.extend(identity_recipients(identity, out)?);
            }
        }
        if self.trial.dry_run {
            return self.tell(&recipients, out);
        }
        let done = Vault::init(&self.folder.vault, &recipients)?;
        let vault = self.folder.vault.display();
        let listed = count(done.recipients, "recipient");
        match (done.new, done.added) {
            (true, _) => say(out, &format!("made the vault {vault} with {listed}")),
            (false, 0) => say(out, &format!("{vault} is a vault already, with {listed}; nothing to change")),
            (false, added) => {
                say(out, &format!("added {} to the vault {vault}; it has {} now", count(added, "recipient"), done.recipients))?;
                say(out, "secrets set from now on are encrypted for all of them; `keyferry vault rekey` encrypts those set before again")
            }
        }
    }

    /// What would be done.
    fn tell(&self, recipients: &[Recipient], out: &mut dyn Write) -> Result<(), VaultCliError> {
        let vault = self.folder.vault.display();
        if !Vault::exists(&self.folder.vault) {
            return say(out, &format!("would make the vault {vault}"));
        }
        let listed = Vault::open_for_writing(&self.folder.vault)?.recipients()?;
        let added = recipients.iter().filter(|key| !listed.contains(key)).count();
        say(out, &format!("would add {} to the vault {vault}", count(added, "recipient")))
    }
}

/// The recipients of an identity file, which is made where there is none.
fn identity_recipients(path: &Path, out: &mut dyn Write) -> Result<Vec<Recipient>, VaultCliError> {
    if !path.exists() {
        let cause = |cause| VaultCliError::NewIdentity { path: path.to_owned(), cause };
        let recipient = generate_identity(path, SystemClock.now()).map_err(cause)?;
        say(out, &format!("made the identity {} of {recipient}", path.display()))?;
    }
    file::recipients_of(path).map_err(VaultCliError::Recipients)
}

/// The vault in a folder above this one, which need not exist yet.
fn vault_around(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let (real, rest) =
        absolute.ancestors().find_map(|above| Some((above.canonicalize().ok()?, absolute.strip_prefix(above).ok()?.to_owned())))?;
    real.join(rest).ancestors().skip(1).find(|above| Vault::exists(above)).map(Path::to_owned)
}

/// Neither of the two need exist yet.
fn lies_in(path: &Path, folder: &Path) -> bool {
    let real =
        |path: &Path| path.ancestors().find_map(|above| Some((above.canonicalize().ok()?, path.strip_prefix(above).ok()?.to_owned())));
    let absolute = |path: &Path| std::path::absolute(path).ok().and_then(|path| real(&path)).map(|(real, rest)| real.join(rest));
    match (absolute(path), absolute(folder)) {
        (Some(path), Some(folder)) => path.starts_with(folder),
        _ => false,
    }
}

// === impl Get ===

impl Get {
    fn run(self, out: &mut dyn Write) -> Result<(), VaultCliError> {
        if self.field.is_some() && self.form.output == Form::Json {
            return Err(usage("-o json has no values (leave out --field, or -o json)"));
        }
        let reader = reader(&self.folder.vault, &self.keys.identity, &self.name)?;
        let opened = read(&reader, &self.folder.vault, &Key { name: self.name.clone(), pin: self.version })?;
        match (&self.field, self.form.output) {
            (Some(field), _) => self.print_field(&opened, field, out),
            (None, Form::Json) => emit(out, &document(&described(&self.name, &opened))),
            (None, Form::Text) => say(out, table(&self.name, &opened).trim_end()),
        }
    }

    fn print_field(&self, opened: &Opened, name: &str, out: &mut dyn Write) -> Result<(), VaultCliError> {
        match opened.secret.fields.get(name) {
            Some(field) => emit(out, field.bytes.expose()),
            None => Err(no_field(&self.name, name, opened)),
        }
    }
}

fn no_field(secret: &SecretName, field: &str, opened: &Opened) -> VaultCliError {
    let names: Vec<&str> = opened.secret.fields.keys().map(FieldName::as_str).collect();
    let hint = format!(" (it has: {})", names.join(", "));
    VaultCliError::NoField { secret: secret.clone(), field: field.to_owned(), hint }
}

/// What may be known of a secret without seeing it, for programs.
fn described(name: &SecretName, opened: &Opened) -> Value {
    let fields = opened.secret.fields.iter();
    let fields: Vec<Value> =
        fields.map(|(name, field)| json!({ "name": name.as_str(), "kind": kind(field.kind), "bytes": field.bytes.len() })).collect();
    let mut object = Map::new();
    object.insert("name".to_owned(), json!(name.as_str()));
    object.insert("revision".to_owned(), json!(opened.revision.number()));
    object.insert("time".to_owned(), json!(opened.time.to_string()));
    object.extend(opened.secret_type.as_ref().map(|secret_type| ("type".to_owned(), json!(secret_type.as_str()))));
    object.insert("fields".to_owned(), json!(fields));
    Value::Object(object)
}

fn kind(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Binary => "binary",
        FieldKind::Json => "json",
        FieldKind::Text => "text",
    }
}

/// What may be known of a secret without seeing it.
fn table(name: &SecretName, opened: &Opened) -> String {
    let fields = &opened.secret.fields;
    let width = fields.keys().map(|name| name.as_str().chars().count()).max().unwrap_or(0).max("FIELD".len());
    let secret_type = opened.secret_type.as_ref().map(|secret_type| format!(", type {secret_type}")).unwrap_or_default();
    let mut text =
        format!("{name}: revision {}, set {}{secret_type}\n{:width$}  KIND       BYTES\n", opened.revision, opened.time, "FIELD");
    for (name, field) in fields {
        let kind = kind(field.kind);
        text.push_str(&format!("{:width$}  {kind:6}  {:8}\n", name.as_str(), field.bytes.len()));
    }
    text
}

// === impl List ===

impl List {
    fn run(self, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let vault = Vault::open_for_writing(&self.folder.vault)?;
        if self.output == ListForm::Wide && self.identity.is_empty() {
            return Err(usage("-o wide needs an identity (give --identity FILE)"));
        }
        let names = vault.list(&self.prefix)?;
        if self.output == ListForm::Text {
            return emit(out, names.iter().map(|name| format!("{name}\n")).collect::<String>().as_bytes());
        }
        let (mut opened, mut faults) = (Vec::new(), Vec::new());
        let reader = if self.identity.is_empty() { None } else { Some(reader_of(&self.folder.vault, &self.identity)) };
        let reader = reader.transpose().map_err(VaultCliError::Recipients)?;
        for name in names {
            let found = reader.as_ref().map(|reader| reader.read(&Key { name: name.clone(), pin: None })).transpose();
            faults.extend(found.as_ref().err().map(|fault| format!("{name}: {fault}")));
            opened.push((name, found.ok().flatten()));
        }
        match self.output {
            ListForm::Json => emit(out, &document(&json!({ "secrets": opened.iter().map(listed).collect::<Vec<_>>() })))?,
            ListForm::Text | ListForm::Wide => emit(out, wide(&opened).as_bytes())?,
        }
        if faults.is_empty() { Ok(()) } else { Err(VaultCliError::Faults(faults)) }
    }
}

fn listed((name, opened): &(SecretName, Option<Opened>)) -> Value {
    match opened {
        Some(opened) => described(name, opened),
        None => json!({ "name": name.as_str() }),
    }
}

fn wide(secrets: &[(SecretName, Option<Opened>)]) -> String {
    let width = secrets.iter().map(|(name, _)| name.as_str().chars().count()).chain(["NAME".len()]).max().unwrap_or(0);
    let mut text = format!("{:width$}  REVISION  {:20}  FIELDS\n", "NAME", "SET");
    for (name, opened) in secrets {
        let (revision, time, fields) = match opened {
            None => ("-".to_owned(), "-".to_owned(), "cannot be opened".to_owned()),
            Some(opened) => {
                let fields: Vec<&str> = opened.secret.fields.keys().map(FieldName::as_str).collect();
                (opened.revision.to_string(), opened.time.to_string(), fields.join(", "))
            }
        };
        text.push_str(&format!("{:width$}  {revision:8}  {time:20}  {fields}\n", name.as_str()));
    }
    text
}

// === Reading ===

/// The number of the next revision. Where a vault came without its history, only the encrypted file has the current one, which is then
/// written down.
fn take_up(writer: &Writer, vault: &Path, name: &SecretName, identities: &[PathBuf], trial: &Trial) -> Result<Revision, VaultCliError> {
    match writer.next(name) {
        Err(VaultError::RevisionUnknown { .. }) if !identities.is_empty() => {
            let opened = open(&reader(vault, identities, name)?, vault, name)?;
            if !trial.dry_run {
                writer.adopt(name, opened.revision)?;
            }
            Ok(opened.revision.next())
        }
        next => Ok(next?),
    }
}

/// The secret as it is now.
fn open(reader: &Reader, vault: &Path, name: &SecretName) -> Result<Opened, VaultCliError> {
    read(reader, vault, &Key { name: name.clone(), pin: None })
}

/// One of its revisions.
fn open_revision(reader: &Reader, vault: &Vault, name: &SecretName, revision: Revision) -> Result<Opened, VaultCliError> {
    let found = vault.revisions(name).map_err(|error| near(error, vault.layout().root(), name))?;
    // Where its count was lost, the file itself knows whether it is this one.
    let is_current = found.there && found.current.is_none_or(|current| current == revision);
    if !found.kept.contains(&revision) && !is_current {
        let kept: Vec<String> = found.kept.iter().copied().chain(found.current).map(|revision| revision.to_string()).collect();
        return Err(fault(format!("{name}: revision {revision} is not kept (there are: {})", kept.join(", "))));
    }
    read(reader, vault.layout().root(), &Key { name: name.clone(), pin: Some(revision) })
}

fn read(reader: &Reader, vault: &Path, key: &Key) -> Result<Opened, VaultCliError> {
    reader.read(key).map_err(|fault| {
        let hint = if fault.fault == Fault::NotFound { near_names(vault, &key.name) } else { String::new() };
        VaultCliError::Read { secret: key.name.clone(), fault, hint }
    })
}

fn reader(vault: &Path, identities: &[PathBuf], name: &SecretName) -> Result<Reader, VaultCliError> {
    reader_of(vault, identities).map_err(|fault| VaultCliError::Read { secret: name.clone(), fault, hint: String::new() })
}

fn reader_of(vault: &Path, identities: &[PathBuf]) -> Result<Reader, ReadFault> {
    Reader::open_all(vault, identities, MAX_BYTES)
}

/// What may have been meant. The vault is small enough to be asked, and the one who asks is a person.
fn near_names(vault: &Path, wanted: &SecretName) -> String {
    let names = Vault::open_for_writing(vault).and_then(|vault| vault.list("")).unwrap_or_default();
    let near = nearest(wanted.as_str(), names.iter().map(SecretName::as_str).filter(|name| *name != wanted.as_str()));
    near.map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

/// The same for a secret that was not to be read.
fn near(error: VaultError, vault: &Path, wanted: &SecretName) -> VaultCliError {
    match near_names(vault, wanted) {
        hint if matches!(error, VaultError::NotFound { .. }) && !hint.is_empty() => fault(format!("{error}{hint}")),
        _ => error.into(),
    }
}

// === impl VaultCliError ===

impl VaultCliError {
    /// 1: it could not be done; 2: it was asked for wrongly.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped => 130,
            Self::Usage(_) => 2,
            Self::Vault(error) if error.is_usage() => 2,
            Self::Differs
            | Self::Faults(_)
            | Self::IdentityInVault(_)
            | Self::Interrupted { .. }
            | Self::NewIdentity { .. }
            | Self::NoField { .. }
            | Self::Output(_)
            | Self::Read { .. }
            | Self::Recipients(_)
            | Self::Rekey(_)
            | Self::Value { .. }
            | Self::Vault(_)
            | Self::Written { .. } => 1,
        }
    }
}

// === Output ===

/// Whoever reads may stop reading (`| head`): that is no failure.
fn emit(out: &mut dyn Write, bytes: &[u8]) -> Result<(), VaultCliError> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(VaultCliError::Output(error)),
        _ => Ok(()),
    }
}

fn say(out: &mut dyn Write, line: &str) -> Result<(), VaultCliError> {
    emit(out, format!("{line}\n").as_bytes())
}

fn warn(err: &mut dyn Write, line: &str) -> Result<(), VaultCliError> {
    emit(err, format!("warning: {line}\n").as_bytes())
}

fn note(err: &mut dyn Write, line: &str) -> Result<(), VaultCliError> {
    emit(err, format!("note: {line}\n").as_bytes())
}

fn fault(problem: impl Into<String>) -> VaultCliError {
    VaultCliError::Faults(vec![problem.into()])
}

/// For programs.
fn document(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
