//! Parses the server's answer. It copies only what Keyferry delivers, and it rounds no number.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;
use tokio::time::Duration;

use super::fault::Refusal;
use crate::backend::Fault;
use crate::backend::remote::fields::{self, Members, is_object, members};
use crate::model::{Field, FieldName, SecretBytes, SecretName, Version};
use crate::text;

/// The members that every answer may have. `null` means the same as absent.
#[derive(Deserialize)]
pub(super) struct Answer<'a> {
    #[serde(borrow, default)]
    pub(super) lease_id: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) lease_duration: Option<u64>,
    #[serde(default)]
    pub(super) renewable: Option<bool>,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) warnings: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) auth: Option<AuthAnswer>,
    #[serde(borrow, default)]
    pub(super) wrap_info: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) mount_type: Option<&'a RawValue>,
    /// The store says why it refuses.
    #[serde(borrow, default)]
    errors: Option<&'a RawValue>,
}

/// What a login gives.
#[derive(Deserialize)]
pub(super) struct AuthAnswer {
    #[serde(default)]
    pub(super) client_token: zeroize::Zeroizing<String>,
    #[serde(default)]
    pub(super) accessor: String,
    /// Seconds; 0: it never ends.
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
    #[serde(default)]
    pub(super) mfa_requirement: Option<serde::de::IgnoredAny>,
    /// How often it may be used; 0: without a limit.
    #[serde(default)]
    pub(super) num_uses: i64,
}

/// The lease of a credential: its id, and how long it lasts.
pub(super) struct Issued {
    pub(super) id: SecretBytes,
    pub(super) renewable: bool,
    pub(super) lasts: Duration,
}

/// The metadata that KV v2 sends with a version. It always has all of these members, and more.
#[derive(Deserialize)]
pub(super) struct Metadata {
    #[serde(rename = "created_time")]
    _created_time: String,
    /// Empty: it was not deleted.
    deletion_time: String,
    destroyed: bool,
    version: u64,
}

// === impl Answer ===

impl<'a> Answer<'a> {
    /// # Errors
    /// The body is not an answer of the store's API.
    pub(super) fn parse(body: &'a SecretBytes) -> Result<Self, Refusal> {
        let json = text::without_mark(body.expose()).map_err(|fault| {
            let reason = format!("the answer is {}, and JSON is UTF-8 (is the address that of Vault or OpenBao itself?)", fault.encoding());
            Refusal::new(Fault::Corrupt, reason)
        })?;
        let not_json = |error: serde_json::Error| {
            if error.classify() == Category::Data {
                let reason = format!("the answer is JSON, but {} (is the address that of Vault or OpenBao itself?)", misshapen(json));
                return Refusal::new(Fault::Corrupt, reason);
            }
            let reason = format!(
                "the answer is not JSON of the store's API: it is wrong at line {}, column {} (is the address that of Vault or OpenBao itself? \
                 a path that answers raw bytes, such as pki/ca/pem, has a twin that answers JSON: pki/cert/ca)",
                error.line(),
                error.column()
            );
            Refusal::new(Fault::Corrupt, reason)
        };
        if json.trim_ascii_start().starts_with(b"[") {
            return Err(Refusal::new(
                Fault::Corrupt,
                "the answer is a JSON list, and the store's API answers with objects (check the address)",
            ));
        }
        serde_json::from_slice(json).map_err(not_json)
    }

