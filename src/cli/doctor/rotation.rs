//! The driver's rotation poll interval. It matters for a Pod whose first mount got no answer.
//!
//! From v1.6.0 on, the driver skips a mount if its folder is younger than the interval. It then answers that the mount succeeded, with nothing in
//! the folder (`NodePublishVolume` in pkg/secrets-store/nodeserver.go). With an interval of 0 it never skips a mount.

use std::fs;
use std::path::Path;

use super::process;
use crate::model::{Diagnosis, clean};

const WHAT: &str = "driver: rotation poll interval";

/// The driver's default, if its command line has no value.
const DEFAULT: &str = "2m (the driver's default)";

/// Reads the command line of the driver that listens at this socket.
pub(super) async fn examine(socket: &Path, version: &str) -> Diagnosis {
    match process::pid(socket).await.and_then(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok()) {
        Some(line) => judge(version, &String::from_utf8_lossy(&line).split('\0').collect::<Vec<_>>()),
        None => not_known("the doctor does not see the driver's process"),
    }
}

/// If the driver's process cannot be seen: how an admin finds the value.
pub(super) fn not_known(why: &str) -> Diagnosis {
    let look = "with driver 1.6.0 and later it must be 0s: kubectl get daemonsets -A -o yaml | grep rotation-poll-interval; docs/errors.md says why";
    Diagnosis::warn(WHAT, format!("not known: {why}"), look)
}

pub(super) fn judge(version: &str, arguments: &[&str]) -> Diagnosis {
    if !is_on(arguments) {
        return Diagnosis::ok(WHAT, "rotation is off, so the driver skips no mount");
    }
    let interval = last(arguments, "rotation-poll-interval").map_or_else(|| DEFAULT.to_owned(), clean);
    if is_before_1_6(version) {
        return Diagnosis::ok(WHAT, format!("is {interval}: drivers before 1.6.0 use it only for a loop, and skip no mount"));
    }
    if is_nothing(&interval) {
        return Diagnosis::ok(WHAT, format!("is {interval}, so the driver skips no mount"));
    }
    let why = format!(
        "is {interval}: if a Pod's first mount gets no answer, the driver may skip the next try, and the Pod starts with an empty folder"
    );
    Diagnosis::warn(
        WHAT,
        why,
        "set rotationPollInterval: 0s in the values of the driver's chart (--rotation-poll-interval=0s); docs/errors.md says why",
    )
}

/// A switch of Go's `flag` package: the name without a value also means true.
fn is_on(arguments: &[&str]) -> bool {
    let of_name = |argument: &&&str| named(argument).is_some_and(|(name, _)| name == "enable-secret-rotation");
    let value = arguments.iter().rev().find(of_name).and_then(|argument| named(argument));
    value.is_some_and(|(_, value)| value.is_none_or(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")))
}

/// The value of a flag that has one, as `--name=value` or in the next argument. The last one counts.
fn last<'a>(arguments: &[&'a str], name: &str) -> Option<&'a str> {
    arguments.iter().enumerate().rev().find_map(|(at, argument)| match named(argument)? {
        (found, value) if found == name => value.or_else(|| arguments.get(at + 1).copied()),
        _ => None,
    })
}

/// Splits a flag with one dash or with two.
fn named(argument: &str) -> Option<(&str, Option<&str>)> {
    let flag = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    Some(flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value))))
}

/// Whether a duration of Go, such as `1h2m0.5s`, is zero or less. The driver runs with it, so its form is right.
fn is_nothing(duration: &str) -> bool {
    duration.starts_with('-') || !duration.contains(|digit| ('1'..='9').contains(&digit))
}

/// A version that cannot be read counts as a new one.
fn is_before_1_6(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) < (1, 6),
        (_, _) => false,
    }
}
