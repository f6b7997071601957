use tokio::time::Duration;

use super::*;
use crate::backend::Kind;
use crate::model::{LeaseFor, Version};
use crate::yaml;

fn read(text: &str) -> Result<VaultConfig, String> {
    let node = yaml::parse(text).unwrap();
    let mut faults = Faults::default();
    let mut reader = Reader::of(&node, "backends.bao", &mut faults).unwrap();
    let config = VaultConfig::parse(&mut reader, &mut faults);
    reader.finish(&mut faults);
    let shown: Vec<_> = faults.into_sorted().iter().map(|fault| format!("{}: {fault}", fault.at.line)).collect();
    config.filter(|_| shown.is_empty()).ok_or(shown.join("\n"))
}

fn faults(text: &str) -> String {
    read(text).unwrap_err()
}

fn asked(name: &str, login: Login) -> RefParts {
    RefParts { login, ..RefParts::read("bao".parse().unwrap(), canonical(name).unwrap()) }
}

fn problem(refused: Inadmissible) -> String {
    match refused {
        Inadmissible::Login { key, problem } | Inadmissible::NoLogin { key, problem } => format!("{key} {problem}"),
        Inadmissible::Request { key, problem } => format!("{key} {problem}"),
    }
}

const PLAIN: &str = "address: https://bao:8200\nauth: { method: kubernetes, role: csi }\n";

#[test]
fn the_least_there_can_be() {
    let config = read(PLAIN).unwrap();
    let (mount, role, audience) = ("kubernetes".to_owned(), Some("csi".to_owned()), None);
    assert_eq!(config.auth, Auth::Pod { method: PodMethod::Kubernetes, mount, role, audience });
    assert_eq!((config.namespace.as_str(), config.share, config.cache), ("", Share::ServiceAccount, CacheTimes::default()));
    // Where nobody names an audience, a peer's class may use the default of that peer.
    assert_eq!((config.class_may, config.tls), (ClassMay::default().and(LoginKey::Audience, &["openbao", "vault"]), LoginTls::default()));
}

#[test]
fn all_there_is() {
    let config = read(
        "address: https://bao.bao.svc:8200/\nca: /ca.crt\nserverName: bao.example\nclientCert: /c\nclientKey: /k\nnamespace: /team-a/\n\
         auth: { method: jwt, mount: /jwt/cluster-a/, role: csi, audience: bao }\nshare: pod\n\
         classMay: { role: [\"*\"], namespace: [\"team-${namespace}\"], mount: [], address: [\"https://other:8200\"], audience: [], tls: true, tlsDir: /etc/tls }\n\
         cache: { fresh: 2m, stale: 24h }\n",
    )
    .unwrap();
    assert_eq!(config.address.to_string(), "https://bao.bao.svc:8200");
    assert_eq!(config.namespace, "team-a");
    let (mount, role, audience) = ("jwt/cluster-a".to_owned(), Some("csi".to_owned()), Some("bao".to_owned()));
    assert_eq!(config.auth, Auth::Pod { method: PodMethod::Jwt, mount, role, audience });
    assert_eq!(config.share, Share::Pod);
    assert_eq!(config.tls.client, Some(("/c".into(), "/k".into())));
    assert!(config.class_may.grants(LoginKey::Address) && config.class_may.grants(LoginKey::Tls));
    assert_eq!(config.class_may.tls_dir(), Some(std::path::Path::new("/etc/tls")));
    assert_eq!(config.cache.stale, Some(Duration::from_hours(24)));
}

