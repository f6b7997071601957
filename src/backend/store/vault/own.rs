//! The store's own paths in its API: the roots `auth`, `sys`, `identity` and `cubbyhole`, in every namespace. With them a login can do all
//! that its policies allow. It could even give its own token away. So a wildcard of a policy does not match them, and no class can have the
//! paths of Keyferry's own login.
//!
//! The name alone does not always decide. The namespace is a part of it, so `a/b/sys/x` may be a path of namespace `a/b`, or a secret of an
//! engine at `a`. It counts as the store's own unless it is clearly a secret: it has an element that KV v2 puts after its mount
//! (`kv/data/sys/x`), or it is shorter than any path of the API. But a namespace can have the name of such an element. For such a name,
//! Keyferry first asks the store which engine it is in ([`doubtful`]).

use std::borrow::Cow;

use crate::model::{Method, SecretRef};
use crate::policy::Reserve;

/// In lower case. No namespace can have one of these names (both servers refuse it).
const ROOTS: [&str; 4] = ["auth", "cubbyhole", "identity", "sys"];

/// What is between the mount of KV v2 and a secret's name (see its API page).
const OF_KV: [&str; 7] = [DATA, "delete", "destroy", "detailed-metadata", "metadata", "subkeys", "undelete"];

/// Where KV v2 has the secrets themselves.
const DATA: &str = "data";

/// What a class writes as `namespace` for the root namespace.
const ROOT_NAMESPACE: &str = super::config::ROOT_NAMESPACE;

/// What policy has to know of a request: [`crate::policy::Own::judge`]. `namespace` is the configuration's.
pub(super) fn judge(secret: &SecretRef, namespace: &str) -> Reserve {
    let elements: Vec<&str> = secret.name.as_str().split('/').collect();
    let roots = roots(&elements, depth(secret, namespace));
    let spelled = roots.iter().flat_map(|at| [*at, at + 1]).filter(|at| *at < elements.len()).collect();
    let never = roots.iter().find_map(|at| never(&lower(&elements[*at..]), secret));
    Reserve { spelled, never }
}

/// For a name that counts as a secret only because it has a word of KV v2. It may also be a path of the API, in a namespace that is called
/// like this word. Gives the place of the root that the path then has. If the name is a secret, its mount ends before that place.
pub(super) fn doubtful(secret: &SecretRef, namespace: &str) -> Option<usize> {
    let elements: Vec<&str> = secret.name.as_str().split('/').collect();
    let word = kv_word(&elements, depth(secret, namespace))?;
    (word + 1..elements.len()).find(|at| is_root(&elements, *at, false))
}

/// Where the store lists a folder. KV v2 lists below `metadata/` instead of `data/`; everything else lists where the folder is. A folder
/// `data` of KV v1 counts as KV v2's.
pub(super) fn listed_at<'s>(folder: &'s SecretRef, namespace: &str) -> Cow<'s, str> {
    let name = folder.name.without_slash();
    let elements: Vec<&str> = name.split('/').collect();
    match kv_word(&elements, depth(folder, namespace)) {
        Some(at) if elements[at] == DATA => [&elements[..at], &["metadata"], &elements[at + 1..]].concat().join("/").into(),
        Some(_) | None => name.into(),
    }
}

/// How many elements of the name are its namespace, as the class or the configuration says.
pub(super) fn depth(secret: &SecretRef, namespace: &str) -> usize {
    let namespace = match secret.login.namespace.as_deref() {
        None => namespace,
        Some(ROOT_NAMESPACE) => "",
        Some(namespace) => namespace,
    };
    if namespace.is_empty() { 0 } else { namespace.split('/').count() }
}

/// Where a path of the store's own may begin.
fn roots(elements: &[&str], depth: usize) -> Vec<usize> {
    let (end, mut found) = (kv_word(elements, depth).unwrap_or(elements.len()), Vec::new());
    // Also within the class's namespace. The class may write anything there, and a longer namespace makes fewer names count as secrets.
    for at in 0..end {
        if is_root(elements, at, at <= depth) {
            found.push(at);
        }
        // No namespace has this name, so what follows is not in one.
        if ROOTS.contains(&elements[at]) {
            break;
        }
    }
    found
}

/// The first word of KV v2 after what can be a mount.
fn kv_word(elements: &[&str], depth: usize) -> Option<usize> {
    (depth + 1..elements.len()).find(|at| OF_KV.contains(&elements[*at]))
}

/// `certain`: what comes before is a namespace.
fn is_root(elements: &[&str], at: usize, certain: bool) -> bool {
    let behind = elements.len() - at - 1;
    match elements[at].trim().to_ascii_lowercase().as_str() {
        // It is at least `auth/<mount>/<what>`: `database/creds/auth` and `kv1/auth/db` are not such paths.
        "auth" => certain || behind >= 2,
        "sys" | "identity" => certain || behind >= 1,
        "cubbyhole" => true,
        _ => false,
    }
}

