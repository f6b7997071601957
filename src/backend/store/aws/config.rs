//! What the configuration says about AWS: the region, the login and the addresses.

use std::path::PathBuf;

use super::endpoint::{self, Region, Service, Variant};
use super::role::{self, RoleTemplate};
use crate::backend::remote::settings::{file, filled};
use crate::backend::{Audience, CacheTimes};
use crate::http::Endpoint;
use crate::model::{LoginKey, NamedFile};
use crate::policy::ClassMay;
use crate::yaml::{Faults, Node, Reader, Value, unknown_key};

/// The audiences of the Pods' tokens, unless the configuration names others: the same as those of AWS's own tools.
const IRSA_AUDIENCE: &str = "sts.amazonaws.com";
const POD_IDENTITY_AUDIENCE: &str = "pods.eks.amazonaws.com";

/// The addresses of the node's agent of EKS Pod Identity, and of an instance's metadata.
const AGENTS: [&str; 2] = ["169.254.170.23", "fd00:ec2::23"];
const METADATA: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];

/// The most roles that are assumed one after the other: each is one more call for a login.
const MAX_CHAIN: usize = 4;

/// One entry of `kind: aws`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AwsConfig {
    pub(super) region: Region,
    /// The account whose ARNs are another spelling of names. `None`: ARNs are refused.
    pub(super) account: Option<String>,
    pub(super) auth: Auth,
    /// The roles that are assumed after the login, one after the other.
    pub(super) assume: Vec<Assume>,
    endpoints: Endpoints,
    pub(super) ca: Option<PathBuf>,
    pub(super) class_may: ClassMay,
    pub(in crate::backend) cache: CacheTimes,
    /// Whether messages and logs show what AWS says in its own words.
    pub(super) store_words: bool,
}

/// The address of each service: AWS's own host, or another one.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Endpoints {
    parameters: Endpoint,
    secrets: Endpoint,
    tokens: Endpoint,
}

/// How Keyferry logs in to AWS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Auth {
    /// The role of the node's instance; `address`: of its metadata, if it is not the usual one.
    Instance {
        address: Option<Endpoint>,
    },
    /// A role that trusts the Pod's token; `None`: the ServiceAccount's annotation names it.
    Irsa {
        audience: String,
        role: Option<RoleTemplate>,
        share: Share,
    },
    Keys(KeyFiles),
    /// The role that EKS has for the ServiceAccount; `address`: of the node's agent, if it is not the usual one.
    PodIdentity {
        audience: String,
        address: Option<Endpoint>,
        share: Share,
    },
}

/// Where the daemon's own access key is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum KeyFiles {
    /// A file for each part.
    Apart { id: PathBuf, secret: PathBuf, token: Option<PathBuf> },
    /// A file in the form of AWS's tools, and the profile in it.
    Profile { file: PathBuf, profile: String },
}

/// One role of a chain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Assume {
    pub(super) role: RoleTemplate,
    pub(super) external_id: Option<String>,
}

/// Which Pods share a login, and may share an answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Share {
    Pod,
    #[default]
    ServiceAccount,
}

// === impl AwsConfig ===

impl AwsConfig {
    /// Reads the mapping; the caller ends the reading. `None`: a fault was noted.
    pub fn parse(reader: &mut Reader<'_>, faults: &mut Faults) -> Option<Self> {
        let before = faults.len();
        let region = reader.parsed("region", faults, str::parse::<Region>);
        if reader.get("region").is_none() {
            reader.missing("region", "where the secrets are, such as region: eu-west-1", faults);
        }
        let account = reader.parsed("account", faults, account);
        let share = reader.parsed("share", faults, share);
        let (auth, assume) = auth(reader, share.unwrap_or_default(), region.as_ref(), faults);
        if let (Some(node), Some(Auth::Instance { .. } | Auth::Keys(_))) = (reader.get("share"), &auth) {
            faults.add(
                node.at,
                reader.path("share"),
                "works only with irsa and podIdentity: here all Pods are the same to AWS (remove it)",
            );
        }
        let class_may = class_may(reader, auth.as_ref(), &assume, faults);
        let endpoints = endpoints(reader, region.as_ref(), faults);
        let ca = file(reader, "ca", faults);
        let cache = CacheTimes::of_backend(reader, faults);
        let store_words = reader.boolean("storeWords", faults).unwrap_or(true);
        let (region, auth, endpoints) = (region?, auth?, endpoints?);
        let config = Self { region, account, auth, assume, endpoints, ca, class_may, cache, store_words };
        (faults.len() == before).then_some(config)
    }

