use super::*;

const MINIMAL: &str = "identity: { verify: driver }\nbackends: { files: { kind: file, vault: /v, identity: /k } }\npolicy: []\n";

fn faults(text: &str) -> String {
    let faults = Config::parse(text).unwrap_err();
    ConfigError::Faults { file: "keyferry.yaml".into(), faults }.to_string()
}

#[test]
fn the_least_that_is_needed_has_documented_defaults() {
    let config = Config::parse(MINIMAL).unwrap();
    assert_eq!(config.sockets.providers, ["keyferry"]);
    assert_eq!(config.sockets.dir, Path::new("/var/run/secrets-store-csi-providers"));
    assert_eq!((config.sockets.mode, config.sockets.allowed_peers.as_slice()), (0o600, [0].as_slice()));
    assert_eq!((config.state_dir.as_path(), config.kubelet_dir.as_path()), (Path::new("/var/lib/keyferry"), Path::new("/var/lib/kubelet")));
    let (secret_bytes, mount_bytes, timeout) = (1 << 20, 3_670_016, Duration::from_secs(90));
    assert_eq!(
        config.limits,
        Limits {
            objects: 512,
            class_bytes: 256 * 1024,
            files: 4096,
            secret_bytes,
            mount_bytes,
            memory: None,
            volume_bytes: None,
            mounts: 512,
            per_backend: 64,
            timeout
        }
    );
    assert_eq!(config.audit, AuditConfig::default());
    assert_eq!(config.metrics, None);
    assert_eq!((config.sealed, config.leases), (None, LeasesConfig { revoke_at_shutdown: false }));
    assert_eq!(config.cache, CacheConfig { fresh: Duration::from_mins(2), stale: Duration::ZERO });
}