fn lower(elements: &[&str]) -> Vec<String> {
    elements.iter().map(|element| element.trim().to_ascii_lowercase()).collect()
}

/// Why no rule can allow it: it belongs to a login, Keyferry's or another. `path` begins with its root.
fn never(path: &[String], secret: &SecretRef) -> Option<&'static str> {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["cubbyhole", ..] => Some("the cubbyhole belongs to Keyferry's own store token"),
        ["auth", "token", ..] => Some("auth/token is for Keyferry's own store token"),
        ["auth", _, rest @ ..] if logs_in(rest) => Some("only Keyferry logs in to the store"),
        ["sys", "mfa", "validate", ..] => Some("only Keyferry logs in to the store"),
        ["sys", "raw", ..] => Some("the store's own records contain tokens of others"),
        ["sys", "wrapping", rest @ ..] if !unwraps_own(rest, secret) => {
            Some("a class can only use unwrap of sys/wrapping, by POST or PUT, with the class's own wrapping `token` in the arguments")
        }
        ["sys", "leases", ..] => Some("only Keyferry renews and revokes leases"),
        ["sys", what, ..] if what.starts_with("renew") || what.starts_with("revoke") => Some("only Keyferry renews and revokes leases"),
        _ => None,
    }
}

/// `rest` follows the first element of the mount. A mount may have more elements: `approle/login`, `oidc/oidc/callback`. But a role may be
/// called `login-service`, and have something below it.
fn logs_in(rest: &[&str]) -> bool {
    (0..rest.len()).any(|at| {
        let named = at > 0 && matches!(rest[at - 1], "role" | "roles") && at + 1 < rest.len();
        let ends = rest[at] == "callback" || rest[at] == "poll" && at > 0 && rest[at - 1] == "oidc";
        !named && (rest[at].starts_with("login") || ends)
    })
}

