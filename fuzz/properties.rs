//! What must be true for any input: one function per parser at the edge. The fuzz targets give them a fuzzer's inputs, and
//! `tests/it/corpus.rs` gives them the seeds in `corpus/`, on every `make test`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use keyferry::backend::store::file::{FileBackend, FileConfig, Recipient, Vault, generate_identity};
use keyferry::backend::{Backend, Called, FetchContext};
use keyferry::clock::{Clock, SystemClock};
use keyferry::config::Config;
use keyferry::dialect::{self, ClassLimits};
use keyferry::dotenv;
use keyferry::formats::pem::Bundle;
use keyferry::formats::pkcs12::{self, Certificate, PrivateKey, Undone};
use keyferry::glob::{matches, matches_path};
use keyferry::identity::{Attest, Issuer, JwksVerifier};
use keyferry::model::{
    Ask, Catalogue, Field, FieldKind, FieldName, FileMode, FilePath, FolderPath, MountCall, PodClaims, PodIdentity, PodTokens, RefParts,
    Request, Secret, SecretBytes, SecretName, SecretRef, Serving, Template, Unrendered, Unresolved, Version,
};
use keyferry::steps::Steps;
use keyferry::text;
use keyferry::yaml::parse_all;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Duration, Instant};

const ISSUER: &str = "https://oidc.example";

/// The driver's request: attributes, secrets, target path and permission, with a NUL between each two.
/// No text makes the parser panic, and what it has parsed is as later stages need it.
pub fn attributes(input: &[u8]) {
    let mut parts = input.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    let mut next = || parts.next().unwrap_or_default();
    let call = MountCall { attributes: next(), secrets: next(), target_path: next(), permission: next() };
    let Ok(request) = Request::parse(&call, 64 * 1024) else { return };
    // These are in policy patterns and in paths.
    for name in [&request.claims.namespace, &request.claims.name, &request.claims.uid, &request.claims.service_account] {
        assert!(!name.is_empty() && !name.contains(['/', '*', '$', '\0']));
    }
    assert!(request.target_path.starts_with('/') && !request.target_path.contains("/../"));
}

/// Every store there could be: for the parsers of classes.
struct Everything;

impl Catalogue for Everything {
    fn resolve(&self, ask: &Ask<'_>) -> Result<SecretRef, Unresolved> {
        let backend = ask.backend.unwrap_or("files").parse().map_err(|_| Unresolved::Backend("no such backend".to_owned()))?;
        let name = ask.name.parse().map_err(|cause| Unresolved::Name { name: ask.name.to_owned(), cause })?;
        let Ask { method, args, lease, keep, login, .. } = ask.clone();
        Ok(RefParts { backend, name, version: ask.version.map(Version::new), method, args, lease, keep, login }.into())
    }

    fn serving(&self, _: &str, address: Option<&str>, _: Option<&str>) -> Result<Serving, Unresolved> {
        let backend = "bao".parse().map_err(|_| Unresolved::Backend("no such backend".to_owned()))?;
        Ok(Serving { backend, by_address: address == Some("https://bao"), names_audience: false })
    }
}

/// A class's `objects`: no text makes the parser panic, and a refused class has a fault to show.
pub fn class(input: &[u8]) {
    let parameters = BTreeMap::from([("objects".to_owned(), String::from_utf8_lossy(input).into_owned())]);
    match dialect::parse(
        &parameters,
        &Everything,
        ClassLimits { objects: 64, files: 4096, bytes: 1 << 20, owners: true },
        &Steps::unbounded(),
    ) {
        Ok(plan) => assert!(plan.objects.len() <= 64),
        Err(faults) => assert!(!faults.0.is_empty()),
    }
}

