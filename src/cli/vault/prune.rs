//! `prune`: earlier revisions that nobody needs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::arguments::{Folder, Trial, usage};
use super::prompt::Input;
use super::{VaultCliError, count, fault, reader_of};
use crate::backend::Fault;
use crate::backend::store::file::{KEPT, Key, Revision, Vault};
use crate::model::SecretName;

#[derive(Args, Debug)]
pub struct Prune {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// How many earlier revisions of each secret stay [default: 5]
    #[arg(long, value_name = "N", conflicts_with = "unreadable")]
    pub(super) keep: Option<usize>,

    /// Remove the earlier revisions that the identities cannot open, and no others
    #[arg(long)]
    pub(super) unreadable: bool,

    /// Only needed with --unreadable; may be repeated
    #[arg(long, value_name = "FILE", env = "KEYFERRY_IDENTITY")]
    pub(super) identity: Vec<PathBuf>,

    #[command(flatten)]
    pub(super) trial: Trial,

    /// Names of secrets. A name with / at its end means all names that start with it. Without names: every secret
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
}

type Surplus = BTreeMap<SecretName, Vec<Revision>>;

impl Prune {
    pub(super) fn run(self, input: &mut Input<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
        let vault = Vault::open_for_writing(&self.folder.vault)?;
        let surplus = self.surplus(&vault)?;
        let what = described(&surplus);
        if self.trial.dry_run {
            return self.trial.tell(out, &format!("would remove {what}"), document(&surplus));
        }
        if !surplus.is_empty() && input.terminal {
            let sure = input.confirms(&format!("Remove {what}?"), err).map_err(VaultCliError::Output)?;
            if !sure {
                return Err(fault("nothing was removed"));
            }
        }
        let writer = vault.lock()?;
        // Revisions that somebody else has set meanwhile have other numbers.
        surplus.iter().try_for_each(|(name, revisions)| writer.forget(name, revisions))?;
        self.trial.tell(out, &format!("removed {what}"), document(&surplus))
    }

    fn surplus(&self, vault: &Vault) -> Result<Surplus, VaultCliError> {
        let mut histories = vault.histories()?;
        if !self.names.is_empty() {
            let all = vault.list("")?;
            for wanted in &self.names {
                if !all.iter().chain(histories.keys()).any(|name| fits(name, wanted)) {
                    return Err(fault(format!("{wanted}: no secret has this name (`keyferry vault list` shows what there is)")));
                }
            }
            histories.retain(|name, _| self.names.iter().any(|wanted| fits(name, wanted)));
        }
        if self.unreadable {
            self.retain_unreadable(&mut histories)?;
        } else {
            let keep = self.keep.unwrap_or(KEPT);
            for revisions in histories.values_mut() {
                revisions.truncate(revisions.len().saturating_sub(keep));
            }
        }
        histories.retain(|_, revisions| !revisions.is_empty());
        Ok(histories)
    }

    fn retain_unreadable(&self, histories: &mut Surplus) -> Result<(), VaultCliError> {
        if self.identity.is_empty() {
            return Err(usage("--unreadable needs an identity (give --identity FILE)"));
        }
        let reader = reader_of(&self.folder.vault, &self.identity).map_err(VaultCliError::Recipients)?;
        for (name, revisions) in histories {
            let mut unreadable = Vec::new();
            for revision in revisions.iter().copied() {
                match reader.read(&Key { name: name.clone(), pin: Some(revision) }) {
                    Ok(_) => {}
                    Err(cause) if cause.fault == Fault::Corrupt => unreadable.push(revision),
                    // A file system that does not answer says nothing about the file.
                    Err(cause) => return Err(fault(format!("{name}: {cause}"))),
                }
            }
            *revisions = unreadable;
        }
        Ok(())
    }
}

fn fits(name: &SecretName, wanted: &str) -> bool {
    name.as_str() == wanted || wanted.ends_with('/') && name.as_str().starts_with(wanted)
}

fn document(surplus: &Surplus) -> Value {
    let secret = |(name, revisions): (&SecretName, &Vec<Revision>)| json!({ "name": name.as_str(), "revisions": revisions.iter().map(|revision| revision.number()).collect::<Vec<_>>() });
    json!({ "removed": surplus.iter().map(secret).collect::<Vec<_>>() })
}

fn described(surplus: &Surplus) -> String {
    let revisions = surplus.values().map(Vec::len).sum();
    format!("{} of {}", count(revisions, "earlier revision"), count(surplus.len(), "secret"))
}