    /// The address of a service.
    pub(super) fn endpoint(&self, service: Service) -> &Endpoint {
        match service {
            Service::Parameters => &self.endpoints.parameters,
            Service::SecretsManager => &self.endpoints.secrets,
            Service::Tokens => &self.endpoints.tokens,
        }
    }

    /// The audience that the Pods' tokens must have; `None`: the daemon logs in with its own key.
    pub(super) fn audience(&self) -> Option<Audience<'_>> {
        let (text, usual) = match &self.auth {
            Auth::Irsa { audience, .. } => (audience, IRSA_AUDIENCE),
            Auth::PodIdentity { audience, .. } => (audience, POD_IDENTITY_AUDIENCE),
            Auth::Instance { .. } | Auth::Keys(_) => return None,
        };
        Some(Audience { key: "auth.audience", text, named: text != usual })
    }

    pub(super) fn files(&self) -> Vec<NamedFile> {
        let mut files: Vec<NamedFile> = self.ca.iter().map(|path| NamedFile::public("ca", path)).collect();
        match &self.auth {
            Auth::Keys(KeyFiles::Apart { id, secret, token }) => {
                files.push(NamedFile::public("auth.accessKeyIdFile", id));
                files.push(NamedFile::secret("auth.secretAccessKeyFile", secret));
                files.extend(token.iter().map(|token| NamedFile::secret("auth.sessionTokenFile", token)));
            }
            Auth::Keys(KeyFiles::Profile { file, .. }) => files.push(NamedFile::secret("auth.credentialsFile", file)),
            Auth::Instance { .. } | Auth::Irsa { .. } | Auth::PodIdentity { .. } => {}
        }
        files
    }
}

// === impl Auth ===

impl Auth {
    /// As the configuration writes it.
    pub(super) const fn method(&self) -> &'static str {
        match self {
            Self::Instance { .. } => "instance",
            Self::Irsa { .. } => "irsa",
            Self::Keys(_) => "keys",
            Self::PodIdentity { .. } => "podIdentity",
        }
    }
}

// === reading ===

fn account(text: &str) -> Result<String, String> {
    if role::is_account(text) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is not the number of an account (twelve digits, in quotes: \"111122223333\")"))
}

fn share(text: &str) -> Result<Share, String> {
    match text {
        "pod" => Ok(Share::Pod),
        "serviceAccount" => Ok(Share::ServiceAccount),
        other => Err(unknown_key(other, &["serviceAccount", "pod"]).replace("known key", "way to share")),
    }
}

const METHODS: [&str; 4] = ["irsa", "podIdentity", "keys", "instance"];

/// Keys of `auth`, and the methods they go with.
const AUTH_KEYS: [(&str, &[&str]); 10] = [
    ("method", &METHODS),
    ("assumeRole", &METHODS),
    ("audience", &["irsa", "podIdentity"]),
    ("role", &["irsa"]),
    ("address", &["podIdentity", "instance"]),
    ("accessKeyIdFile", &["keys"]),
    ("secretAccessKeyFile", &["keys"]),
    ("sessionTokenFile", &["keys"]),
    ("credentialsFile", &["keys"]),
    ("profile", &["keys"]),
];

fn auth(reader: &mut Reader<'_>, share: Share, region: Option<&Region>, faults: &mut Faults) -> (Option<Auth>, Vec<Assume>) {
    let Some(mut inner) = reader.reader("auth", faults) else {
        if reader.get("auth").is_none() {
            reader.missing("auth", "how Keyferry logs in to AWS, such as { method: irsa }", faults);
        }
        return (None, Vec::new());
    };
    let method = inner.parsed("method", faults, method);
    if inner.get("method").is_none() {
        inner.missing("method", &format!("one of {}", METHODS.join(", ")), faults);
    }
    let auth = method.and_then(|method| auth_of(method, (share, region), &mut inner, faults));
    let assume = chain(&mut inner, region, faults);
    // The keys of other methods are known, but wrong here.
    for (key, methods) in AUTH_KEYS {
        if let (Some(node), Some(method)) = (inner.get(key), method.filter(|method| !methods.contains(method))) {
            faults.add(node.at, inner.path(key), format!("works only with {}, not with {method} (remove it)", methods.join(", ")));
        }
    }
    inner.finish(faults);
    (auth, assume)
}

