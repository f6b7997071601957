//! All diagnoses, written for a person or a script.

use serde_json::{Value as Json, json};

use crate::cli::{Format, Shown};
use crate::model::{Diagnosis, Level};

/// What was found, in the order of the looks.
#[derive(Debug)]
pub struct Report(Vec<Diagnosis>);

impl Report {
    pub fn of(diagnoses: Vec<Diagnosis>) -> Self {
        Self(diagnoses)
    }

    pub fn extend(&mut self, more: Vec<Diagnosis>) {
        self.0.extend(more);
    }

    pub fn fails(&self) -> bool {
        self.count(Level::Fail) > 0
    }

    /// A JSON document, or one line per diagnosis: LEVEL WHAT: WHY (REMEDY). `quiet`: only what fails.
    pub fn show(&self, Shown { output, quiet }: Shown, colours: bool) -> String {
        let shown = || self.0.iter().filter(|one| !quiet || one.level == Level::Fail);
        match output {
            Format::Json => format!("{:#}\n", self.json(shown())),
            Format::Text => {
                let mut text: String = shown().map(|one| line(one, colours)).collect();
                if !self.fails() && !quiet {
                    text.push_str(&self.summary());
                    text.push('\n');
                }
                text
            }
        }
    }

    /// The result, in one line.
    pub fn summary(&self) -> String {
        let (ok, warnings, failures) = (self.count(Level::Ok), self.count(Level::Warn), self.count(Level::Fail));
        let plural = if warnings == 1 { "warning" } else { "warnings" };
        format!("{ok} ok, {warnings} {plural}, {failures} failing")
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|diagnosis| diagnosis.level == level).count()
    }

    fn json<'a>(&self, shown: impl Iterator<Item = &'a Diagnosis>) -> Json {
        let diagnosis = |diagnosis: &Diagnosis| {
            json!({
                "level": diagnosis.level.as_str(),
                "what": diagnosis.what,
                "why": diagnosis.why,
                "remedy": (!diagnosis.remedy.is_empty()).then_some(&diagnosis.remedy),
            })
        };
        json!({
            "ok": self.count(Level::Ok),
            "warnings": self.count(Level::Warn),
            "failing": self.count(Level::Fail),
            "diagnoses": shown.map(diagnosis).collect::<Vec<Json>>(),
        })
    }
}

fn line(Diagnosis { level, what, why, remedy }: &Diagnosis, colours: bool) -> String {
    let word = format!("{:<4}", level.as_str());
    let word = if colours { format!("\u{1b}[{}m{word}\u{1b}[0m", colour(*level)) } else { word };
    let remedy = if remedy.is_empty() { String::new() } else { format!(" ({remedy})") };
    // A store's or a file's message may have several lines. Here it becomes one line.
    format!("{word} {}\n", format!("{what}: {why}{remedy}").replace(['\n', '\r'], " "))
}

/// Colours of ECMA-48, "SGR": green, yellow, red.
fn colour(level: Level) -> &'static str {
    match level {
        Level::Ok => "32",
        Level::Warn => "33",
        Level::Fail => "31",
    }
}
