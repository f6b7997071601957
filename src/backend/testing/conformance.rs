//! The suite that every backend passes: what the pipeline relies on, whatever the store. A store's tests call [`hold`] with a [`Store`] that can be
//! filled; a decorator's tests call it with the decorator around such a store.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::backend::{Backend, BackendError, Called, Fault, FetchContext, Kind, Scope};
use crate::model::{
    Field, FieldKind, FieldName, Login, Method, PodClaims, PodIdentity, PodTokens, SecretBytes, SecretPrefix, SecretRef, Source,
};

/// A value that may appear only in the bytes of a field.
const CANARY: &str = "canary-3f9b1c";

/// A store that the suite can fill.
pub trait Store: Send + Sync {
    fn backend(&self) -> Arc<dyn Backend>;

    /// What it is configured as.
    fn kind(&self) -> &dyn Kind;

    /// Stores a secret, in place of a former version of it.
    fn put(&self, name: &str, fields: &[(&str, &[u8])]);

    fn remove(&self, name: &str);

    /// Its name in the configuration.
    fn name(&self) -> &str;

    /// The backend that gives its answers.
    fn by(&self) -> &str {
        self.name()
    }

    /// Whether a field may have any bytes; JSON can have only Unicode.
    fn keeps_bytes(&self) -> bool {
        true
    }

    /// Whether its names can have empty elements, which are then written as `~`.
    fn has_empty_elements(&self) -> bool {
        false
    }

    /// The longest time until a change is seen: zero, except with a cache.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }
}

/// Checks every rule, one after another: a store is a process or a folder, and the rules share it.
pub async fn hold(store: &dyn Store) {
    answers_with_what_was_put_in(store).await;
    tells_text_from_binary(store).await;
    shows_a_new_version_when_the_content_changes(store).await;
    pins_versions(store).await;
    says_that_a_secret_is_absent(store).await;
    refuses_names_that_could_mean_two_things(store);
    lists_by_prefix_or_says_that_it_cannot(store).await;
    answers_many_at_once(store).await;
    keeps_to_the_deadline(store).await;
    shares_no_more_than_reads(store);
    shows_no_value(store).await;
}

async fn answers_with_what_was_put_in(store: &dyn Store) {
    store.put("team/db", &[("username", b"app"), ("password", CANARY.as_bytes())]);
    let fetched = fetch(store, &secret(store, "team/db")).await.unwrap();
    assert_eq!(fetched.by.as_str(), store.by());
    assert_eq!(fetched.source, Source::Store);
    let read: Vec<_> = fetched.secret.fields.iter().map(|(name, field)| (name.as_str(), field.bytes.expose())).collect();
    assert_eq!(read, [("password", CANARY.as_bytes()), ("username", b"app".as_slice())]);
}

async fn tells_text_from_binary(store: &dyn Store) {
    let all: [(&str, &[u8]); 2] = [("text", "ü\n".as_bytes()), ("binary", &[0, 0xff, 0xfe])];
    store.put("team/kinds", if store.keeps_bytes() { &all } else { &all[..1] });
    let fetched = fetch(store, &secret(store, "team/kinds")).await.unwrap();
    let kind = |name: &str| fetched.secret.fields.get(name).map(|field| field.kind);
    assert_eq!(kind("text"), Some(FieldKind::Text));
    assert_eq!(kind("binary"), store.keeps_bytes().then_some(FieldKind::Binary));
}

async fn shows_a_new_version_when_the_content_changes(store: &dyn Store) {
    store.put("team/rotated", &[("v", b"1")]);
    let first = fetch(store, &secret(store, "team/rotated")).await.unwrap().secret;
    let again = fetch(store, &secret(store, "team/rotated")).await.unwrap().secret;
    store.put("team/rotated", &[("v", b"2")]);
    sleep(store.lag()).await;
    let second = fetch(store, &secret(store, "team/rotated")).await.unwrap().secret;
    assert_eq!(first.version, again.version, "the same content has the same version");
    assert_eq!(second.fields[&"v".parse::<FieldName>().unwrap()].bytes.expose(), b"2", "a change is seen at the next mount");
    if let (Some(before), Some(after)) = (&first.version, &second.version) {
        assert_ne!(before, after);
    }
}

async fn pins_versions(store: &dyn Store) {
    store.put("team/pinned", &[("v", b"old")]);
    let old = fetch(store, &secret(store, "team/pinned")).await.unwrap().secret;
    store.put("team/pinned", &[("v", b"new")]);
    let Some(version) = &old.version else { return };
    let version = store.kind().pin(version.as_str()).unwrap();
    let pinned = secret(store, "team/pinned").with(|asked| asked.version = Some(version));
    let read = fetch(store, &pinned).await.unwrap().secret;
    assert_eq!(read.fields[&"v".parse::<FieldName>().unwrap()].bytes.expose(), b"old");
    let never = secret(store, "team/pinned").with(|asked| asked.version = store.kind().pin("999999").ok());
    if never.version.is_some() {
        assert_eq!(fetch(store, &never).await.unwrap_err().fault, Fault::NotFound);
    }
}