    /// The fields: those of KV v2's version, else the members of `data`.
    ///
    /// A secret of KV v1 may look much like an answer of KV v2. So the name decides first: KV v2 is read below `data/`, which comes after a
    /// mount. Then the metadata decides: a user would have to forge it member by member.
    ///
    /// # Errors
    /// There is nothing to deliver.
    pub(super) fn content(&self, name: &SecretName) -> Result<Content<'a>, Refusal> {
        // A login is not a secret, whatever comes with it.
        let Some(data) = self.data.filter(|_| self.auth.is_none()) else { return Err(self.without_data()) };
        // Keyferry cannot revoke a lease without its id. And it may deliver the whole answer as it is.
        let around = [self.lease_id, self.warnings, self.wrap_info, self.mount_type];
        if around.into_iter().flatten().any(|part| fields::has_half(part.get())) {
            return Err(fields::half("the answer"));
        }
        let Some(members) = members(data)? else {
            return Err(Refusal::new(Fault::Unsupported, "the answer's data is not an object of fields (Keyferry cannot deliver it)"));
        };
        let metadata = if is_below_data(name) { Metadata::of(&members) } else { None };
        match (members.get("data").copied(), metadata) {
            (Some(inner), Some(metadata)) if is_object(inner) => {
                Ok(Content { members: fields::members(inner)?.unwrap_or_default(), version: Some(metadata.version) })
            }
            (Some(inner), Some(metadata)) if inner.get() == "null" => Err(Refusal::new(Fault::NotFound, metadata.absence(None))),
            _ => Ok(Content { members, version: None }),
        }
    }

    /// The metadata of a version of KV v2 that has no content any more.
    pub(super) fn metadata(&self) -> Option<Metadata> {
        Metadata::of(&members(self.data?).ok()??)
    }

    pub(super) fn warnings(&self) -> Option<&'a str> {
        self.warnings.map(RawValue::get)
    }

    fn without_data(&self) -> Refusal {
        let refusal = |fault, reason: &str| Refusal::new(fault, reason);
        match () {
            () if self.wrap_info.is_some() => refusal(
                Fault::Denied,
                "the answer is wrapped, and Keyferry did not ask for that: a control group needs others to authorise the request first \
                 (a mount cannot wait for that: take the path out of the control group)",
            ),
            () if self.auth.is_some() => refusal(
                Fault::Unsupported,
                "the answer is a login with a store token in `auth`, not a secret (only Keyferry logs in to the store)",
            ),
            () if self.errors.is_some() => refusal(Fault::Unhelpful, "the store answered 200 with errors (see its log)"),
            () => refusal(Fault::NotFound, "the answer has no data (does the path return anything?)"),
        }
    }

    /// The lease of a credential; `None`: the answer has none.
    pub(super) fn issued(&self) -> Option<Issued> {
        let id = fields::text(self.lease_id?)?;
        let lasts = Duration::from_secs(self.lease_duration.unwrap_or(0));
        (!id.is_empty()).then(|| Issued { id, renewable: self.renewable.unwrap_or(false), lasts })
    }

    /// When a certificate without a lease ends, such as those from PKI's `issue` and `sign`: the answer's `expiration`, or else the
    /// certificate's NotAfter. For a signed SSH key, only the certificate says it.
    pub(super) fn expiration(&self) -> Option<Timestamp> {
        let data = members(self.data?).ok()??;
        if let Some(signed) = data.get("signed_key") {
            return super::ssh::valid_before(str::from_utf8(fields::text(signed)?.expose()).ok()?);
        }
        let certificate = data.get("certificate")?;
        let told = data.get("expiration").and_then(|expiration| expiration.get().parse().ok());
        Timestamp::from_second(told.or_else(|| not_after(&fields::text(certificate)?))?).ok()
    }

    /// The whole answer with these `warnings`, as vault-csi-provider writes it: the members and their order are those of `api.Secret` in
    /// Vault's Go client. `request_id` is left out: it would change the file at each poll.
    pub(super) fn response(&self, warnings: Option<&str>) -> SecretBytes {
        let raw = |value: Option<&'a RawValue>| value.map_or("null", RawValue::get);
        let lease_id = self.lease_id.map_or("\"\"", RawValue::get);
        let (duration, renewable) = (self.lease_duration.unwrap_or(0), self.renewable.unwrap_or(false));
        let head = format!("\"lease_id\":{lease_id},\"lease_duration\":{duration},\"renewable\":{renewable}");
        let rest = [("wrap_info", self.wrap_info), ("mount_type", self.mount_type)];
        let rest: String = rest.iter().filter_map(|(name, value)| Some(format!(",\"{name}\":{}", (*value)?.get()))).collect();
        let (data, warnings) = (raw(self.data), warnings.unwrap_or("null"));
        let parts = ["{", &head, ",\"data\":", data, ",\"warnings\":", warnings, &rest, "}"];
        let mut response = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            response.extend_from_slice(part.as_bytes());
        }
        SecretBytes::new(response)
    }
}

