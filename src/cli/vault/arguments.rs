//! What is typed after `keyferry vault`, and its help.

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::change::{Patch, Rollback, Set};
use super::edit::Edit;
use super::past::{Diff, History};
use super::place::{Copy, Remove, Rename};
use super::prune::Prune;
use super::recipients::Recipients;
use super::{VaultCliError, emit, say};
use crate::backend::store::file::{KEPT, Recipient, Revision, VaultName};
use crate::model::SecretName;

#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// Make a vault, or add recipients to one
    ///
    /// Makes the folder (0700) with its list of recipients. If the identity file does not exist, it also makes that file (0600), with a new age
    /// identity. If you run it again, it adds what is missing and changes nothing else.
    #[command(after_help = "Examples:
  keyferry vault init --vault ./vault --identity ./age.key
  keyferry vault init --vault ./vault --recipient age1...

The identity file opens the vault: keep it out of the vault's folder and out of any repository.
A new recipient can open the secrets that are set from then on. `keyferry vault rekey` encrypts the earlier ones for them too.")]
    Init(Init),

    /// Make a secret, or replace all its fields
    ///
    /// A new secret needs no identity: it is encrypted for the vault's recipients. A secret that exists gets exactly these fields. If it would lose
    /// a field, or if you give no identity, --replace is needed. The old fields are kept as an earlier revision.
    #[command(after_help = "Examples:
  keyferry vault set shop/db username=app password=-
  keyferry vault set shop/db username=app password=@./password --replace
  pwgen -s 32 1 | tr -d '\\n' | keyferry vault set shop/api token=-

At a terminal, FIELD=- asks for the value and does not show it. The value is one line, without the line break.
From a file or a pipe, the value is exactly its bytes: a line break at the end is a part of it.
Every user of this machine can see an argument (`ps`), and it stays in the shell's history: give secret values by @FILE or -.
If a value itself starts with @, or is -, give it by a file.")]
    Set(Set),

    /// Change some fields of a secret, and keep the others
    ///
    /// Needs an identity. The earlier revision is kept. If all values are the same, nothing changes.
    #[command(after_help = "Examples:
  keyferry vault patch shop/db password=-
  keyferry vault patch shop/db host=db.example port=5432 --unset socket")]
    Patch(Patch),

    /// Change a secret in your editor
    ///
    /// Opens the text fields in $VISUAL, or in $EDITOR if that is not set, and makes a new revision from what you save. Binary fields are not
    /// shown, and stay as they are. The text is in a folder in memory (a tmpfs). The folder is removed at the end.
    #[command(after_help = "Examples:
  keyferry vault edit shop/db
  EDITOR='code --wait' keyferry vault edit shop/db

If you change nothing, nothing is written. If the text has a fault, the editor opens again and the fault is at the top. If you then leave the \
text as it is, or empty it, nothing is written (exit code 1).
Keyferry gives vim, nvim and nano options so that they leave no copy elsewhere (swap, backup, history). For another editor, set such options \
yourself.")]
    Edit(Edit),

    /// Show a secret's fields, or print one
    ///
    /// Shows names, kinds and sizes, never values. With --field, prints that field's bytes as they are and nothing else.
    #[command(after_help = "Examples:
  keyferry vault get shop/db
  keyferry vault get shop/db --field password
  keyferry vault get shop/db --version 3 --field tls.p12 > tls.p12")]
    Get(Get),

    /// List the names of secrets, one per line
    #[command(after_help = "Examples:
  keyferry vault list
  keyferry vault list shop/ -o wide")]
    List(List),

    /// Show the revisions of a secret, newest first, and which fields each one changed
    ///
    /// Never shows values. Without an identity it shows only the numbers.
    #[command(after_help = "Examples:
  keyferry vault history shop/db
  keyferry vault history shop/db -o json")]
    History(History),

    /// Show which fields differ between two revisions
    ///
    /// One field per line: `+` added, `-` removed, `~` changed. Never shows values. Without numbers it compares the last two revisions.
    #[command(after_help = "Examples:
  keyferry vault diff shop/db
  keyferry vault diff shop/db 3
  keyferry vault diff shop/db 3 5 --exit-code")]
    Diff(Diff),

    /// Give a secret the fields of an earlier revision
    ///
    /// Makes a new revision with these fields: numbers only go up. `keyferry vault history` shows which revisions are kept.
    #[command(after_help = "Example:
  keyferry vault rollback shop/db --to 3")]
    Rollback(Rollback),

    /// Give a secret another name, with its history
    ///
    /// Every revision is encrypted again, because the name is in the encrypted part. The classes of Pods still have the old name: change
    /// them too.
    #[command(after_help = "Example:
  keyferry vault rename shop/db shop/database")]
    Rename(Rename),

    /// Copy the fields of a secret to another name
    #[command(after_help = "Example:
  keyferry vault copy shop/db staging/db")]
    Copy(Copy),

    /// Remove secrets and all their revisions
    ///
    /// Only the number of the last revision stays: a new secret of that name continues after it. So a version never means two things. A copy of
    /// the vault (a git repository's history, a backup) still has what was removed.
    #[command(after_help = "Examples:
  keyferry vault remove shop/db
  keyferry vault remove shop/db shop/api --dry-run")]
    Remove(Remove),

    /// List who can open the secrets, or change the list
    ///
    /// Needs no identity. The list applies to secrets that are set from then on. `keyferry vault rekey` encrypts the others again.
    #[command(after_help = "Examples:
  keyferry vault recipients
  keyferry vault recipients --add age1... --remove age1...

