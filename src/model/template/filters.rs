//! The filters of templates: a closed list. Each filter pays for its work before it does it; the engine pays for the output.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64, HEXLOWER};
use jmespath::{Rcvar, Variable};
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use thiserror::Error;

use super::BYTES;
use super::values::{Digits, List, Map, VALUE, of_json, separators};
use crate::dotenv;
use crate::formats::pem::{Bundle, Part};
use crate::formats::{Format, MAX_DEPTH, Out, in_quotes, properties_value, respell};
use crate::model::Query;
use crate::steps::Steps;

/// Their names.
pub(super) const FILTERS: [&str; 29] = [
    "b64decode",
    "b64encode",
    "default",
    "dotenv",
    "first",
    "fromjson",
    "hex",
    "indent",
    "jmespath",
    "join",
    "json",
    "last",
    "length",
    "lower",
    "pem_chain",
    "pem_key",
    "pem_leaf",
    "properties",
    "quote",
    "replace",
    "sha256",
    "shellquote",
    "split",
    "squote",
    "toml",
    "trim",
    "upper",
    "urlencode",
    "yaml",
];

/// Filters whose result is one value in some file, with any input.
pub(super) const SPELLING: [&str; 16] = [
    "b64encode",
    "dotenv",
    "hex",
    "json",
    "length",
    "pem_chain",
    "pem_key",
    "pem_leaf",
    "properties",
    "quote",
    "sha256",
    "shellquote",
    "squote",
    "toml",
    "urlencode",
    "yaml",
];

/// The cost of an item besides its text, in bytes.
const NODE: usize = 64;

/// The most spaces by which a text may be indented.
const WIDEST: usize = 256;

/// Why a value was refused, in our own words.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(super) enum Refusal {
    #[error("the filter `{filter}` {why}")]
    Filter { filter: &'static str, why: &'static str },
    #[error("the value to be written is {0}")]
    Print(&'static str),
}

pub(super) fn refused(refusal: Refusal) -> Error {
    Error::from(ErrorKind::InvalidOperation).with_source(refusal)
}

pub(super) fn add_to(engine: &mut Environment<'static>) {
    engine.add_filter("b64decode", b64decode);
    engine.add_filter("b64encode", |state: &State, value: &Value| bytes_as(state, "b64encode", value, |bytes| BASE64.encode(bytes)));
    engine.add_filter("default", default);
    engine.add_filter("dotenv", of_dotenv);
    engine.add_filter("first", |state: &State, value: &Value| end(state, "first", value, true));
    engine.add_filter("fromjson", fromjson);
    engine.add_filter("hex", |state: &State, value: &Value| bytes_as(state, "hex", value, |bytes| HEXLOWER.encode(bytes)));
    engine.add_filter("indent", indent);
    engine.add_filter("jmespath", search);
    engine.add_filter("join", join);
    engine.add_filter("json", |state: &State, value: &Value| spelled(state, "json", value, Format::Json));
    engine.add_filter("last", |state: &State, value: &Value| end(state, "last", value, false));
    engine.add_filter("length", length);
    engine.add_filter("lower", |state: &State, value: &Value| text_as(state, "lower", value, 4, |text| Ok(text.to_lowercase())));
    engine.add_filter("pem_chain", |state: &State, value: &Value| pem(state, "pem_chain", value, Part::Chain));
    engine.add_filter("pem_key", |state: &State, value: &Value| pem(state, "pem_key", value, Part::Key));
    engine.add_filter("pem_leaf", |state: &State, value: &Value| pem(state, "pem_leaf", value, Part::Leaf));
    engine.add_filter("properties", |state: &State, value: &Value| {
        text_as(state, "properties", value, 8, |text| {
            let mut out = Out::within(usize::MAX, text.len());
            properties_value(text, &mut out);
            Ok(out.into_text())
        })
    });
    engine.add_filter("quote", |state: &State, value: &Value| text_as(state, "quote", value, 8, |text| Ok(in_quotes(text))));
    engine.add_filter("replace", replace);
    engine.add_filter("sha256", |state: &State, value: &Value| {
        bytes_as(state, "sha256", value, |bytes| HEXLOWER.encode(digest(&SHA256, bytes).as_ref()))
    });
    engine.add_filter("shellquote", |state: &State, value: &Value| text_as(state, "shellquote", value, 8, shellquote));
    engine.add_filter("split", split);
    engine.add_filter("squote", |state: &State, value: &Value| text_as(state, "squote", value, 2, squote));
    engine.add_filter("toml", |state: &State, value: &Value| spelled(state, "toml", value, Format::Toml));
    engine.add_filter("trim", |state: &State, value: &Value| text_as(state, "trim", value, 2, |text| Ok(text.trim().to_owned())));
    engine.add_filter("upper", |state: &State, value: &Value| text_as(state, "upper", value, 4, |text| Ok(text.to_uppercase())));
    engine.add_filter("urlencode", |state: &State, value: &Value| text_as(state, "urlencode", value, 8, |text| Ok(urlencode(text))));
    engine.add_filter("yaml", |state: &State, value: &Value| spelled(state, "yaml", value, Format::Yaml));
    engine.add_test("defined", |value: &Value| !value.is_undefined());
    engine.add_test("none", |value: &Value| value.is_none());
    engine.add_test("undefined", |value: &Value| value.is_undefined());
}