/// A peer's class: the dialect, then `objects`, then other parameters as `key=value`, with a NUL between each two. A parsed class asks for
/// names that mean one thing, and never has two files of one path.
pub fn peers(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.split('\0');
    let said = parts.next();
    let dialect = dialect::PEERS.into_iter().find(|peer| Some(*peer) == said).unwrap_or("vault");
    let mut parameters = BTreeMap::from([("objects".to_owned(), parts.next().unwrap_or_default().to_owned())]);
    parameters.extend(parts.filter_map(|part| part.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())));
    parameters.insert("dialect".to_owned(), dialect.to_owned());
    match dialect::parse(
        &parameters,
        &Everything,
        ClassLimits { objects: 64, files: 4096, bytes: 1 << 20, owners: false },
        &Steps::unbounded(),
    ) {
        Ok(plan) => {
            let is_aws = dialect == "aws";
            assert!((usize::from(!is_aws)..=64).contains(&plan.objects.len()));
            let searches: Vec<_> = plan.objects.iter().flat_map(keyferry::model::Object::searches).collect();
            let files = plan.objects.iter().map(|object| object.label().path).chain(searches.iter().map(|search| search.path.to_string()));
            assert_eq!(files.collect::<BTreeSet<_>>().len(), plan.objects.len() + searches.len());
            assert!(searches.iter().all(|search| search.query.is_expression()));
            assert!(plan.instead.iter().all(|(of, other)| *of < plan.needed() && *other >= plan.needed()));
            for secret in plan.secrets {
                if is_aws {
                    let name = secret.name.as_str();
                    assert!(["secretsmanager/", "ssm/", "arn:"].iter().any(|begin| name.starts_with(begin)), "{name}");
                    continue;
                }
                assert!(!secret.name.as_str().contains(['?', '%', '#']));
                assert!(secret.login.role.is_some() && secret.backend.as_str() == "bao");
            }
        }
        Err(faults) => assert!(!faults.0.is_empty()),
    }
}

/// YAML and the configuration: no text makes either parser panic, and neither refuses a text without a message.
pub fn yaml(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = parse_all(&text);
    if let Err(faults) = Config::parse(&text) {
        assert!(!faults.is_empty());
    }
}

/// A template, and after a NUL the text of the field that it has. No text makes it panic, and a fault has no value.
pub fn template(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (source, value) = text.split_once('\0').unwrap_or((&text, "x"));
    // A fault never has this text by chance.
    let value = format!("{value}\u{e000}");
    let Ok(Ok(template)) = Template::parse(source, &["s", "none_such"], &Steps::of(50_000_000)) else { return };
    let json = Field { bytes: Arc::new(SecretBytes::new(value.as_bytes().to_vec())), kind: FieldKind::Json };
    let texts = Field::of_bytes(SecretBytes::new(value.clone().into_bytes()));
    let fields = [("text", texts), ("json", json)].map(|(name, field)| (FieldName::new(name), field));
    let secret = Secret { fields: fields.into_iter().collect(), response: None, version: None, lease: None };
    let steps = Steps::of(1_000_000);
    match template.render(&[("s", Some(&secret)), ("none_such", None)], 1 << 20, 1 << 20, &steps) {
        Ok(bytes) => assert!(bytes.len() <= 1 << 20),
        Err(Unrendered::Absent { fault, .. } | Unrendered::Fault(fault)) => {
            assert!(!fault.to_string().contains('\u{e000}') || source.contains('\u{e000}'));
        }
        Err(Unrendered::Memory | Unrendered::Spent(_) | Unrendered::TooLong) => {}
    }
}

/// A password, and after a NUL a stored keystore. No bytes make the opening panic or work longer than its steps allow, and the result is PEM.
pub fn pkcs12(input: &[u8]) {
    let at = input.iter().position(|byte| *byte == 0).unwrap_or(0);
    let (password, file) = (String::from_utf8_lossy(&input[..at]), &input[(at + 1).min(input.len())..]);
    let steps = Steps::of(20_000_000);
    match pkcs12::open(file, Some(&password), &steps) {
        Ok(opened) => {
            for pem in [&opened.key, &opened.leaf, &opened.chain, &opened.trust] {
                let mut bundle = Bundle::of_at_most(pkcs12::MAX_CERTIFICATES);
                assert!(bundle.read(str::from_utf8(pem).unwrap()).is_ok());
            }
            assert!(opened.leaf.is_empty() || !opened.key.is_empty());
        }
        Err(Undone::Fault(fault)) => assert!(!fault.to_string().is_empty()),
        Err(Undone::Spent(_)) => assert!(steps.left() == 0),
    }
    // As a key and as a certificate, because classes have these too.
    let key = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"].map(|label| PrivateKey::of_pem(label, file));
    if let (Some(Ok(key)), Some(certificate)) = (key.into_iter().find(Result::is_ok), Certificate::of(file)) {
        assert!(!key.fits(&certificate), "no bytes are both");
    }
}

