//! A mount request, parsed from what the driver sends (`proto/provider.proto`).
//!
//! It is strict about what Keyferry relies on, and ignores unknown keys, since every driver adds some. All faults are found at once. No
//! fault quotes a value of `attributes` or `secrets` that may have a token. The claims are quoted, cut and escaped: they are in Kubernetes'
//! own records anyway. Keyferry keeps only the tokens of `secrets`: nothing uses the rest.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use self::json::{As, Member, not_json, read_object, read_object_as};
use self::parameters::Spelling;
use super::{Code, FaultList, FileMode, PodClaims, RawTokens, SecretBytes, quoted};

mod json;
mod parameters;

pub use parameters::Parameters;

const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
/// The start of most keys with a `/`.
const KUBELETS: &str = "csi.storage.k8s.io/";
const CLASS: &str = "secretProviderClass";
/// Most of a class is in this one.
const OBJECTS: &str = "objects";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// The longest path in bytes (Linux `PATH_MAX`).
const MAX_PATH: usize = 4096;

/// The longest name of a namespaced object (RFC 1123 subdomain), and of a namespace (RFC 1123 label), in bytes.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// The longest Pod uid in bytes: the API server's uids have 36, a static Pod's is a hash.
const MAX_UID: usize = 128;

/// The most audiences: each token costs a verification. If the CSIDriver object asks for none, a class can invent some.
const MAX_AUDIENCES: usize = 32;

/// The most bytes of the tokens' text: kubelet's is a few KiB for each audience.
const MAX_TOKENS: usize = 64 * 1024;

/// The most bytes of `secrets`: a Secret of Kubernetes has at most as many.
const MAX_SECRETS: usize = 1024 * 1024;

/// The most keys among the attributes: the driver and a class need about two dozen.
const MAX_KEYS: usize = 1024;

/// How many times longer a text can become as JSON: `\u0000` is one byte.
const ESCAPED: usize = 6;

/// The remedy if the call itself is wrong. A class cannot cause that: something other than the driver has called.
const STRINGS_REMEDY: &str = "the driver sends it; any other caller must send a JSON object of strings, each key once";
const TARGET_REMEDY: &str = "kubelet chooses it; any other caller must send the absolute path of this Pod's volume";

/// Kubelet's tokens are always right, but a class or a volume can replace them.
const TOKENS_REMEDY: &str = "kubelet sends it: take it out of the class's parameters and the volume's attributes";

/// The driver's call as it arrived. Attributes and secrets may have tokens: `Debug` shows neither.
pub struct MountCall {
    pub attributes: String,
    pub secrets: String,
    pub target_path: String,
    pub permission: String,
}

/// A request of which every part has been read. It borrows what it can from the call.
pub struct Request<'c> {
    /// Each can be put into a glob or a path without escapes: no `/`, no `*`, no control character, neither `.` nor `..`.
    pub claims: Arc<PodClaims>,
    /// The SecretProviderClass's name, if the driver sent it.
    pub class: Option<Arc<str>>,
    /// Whether the volume is written in the Pod's spec itself, if the driver sent this.
    pub ephemeral: Option<bool>,
    /// The class's parameters and the volume's attributes, merged by the driver. The keys with a `/` are not among them. They are
    /// kubelet's: the Pod's identity and its tokens.
    pub parameters: Parameters<'c>,
    /// From `secrets` if it has tokens (KEP-5538), else from `attributes`.
    pub tokens: RawTokens,
    pub permission: FileMode,
    pub target_path: Arc<str>,
}

/// One fault of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestFault {
    /// The faulty part: `attributes`, `secrets`, `permission`, `target_path`, or a key of the attributes.
    pub key: String,
    pub problem: String,
    pub code: Code,
}

// === impl Request ===

