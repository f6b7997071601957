//! The notes of Events about a volume, at its Pod.
//!
//! The note of a failure is the mount's message, which `kubectl describe pod` shows anyway. The other notes have a class's name and times.

use jiff::Timestamp;
use tokio::time::Duration;

use super::live::Whose;
use super::troubles::Change;
use super::{MountError, Pipeline};
use crate::events::{Reason, Said};
use crate::model::quoted;
use crate::telemetry::EventOutcome;

impl Pipeline {
    /// Puts it on the board, if Events are sent and there is a place for it.
    pub(super) fn notice(&self, whose: &Whose, change: Change, error: Option<&MountError>, now: Timestamp) -> Option<Said> {
        self.teller.as_ref()?;
        let note = || note(whose, change, error);
        let said = self.commons.board.put(&whose.pod, reason(change), now, note);
        if said.is_none() {
            self.metrics.event(EventOutcome::Dropped);
        }
        said
    }
}

fn reason(change: Change) -> Reason {
    match change {
        Change::Recovered { .. } => Reason::RotationRecovered,
        Change::RotationFailing => Reason::RotationFailing,
        Change::StaleReplaced => Reason::StaleReplaced,
        Change::StartedStale(_) => Reason::StartedStale,
    }
}

fn note(whose: &Whose, change: Change, error: Option<&MountError>) -> String {
    let class = quoted(whose.class.as_deref().unwrap_or_default());
    match change {
        Change::Recovered { after } => {
            format!("class {class}: Keyferry delivers its secrets again, after {}", shown(after))
        }
        Change::RotationFailing => error.map(ToString::to_string).unwrap_or_default(),
        Change::StaleReplaced => {
            format!("class {class}: the store answers again, and the Pod's files have what it says now")
        }
        Change::StartedStale(stale) => format!(
            "class {class}: the store is out, so the Pod started with secrets that the store gave up to {} ago (they may have changed \
             since; Keyferry replaces them when the store answers again)",
            shown(stale.age())
        ),
    }
}

/// In whole units, for people.
fn shown(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::ended::Stale;
    use super::*;
    use crate::model::PodClaims;

    #[test]
    fn notes_say_what_a_user_of_the_pod_should_know() {
        let pod = PodClaims { namespace: "shop".into(), name: "web-0".into(), uid: "u".into(), service_account: "web".into() };
        let whose = Whose { pod: Arc::new(pod), class: Some("database".into()), target: "/secret/path/of/the/node".into() };
        let stale = |age| Change::StartedStale(Stale::with(None, age, Duration::from_hours(24)));
        let error = MountError::Internal;
        insta::assert_snapshot!(note(&whose, stale(Duration::from_secs(119)), None), @r#"class "database": the store is out, so the Pod started with secrets that the store gave up to 119 s ago (they may have changed since; Keyferry replaces them when the store answers again)"#);
        insta::assert_snapshot!(note(&whose, Change::StaleReplaced, None), @r#"class "database": the store answers again, and the Pod's files have what it says now"#);
        insta::assert_snapshot!(note(&whose, Change::Recovered { after: Duration::from_mins(12) }, None), @r#"class "database": Keyferry delivers its secrets again, after 12 min"#);
        insta::assert_snapshot!(note(&whose, Change::RotationFailing, Some(&error)), @"Internal: a bug in the provider; this mount alone is affected (its log names the place in the code; please report it)");
        assert_eq!([119, 120, 7_199, 7_200].map(|seconds| shown(Duration::from_secs(seconds))), ["119 s", "2 min", "119 min", "2 h"]);
    }
}