A recipient that you removed can still open the earlier files, and old copies of them: run rekey, and change the values.")]
    Recipients(Recipients),

    /// Remove earlier revisions
    ///
    /// The current revisions stay. At a terminal it asks first.
    #[command(after_help = "Examples:
  keyferry vault prune --keep 2 --dry-run
  keyferry vault prune shop/ --keep 0
  keyferry vault prune --unreadable")]
    Prune(Prune),

    /// Encrypt all secrets again, for the vault's current recipients
    ///
    /// Opens every revision of every secret first. Only then does it write, one whole file after the other. Revisions stay as they are, so no Pod
    /// sees a change. If it is interrupted, the vault still works: run it again to finish.
    #[command(after_help = "Examples:
  keyferry vault rekey --vault ./vault --identity ./age.key
  keyferry vault rekey --add age1new... --remove age1old...

After an interrupted run, give both the old and the new identity: each opens a part.
A removed identity can still open old copies of the files: replace the secrets too.")]
    Rekey(Rekey),

    /// Print secrets in the clear, or write them to files
    ///
    /// Exports only the current revisions. It opens every secret before it writes anything.
    #[command(after_help = "Examples:
  keyferry vault export > /dev/shm/vault.json
  keyferry vault export shop/ --format kubernetes | kubectl apply -f -
  keyferry vault export --format dotenv --to /dev/shm/secrets

The files get the mode 0600, and a new folder gets 0700. Their values are in the clear: a tmpfs such as /dev/shm keeps them off the disk.")]
    Export(Export),

    /// Set secrets from an export, dotenv files or Kubernetes Secrets
    ///
    /// Reads everything before it writes anything. Reports all faults together, and shows no value. Needs no identity.
    #[command(after_help = "Examples:
  kubectl get secret -n shop -o yaml | keyferry vault import --dry-run -
  keyferry vault import --on-conflict skip ./dotenv-folder
  keyferry vault import /dev/shm/vault.json
  keyferry vault import --format dotenv --name shop/db - < db.txt

In a folder, each dotenv file is a secret, and the path is its name: shop/db.env is shop/db, shop/.env is shop, shop/.env.production is \
shop/production. With --format json or kubernetes, files of that format are read instead.
Ciphertext (SOPS, Ansible Vault, ...) and references (vault:path#key, op://, ...) are faults. The message says what to run first.
Secrets that Kubernetes and Helm keep for themselves (ServiceAccount tokens, Helm releases) are not imported.")]
    Import(Import),
}

#[derive(Args, Debug)]
pub struct Rekey {
    #[command(flatten)]
    pub(super) folder: Folder,

    #[command(flatten)]
    pub(super) keys: Keys,

    /// One more recipient; may be repeated
    #[arg(long, value_name = "RECIPIENT")]
    pub(super) add: Vec<Unshown>,

    /// A recipient to remove from the list; may be repeated
    #[arg(long, value_name = "RECIPIENT")]
    pub(super) remove: Vec<Unshown>,

    /// Leave files that cannot be opened as they are, and end with exit code 1
    #[arg(long)]
    pub(super) skip_unreadable: bool,

    #[command(flatten)]
    pub(super) trial: Trial,
}

#[derive(Args, Debug)]
pub struct Export {
    #[command(flatten)]
    pub(super) folder: Folder,