#[test]
fn every_key_is_read() {
    let text = "
providers: [keyferry, vault]
socketDir: /run/s
socketMode: \"0660\"
allowedPeers: [0, 1000]
stateDir: /state
kubeletDir: /kubelet
versionKey: /version.key
identity: { verify: jwks, audience: keyferry, issuer: https://oidc.example, jwks: { file: /jwks.json } }
backends: { files: { kind: file, vault: /v, identity: [/a, /b] } }
policy: [{ pods: { namespace: \"*\" }, read: [\"files/${namespace}/**\"] }]
cache: { fresh: 90s, stale: 24h, sealed: { dir: /cache, key: [/new, /old] } }
leases: { revokeAtShutdown: true }
delivery: driver
limits: { objects: 2, classBytes: 1KiB, files: 3, secretBytes: 2MiB, mountBytes: 3MiB, memory: 128MiB, volumeBytes: 5MiB, mounts: 4, perBackend: 5, timeout: 6s }
audit: { file: /audit.log, failClosed: true }
metrics: { listen: 127.0.0.1:0 }
events: { enabled: false }
log: { format: text, level: debug }
";
    let config = Config::parse(text).unwrap();
    assert_eq!((config.sockets.mode, config.sockets.allowed_peers.as_slice()), (0o660, [0, 1000].as_slice()));
    let (secret_bytes, mount_bytes, timeout) = (2 << 20, 3 << 20, Duration::from_secs(6));
    assert_eq!(
        config.limits,
        Limits {
            objects: 2,
            class_bytes: 1024,
            files: 3,
            secret_bytes,
            mount_bytes,
            memory: Some(128 << 20),
            volume_bytes: Some(5 << 20),
            mounts: 4,
            per_backend: 5,
            timeout
        }
    );
    assert_eq!(config.audit, AuditConfig { file: Some("/audit.log".into()), fail_closed: true, ..AuditConfig::default() });
    assert_eq!(config.sealed, Some(SealedConfig { dir: "/cache".into(), keys: vec!["/new".into(), "/old".into()], bytes: 64 << 20 }));
    assert_eq!(config.leases, LeasesConfig { revoke_at_shutdown: true });
    assert_eq!(config.cache, CacheConfig { fresh: Duration::from_secs(90), stale: Duration::from_hours(24) });
    assert_eq!(config.metrics, Some("127.0.0.1:0".parse().unwrap()));
}

#[test]
fn the_daemons_own_audience_is_no_stores() {
    let text = r#"
identity: { verify: token-review, audience: own }
backends:
  a: { kind: vault, address: "https://bao", auth: { method: jwt, audience: own } }
  b:
    kind: http
    url: "https://store/{name}"
    auth:
      bearer:
        podToken: own
  c:
    kind: vault
    address: https://bao
    auth: { method: kubernetes, role: r, audience: bao }
    classMay:
      audience: [bao, own]
  d: { kind: vault, address: "https://bao", auth: { method: jwt, audience: bao }, classMay: { audience: ["*", "o*"] } }
policy: []
"#;
    insta::assert_snapshot!(faults(text), @r#"
    keyferry.yaml:4:76: backends.a.auth.audience: "own" is identity.audience: Keyferry gives no store a Pod's token for Keyferry itself (name the store's own audience, and add it to tokenRequests of the CSIDriver object)
    keyferry.yaml:10:19: backends.b.auth.bearer.podToken: "own" is identity.audience: Keyferry gives no store a Pod's token for Keyferry itself (name the store's own audience, and add it to tokenRequests of the CSIDriver object)
    keyferry.yaml:16:23: backends.c.classMay.audience: "own" is identity.audience: Keyferry gives no store a Pod's token for Keyferry itself (name the store's own audience, and add it to tokenRequests of the CSIDriver object)
    "#);
    let defaults = text.replace("audience: own", "audience: vault");
    let defaults = defaults.split("  a: ").next().unwrap().to_owned();
    insta::assert_snapshot!(faults(&format!("{defaults}  bao: {{ kind: vault, address: \"https://bao\", auth: {{ method: jwt }} }}\npolicy: []\n")), @r#"
    keyferry.yaml:4:53: backends.bao.auth.audience: is "vault" by default, and so is identity.audience: Keyferry gives no store a Pod's token for Keyferry itself (name the store's own audience, and add it to tokenRequests of the CSIDriver object)
    "#);
    let of_a_peer = MINIMAL.replace("verify: driver", "verify: token-review, audience: openbao");
    Config::parse(&of_a_peer.replace("files: {", "bao: { kind: vault, address: \"https://bao\", auth: { method: jwt } }, files: {"))
        .unwrap();
    let by_default = "backends: { bao: { kind: http, url: \"https://s/{name}\", auth: { bearer: { podToken: keyferry } } } }\nidentity: { verify: token-review }\npolicy: []\n";
    insta::assert_snapshot!(faults(by_default), @r#"keyferry.yaml:1:85: backends.bao.auth.bearer.podToken: "keyferry" is identity.audience: Keyferry gives no store a Pod's token for Keyferry itself (name the store's own audience, and add it to tokenRequests of the CSIDriver object)"#);
}

#[test]
fn all_faults_come_at_once_with_line_key_and_remedy() {
    let text = "
providers: [keyfery, vault, vault]
socketDir: run/s
socketMode: \"0666\"
allowedPeers: [root, 65534]
identty: {}
backends:
  a/b: { kind: file }
  bao: { kind: vault, address: x }
  s3: { kind: s3 }
  none: {}
limits: { objects: 0, secretBytes: 1MB, timeout: 10ms }
audit: { file: [x], failClosed: yes, alerts: { rule: denials } }
metrics: { listen: localhost }
delivery: csi
dialects: { vault: { backend: bao } }
log: { format: xml, level: loud }
cache: { fresh: soon, sealed: {} }
events: { enabled: yes }
";
    insta::assert_snapshot!(faults(text), @r#"
    keyferry.yaml:2:1: policy: is missing (nothing is allowed without rules; an empty list [] denies everything)
    keyferry.yaml:2:13: providers: "keyfery" is not a provider name (known: keyferry, vault, openbao, aws, azure, gcp)
    keyferry.yaml:2:29: providers: "vault" is there twice (remove one)
    keyferry.yaml:3:12: socketDir: "run/s" is not an absolute path (start it with /)
    keyferry.yaml:4:13: socketMode: "0666" would let every user of the node ask for any Pod's secrets (use "0600")
    keyferry.yaml:5:16: allowedPeers: "root" is not a user id (write a number, such as 0 for root)
    keyferry.yaml:5:22: allowedPeers: 65534 is the id of every user of another user namespace: it cannot be allowed (remove it)
    keyferry.yaml:6:1: identty: is not a known key (did you mean `identity`?)
    keyferry.yaml:8:3: backends.a/b: "a/b" is not a backend name: 1 to 63 of a-z, A-Z, 0-9, `-` and `_`
    keyferry.yaml:9:8: backends.bao.auth: is missing (how Keyferry logs in to the server, such as { method: kubernetes, role: csi })
    keyferry.yaml:9:32: backends.bao.address: does not begin with https://, http:// or unix:/// (write for example https://store.example:8200)
    keyferry.yaml:10:15: backends.s3.kind: "s3" is not a kind of backend (this version serves: failover, aws, file, http, vault)
    keyferry.yaml:11:9: backends.none.kind: is missing (which store it is, such as kind: file)
    keyferry.yaml:12:20: limits.objects: "0" is not a count (write a whole number from 1 to 100000)
    keyferry.yaml:12:36: limits.secretBytes: "1MB" is not a size (write for example 512KiB, 1MiB or 3.5MiB; at most 1024MiB)
    keyferry.yaml:12:50: limits.timeout: "10ms" is under 1s: no mount could be served
    keyferry.yaml:13:16: audit.file: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    keyferry.yaml:13:33: audit.failClosed: must be true or false (write one of them, without quotes)
    keyferry.yaml:13:46: audit.alerts: is a mapping, but must be a list of rules (start each with `- `)
    keyferry.yaml:14:20: metrics.listen: "localhost" is not an address to listen at (write for example 127.0.0.1:8095; port 0 takes a free one)
    keyferry.yaml:15:11: delivery: "csi" is not a way to deliver (write driver or provider)
    keyferry.yaml:17:16: log.format: "xml" is not a log format (write json or text)
    keyferry.yaml:17:28: log.level: "loud" is not a log level (write error, warn, info, debug or trace)
    keyferry.yaml:18:17: cache.fresh: "soon" is not a duration (write for example 500ms, 90s, 2m or 24h)
    keyferry.yaml:18:31: cache.sealed.dir: is missing (a folder that is still there after a restart, such as /var/lib/keyferry/cache)
    keyferry.yaml:18:31: cache.sealed.key: is missing (the file of 32 bytes that encrypts it, such as /etc/keyferry/cache.key, or a list of such)
    keyferry.yaml:19:20: events.enabled: must be true or false (write one of them, without quotes)
    "#);
}

#[test]
fn events_are_told_where_tokens_are_looked_at() {
    let with = |verify: &str, events: &str| format!("{}events: {events}\n", MINIMAL.replace("driver", verify));
    assert!(Config::parse(&with("token-review", "{ enabled: true }")).unwrap().events);
    for off in ["{ enabled: false }", "{}", "null"] {
        assert!(!Config::parse(&with("driver", off)).unwrap().events, "{off}");
    }
    insta::assert_snapshot!(faults(&with("driver", "{ enabled: true }")), @"keyferry.yaml:4:20: events.enabled: Keyferry sends Events only for Pods that a token has proven, but with identity.verify: driver it checks no token (set identity.verify to jwks or token-review, or remove `events`)");
}

#[test]
fn a_text_that_is_no_configuration_says_so() {
    insta::assert_snapshot!(faults("backends: [\n"), @"keyferry.yaml:1:11: not valid YAML: unclosed bracket '[' (look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes)");
    insta::assert_snapshot!(faults("- a list"), @"keyferry.yaml:1:1: is a list, but must be a mapping (write a line `key: value` for each key)");
    insta::assert_snapshot!(faults("a: 1\na: 2"), @"keyferry.yaml:2:1: a: given twice in one mapping (remove one)");
    insta::assert_snapshot!(faults(""), @"
    keyferry.yaml:1:1: backends: is missing (at least one store, such as files: { kind: file, vault: ..., identity: ... })
    keyferry.yaml:1:1: policy: is missing (nothing is allowed without rules; an empty list [] denies everything)
    ");
    let missing = Config::load(Path::new("/nonexistent/keyferry.yaml")).unwrap_err();
    insta::assert_snapshot!(missing, @"/nonexistent/keyferry.yaml: No such file or directory (os error 2) (name the configuration with --config FILE or the environment's KEYFERRY_CONFIG)");
}

#[test]
fn a_dialect_is_served_by_a_backend_that_speaks_it() {
    let with = |dialects: &str| {
        format!(
            "identity: {{ verify: token-review }}\npolicy: []\nbackends:\n  files: {{ kind: file, vault: /v, identity: /k }}\n  \
             bao: {{ kind: vault, address: https://bao:8200, auth: {{ method: kubernetes, role: csi }} }}\n  \
             own: {{ kind: vault, address: https://own:8200, auth: {{ method: token, tokenFile: /t }} }}\n  \
             keys: {{ kind: aws, region: eu-west-1, auth: {{ method: keys, credentialsFile: /c }} }}\ndialects: {dialects}\n"
        )
    };
    let config = Config::parse(&with("{ vault: { backend: bao }, openbao: { backend: own } }")).unwrap();
    let named: Vec<String> = config.dialects.iter().map(|(dialect, backend)| format!("{dialect}={backend}")).collect();
    assert_eq!(named, ["openbao=own", "vault=bao"]);
    assert!(Config::parse(&with("{}")).unwrap().dialects.is_empty());
    let problems = [
        "{ vault: { backend: boa }, openbao: { backend: files }, aws: { backend: bao }, gcp: { backend: bao } }",
        "{ vault: {}, valt: { backend: bao }, openbao: { bakend: bao } }",
        "{ vault: bao, openbao: { backend: [bao] } }",
        "{ aws: { backend: keys } }",
    ];
    insta::assert_snapshot!(problems.map(|dialects| faults(&with(dialects))).join("\n--\n"), @r#"
    keyferry.yaml:8:31: dialects.vault.backend: there is no backend "boa" (did you mean "bao"?)
    keyferry.yaml:8:58: dialects.openbao.backend: "files" cannot serve classes of the dialect openbao (name a backend of the kind vault)
    keyferry.yaml:8:83: dialects.aws.backend: "bao" cannot serve classes of the dialect aws (name a backend of the kind aws)
    keyferry.yaml:8:95: dialects.gcp: is not yet supported (leave it out)
    --
    keyferry.yaml:8:20: dialects.vault.backend: is missing (the name of the backend that serves these classes, such as backend: bao)
    keyferry.yaml:8:24: dialects.valt: is not a known key (did you mean `vault`?)
    keyferry.yaml:8:57: dialects.openbao.backend: is missing (the name of the backend that serves these classes, such as backend: bao)
    keyferry.yaml:8:59: dialects.openbao.bakend: is not a known key (did you mean `backend`?)
    --
    keyferry.yaml:8:20: dialects.vault: is a text, but must be a mapping (write a line `key: value` for each key)
    keyferry.yaml:8:45: dialects.openbao.backend: is a list, but must be a text (write one value; one that starts with `[` or `{` needs quotes)
    --
    keyferry.yaml:8:29: dialects.aws.backend: "keys" cannot serve classes of the dialect aws: they log in as the Pod, and Keyferry logs in there with a credential of its own (name a backend with auth.method irsa or podIdentity, or remove `dialects.aws` and write classes in the native format)
    "#);
}

/// An ARN is another spelling of a name, and so is the path under which Parameter Store reads a secret. Policy sees only the name.
#[test]
fn a_pattern_in_another_spelling_of_aws_is_a_fault() {
    let text = r#"
identity: { verify: token-review }
backends:
  amazon: { kind: aws, region: eu-west-1, account: "111122223333", auth: { method: irsa } }
policy:
  - pods: { namespace: shop }
    read:
      - "amazon/arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/*"
      - "amazon/arn:aws:ssm:eu-west-1:444455556666:parameter/shop/url"
      - "amazon/secretsmanager//prod/db"
    deny:
      - "amazon/arn:aws:secretsmanager:eu-west-1:111122223333:secret:root/db-AbCdEf"
      - "amazon/ssm/aws/reference/secretsmanager/root/db"
"#;
    insta::assert_snapshot!(faults(text), @r#"
    keyferry.yaml:8:9: policy rule 1.read: "amazon/arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/*": policy never sees a name in this spelling, but for example "amazon/secretsmanager/shop/x" (write the pattern in that spelling)
    keyferry.yaml:9:9: policy rule 1.read: "amazon/arn:aws:ssm:eu-west-1:444455556666:parameter/shop/url": policy never sees a name in this spelling, but for example "amazon/ssm/444455556666:shop/url" (write the pattern in that spelling)
    keyferry.yaml:10:9: policy rule 1.read: "amazon/secretsmanager//prod/db" is not a <backend>/<name> pattern (did you mean "amazon/secretsmanager/~/prod/db"?)
    keyferry.yaml:12:9: policy rule 1.deny: "amazon/arn:aws:secretsmanager:eu-west-1:111122223333:secret:root/db-AbCdEf": policy never sees a name in this spelling, but for example "amazon/secretsmanager/root/db" (write the pattern in that spelling)
    keyferry.yaml:13:9: policy rule 1.deny: "amazon/ssm/aws/reference/secretsmanager/root/db": policy never sees a name in this spelling, but for example "amazon/secretsmanager/root/db" (write the pattern in that spelling)
    "#);
    let fine = text.lines().filter(|line| !line.starts_with("      - ")).collect::<Vec<_>>().join("\n");
    let fine = fine
        .replace("read:", "read: [\"amazon/secretsmanager/~/prod/*\", \"amazon/ssm/444455556666:shop/*\"]")
        .replace("deny:", "deny: []");
    Config::parse(&fine).unwrap();
}

/// Without `account`, no name of another account can be asked for.
#[test]
fn a_pattern_with_an_account_needs_the_backends_own() {
    let text = r#"
identity: { verify: token-review }
backends:
  amazon: { kind: aws, region: eu-west-1, auth: { method: irsa } }
policy:
  - pods: { namespace: shop }
    read: ["amazon/secretsmanager/444455556666:shop/*", "amazon/secretsmanager/444455556666:shop/db", "amazon/ssm/444455556666:*"]
"#;
    let own = text.replace("region: eu-west-1,", "region: eu-west-1, account: \"444455556666\",");
    insta::assert_snapshot!(format!("{}\n--\n{}", faults(text), faults(&own)), @r#"
    keyferry.yaml:7:12: policy rule 1.read: "amazon/secretsmanager/444455556666:shop/*": the name has the account 444455556666, and the backend has no `account`: without it, Keyferry reads no ARN, and no name of another account (the cluster's admin can set `account` of the backend to its own account's number)
    keyferry.yaml:7:57: policy rule 1.read: "amazon/secretsmanager/444455556666:shop/db": the name has the account 444455556666, and the backend has no `account`: without it, Keyferry reads no ARN, and no name of another account (the cluster's admin can set `account` of the backend to its own account's number)
    keyferry.yaml:7:103: policy rule 1.read: "amazon/ssm/444455556666:*": the name has the account 444455556666, and the backend has no `account`: without it, Keyferry reads no ARN, and no name of another account (the cluster's admin can set `account` of the backend to its own account's number)
    --
    keyferry.yaml:7:12: policy rule 1.read: "amazon/secretsmanager/444455556666:shop/*": the name has the backend's own account (leave it out)
    keyferry.yaml:7:57: policy rule 1.read: "amazon/secretsmanager/444455556666:shop/db": the name has the backend's own account (leave it out)
    keyferry.yaml:7:103: policy rule 1.read: "amazon/ssm/444455556666:*": the name has the backend's own account (leave it out)
    "#);
}

/// A policy of patterns that match nothing looks like a policy, and denies and allows nothing.
#[test]
fn a_pattern_that_says_nothing_is_a_fault() {
    let text = r#"
identity: { verify: token-review }
backends:
  files: { kind: file, vault: /v, identity: /k }
  bao:
    kind: vault
    address: https://bao:8200
    namespace: team-a
    auth: { method: kubernetes, role: csi }
  own:
    kind: vault
    address: https://bao
    auth: { method: kubernetes }
    classMay:
      namespace: ["", "team-${namespace}", "/team", "root", "**"]
      role: ["*", "", "$namespace"]
      mount: ["/kubernetes/", "jwt-*"]
      address: ["https://BAO:8200/", "bao:8200", "*", "https://*.example:8200", "**", "unix:///run/*"]
      audience: ["{{ .Values.audience }}", "https://**"]
  web: { kind: http, url: "https://s.example/{name}" }
  later: { kind: s3 }
policy:
  - pods: { namespace: shop }
    deny: ["file/shop/db", "files/.x", "files/db@3", "files/a.age/x", "bao/v1/team-a/kv/data/x", "bao/kv/data/x", "own/kv/data/x"]
  - pods: { namespace: shop }
    update: ["files/x", "we*/x", "own/pki/issue/x", "*/x"]
    read: ["later/x", "web/x", "bao/team-a/**", "bao/*/kv", "bao/**"]
"#;
    insta::assert_snapshot!(faults(text), @r#"
    keyferry.yaml:15:19: backends.own.classMay.namespace: "" is not something that a class can say (did you mean "root"?)
    keyferry.yaml:15:44: backends.own.classMay.namespace: "/team" is not something that a class can say (did you mean "team"?)
    keyferry.yaml:16:19: backends.own.classMay.role: "" is not something that a class can say (is empty)
    keyferry.yaml:16:23: backends.own.classMay.role: "$namespace": "$namespace" is not a placeholder (did you mean "${namespace}"?)
    keyferry.yaml:17:15: backends.own.classMay.mount: "/kubernetes/" is not something that a class can say (did you mean "kubernetes"?)
    keyferry.yaml:18:17: backends.own.classMay.address: "https://BAO:8200/" is not something that a class can say (did you mean "https://bao:8200"?)
    keyferry.yaml:18:38: backends.own.classMay.address: "bao:8200" is not something that a class can say (does not begin with https://, http:// or unix:/// (write for example https://store.example:8200))
    keyferry.yaml:18:50: backends.own.classMay.address: "*" is not something that a class can say (`**` is any; name what classes may say, such as https://bao.example:8200)
    keyferry.yaml:19:18: backends.own.classMay.audience: "{{ .Values.audience }}": "{{ .Values.audience }}" is not a placeholder (there are ${namespace}, ${serviceAccount})
    keyferry.yaml:21:18: backends.later.kind: "s3" is not a kind of backend (this version serves: failover, aws, file, http, vault)
    keyferry.yaml:24:12: policy rule 1.deny: "file/shop/db": there is no backend "file" (did you mean "files/shop/db"?)
    keyferry.yaml:24:28: policy rule 1.deny: "files/.x": the name has the element ".x": what starts with a dot is the vault's own (choose another name)
    keyferry.yaml:24:40: policy rule 1.deny: "files/db@3": the name ends in `@3`, which reads as a pinned version (write `version: "3"` for that)
    keyferry.yaml:24:54: policy rule 1.deny: "files/a.age/x": the name has the element "a.age": the vault adds `.age` by itself (write "a")
    keyferry.yaml:24:71: policy rule 1.deny: "bao/v1/team-a/kv/data/x": `v1/` belongs to the API, not to the name (did you mean "bao/team-a/kv/data/x"?)
    keyferry.yaml:24:98: policy rule 1.deny: "bao/kv/data/x": names there begin with the backend's namespace, "team-a" (did you mean "bao/team-a/kv/data/x"?)
    keyferry.yaml:26:14: policy rule 2.update: "files/x": files only reads, and nothing is updated there (write it under `read`, or remove it)
    keyferry.yaml:26:25: policy rule 2.update: "we*/x": web only reads, and nothing is updated there (write it under `read`, or remove it)
    "#);
}

/// Everything that is wrong with failovers, reported together with the faults of other keys.
#[test]
fn a_failover_has_two_backends_of_one_kind() {
    let text = r#"
identity: { verify: token-review }
backends:
  files: { kind: file, vault: /v, identity: /k }
  web: { kind: http, url: "https://s.example/{name}" }
  bao: { kind: vault, address: "https://bao:8200", auth: { method: kubernetes, role: csi } }
  team: { kind: vault, address: "https://t:8200", namespace: team-a, auth: { method: kubernetes, role: csi } }
  wide: { kind: vault, address: "https://w:8200", auth: { method: kubernetes, role: csi }, classMay: { mount: ["*"] } }
  faulty: { kind: vault, address: "https://f:8200" }
  one: { kind: failover, of: [bao] }
  three: { kind: failover, of: [bao, wide, team] }
  none: { kind: failover }
  empty: { kind: failover, of: [] }
  unknown: { kind: failover, of: [boa, nowhere-at-all] }
  twice: { kind: failover, of: [bao, bao] }
  itself: { kind: failover, of: [bao, itself] }
  above: { kind: failover, of: [both, bao] }
  local: { kind: failover, of: [files, bao] }
  mixed: { kind: failover, of: [bao, web] }
  spaces: { kind: failover, of: [bao, team] }
  grants: { kind: failover, of: [bao, wide] }
  waits: { kind: failover, of: [bao, faulty] }
  nested: { kind: failover, of: { first: bao } }
  own: { kind: failover, of: [bao, web], address: "https://x", cache: { stale: 24h }, auth: {}, ofs: x }
  both: { kind: failover, of: [bao, wide] }
policy:
  - pods: { namespace: "*" }
    read: ["both/kv/**", "bath/x"]
"#;
    insta::assert_snapshot!(faults(text), @r#"
    keyferry.yaml:9:11: backends.faulty.auth: is missing (how Keyferry logs in to the server, such as { method: kubernetes, role: csi })
    keyferry.yaml:10:30: backends.one.of: must name two backends, not 1 (Keyferry asks the first, and the second while the first is out)
    keyferry.yaml:11:32: backends.three.of: must name two backends, not 3 (Keyferry asks the first, and the second while the first is out)
    keyferry.yaml:12:9: backends.none.of: is missing (two backends of one kind: the one to ask first, then the other, such as of: [bao, bao-dr])
    keyferry.yaml:13:32: backends.empty.of: must name two backends, not 0 (Keyferry asks the first, and the second while the first is out)
    keyferry.yaml:14:35: backends.unknown.of: there is no backend "boa" (did you mean "bao"?)
    keyferry.yaml:14:40: backends.unknown.of: there is no backend "nowhere-at-all" (there are: files, web, bao, team, wide, faulty, one, three, none, empty, unknown, twice, itself, above, local, mixed, spaces, grants, waits, nested, own, both)
    keyferry.yaml:15:38: backends.twice.of: names "bao" twice (name another backend that has the same secrets)
    keyferry.yaml:16:39: backends.itself.of: "itself" is a failover itself (name a backend of the kind aws, http or vault)
    keyferry.yaml:17:33: backends.above.of: "both" is a failover itself (name a backend of the kind aws, http or vault)
    keyferry.yaml:18:33: backends.local.of: "files" is a file vault, which is on this node and cannot be out of reach (name a backend of the kind aws, http or vault)
    keyferry.yaml:19:38: backends.mixed.of: "web" is of the kind http, and "bao" of the kind vault (name two backends of one kind: each request is for both)
    keyferry.yaml:20:33: backends.spaces.of: bao is in the namespace root and team in "team-a": a secret would have two names (set the same `namespace` for both)
    keyferry.yaml:21:33: backends.grants.of: classes may set other parts of the login at bao than at wide, but one class is for both (write the same classMay for both, and auth.audience for both or for neither)
    keyferry.yaml:23:33: backends.nested.of: holds a mapping, but must be a list of texts (write each on a separate line, after `- `)
    keyferry.yaml:24:36: backends.own.of: "web" is of the kind http, and "bao" of the kind vault (name two backends of one kind: each request is for both)
    keyferry.yaml:24:51: backends.own.address: belongs to the backends that `of` names, not to the failover (write it there)
    keyferry.yaml:24:71: backends.own.cache: belongs to the backends that `of` names, not to the failover (write it there)
    keyferry.yaml:24:93: backends.own.auth: belongs to the backends that `of` names, not to the failover (write it there)
    keyferry.yaml:24:97: backends.own.ofs: is not a known key (did you mean `of`?)
    keyferry.yaml:25:31: backends.both.of: classes may set other parts of the login at bao than at wide, but one class is for both (write the same classMay for both, and auth.audience for both or for neither)
    keyferry.yaml:28:26: policy rule 1.read: "bath/x": there is no backend "bath" (did you mean "both/x"?)
    "#);
    let sound = "
identity: { verify: token-review }
backends:
  both: { kind: failover, of: [bao, bao-dr] }
  bao: { kind: vault, address: \"https://bao:8200\", auth: { method: kubernetes, role: csi } }
  bao-dr: { kind: vault, address: \"https://dr:8200\", auth: { method: kubernetes, role: csi } }
  web: { kind: failover, of: [a, b] }
  a: { kind: http, url: \"https://a.example/{name}\" }
  b: { kind: http, url: \"https://b.example/{name}\" }
defaultBackend: both
dialects: { vault: { backend: both } }
policy: [{ pods: { namespace: shop }, read: [\"both/kv/**\", \"web/x\"], update: [\"both/pki/issue/x\"], deny: [\"b*/kv/y\"] }]
";
    let config = Config::parse(sound).unwrap();
    assert_eq!(config.backends.len(), 6, "the order of the entries does not matter");
    let only_reads = sound.replace("update: [\"both/pki/issue/x\"]", "update: [\"web/x\"]");
    insta::assert_snapshot!(faults(&only_reads), @r#"keyferry.yaml:12:79: policy rule 1.update: "web/x": web only reads, and nothing is updated there (write it under `read`, or remove it)"#);
}
