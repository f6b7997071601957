//! An issuer's public keys (RFC 7517, 7518, 8037) and their algorithms: those of the API server (RS256, ES256, ES384, ES512) and similar
//! asymmetric ones. This code has no way to accept `none` or an HMAC.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey, RsaParameters,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::attest::Mark;
use super::token::{TokenDigest, Verified};
use crate::memo::Memo;
use crate::model::quoted;

/// The most keys of a set: each is tried for a token that names none.
const MAX_KEYS: usize = 64;

/// The size of RSA moduli in bits; shorter ones can be broken, longer ones are slow and not in use.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Verified tokens that are remembered, in two generations: 4096 in all.
const MEMO: usize = 2048;

/// Keys, and the tokens that they have verified: new keys start with none, so Keyferry forgets a token together with its withdrawn key.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    pub(super) verified: Memo<TokenDigest, Arc<Verified>>,
    left_out: Vec<LeftOut>,
    absence: Option<Absence>,
    /// Names these keys: other keys have another mark.
    pub(super) mark: Mark,
}

/// A key in the list that cannot be used.
#[derive(Debug)]
struct LeftOut {
    id: Option<String>,
    index: usize,
    /// The text after its name.
    why: String,
}

/// Why there is no list of keys.
#[derive(Debug)]
enum Absence {
    /// The JSON object has no `keys`.
    Unlisted,
    /// The place of the keys cannot be read or used any more.
    Withdrawn(String),
}

/// One public key.
pub(super) struct Key {
    id: Option<String>,
    /// The only algorithm that it is for, if its `alg` names one.
    only: Option<Algorithm>,
    kind: Kind,
    material: Material,
}

/// The key types.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Algorithm {
    EdDsa,
    Es256,
    Es384,
    Es512,
    Ps256,
    Ps384,
    Ps512,
    Rs256,
    Rs384,
    Rs512,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Ed25519,
    P256,
    P384,
    P521,
    Rsa,
}

enum Material {
    /// A point on a curve; the curve decides the algorithm.
    Point(ParsedPublicKey),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
}

/// A key as it is written. Members that we do not use are skipped.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

// === impl KeySet ===

impl KeySet {
    /// Reads a JWKS. Each key is read separately, and left out if it cannot be used: there may be none ([`Self::emptiness`]).
    ///
    /// # Errors
    /// It is not JSON, or not a JWKS.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Wire<'t> {
            #[serde(borrow)]
            keys: Option<Vec<&'t RawValue>>,
        }
        let Wire { keys: list } = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
        if !text.trim_ascii_start().starts_with(b"{") {
            return Err(NOT_A_JWKS.to_owned());
        }
        let absence = list.is_none().then_some(Absence::Unlisted);
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for (index, json) in list.unwrap_or_default().into_iter().enumerate() {
            match Key::read(json.get()) {
                Ok(key) if keys.len() < MAX_KEYS => keys.push(key),
                Ok(key) => left_out.push(LeftOut { id: key.id, index, why: format!("is one too many: Keyferry reads at most {MAX_KEYS}") }),
                Err((id, why)) => left_out.push(LeftOut { id, index, why }),
            }
        }
        Ok(Self { keys, verified: Memo::with_capacity(MEMO), left_out, absence, mark: Mark::default() })
    }

    /// No keys any more, because of this problem.
    pub(super) fn withdrawn(problem: String) -> Self {
        let absence = Some(Absence::Withdrawn(problem));
        Self { keys: Vec::new(), verified: Memo::with_capacity(MEMO), left_out: Vec::new(), absence, mark: Mark::default() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// Why there is no key. `None`: there is one.
    pub(super) fn emptiness(&self) -> Option<String> {
        let why = match &self.absence {
            Some(Absence::Withdrawn(problem)) => return Some(problem.clone()),
            _ if !self.keys.is_empty() => return None,
            Some(Absence::Unlisted) => "it has no list `keys`".to_owned(),
            None if self.left_out.is_empty() => "its list is empty".to_owned(),
            None => some(&self.left_out),
        };
        Some(format!("it holds no key that could be used: {why}"))
    }

    /// # Errors
    /// The JSON object has no `keys`: it may be anything.
    pub(super) fn listed(self) -> Result<Self, String> {
        if matches!(self.absence, Some(Absence::Unlisted)) { Err(NOT_A_JWKS.to_owned()) } else { Ok(self) }
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        matches!(self.absence, Some(Absence::Withdrawn(_)))
    }

    /// The keys that are left out, and why, for one warning. `None`: none is left out.
    pub(super) fn left_out(&self) -> Option<String> {
        (!self.left_out.is_empty()).then(|| some(&self.left_out))
    }

    /// Why a key with this name is left out.
    pub(super) fn why_left_out(&self, id: &str) -> Option<&str> {
        self.left_out.iter().find(|key| key.id.as_deref() == Some(id)).map(|key| key.why.as_str())
    }
}

/// The first few, and how many more there are.
fn some(keys: &[LeftOut]) -> String {
    const FEW: usize = 10;
    let shown = keys.iter().take(FEW).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    match keys.len().saturating_sub(FEW) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

const NOT_A_JWKS: &str = r#"it is not a JWKS, a JSON object {"keys": [...]}"#;

/// The JSON library's texts about syntax are constants; those about types quote the input, which may be anything if the path is wrong.
fn not_json(error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Syntax | Category::Eof | Category::Io => format!("it is not JSON: {error}"),
        Category::Data => NOT_A_JWKS.to_owned(),
    }
}

// === impl Key ===

impl Key {
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether the key has the algorithm's type, and is not reserved for another algorithm.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.kind == algorithm.kind() && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether this key made the signature. Only for an algorithm that fits.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (&self.material, algorithm.rsa()) {
            (Material::Point(point), None) => point.verify_sig(message, signature).is_ok(),
            (Material::Rsa(components), Some(parameters)) => components.verify(parameters, message, signature).is_ok(),
            (Material::Point(_), Some(_)) | (Material::Rsa(_), None) => false,
        }
    }

    /// The key, or its id and why it is left out.
    fn read(json: &str) -> Result<Self, (Option<String>, String)> {
        /// The members that are needed to report a key by its name.
        #[derive(Deserialize)]
        struct Name {
            kid: Option<String>,
        }
        let name = || serde_json::from_str(json).ok().and_then(|Name { kid }| kid);
        let unfit = || "is not what RFC 7517 calls a key".to_owned();
        // Serde would also accept a list instead of an object, with the members in order.
        if !json.starts_with('{') {
            return Err((None, unfit()));
        }
        let jwk: Jwk = serde_json::from_str(json).map_err(|_| (name(), unfit()))?;
        let id = jwk.kid.clone();
        jwk.into_key().map_err(|why| (id, why))
    }
}

