//! What is typed after `keyferry vault`, and its help.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use zeroize::Zeroizing;

use super::VaultCliError;
use crate::backend::store::file::{KEPT, Recipient, Revision, VaultName};
use crate::model::{FieldName, SecretName};

#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// Make a vault, or add recipients to one
    ///
    /// Makes the folder (0700) with its list of recipients and, where the identity file does not exist, a new age identity in it
    /// (0600). Run again, it adds what is missing and changes nothing else.
    #[command(after_help = "Examples:
  keyferry vault init --vault ./vault --identity ./age.key
  keyferry vault init --vault ./vault --recipient age1...

The identity file is what opens the vault: keep it out of the vault's folder and out of any repository.
A new recipient can open what is set from then on; `keyferry vault rekey` seals what was set before to them as well.")]
    Init(Init),

    /// Make a secret, or replace all its fields
    ///
    /// Needs no identity: the secret is sealed to the vault's recipients. The fields it had are kept as an earlier revision.
    #[command(after_help = "Examples:
  keyferry vault set shop/db username=app password=@./password
  pwgen -s 32 1 | tr -d '\\n' | keyferry vault set shop/db username=app password=-

The bytes of a file or of standard input are taken as they are: a newline at the end is part of the value.
An argument can be seen by every user of this machine (`ps`) and stays in the shell's history: give secret values by @FILE or -.
A value that itself starts with @, or is -, is given by a file.")]
    Set(Set),

    /// Show a secret's fields, or print one
    ///
    /// Shows names, kinds and sizes, never values. With --field, prints that field's bytes as they are and nothing else.
    #[command(after_help = "Examples:
  keyferry vault get shop/db
  keyferry vault get shop/db --field password
  keyferry vault get shop/db --version 3 --field tls.p12 > tls.p12")]
    Get(Get),

    /// List the names of secrets, one a line
    List(List),

    /// Remove a secret and all its revisions
    ///
    /// Only the count of its revisions stays: a secret made anew under the name goes on from there, so that no version ever means
    /// two things. A copy of the vault (a git repository's history, a backup) still has what was removed.
    Remove(Remove),

    /// Seal every secret anew, to the recipients the vault has now
    ///
    /// Opens every revision of every secret first; only then is anything written, each file whole. Revisions stay as they are, so that no Pod
    /// sees a change. Cut short, the vault works, and running again finishes the work.
    #[command(after_help = "Examples:
  keyferry vault rekey --vault ./vault --identity ./age.key
  keyferry vault rekey --vault ./vault --identity ./age.key --add age1new... --remove age1old...

After a run that was cut short give both the old and the new identity: each opens a part.
Whoever had an identity that is removed can still open old copies of the files: replace the secrets as well.")]
    Rekey(Rekey),

    /// Print secrets in the clear, or write them to files
    ///
    /// Current revisions only. Every secret is opened before anything is written.
    #[command(after_help = "Examples:
  keyferry vault export > /dev/shm/vault.json
  keyferry vault export shop/ --format kubernetes | kubectl apply -f -
  keyferry vault export --format dotenv --to /dev/shm/secrets

Files are made 0600 in a new folder (0700). What is written is in the clear: a tmpfs such as /dev/shm keeps it off the disk.")]
    Export(Export),

    /// Set secrets from an export, dotenv files or Kubernetes Secrets
    ///
    /// Everything is read before anything is written, and every fault told at once, without a value. Needs no identity.
    #[command(after_help = "Examples:
  kubectl get secret -n shop -o yaml | keyferry vault import --dry-run -
  keyferry vault import --on-conflict skip ./dotenv-folder
  keyferry vault import /dev/shm/vault.json
  keyferry vault import --format dotenv --name shop/db - < db.txt

A folder: each dotenv file below it is a secret named by its path. shop/db.env is shop/db, shop/.env is shop, shop/.env.production is
shop/production. With --format json or kubernetes, files of that format are read instead.
Ciphertext (SOPS, Ansible Vault, ...) and references (vault:path#key, op://, ...) are faults. The message names what to run first.
Secrets of Kubernetes' own (ServiceAccount tokens, Helm releases) are not imported.")]
    Import(Import),
}

#[derive(Args, Debug)]
pub struct Rekey {
    #[command(flatten)]
    pub(super) folder: Folder,

    #[command(flatten)]
    pub(super) keys: Keys,

    /// One more recipient; may be given several times
    #[arg(long, value_name = "RECIPIENT")]
    pub(super) add: Vec<Unshown>,

    /// A recipient to take off the list; may be given several times
    #[arg(long, value_name = "RECIPIENT")]
    pub(super) remove: Vec<Unshown>,
}

#[derive(Args, Debug)]
pub struct Export {
    #[command(flatten)]
    pub(super) folder: Folder,

    #[command(flatten)]
    pub(super) keys: Keys,

    /// The form: keyferry's own JSON, which holds everything; dotenv, which holds text; Kubernetes Secrets
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub(super) format: Format,

    /// Write a file a secret into this new folder, instead of printing
    #[arg(long, value_name = "DIR")]
    pub(super) to: Option<PathBuf>,

    /// Print the values even on a terminal
    #[arg(long)]
    pub(super) force: bool,

