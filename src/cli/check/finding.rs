//! The findings, written for a person, a script or GitHub.

use clap::ValueEnum;
use serde_json::{Value as Json, json};

use super::origin::Origins;
use super::rules::Rules;
use super::settings::Settings;
use crate::model::Code;
use crate::yaml::Position;

/// One finding at one place.
#[derive(Clone, Debug)]
pub struct Finding {
    pub severity: Severity,
    /// The id of a warning, for `--allow`.
    pub id: Option<Warned>,
    pub file: String,
    pub at: Position,
    /// The class's name. Empty if the finding is not about a class.
    pub class: String,
    /// The object's place in the class, from 1.
    pub object: Option<usize>,
    /// Empty if the finding is not about a key.
    pub key: String,
    /// What a mount would fail with.
    pub code: Option<Code>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// A mount would fail, or the driver's work with it would fail, or the daemon would not start.
    Error,
    Warning,
    Note,
}

/// What a warning is about: the ids of `--allow`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Warned {
    /// A mode that looks octal and is decimal.
    DecimalMode,
    /// Classes without a backend would use another backend than before.
    DefaultBackend,
    /// A key that occurs twice in a synced Secret.
    DuplicateKey,
    /// A type of a synced Secret that is almost a known one.
    NearType,
    /// A class that asks for nothing.
    NoObjects,
    /// A backend that only the former configuration has.
    RemovedBackend,
    /// A mode that lets only root read the file.
    RootOnlyMode,
    /// Two classes with the same name.
    SameName,
    /// A template that writes a value without a filter into a file that has a syntax.
    TemplateUnquoted,
    /// A provider that this node does not answer for.
    UnansweredProvider,
    /// A parameter that has no effect, or not the expected one.
    UnusedParameter,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Output {
    /// A JSON document.
    Json,
    /// One line per finding: FILE:LINE:COLUMN: SEVERITY: MESSAGE.
    Text,
    /// Workflow commands: GitHub Actions shows them beside the lines of a pull request.
    Github,
}

/// All findings, and how much was checked.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
    pub files: usize,
    pub classes: usize,
    pub objects: usize,
    /// How many classes there are, those of other providers too.
    pub found: usize,
    /// A note for each file that contains no class.
    pub without: Vec<Finding>,
    /// A line for each file that could not be read.
    pub unreadable: Vec<String>,
    /// Warnings that `--allow` ignores.
    allowed: Vec<Warned>,
    /// Only faults are shown.
    quiet: bool,
    /// On a terminal.
    colours: bool,
    /// The configuration: its file, its faults, and what it contains.
    settings: Option<(String, usize, String)>,
    /// The rules that would allow what the policy does not.
    pub missing_rules: Rules,
}

// === impl Finding ===

impl Finding {
    pub fn error(file: &str, at: Position, message: impl Into<String>) -> Self {
        Self::of(Severity::Error, file, at, message.into())
    }

    pub fn warning(id: Warned, file: &str, at: Position, message: impl Into<String>) -> Self {
        Self { id: Some(id), ..Self::of(Severity::Warning, file, at, message.into()) }
    }

    pub fn note(file: &str, at: Position, message: impl Into<String>) -> Self {
        Self::of(Severity::Note, file, at, message.into())
    }

    fn of(severity: Severity, file: &str, at: Position, message: String) -> Self {
        let (class, key) = (String::new(), String::new());
        Self { severity, id: None, file: file.to_owned(), at, class, object: None, key, code: None, message }
    }

    fn line(&self, colours: bool) -> String {
        let Position { line, column } = self.at;
        let (on, off) = if colours { (self.severity.colour(), "\u{1b}[0m") } else { ("", "") };
        format!("{}:{line}:{column}: {on}{}{off}: {}\n", self.file, self.severity.word(), self.sentence())
    }

    /// The message with its class before it, and a warning's id behind it. The message itself names the object.
    fn sentence(&self) -> String {
        let class = if self.class.is_empty() { String::new() } else { format!("class {}: ", self.class) };
        let id = self.id.map(|id| format!(" [{}]", id.name())).unwrap_or_default();
        format!("{class}{}{id}", self.message)
    }

    /// <https://docs.github.com/actions/reference/workflow-commands-for-github-actions>
    fn workflow_command(&self) -> String {
        let command = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "notice",
        };
        let Position { line, column } = self.at;
        format!("::{command} file={},line={line},col={column}::{}\n", escaped_property(&self.file), escaped(&self.sentence()))
    }

    fn json(&self) -> Json {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        json!({
            "severity": self.severity.word(),
            "id": self.id.map(Warned::name),
            "file": self.file,
            "line": self.at.line,
            "column": self.at.column,
            "class": some(&self.class),
            "object": self.object,
            "key": some(&self.key),
            "code": self.code.map(|code| code.to_string()),
            "message": self.message,
        })
    }
}

/// A message's line breaks would end the command, and `%` starts an escape.
fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn escaped_property(text: &str) -> String {
    escaped(text).replace(':', "%3A").replace(',', "%2C")
}

// === impl Warned ===