fn method(text: &str) -> Result<&'static str, String> {
    let known = METHODS.into_iter().find(|method| *method == text);
    known.ok_or_else(|| unknown_key(text, &METHODS).replace("known key", "way to log in"))
}

fn auth_of(method: &'static str, (share, region): (Share, Option<&Region>), inner: &mut Reader<'_>, faults: &mut Faults) -> Option<Auth> {
    let mut audience = |inner: &mut Reader<'_>, usual: &str| inner.parsed("audience", faults, filled).unwrap_or_else(|| usual.to_owned());
    match method {
        "irsa" => {
            let audience = audience(inner, IRSA_AUDIENCE);
            Some(Auth::Irsa { audience, role: inner.parsed("role", faults, |text| role_in(region, text)), share })
        }
        "podIdentity" => {
            let audience = audience(inner, POD_IDENTITY_AUDIENCE);
            Some(Auth::PodIdentity {
                audience,
                address: inner.parsed("address", faults, |text| endpoint::link_local(text, &AGENTS)),
                share,
            })
        }
        "instance" => Some(Auth::Instance { address: inner.parsed("address", faults, |text| endpoint::link_local(text, &METADATA)) }),
        _ => Some(Auth::Keys(key_files(inner, faults)?)),
    }
}

fn role_in(region: Option<&Region>, text: &str) -> Result<RoleTemplate, String> {
    let role: RoleTemplate = text.parse()?;
    region.map_or(Ok(()), |region| region.check_arn(text)).map_err(|problem| format!("{text:?} {problem}"))?;
    Ok(role)
}

fn key_files(inner: &mut Reader<'_>, faults: &mut Faults) -> Option<KeyFiles> {
    let (id, secret) = (file(inner, "accessKeyIdFile", faults), file(inner, "secretAccessKeyFile", faults));
    let token = file(inner, "sessionTokenFile", faults);
    let profile = inner.parsed("profile", faults, filled);
    let together = file(inner, "credentialsFile", faults);
    if let Some(node) = inner.get("credentialsFile") {
        for key in ["accessKeyIdFile", "secretAccessKeyFile", "sessionTokenFile"] {
            if inner.get(key).is_some() {
                faults.add(node.at, inner.path("credentialsFile"), format!("cannot be used together with `{key}` (remove one)"));
            }
        }
        return together.map(|file| KeyFiles::Profile { file, profile: profile.unwrap_or_else(|| "default".to_owned()) });
    }
    if let Some(node) = inner.get("profile") {
        faults.add(node.at, inner.path("profile"), "belongs to `credentialsFile`, which is missing (write that too, or remove it)");
    }
    for (key, what) in
        [("accessKeyIdFile", "the file with the id of the access key"), ("secretAccessKeyFile", "the file with the key itself")]
    {
        if inner.get(key).is_none() {
            inner.missing(key, &format!("{what}; or credentialsFile, a file as AWS's tools write it"), faults);
        }
    }
    Some(KeyFiles::Apart { id: id?, secret: secret?, token })
}

/// `assumeRole`: one role, or a list of them.
fn chain(inner: &mut Reader<'_>, region: Option<&Region>, faults: &mut Faults) -> Vec<Assume> {
    let Some(node) = inner.get("assumeRole") else { return Vec::new() };
    let path = inner.path("assumeRole");
    let items: &[Node] = match &node.value {
        Value::Sequence(items) => items,
        Value::Mapping(_) | Value::Null | Value::Scalar { .. } => std::slice::from_ref(node),
    };
    if items.len() > MAX_CHAIN {
        faults.add(
            node.at,
            path,
            format!("has {} roles, and at most {MAX_CHAIN} are allowed (let one role trust another directly)", items.len()),
        );
        return Vec::new();
    }
    items.iter().filter_map(|item| assume(item, &path, region, faults)).collect()
}

fn assume(item: &Node, path: &str, region: Option<&Region>, faults: &mut Faults) -> Option<Assume> {
    let mut reader = Reader::of(item, path, faults)?;
    let role = reader.parsed("role", faults, |text| chained(region, text));
    if reader.get("role").is_none() {
        reader.missing("role", "the ARN of the role, such as arn:aws:iam::111122223333:role/secrets", faults);
    }
    let external_id = reader.parsed("externalId", faults, external_id);
    reader.finish(faults);
    Some(Assume { role: role?, external_id })
}

