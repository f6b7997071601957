//! `set`, `patch` and `rollback`: a secret gets another revision.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::arguments::{Folder, Given, Keys, Revising, Trial, secret_name, usage};
use super::changes::Changes;
use super::fields::{Assignments, Fields};
use super::prompt::Input;
use super::{USUAL_LIMIT, VaultCliError, count, fault, open, open_revision, reader, take_up, warn};
use crate::backend::store::file::{Opened, Revision, SecretType, Vault, Writer};
use crate::model::{FieldName, SecretName};

#[derive(Args, Debug)]
#[command(mut_arg("fields", |fields| fields.required(true)))]
pub struct Set {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// Shows which fields an existing secret would lose. Also needed if the vault's history is lost. May be repeated
    #[arg(long, value_name = "FILE", env = "KEYFERRY_IDENTITY")]
    pub(super) identity: Vec<PathBuf>,

    /// Replace a secret that exists, even if it loses fields
    #[arg(long)]
    pub(super) replace: bool,

    #[command(flatten)]
    pub(super) given: Given,
}

#[derive(Args, Debug)]
pub struct Patch {
    #[command(flatten)]
    pub(super) folder: Folder,

    #[command(flatten)]
    pub(super) keys: Keys,

    /// Remove this field; may be repeated
    #[arg(long, value_name = "FIELD")]
    pub(super) unset: Vec<String>,

    #[command(flatten)]
    pub(super) given: Given,
}

#[derive(Args, Debug)]
pub struct Rollback {
    #[command(flatten)]
    pub(super) folder: Folder,

    #[command(flatten)]
    pub(super) keys: Keys,

    /// The revision whose fields the secret gets again
    #[arg(long, value_name = "REVISION", value_parser = str::parse::<Revision>)]
    pub(super) to: Revision,

    #[command(flatten)]
    pub(super) revising: Revising,

    /// The secret's name, such as shop/db
    #[arg(value_parser = secret_name)]
    pub(super) name: SecretName,
}

// === impl Set ===

impl Set {
    pub(super) fn run(self, input: &mut Input<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
        let given = Assignments::parse(&self.given.fields)?;
        let vault = Vault::open_for_writing(&self.folder.vault)?.keeping(self.given.revising.keep);
        let names: Vec<FieldName> = given.names().cloned().collect();
        // Before the person types a value, and again when the lock keeps others from changing the secret.
        self.check_replaced(&vault, &names)?;
        let fields = given.read(self.given.allow_empty, input, err)?;
        Vault::check(&self.given.name, &fields)?;
        warn_of_size(&self.given.name, &fields, err)?;
        let writer = vault.lock()?;
        self.check_replaced(&vault, &names)?;
        let next = take_up(&writer, &self.folder.vault, &self.given.name, &self.identity, &self.given.revising.trial)?;
        let recipients = count(writer.recipients(), "recipient");
        let (name, fields_shown) = (&self.given.name, count(fields.len(), "field"));
        let trial = &self.given.revising.trial;
        let document = |revision: Revision| {
            let fields: Vec<&str> = fields.keys().map(FieldName::as_str).collect();
            json!({ "name": name.as_str(), "revision": revision.number(), "fields": fields, "recipients": writer.recipients() })
        };
        if trial.dry_run {
            let line = format!("{name}: would be revision {next}, {fields_shown}, encrypted for {recipients}");
            return trial.tell(out, &line, document(next));
        }
        let revision = writer.set(name, None, &fields)?;
        trial.tell(out, &format!("{name}: revision {revision}, {fields_shown}, encrypted for {recipients}"), document(revision))
    }

    /// Refuses to drop a field, unless `--replace` is given.
    fn check_replaced(&self, vault: &Vault, names: &[FieldName]) -> Result<(), VaultCliError> {
        if self.replace || !vault.has(&self.given.name)? {
            return Ok(());
        }
        let name = &self.given.name;
        if self.identity.is_empty() {
            let remedy = "to change single fields: `keyferry vault patch`; to replace all of them: --replace";
            return Err(fault(format!(
                "{name}: is in the vault already, and without an identity Keyferry cannot see which fields it would lose ({remedy})"
            )));
        }
        let opened = open(&reader(&self.folder.vault, &self.identity, name)?, &self.folder.vault, name)?;
        let mut lost: Vec<String> = opened.secret.fields.keys().filter(|field| !names.contains(field)).map(ToString::to_string).collect();
        lost.extend(opened.secret_type.map(|secret_type| format!("its type {secret_type}")));
        if lost.is_empty() {
            return Ok(());
        }
        let lost = lost.join(", ");
        Err(fault(format!(
            "{name}: would lose {lost} (to keep what is not named: `keyferry vault patch`; to replace everything: --replace)"
        )))
    }
}