#[test]
fn the_daemons_own_logins() {
    let auth = |auth: &str| read(&format!("address: https://b\nclientCert: /c\nclientKey: /k\nauth: {auth}")).map(|config| config.auth);
    assert_eq!(
        auth("{ method: approle, roleId: x, secretIdFile: /s }").unwrap(),
        Auth::AppRole { mount: "approle".into(), role_id: RoleId::Text("x".into()), secret_id: Some("/s".into()) }
    );
    assert_eq!(
        auth("{ method: approle, mount: nodes, roleIdFile: /r }").unwrap(),
        Auth::AppRole { mount: "nodes".into(), role_id: RoleId::File("/r".into()), secret_id: None }
    );
    assert_eq!(auth("{ method: cert, role: node }").unwrap(), Auth::Cert { mount: "cert".into(), role: Some("node".into()) });
    assert_eq!(auth("{ method: token, tokenFile: /t }").unwrap(), Auth::Token { file: "/t".into() });
}

#[test]
fn each_fault_says_what_to_do() {
    insta::assert_snapshot!(faults("{}"), @"
    1: backends.bao.address: is missing (where the server is, such as https://bao.bao.svc:8200)
    1: backends.bao.auth: is missing (how Keyferry logs in to the server, such as { method: kubernetes, role: csi })
    ");
    insta::assert_snapshot!(faults("address: bao:8200\nauth: { method: kubernets }\nshare: node\nnamespace: a//b\nca: ''\nclientCert: /c\ncach: 1\n"), @"
    1: backends.bao.address: does not begin with https://, http:// or unix:/// (write for example https://store.example:8200)
    2: backends.bao.auth.method: is not a way to log in (did you mean `kubernetes`?)
    3: backends.bao.share: is not a way to share (known here: serviceAccount, pod)
    4: backends.bao.namespace: has an empty element (`//`, or a `/` at its start or end)
    5: backends.bao.ca: is empty (write a path that starts with /, or leave the key out)
    6: backends.bao.clientCert: needs `clientKey`, which is missing (name both, or neither)
    7: backends.bao.cach: is not a known key (did you mean `cache`?)
    ");
    insta::assert_snapshot!(faults("address: http://bao\nca: /ca\nauth:\n  method: approle\n  role: x\n  audience: y\n  tokenFile: /t\n  roleId: a\n  roleIdFile: /b\n"), @"
    2: backends.bao.ca: is for https, and the address is http://bao (write https://, or remove it)
    5: backends.bao.auth.role: works only with kubernetes, jwt, cert, not with approle (remove it)
    6: backends.bao.auth.audience: works only with kubernetes, jwt, not with approle (remove it)
    7: backends.bao.auth.tokenFile: works only with token, not with approle (remove it)
    9: backends.bao.auth.roleIdFile: cannot be used together with `roleId` (remove one)
    ");
    insta::assert_snapshot!(faults("address: https://bao\nauth: { method: token, mount: x }\n"), @"
    2: backends.bao.auth.tokenFile: is missing (the file that holds the store token)
    2: backends.bao.auth.mount: works only with kubernetes, jwt, approle, cert, not with token (remove it)
    ");
    insta::assert_snapshot!(faults("address: https://bao\nauth: { role: x }\n"), @"2: backends.bao.auth.method: is missing (one of kubernetes, jwt, approle, cert, token)");
    insta::assert_snapshot!(faults("address: https://bao\nauth: { method: cert }\n"), @"2: backends.bao.auth.method: cert logs in with a client certificate, and there is none (set clientCert and clientKey of the backend)");
    insta::assert_snapshot!(faults("address: https://bao\nauth: { method: token, tokenFile: /t }\nclassMay:\n  address: [\"https://x\"]\n  tls: true\n  rol: 1\n"), @"
    4: backends.bao.classMay.address: cannot be granted here: a class could send the daemon's own credentials to any server (log in as the Pod, by kubernetes or jwt; or remove it)
    5: backends.bao.classMay.tls: cannot be granted here: a class could send the daemon's own credentials to any server (log in as the Pod, by kubernetes or jwt; or remove it)
    6: backends.bao.classMay.rol: is not a known key (did you mean `role`?)
    ");
    insta::assert_snapshot!(faults("address: https://bao\nauth: { method: jwt }\nclassMay: { tlsDir: /tls }\n"), @"3: backends.bao.classMay.tlsDir: needs tls: true (set that, or remove it)");
    insta::assert_snapshot!(faults("address: https://bao\nauth: { method: jwt }\nclassMay: { tls: true, tlsDir: tls }\n"), @r#"3: backends.bao.classMay.tlsDir: "tls" is not an absolute path (start it with /)"#);
    insta::assert_snapshot!(faults("address: https://bao\nauth: { method: jwt }\nclassMay: { tls: true, tlsDir: '/tls/${namespace}' }\n"), @r#"3: backends.bao.classMay.tlsDir: "/tls/${namespace}" has a placeholder: the folder is the same for every class (write it out)"#);
    insta::assert_snapshot!(faults("address: https://bao\nauth: { method: jwt }\ncache: { fresh: 2x, stale: never, sealed: x }\n"), @r#"
    3: backends.bao.cache.fresh: "2x" is not a duration (write for example 500ms, 90s, 2m or 24h)
    3: backends.bao.cache.stale: "never" is not a duration (write for example 500ms, 90s, 2m or 24h)
    3: backends.bao.cache.sealed: is not a known key (known here: fresh, stale)
    "#);
}

#[test]
fn names_are_sent_as_they_are_or_refused() {
    for name in ["kv/data/shop/db", "kv/data/a b/ü", "database/creds/app"] {
        assert_eq!(canonical(name).unwrap().as_str(), name);
    }
    for name in ["kv/data/ x", "kv/data/x ", "", "/v1/kv", "a//b", "a?version=1"] {
        assert!(canonical(name).is_err(), "{name:?}");
    }
}

#[test]
fn the_apis_version_is_no_part_of_a_name() {
    let plain = read("address: https://b\nauth: { method: token, tokenFile: /t }").unwrap();
    let told = plain.canonical("v1/kv/data/a").unwrap_err().to_string();
    assert_eq!(told, r#"begins with `v1/`, which belongs to the API, not to a name (write "kv/data/a")"#);
    for name in ["v1", "kv/v1/a", "v1x/a", "V1/a", "v2/a"] {
        assert_eq!(plain.canonical(name).unwrap().as_str(), name);
    }
    let so_called = read("address: https://b\nnamespace: v1\nauth: { method: token, tokenFile: /t }").unwrap();
    assert_eq!(so_called.canonical("v1/kv/data/a").unwrap().as_str(), "v1/kv/data/a");
}

#[test]
fn versions_are_counted_from_one() {
    let config = read("address: https://b\nauth: { method: token, tokenFile: /t }").unwrap();
    assert_eq!(config.pin("3").unwrap().as_str(), "3");
    assert_eq!(config.pin("03").unwrap().as_str(), "3");
    insta::assert_snapshot!(config.pin("0").unwrap_err(), @r#""0" is not a version: KV v2 counts them from 1"#);
    assert!(config.pin("latest").is_err() && config.pin("-1").is_err());
}

#[test]
fn what_the_configuration_says_too_is_not_said() {
    let config = read("address: https://bao:8200\nnamespace: team-a\nauth: { method: jwt, role: csi }\n").unwrap();
    let plain = config.admit(asked("kv/data/x", Login::default())).unwrap();
    assert_eq!(plain.name.as_str(), "team-a/kv/data/x");
    let same = Login {
        address: Some("https://BAO:8200/".into()),
        audience: Some("vault".into()),
        mount: Some("/jwt/".into()),
        namespace: Some("team-a/".into()),
        role: Some("csi".into()),
        tls: Some(Box::default()),
    };
    assert_eq!(config.admit(asked("kv/data/x", same)).unwrap(), plain);
    let other = Login { namespace: Some("/team-b/".into()), role: Some("web".into()), ..Login::default() };
    let other = config.admit(asked("kv/data/x", other)).unwrap();
    assert_eq!(other.name.as_str(), "team-b/kv/data/x");
    assert_eq!(other.login.said(), [(LoginKey::Namespace, "team-b"), (LoginKey::Role, "web")]);
    let root = config.admit(asked("kv/data/x", Login { namespace: Some("root".into()), ..Login::default() })).unwrap();
    assert_eq!((root.name.as_str(), root.login.namespace.as_deref()), ("kv/data/x", Some("root")));
}

#[test]
fn what_means_nothing_there_is_refused() {
    let config = read("address: https://b\nauth: { method: kubernetes }").unwrap();
    insta::assert_snapshot!(problem(config.admit(asked("kv/x", Login::default())).unwrap_err()), @"role is missing: neither the class nor the configuration names a role to log in as (set it in the class, or set auth.role of the backend)");
    let role = Login { role: Some("csi".into()), ..Login::default() };
    for namespace in ["a/../b", "a//b", "a%2fb", "a/ sys", "sys /a", &"n".repeat(1100)] {
        assert!(config.admit(asked("kv/x", Login { namespace: Some(namespace.into()), ..role.clone() })).is_err(), "{namespace}");
    }
    for login in [
        Login { mount: Some("../sys".into()), ..role.clone() },
        Login { mount: Some(String::new()), ..role.clone() },
        Login { role: Some(" ".into()), ..role.clone() },
        Login { audience: Some(String::new()), ..role.clone() },
        Login { address: Some("bao".into()), ..role.clone() },
    ] {
        assert!(config.admit(asked("kv/x", login.clone())).is_err(), "{login:?}");
    }
    let mut posted = RefParts { method: Method::Post, version: Some(Version::new("1")), ..asked("pki/issue/web", role.clone()) };
    insta::assert_snapshot!(problem(config.admit(posted.clone()).unwrap_err()), @"version can be used only with GET: only a read has versions (remove it)");
    (posted.version, posted.lease) = (None, LeaseFor::Shared);
    assert!(config.admit(posted).is_ok());
    let own = read("address: https://b\nauth: { method: token, tokenFile: /t }").unwrap();
    insta::assert_snapshot!(problem(own.admit(asked("kv/x", role)).unwrap_err()), @"role Keyferry logs in to this backend with its own token, so a class cannot choose it (remove it)");
    let namespace = Login { namespace: Some("team-a".into()), ..Login::default() };
    assert_eq!(own.admit(asked("kv/x", namespace)).unwrap().name.as_str(), "team-a/kv/x");
}

/// The texts that version 0.1.0 wrote into the sealed folder: a lease that it kept is found by them.
#[test]
fn the_origin_is_written_as_it_always_was() {
    let origin = |text: &str| read(text).unwrap().facts().origin.as_str().to_owned();
    let written = [
        (
            "address: HTTPS://Bao.example:443/\nauth: { method: kubernetes, role: csi }",
            r#"(Endpoint(https://bao.example), "", Pod { method: Kubernetes, mount: "kubernetes", role: Some("csi"), audience: None })"#,
        ),
        (
            "address: https://b:8200/base\nnamespace: team-a/x\nauth: { method: jwt, mount: kind, audience: bao }",
            r#"(Endpoint(https://b:8200/base), "team-a/x", Pod { method: Jwt, mount: "kind", role: None, audience: Some("bao") })"#,
        ),
        (
            "address: unix:///run/bao.sock\nauth: { method: approle, roleId: \"r\\\"1\", secretIdFile: /s/id }",
            r#"(Endpoint(unix:///run/bao.sock), "", AppRole { mount: "approle", role_id: Text("r\"1"), secret_id: Some("/s/id") })"#,
        ),
        (
            "address: https://b\nauth: { method: approle, roleIdFile: /s/r\u{e4}le, mount: own }",
            r#"(Endpoint(https://b), "", AppRole { mount: "own", role_id: File("/s/räle"), secret_id: None })"#,
        ),
        (
            "address: https://b\nclientCert: /c\nclientKey: /k\nauth: { method: cert, role: node }",
            r#"(Endpoint(https://b), "", Cert { mount: "cert", role: Some("node") })"#,
        ),
        ("address: https://b\nauth: { method: token, tokenFile: /t }", r#"(Endpoint(https://b), "", Token { file: "/t" })"#),
    ];
    for (entry, text) in written {
        assert_eq!(origin(entry), text);
    }
}

/// What Keyferry keeps over a restart depends on the address and the login. It does not depend on keys that change no answer.
#[test]
fn each_part_of_the_login_makes_other_answers() {
    const ALL: &str = "address: https://bao:8200\nca: /ca\nserverName: bao.example\nclientCert: /c\nclientKey: /k\nnamespace: team\n\
                       auth: { method: jwt, mount: jwt, role: csi, audience: bao }\nshare: pod\n";
    let text = |text: &str| read(text).unwrap().hangs_on().to_text();
    // If this text changes, kept answers are lost.
    assert_eq!(
        text(ALL),
        r#"[["kind","vault"],["entered","(Endpoint(https://bao:8200), \"team\", Pod { method: Jwt, mount: \"jwt\", role: Some(\"csi\"), audience: Some(\"bao\") })"],["ca","/ca"],["clientCert","/c"],["clientKey","/k"],["serverName","bao.example"],["share","pod"]]"#
    );
    assert_eq!(
        text(PLAIN),
        r#"[["kind","vault"],["entered","(Endpoint(https://bao:8200), \"\", Pod { method: Kubernetes, mount: \"kubernetes\", role: Some(\"csi\"), audience: None })"]]"#
    );
    let mut texts = vec![text(ALL), text(PLAIN)];
    for (from, to) in [
        ("https://bao:8200", "https://other:8200"),
        ("https://bao:8200", "https://bao:8201"),
        ("https://bao:8200", "https://bao:8200/under"),
        ("/ca", "/other-ca"),
        ("ca: /ca\n", ""),
        ("bao.example", "other.example"),
        ("serverName: bao.example\n", ""),
        ("/c\n", "/other\n"),
        ("/k", "/other"),
        ("team", "team/b"),
        ("method: jwt", "method: kubernetes"),
        ("mount: jwt", "mount: jwt-b"),
        ("role: csi", "role: other"),
        (", role: csi", ""),
        ("audience: bao", "audience: other"),
        ("share: pod", "share: serviceAccount"),
        ("method: jwt, mount: jwt, role: csi, audience: bao", "method: approle, roleId: csi, secretIdFile: /s"),
        ("method: jwt, mount: jwt, role: csi, audience: bao", "method: approle, roleId: csi, secretIdFile: /t"),
        ("method: jwt, mount: jwt, role: csi, audience: bao", "method: approle, roleId: other, secretIdFile: /s"),
        ("method: jwt, mount: jwt, role: csi, audience: bao", "method: approle, roleIdFile: /csi, secretIdFile: /s"),
        ("method: jwt, mount: jwt, role: csi, audience: bao", "method: token, tokenFile: /t"),
        ("method: jwt, mount: jwt, role: csi, audience: bao", "method: token, tokenFile: /u"),
        ("method: jwt, mount: jwt, role: csi, audience: bao", "method: cert, role: csi"),
        ("method: jwt, mount: jwt, role: csi, audience: bao", "method: cert"),
    ] {
        assert!(ALL.contains(from), "{from}");
        let other = text(&ALL.replacen(from, to, 1));
        assert!(!texts.contains(&other), "{from} -> {to}: {other}");
        texts.push(other);
    }
    for same in ["storeWords: false", "cache: { fresh: 1m, stale: 1h }", "classMay: { role: [\"*\"] }"] {
        assert_eq!(text(&format!("{ALL}{same}\n")), text(ALL), "{same}");
    }
}
