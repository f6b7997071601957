//! `keyferry vault`: makes and changes a file vault.
//!
//! Only `get --field` and `export` print values. Values come from a file, standard input or a prompt. If a value is an argument, Keyferry warns.

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
    self, Key, MAX_BYTES, Opened, ReadFault, Reader, RekeyError, Revision, Vault, VaultError, Writer, generate_identity,
};
use crate::cli::streams;
use crate::clock::{Clock, SystemClock};
use crate::model::{FieldKind, FieldName, SecretName};
use crate::nearest::nearest;

/// The default of the daemon's `limits.secretBytes`.
const USUAL_LIMIT: usize = 1024 * 1024;

/// Why a command failed.
#[derive(Debug, Error)]
pub enum VaultCliError {
    /// `diff --exit-code` has already printed the differences.
    #[error("")]
    Differs,
    /// One line per fault. Nothing was written.
    #[error("{}", .0.join("\n"))]
    Faults(Vec<String>),
    #[error("{}: is in the vault's folder, so everybody who gets the vault would get the key (keep the identity elsewhere)", .0.display())]
    IdentityInVault(PathBuf),
    #[error("cannot make the identity file {}: {cause} (name another file with --identity)", .path.display())]
    NewIdentity { path: PathBuf, cause: io::Error },
    #[error("{cause}\nnote: {set} secrets were set before that (run it again with --on-conflict skip)")]
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
    /// One line per fault of the files that were named. Some of them could not be read.
    #[error("{}", .0.join("\n"))]
    Unreadable(Vec<String>),
    #[error("{0}")]
    Usage(String),
    #[error("cannot read the field {field} from {source_name}: {cause}")]
    Value { field: FieldName, source_name: String, cause: io::Error },
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("cannot write {}: {cause}", .path.display())]
    Written { path: PathBuf, cause: io::Error },
}

/// Runs a command. The result goes to `out`, warnings go to `err`.
pub fn run(command: VaultCommand, input: &mut Input<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
    if command.is_quiet() {
        // Only a prompt is still shown.
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
        // Before an identity is made: after a failure it would be left over.
        Vault::check_place(&self.folder.vault)?;
        if let Some(identity) = self.identity.as_ref().filter(|identity| lies_in(identity, &self.folder.vault)) {
            return Err(VaultCliError::IdentityInVault(identity.clone()));
        }
        let new_identity = self.identity.as_ref().filter(|identity| !identity.exists());
        if let Some(identity) = new_identity.filter(|_| !self.trial.dry_run) {
            let cause = |cause| VaultCliError::NewIdentity { path: identity.clone(), cause };
            generate_identity(identity, SystemClock.now()).map_err(cause)?;
        }
        if let Some(identity) = self.identity.as_ref().filter(|identity| identity.exists()) {
            recipients.extend(file::recipients_of(identity).map_err(VaultCliError::Recipients)?);
        }
        let (vault, folder) = (&self.folder.vault, self.folder.vault.display());
        let (new, added, all) = if self.trial.dry_run {
            let listed = if Vault::exists(vault) { Some(Vault::open_for_writing(vault)?.recipients()?) } else { None };
            let before = listed.as_deref().unwrap_or_default();
            let added = recipients.iter().filter(|key| !before.contains(key)).count() + usize::from(new_identity.is_some());
            (listed.is_none(), added, before.len() + added)
        } else {
            let done = Vault::init(vault, &recipients)?;
            (done.new, done.added, done.recipients)
        };
        let mut lines = Vec::new();
        if let Some(identity) = new_identity {
            let of = recipients.last().filter(|_| !self.trial.dry_run).map(|key| format!(" of {key}")).unwrap_or_default();
            lines.push(format!("{} the identity {}{of}", self.made(), identity.display()));
        }
        let listed = count(all, "recipient");
        match (new, added) {
            (true, _) if self.trial.dry_run => lines.push(format!("would make the vault {folder}")),
            (true, _) => lines.push(format!("made the vault {folder} with {listed}")),
            (false, added) if self.trial.dry_run => lines.push(format!("would add {} to the vault {folder}", count(added, "recipient"))),
            (false, 0) => lines.push(format!("{folder} is a vault already, with {listed}; nothing to change")),
            (false, added) => {
                lines.push(format!("added {} to the vault {folder}; it has {all} now", count(added, "recipient")));
                let remedy = "`keyferry vault rekey` encrypts earlier secrets again";
                lines.push(format!("secrets set from now on are encrypted for all of them; {remedy}"));
            }
        }
        let identity = self.identity.as_ref().map(|identity| identity.display().to_string());
        let document = json!({
            "vault": folder.to_string(),
            "new": new,
            "identity": identity,
            "newIdentity": new_identity.is_some(),
            "added": added,
            "recipients": all,
        });
        self.trial.tell(out, &lines.join("\n"), document)
    }

    fn made(&self) -> &'static str {
        if self.trial.dry_run { "would make" } else { "made" }
    }
}

