//! Logs, by `tracing`, to standard error: standard output is for the audit lines.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;

use super::Outlet;
use crate::yaml::{Faults, Reader};

/// The mapping under `log`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogConfig {
    pub format: LogFormat,
    pub level: LevelFilter,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    Json,
    Text,
}

impl LogConfig {
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Self {
        let default = Self::default();
        let format = reader.parsed("format", faults, |text| match text {
            "json" => Ok(LogFormat::Json),
            "text" => Ok(LogFormat::Text),
            _ => Err(format!("{text:?} is not a log format (write json or text)")),
        });
        let level = reader.parsed("level", faults, |text| match text {
            "error" => Ok(LevelFilter::ERROR),
            "warn" => Ok(LevelFilter::WARN),
            "info" => Ok(LevelFilter::INFO),
            "debug" => Ok(LevelFilter::DEBUG),
            "trace" => Ok(LevelFilter::TRACE),
            _ => Err(format!("{text:?} is not a log level (write error, warn, info, debug or trace)")),
        });
        Self { format: format.unwrap_or(default.format), level: level.unwrap_or(default.level) }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: LevelFilter::INFO }
    }
}

/// Starts logging: the caller's thread makes the text of an event, and the outlet's thread writes it. Only our own events are logged: a
/// library's debug output could have secrets that it was given.
pub fn start(config: LogConfig, outlet: &Outlet) {
    let ours = tracing_subscriber::filter::Targets::new().with_target("keyferry", config.level);
    let registry = tracing_subscriber::registry().with(ours);
    let outlet = outlet.clone();
    let layer = tracing_subscriber::fmt::layer().log_internal_errors(false).with_writer(move || outlet.clone());
    // An earlier start (several daemons in one test process) stays in force.
    let _ = match config.format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(layer.with_ansi(shows_colours(&io::stderr()))).try_init(),
    };
    report_panics_without_their_words();
}

/// Whether a stream is a terminal that shows colours, and the user allows them (<https://no-color.org>).
pub fn shows_colours(stream: &impl IsTerminal) -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    stream.is_terminal() && wanted && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A panic's message may contain anything; its place is enough to find the bug.
fn report_panics_without_their_words() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a bug: the code panicked (the message is withheld, it could hold a secret)");
    }));
}
