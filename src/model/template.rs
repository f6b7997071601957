//! A template: a text in a class with places for the values of secrets. Its engine is minijinja, which only this module uses.
//!
//! The text of a class may be hostile, and a secret's content too. The language has only the secrets of its object and a closed list of
//! filters: no functions, no other files, no clock, and nothing that the engine does for less than it costs ([`scan`]). All work is paid
//! with fuel, which counts bytes. A value is never read as a template. A fault has a line and names from the template. The engine's own
//! words are left out, since they may quote a value.

use std::error::Error as _;
use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior};
use zeroize::Zeroizing;

use self::filters::Refusal;
use self::scan::{Path, Scan};
use super::{Secret, quoted};
use crate::formats::Out;
use crate::nearest::nearest;
use crate::steps::{Spent, Steps};

mod filters;
mod scan;
#[cfg(test)]
mod tests;
mod values;

/// The longest template in bytes.
pub const MAX_TEMPLATE: usize = 64 * 1024;

/// What one unit of fuel pays for: this many bytes that are looked at or made. An instruction costs one unit.
const BYTES: u64 = 64;

/// The memory for a compiled byte of a template: two characters and a name become some instructions with their places.
const COMPILED: usize = 64;

/// The steps to parse a byte of it.
const PARSED: u64 = 64;

/// The engine's name for the template; no message has it.
const NAME: &str = "t";

/// A compiled template. It is compiled once, in the plan.
pub struct Template {
    engine: Environment<'static>,
    /// The names that it looks up in its secrets.
    paths: Vec<Path>,
    bytes: usize,
    /// The line of the first value that is written without a filter.
    bare: Option<usize>,
}

/// What is wrong with a template, or with what it makes of its secrets. `Display` completes `template: ...`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TemplateFault {
    /// From 1; `None`: the whole template.
    pub line: Option<usize>,
    pub problem: String,
}

/// Why nothing was rendered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unrendered {
    /// These names, such as `db` and `password`, do not exist. The first one is the secret's.
    Absent {
        names: Vec<String>,
        fault: TemplateFault,
    },
    Fault(TemplateFault),
    /// It makes more than the allowed bytes in all.
    Memory,
    Spent(Spent),
    /// The file is longer than allowed.
    TooLong,
}

// === impl Template ===

impl Template {
    /// Compiles a text. `secrets`: the names that it may use.
    ///
    /// # Errors
    /// The fault, as far as it can be known without any secret.
    pub fn parse(text: &str, secrets: &[&str], steps: &Steps) -> Result<Result<Self, TemplateFault>, Spent> {
        Self::parse_with(text, secrets, "a name under `secrets`", steps)
    }