/// Pays for this many bytes that are looked at or made.
fn pay(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(1 + bytes as u64 / BYTES)
}

fn no<T>(filter: &'static str, why: &'static str) -> Result<T, Error> {
    Err(refused(Refusal::Filter { filter, why }))
}

/// As files write it. The engine writes it in another way.
pub(super) fn word(truth: &Value) -> &'static str {
    if truth.is_true() { "true" } else { "false" }
}

/// A text, or a value with only one spelling.
#[allow(clippy::wildcard_enum_match_arm)] // the engine's kinds of values may become more
fn text_of(filter: &'static str, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Bool => Ok(word(value).to_owned()),
        ValueKind::Number | ValueKind::Plain => Ok(value.to_string()),
        ValueKind::Bytes => no(filter, "needs text, and this is binary (write `| b64encode` before it)"),
        _ => no(filter, "needs text, and this is `none`, a list or a mapping (name a field, or use `json`)"),
    }
}

/// `cost`: how many bytes a byte of the text costs.
fn text_as(
    state: &State,
    filter: &'static str,
    value: &Value,
    cost: usize,
    make: impl Fn(&str) -> Result<String, &'static str>,
) -> Result<Value, Error> {
    pay(state, cost * value.as_str().map_or(64, str::len))?;
    let text = text_of(filter, value)?;
    make(&text).map(Value::from).or_else(|why| no(filter, why))
}

fn bytes_as(state: &State, filter: &'static str, value: &Value, make: impl Fn(&[u8]) -> String) -> Result<Value, Error> {
    pay(state, 4 * value.as_bytes().map_or(64, <[u8]>::len))?;
    match value.as_bytes() {
        Some(bytes) => Ok(Value::from(make(bytes))),
        None => text_of(filter, value).map(|text| Value::from(make(text.as_bytes()))),
    }
}

// === texts ===

fn b64decode(state: &State, value: &Value) -> Result<Value, Error> {
    pay(state, 2 * value.as_str().map_or(64, str::len))?;
    let packed: String = text_of("b64decode", value)?.split_whitespace().collect();
    let Ok(bytes) = BASE64.decode(packed.as_bytes()) else { return no("b64decode", "needs base64, and this is not base64") };
    Ok(String::from_utf8(bytes).map_or_else(|error| Value::from_bytes(error.into_bytes()), Value::from))
}

fn of_dotenv(state: &State, value: &Value) -> Result<Value, Error> {
    text_as(state, "dotenv", value, 4, |text| {
        let line = dotenv::write("A", text.as_bytes())
            .map_err(|_| "cannot write it so that sh, node's dotenv and python-dotenv read the same value (deliver it as a file)")?;
        let value = line.strip_prefix("A=").unwrap_or(&line);
        Ok(value.strip_suffix('\n').unwrap_or(value).to_owned())
    })
}

fn shellquote(text: &str) -> Result<String, &'static str> {
    if text.contains('\0') {
        return Err("cannot write a NUL for a shell");
    }
    Ok(format!("'{}'", text.replace('\'', "'\\''")))
}

fn squote(text: &str) -> Result<String, &'static str> {
    if text.contains(|c: char| c == '\'' || c.is_control()) {
        return Err("cannot write a single quote or a control character within single quotes (use `quote` or `shellquote`)");
    }
    Ok(format!("'{text}'"))
}

