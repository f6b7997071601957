//! Two requests of a class that create two things at one path, although the author may have meant one: a certificate, and the key of
//! another certificate.

use std::collections::HashMap;

use serde_json::Value;

use crate::model::{Args, Label, Object, SecretRef, Verb};

/// The warning, and its object: one for each further request. The work grows only with the class: arguments are looked at once.
pub(super) fn warnings(secrets: &[SecretRef], objects: &[Object]) -> Vec<(Label, String)> {
    let mut firsts: HashMap<(&str, &str), First<'_>> = HashMap::new();
    let mut asking: HashMap<usize, &Object> = HashMap::with_capacity(objects.len());
    for object in objects {
        for place in object.secrets() {
            asking.entry(place).or_insert(object);
        }
    }
    let mut warnings = Vec::new();
    for (index, secret) in secrets.iter().enumerate().filter(|(_, secret)| secret.verb() == Verb::Update) {
        let Some(object) = asking.get(&index) else { continue };
        let request = (secret.backend.as_str(), secret.name.as_str());
        let first = firsts.entry(request).or_insert_with(|| First { secret, spelled: None, object: object.label() });
        let Some((both, remedy)) = first.difference(secret) else { continue };
        let problem = format!(
            "the store creates one thing for this object and another one for {}: both {both} ({remedy} if the two belong together, such as \
             a certificate and its key)",
            first.object
        );
        warnings.push((object.label(), problem));
    }
    warnings
}

/// The first request of its kind.
struct First<'s> {
    secret: &'s SecretRef,
    /// Its arguments without their spelling, once they were needed.
    spelled: Option<Value>,
    object: Label,
}

// === impl First ===

impl First<'_> {
    /// What both requests do, and a remedy. `None`: they are one request, or they log in differently, which the author means.
    fn difference(&mut self, other: &SecretRef) -> Option<(String, &'static str)> {
        let (method, name) = (other.method.as_str(), &other.name);
        if self.secret.login != other.login {
            None
        } else if self.secret.method != other.method {
            Some((format!("ask for {name}, with {} and with {method}", self.secret.method.as_str()), "write the same `method`"))
        } else if self.secret.args != other.args {
            let how = if self.is_spelled_as(&other.args) { "arguments that differ only in their spelling" } else { "different arguments" };
            Some((format!("send {method} {name}, with {how}"), "write the same arguments"))
        } else {
            let (lease, keep) = (self.secret.lease != other.lease, self.secret.keep != other.keep);
            let differs = |key: &str, remedy| (format!("send {method} {name}, with another `{key}`"), remedy);
            lease.then(|| differs("lease", "write the same `lease`")).or_else(|| keep.then(|| differs("keep", "write the same `keep`")))
        }
    }

    /// Whether other arguments are the same, if `3600` and `"3600"` count as equal.
    fn is_spelled_as(&mut self, other: &Args) -> bool {
        *self.spelled.get_or_insert_with(|| spelled(&self.secret.args)) == spelled(other)
    }
}

fn spelled(args: &Args) -> Value {
    as_texts(serde_json::from_str(&args.to_json()).unwrap_or_default())
}

fn as_texts(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(as_texts).collect(),
        Value::Bool(value) => Value::from(value.to_string()),
        Value::Null | Value::String(_) => value,
        Value::Number(value) => Value::from(value.to_string()),
        Value::Object(members) => Value::Object(members.into_iter().map(|(name, value)| (name, as_texts(value))).collect()),
    }
}