/// Globs: a pattern and a name, with a line's end between. Both kinds of glob agree where they should.
pub fn patterns(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (pattern, name) = text.split_once('\n').unwrap_or((&text, ""));
    let path = matches_path(pattern, name);
    if !pattern.contains('*') {
        assert_eq!(path, pattern == name);
        assert_eq!(matches(pattern, name), pattern == name);
    }
    // Within one element both say the same.
    if !pattern.contains('/') && !name.contains('/') && pattern != "**" {
        assert_eq!(path, matches(pattern, name));
    }
    assert!(matches_path("**", name));
}

/// A JWKS. `KID` in it is replaced by the name of a key that it does not have. No text makes the reader panic, and it refuses none without a message.
/// The keys that it reads verify only their own tokens.
pub fn keys(input: &[u8]) {
    struct Scene {
        kid: String,
        token: Arc<SecretBytes>,
        runtime: Runtime,
    }

    fn set() -> Scene {
        let issuer = Issuer::new(ISSUER).expect("a key");
        let jwks = issuer.jwks();
        let kid = jwks.split_once("\"kid\":\"").and_then(|(_, rest)| rest.split_once('"')).expect("a kid").0.to_owned();
        let token = issuer.token(&pod(), "keyferry", Duration::from_hours(24), &SystemClock).expect("a token");
        Scene { kid, token: Arc::new(SecretBytes::new(token.into_bytes())), runtime: runtime() }
    }

    static SCENE: OnceLock<Scene> = OnceLock::new();
    let scene = SCENE.get_or_init(set);
    let file = scratch("keys.json");
    fs::write(&file, String::from_utf8_lossy(input).replace("KID", &scene.kid)).expect("a key file");
    match scene.runtime.block_on(async { JwksVerifier::open(&file, ISSUER, "keyferry", Arc::new(SystemClock)) }) {
        Ok(verifier) => {
            let tokens = BTreeMap::from([("keyferry".to_owned(), Arc::clone(&scene.token))]);
            assert!(scene.runtime.block_on(verifier.attest(&pod(), &tokens)).is_err());
        }
        Err(problem) => assert!(!problem.is_empty()),
    }
}

/// Paths, modes and names: the driver takes everything that parses, and it is written as it was read.
pub fn paths(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(path) = text.parse::<FilePath>() {
        assert_eq!(path.as_str(), text);
        assert!(!text.starts_with('/') && !text.starts_with("..") && text.len() <= 4096);
        assert!(text.split('/').all(|element| !matches!(element, "" | "." | "..") && element.len() <= 255));
    }
    if let Ok(Ok(file)) = text.parse::<FolderPath>().map(|folder| folder.join("x")) {
        assert!(file.as_str().parse::<FilePath>().is_ok());
    }
    if let Ok(mode) = text.parse::<FileMode>() {
        assert!(mode.bits() <= 0o777);
    }
    if let Ok(name) = text.parse::<SecretName>() {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains(['%', '?', '#', '\\']));
    }
}

/// Tokens: whatever comes in place of a good one, Keyferry lets nobody in.
pub fn token(input: &[u8]) {
    struct Scene {
        verifier: JwksVerifier,
        good: String,
        runtime: Runtime,
    }

    fn set() -> Scene {
        let issuer = Issuer::new(ISSUER).expect("a key");
        let file = scratch("jwks.json");
        fs::write(&file, issuer.jwks()).expect("a key file");
        let good = issuer.token(&pod(), "keyferry", Duration::from_hours(24), &SystemClock).expect("a token");
        let verifier = JwksVerifier::open(&file, ISSUER, "keyferry", Arc::new(SystemClock)).expect("a verifier");
        Scene { verifier, good, runtime: runtime() }
    }

    static SCENE: OnceLock<Scene> = OnceLock::new();
    let scene = SCENE.get_or_init(set);
    let token = instead_of(scene.good.as_bytes(), input);
    let is_good = token == scene.good.as_bytes();
    let tokens = BTreeMap::from([("keyferry".to_owned(), Arc::new(SecretBytes::new(token)))]);
    let let_in = scene.runtime.block_on(scene.verifier.attest(&pod(), &tokens)).is_ok();
    assert_eq!(let_in, is_good);
}

