//! `check` refuses what `serve` refuses without a look at the machine, in the same words. The tests give the same configurations to both.

use std::path::Path;

use crate::folder;
use crate::support::{keyferry, run};

/// A configuration without a fault, in parts.
const BACKENDS: &str = "files: { kind: file, vault: /v, identity: /k }";
const VERIFIED: &str = "identity: { issuer: \"https://oidc.example\", jwks: { file: /jwks.json } }";

fn with(identity: &str, backends: &str, rules: &str, more: &str) -> String {
    format!("{identity}\nbackends:\n  {backends}\npolicy: [{rules}]\n{more}\n")
}

fn configurations() -> Vec<String> {
    let more = |more: &str| with(VERIFIED, BACKENDS, "", more);
    let backend = |backend: &str| with(VERIFIED, &format!("b: {backend}"), "", "");
    let rule = |rule: &str| with(VERIFIED, BACKENDS, rule, "");
    let unverified = |backend: &str| with("identity: { verify: driver }", &format!("b: {backend}"), "", "");
    let identity = |identity: &str| with(&format!("identity: {identity}"), BACKENDS, "", "");
    let long = format!("/{}", "x".repeat(90));
    vec![
        more(&format!("socketDir: {long}")),
        more(&format!("providers: [vault, keyferry]\nsocketDir: {}", &long[..88])),
        more("socketDir: run/sockets"),
        more("stateDir: state"),
        more("kubeletDir: ./kubelet"),
        more("versionKey: version.key"),
        more("audit: { file: audit.log }"),
        more("cache: { sealed: { dir: cache, key: [cache.key, \"\"] } }"),
        more("socketMode: \"0777\""),
        more("allowedPeers: [65534]"),
        more("delivery: kubelet"),
        more("limits: { memory: 8MiB }"),
        more("limits: { memory: 180MiB }\ndelivery: provider"),
        more("limits: { memory: 256MiB, mountBytes: 100MiB }"),
        more("limits: { mounts: 0 }"),
        more("metrics: { listen: localhost }"),
        more("dialects: { vault: { backend: files } }"),
        more("nonsense: 1"),
        backend("{ kind: file, vault: vault, identity: [/k, age.key] }"),
        backend("{ kind: file, vault: \"\", identity: /k }"),
        backend("{ kind: file, vault: \"/v\\n\", identity: /k }"),
        backend("{ kind: vault, address: \"https://bao\", ca: ca.crt, auth: { method: token, tokenFile: token } }"),
        backend("{ kind: vault, address: \"https://bao\", serverName: \"not a name\", auth: { method: kubernetes } }"),
        backend("{ kind: vault, address: \"https://under_score-.example\", auth: { method: kubernetes } }"),
        backend(&format!("{{ kind: vault, address: \"unix:///{long}{long}\", auth: {{ method: kubernetes }} }}")),
        backend("{ kind: vault, address: bao, auth: { method: cert } }"),
        backend("{ kind: vault, address: \"https://bao\", auth: { method: jwt }, classMay: { namespace: [\"$namespace\"] } }"),
        backend("{ kind: http, url: \"https://s.example/${name}\", auth: { bearer: { file: token } } }"),
        backend("{ kind: http, url: \"https://s.example/{name}\", serverName: \"a b\", headers: { X-Key: { file: key } } }"),
        backend("{ kind: s3 }"),
        unverified("{ kind: vault, address: \"https://bao\", auth: { method: kubernetes, role: csi } }"),
        unverified("{ kind: vault, address: \"https://bao\", auth: { method: jwt, audience: bao } }"),
        unverified("{ kind: http, url: \"https://s.example/{name}\", auth: { bearer: { podToken: store } } }"),
        identity("{ jwks: { file: jwks.json } }"),
        identity("{ jwks: { url: \"https://oidc.example/keys\", ca: ca.crt, tokenFile: token } }"),
        identity("{ jwks: { url: \"https://me@oidc.example/keys\" } }"),
        identity("{ jwks: { url: \"https://oidc_.example-/keys\" } }"),
        identity("{ audience: vault }").replace(BACKENDS, "b: { kind: vault, address: \"https://bao\", auth: { method: jwt } }"),
        rule("{ pods: { namespace: shop }, deny: [\"file/shop/db\"] }"),
        rule("{ pods: { namespace: Shop }, read: [\"files/shop/db\"] }"),
        rule("{ pods: { namespace: \"\" }, update: [\"files/shop/db\"] }"),
        rule("{ pods: { namespace: shop }, deny: [] }"),
        "backends: [\n".to_owned(),
    ]
}