fn unwraps_own(rest: &[&str], secret: &SecretRef) -> bool {
    let makes = matches!(secret.method, Method::Post | Method::Put);
    rest == ["unwrap"] && makes && secret.args.text("token").is_some_and(|token| !token.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Args, Login};

    fn secret(name: &str) -> SecretRef {
        SecretRef::read("bao".parse().unwrap(), name.parse().unwrap())
    }

    fn spelled(name: &str, namespace: &str) -> String {
        let of = secret(name);
        let elements: Vec<&str> = name.split('/').collect();
        judge(&of, namespace).spelled.iter().map(|at| elements[*at]).collect::<Vec<_>>().join("/")
    }

    fn is_nobodys(name: &str) -> bool {
        judge(&secret(name), "").never.is_some()
    }

    #[test]
    fn the_stores_own_has_to_be_spelled_in_every_namespace_and_spelling() {
        for (name, first) in [
            ("sys/mounts", "sys/mounts"),
            ("sys", "sys"),
            ("auth/approle", "auth/approle"),
            ("auth/approle/role/R/secret-id", "auth/approle"),
            ("identity/oidc/token/r", "identity/oidc"),
            ("Sys/Mounts", "Sys/Mounts"),
            ("SYS/tools/random", "SYS/tools"),
            ("team-a/sys/mounts", "sys/mounts"),
            ("team-a/web/auth/approle/role/R", "auth/approle"),
            ("a/b/c/identity/entity", "identity/entity"),
            ("data/sys/mounts", "sys/mounts"),
            ("auth/approle/role/sys/secret-id", "auth/approle"),
            ("sys/policies/acl/auth/x/y", "sys/policies"),
            // A namespace can be called so, and have an `auth` of its own.
            ("AUTH/auth/approle/role", "AUTH/auth/auth/approle"),
        ] {
            assert_eq!(spelled(name, ""), first, "{name}");
        }
    }

    #[test]
    fn secrets_are_what_they_were() {
        for name in [
            "kv-auth/data/x",
            "auth-kv/data/x",
            "systems/x",
            "secret/data/auth/x",
            "secret/data/auth/google/client",
            "secret/metadata/sys/x",
            "team-a/kv/data/identity/x",
            "kv/team/data/sys/mounts",
            "database/creds/auth",
            "database/creds/sys",
            "pki/issue/identity",
            "kv1/auth/db",
            "transit/hmac/auth/sha2-256",
            "kv/data/cubbyhole/x",
        ] {
            assert_eq!(judge(&secret(name), ""), Reserve::default(), "{name}");
        }
    }

    #[test]
    fn kv_v2_lists_below_metadata() {
        let folder = |name: &str| secret(&format!("{name}x")).with(|parts| parts.name = parts.name.folder().unwrap());
        for (name, namespace, at) in [
            ("kv/data/shop/certs/", "", "kv/metadata/shop/certs"),
            ("kv/data/", "", "kv/metadata"),
            ("kv/shop/certs/", "", "kv/shop/certs"),
            ("team/kv/data/data/x/", "", "team/kv/metadata/data/x"),
            ("data/kv/data/x/", "data", "data/kv/metadata/x"),
            ("kv/metadata/data/", "", "kv/metadata/data"),
            ("data/x/", "", "data/x"),
        ] {
            assert_eq!(listed_at(&folder(name), namespace), at, "{name}");
        }
    }

    #[test]
    fn what_is_known_to_be_a_namespace_is_no_engine() {
        // In the namespace `org/data`, not in an engine `org`.
        assert_eq!(spelled("org/data/sys/mounts", "org/data"), "sys/mounts");
        assert_eq!(spelled("org/data/kv/data/sys/x", "org/data"), "");
        let login = Login { namespace: Some("org/data".into()), ..Login::default() };
        let of_class = secret("org/data/sys/mounts").with(|asked| asked.login = login);
        assert_eq!(judge(&of_class, "").spelled, [2, 3]);
        // A class may call anything its namespace.
        for namespace in ["team-a/auth", "team-a/auth/token", "team-a", "root"] {
            let login = Login { namespace: Some(namespace.into()), ..Login::default() };
            assert!(judge(&secret("team-a/auth/token/lookup-self").with(|asked| asked.login = login), "").never.is_some(), "{namespace}");
        }
        assert!(
            judge(
                &secret("x/data/sys/y").with(|asked| asked.login = Login { namespace: Some("root".into()), ..Login::default() }),
                "x/data"
            )
            .spelled
            .is_empty()
        );
    }

    #[test]
    fn names_that_only_a_word_makes_secrets_are_doubtful() {
        assert_eq!(doubtful(&secret("org/data/sys/mounts"), ""), Some(2));
        assert_eq!(doubtful(&secret("org/data/auth/token/lookup-self"), ""), Some(2));
        assert_eq!(doubtful(&secret("org/data/web/auth/approle/role/r"), ""), Some(3));
        assert_eq!(doubtful(&secret("org/data/auth/x"), ""), None);
        assert_eq!(doubtful(&secret("kv/data/shop/db"), ""), None);
        assert_eq!(doubtful(&secret("sys/mounts"), ""), None);
        assert_eq!(doubtful(&secret("org/data/sys/mounts"), "org/data"), None, "a rule has to spell that");
    }

    #[test]
    fn the_logins_own_business_is_nobodys() {
        for name in [
            "auth/token/lookup-self",
            "auth/token/create",
            "auth/token",
            "auth/token/accessors",
            "AUTH/Token/lookup-self",
            "AUTH/auth/token/lookup-self",
            "team-a/auth/token/lookup-self",
            "a/b/auth/token/create-orphan",
            "auth/approle/login",
            "auth/userpass/login/bob",
            "auth/a/b/login",
            "auth/approle/role/login",
            "auth/oidc/oidc/callback",
            "auth/oidc/oidc/poll",
            "auth/saml/callback",
            "cubbyhole",
            "cubbyhole/x",
            "team-a/cubbyhole/x",
            "sys/leases/lookup",
            "sys/leases/lookup/database/creds/app",
            "sys/renew",
            "sys/renew/x",
            "sys/revoke",
            "sys/revoke-force/database",
            "sys/revoke-prefix/database",
            "sys/wrapping/wrap",
            "sys/wrapping/lookup",
            "sys/wrapping/rewrap",
            "sys/wrapping/unwrap",
            "sys/raw/core/x",
            "sys/mfa/validate",
        ] {
            assert!(is_nobodys(name), "{name}");
        }
        for name in [
            "auth/approle/role/R/secret-id",
            "auth/approle/role/login-service/secret-id",
            "auth/approle/role/R/role-id",
            "auth/kubernetes/role/x",
            "sys/tools/random",
            "sys/policies/acl/x",
            "sys/internal/ui/mounts",
            "identity/oidc/token/r",
            "secret/data/auth/token/github",
        ] {
            assert!(!is_nobodys(name), "{name}");
        }
    }

    #[test]
    fn a_class_unwraps_with_a_token_of_its_own_alone() {
        let with = |method, token: serde_json::Value| {
            let mut args = Args::default();
            args.insert("token", &token);
            judge(&secret("sys/wrapping/unwrap").with(|asked| (asked.method, asked.args) = (method, args)), "").never
        };
        assert_eq!(with(Method::Post, json!("s.own")), None);
        assert_eq!(with(Method::Put, json!("s.own")), None);
        for (method, token) in
            [(Method::Get, json!("s.own")), (Method::Post, json!("")), (Method::Post, json!(" ")), (Method::Put, json!(null))]
        {
            assert!(with(method, token).is_some());
        }
    }
}