impl<'c> Request<'c> {
    /// Reads a call; `max_parameters` is the limit for the keys and values of the attributes together, in bytes, without the tokens.
    ///
    /// # Errors
    /// Every fault, in the order attributes, secrets, permission, target path.
    pub fn parse(call: &'c MountCall, max_parameters: usize) -> Result<Self, FaultList<RequestFault>> {
        let MountCall { attributes, secrets, target_path, permission } = call;
        let mut faults = Faults(FaultList::default());

        let attributes = Attributes::read(attributes, max_parameters, &mut faults);
        let claims = attributes.as_ref().and_then(|attributes| attributes.claims(&mut faults));
        let class = attributes.as_ref().and_then(|attributes| attributes.class(&mut faults));
        let ephemeral = attributes.as_ref().and_then(|attributes| attributes.ephemeral(&mut faults));
        let own = tokens_of_secrets(secrets, &mut faults);
        let tokens = tokens(own.as_deref(), attributes.as_ref().and_then(|a| a.tokens.as_deref()), &mut faults);
        let permission = file_mode(permission, &mut faults);
        check_target(target_path, claims.as_ref(), &mut faults);

        match (attributes, claims) {
            (Some(Attributes { parameters, .. }), Some(claims)) if faults.0.is_empty() => {
                let (claims, target_path) = (Arc::new(claims), target_path.as_str().into());
                Ok(Self { claims, class, ephemeral, parameters, tokens, permission, target_path })
            }
            _ => Err(faults.0),
        }
    }
}

/// The attributes as strings, with the tokens apart.
#[derive(Default)]
struct Attributes<'c> {
    /// They are the same for every Pod of a class, so that the class is parsed once for all Pods.
    parameters: Parameters<'c>,
    /// What kubelet says about the Pod: the keys with a `/`.
    kubelets: Parameters<'c>,
    /// When it is dropped, the allocator wipes it, as it does with all texts of the request.
    tokens: Option<Cow<'c, str>>,
}

struct Faults(FaultList<RequestFault>);

// === impl Attributes ===