/// Which part of an answer is not as the API writes it. The values are not shown: they may be secrets.
fn misshapen(json: &[u8]) -> String {
    type Fits = fn(&str) -> bool;
    fn object(json: &str) -> Option<BTreeMap<String, &RawValue>> {
        serde_json::from_str(json).ok().filter(|_| json.trim_ascii().starts_with('{'))
    }
    let is_number: Fits = |json| serde_json::from_str::<Option<u64>>(json).is_ok();
    let is_count: Fits = |json| serde_json::from_str::<Option<i64>>(json).is_ok();
    let is_boolean: Fits = |json| serde_json::from_str::<Option<bool>>(json).is_ok();
    let is_text: Fits = |json| json.starts_with('"') || json == "null";
    let around: [(&str, Fits, &str); 3] = [
        ("lease_duration", is_number, "a whole number"),
        ("renewable", is_boolean, "true or false"),
        ("auth", |json| json.starts_with('{') || json == "null", "an object"),
    ];
    let of_login: [(&str, Fits, &str); 5] = [
        ("client_token", is_text, "a text"),
        ("accessor", is_text, "a text"),
        ("lease_duration", is_number, "a whole number"),
        ("renewable", is_boolean, "true or false"),
        ("num_uses", is_count, "a whole number"),
    ];
    let wrong = |members: &BTreeMap<String, &RawValue>, known: &[(&str, Fits, &str)], before: &str| {
        let wrong = known.iter().find(|(name, fits, _)| members.get(*name).is_some_and(|value| !fits(value.get())));
        wrong.map(|(name, _, right)| format!("its `{before}{name}` is not {right}"))
    };
    let Some(members) = str::from_utf8(json).ok().and_then(object) else { return "not an object".to_owned() };
    let inner = || wrong(&object(members.get("auth")?.get())?, &of_login, "auth.");
    wrong(&members, &around, "").or_else(inner).unwrap_or_else(|| "not as the store's API writes it".to_owned())
}

/// The fields of an answer, still as JSON.
pub(super) struct Content<'a> {
    members: Members<'a>,
    version: Option<u64>,
}

impl Content<'_> {
    pub(super) fn version(&self) -> Option<Version> {
        self.version.map(|version| Version::new(version.to_string()))
    }

    /// As [`fields::fields`].
    pub(super) fn fields(self, max_bytes: usize) -> Result<BTreeMap<FieldName, Field>, Refusal> {
        fields::fields(&self.members, max_bytes)
    }
}

/// Whether it could be a secret of KV v2: `<mount>/data/<path>`, the mount of any length.
fn is_below_data(name: &SecretName) -> bool {
    name.as_str().split('/').skip(1).any(|element| element == "data")
}

/// In Unix seconds.
fn not_after(pem: &SecretBytes) -> Option<i64> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.expose()).ok()?;
    Some(pem.parse_x509().ok()?.validity().not_after.timestamp())
}

// === impl Metadata ===

impl Metadata {
    fn of(data: &Members<'_>) -> Option<Self> {
        // serde would read a list as the members in turn.
        let metadata = data.get("metadata").map(|value| value.get()).filter(|text| text.starts_with('{'))?;
        serde_json::from_str(metadata).ok()
    }

    /// Why a version has no content. `pinned`: the class asked for it by number.
    pub(super) fn absence(&self, pinned: Option<&str>) -> String {
        let version = format!("version {}", self.version);
        let latest = if pinned.is_none() { ", the latest," } else { "" };
        match self.deletion_time.as_str() {
            _ if self.destroyed => {
                format!("{version}{latest} is destroyed: its content is gone for good (write it again, or pin another version)")
            }
            "" => format!("{version}{latest} has no content (write it again, or pin another version)"),
            time => {
                // A text that is not a time is the store's own words: Keyferry does not repeat it.
                let at = time.parse::<Timestamp>().map_or_else(|_| String::new(), |time| format!(" at {time:.0}"));
                format!("{version}{latest} was deleted{at} (undelete it, write it again, or pin another version)")
            }
        }
    }
}

#[cfg(test)]
mod tests;