    #[command(flatten)]
    pub(super) keys: Keys,

    /// The format: Keyferry's own JSON, which has everything; dotenv, which has only text; or Kubernetes Secrets
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub(super) format: Format,

    /// Write one file per secret into this folder, which must be new or empty, instead of printing
    #[arg(long, value_name = "DIR")]
    pub(super) to: Option<PathBuf>,

    /// Print the values even on a terminal
    #[arg(long)]
    pub(super) force: bool,

    /// Names of secrets. A name with / at its end means all names that start with it. Without names: every secret
    pub(super) names: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Import {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// The format of the files. Without it, Keyferry recognizes the format of each file
    #[arg(long, value_enum)]
    pub(super) format: Option<Format>,

    /// The secret's name in the vault. Without it: {namespace}/{name} for Secrets of Kubernetes, {name} for dotenv files
    #[arg(long, value_name = "TEMPLATE", value_parser = name_template)]
    pub(super) name: Option<String>,

    /// The namespace for Secrets that have none
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,

    /// Import ciphertext and references as they are. Without it they are faults
    #[arg(long)]
    pub(super) as_is: bool,

    /// What to do with secrets that are in the vault already
    #[arg(long, value_enum, default_value_t = Conflict::Fail)]
    pub(super) on_conflict: Conflict,

    #[command(flatten)]
    pub(super) trial: Trial,

    /// Files, or folders of files; `-` is the standard input
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
}

/// How secrets are written in the clear.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    Dotenv,
    Json,
    Kubernetes,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Conflict {
    /// Set nothing at all.
    Fail,
    /// Set them again: their old fields become an earlier revision.
    Replace,
    /// Leave them as they are, and set the others.
    Skip,
}

#[derive(Args, Debug)]
pub struct Init {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// The age identity file. It is made if it does not exist. Its recipients are added to the vault's list
    #[arg(long, value_name = "FILE", env = "KEYFERRY_IDENTITY", required_unless_present = "recipients")]
    pub(super) identity: Option<PathBuf>,

    /// One more age recipient (a public key, `age1...`) who can open the secrets; may be repeated
    #[arg(long = "recipient", value_name = "RECIPIENT")]
    pub(super) recipients: Vec<Unshown>,

    #[command(flatten)]
    pub(super) trial: Trial,
}

#[derive(Args, Debug)]
pub struct Get {
    #[command(flatten)]
    pub(super) folder: Folder,

    #[command(flatten)]
    pub(super) keys: Keys,

    /// The secret's name, such as shop/db
    #[arg(value_parser = secret_name)]
    pub(super) name: SecretName,

    /// Print this field's bytes, as they are
    #[arg(long, value_name = "FIELD")]
    pub(super) field: Option<String>,

    #[command(flatten)]
    pub(super) form: OutputForm,

    /// The revision. Without it: the current one
    #[arg(long, value_name = "REVISION", value_parser = str::parse::<Revision>)]
    pub(super) version: Option<Revision>,
}

#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// Only needed with -o wide, and with -o json for more than the names; may be repeated
    #[arg(long, value_name = "FILE", env = "KEYFERRY_IDENTITY")]
    pub(super) identity: Vec<PathBuf>,

    /// Names; names with revision, time and fields; or one JSON document
    #[arg(long, short, value_enum, value_name = "FORM", default_value_t = ListForm::Text)]
    pub(super) output: ListForm,

    /// Only names that start with this, such as shop/
    #[arg(default_value = "", hide_default_value = true)]
    pub(super) prefix: String,
}

#[derive(Args, Debug)]
pub(super) struct Folder {
    /// The vault's folder
    #[arg(long, value_name = "DIR", env = "KEYFERRY_VAULT")]
    pub(super) vault: PathBuf,

    /// Print only errors
    #[arg(long, short)]
    pub(super) quiet: bool,
}

#[derive(Args, Debug)]
pub(super) struct Trial {
    /// Say what would change, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,

    #[command(flatten)]
    pub(super) form: OutputForm,
}

/// The options of each command that makes a revision.
#[derive(Args, Debug)]
pub(super) struct Revising {
    /// How many earlier revisions stay
    #[arg(long, value_name = "N", default_value_t = KEPT)]
    pub(super) keep: usize,

    #[command(flatten)]
    pub(super) trial: Trial,
}