/// RFC 3986: every character that is not unreserved is escaped.
fn urlencode(text: &str) -> String {
    let mut encoded = String::with_capacity(3 * text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Indents all lines but the first, which already is where the template put it; `first=true`: the first too. Empty lines stay empty.
#[allow(clippy::needless_pass_by_value)] // as the engine calls it
fn indent(state: &State, value: &Value, width: usize, options: Kwargs) -> Result<Value, Error> {
    let is_first = options.get::<Option<bool>>("first")?.unwrap_or(false);
    options.assert_all_used()?;
    if width > WIDEST {
        return no("indent", "indents by at most 256");
    }
    let text = text_of("indent", value)?;
    let lines = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
    pay(state, text.len() * 2 + lines * width)?;
    let mut indented = String::with_capacity(text.len() + lines * width);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if (number > 0 || is_first) && !line.trim_end_matches(['\r', '\n']).is_empty() {
            indented.extend(std::iter::repeat_n(' ', width));
        }
        indented.push_str(line);
    }
    Ok(Value::from(indented))
}

fn replace(state: &State, value: &Value, from: &str, to: &str) -> Result<Value, Error> {
    let text = text_of("replace", value)?;
    if from.is_empty() {
        return no("replace", "replaces a text, and this one is empty");
    }
    pay(state, 4 * text.len() + from.len())?;
    let times = text.matches(from).count();
    pay(state, text.len() + times * to.len())?;
    Ok(Value::from(text.replace(from, to)))
}

// === lists and mappings ===

fn default(state: &State, value: &Value, other: Option<Value>, also_none: Option<bool>) -> Result<Value, Error> {
    pay(state, 1)?;
    let is_missing = value.is_undefined() || also_none.unwrap_or(false) && (value.is_none() || value.as_str() == Some(""));
    Ok(if is_missing { other.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

fn items<'v>(filter: &'static str, value: &'v Value) -> Result<&'v [Value], Error> {
    match value.downcast_object_ref::<List>() {
        Some(list) => Ok(&list.0),
        None if value.is_undefined() => Err(Error::from(ErrorKind::UndefinedError)),
        None => no(filter, "needs a list, and this is not a list"),
    }
}

fn end(state: &State, filter: &'static str, value: &Value, is_first: bool) -> Result<Value, Error> {
    pay(state, 1)?;
    let items = items(filter, value)?;
    let item = if is_first { items.first() } else { items.last() };
    item.cloned().map_or_else(|| no(filter, "needs a list with an item, and this list is empty"), Ok)
}

fn join(state: &State, value: &Value, between: Option<&str>) -> Result<Value, Error> {
    let between = between.unwrap_or_default();
    let mut joined = String::new();
    for (number, item) in items("join", value)?.iter().enumerate() {
        pay(state, NODE + 3 * (item.as_str().map_or(0, str::len) + between.len()))?;
        let text = text_of("join", item)?;
        if number > 0 {
            joined.push_str(between);
        }
        joined.push_str(&text);
    }
    Ok(Value::from(joined))
}

fn split(state: &State, value: &Value, at: &str) -> Result<Value, Error> {
    let text = text_of("split", value)?;
    if at.is_empty() {
        return no("split", "splits at a text, and this one is empty");
    }
    pay(state, 4 * text.len())?;
    let parts = text.matches(at).count() + 1;
    pay(state, VALUE * parts)?;
    Ok(Value::from_object(List(text.split(at).map(Value::from).collect())))
}

/// For a text, the number of characters.
fn length(state: &State, value: &Value) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    pay(state, value.as_str().map_or(0, str::len))?;
    match value.len() {
        Some(length) => Ok(Value::from(length)),
        None => no("length", "needs a text, a list or a mapping, and this is something else"),
    }
}

// === JSON and its kin ===

fn spelled(state: &State, filter: &'static str, value: &Value, format: Format) -> Result<Value, Error> {
    // All of them write a text in the same way.
    if let Some(text) = value.as_str() {
        pay(state, NODE + 8 * text.len())?;
        return Ok(Value::from(in_quotes(text)));
    }
    let json = json_of(state, filter, value)?;
    pay(state, 8 * json.len())?;
    let mut out = Out::within(usize::MAX, json.len());
    if respell(format, &json, &mut out).is_err() {
        return no(filter, "cannot write this value (a null, a large number, a member twice, or nesting over 64 levels)");
    }
    Ok(Value::from(out.into_text()))
}

/// Pays for each value as it comes: lists in lists may have more values than there is memory for.
fn json_of(state: &State, filter: &'static str, value: &Value) -> Result<String, Error> {
    let mut json = String::new();
    write_json(state, filter, value, 0, &mut json)?;
    Ok(json)
}

#[allow(clippy::wildcard_enum_match_arm)] // the engine's kinds of values may become more
fn write_json(state: &State, filter: &'static str, value: &Value, depth: usize, json: &mut String) -> Result<(), Error> {
    pay(state, NODE + 8 * value.as_str().map_or(0, str::len))?;
    if depth > MAX_DEPTH {
        return no(filter, "takes values of at most 64 levels");
    }
    match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::None => json.push_str("null"),
        ValueKind::Bool => json.push_str(word(value)),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(number) if !number.is_finite() => return no(filter, "cannot write infinity"),
            Ok(_) | Err(_) => json.push_str(&value.to_string()),
        },
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            json.push_str(&in_quotes(text));
        }
        ValueKind::Bytes => return no(filter, "cannot hold binary (write `| b64encode` before it)"),
        ValueKind::Seq | ValueKind::Iterable => {
            json.push('[');
            for (number, item) in items(filter, value)?.iter().enumerate() {
                json.push_str(if number > 0 { "," } else { "" });
                write_json(state, filter, item, depth + 1, json)?;
            }
            json.push(']');
        }
        ValueKind::Map => {
            let Some(map) = value.downcast_object_ref::<Map>() else { return no(filter, "cannot write this value") };
            json.push('{');
            for (number, (name, member)) in map.members().enumerate() {
                pay(state, 8 * name.len())?;
                json.push_str(if number > 0 { "," } else { "" });
                json.push_str(&in_quotes(name));
                json.push(':');
                write_json(state, filter, member, depth + 1, json)?;
            }
            json.push('}');
        }
        _ => match value.downcast_object_ref::<Digits>() {
            Some(digits) => json.push_str(&digits.0),
            None => return no(filter, "cannot write this value"),
        },
    }
    Ok(())
}