impl Warned {
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

// === impl Severity ===

impl Severity {
    /// The escape sequence of a terminal.
    fn colour(self) -> &'static str {
        match self {
            Self::Error => "\u{1b}[31m",
            Self::Warning => "\u{1b}[33m",
            Self::Note => "\u{1b}[36m",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

// === impl Report ===

impl Report {
    pub fn new(allowed: Vec<Warned>, quiet: bool, colours: bool) -> Self {
        Self { allowed, quiet, colours, ..Self::default() }
    }

    pub fn add(&mut self, finding: Finding) {
        if finding.id.is_none_or(|id| !self.allowed.contains(&id)) {
            self.findings.push(finding);
        }
    }

    pub fn extend(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            self.add(finding);
        }
    }

    pub fn judged_settings(&mut self, settings: &Settings) {
        self.extend(settings.faults.clone());
        self.settings = Some((settings.file.clone(), settings.faults.len(), settings.summary()));
    }

    pub fn cannot_read(&mut self, file: &str, cause: &std::io::Error) {
        self.unreadable.push(format!("{file}: {cause}"));
        self.add(Finding::error(file, Position { line: 1, column: 1 }, format!("cannot be read: {cause}")));
    }

    /// How many findings there are, for [`Report::relocate`].
    pub fn mark(&self) -> usize {
        self.findings.len()
    }

    /// If Helm rendered a document, its findings get the name and the place of the template.
    pub fn relocate(&mut self, from: usize, origins: &Origins<'_>) {
        for finding in &mut self.findings[from..] {
            if let Some((file, at)) = origins.place(finding.at) {
                (finding.file, finding.at) = (file.to_owned(), at);
            }
        }
    }

    /// Adds the notes about files without a class. If no file has a class, that is a fault unless it is allowed.
    pub fn end(&mut self, allow_none: bool) {
        let mut without = std::mem::take(&mut self.without);
        let parsed = self.count(Severity::Error) == 0 && self.unreadable.is_empty();
        if let (Some(first), 0, true, false) = (without.first_mut(), self.found, parsed, allow_none) {
            first.severity = Severity::Error;
            first.message.push_str(", so no class was checked (name other files, or use --allow-none)");
        }
        self.findings.append(&mut without);
    }

    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// Files stay in the order they were given; within one, the order of the text.
    pub fn sort(&mut self) {
        let mut files: Vec<String> = Vec::new();
        for finding in &self.findings {
            if !files.contains(&finding.file) {
                files.push(finding.file.clone());
            }
        }
        let place = |file: &String| files.iter().position(|known| known == file);
        self.findings.sort_by_key(|finding| (place(&finding.file), finding.at, finding.severity));
    }

    pub fn show(&self, output: Output) -> String {
        match output {
            Output::Github => self.shown().map(Finding::workflow_command).collect(),
            Output::Json => format!("{:#}\n", self.json()),
            Output::Text => {
                let mut text: String = self.shown().map(|finding| finding.line(self.colours)).collect();
                if !self.quiet {
                    if !self.missing_rules.is_empty() {
                        text.push_str(&format!("\nThese rules would allow it (under `policy`):\n{}\n", self.missing_rules.list()));
                    }
                    text.push_str(&self.summary());
                }
                text
            }
        }
    }

    fn shown(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !self.quiet || finding.severity == Severity::Error)
    }

    /// For standard error, where each line begins with its severity.
    pub fn severity_first(&self) -> String {
        let line = |finding: &Finding| {
            let (severity, file, Position { line, column }) = (finding.severity.word(), &finding.file, finding.at);
            format!("{severity}: {file}:{line}:{column}: {}\n", finding.sentence())
        };
        let summary = if self.quiet { String::new() } else { self.summary() };
        self.shown().map(line).collect::<String>() + &summary
    }

    /// What was checked and the result: one line for the configuration, and one for classes.
    fn summary(&self) -> String {
        let faults = |faults| if faults == 0 { "no fault".to_owned() } else { count(faults, "fault", "faults") };
        let (mut lines, mut rest) = (String::new(), self.count(Severity::Error));
        let warnings = match self.count(Severity::Warning) {
            0 => String::new(),
            warnings => format!(", {}", count(warnings, "warning", "warnings")),
        };
        let alone = self.settings.as_ref().is_some_and(|(_, found, _)| *found == rest) && self.files == 0;
        if let Some((file, found, contents)) = &self.settings {
            rest -= found;
            let contents = if contents.is_empty() { String::new() } else { format!(" ({contents})") };
            let warnings = if alone { warnings.as_str() } else { "" };
            lines.push_str(&format!("{file}: {}{warnings}{contents}\n", faults(*found)));
        }
        if !alone {
            let (objects, classes) = (count(self.objects, "object", "objects"), count(self.classes, "class", "classes"));
            lines.push_str(&format!("{objects} in {classes}, {}: {}{warnings}\n", count(self.files, "file", "files"), faults(rest)));
        }
        lines
    }

    fn json(&self) -> Json {
        json!({
            "files": self.files,
            "classes": self.classes,
            "objects": self.objects,
            "faults": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "unreadable": self.unreadable,
            "configuration": self.settings.as_ref().map(|(file, ..)| file),
            "findings": self.shown().map(Finding::json).collect::<Vec<Json>>(),
        })
    }
}

pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