impl<'c> Attributes<'c> {
    fn read(text: &'c str, max: usize, faults: &mut Faults) -> Option<Self> {
        const REMEDY: &str = "make the class or the volume's attributes smaller, or ask for a higher limits.classBytes";
        // Six characters are around a key and its value.
        let max_text = ESCAPED * (max + MAX_TOKENS + MAX_KEYS);
        if text.len() > max_text {
            faults.too_large("attributes", format!("{} bytes; at most {max_text} are read ({REMEDY})", text.len()));
            return None;
        }
        let (mut read, mut bytes, mut keys) = (Self::default(), 0, 0);
        // Where the whole text is within the limit, so is each spelling.
        let how = |key: &str| if key == OBJECTS && text.len() <= max { As::Spelled } else { As::Text };
        let result = read_object_as(text, how, |key: Cow<'c, str>, value| {
            let value = match value {
                Member::Text(value) if key == TOKENS => {
                    if read.tokens.replace(value).is_some() {
                        faults.twice("attributes", TOKENS);
                    }
                    return;
                }
                Member::Text(value) => Spelling::Plain(value),
                Member::Spelled(value) => Spelling::Json(value.into()),
                Member::Other(_) => return faults.not_text("attributes", &key, &value),
            };
            (bytes, keys) = (bytes + key.len() + value.as_str().len(), keys + 1);
            // Too much is counted to its end, and not kept.
            if bytes > max || keys > MAX_KEYS {
                return;
            }
            let is_kubelets = key.starts_with(KUBELETS) || key.contains('/');
            let known = if is_kubelets { &mut read.kubelets } else { &mut read.parameters };
            if let Err(key) = known.insert(key, value) {
                faults.twice("attributes", &key);
            }
        });
        if let Err(error) = result {
            faults.add("attributes", not_json(&error, "object of strings", STRINGS_REMEDY));
            return None;
        }
        if bytes > max {
            faults.too_large("attributes", format!("{bytes} bytes without the tokens; at most {max} are read ({REMEDY})"));
            return None;
        }
        if keys > MAX_KEYS {
            faults.too_large("attributes", format!("{keys} keys; at most {MAX_KEYS} are read (remove those that nothing reads)"));
            return None;
        }
        Some(read)
    }

    fn claims(&self, faults: &mut Faults) -> Option<PodClaims> {
        let name = self.claim(POD_NAME, is_subdomain, "a Pod's name", faults);
        let namespace = self.claim(POD_NAMESPACE, is_label, "a namespace", faults);
        let uid = self.claim(POD_UID, is_uid, "a Pod's uid", faults);
        let service_account = self.claim(SERVICE_ACCOUNT, is_subdomain, "a ServiceAccount's name", faults);
        Some(PodClaims { namespace: namespace?, name: name?, uid: uid?, service_account: service_account? })
    }

    fn claim(&self, key: &str, fits: fn(&str) -> bool, what: &str, faults: &mut Faults) -> Option<String> {
        const REMEDY: &str = "the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true";
        match self.kubelets.get(key) {
            None => faults.add(key, format!("is missing ({REMEDY})")),
            Some("") => faults.add(key, format!("is empty ({REMEDY})")),
            Some(text) if fits(text) => return Some(text.to_owned()),
            Some(text) => faults.add(key, format!("{} is not {what} (kubelet sets it; a class or volume cannot)", quoted(text))),
        }
        None
    }

    fn class(&self, faults: &mut Faults) -> Option<Arc<str>> {
        let text = self.parameters.get(CLASS).filter(|text| !text.is_empty())?;
        if !is_subdomain(text) {
            let problem = format!("{} is not the name of a SecretProviderClass (name the class in the Pod's volume)", quoted(text));
            faults.add(CLASS, problem);
        }
        Some(text.into())
    }

    fn ephemeral(&self, faults: &mut Faults) -> Option<bool> {
        match self.kubelets.get(EPHEMERAL)? {
            "" => None,
            "true" => Some(true),
            "false" => Some(false),
            text => {
                faults.add(
                    EPHEMERAL,
                    format!("{} is neither \"true\" nor \"false\" (kubelet sets it; a class or volume cannot)", quoted(text)),
                );
                None
            }
        }
    }
}

// === tokens ===

/// Since Kubernetes 1.35, kubelet puts this into `secrets`, next to the values of `nodePublishSecretRef`. Those values are skipped.
fn tokens_of_secrets<'c>(text: &'c str, faults: &mut Faults) -> Option<Cow<'c, str>> {
    if is_nothing(text) {
        return None;
    }
    if text.len() > MAX_SECRETS {
        let remedy = "keep the Secret of nodePublishSecretRef small";
        faults.too_large("secrets", format!("{} bytes; at most {MAX_SECRETS} are read ({remedy})", text.len()));
        return None;
    }
    let mut tokens = None;
    let result = read_object(text, |key: Cow<'c, str>, value| {
        let Member::Text(value) = value else { return faults.not_text("secrets", &key, &value) };
        if key != TOKENS {
            // Without an escape it is a part of the request's own text; else it is a copy, which is wiped.
            if let Cow::Owned(value) = value {
                drop(Zeroizing::new(value));
            }
        } else if tokens.replace(value).is_some() {
            faults.twice("secrets", TOKENS);
        }
    });
    if let Err(error) = result {
        faults.add("secrets", not_json(&error, "object of strings", STRINGS_REMEDY));
    }
    tokens
}

/// The tokens in `secrets` win: only kubelet writes them there, while drivers copy them into `attributes`.
fn tokens(secrets: Option<&str>, attributes: Option<&str>, faults: &mut Faults) -> RawTokens {
    secrets.filter(|text| !is_nothing(text)).or(attributes).map(|text| read_tokens(text, faults)).unwrap_or_default()
}