    /// Secrets' names, or with / at their end all that start so; left out: every secret
    pub(super) names: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Import {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// The form of the files; left out: told by each file itself
    #[arg(long, value_enum)]
    pub(super) format: Option<Format>,

    /// What a secret is called in the vault. Without it: {namespace}/{name} for Secrets of Kubernetes, {name} for dotenv files
    #[arg(long, value_name = "TEMPLATE", value_parser = name_template)]
    pub(super) name: Option<String>,

    /// The namespace of Secrets that name none
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,

    /// Take ciphertext and references as they are: without it they are faults
    #[arg(long)]
    pub(super) as_is: bool,

    /// What becomes of secrets that are in the vault already
    #[arg(long, value_enum, default_value_t = Conflict::Fail)]
    pub(super) on_conflict: Conflict,

    /// Tell what would be set, and set nothing
    #[arg(long)]
    pub(super) dry_run: bool,

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
    /// Set them anew: what they had becomes an earlier revision.
    Replace,
    /// Leave them as they are, and set the others.
    Skip,
}

#[derive(Args, Debug)]
pub struct Init {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// The age identity file: made where it does not exist; its recipients are listed in the vault
    #[arg(long, value_name = "FILE", env = "KEYFERRY_IDENTITY", required_unless_present = "recipients")]
    pub(super) identity: Option<PathBuf>,

    /// One more age recipient (a public key, `age1...`) who can open the secrets; may be given several times
    #[arg(long = "recipient", value_name = "RECIPIENT")]
    pub(super) recipients: Vec<Unshown>,
}

#[derive(Args, Debug)]
pub struct Set {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// Only needed where the vault's history was lost: then the secret's own file is asked for its revision
    #[arg(long, value_name = "FILE", env = "KEYFERRY_IDENTITY")]
    pub(super) identity: Option<PathBuf>,

    /// How many earlier revisions stay
    #[arg(long, value_name = "N", default_value_t = KEPT)]
    pub(super) keep: usize,

    /// The secret's name, such as shop/db
    #[arg(value_parser = secret_name)]
    pub(super) name: SecretName,

    /// A field: FIELD=VALUE, FIELD=@FILE to read a file, or FIELD=- to read standard input (one field only)
    #[arg(required = true, value_name = "FIELD=VALUE")]
    pub(super) fields: Vec<Unshown>,
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

    /// The revision; the current one if left out
    #[arg(long, value_name = "REVISION", value_parser = str::parse::<Revision>)]
    pub(super) version: Option<Revision>,
}

#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// Not needed: names are not encrypted
    #[arg(long, hide = true, value_name = "FILE")]
    pub(super) identity: Option<PathBuf>,

    /// Only names that start so, such as shop/
    #[arg(default_value = "", hide_default_value = true)]
    pub(super) prefix: String,
}

#[derive(Args, Debug)]
pub struct Remove {
    #[command(flatten)]
    pub(super) folder: Folder,

    /// Only needed where the vault's history was lost: then the secret's own file is asked for its revision
    #[arg(long, value_name = "FILE", env = "KEYFERRY_IDENTITY")]
    pub(super) identity: Option<PathBuf>,

    /// The secret's name, such as shop/db
    #[arg(value_parser = secret_name)]
    pub(super) name: SecretName,
}

#[derive(Args, Debug)]
pub(super) struct Folder {
    /// The vault's folder
    #[arg(long, value_name = "DIR", env = "KEYFERRY_VAULT")]
    pub(super) vault: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct Keys {
    /// The age identity file that opens the vault; may be given several times
    #[arg(long, value_name = "FILE", env = "KEYFERRY_IDENTITY", required = true)]
    pub(super) identity: Vec<PathBuf>,
}

/// An argument that may be, or may by mistake be, a secret. It is parsed here and not by clap, whose messages quote what is wrong.
#[derive(Clone)]
pub(super) struct Unshown(pub(super) Zeroizing<String>);

/// `FIELD=...`, understood.
pub(super) struct Assignment<'a> {
    pub(super) field: FieldName,
    pub(super) value: Value<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Argument(&'a str),
    File(&'a Path),
    StandardInput,
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

/// `place` counts the fields from 1: what stands there may be a value whose field was forgotten, and is not quoted.
pub(super) fn assignment(place: usize, text: &str) -> Result<Assignment<'_>, VaultCliError> {
    let Some((field, value)) = text.split_once('=') else {
        return Err(usage(format!("field {place} after the name has no `=`: write FIELD=VALUE, FIELD=@FILE or FIELD=-")));
    };
    let field = field.parse().map_err(|error| usage(format!("field {place} after the name: {error}")))?;
    let value = match value.strip_prefix('@') {
        Some("") => return Err(usage(format!("the field {field}: a file's name belongs after the @"))),
        Some(file) => Value::File(Path::new(file)),
        None if value == "-" => Value::StandardInput,
        None => Value::Argument(value),
    };
    Ok(Assignment { field, value })
}

fn secret_name(text: &str) -> Result<SecretName, String> {
    text.parse().map(VaultName::into).map_err(|cause| format!("the name {cause}"))
}

/// `{namespace}` and `{name}` stand for what a Secret or a file says; a name has no other braces by mistake.
fn name_template(text: &str) -> Result<String, String> {
    if text.replace("{namespace}", "").replace("{name}", "").contains(['{', '}']) {
        return Err("has braces around something else (write {namespace} or {name})".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn recipient(text: &str) -> Result<Recipient, VaultCliError> {
    if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
        return Err(usage(
            "--recipient was given a secret key, which other users of this machine may have seen; a recipient starts with age1",
        ));
    }
    let remedy = "those start with age1, and stand in an identity file after `# public key:`";
    text.parse().map_err(|_| usage(format!("--recipient was given what is no X25519 recipient ({remedy})")))
}

pub(super) fn usage(problem: impl Into<String>) -> VaultCliError {
    VaultCliError::Usage(problem.into())
}
