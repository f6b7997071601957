//! `history` and `diff`: the changes of a secret, by the names of its fields.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::arguments::{Folder, Form, Keys, OutputForm, secret_name};
use super::changes::{Changes, Side};
use super::{VaultCliError, document, emit, fault, open, open_revision, reader, say};
use crate::backend::store::file::{Key, Opened, ReadFault, Revision, Vault};
use crate::model::{FieldName, SecretName};

#[derive(Args, Debug)]
pub struct History {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// Without it, only the numbers of the revisions are shown; may be repeated
    #[arg(long, value_name = "FILE", env = "KEYFERRY_IDENTITY")]
    pub(super) identity: Vec<PathBuf>,

    #[command(flatten)]
    pub(super) form: OutputForm,

    /// The secret's name, such as shop/db
    #[arg(value_parser = secret_name)]
    pub(super) name: SecretName,
}

#[derive(Args, Debug)]
pub struct Diff {
    #[command(flatten)]
    pub(super) folder: Folder,

    #[command(flatten)]
    pub(super) keys: Keys,

    /// End with exit code 1 if the revisions differ
    #[arg(long)]
    pub(super) exit_code: bool,

    #[command(flatten)]
    pub(super) form: OutputForm,

    /// The secret's name, such as shop/db
    #[arg(value_parser = secret_name)]
    pub(super) name: SecretName,

    /// The earlier revision; without it the one before the current one
    #[arg(value_name = "A", value_parser = str::parse::<Revision>)]
    pub(super) from: Option<Revision>,

    /// The later revision; without it the current one
    #[arg(value_name = "B", value_parser = str::parse::<Revision>)]
    pub(super) to: Option<Revision>,
}

/// One revision that is kept.
struct Past {
    revision: Revision,
    opened: Result<Opened, ReadFault>,
    /// The changes since the revision before it, if that one is kept and can be opened.
    changes: Option<Changes>,
}

// === impl History ===

impl History {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let vault = Vault::open_for_writing(&self.folder.vault)?;
        if self.identity.is_empty() {
            return self.numbers(&vault, out);
        }
        let (current, pasts) = self.read(&vault)?;
        match self.form.output {
            Form::Json => {
                let revisions: Vec<Value> = pasts.iter().map(|past| past.to_json(current)).collect();
                emit(out, &document(&json!({ "name": self.name.as_str(), "revisions": revisions })))?;
            }
            Form::Text => emit(out, table(&pasts, current).as_bytes())?,
        }
        let faults: Vec<String> = pasts.iter().filter_map(|past| Some(format!("{}: {}", self.name, past.opened.as_ref().err()?))).collect();
        if faults.is_empty() { Ok(()) } else { Err(VaultCliError::Faults(faults)) }
    }

    fn numbers(&self, vault: &Vault, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let found = vault.revisions(&self.name).map_err(|error| super::near(error, &self.folder.vault, &self.name))?;
        let numbers: BTreeSet<Revision> = found.kept.iter().copied().chain(found.current).collect();
        match self.form.output {
            Form::Json => {
                let one = |revision: &Revision| json!({ "revision": revision.number(), "current": Some(*revision) == found.current });
                let revisions: Vec<Value> = numbers.iter().rev().map(one).collect();
                emit(out, &document(&json!({ "name": self.name.as_str(), "revisions": revisions })))
            }
            Form::Text => emit(out, numbers.iter().rev().map(|revision| format!("{revision}\n")).collect::<String>().as_bytes()),
        }
    }

    /// The current revision, and all of them, newest first.
    fn read(&self, vault: &Vault) -> Result<(Option<Revision>, Vec<Past>), VaultCliError> {
        let found = vault.revisions(&self.name).map_err(|error| super::near(error, &self.folder.vault, &self.name))?;
        let reader = reader(&self.folder.vault, &self.identity, &self.name)?;
        let read = |pin| reader.read(&Key { name: self.name.clone(), pin });
        let current = if found.there { Some(read(None)) } else { None };
        let number = current.as_ref().and_then(|read| read.as_ref().ok()).map(|opened| opened.revision).or(found.current);
        let mut pasts: Vec<Past> = Vec::new();
        for revision in found.kept.iter().copied().chain(number).collect::<BTreeSet<_>>() {
            let opened = match &current {
                Some(current) if number == Some(revision) => current.clone(),
                Some(_) | None => read(Some(revision)),
            };
            let changes = match (&opened, pasts.last().map(|past| &past.opened)) {
                (Ok(opened), Some(Ok(before))) => Some(Changes::between(side(before), side(opened))),
                (Ok(opened), None) if revision == Revision::FIRST => Some(Changes::between((&super::Fields::new(), None), side(opened))),
                (Ok(_), Some(Err(_)) | None) | (Err(_), _) => None,
            };
            pasts.push(Past { revision, opened, changes });
        }
        // It cannot be opened, and its number is not known.
        if let (Some(Err(fault)), None) = (&current, number) {
            return Err(VaultCliError::Read { secret: self.name.clone(), fault: fault.clone(), hint: String::new() });
        }
        pasts.reverse();
        Ok((number.filter(|_| found.there), pasts))
    }
}