pub(super) fn warn_of_size(name: &SecretName, fields: &Fields, err: &mut dyn Write) -> Result<(), VaultCliError> {
    let bytes: usize = fields.values().map(|field| field.bytes.len()).sum();
    if bytes <= USUAL_LIMIT {
        return Ok(());
    }
    warn(err, &format!("{name} holds {bytes} bytes: a daemon serves up to {USUAL_LIMIT} unless its limits.secretBytes is raised"))
}

// === impl Patch ===

impl Patch {
    pub(super) fn run(self, input: &mut Input<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
        let given = Assignments::parse(&self.given.fields)?;
        if self.given.fields.is_empty() && self.unset.is_empty() {
            return Err(usage("nothing to change (give FIELD=VALUE, FIELD=@FILE, FIELD=- or --unset FIELD)"));
        }
        if let Some(both) = given.names().find(|name| self.unset.iter().any(|unset| unset == name.as_str())) {
            return Err(usage(format!("the field {both} is both set and unset (remove one)")));
        }
        let (folder, name) = (&self.folder.vault, &self.given.name);
        let vault = Vault::open_for_writing(folder)?.keeping(self.given.revising.keep);
        let reader = reader(folder, &self.keys.identity, name)?;
        // Before the person types a value, and again when the lock keeps others from changing the secret.
        self.check_unset(&open(&reader, folder, name)?)?;
        let given = given.read(self.given.allow_empty, input, err)?;
        let writer = vault.lock()?;
        let opened = open(&reader, folder, name)?;
        self.check_unset(&opened)?;
        let mut fields = opened.secret.fields.clone();
        fields.retain(|field, _| !self.unset.iter().any(|unset| unset == field.as_str()));
        fields.extend(given);
        if fields.is_empty() {
            return Err(fault(format!("{name}: would have no field left (to remove the secret: `keyferry vault remove {name}`)")));
        }
        Vault::check(name, &fields)?;
        warn_of_size(name, &fields, err)?;
        take_up(&writer, folder, name, &self.keys.identity, &self.given.revising.trial)?;
        put(&writer, name, &opened, (&fields, opened.secret_type.as_ref()), &self.given.revising.trial, out)
    }

    fn check_unset(&self, opened: &Opened) -> Result<(), VaultCliError> {
        let fields = &opened.secret.fields;
        match self.unset.iter().find(|unset| !fields.contains_key(unset.as_str())) {
            Some(unset) => Err(super::no_field(&self.given.name, unset, opened)),
            None => Ok(()),
        }
    }
}

/// Sets a secret if its fields have changed.
pub(super) fn put(
    writer: &Writer,
    name: &SecretName,
    former: &Opened,
    (fields, secret_type): (&Fields, Option<&SecretType>),
    trial: &Trial,
    out: &mut dyn Write,
) -> Result<(), VaultCliError> {
    let changes = Changes::between((&former.secret.fields, former.secret_type.as_ref()), (fields, secret_type));
    let document = |revision: Revision| {
        let mut document = Map::from_iter([("name".to_owned(), json!(name.as_str())), ("revision".to_owned(), json!(revision.number()))]);
        document.extend(changes.to_json());
        Value::Object(document)
    };
    if changes.is_empty() {
        return trial.tell(out, &format!("{name}: unchanged, revision {}", former.revision), document(former.revision));
    }
    if trial.dry_run {
        let next = writer.next(name).unwrap_or(former.revision.next());
        return trial.tell(out, &format!("{name}: would be revision {next}: {}", changes.sentence()), document(next));
    }
    let revision = writer.set(name, secret_type, fields)?;
    trial.tell(out, &format!("{name}: revision {revision}: {}", changes.sentence()), document(revision))
}

// === impl Rollback ===

impl Rollback {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let (folder, name) = (&self.folder.vault, &self.name);
        let vault = Vault::open_for_writing(folder)?.keeping(self.revising.keep);
        let reader = reader(folder, &self.keys.identity, name)?;
        let writer = vault.lock()?;
        let current = open(&reader, folder, name)?;
        let trial = &self.revising.trial;
        let document = |revision: Revision| json!({ "name": name.as_str(), "revision": revision.number(), "as": self.to.number() });
        if current.revision == self.to {
            let line = format!("{name}: unchanged, revision {} is the current one", self.to);
            return trial.tell(out, &line, document(current.revision));
        }
        let wanted = open_revision(&reader, &vault, name, self.to)?;
        let next = take_up(&writer, folder, name, &self.keys.identity, trial)?;
        if trial.dry_run {
            return trial.tell(out, &format!("{name}: would be revision {next}, as revision {}", self.to), document(next));
        }
        let revision = writer.set(name, wanted.secret_type.as_ref(), &wanted.secret.fields)?;
        trial.tell(out, &format!("{name}: revision {revision}, as revision {}", self.to), document(revision))
    }
}
