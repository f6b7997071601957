//! `recipients`: who can open the secrets that are set from now on.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use super::arguments::{Folder, Form, Trial, Unshown, recipients};
use super::{VaultCliError, count, document, emit, note, say};
use crate::backend::store::file::{Recipient, Vault};

#[derive(Args, Debug)]
pub struct Recipients {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// Add a recipient to the list; may be repeated
    #[arg(long, value_name = "RECIPIENT")]
    pub(super) add: Vec<Unshown>,

    /// Remove a recipient from the list; may be repeated
    #[arg(long, value_name = "RECIPIENT")]
    pub(super) remove: Vec<Unshown>,

    #[command(flatten)]
    pub(super) trial: Trial,
}

impl Recipients {
    pub(super) fn run(self, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
        let (add, remove) = (recipients(&self.add)?, recipients(&self.remove)?);
        let vault = Vault::open_for_writing(&self.folder.vault)?;
        let listed = if add.is_empty() && remove.is_empty() {
            vault.listed()?
        } else {
            vault.lock()?.change_recipients(&add, &remove, !self.trial.dry_run)?
        };
        self.print(&listed, out)?;
        if add.is_empty() && remove.is_empty() {
            return Ok(());
        }
        if self.trial.dry_run {
            return note(err, "this would be the list (nothing was changed)");
        }
        let files = count(vault.files()?, "file");
        if !remove.is_empty() {
            let what =
                "encrypt them again with `keyferry vault rekey`, and change the values: the removed recipients can still open old copies";
            note(err, &format!("{files} may still be encrypted for the removed recipients ({what})"))?;
        }
        if !add.is_empty() {
            note(err, &format!("{files} may not be encrypted for the new recipients (`keyferry vault rekey` encrypts them again)"))?;
        }
        Ok(())
    }

    fn print(&self, listed: &[(Recipient, Option<String>)], out: &mut dyn Write) -> Result<(), VaultCliError> {
        match self.trial.form.output {
            Form::Json => {
                let one = |(key, comment): &(Recipient, Option<String>)| json!({ "recipient": key.to_string(), "comment": comment });
                let all: Vec<Value> = listed.iter().map(one).collect();
                emit(out, &document(&json!({ "recipients": all })))
            }
            Form::Text => listed.iter().try_for_each(|(key, comment)| match comment {
                Some(comment) => say(out, &format!("{key}  # {comment}")),
                None => say(out, &key.to_string()),
            }),
        }
    }
}