impl Jwk {
    fn into_key(self) -> Result<Key, String> {
        if let Some(usage) = self.usage.as_deref().filter(|usage| !["", "sig"].contains(usage)) {
            return Err(format!("is for the use {}, not \"sig\"", quoted(usage)));
        }
        if self.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("does not list \"verify\" in its key_ops".to_owned());
        }
        let (kind, material) = self.material()?;
        let only = match self.alg.as_deref() {
            None | Some("") => None,
            Some(name) => match Algorithm::named(name) {
                Some(algorithm) if algorithm.kind() == kind => Some(algorithm),
                Some(_) | None => return Err(format!("says it is for {}, which does not fit its type {kind}", quoted(name))),
            },
        };
        Ok(Key { id: self.kid, only, kind, material })
    }

    fn material(&self) -> Result<(Kind, Material), String> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("EC", Some("P-256")) => Ok((Kind::P256, self.point(&ECDSA_P256_SHA256_FIXED, 32)?)),
            ("EC", Some("P-384")) => Ok((Kind::P384, self.point(&ECDSA_P384_SHA384_FIXED, 48)?)),
            ("EC", Some("P-521")) => Ok((Kind::P521, self.point(&ECDSA_P521_SHA512_FIXED, 66)?)),
            ("OKP", Some("Ed25519")) => {
                let point = ParsedPublicKey::new(&ED25519, member("x", self.x.as_ref())?);
                Ok((Kind::Ed25519, Material::Point(point.map_err(|_| "is not a point on its curve")?)))
            }
            ("RSA", _) => Ok((Kind::Rsa, self.rsa()?)),
            (kty, None) => Err(format!("is of the type {}, which Keyferry does not know", quoted(kty))),
            (kty, Some(crv)) => Err(format!("is of the type {} on {}, which Keyferry does not know", quoted(kty), quoted(crv))),
        }
    }

    fn point(&self, algorithm: &'static dyn VerificationAlgorithm, size: usize) -> Result<Material, String> {
        let (x, y) = (member("x", self.x.as_ref())?, member("y", self.y.as_ref())?);
        if x.len() != size || y.len() != size {
            return Err(format!("has coordinates of {} and {} bytes, not {size}", x.len(), y.len()));
        }
        let uncompressed = [&[4], x.as_slice(), &y].concat();
        Ok(Material::Point(ParsedPublicKey::new(algorithm, uncompressed).map_err(|_| "is not a point on its curve")?))
    }

    fn rsa(&self) -> Result<Material, String> {
        let mut components = RsaPublicKeyComponents { n: member("n", self.n.as_ref())?, e: member("e", self.e.as_ref())? };
        for number in [&mut components.n, &mut components.e] {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            number.drain(..zeros);
        }
        let bits = components.n.first().map_or(0, |first| components.n.len() * 8 - first.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(format!("is RSA of {bits} bits, not {} to {}", RSA_BITS.start(), RSA_BITS.end()));
        }
        components.to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256).map_err(|_| "is not an RSA key")?;
        Ok(Material::Rsa(components))
    }
}

fn member(name: &str, value: Option<&String>) -> Result<Vec<u8>, String> {
    let text = value.ok_or_else(|| format!("has no member {name:?}"))?;
    BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| format!("has a member {name:?} that is not base64url without padding"))
}

// === impl Algorithm ===

impl Algorithm {
    const ALL: [Self; 10] =
        [Self::EdDsa, Self::Es256, Self::Es384, Self::Es512, Self::Ps256, Self::Ps384, Self::Ps512, Self::Rs256, Self::Rs384, Self::Rs512];

    /// By its `alg` name (RFC 7518, section 3.1; RFC 8037), in its exact spelling.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    pub(super) fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::EdDsa => Kind::Ed25519,
            Self::Es256 => Kind::P256,
            Self::Es384 => Kind::P384,
            Self::Es512 => Kind::P521,
            Self::Ps256 | Self::Ps384 | Self::Ps512 | Self::Rs256 | Self::Rs384 | Self::Rs512 => Kind::Rsa,
        }
    }

    /// Padding and hash: an RSA key does not decide them.
    fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Self::EdDsa | Self::Es256 | Self::Es384 | Self::Es512 => None,
            Self::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
            Self::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        }
    }
}

// === Debug and Display ===

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ed25519 => "Ed25519",
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
            Self::Rsa => "RSA",
        })
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "the key {} {}", quoted(id), self.why),
            None => write!(f, "keys[{}] {}", self.index, self.why),
        }
    }
}

/// Id and type, for messages.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id() {
            Some(id) => write!(f, "{} ({})", quoted(id), self.kind),
            None => write!(f, "without a name ({})", self.kind),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}
