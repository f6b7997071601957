//! What the server saw: its audit log, read back.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use serde_json::Value;

use super::Bao;

/// A request that the server answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// `create`, `delete`, `list`, `read`, `update`, ...: `POST` to a login is an `update`.
    pub operation: String,
    /// Below `/v1/`, without the namespace: `kv/data/shop/db`.
    pub path: String,
    /// Without its last slash; empty: the root namespace.
    pub namespace: String,
    /// The accessor of the token that came with the request. For a login: of the token that it made.
    pub accessor: String,
    /// As the login made it, such as `jwt-system:serviceaccount:shop:web`; `root`; empty where there was no token.
    pub display_name: String,
    /// Why it was refused.
    pub error: Option<String>,
}

/// `update auth/jwt/login`, or `team-a: read kv/data/x`.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}: ", self.namespace)?;
        }
        write!(f, "{} {}", self.operation, self.path)
    }
}

impl Bao {
    /// The requests answered since this function was last called, in order, without those of the root token. A request is here before its answer
    /// goes out. What the server does not audit is not here: `sys/health` and similar calls, and what a quota or a seal refused.
    pub fn requests(&self) -> Vec<Request> {
        let mut told = self.server.told.lock().unwrap();
        let text = fs::read_to_string(self.server.path("audit.jsonl")).unwrap_or_default();
        let lines: Vec<&str> = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
        let new = lines[*told..].iter().filter_map(|line| request(&serde_json::from_str(line).unwrap()));
        let new = new.filter(|request| request.display_name != "root").collect();
        *told = lines.len();
        new
    }

    /// [`Bao::requests`], counted: `{"read kv/data/a": 10, "update auth/jwt/login": 1}`.
    pub fn counted(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in self.requests() {
            *counts.entry(request.to_string()).or_default() += 1;
        }
        counts
    }
}

/// Each request has a line when it comes and one when it is answered. The second one knows more.
fn request(line: &Value) -> Option<Request> {
    let text = |pointer: &str| line.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let or = |first: String, second: String| if first.is_empty() { second } else { first };
    (line["type"] == "response").then(|| Request {
        operation: text("/request/operation"),
        path: text("/request/path"),
        namespace: text("/request/namespace/path").trim_end_matches('/').to_owned(),
        accessor: or(text("/auth/accessor"), text("/response/auth/accessor")),
        display_name: or(text("/auth/display_name"), text("/response/auth/display_name")),
        error: line.get("error").and_then(Value::as_str).map(str::to_owned),
    })
}