/// A secret and its new fields.
#[derive(Args, Debug)]
pub(super) struct Given {
    /// Accept empty values
    #[arg(long)]
    pub(super) allow_empty: bool,

    #[command(flatten)]
    pub(super) revising: Revising,

    /// The secret's name, such as shop/db
    #[arg(value_parser = secret_name)]
    pub(super) name: SecretName,

    /// A field: FIELD=VALUE, FIELD=@FILE to read a file, or FIELD=- to read standard input; at a terminal FIELD=- asks
    #[arg(value_name = "FIELD=VALUE")]
    pub(super) fields: Vec<Unshown>,
}

/// A secret and its new name.
#[derive(Args, Debug)]
pub(super) struct Pair {
    /// The secret's name
    #[arg(value_parser = secret_name)]
    pub(super) old: SecretName,

    /// The new name, or the name of the copy
    #[arg(value_parser = secret_name)]
    pub(super) new: SecretName,
}

#[derive(Args, Debug)]
pub(super) struct OutputForm {
    /// Text for people, or one JSON document
    #[arg(long, short, value_enum, value_name = "FORM", default_value_t = Form::Text)]
    pub(super) output: Form,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Form {
    Json,
    Text,
}

/// How names are listed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum ListForm {
    Json,
    Text,
    Wide,
}

#[derive(Args, Debug)]
pub(super) struct Keys {
    /// The age identity file that opens the vault; may be repeated
    #[arg(long, value_name = "FILE", env = "KEYFERRY_IDENTITY", required = true)]
    pub(super) identity: Vec<PathBuf>,
}

/// An argument that may be a secret, perhaps by mistake. It is parsed here and not by clap, because clap's messages quote a wrong value.
#[derive(Clone)]
pub(super) struct Unshown(pub(super) Zeroizing<String>);

impl Trial {
    /// Prints what was done, or would be done: a line for a person, or a document, which also has `dryRun`.
    pub(super) fn tell(&self, out: &mut dyn Write, line: &str, mut document: Value) -> Result<(), VaultCliError> {
        match self.form.output {
            Form::Json => {
                document["dryRun"] = json!(self.dry_run);
                emit(out, &super::document(&document))
            }
            Form::Text => say(out, line),
        }
    }
}

impl VaultCommand {
    /// Whether only errors are printed.
    pub(super) fn is_quiet(&self) -> bool {
        let folder = match self {
            Self::Copy(it) => &it.folder,
            Self::Diff(it) => &it.folder,
            Self::Edit(it) => &it.folder,
            Self::Export(it) => &it.folder,
            Self::Get(it) => &it.folder,
            Self::History(it) => &it.folder,
            Self::Import(it) => &it.folder,
            Self::Init(it) => &it.folder,
            Self::List(it) => &it.folder,
            Self::Patch(it) => &it.folder,
            Self::Prune(it) => &it.folder,
            Self::Recipients(it) => &it.folder,
            Self::Rekey(it) => &it.folder,
            Self::Remove(it) => &it.folder,
            Self::Rename(it) => &it.folder,
            Self::Rollback(it) => &it.folder,
            Self::Set(it) => &it.folder,
        };
        folder.quiet
    }
}

impl FromStr for Unshown {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl std::fmt::Debug for Unshown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unshown")
    }
}

pub(super) fn secret_name(text: &str) -> Result<SecretName, String> {
    text.parse().map(VaultName::into).map_err(|cause| format!("the name {cause}"))
}

/// `{namespace}` and `{name}` are the namespace and the name of a Secret or a file. Other braces are a mistake.
fn name_template(text: &str) -> Result<String, String> {
    if text.replace("{namespace}", "").replace("{name}", "").contains(['{', '}']) {
        return Err("has braces around something else (write {namespace} or {name})".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn recipients(texts: &[Unshown]) -> Result<Vec<Recipient>, VaultCliError> {
    texts.iter().map(|text| recipient(&text.0)).collect()
}

fn recipient(text: &str) -> Result<Recipient, VaultCliError> {
    if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
        return Err(usage(
            "a secret key was given instead of a recipient, and other users of this machine may have seen it (a recipient starts with age1)",
        ));
    }
    let remedy = "it starts with age1; an identity file has it after `# public key:`";
    text.parse().map_err(|_| usage(format!("the argument is not an X25519 recipient ({remedy})")))
}

pub(super) fn usage(problem: impl Into<String>) -> VaultCliError {
    VaultCliError::Usage(problem.into())
}