    /// The same for a template that makes a file's name from names.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_rename(text: &str, names: &[&str], steps: &Steps) -> Result<Result<Self, TemplateFault>, Spent> {
        Self::parse_with(text, names, "a name that `rename` knows", steps)
    }

    /// `known` completes "... is not ...".
    fn parse_with(text: &str, secrets: &[&str], known: &str, steps: &Steps) -> Result<Result<Self, TemplateFault>, Spent> {
        steps.charge(PARSED * text.len() as u64)?;
        if text.len() > MAX_TEMPLATE {
            let problem = format!("has {} bytes: at most {MAX_TEMPLATE} are compiled (split the file)", text.len());
            return Ok(Err(TemplateFault { line: None, problem }));
        }
        let Scan { paths, bare, names } = match scan::scan(text, secrets) {
            Ok(scan) => scan,
            Err(fault) => return Ok(Err(fault)),
        };
        let mut engine = engine();
        if let Err(error) = engine.add_template_owned(NAME, text.to_owned()) {
            return Ok(Err(unreadable(&error)));
        }
        let unknown = match engine.get_template(NAME) {
            Ok(template) => template.undeclared_variables(false),
            Err(error) => return Ok(Err(unreadable(&error))),
        };
        let unknown = |name: &str| unknown.contains(name) && !secrets.contains(&name);
        if let Some((line, unknown)) = names.into_iter().find(|(_, name)| unknown(name)) {
            let unknown = unknown.as_str();
            let remedy = match nearest(unknown, secrets.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it has: {}", secrets.join(", ")),
            };
            let problem = format!("uses {}, which is not {known} ({remedy})", quoted(unknown));
            return Ok(Err(TemplateFault { line: Some(line), problem }));
        }
        Ok(Ok(Self { engine, paths, bytes: text.len(), bare }))
    }

    /// Whether a template can use this name for a secret.
    pub fn is_name(name: &str) -> bool {
        let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.starts_with(|c: char| c.is_ascii_digit());
        fits && !name.is_empty() && !scan::RESERVED.contains(&name)
    }

    /// About how much memory it takes, in bytes.
    pub fn weight(&self) -> usize {
        self.bytes * COMPILED
    }

    /// The line of the first value without a filter that makes it safe to write.
    pub fn bare(&self) -> Option<usize> {
        self.bare
    }

    /// The bytes of its text.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Renders it with these secrets, by their names; `None`: absent, which is `none` in the template. At most `longest` bytes come out,
    /// and rendering makes at most `memory` bytes.
    ///
    /// # Errors
    /// A fault, or it needs more than is allowed.
    pub fn render(
        &self,
        secrets: &[(&str, Option<&Secret>)],
        longest: usize,
        memory: usize,
        steps: &Steps,
    ) -> Result<Zeroizing<Vec<u8>>, Unrendered> {
        let (context, made) = values::of_secrets(secrets, memory, steps)?;
        self.render_with(&context, memory, made, longest, steps)
    }

    /// The same with texts, by their names.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_texts(
        &self,
        texts: &[(&str, &str)],
        longest: usize,
        memory: usize,
        steps: &Steps,
    ) -> Result<Zeroizing<Vec<u8>>, Unrendered> {
        let (context, made) = values::of_texts(texts, memory, steps)?;
        self.render_with(&context, memory, made, longest, steps)
    }

    /// `made`: how many bytes of the memory the context takes.
    fn render_with(
        &self,
        context: &Value,
        memory: usize,
        made: usize,
        longest: usize,
        steps: &Steps,
    ) -> Result<Zeroizing<Vec<u8>>, Unrendered> {
        let memory = (memory - made) as u64;
        let work = steps.left();
        let mut engine = self.engine.clone();
        engine.set_fuel(Some(memory.min(work) / BYTES));
        // Most of a file is the text of the template itself.
        let mut sink = Sink(Out::within(longest, self.bytes + self.bytes / 4));
        let rendered = engine.get_template(NAME).and_then(|template| {
            let captured = template.render_captured_to(context.clone(), &mut sink)?;
            Ok(captured.state().fuel_levels().map_or(0, |(consumed, _)| consumed))
        });
        match rendered {
            Ok(consumed) => {
                steps.charge(consumed * BYTES)?;
                sink.0.into_bytes().map_err(|_| Unrendered::TooLong)
            }
            Err(_) if sink.0.is_over() => Err(Unrendered::TooLong),
            Err(error) if is_out_of_fuel(&error) && memory < work => {
                steps.charge(memory)?;
                Err(Unrendered::Memory)
            }
            Err(error) if is_out_of_fuel(&error) => match steps.charge(u64::MAX) {
                Err(spent) => Err(Unrendered::Spent(spent)),
                Ok(()) => Err(Unrendered::Memory),
            },
            Err(error) => Err(self.unrendered(&error, context)),
        }
    }

    /// A fault in our own words: a line, and a name from the template.
    fn unrendered(&self, error: &Error, context: &Value) -> Unrendered {
        let fault = |problem: String| TemplateFault { line: error.line(), problem };
        if let Some(refusal) = error.source().and_then(|source| source.downcast_ref::<Refusal>()) {
            return Unrendered::Fault(fault(refusal.to_string()));
        }
        if error.kind() != ErrorKind::UndefinedError {
            let problem = "a filter or an operator in this line cannot work with the kind of value that it gets (a field is a text; what was \
                           JSON may be a number, a list, a mapping or `none`)";
            return Unrendered::Fault(fault(problem.to_owned()));
        }
        let mut here = self.paths.iter().filter(|path| Some(path.line) == error.line()).map(|path| &path.steps);
        match here.find(|steps| values::is_undefined(context, steps)) {
            Some(steps) => Unrendered::Absent {
                names: steps.clone(),
                fault: fault(format!("{} is not there (correct the name, or write `| default('')`)", quoted(&steps.join(".")))),
            },
            None => Unrendered::Fault(fault(
                "a name, or what `first`, `last` or `jmespath` looks for, is not there (correct it, or write `| default('')`)".to_owned(),
            )),
        }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

fn engine() -> Environment<'static> {
    let mut engine = Environment::empty();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        engine.set_syntax(syntax);
    }
    engine.set_formatter(print);
    filters::add_to(&mut engine);
    engine
}

/// Writes a value if it has only one spelling.
#[allow(clippy::wildcard_enum_match_arm)] // the engine's kinds of values may become more
fn print(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    let refused = |why| Err(filters::refused(Refusal::Print(why)));
    let written = |written: fmt::Result| written.map_err(|_| Error::from(ErrorKind::WriteFailure));
    match value.kind() {
        ValueKind::String => written(out.write_str(value.as_str().unwrap_or_default())),
        ValueKind::None => refused("`none`, which has no text (test it with `if`, or write `| default('', true)`)"),
        ValueKind::Bytes => refused("binary (write `| b64encode`)"),
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable | ValueKind::Invalid => refused("a list or a mapping (write `| json`)"),
        ValueKind::Bool => written(out.write_str(filters::word(value))),
        _ => written(write!(out, "{value}")),
    }
}

fn is_out_of_fuel(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.downcast_ref::<Error>().is_some_and(|cause| cause.kind() == ErrorKind::OutOfFuel) {
            return true;
        }
        source = cause.source();
    }
    error.kind() == ErrorKind::OutOfFuel
}

fn unreadable(error: &Error) -> TemplateFault {
    let problem = "cannot be read as a template (look for an open `{{`, `{%` or quote; the tags are if, for, set, with, filter and raw)";
    TemplateFault { line: error.line(), problem: problem.to_owned() }
}

/// What was rendered. At the first error the engine stops.
struct Sink(Out);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.push_bytes(bytes);
        if self.0.is_over() { Err(std::io::Error::other("too long")) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// === impl TemplateFault ===

impl fmt::Display for TemplateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.problem),
            None => f.write_str(&self.problem),
        }
    }
}

impl From<Spent> for Unrendered {
    fn from(spent: Spent) -> Self {
        Self::Spent(spent)
    }
}
