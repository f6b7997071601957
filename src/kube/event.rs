//! Events on Pods (`Event` of events.k8s.io/v1, <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>): what
//! `kubectl describe pod` shows below the Pod.
//!
//! A repeated Event is the same object: its `series` says how often it happened, and when last. The API server allows no other change of an
//! Event (kubernetes/pkg/apis/core/validation/events.go).

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::{KubeClient, KubeError};
use crate::http::escape_element;
use crate::model::{PodClaims, SecretBytes};

/// The longest note in bytes (`NoteLengthLimit` there).
pub const MAX_NOTE: usize = 1024;

/// The longest name of the sender, in bytes (`ReportingInstanceLengthLimit` there).
const MAX_INSTANCE: usize = 128;

/// What the daemon needs after a 403.
const RIGHT: &str = "the daemon's ServiceAccount needs a ClusterRole with the verbs `create` and `patch` on events of events.k8s.io, and a \
                     ClusterRoleBinding to it: deploy/manifests/components/events has both";

/// The sender of Events, in `reportingController`.
const CONTROLLER: &str = "keyferry";

/// One Event.
#[derive(Clone, Copy, Debug)]
pub struct PodEvent<'e> {
    /// Its name: if an Event with this name exists, it is repeated.
    pub name: &'e str,
    pub pod: &'e PodClaims,
    /// One word, as in `FailedMount`.
    pub reason: &'e str,
    /// What Keyferry was doing, in the same form.
    pub action: &'e str,
    pub is_warning: bool,
    /// For people. A note of more than [`MAX_NOTE`] bytes is cut.
    pub note: &'e str,
    pub at: Timestamp,
    /// Which daemon sends it.
    pub instance: &'e str,
}

/// Why it was not sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EventError {
    /// The namespace is gone or is being removed, so nobody can look at the Event.
    Gone,
    /// The API server cannot be asked now, or refuses calls now.
    Passing(KubeError),
    /// The daemon has no right to do that.
    Refused(KubeError),
    /// The API server does not accept such an Event.
    Wrong(KubeError),
}

impl KubeClient {
    /// Sends an Event; an Event with this name that already exists is repeated.
    ///
    /// # Errors
    /// It was not sent.
    pub async fn tell(&self, event: &PodEvent<'_>) -> Result<(), EventError> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", escape_element(&event.pod.namespace));
        match self.ask(Method::POST, &path, &event.body().to_string()).await? {
            Asked::Done(_) => Ok(()),
            Asked::Exists => self.tell_again(&format!("{path}/{}", event.name), event.at).await,
        }
    }

    /// A patch that changes nothing shows how often it happened: so no right to read is needed, and a restart keeps the count.
    async fn tell_again(&self, path: &str, at: Timestamp) -> Result<(), EventError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Told {
            series: Option<Series>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Series {
            count: i32,
        }
        let told = match self.ask(Method::PATCH, path, "{}").await? {
            Asked::Done(answer) => serde_json::from_slice::<Told>(answer.body().expose()).unwrap_or_default(),
            Asked::Exists => Told::default(),
        };
        let count = told.series.unwrap_or_default().count.max(1).saturating_add(1);
        let series = json!({ "series": { "count": count, "lastObservedTime": micro_time(at) } });
        self.ask(Method::PATCH, path, &series.to_string()).await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> Result<Asked, EventError> {
        let call = self.name_of(&method, path);
        let answer = self.exchange(method, path, Bytes::copy_from_slice(body.as_bytes())).await.map_err(EventError::Passing)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Asked::Done(answer));
        }
        if status == StatusCode::CONFLICT {
            return Ok(Asked::Exists);
        }
        // If the namespace is being removed, no right is missing.
        if status == StatusCode::NOT_FOUND || (status == StatusCode::FORBIDDEN && is_terminating(answer.body())) {
            return Err(EventError::Gone);
        }
        let why = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => EventError::Refused,
            StatusCode::TOO_MANY_REQUESTS => EventError::Passing,
            status if status.is_server_error() => EventError::Passing,
            _ => EventError::Wrong,
        };
        let problem = self.body(answer, RIGHT);
        let (problem, remedy) = problem.err().unwrap_or_default();
        Err(why(KubeError { call, problem, remedy }))
    }
}

/// The result of a call that was not refused.
enum Asked {
    Done(Response<SecretBytes>),
    /// There is already one with this name.
    Exists,
}

/// Whether a 403 (`Status`) says that the namespace is being removed: the cause `NamespaceTerminating` (k8s.io/api/core/v1).
fn is_terminating(answer: &SecretBytes) -> bool {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        details: Details,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Details {
        causes: Vec<Cause>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Cause {
        reason: String,
    }
    let status = serde_json::from_slice::<Status>(answer.expose()).unwrap_or_default();
    status.details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// `MicroTime` has exactly six digits: its reader accepts no other number.
fn micro_time(at: Timestamp) -> String {
    format!("{at:.6}")
}

// === impl PodEvent ===

impl PodEvent<'_> {
    fn body(&self) -> serde_json::Value {
        let PodClaims { namespace, name, uid, service_account: _ } = self.pod;
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": { "name": self.name, "namespace": namespace },
            "eventTime": micro_time(self.at),
            "reportingController": CONTROLLER,
            "reportingInstance": &self.instance[..self.instance.floor_char_boundary(MAX_INSTANCE)],
            "action": self.action,
            "reason": self.reason,
            "regarding": { "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid },
            "type": if self.is_warning { "Warning" } else { "Normal" },
            "note": cut(self.note),
        })
    }
}

fn cut(note: &str) -> String {
    const MORE: &str = "...";
    if note.len() <= MAX_NOTE {
        return note.to_owned();
    }
    note[..note.floor_char_boundary(MAX_NOTE - MORE.len())].to_owned() + MORE
}

#[cfg(test)]
mod tests;