/// For AWS, all Pods have the same login here: only this configuration gives them different roles.
fn chained(region: Option<&Region>, text: &str) -> Result<RoleTemplate, String> {
    let role = role_in(region, text)?;
    if role.is_fixed() || role.tells_apart() {
        return Ok(role);
    }
    Err(format!(
        "{text:?} gives ServiceAccounts of several namespaces the same role, such as c of a-b and b-c of a (write \
         ${{namespace}}.${{serviceAccount}} or ${{namespace}}/${{serviceAccount}})"
    ))
}

/// STS's own rule.
fn external_id(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&byte);
    if (2..=1224).contains(&text.len()) && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err("is not an external id (2 to 1224 letters, digits and _+=,.@:/-)".to_owned())
}

/// If the Pod's own token is the login, AWS decides which roles it may have. With any other login, a class cannot choose the role.
fn class_may(reader: &mut Reader<'_>, auth: Option<&Auth>, assume: &[Assume], faults: &mut Faults) -> ClassMay {
    let may_choose = matches!(auth, Some(Auth::Irsa { .. }) | None) && assume.is_empty();
    let Some(mut inner) = reader.reader("classMay", faults) else {
        return if may_choose { ClassMay::default().and(LoginKey::Role, &["**"]) } else { ClassMay::default() };
    };
    let names_role = inner.get(LoginKey::Role.as_str()).is_some();
    let may = ClassMay::parse(&mut inner, |_, text| filled(text).map_err(str::to_owned), faults);
    let others = [LoginKey::Address, LoginKey::Audience, LoginKey::Mount, LoginKey::Namespace, LoginKey::Tls];
    for key in others.into_iter().filter(|key| may.grants(*key)) {
        let at = inner.get(key.as_str()).map_or(inner.at(), |node| node.at);
        faults.add(at, inner.path(key.as_str()), "cannot be granted here: a class can choose only the role of a login to AWS (remove it)");
    }
    if let (Some(node), false) = (inner.get(LoginKey::Role.as_str()), may_choose) {
        let problem = "cannot be granted here: a class can choose a role only where the Pod's own token is the whole login (use auth.method \
                       irsa without assumeRole, or remove it)";
        faults.add(node.at, inner.path(LoginKey::Role.as_str()), problem);
    }
    inner.finish(faults);
    if names_role { may } else { may.and(LoginKey::Role, &["**"]) }
}

/// `endpoints`, `dualStack` and `fips`.
fn endpoints(reader: &mut Reader<'_>, region: Option<&Region>, faults: &mut Faults) -> Option<Endpoints> {
    let variant =
        Variant { dual_stack: reader.boolean("dualStack", faults).unwrap_or(false), fips: reader.boolean("fips", faults).unwrap_or(false) };
    let mut own = Vec::new();
    if let Some(mut inner) = reader.reader("endpoints", faults) {
        for service in [Service::SecretsManager, Service::Parameters, Service::Tokens] {
            let read = |text: &str| {
                let own = endpoint::own(text)?;
                region.map_or(Ok(()), |region| endpoint::check_region(&own, service, region))?;
                Ok::<_, String>(own)
            };
            own.extend(inner.parsed(service.as_str(), faults, read).map(|endpoint| (service, endpoint)));
        }
        inner.finish(faults);
    }
    for key in ["dualStack", "fips"] {
        if let (Some(node), false) = (reader.get(key).filter(|node| node.boolean() == Some(true)), own.is_empty()) {
            let problem =
                "is for AWS's own addresses, and cannot be used together with `endpoints` (write those hosts there, or remove one)";
            faults.add(node.at, reader.path(key), problem);
        }
    }
    let region = region?;
    if let (Some(node), None, true) = (reader.get("region"), region.known_partition(), own.len() < 3) {
        let problem = format!(
            "{:?} is not a region that this version knows (check its spelling; for a new region, write `endpoints` for secretsmanager, ssm and sts)",
            region.as_str()
        );
        faults.add(node.at, reader.path("region"), problem);
    }
    // A region's host is always an address.
    let aws = |service| format!("https://{}", region.host(service, variant)).parse().ok();
    let of = |service| own.iter().find(|(of, _)| *of == service).map_or_else(|| aws(service), |(_, endpoint)| Some(endpoint.clone()));
    Some(Endpoints { parameters: of(Service::Parameters)?, secrets: of(Service::SecretsManager)?, tokens: of(Service::Tokens)? })
}
