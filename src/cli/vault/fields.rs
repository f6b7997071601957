//! The fields after a secret's name on the command line, and where their values come from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use zeroize::Zeroizing;

use super::arguments::{Unshown, usage};
use super::prompt::{Answer, Input};
use super::{VaultCliError, marks, warn};
use crate::backend::store::file::MAX_BYTES;
use crate::model::{Field, FieldName, SecretBytes};

pub type Fields = BTreeMap<FieldName, Field>;

/// `FIELD=...`, parsed, but with values that are not yet read.
pub struct Assignments<'a>(Vec<(FieldName, Value<'a>)>);

#[derive(Clone, Copy)]
enum Value<'a> {
    Argument(&'a str),
    File(&'a Path),
    StandardInput,
}

// === impl Assignments ===

impl<'a> Assignments<'a> {
    pub fn parse(texts: &'a [Unshown]) -> Result<Self, VaultCliError> {
        let given = (1..).zip(texts).map(|(place, text)| assignment(place, &text.0)).collect::<Result<Vec<_>, _>>()?;
        let mut names = BTreeSet::new();
        match given.iter().find(|(field, _)| !names.insert(field)) {
            Some((field, _)) => Err(usage(format!("the field {field} is given twice (remove one)"))),
            None => Ok(Self(given)),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &FieldName> {
        self.0.iter().map(|(field, _)| field)
    }

    /// The values. At a terminal the person is asked for each `FIELD=-`.
    pub fn read(self, allow_empty: bool, input: &mut Input<'_>, err: &mut dyn Write) -> Result<Fields, VaultCliError> {
        if !input.terminal && self.0.iter().filter(|(_, value)| matches!(value, Value::StandardInput)).count() > 1 {
            return Err(usage("only one field can be read from standard input (give the others by FIELD=@FILE)"));
        }
        let mut fields = Fields::new();
        for (field, value) in &self.0 {
            let bytes = value.read(field, input, err)?;
            if bytes.expose().is_empty() && !allow_empty {
                return Err(usage(format!("{field}: the value is empty (if that is meant: --allow-empty)")));
            }
            if !matches!(value, Value::Argument(_)) && ends_as_echo_does(bytes.expose()) {
                warn(err, &format!("{field}: the value ends in a line break (`echo` adds one; `printf %s` does not)"))?;
            }
            warn_of_mark(field, bytes.expose(), err)?;
            fields.insert(field.clone(), Field::of_bytes(bytes));
        }
        self.warn_of_arguments(err)?;
        Ok(fields)
    }

    fn warn_of_arguments(&self, err: &mut dyn Write) -> Result<(), VaultCliError> {
        let argued: Vec<&str> =
            self.0.iter().filter(|(_, value)| matches!(value, Value::Argument(_))).map(|(field, _)| field.as_str()).collect();
        match argued.as_slice() {
            [] => Ok(()),
            [field] => warn(
                err,
                &format!(
                    "other users of this machine can see the value of {field}, because it is on the command line (for secrets use {field}=@FILE or {field}=-)"
                ),
            ),
            fields => warn(
                err,
                &format!(
                    "other users of this machine can see the values of {}, because they are on the command line (for secrets use FIELD=@FILE or FIELD=-)",
                    fields.join(", ")
                ),
            ),
        }
    }
}

/// `place` counts the fields from 1. The text is not quoted: it may be a secret value without its field name.
fn assignment(place: usize, text: &str) -> Result<(FieldName, Value<'_>), VaultCliError> {
    let Some((field, value)) = text.split_once('=') else {
        return Err(usage(format!("field {place} after the name has no `=`: write FIELD=VALUE, FIELD=@FILE or FIELD=-")));
    };
    let field: FieldName = field.parse().map_err(|error| usage(format!("field {place} after the name: {error}")))?;
    let value = match value.strip_prefix('@') {
        Some("") => return Err(usage(format!("the field {field}: a file's name belongs after the @"))),
        Some(file) => Value::File(Path::new(file)),
        None if value == "-" => Value::StandardInput,
        None => Value::Argument(value),
    };
    Ok((field, value))
}

impl Value<'_> {
    fn read(self, field: &FieldName, input: &mut Input<'_>, err: &mut dyn Write) -> Result<SecretBytes, VaultCliError> {
        let fault = |source_name: &str| {
            let (field, source_name) = (field.clone(), source_name.to_owned());
            move |cause| VaultCliError::Value { field, source_name, cause }
        };
        match self {
            Self::Argument(text) => Ok(SecretBytes::new(text.as_bytes().to_vec())),
            Self::File(path) => File::open(path).and_then(|mut file| read_bounded(&mut file)).map_err(fault(&path.display().to_string())),
            Self::StandardInput if input.terminal => match input.hidden(field.as_str(), MAX_BYTES, err) {
                Ok(Answer::Given(bytes)) => Ok(bytes),
                Ok(Answer::Stopped) => Err(VaultCliError::Stopped),
                Err(cause) => Err(fault("the terminal")(cause)),
            },
            Self::StandardInput => read_bounded(input.stream).map_err(fault("standard input")),
        }
    }
}

/// Warns if the value looks like something else, such as ciphertext.
pub fn warn_of_mark(field: &FieldName, value: &[u8], err: &mut dyn Write) -> Result<(), VaultCliError> {
    match marks::of_value(value) {
        Some(mark) => warn(err, &format!("{field}: is {}, and is taken as it is ({})", mark.what, mark.remedy)),
        None => Ok(()),
    }
}

/// One line of text, and a line break that its author may not have meant.
fn ends_as_echo_does(value: &[u8]) -> bool {
    str::from_utf8(value).is_ok_and(|text| text.strip_suffix('\n').is_some_and(|line| !line.contains(['\n', '\0'])))
}

/// Reads to the end. The buffer has its full size from the start: a growing buffer would leave copies of the secret in memory.
fn read_bounded(input: &mut dyn Read) -> io::Result<SecretBytes> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    input.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BYTES {
        return Err(io::Error::other(format!("more than {MAX_BYTES} bytes, which a secret cannot have")));
    }
    Ok(SecretBytes::new(bytes.to_vec()))
}