/// Reads `{"<audience>": {"token": "<JWT>", "expirationTimestamp": ...}}`. The token itself says when it ends.
fn read_tokens(text: &str, faults: &mut Faults) -> RawTokens {
    let mut tokens = RawTokens::new();
    if is_nothing(text) {
        return tokens;
    }
    if text.len() > MAX_TOKENS {
        faults.too_large(TOKENS, format!("{} bytes; at most {MAX_TOKENS} are read ({TOKENS_REMEDY})", text.len()));
        return tokens;
    }
    let result = read_object(text, |audience: Cow<'_, str>, TokenEntry { token }| {
        if token.is_empty() {
            faults.add_with(TOKENS, || format!("the token for the audience {} is empty ({TOKENS_REMEDY})", quoted(&audience)));
        }
        match tokens.entry(audience.into_owned()) {
            Entry::Vacant(place) => _ = place.insert(Arc::new(token)),
            Entry::Occupied(first) => {
                faults.add_with(TOKENS, || format!("holds the audience {} twice ({TOKENS_REMEDY})", quoted(first.key())));
            }
        }
    });
    if let Err(error) = result {
        faults.add(TOKENS, not_json(&error, r#"object {"<audience>": {"token": "<JWT>"}}"#, TOKENS_REMEDY));
    }
    if tokens.len() > MAX_AUDIENCES {
        let remedy = "shorten tokenRequests of the CSIDriver object secrets-store.csi.k8s.io";
        faults.too_large(TOKENS, format!("tokens for {} audiences; at most {MAX_AUDIENCES} are read ({remedy})", tokens.len()));
    }
    tokens
}

/// What the API server's TokenRequestStatus has, as far as Keyferry uses it.
struct TokenEntry {
    token: SecretBytes,
}

impl<'de> Deserialize<'de> for TokenEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Wire {
            token: Zeroizing<String>,
        }
        let mut wire = Wire::deserialize(deserializer)?;
        Ok(Self { token: secret(&mut wire.token) })
    }
}

// === the other fields ===

fn file_mode(text: &str, faults: &mut Faults) -> FileMode {
    const REMEDY: &str = "a decimal number from 0 to 511, such as 420 for 0644";
    if text.is_empty() {
        return FileMode::DEFAULT;
    }
    let Ok(bits) = serde_json::from_str::<u64>(text) else {
        faults.add("permission", format!("{} is not a file mode ({REMEDY})", quoted(text)));
        return FileMode::DEFAULT;
    };
    FileMode::from_bits(bits).unwrap_or_else(|| {
        faults.add("permission", format!("{bits} is over 511, that is 0777 ({REMEDY})"));
        FileMode::DEFAULT
    })
}

fn check_target(path: &str, claims: Option<&PodClaims>, faults: &mut Faults) {
    if let Some(problem) = unclean(path) {
        faults.add("target_path", format!("{} {problem} ({TARGET_REMEDY})", quoted(path)));
    } else if let (Some(uid), Some(claims)) = (pod_of(path), claims)
        && uid != claims.uid
    {
        let (uid, claimed) = (quoted(uid), quoted(&claims.uid));
        faults.add("target_path", format!("is a volume of the Pod with the uid {uid}, but {POD_UID} is {claimed} ({TARGET_REMEDY})"));
    }
}

fn unclean(path: &str) -> Option<&'static str> {
    let Some(relative) = path.strip_prefix('/') else {
        return Some("is not an absolute path");
    };
    if path.len() > MAX_PATH {
        return Some("is over 4096 bytes long");
    }
    // Byte by byte without a branch: most paths have only ASCII.
    let may_have = path.bytes().fold(false, |found, byte| found | !(b' '..0x7f).contains(&byte));
    if may_have && path.chars().any(char::is_control) {
        return Some("has a control character");
    }
    let folder = relative.strip_suffix('/').unwrap_or(relative);
    elements(folder).any(|element| matches!(element, b"" | b"." | b"..")).then_some("has an empty element, `.` or `..`")
}