/// Vault files: whatever is in place of a good one, no secret comes of it. An input that starts with `+` is what a user who may write the folder has
/// encrypted: then a secret may come, within the limits.
pub fn vault(input: &[u8]) {
    struct Scene {
        backend: FileBackend,
        file: PathBuf,
        good: Vec<u8>,
        recipient: Recipient,
        runtime: Runtime,
    }

    fn set() -> Scene {
        let (key, root) = (scratch("age.key"), scratch("vault"));
        let recipient = generate_identity(&key, SystemClock.now()).expect("a key");
        let vault = Vault::init(&root, std::slice::from_ref(&recipient)).expect("a vault").vault;
        let fields = [("password".parse().expect("a name"), Field::of_bytes(SecretBytes::new(b"hunter2".to_vec())))].into();
        vault.set(&"db".parse().expect("a name"), &fields).expect("a secret");
        let file = root.join("db.age");
        let good = fs::read(&file).expect("a sealed file");
        let config = FileConfig { vault: root, identity: vec![key] };
        let backend = FileBackend::open("files".parse().expect("a name"), &config, 1 << 20, Arc::new(SystemClock)).expect("a backend");
        Scene { backend, file, good, recipient, runtime: runtime() }
    }

    static SCENE: OnceLock<Scene> = OnceLock::new();
    let scene = SCENE.get_or_init(set);
    let sealed = input.strip_prefix(b"+").map(|plaintext| age::encrypt(&scene.recipient, plaintext).expect("a sealed file"));
    let content = sealed.clone().unwrap_or_else(|| instead_of(&scene.good, input));
    let draft = scene.file.with_extension("draft");
    fs::write(&draft, &content).expect("a draft");
    fs::rename(&draft, &scene.file).expect("the draft in its place");
    let pod = Arc::new(PodIdentity::believed(&pod()));
    let cx = FetchContext {
        pod,
        tokens: Arc::new(PodTokens::default()),
        fresh: None,
        max_stale: None,
        patience: None,
        live: false,
        payer: None,
        party: None,
        called: Called::default(),
        deadline: Instant::now() + Duration::from_secs(30),
    };
    let secret = SecretRef::read("files".parse().expect("a name"), "db".parse().expect("a name"));
    match scene.runtime.block_on(scene.backend.fetch(&secret, &cx)) {
        Ok(fetched) if sealed.is_some() => {
            assert!(fetched.secret.version.is_some() && fetched.secret.fields.len() <= 4096);
            assert!(fetched.secret.fields.values().map(|field| field.bytes.len()).sum::<usize>() <= 1 << 20);
        }
        Ok(_) => assert_eq!(content, scene.good),
        Err(fault) => assert!(content != scene.good && !fault.reason.is_empty()),
    }
}

fn pod() -> PodClaims {
    PodClaims { namespace: "shop".into(), name: "web".into(), uid: "u".into(), service_account: "web".into() }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// An input that starts with `=` changes the good content: three bytes per change (place, place, byte). A rest of fewer bytes cuts the end off.
/// Any other input is used as it is.
fn instead_of(good: &[u8], input: &[u8]) -> Vec<u8> {
    let Some(changes) = input.strip_prefix(b"=") else { return input.to_vec() };
    let mut content = good.to_vec();
    let chunks = changes.chunks_exact(3);
    let cut = chunks.remainder().len();
    for change in chunks {
        let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % content.len();
        content[place] = change[2];
    }
    content.truncate(content.len() - cut);
    content
}

/// A file in a folder of this process's own. Tests remove the folder; a fuzzer leaves it with the machine's temporary files.
pub fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("keyferry-properties-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder.join(name)
}

/// A dotenv file: if Keyferry can write what it has read, it reads the same again. As a manifest, it is the same text, except for the byte order
/// marks of joined files.
pub fn dotenv(input: &[u8]) {
    const MARK: char = '\u{feff}';
    let manifest = text::read_manifest(input);
    let Ok(text) = text::read(input) else { return };
    assert!(manifest.is_ok_and(|manifest| manifest.replace(MARK, "") == text.replace(MARK, "")));
    let Ok(entries) = dotenv::read(text) else { return };
    for entry in entries {
        let Ok(line) = dotenv::write(entry.name, entry.value.as_bytes()) else { continue };
        let again = dotenv::read(&line).unwrap();
        let again: Vec<_> = again.iter().map(|entry| (entry.name, entry.value.as_str())).collect();
        assert_eq!(again, [(entry.name, entry.value.as_str())]);
    }
}
