//! `edit`: the person changes the text fields of a secret in their own editor.
//!
//! The vault is not locked while they type. It is locked at the end. If the secret has another revision then, the change is refused.

mod desk;
mod editor;
mod sheet;

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use clap::Args;
use serde_json::json;

use self::desk::{Desk, Ended};
use self::editor::Editor;
use super::arguments::{Folder, Keys, Revising, secret_name, usage};
use super::change::{put, warn_of_size};
use super::changes::Changes;
use super::fields::{Fields, warn_of_mark};
use super::past::side;
use super::prompt::Input;
use super::{VaultCliError, fault, note, open, reader, take_up, warn};
use crate::backend::store::file::{Opened, Reader, Vault};
use crate::model::SecretName;

#[derive(Args, Debug)]
pub struct Edit {
    #[command(flatten)]
    pub(super) folder: Folder,

    #[command(flatten)]
    pub(super) keys: Keys,

    #[command(flatten)]
    pub(super) revising: Revising,

    /// The secret's name, such as shop/db
    #[arg(value_parser = secret_name)]
    pub(super) name: SecretName,
}

impl Edit {
    pub(super) fn run(self, input: &Input<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), VaultCliError> {
        let (folder, name) = (&self.folder.vault, &self.name);
        if !input.terminal || !io::stdout().is_terminal() {
            return Err(usage(format!("{name}: only a person at a terminal can edit (scripts use `keyferry vault patch {name} FIELD=-`)")));
        }
        let Some(editor) = Editor::of_environment() else {
            return Err(usage(format!("{name}: no editor is set (set VISUAL or EDITOR: `EDITOR=nano keyferry vault edit {name}`)")));
        };
        let vault = Vault::open_for_writing(folder)?.keeping(self.revising.keep);
        let reader = reader(folder, &self.keys.identity, name)?;
        let opened = open(&reader, folder, name)?;
        if let Some(program) = editor.unknown() {
            warn(
                err,
                &format!(
                    "{program}: Keyferry does not know this editor, so it may leave copies of the secret on a disk \
                     (vim, nvim and nano are run so that they leave none)"
                ),
            )?;
        }
        let desk = Desk::set(name)?;
        let Some(fields) = self.typed(&desk, &editor, &opened, err)? else {
            let nothing: [&str; 0] = [];
            let document = json!({
                "name": name.as_str(), "revision": opened.revision.number(), "added": nothing, "changed": nothing, "removed": nothing, "typeChanged": false,
            });
            return self.revising.trial.tell(out, &format!("{name}: unchanged, revision {}", opened.revision), document);
        };
        self.put(&vault, &reader, &desk, &opened, &fields, (out, err))
    }

    /// The fields after the edit, with the binary ones. `None` if the person changed nothing.
    fn typed(&self, desk: &Desk, editor: &Editor, opened: &Opened, err: &mut dyn Write) -> Result<Option<Fields>, VaultCliError> {
        let name = &self.name;
        let mut shown = sheet::write(name, opened);
        let mut has_faults = false;
        loop {
            desk.write(&shown)?;
            let ended = desk.run(editor)?;
            let typed = desk.read()?;
            if typed == shown {
                if has_faults {
                    return Err(fault(format!("{name}: the text still has faults, and nothing was changed")));
                }
                if ended == Ended::AtOnce {
                    note(err, "the editor ended at once (one that opens a window needs an option to wait, such as `code --wait`)")?;
                }
                return Ok(None);
            }
            if typed.trim_ascii().is_empty() {
                return Err(fault(format!(
                    "{name}: the text is empty, and nothing was changed (to remove the secret: `keyferry vault remove {name}`)"
                )));
            }
            match sheet::read(&typed, name, &opened.secret.fields) {
                Ok(fields) => return Ok(Some(fields).filter(|fields| !changes(opened, fields).is_empty())),
                Err(faults) => shown = sheet::with_faults(&typed, &faults),
            }
            has_faults = true;
        }
    }

    fn put(
        &self,
        vault: &Vault,
        reader: &Reader,
        desk: &Desk,
        former: &Opened,
        fields: &Fields,
        (out, err): (&mut dyn Write, &mut dyn Write),
    ) -> Result<(), VaultCliError> {
        let (folder, name, trial) = (&self.folder.vault, &self.name, &self.revising.trial);
        warn_of_size(name, fields, err)?;
        for (field, value) in fields {
            if former.secret.fields.get(field).is_none_or(|former| former.bytes.expose() != value.bytes.expose()) {
                warn_of_mark(field, value.bytes.expose(), err)?;
            }
        }
        let secret_type = former.secret_type.as_ref();
        let writer = vault.lock()?;
        desk.uninterrupted(|| {
            self.check_unmoved(reader, folder, former, fields)?;
            take_up(&writer, folder, name, &self.keys.identity, trial)?;
            put(&writer, name, former, (fields, secret_type), trial, out)
        })
    }

    /// Refuses to overwrite a change that somebody else made meanwhile. The message names the fields of the person's own change.
    fn check_unmoved(&self, reader: &Reader, folder: &Path, former: &Opened, fields: &Fields) -> Result<(), VaultCliError> {
        let name = &self.name;
        let what = Changes { kept: Vec::new(), ..changes(former, fields) }.sentence();
        match open(reader, folder, name) {
            Ok(now) if now.revision == former.revision => Ok(()),
            Ok(now) => {
                let both = format!("is revision {} now, and you edited revision {}", now.revision, former.revision);
                let remedy = format!("run `keyferry vault edit {name}` again; your changes, which are not kept: {what}");
                Err(fault(format!("{name}: {both}: nothing was changed ({remedy})")))
            }
            Err(cause) => Err(fault(format!("{cause}\nnothing was changed (your changes, which are not kept: {what})"))),
        }
    }
}

fn changes(former: &Opened, fields: &Fields) -> Changes {
    Changes::between(side(former), (fields, former.secret_type.as_ref()))
}