/// The Pod for which kubelet made the folder: `<kubelet's folder>/pods/<uid>/volumes/...`. The last such place counts, since kubelet's own
/// folder may be anywhere.
fn pod_of(path: &str) -> Option<&str> {
    let (mut pod, mut before, mut last): (_, &[u8], &[u8]) = (None, b"", b"");
    for element in elements(path) {
        if before == b"pods" && element == b"volumes" {
            pod = Some(last);
        }
        (before, last) = (last, element);
    }
    str::from_utf8(pod?).ok()
}

/// By bytes: the elements are so short that a search for each `/` would take longer.
fn elements(path: &str) -> impl Iterator<Item = &[u8]> {
    path.as_bytes().split(|byte| *byte == b'/')
}

/// Moves the text, without a copy.
fn secret(text: &mut Zeroizing<String>) -> SecretBytes {
    SecretBytes::new(std::mem::take(&mut **text).into_bytes())
}

// === shapes ===

/// RFC 1123: labels of lower-case letters, digits and inner `-`, joined by dots.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_NAME && text.as_bytes().split(|byte| *byte == b'.').all(is_dns_element)
}

/// RFC 1123.
pub fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL && is_dns_element(text.as_bytes())
}

fn is_dns_element(bytes: &[u8]) -> bool {
    let letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.first().is_some_and(letter) && bytes.last().is_some_and(letter) && bytes.iter().all(|byte| letter(byte) || *byte == b'-')
}

fn is_uid(text: &str) -> bool {
    text.len() <= MAX_UID
        && !matches!(text, "" | "." | "..")
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'*')
}

/// How the driver's JSON library writes a missing value.
fn is_nothing(text: &str) -> bool {
    matches!(text.trim_ascii(), "" | "null")
}

// === impl Faults ===

impl Faults {
    fn add(&mut self, key: &str, problem: String) {
        self.0.add(RequestFault { key: key.to_owned(), problem, code: Code::InvalidRequest });
    }

    fn too_large(&mut self, key: &str, problem: String) {
        self.0.add(RequestFault { key: key.to_owned(), problem, code: Code::TooLarge });
    }

    /// For faults that can occur as often as the text has room for: the message is made only if it is kept.
    fn add_with(&mut self, key: &str, problem: impl FnOnce() -> String) {
        self.0.add_with(|| RequestFault { key: key.to_owned(), problem: problem(), code: Code::InvalidRequest });
    }

    fn twice(&mut self, part: &str, key: &str) {
        self.add_with(part, || format!("holds the key {} twice ({STRINGS_REMEDY})", quoted(key)));
    }

    fn not_text(&mut self, part: &str, key: &str, value: &Member<'_>) {
        let kind = match value {
            Member::Text(_) | Member::Spelled(_) => "a string",
            Member::Other(kind) => kind,
        };
        self.add_with(part, || format!("the value of {} is {kind}, but must be a string ({STRINGS_REMEDY})", quoted(key)));
    }
}

// === Debug and Display ===

impl fmt::Debug for MountCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountCall")
            .field("attributes", &format_args!("({} bytes, redacted)", self.attributes.len()))
            .field("secrets", &format_args!("({} bytes, redacted)", self.secrets.len()))
            .field("target_path", &self.target_path)
            .field("permission", &self.permission)
            .finish()
    }
}

/// Only the keys of the parameters: by mistake, a class may have a secret in a value.
impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("claims", &self.claims)
            .field("class", &self.class)
            .field("ephemeral", &self.ephemeral)
            .field("parameters", &self.parameters)
            .field("tokens", &self.tokens.keys())
            .field("permission", &self.permission)
            .field("target_path", &self.target_path)
            .finish()
    }
}

impl fmt::Display for RequestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

#[cfg(test)]
mod tests;