async fn says_that_a_secret_is_absent(store: &dyn Store) {
    let error = fetch(store, &secret(store, "team/never")).await.unwrap_err();
    assert_eq!(error.fault, Fault::NotFound);
    assert!(error.to_string().starts_with(&format!("{}/team/never: ", store.name())), "{error}");
    store.put("team/removed", &[("v", b"1")]);
    fetch(store, &secret(store, "team/removed")).await.unwrap();
    store.remove("team/removed");
    sleep(store.lag()).await;
    assert_eq!(fetch(store, &secret(store, "team/removed")).await.unwrap_err().fault, Fault::NotFound, "a removed secret is gone at once");
}

fn refuses_names_that_could_mean_two_things(store: &dyn Store) {
    let kind = store.kind();
    for name in ["", "a/../b", "..", ".", "a%2fb", "a?b", "a\\b", "a\0b", "a\nb"] {
        assert!(kind.canonical(name).is_err(), "{name:?}");
    }
    for name in ["/a", "a/", "a//b"] {
        match kind.canonical(name) {
            Ok(canonical) if store.has_empty_elements() => assert!(!canonical.as_str().contains("//"), "{canonical}"),
            Ok(canonical) => panic!("{canonical}"),
            Err(_) => assert!(!store.has_empty_elements(), "{name}"),
        }
    }
    assert_eq!(kind.canonical("team/db").unwrap().as_str(), "team/db", "a name is never rewritten");
}

async fn lists_by_prefix_or_says_that_it_cannot(store: &dyn Store) {
    store.put("list/a", &[("v", b"1")]);
    store.put("list/b/c", &[("v", b"1")]);
    let prefix = SecretPrefix { backend: store.name().parse().unwrap(), prefix: "list/".to_owned(), login: Login::default() };
    match store.backend().list(&prefix, &context()).await {
        Ok(names) => assert_eq!(names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["list/a", "list/b/c"]),
        Err(error) => assert_eq!(error.fault, Fault::Unsupported),
    }
}

async fn answers_many_at_once(store: &dyn Store) {
    for n in 0..8 {
        store.put(&format!("many/s{n}"), &[("v", n.to_string().as_bytes())]);
    }
    let mut calls = JoinSet::new();
    for n in 0..64 {
        let (backend, secret) = (store.backend(), secret(store, &format!("many/s{}", n % 8)));
        calls.spawn(async move { (n % 8, backend.fetch(&secret, &context()).await) });
    }
    while let Some(call) = calls.join_next().await {
        let (n, fetched) = call.unwrap();
        let fields = &fetched.unwrap().secret.fields;
        assert_eq!(fields[&"v".parse::<FieldName>().unwrap()].bytes.expose(), n.to_string().as_bytes());
    }
}

/// If no time is left, a store may still give an answer that it has here; it never makes the mount wait.
async fn keeps_to_the_deadline(store: &dyn Store) {
    let cx = FetchContext { deadline: Instant::now(), ..context() };
    let call = timeout(Duration::from_secs(5), async { store.backend().fetch(&secret(store, "team/never-2"), &cx).await }).await;
    let error = call.expect("it waited on past the deadline").unwrap_err();
    assert!(matches!(error.fault, Fault::NoTurn | Fault::TimedOut | Fault::NotFound), "{error}");
}

fn shares_no_more_than_reads(store: &dyn Store) {
    let backend = store.backend();
    let update = secret(store, "team/db").with(|asked| asked.method = Method::Post);
    assert_eq!(backend.scope(&update, &pod()), Scope::Pod("uid-1".into()), "what makes something is for its Pod alone");
}

async fn shows_no_value(store: &dyn Store) {
    let fetched = fetch(store, &secret(store, "team/db")).await.unwrap();
    let missing = fetch(store, &secret(store, "team/never")).await.unwrap_err();
    let shown = format!("{fetched:?} {missing:?} {missing} {:?}", store.backend());
    assert!(!shown.contains(CANARY), "{shown}");
}

async fn fetch(store: &dyn Store, secret: &SecretRef) -> Result<crate::model::Fetched, BackendError> {
    store.backend().fetch(secret, &context()).await
}

fn secret(store: &dyn Store, name: &str) -> SecretRef {
    SecretRef::read(store.name().parse().unwrap(), store.kind().canonical(name).unwrap())
}

fn context() -> FetchContext {
    FetchContext {
        pod: Arc::new(pod()),
        tokens: Arc::new(PodTokens::default()),
        fresh: None,
        max_stale: None,
        patience: None,
        live: false,
        payer: None,
        party: None,
        called: Called::default(),
        deadline: Instant::now() + Duration::from_secs(30),
    }
}

fn pod() -> PodIdentity {
    PodIdentity::believed(&PodClaims {
        namespace: "team".into(),
        name: "pod".into(),
        uid: "uid-1".into(),
        service_account: "default".into(),
    })
}

/// The fields for a store's writer. Panics if a name is invalid: the suite's names are valid.
pub fn fields(pairs: &[(&str, &[u8])]) -> BTreeMap<FieldName, Field> {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), Field::of_bytes(SecretBytes::new(value.to_vec())))).collect()
}
