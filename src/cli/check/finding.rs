//! What was found, and how it is written for a person, a script or GitHub.

use clap::ValueEnum;
use serde_json::{Value as Json, json};

use crate::model::Code;
use crate::yaml::Position;

/// One thing to say of one place.
#[derive(Clone, Debug)]
pub struct Finding {
    pub severity: Severity,
    pub file: String,
    pub at: Position,
    /// The class's name; empty where no class is meant.
    pub class: String,
    /// The object's place in the class, from 1.
    pub object: Option<usize>,
    /// Empty where no key is meant.
    pub key: String,
    /// What a mount would fail with.
    pub code: Option<Code>,
    pub message: String,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// A mount, or what the driver does with it, would fail; or the daemon would not start.
    Error,
    Warning,
    Note,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Output {
    /// A JSON document.
    Json,
    /// A line a finding: FILE:LINE:COLUMN: SEVERITY: MESSAGE.
    Text,
    /// Workflow commands, which GitHub Actions shows beside the lines of a pull request.
    Github,
}

/// All findings, and how much was judged.
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
}

// === impl Finding ===

impl Finding {
    pub fn error(file: &str, at: Position, message: impl Into<String>) -> Self {
        Self::of(Severity::Error, file, at, message.into())
    }

    pub fn warning(file: &str, at: Position, message: impl Into<String>) -> Self {
        Self::of(Severity::Warning, file, at, message.into())
    }

    pub fn note(file: &str, at: Position, message: impl Into<String>) -> Self {
        Self::of(Severity::Note, file, at, message.into())
    }

    fn of(severity: Severity, file: &str, at: Position, message: String) -> Self {
        let (class, key) = (String::new(), String::new());
        Self { severity, file: file.to_owned(), at, class, object: None, key, code: None, message }
    }

    fn line(&self) -> String {
        let Position { line, column } = self.at;
        format!("{}:{line}:{column}: {}: {}\n", self.file, self.severity.word(), self.message)
    }

    /// <https://docs.github.com/actions/reference/workflow-commands-for-github-actions>
    fn workflow_command(&self) -> String {
        let command = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "notice",
        };
        let Position { line, column } = self.at;
        format!("::{command} file={},line={line},col={column}::{}\n", escaped_property(&self.file), escaped(&self.message))
    }

    fn json(&self) -> Json {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        json!({
            "severity": self.severity.word(),
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

// === impl Severity ===

impl Severity {
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
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Adds the notes about files without a class. If no file has one, nothing was judged, which is a fault unless it is allowed.
    pub fn end(&mut self, allow_none: bool) {
        let mut without = std::mem::take(&mut self.without);
        let parsed = self.count(Severity::Error) == 0 && self.unreadable.is_empty();
        if let (Some(first), 0, true, false) = (without.first_mut(), self.found, parsed, allow_none) {
            first.severity = Severity::Error;
            first.message.push_str(", so no class was judged (name other files, or use --allow-none)");
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
            Output::Github => self.findings.iter().map(Finding::workflow_command).collect(),
            Output::Json => format!("{:#}\n", self.json()),
            Output::Text => {
                let mut text: String = self.findings.iter().map(Finding::line).collect();
                if self.unreadable.is_empty() && self.count(Severity::Error) == 0 {
                    text.push_str(&self.summary());
                    text.push('\n');
                }
                text
            }
        }
    }

    /// How it went, in one line.
    pub fn summary(&self) -> String {
        let judged = format!("{} in {}", count(self.objects, "object", "objects"), count(self.classes, "class", "classes"));
        let faults = match self.count(Severity::Error) {
            0 => "no fault".to_owned(),
            faults => count(faults, "fault", "faults"),
        };
        match self.count(Severity::Warning) {
            0 => format!("{judged}: {faults}"),
            warnings => format!("{judged}: {faults}, {}", count(warnings, "warning", "warnings")),
        }
    }

    fn json(&self) -> Json {
        json!({
            "files": self.files,
            "classes": self.classes,
            "objects": self.objects,
            "faults": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "unreadable": self.unreadable,
            "findings": self.findings.iter().map(Finding::json).collect::<Vec<Json>>(),
        })
    }
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
