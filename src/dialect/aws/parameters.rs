//! The parameters of a class as a whole: which regions, which backends serve them, how the Pod logs in, and how files are named.

use std::collections::BTreeMap;

use crate::dialect::class::Class;
use crate::dialect::keys::{Keys, go_boolean};
use crate::model::{BackendName, Catalogue, Login, LoginKey, Unresolved, quoted};

const KNOWN: &[&str] = &["region", "failoverRegion", "pathTranslation", "usePodIdentity", "preferredAddressType", "objects", "dialect"];

pub(super) const KEYS: Keys = Keys {
    known: KNOWN,
    shown: KNOWN,
    later: &[],
    foreign: &[
        ("audience", "here `usePodIdentity` says how the Pod logs in, and the node's configuration says the rest"),
        ("awsRegion", "here it is `region`"),
        ("backend", "here `region` or the node's configuration chooses the backend"),
        ("fresh", "only classes in the native format have this key"),
        ("maxStale", "only classes in the native format have this key"),
        ("mode", "here each object has its `filePermission`"),
        ("role", "here the ServiceAccount's annotation or the node's configuration names it"),
        ("roleArn", "here the ServiceAccount's annotation or the node's configuration names it"),
    ],
    of_others: |_| None,
};

/// The peer's dialect, under the name that the catalogue has for it.
const DIALECT: &str = "aws";

/// The longest name of a region in bytes: AWS's names have at most 14.
const MAX_REGION: usize = 63;

/// The ways to log in, as in a backend's `auth.method`. The way decides the audience of the Pod's token.
const POD_IDENTITY: &str = "podIdentity";
const IRSA: &str = "irsa";

/// What a class says of all its objects.
pub(super) struct Entry {
    /// The region that the class names; `None`: the region of the node's backend.
    pub region: Option<String>,
    /// `None`: no backend could be chosen, and a fault says so.
    pub backend: Option<Chosen>,
    /// The class names a failover region, valid or not.
    pub has_failover: bool,
    pub failover: Option<Failover>,
    pub translation: Translation,
}

/// A backend, and how the class logs in there.
pub(super) struct Chosen {
    pub name: BackendName,
    /// The backend belongs to the region that the class names.
    by_region: bool,
    pub login: Login,
}

/// Where Keyferry asks for an object if the object's region is out.
pub(super) struct Failover {
    pub region: String,
    pub backend: Chosen,
}

/// What happens to each `/` in the name of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Translation {
    /// It stays; at the start it is cut off.
    Off,
    To(char),
}

// === impl Entry ===

impl Entry {
    pub(super) fn read(parameters: &BTreeMap<String, String>, catalogue: &dyn Catalogue, class: &mut Class<'_>) -> Self {
        class.login_words = login_words();
        let region = class.parsed(parameters, "region", region);
        let failover = class.parsed(parameters, "failoverRegion", self::region);
        let translation = class.parsed(parameters, "pathTranslation", translation).unwrap_or(Translation::To('_'));
        let method = class.parsed(parameters, "usePodIdentity", go_boolean).map(|said| if said { POD_IDENTITY } else { IRSA });
        warn_of_address_type(parameters, class);
        let says = |key: &str| parameters.get(key).is_some_and(|text| !text.is_empty());
        if failover.is_some() && failover == region {
            class.fault("failoverRegion", "is the same as `region` (write another region, or remove it)");
        }
        let mut choose = |key: &'static str, region: Option<&str>| choose(key, region, method, catalogue, class);
        // A faulty region says nothing about the backend.
        let backend = if says("region") && region.is_none() { None } else { choose("region", region.as_deref()) };
        let failover = failover.filter(|failover| Some(failover) != region.as_ref());
        let failover = failover.and_then(|region| Some(Failover { backend: choose("failoverRegion", Some(&region))?, region }));
        let (backend, failover) = distinct(backend, failover, class);
        Self { region, backend, has_failover: says("failoverRegion"), failover, translation }
    }
}

/// If the class names no region, its failover region may be the region of the node's backend.
fn distinct(backend: Option<Chosen>, failover: Option<Failover>, class: &mut Class<'_>) -> (Option<Chosen>, Option<Failover>) {
    let same = |one: &Chosen, other: &Chosen| other.by_region && one.name == other.name;
    let is_same = backend.as_ref().zip(failover.as_ref()).is_some_and(|(one, other)| same(one, &other.backend));
    if is_same {
        class.fault("failoverRegion", "is the region of the node's backend itself (write another region, or remove it)");
    }
    (backend, failover.filter(|_| !is_same))
}

fn choose(
    key: &'static str,
    region: Option<&str>,
    method: Option<&str>,
    catalogue: &dyn Catalogue,
    class: &mut Class<'_>,
) -> Option<Chosen> {
    let key_at_fault = if region.is_some() { key } else { "dialect" };
    // A class without `usePodIdentity` means IRSA. It also accepts the other way, if the node has only that.
    match catalogue.serving(DIALECT, region, method.or(Some(IRSA))) {
        Ok(serving) => {
            let login = Login { mount: method.map(str::to_owned), ..Login::default() };
            Some(Chosen { name: serving.backend, by_region: serving.by_address, login })
        }
        Err(Unresolved::Backend(problem) | Unresolved::NoLogin { problem, .. }) => {
            class.fault(key_at_fault, problem);
            None
        }
        Err(other) => {
            class.fault(key_at_fault, other.to_string());
            None
        }
    }
}

/// The names that this dialect has for the parts of a login.
fn login_words() -> BTreeMap<LoginKey, String> {
    let words = [(LoginKey::Address, "region"), (LoginKey::Mount, "usePodIdentity")];
    words.map(|(key, word)| (key, word.to_owned())).into()
}

fn warn_of_address_type(parameters: &BTreeMap<String, String>, class: &mut Class<'_>) {
    let Some(text) = parameters.get("preferredAddressType").map(|text| text.trim()).filter(|text| !text.is_empty()) else { return };
    match text.to_ascii_lowercase().as_str() {
        "auto" => {}
        "ipv4" | "ipv6" => class.warn(
            None,
            "preferredAddressType",
            "is not used: the node's configuration has the address of the agent of EKS Pod Identity (remove it if the class is only for \
             Keyferry)",
        ),
        _ => class.warn(
            None,
            "preferredAddressType",
            format!("{} is not one of ipv4, ipv6 and auto, so it is not used (correct it)", quoted(text)),
        ),
    }
}

fn region(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.len() <= MAX_REGION && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not a region (write its code, such as eu-west-1)", quoted(text)))
}

// === impl Translation ===

impl Translation {
    pub(super) fn apply(self, name: &str) -> String {
        match self {
            Self::Off => name.trim_start_matches('/').to_owned(),
            Self::To(character) => name.replace('/', character.encode_utf8(&mut [0; 4])),
        }
    }
}

fn translation(text: &str) -> Result<Translation, String> {
    if text.eq_ignore_ascii_case("false") {
        return Ok(Translation::Off);
    }
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some('/'), None) => Err("\"/\" would change nothing (write \"False\" to keep each `/`)".to_owned()),
        (Some(one), None) if one.is_ascii() && !one.is_ascii_control() => Ok(Translation::To(one)),
        _ => Err(format!("{} is not one ASCII character (write one, such as \"_\", or \"False\" to keep each `/`)", quoted(text))),
    }
}
