//! `keyferry vault`: makes and changes a file vault.
//!
//! Values go out by `get --field` alone, and come in by a file or standard input; one given as an argument is warned of.

mod arguments;
mod incoming;
mod marks;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

pub use arguments::{Get, Init, List, Remove, Set, VaultCommand};

use self::arguments::{Assignment, Value, assignment, recipient, usage};
use crate::backend::Fault;
use crate::backend::store::file::{
    self, Key, MAX_BYTES, Opened, ReadFault, Reader, Recipient, RekeyError, Vault, VaultError, generate_identity,
};
use crate::clock::{Clock, SystemClock};
use crate::model::{Field, FieldKind, FieldName, SecretBytes, SecretName};
use crate::nearest::nearest;

/// The daemon's `limits.secretBytes` where it is not configured.
const USUAL_LIMIT: usize = 1024 * 1024;

/// Why a command failed.
#[derive(Debug, Error)]
pub enum VaultCliError {
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
pub fn run(command: VaultCommand, input: &mut dyn Read, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
    match command {
        VaultCommand::Init(init) => init.run(out),
        VaultCommand::Set(set) => set.run(input, out, err),
        VaultCommand::Get(get) => get.run(out),
        VaultCommand::List(list) => list.run(out),
        VaultCommand::Remove(remove) => remove.run(out),
        VaultCommand::Rekey(rekey) => rekey.run(out),
        VaultCommand::Export(export) => export.run(out, err),
        VaultCommand::Import(import) => import.run(input, out, err),
    }
}

// === impl Init ===

impl Init {
    fn run(self, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let mut recipients = self.recipients.iter().map(|text| recipient(&text.0)).collect::<Result<Vec<_>, _>>()?;
        // Before an identity is made that would then be left over.
        Vault::check_place(&self.folder.vault)?;
        if let Some(identity) = &self.identity {
            if lies_in(identity, &self.folder.vault) {
                return Err(VaultCliError::IdentityInVault(identity.clone()));
            }
            recipients.extend(identity_recipients(identity, out)?);
        }
        let done = Vault::init(&self.folder.vault, &recipients)?;
        let vault = self.folder.vault.display();
        let listed = count(done.recipients, "recipient");
        match (done.new, done.added) {
            (true, _) => say(out, &format!("made the vault {vault} with {listed}")),
            (false, 0) => say(out, &format!("{vault} is a vault already, with {listed}; nothing to change")),
            (false, added) => {
                say(out, &format!("added {} to the vault {vault}; it has {} now", count(added, "recipient"), done.recipients))?;
                say(out, "secrets set from now on are sealed to all of them; `keyferry vault rekey` seals those set before anew")
            }
        }
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

// === impl Set ===

impl Set {
    fn run(self, input: &mut dyn Read, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
        let fields = self.read_fields(input, err)?;
        let bytes: usize = fields.values().map(|field| field.bytes.len()).sum();
        let vault = Vault::open_for_writing(&self.folder.vault)?.keeping(self.keep);
        let revision = knowing_its_revision(&vault, &self.name, self.identity.as_deref(), || vault.set(&self.name, &fields))?;
        if bytes > USUAL_LIMIT {
            warn(
                err,
                &format!("{} holds {bytes} bytes: a daemon serves up to {USUAL_LIMIT} unless its limits.secretBytes is raised", self.name),
            )?;
        }
        let recipients = count(vault.recipients()?.len(), "recipient");
        say(out, &format!("{}: revision {revision}, {}, sealed to {recipients}", self.name, count(fields.len(), "field")))
    }

    fn read_fields(&self, input: &mut dyn Read, err: &mut dyn Write) -> Result<BTreeMap<FieldName, Field>, VaultCliError> {
        let given = (1..).zip(&self.fields).map(|(place, text)| assignment(place, &text.0)).collect::<Result<Vec<_>, _>>()?;
        if given.iter().filter(|given| matches!(given.value, Value::StandardInput)).count() > 1 {
            return Err(usage("only one field can be read from standard input (give the others by FIELD=@FILE)"));
        }
        let mut fields = BTreeMap::new();
        for Assignment { field, value } in &given {
            if fields.insert(field.clone(), Field::of_bytes(value.read(field, input)?)).is_some() {
                return Err(usage(format!("the field {field} is given twice (remove one)")));
            }
        }
        for (field, value) in &fields {
            if let Some(mark) = marks::of_value(value.bytes.expose()) {
                warn(err, &format!("{field}: is {}, and is taken as it is ({})", mark.what, mark.remedy))?;
            }
        }
        let argued: Vec<&str> =
            given.iter().filter(|given| matches!(given.value, Value::Argument(_))).map(|given| given.field.as_str()).collect();
        if !argued.is_empty() {
            let names = argued.join(", ");
            warn(
                err,
                &format!(
                    "given as an argument, which other users of this machine can see: {names} (for what is secret: FIELD=@FILE or FIELD=-)"
                ),
            )?;
        }
        Ok(fields)
    }
}

impl Value<'_> {
    fn read(self, field: &FieldName, input: &mut dyn Read) -> Result<SecretBytes, VaultCliError> {
        let fault = |source_name: String| move |cause| VaultCliError::Value { field: field.clone(), source_name, cause };
        match self {
            Self::Argument(text) => Ok(SecretBytes::new(text.as_bytes().to_vec())),
            Self::File(path) => {
                let fault = fault(path.display().to_string());
                File::open(path).and_then(|mut file| read_bounded(&mut file)).map_err(fault)
            }
            Self::StandardInput => read_bounded(input).map_err(fault("standard input".to_owned())),
        }
    }
}

/// To the end. The buffer has its full size from the start: one that grows would leave copies of the secret behind.
fn read_bounded(input: &mut dyn Read) -> io::Result<SecretBytes> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    input.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BYTES {
        return Err(io::Error::other(format!("more than {MAX_BYTES} bytes, and a secret has no more")));
    }
    Ok(SecretBytes::new(bytes.to_vec()))
}

// === impl Get ===

impl Get {
    fn run(self, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let opened = self.open()?;
        match &self.field {
            Some(field) => self.print_field(&opened, field, out),
            None => say(out, table(&self.name, &opened).trim_end()),
        }
    }

