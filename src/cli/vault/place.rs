//! `rename`, `copy` and `remove`: they change which secrets there are.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::arguments::{Folder, Keys, Pair, Revising, Trial, secret_name};
use super::{VaultCliError, count, fault, note, open, open_revision, reader, take_up};
use crate::backend::store::file::{Revision, Vault, VaultError};
use crate::model::SecretName;

#[derive(Args, Debug)]
pub struct Rename {
    #[command(flatten)]
    pub(super) folder: Folder,

    #[command(flatten)]
    pub(super) keys: Keys,

    #[command(flatten)]
    pub(super) trial: Trial,

    #[command(flatten)]
    pub(super) pair: Pair,
}

#[derive(Args, Debug)]
pub struct Copy {
    #[command(flatten)]
    pub(super) folder: Folder,

    #[command(flatten)]
    pub(super) keys: Keys,

    /// Replace all fields of NEW if it exists
    #[arg(long)]
    pub(super) replace: bool,

    #[command(flatten)]
    pub(super) revising: Revising,

    #[command(flatten)]
    pub(super) pair: Pair,
}

#[derive(Args, Debug)]
pub struct Remove {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// Only needed if the vault's history is lost: then only the encrypted file has the number of its revision. May be repeated
    #[arg(long, value_name = "FILE", env = "KEYFERRY_IDENTITY")]
    pub(super) identity: Vec<PathBuf>,

    #[command(flatten)]
    pub(super) trial: Trial,

    /// The secrets' names, such as shop/db
    #[arg(required = true, value_name = "NAME", value_parser = secret_name)]
    pub(super) names: Vec<SecretName>,
}

// === impl Rename ===

impl Rename {
    pub(super) fn run(self, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
        let (folder, old, new) = (&self.folder.vault, &self.pair.old, &self.pair.new);
        let vault = Vault::open_for_writing(folder)?;
        let reader = reader(folder, &self.keys.identity, old)?;
        let writer = vault.lock()?;
        let current = open(&reader, folder, old)?;
        check_vacant(&vault, new, &format!("remove it first, or copy over it: `keyferry vault copy --replace {old} {new}`"))?;
        let found = vault.revisions(old)?;
        let (mut earlier, mut faults) = (Vec::new(), Vec::new());
        for revision in found.kept.into_iter().filter(|revision| *revision != current.revision) {
            match open_revision(&reader, &vault, old, revision) {
                Ok(opened) => earlier.push(opened),
                Err(cause) => faults.push(cause.to_string()),
            }
        }
        if !faults.is_empty() {
            faults.push(
                "note: nothing was changed (give each identity that is needed, or run `keyferry vault prune --unreadable` first)"
                    .to_owned(),
            );
            return Err(VaultCliError::Faults(faults));
        }
        take_up(&writer, folder, old, &self.keys.identity, &self.trial)?;
        let history = count(earlier.len(), "earlier revision");
        let document = |revision: Option<Revision>| {
            let revision = revision.map(Revision::number);
            json!({ "from": old.as_str(), "to": new.as_str(), "revision": revision, "earlier": earlier.len() })
        };
        if self.trial.dry_run {
            return self.trial.tell(out, &format!("{old}: would become {new}, with {history}"), document(None));
        }
        let revision = writer.rename(old, new, &current, &earlier)?;
        self.trial.tell(out, &format!("{old}: is now {new}, revision {revision}, with {history}"), document(Some(revision)))?;
        note(err, &format!("Pods' classes still name {old} (change them to {new})"))
    }
}

fn check_vacant(vault: &Vault, new: &SecretName, remedy: &str) -> Result<(), VaultCliError> {
    if vault.has(new)? { Err(fault(format!("{new}: is in the vault already ({remedy})"))) } else { Ok(()) }
}

// === impl Copy ===

impl Copy {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let (folder, old, new) = (&self.folder.vault, &self.pair.old, &self.pair.new);
        let vault = Vault::open_for_writing(folder)?.keeping(self.revising.keep);
        if old == new {
            return Err(super::usage(format!("{old}: cannot be copied to itself (give another name)")));
        }
        let reader = reader(folder, &self.keys.identity, old)?;
        let writer = vault.lock()?;
        let opened = open(&reader, folder, old)?;
        if !self.replace {
            check_vacant(&vault, new, "to replace all its fields: --replace")?;
        }
        let next = take_up(&writer, folder, new, &self.keys.identity, &self.revising.trial)?;
        let shown = |revision: Revision| format!("revision {revision}, {}, as {old}", count(opened.secret.fields.len(), "field"));
        let trial = &self.revising.trial;
        let document = |revision: Revision| json!({ "from": old.as_str(), "to": new.as_str(), "revision": revision.number() });
        if trial.dry_run {
            return trial.tell(out, &format!("{new}: would be {}", shown(next)), document(next));
        }
        let revision = writer.set(new, opened.secret_type.as_ref(), &opened.secret.fields)?;
        trial.tell(out, &format!("{new}: {}", shown(revision)), document(revision))
    }
}

// === impl Remove ===

impl Remove {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<(), VaultCliError> {
        let folder = &self.folder.vault;
        let vault = Vault::open_for_writing(folder)?;
        let writer = vault.lock()?;
        // All or nothing: if a name is misspelt, nothing is removed.
        let (mut found, mut faults) = (BTreeMap::new(), Vec::new());
        for name in &self.names {
            match vault.revisions(name) {
                Ok(there) => {
                    let earlier = there.kept.into_iter().filter(|revision| Some(*revision) != there.current).count();
                    found.insert(name, earlier);
                }
                Err(cause @ VaultError::NotFound { .. }) => faults.push(super::near(cause, folder, name).to_string()),
                Err(cause) => return Err(cause.into()),
            }
        }
        if !faults.is_empty() {
            return Err(VaultCliError::Faults(faults));
        }
        let verb = if self.trial.dry_run { "would remove" } else { "removed" };
        let (mut lines, mut removed) = (Vec::new(), Vec::new());
        for (name, kept) in found {
            if !self.trial.dry_run {
                take_up(&writer, folder, name, &self.identity, &self.trial)?;
                writer.remove(name)?;
            }
            lines.push(format!("{verb} {name} and {}", count(kept, "earlier revision")));
            removed.push(json!({ "name": name.as_str(), "earlier": kept }));
        }
        self.trial.tell(out, &lines.join("\n"), json!({ "removed": removed }))
    }
}