/// The faults that a command reports about the file, without the word `error` of each and the last line of `check`, which counts them.
fn faults(command: &str, file: &Path, code: i32) -> String {
    let arguments = [command, "--config", file.to_str().unwrap()];
    let (ended, out, errors) = run(keyferry().args(arguments), "");
    assert_eq!(ended, code, "{out}{errors}");
    let start = format!("{}:", file.display());
    let lines = out
        .lines()
        .chain(errors.lines())
        .filter_map(|line| line.trim_start_matches("error: ").strip_prefix(&start))
        .filter(|line| !line.starts_with(' '));
    lines.map(|line| line.replacen(": error: ", ": ", 1) + "\n").collect()
}

#[test]
fn serve_and_check_refuse_in_the_same_words() {
    let folder = folder::new();
    let file = folder.path().join("keyferry.yaml");
    let mut all = String::new();
    for text in configurations() {
        std::fs::write(&file, &text).unwrap();
        let (served, checked) = (faults("serve", &file, 2), faults("check", &file, 1));
        assert_eq!(served, checked, "{text}");
        assert!(!served.is_empty(), "{text}");
        all.push_str(&served);
    }
    insta::assert_snapshot!(all, @r#"
    5:12: socketDir: /xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/keyferry.sock: while it is made, the socket's path has 114 bytes, and the system allows 107 (choose a shorter socketDir)
    6:12: socketDir: /xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/vault.sock: while it is made, the socket's path has 108 bytes, and the system allows 107 (choose a shorter socketDir)
    5:12: socketDir: "run/sockets" is not an absolute path (start it with /)
    5:11: stateDir: "state" is not an absolute path (start it with /)
    5:13: kubeletDir: "./kubelet" is not an absolute path (start it with /)
    5:13: versionKey: "version.key" is not an absolute path (start it with /)
    5:16: audit.file: "audit.log" is not an absolute path (start it with /)
    5:25: cache.sealed.dir: "cache" is not an absolute path (start it with /)
    5:38: cache.sealed.key: "cache.key" is not an absolute path (start it with /)
    5:49: cache.sealed.key: is empty (write a path that starts with /, or leave the key out)
    5:13: socketMode: "0777" would let every user of the node ask for any Pod's secrets (use "0600")
    5:16: allowedPeers: 65534 is the id of every user of another user namespace: it cannot be allowed (remove it)
    5:11: delivery: "kubelet" is not a way to deliver (write driver or provider)
    5:19: limits.memory: 8MiB is not enough. Mounts can use 3MiB of it, and need 52.1MiB: 36.1MiB for two mounts of limits.mountBytes = 3.5MiB, and 16MiB for limits.mounts = 512 small ones (set limits.memory, or the container's memory limit, to at least 140MiB, or lower limits.mountBytes or limits.mounts)
    5:19: limits.memory: 135MiB is not enough. Mounts can use 50.6MiB of it, and need 52.1MiB: 36.1MiB for two mounts of limits.mountBytes = 3.5MiB, and 16MiB for limits.mounts = 512 small ones (set limits.memory, or the container's memory limit, to at least 140MiB, or lower limits.mountBytes or limits.mounts); with `delivery: provider`, limits.volumeBytes = 47185920 bytes are for volumes and not in these figures: add them
    5:19: limits.memory: 256MiB is not enough. Mounts can use 96MiB of it, and need 824.1MiB: 808.1MiB for two mounts of limits.mountBytes = 100MiB, and 16MiB for limits.mounts = 512 small ones (set limits.memory, or the container's memory limit, to at least 2198MiB, or lower limits.mountBytes or limits.mounts)
    5:19: limits.mounts: "0" is not a count (write a whole number from 1 to 100000)
    5:20: metrics.listen: "localhost" is not an address to listen at (write for example 127.0.0.1:8095; port 0 takes a free one)
    5:31: dialects.vault.backend: "files" cannot serve classes of the dialect vault (name a backend of the kind vault)
    5:1: nonsense: is not a known key (known here: providers, socketDir, socketMode, allowedPeers, stateDir, kubeletDir, versionKey, identity, backends, defaultBackend, policy, dialects, limits, cache, leases, delivery, audit, metrics, events, log)
    3:27: backends.b.vault: "vault" is not an absolute path (start it with /)
    3:49: backends.b.identity: "age.key" is not an absolute path (start it with /)
    3:27: backends.b.vault: is empty (write a path that starts with /, or leave the key out)
    3:27: backends.b.vault: "/v\n" has a control character (is there a quote or an escape too many?)
    3:49: backends.b.ca: "ca.crt" is not an absolute path (start it with /)
    3:91: backends.b.auth.tokenFile: "token" is not an absolute path (start it with /)
    3:57: backends.b.serverName: "not a name" is not a name that a server's certificate could be for
    3:30: backends.b.address: "under_score-.example" is not a name that a server's certificate could be for
    3:30: backends.b.address: has a path of over 107 bytes, which the system does not allow for a socket (choose a shorter one)
    3:30: backends.b.address: does not begin with https://, http:// or unix:/// (write for example https://store.example:8200)
    3:41: backends.b.auth.method: cert logs in with a client certificate, and there is none (set clientCert and clientKey of the backend)
    3:92: backends.b.classMay.namespace: "$namespace": "$namespace" is not a placeholder (did you mean "${namespace}"?)
    3:25: backends.b.url: has ${name}, which is not a placeholder (write {name})
    3:78: backends.b.auth.bearer.file: "token" is not an absolute path (start it with /)
    3:65: backends.b.serverName: "a b" is not a name that a server's certificate could be for
    3:98: backends.b.headers.X-Key.file: "key" is not an absolute path (start it with /)
    3:14: backends.b.kind: "s3" is not a kind of backend (this version serves: failover, aws, file, http, vault)
    3:51: backends.b.auth: Keyferry logs in here with the Pods' own tokens, but with identity.verify: driver it verifies no token and sends none to a store (set identity.verify to jwks or token-review, or choose a login with the daemon's own credentials)
    3:76: backends.b.auth: Keyferry logs in here with the Pods' own tokens, but with identity.verify: driver it verifies no token and sends none to a store (set identity.verify to jwks or token-review, or choose a login with the daemon's own credentials)
    3:81: backends.b.auth: Keyferry logs in here with the Pods' own tokens, but with identity.verify: driver it verifies no token and sends none to a store (set identity.verify to jwks or token-review, or choose a login with the daemon's own credentials)
    1:27: identity.jwks.file: "jwks.json" is not an absolute path (start it with /)
    1:59: identity.jwks.ca: "ca.crt" is not an absolute path (start it with /)
    1:78: identity.jwks.tokenFile: "token" is not an absolute path (start it with /)
    1:26: identity.jwks.url: has a user in it (leave out what is before the @)
    1:26: identity.jwks.url: "oidc_.example-" is not a name that a server's certificate could be for
    3:51: backends.b.auth.audience: is "vault" by default, and so is identity.audience: Keyferry gives no store a Pod's token for Keyferry itself (name the store's own audience, and add it to tokenRequests of the CSIDriver object)
    4:46: policy rule 1.deny: "file/shop/db": there is no backend "file" (did you mean "files/shop/db"?)
    4:31: policy rule 1.pods.namespace: "Shop" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; did you mean "shop"?)
    4:31: policy rule 1.pods.namespace: "" fits no namespace (1 to 63 of a-z, 0-9 and `-`, a letter or digit at both ends; `*` is any run of characters, and nothing else is special)
    4:46: policy rule 1.update: "files/shop/db": files only reads, and nothing is updated there (write it under `read`, or remove it)
    4:45: policy rule 1.deny: is empty, and the rule has no other pattern: it says nothing (add one, or remove the rule)
    1:11: not valid YAML: unclosed bracket '[' (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)
    "#);
}