    fn open(&self) -> Result<Opened, VaultCliError> {
        let key = Key { name: self.name.clone(), pin: self.version };
        let opened = reader(&self.folder.vault, &self.keys.identity).and_then(|reader| reader.read(&key));
        opened.map_err(|fault| {
            let hint = if fault.fault == Fault::NotFound { self.near_names() } else { String::new() };
            VaultCliError::Read { secret: self.name.clone(), fault, hint }
        })
    }

    /// What may have been meant. The vault is small enough to be asked, and the one who asks is a person.
    fn near_names(&self) -> String {
        let names = Vault::open_for_writing(&self.folder.vault).and_then(|vault| vault.list("")).unwrap_or_default();
        let near = nearest(self.name.as_str(), names.iter().map(SecretName::as_str).filter(|name| *name != self.name.as_str()));
        near.map(|near| format!("; did you mean {near}?")).unwrap_or_default()
    }

    fn print_field(&self, opened: &Opened, name: &str, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let Some(field) = opened.secret.fields.get(name) else {
            let names: Vec<&str> = opened.secret.fields.keys().map(FieldName::as_str).collect();
            let hint = format!(" (it has: {})", names.join(", "));
            return Err(VaultCliError::NoField { secret: self.name.clone(), field: name.to_owned(), hint });
        };
        emit(out, field.bytes.expose())
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
        let kind = match field.kind {
            FieldKind::Binary => "binary",
            FieldKind::Json => "json",
            FieldKind::Text => "text",
        };
        text.push_str(&format!("{:width$}  {kind:6}  {:8}\n", name.as_str(), field.bytes.len()));
    }
    text
}

// === impl List, Remove ===

impl List {
    fn run(self, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let names = Vault::open_for_writing(&self.folder.vault)?.list(&self.prefix)?;
        let mut lines = String::new();
        for name in names {
            lines.push_str(name.as_str());
            lines.push('\n');
        }
        emit(out, lines.as_bytes())
    }
}

impl Remove {
    fn run(self, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let vault = Vault::open_for_writing(&self.folder.vault)?;
        let earlier = knowing_its_revision(&vault, &self.name, self.identity.as_deref(), || vault.remove(&self.name))?;
        say(out, &format!("removed {} and {}", self.name, count(earlier, "earlier revision")))
    }
}

/// Where a vault came without its history, the current revision is only known from the sealed file.
fn knowing_its_revision<T>(
    vault: &Vault,
    name: &SecretName,
    identity: Option<&Path>,
    change: impl Fn() -> Result<T, VaultError>,
) -> Result<T, VaultCliError> {
    match (change(), identity) {
        (Err(VaultError::RevisionUnknown { .. }), Some(identity)) => {
            let key = Key { name: name.clone(), pin: None };
            let opened = reader(vault.layout().root(), &[identity.to_owned()]).and_then(|reader| reader.read(&key));
            let opened = opened.map_err(|fault| VaultCliError::Read { secret: name.clone(), fault, hint: String::new() })?;
            vault.adopt(name, opened.revision)?;
            Ok(change()?)
        }
        (done, _) => Ok(done?),
    }
}

fn reader(vault: &Path, identities: &[PathBuf]) -> Result<Reader, ReadFault> {
    Reader::open_all(vault, identities, MAX_BYTES)
}

// === impl VaultCliError ===

impl VaultCliError {
    /// 1: it could not be done; 2: it was asked for wrongly.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Vault(error) if error.is_usage() => 2,
            Self::Faults(_)
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

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