/// The vault in a folder above this one, which need not exist yet.
fn vault_around(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let (real, rest) =
        absolute.ancestors().find_map(|above| Some((above.canonicalize().ok()?, absolute.strip_prefix(above).ok()?.to_owned())))?;
    real.join(rest).ancestors().skip(1).find(|above| Vault::exists(above)).map(Path::to_owned)
}

/// Whether a path is in a folder. Both may not exist yet.
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
        check_there(&self.folder.vault)?;
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

/// The daemon waits for a folder that is not there. For a command it is a wrong argument.
fn check_there(vault: &Path) -> Result<(), VaultCliError> {
    match std::fs::metadata(vault) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(VaultError::NoVault { path: vault.to_owned() }.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn no_field(secret: &SecretName, field: &str, opened: &Opened) -> VaultCliError {
    let names: Vec<&str> = opened.secret.fields.keys().map(FieldName::as_str).collect();
    let hint = format!(" (it has: {})", names.join(", "));
    VaultCliError::NoField { secret: secret.clone(), field: field.to_owned(), hint }
}

/// What Keyferry may show about a secret without its values, for programs.
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

/// What Keyferry may show about a secret without its values.
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

/// The number of the next revision. If the vault has lost its history, only the encrypted file has the current number. Then this function writes
/// the number down.
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
    // If the count is lost, only the file itself has the number.
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
    reader_of(vault, identities).map_err(|fault| VaultCliError::Unreadable(vec![format!("{name}: {fault}")]))
}

fn reader_of(vault: &Path, identities: &[PathBuf]) -> Result<Reader, ReadFault> {
    Reader::open_all(vault, identities, MAX_BYTES)
}

/// The name that was probably meant. The vault is small enough to list all names for that.
fn near_names(vault: &Path, wanted: &SecretName) -> String {
    let names = Vault::open_for_writing(vault).and_then(|vault| vault.list("")).unwrap_or_default();
    // The name is right, and a revision of it is missing.
    if names.contains(wanted) {
        return String::new();
    }
    let near = nearest(wanted.as_str(), names.iter().map(SecretName::as_str));
    near.map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

/// The same for an error of another call than a read.
fn near(error: VaultError, vault: &Path, wanted: &SecretName) -> VaultCliError {
    match near_names(vault, wanted) {
        hint if matches!(error, VaultError::NotFound { .. }) && !hint.is_empty() => fault(format!("{error}{hint}")),
        _ => error.into(),
    }
}

// === impl VaultCliError ===

impl VaultCliError {
    /// 1: the command failed; 2: the arguments are wrong.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped => 130,
            Self::Recipients(_) | Self::Rekey(RekeyError::Identity(_)) | Self::Unreadable(_) | Self::Usage(_) | Self::Value { .. } => 2,
            Self::Vault(error) if error.is_usage() => 2,
            Self::Differs
            | Self::Faults(_)
            | Self::IdentityInVault(_)
            | Self::Interrupted { .. }
            | Self::NewIdentity { .. }
            | Self::NoField { .. }
            | Self::Output(_)
            | Self::Read { .. }
            | Self::Rekey(_)
            | Self::Vault(_)
            | Self::Written { .. } => 1,
        }
    }
}

// === Output ===

/// A reader may stop reading (`| head`): that is not a failure.
fn emit(out: &mut dyn Write, bytes: &[u8]) -> Result<(), VaultCliError> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(VaultCliError::Output(error)),
        _ => Ok(()),
    }
}

fn say(out: &mut dyn Write, line: &str) -> Result<(), VaultCliError> {
    emit(out, format!("{line}\n").as_bytes())
}

/// If standard error is closed, the exit code is still there.
#[allow(clippy::unnecessary_wraps)] // a command can end with it
fn warn(err: &mut dyn Write, line: &str) -> Result<(), VaultCliError> {
    streams::warn(err, line);
    Ok(())
}

#[allow(clippy::unnecessary_wraps)]
fn note(err: &mut dyn Write, line: &str) -> Result<(), VaultCliError> {
    streams::note(err, line);
    Ok(())
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
