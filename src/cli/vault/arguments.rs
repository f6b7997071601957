//! What is typed after `keyferry vault`, and its help.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::VaultCliError;
use crate::backend::file::{KEPT, Recipient, Revision, VaultName};
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
A new recipient can open what is set from then on. Secrets set before keep their recipients until they are set again.")]
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
