//! The lines as they are written: each a JSON object of at most [`LINE`] bytes.

use std::io::{self, Write};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::event::{self, Event, Outcome};
use crate::model::{Code, PodClaims, RequestId, Tenant};

/// The most bytes of a line, with its end.
pub(super) const LINE: usize = 64 * 1024;

/// The part of a line after the objects: `],"more":...,"repeats":...}` and the end, with the largest numbers.
const TAIL: usize = 80;

/// The version of the lines' format (`schemas/audit.json`). A new field does not change it; no field changes its meaning or is removed.
const VERSION: u8 = 1;

/// A line's first field, and the others.
#[derive(Serialize)]
struct Versioned<'s, T: Serialize> {
    v: u8,
    #[serde(flatten)]
    said: &'s T,
}

/// Mounts that said the same as the one before them: whose mounts, how many, and the newest of them.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Count {
    #[serde(skip)]
    pub(super) tenant: Tenant,
    pub(super) time: Timestamp,
    pub(super) event: &'static str,
    #[serde(serialize_with = "event::display")]
    pub(super) request: RequestId,
    pub(super) outcome: Outcome,
    #[serde(serialize_with = "event::code", skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<Code>,
    #[serde(flatten)]
    pub(super) whose: Whose,
    pub(super) verified: bool,
    pub(super) milliseconds: f64,
    /// None: they are in the line that this one repeats.
    pub(super) objects: [(); 0],
    pub(super) repeats: u64,
    /// The request of the line that has the rest.
    #[serde(serialize_with = "event::display")]
    pub(super) repeat_of: RequestId,
}

/// The volume that a [`Count`] is for.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Whose {
    /// Where Keyferry knows only this much.
    Namespace {
        #[serde(serialize_with = "event::display")]
        namespace: Tenant,
    },
    Volume {
        provider: Arc<str>,
        #[serde(flatten, serialize_with = "event::pod")]
        pod: Option<Arc<PodClaims>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        class: Option<Arc<str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        target: Option<Arc<str>>,
    },
}

/// Lines of a namespace that were not written.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LeftOut {
    /// The time of the newest.
    pub(super) time: Timestamp,
    pub(super) event: &'static str,
    /// Empty: for requests that could not be read.
    #[serde(serialize_with = "event::display")]
    pub(super) namespace: Tenant,
    pub(super) lines: u64,
    /// How many of these lines were for mounts that delivered.
    pub(super) delivered: u64,
}

/// The line of a mount, with the number of mounts since the one before it that said the same. Objects for which the line has no room are
/// counted.
pub(super) fn of_event(event: &Event, repeats: u64) -> io::Result<Vec<u8>> {
    let mut line = versioned(event)?;
    // The closing brace of the event.
    line.pop();
    line.extend_from_slice(br#","objects":["#);
    let mut shown = 0;
    for object in &event.objects {
        let end = line.len();
        if shown > 0 {
            line.push(b',');
        }
        serde_json::to_writer(&mut line, object)?;
        if line.len() + TAIL > LINE {
            line.truncate(end);
            break;
        }
        shown += 1;
    }
    line.push(b']');
    for (name, number) in [("more", (event.more + event.objects.len() - shown) as u64), ("repeats", repeats)] {
        if number > 0 {
            write!(line, r#","{name}":{number}"#)?;
        }
    }
    line.extend_from_slice(b"}\n");
    Ok(line)
}

pub(super) fn of(said: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = versioned(said)?;
    line.push(b'\n');
    Ok(line)
}

fn versioned(said: &impl Serialize) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Versioned { v: VERSION, said })?)
}