pub(super) fn side(opened: &Opened) -> Side<'_> {
    (&opened.secret.fields, opened.secret_type.as_ref())
}

fn table(pasts: &[Past], current: Option<Revision>) -> String {
    let rows: Vec<[String; 3]> = pasts
        .iter()
        .map(|past| {
            let mark = if Some(past.revision) == current { " (current)" } else { "" };
            let time = past.opened.as_ref().map_or("-".to_owned(), |opened| opened.time.to_string());
            [format!("{}{mark}", past.revision), time, past.described()]
        })
        .collect();
    let width = |at: usize, head: &str| rows.iter().map(|row| row[at].len()).chain([head.len()]).max().unwrap_or(0);
    let (first, second) = (width(0, "REVISION"), width(1, "SET"));
    let head = ["REVISION", "SET", "FIELDS"].map(str::to_owned);
    std::iter::once(&head).chain(&rows).map(|[a, b, c]| format!("{a:first$}  {b:second$}  {c}\n")).collect()
}

impl Past {
    fn described(&self) -> String {
        match (&self.opened, &self.changes) {
            (Err(_), _) => "cannot be opened".to_owned(),
            (Ok(_), Some(changes)) if changes.is_empty() => "unchanged".to_owned(),
            (Ok(_), Some(changes)) => changes.marks().join(", "),
            (Ok(opened), None) => {
                let names: Vec<&str> = opened.secret.fields.keys().map(FieldName::as_str).collect();
                format!("{} (the revision before it is not kept)", names.join(", "))
            }
        }
    }

    fn to_json(&self, current: Option<Revision>) -> Value {
        let mut object = Map::new();
        object.insert("revision".to_owned(), json!(self.revision.number()));
        object.insert("current".to_owned(), json!(Some(self.revision) == current));
        match &self.opened {
            Ok(opened) => {
                object.insert("time".to_owned(), json!(opened.time.to_string()));
                object.insert("fields".to_owned(), json!(opened.secret.fields.keys().map(FieldName::as_str).collect::<Vec<_>>()));
                object.extend(self.changes.as_ref().map(Changes::to_json).unwrap_or_default());
            }
            Err(fault) => drop(object.insert("error".to_owned(), json!(fault.to_string()))),
        }
        Value::Object(object)
    }
}

// === impl Diff ===

impl Diff {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let (folder, name) = (&self.folder.vault, &self.name);
        let vault = Vault::open_for_writing(folder)?;
        let reader = reader(folder, &self.keys.identity, name)?;
        let to = match self.to {
            Some(revision) => open_revision(&reader, &vault, name, revision)?,
            None => open(&reader, folder, name)?,
        };
        let before = || {
            let before = vault.revisions(name)?.kept.into_iter().rfind(|revision| *revision < to.revision);
            before.ok_or_else(|| fault(format!("{name}: revision {} is the only one that is kept", to.revision)))
        };
        let from = self.from.map_or_else(before, Ok)?;
        let from = open_revision(&reader, &vault, name, from)?;
        let changes = Changes::between(side(&from), side(&to));
        match self.form.output {
            Form::Json => {
                let mut object = changes.to_json();
                object.insert("name".to_owned(), json!(name.as_str()));
                object.insert("from".to_owned(), json!(from.revision.number()));
                object.insert("to".to_owned(), json!(to.revision.number()));
                emit(out, &document(&Value::Object(object)))?;
            }
            Form::Text => changes.marks().iter().try_for_each(|mark| say(out, mark))?,
        }
        if self.exit_code && !changes.is_empty() { Err(VaultCliError::Differs) } else { Ok(()) }
    }
}