fn fromjson(state: &State, value: &Value) -> Result<Value, Error> {
    let text = text_of("fromjson", value)?;
    pay(state, VALUE * separators(text.as_bytes()) + 4 * text.len())?;
    parsed(state, "fromjson", &text)
}

/// The work of parsing is counted while it runs, and paid after that.
fn parsed(state: &State, filter: &'static str, json: &str) -> Result<Value, Error> {
    let left = state.fuel_levels().map_or(u64::MAX, |(_, left)| left.saturating_mul(BYTES));
    let steps = Steps::of(left);
    let read = of_json(json, 0, &steps);
    pay(state, usize::try_from(steps.spent()).unwrap_or(usize::MAX))?;
    match read {
        Ok(Some(value)) => Ok(value),
        Ok(None) => no(filter, "needs JSON, and this is not JSON (or it is nested over 64 levels)"),
        Err(_) => Err(Error::from(ErrorKind::OutOfFuel)),
    }
}

/// Applies an expression to a value, as `field` does. What it may make is paid for before the search.
fn search(state: &State, value: &Value, expression: &str) -> Result<Value, Error> {
    let json = json_of(state, "jmespath", value)?;
    pay(state, 16 * (expression.len() + json.len()) + VALUE * separators(json.as_bytes()))?;
    let Ok(query) = expression.parse::<Query>() else { return no("jmespath", "needs an expression that `field` would accept") };
    let (size, values) = (json.len() as u64, separators(json.as_bytes()) as u64);
    let made = query.growth().saturating_mul(size).saturating_add(query.values().saturating_mul(values).saturating_mul(VALUE as u64));
    pay(state, usize::try_from(made.max(query.steps(size, values))).unwrap_or(usize::MAX))?;
    let Ok(document) = Variable::from_json(&json) else { return no("jmespath", "cannot read this value") };
    match query.search(&Rcvar::new(document)) {
        Ok(Some(found)) => {
            let Ok(json) = serde_json::to_string::<Variable>(&found) else { return no("jmespath", "cannot write what it found") };
            pay(state, 4 * json.len() + VALUE * separators(json.as_bytes()))?;
            parsed(state, "jmespath", &json)
        }
        Ok(None) => Ok(Value::UNDEFINED),
        Err(_) => no("jmespath", "has an expression that fails on this value"),
    }
}

fn pem(state: &State, filter: &'static str, value: &Value, part: Part) -> Result<Value, Error> {
    const BLOCK: usize = 64;
    let mut bundle = Bundle::default();
    let texts = value.downcast_object_ref::<List>().map_or(std::slice::from_ref(value), |list| &list.0);
    for text in texts {
        pay(state, BLOCK * text.as_str().map_or(1, str::len))?;
        let text = text_of(filter, text)?;
        if bundle.read(&text).is_err() {
            return no(filter, "needs PEM, and this cannot be read as PEM (deliver it with `format: pem`, which says what is wrong)");
        }
    }
    let mut out = Out::within(usize::MAX, texts.iter().map(|text| text.as_str().map_or(0, str::len)).sum());
    if bundle.write(part, &mut out).is_err() {
        return no(filter, "finds no such block, or certificates of several chains (`format: pem` says what is wrong)");
    }
    Ok(Value::from(out.into_text()))
}
