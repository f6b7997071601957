use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const UID: &str = "3f1c1b0e-7e0b-4d0a-9c1e-8f6f2f9f0a11";
const MAX: usize = 512 * 1024;
const CANARY: &str = "hunter2-canary";

fn attributes() -> Value {
    json!({
        "secretProviderClass": "web-secrets",
        "objects": "- secret: shop/db\n",
        POD_NAME: "web-1",
        POD_NAMESPACE: "shop",
        POD_UID: UID,
        SERVICE_ACCOUNT: "web",
        EPHEMERAL: "true",
    })
}

fn with(key: &str, value: impl Into<Value>) -> Value {
    let mut attributes = attributes();
    attributes[key] = value.into();
    attributes
}

#[allow(clippy::needless_pass_by_value)] // takes texts and JSON alike
fn call(attributes: impl ToString) -> MountCall {
    MountCall {
        attributes: attributes.to_string(),
        secrets: "null".to_owned(),
        target_path: format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/secrets/mount"),
        permission: "420".to_owned(),
    }
}

fn parse(call: MountCall) -> Result<Request<'static>, FaultList<RequestFault>> {
    within(call, MAX)
}

/// The call lives as long as the test.
fn within(call: MountCall, max: usize) -> Result<Request<'static>, FaultList<RequestFault>> {
    Request::parse(Box::leak(Box::new(call)), max)
}

/// Every fault, one line each.
fn faults(call: MountCall) -> String {
    let faults = parse(call).unwrap_err();
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn tokens_of(text: &str) -> RawTokens {
    parse(call(with(TOKENS, text))).unwrap().tokens
}

#[test]
fn a_request_of_todays_driver_is_read() {
    let tokens = r#"{"":{"token":"aaa","expirationTimestamp":"2026-01-01T00:00:00Z"},"keyferry":{"token":"bbb"}}"#;
    let request = parse(call(with(TOKENS, tokens))).unwrap();
    assert_eq!(request.claims.namespace, "shop");
    assert_eq!(request.claims.name, "web-1");
    assert_eq!(request.claims.uid, UID);
    assert_eq!(request.claims.service_account, "web");
    assert_eq!(request.class.as_deref(), Some("web-secrets"));
    assert_eq!(request.ephemeral, Some(true));
    assert_eq!(request.permission, FileMode::DEFAULT);
    assert!(request.parameters.keys().all(|key| !key.contains('/')), "what is kubelet's differs from Pod to Pod");
    assert_eq!(request.tokens.iter().map(|(a, t)| (a.as_str(), t.expose())).collect::<Vec<_>>(), [("", &b"aaa"[..]), ("keyferry", b"bbb")]);
}

#[test]
fn what_is_not_there_is_told_from_what_is_wrong() {
    for nothing in ["", "null", "{}", " null ", " { } "] {
        assert!(tokens_of(nothing).is_empty(), "{nothing:?}");
    }
    for secrets in ["", "null", "{}"] {
        assert!(parse(MountCall { secrets: secrets.to_owned(), ..call(attributes()) }).unwrap().tokens.is_empty(), "{secrets:?}");
    }
    let bare = json!({ POD_NAME: "a", POD_NAMESPACE: "b", POD_UID: "c", SERVICE_ACCOUNT: "d", "secretProviderClass": "" });
    let request = parse(MountCall { permission: String::new(), target_path: "/mnt".into(), ..call(bare) }).unwrap();
    assert_eq!((request.class, request.ephemeral, request.permission), (None, None, FileMode::DEFAULT));
}

#[test]
fn tokens_in_secrets_win() {
    let secrets = json!({ TOKENS: r#"{"keyferry":{"token":"from-secrets"}}"#, "user": "u" }).to_string();
    let both = MountCall { secrets, ..call(with(TOKENS, r#"{"keyferry":{"token":"from-attributes"},"other":{"token":"x"}}"#)) };
    let request = parse(both).unwrap();
    assert_eq!(request.tokens.len(), 1);
    assert_eq!(request.tokens["keyferry"].expose(), b"from-secrets");

    let empty = MountCall { secrets: json!({ TOKENS: "" }).to_string(), ..call(with(TOKENS, r#"{"a":{"token":"t"}}"#)) };
    assert_eq!(parse(empty).unwrap().tokens["a"].expose(), b"t");
}

#[test]
fn missing_and_empty_claims_say_what_the_driver_needs() {
    insta::assert_snapshot!(faults(call(json!({ POD_NAME: "" }))), @r"
    csi.storage.k8s.io/pod.name: is empty (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    csi.storage.k8s.io/pod.namespace: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    csi.storage.k8s.io/pod.uid: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    csi.storage.k8s.io/serviceAccount.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    ");
}

#[test]
fn claims_that_could_be_more_than_a_name_are_refused() {
    insta::assert_snapshot!(faults(call(with(POD_NAMESPACE, "*"))), @r#"csi.storage.k8s.io/pod.namespace: "*" is not a namespace (kubelet sets it; a class or volume cannot)"#);
    insta::assert_snapshot!(faults(call(with(POD_NAME, "a/../b"))), @r#"csi.storage.k8s.io/pod.name: "a/../b" is not a Pod's name (kubelet sets it; a class or volume cannot)"#);
    insta::assert_snapshot!(faults(call(with(SERVICE_ACCOUNT, "web\nroot"))), @r#"csi.storage.k8s.io/serviceAccount.name: "web\nroot" is not a ServiceAccount's name (kubelet sets it; a class or volume cannot)"#);
    let long = "x".repeat(254);
    for (key, bad) in [
        (POD_NAMESPACE, vec!["a.b", "A", "-a", "a-", "a*", "..", "a b", "ä", &long[..64]]),
        (POD_NAME, vec!["a..b", ".", "..", "a.", "a_b", "${x}", &long]),
        (SERVICE_ACCOUNT, vec!["a/b", "a..b", "system:x", &long]),
        (POD_UID, vec!["a/b", "a*", ".", "..", "a b", "a\0", "ü", &long[..129]]),
    ] {
        for text in bad {
            assert!(faults(call(with(key, text))).starts_with(key), "{key} {text:?}");
        }
    }
    for (key, good) in [
        (POD_NAMESPACE, vec!["a", "kube-system", "0", &long[..63]]),
        (POD_NAME, vec!["web-1.node.example", "0", &long[..253]]),
        (SERVICE_ACCOUNT, vec!["default", "a.b-c"]),
    ] {
        for text in good {
            assert!(parse(call(with(key, text))).is_ok(), "{key} {text:?}");
        }
    }
    for uid in ["f".repeat(32), "x".repeat(128), UID.to_owned()] {
        let target_path = format!("/pods/{uid}/volumes/x");
        assert!(parse(MountCall { target_path, ..call(with(POD_UID, uid)) }).is_ok());
    }
}

#[test]
fn attributes_that_are_no_json_are_placed_but_not_quoted() {
    insta::assert_snapshot!(faults(call("")), @"attributes: is not JSON: EOF while parsing a value at line 1 column 0 (the driver sends it; any other caller must send a JSON object of strings, each key once)");
    insta::assert_snapshot!(faults(call(format!(r#"{{"a": "{CANARY}" "b"}}"#))), @"attributes: is not JSON: expected `,` or `}` at line 1 column 24 (the driver sends it; any other caller must send a JSON object of strings, each key once)");
    insta::assert_snapshot!(faults(call(format!(r#""{CANARY}""#))), @"attributes: is not a JSON object of strings, at line 1 column 16 (the driver sends it; any other caller must send a JSON object of strings, each key once)");
    insta::assert_snapshot!(faults(call("null")), @"attributes: is not a JSON object of strings, at line 1 column 4 (the driver sends it; any other caller must send a JSON object of strings, each key once)");
    insta::assert_snapshot!(faults(call(r#"["a"]"#)), @"attributes: is not a JSON object of strings, at line 1 column 0 (the driver sends it; any other caller must send a JSON object of strings, each key once)");
    insta::assert_snapshot!(faults(call("{} {}")), @"attributes: is not JSON: trailing characters at line 1 column 4 (the driver sends it; any other caller must send a JSON object of strings, each key once)");
    assert!(faults(call("[".repeat(100_000))).starts_with("attributes: is not"));
    assert!(faults(call(format!("{{\"a\":{}", "[".repeat(100_000)))).starts_with("attributes: is not JSON"));
}

#[test]
fn every_value_that_is_no_string_is_named() {
    let mut mixed = attributes();
    for (key, value) in
        [("a", json!(1)), ("b", json!(null)), ("c", json!([CANARY])), ("d", json!({ "x": CANARY })), ("e", json!(-1.5)), ("f", json!(true))]
    {
        mixed[key] = value;
    }
    let secrets = format!(r#"{{"user": ["{CANARY}"]}}"#);
    insta::assert_snapshot!(faults(MountCall { secrets, ..call(mixed) }), @r#"
    attributes: the value of "a" is a number, but must be a string (the driver sends it; any other caller must send a JSON object of strings, each key once)
    attributes: the value of "b" is null, but must be a string (the driver sends it; any other caller must send a JSON object of strings, each key once)
    attributes: the value of "c" is a list, but must be a string (the driver sends it; any other caller must send a JSON object of strings, each key once)
    attributes: the value of "d" is an object, but must be a string (the driver sends it; any other caller must send a JSON object of strings, each key once)
    attributes: the value of "e" is a number, but must be a string (the driver sends it; any other caller must send a JSON object of strings, each key once)
    attributes: the value of "f" is true or false, but must be a string (the driver sends it; any other caller must send a JSON object of strings, each key once)
    secrets: the value of "user" is a list, but must be a string (the driver sends it; any other caller must send a JSON object of strings, each key once)
    "#);
}

#[test]
fn repeated_keys_are_refused() {
    let twice = attributes().to_string().replacen('{', r#"{"pod":"a","p\u006fd":"b","csi.storage.k8s.io/pod.name":"other","#, 1);
    insta::assert_snapshot!(faults(call(twice)), @r#"
    attributes: holds the key "pod" twice (the driver sends it; any other caller must send a JSON object of strings, each key once)
    attributes: holds the key "csi.storage.k8s.io/pod.name" twice (the driver sends it; any other caller must send a JSON object of strings, each key once)
    "#);
    let tokens = r#"{"a":{"token":"x"},"a":{"token":"y"},"b":{"token":""}}"#;
    let secrets = format!(r#"{{"k":"1","k":"2","{TOKENS}":"","{TOKENS}":""}}"#);
    insta::assert_snapshot!(faults(MountCall { secrets, ..call(with(TOKENS, tokens)) }), @r#"
    secrets: holds the key "csi.storage.k8s.io/serviceAccount.tokens" twice (the driver sends it; any other caller must send a JSON object of strings, each key once)
    csi.storage.k8s.io/serviceAccount.tokens: holds the audience "a" twice (kubelet sends it: take it out of the class's parameters and the volume's attributes)
    csi.storage.k8s.io/serviceAccount.tokens: the token for the audience "b" is empty (kubelet sends it: take it out of the class's parameters and the volume's attributes)
    "#);
}

#[test]
fn malformed_tokens_are_named_and_not_quoted() {
    insta::assert_snapshot!(faults(call(with(TOKENS, CANARY))), @"csi.storage.k8s.io/serviceAccount.tokens: is not JSON: expected value at line 1 column 1 (kubelet sends it: take it out of the class's parameters and the volume's attributes)");
    insta::assert_snapshot!(faults(call(with(TOKENS, format!(r#"{{"a":"{CANARY}"}}"#)))), @r#"csi.storage.k8s.io/serviceAccount.tokens: is not a JSON object {"<audience>": {"token": "<JWT>"}}, at line 1 column 21 (kubelet sends it: take it out of the class's parameters and the volume's attributes)"#);
    insta::assert_snapshot!(faults(call(with(TOKENS, format!(r#"{{"a":{{"token":["{CANARY}"]}}}}"#)))), @r#"csi.storage.k8s.io/serviceAccount.tokens: is not a JSON object {"<audience>": {"token": "<JWT>"}}, at line 1 column 14 (kubelet sends it: take it out of the class's parameters and the volume's attributes)"#);
    insta::assert_snapshot!(faults(call(with(TOKENS, r#"{"a":{}}"#))), @r#"csi.storage.k8s.io/serviceAccount.tokens: is not a JSON object {"<audience>": {"token": "<JWT>"}}, at line 1 column 7 (kubelet sends it: take it out of the class's parameters and the volume's attributes)"#);
    let many: serde_json::Map<_, _> = (0..33).map(|n| (n.to_string(), json!({ "token": "t" }))).collect();
    let faults = parse(call(with(TOKENS, Value::from(many).to_string()))).unwrap_err();
    insta::assert_snapshot!(faults[0], @"csi.storage.k8s.io/serviceAccount.tokens: tokens for 33 audiences; at most 32 are read (shorten tokenRequests of the CSIDriver object secrets-store.csi.k8s.io)");
    assert_eq!(faults[0].code, Code::TooLarge);
}

#[test]
fn what_is_too_large_is_not_read() {
    let faults = within(call(with("x", "y".repeat(1 << 20))), MAX).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].code, Code::TooLarge);
    insta::assert_snapshot!(faults[0], @"attributes: 1048835 bytes without the tokens; at most 524288 are read (make the class or the volume's attributes smaller, or ask for a higher limits.classBytes)");
    let blank = within(call(" ".repeat(1 << 22)), MAX).unwrap_err();
    insta::assert_snapshot!(blank[0], @"attributes: 4194304 bytes; at most 3545088 are read (make the class or the volume's attributes smaller, or ask for a higher limits.classBytes)");
    let secrets = MountCall { secrets: " ".repeat(MAX_SECRETS) + "{}", ..call(attributes()) };
    insta::assert_snapshot!(parse(secrets).unwrap_err()[0], @"secrets: 1048578 bytes; at most 1048576 are read (keep the Secret of nodePublishSecretRef small)");
    let keys: serde_json::Map<_, _> = (0..=MAX_KEYS).map(|n| (n.to_string(), json!(""))).collect();
    insta::assert_snapshot!(parse(call(Value::from(keys))).unwrap_err()[0], @"attributes: 1025 keys; at most 1024 are read (remove those that nothing reads)");
    let tokens = json!({ "a": { "token": "t".repeat(MAX_TOKENS) } }).to_string();
    let faults = parse(call(with(TOKENS, tokens.as_str()))).unwrap_err();
    assert_eq!((faults.len(), faults[0].code), (1, Code::TooLarge));
    insta::assert_snapshot!(faults[0], @"csi.storage.k8s.io/serviceAccount.tokens: 65554 bytes; at most 65536 are read (kubelet sends it: take it out of the class's parameters and the volume's attributes)");
}

/// Keys and values count as they are, not as JSON writes them. The tokens do not count.
#[test]
fn the_parameters_have_a_bound_of_their_own() {
    let tokens = json!({ "a": { "token": "t".repeat(MAX_TOKENS - 100) } }).to_string();
    let attributes = with(TOKENS, tokens.as_str());
    let members = attributes.as_object().unwrap();
    let exactly = members.iter().filter(|(key, _)| *key != TOKENS).map(|(key, value)| key.len() + value.as_str().unwrap().len()).sum();
    assert!(within(call(&attributes), exactly).is_ok());
    assert_eq!(within(call(&attributes), exactly - 1).unwrap_err()[0].code, Code::TooLarge);
    let newlines = with("x", "\n".repeat(1000));
    assert!(within(call(newlines), exactly + 1001).is_ok(), "an escape counts as the character that it means");
}

#[test]
fn of_the_secrets_the_tokens_alone_are_kept() {
    let secrets = json!({ "password": CANARY, "escaped": format!("{CANARY}\n"), TOKENS: r#"{"a":{"token":"t"}}"# }).to_string();
    let request = parse(MountCall { secrets, ..call(attributes()) }).unwrap();
    assert_eq!(request.tokens["a"].expose(), b"t");
    let full = json!({ "password": "x".repeat(MAX_SECRETS - 15) }).to_string();
    assert_eq!(full.len(), MAX_SECRETS);
    assert!(parse(MountCall { secrets: full, ..call(attributes()) }).is_ok());
}

#[test]
fn many_faults_are_counted_and_not_kept() {
    let numbers: serde_json::Map<_, _> = (0..10_000).map(|n| (format!("k{n}"), json!(n))).collect();
    let faults = parse(call(Value::from(numbers))).unwrap_err();
    // Kubelet's four keys are missing too.
    assert_eq!((faults.len(), faults.more()), (64, 10_004 - 64));
    let repeated = format!("{{{}\"k\":\"\"}}", "\"k\":\"\",".repeat(1_000));
    assert_eq!(parse(call(repeated)).unwrap_err().more(), 1_004 - 64);
}

#[test]
fn a_permission_is_a_decimal_number() {
    for (text, bits) in [("420", 0o644), ("0", 0), ("511", 0o777), (" 292 ", 0o444), ("", 0o644)] {
        let call = MountCall { permission: text.to_owned(), ..call(attributes()) };
        assert_eq!(parse(call).unwrap().permission.bits(), bits, "{text:?}");
    }
    let refused = |text: &str| faults(MountCall { permission: text.to_owned(), ..call(attributes()) });
    insta::assert_snapshot!(refused("512"), @"permission: 512 is over 511, that is 0777 (a decimal number from 0 to 511, such as 420 for 0644)");
    insta::assert_snapshot!(refused("0644"), @r#"permission: "0644" is not a file mode (a decimal number from 0 to 511, such as 420 for 0644)"#);
    for text in ["-1", "1.5", "\"420\"", "null", "{}", "rw-r--r--", "99999999999999999999999"] {
        assert!(refused(text).starts_with("permission: "), "{text}");
    }
}

#[test]
fn a_target_path_is_clean_and_the_pods_own() {
    let refused = |path: &str| faults(MountCall { target_path: path.to_owned(), ..call(attributes()) });
    insta::assert_snapshot!(refused(""), @r#"target_path: "" is not an absolute path (kubelet chooses it; any other caller must send the absolute path of this Pod's volume)"#);
    insta::assert_snapshot!(refused("var/lib"), @r#"target_path: "var/lib" is not an absolute path (kubelet chooses it; any other caller must send the absolute path of this Pod's volume)"#);
    insta::assert_snapshot!(refused("/a/../b"), @r#"target_path: "/a/../b" has an empty element, `.` or `..` (kubelet chooses it; any other caller must send the absolute path of this Pod's volume)"#);
    insta::assert_snapshot!(refused("/a\0b"), @r#"target_path: "/a\0b" has a control character (kubelet chooses it; any other caller must send the absolute path of this Pod's volume)"#);
    for path in ["/", "//a", "/a//b", "/a//", "/a/.", "/./a", "/a/..", "/a\nb", &format!("/{}", "x".repeat(4096))] {
        assert!(refused(path).starts_with("target_path: "), "{path:?}");
    }
    insta::assert_snapshot!(refused("/var/lib/kubelet/pods/other/volumes/kubernetes.io~csi/s/mount"), @r#"target_path: is a volume of the Pod with the uid "other", but csi.storage.k8s.io/pod.uid is "3f1c1b0e-7e0b-4d0a-9c1e-8f6f2f9f0a11" (kubelet chooses it; any other caller must send the absolute path of this Pod's volume)"#);
    assert!(refused("/var/lib/kubelet/pods/other/volumes/kubernetes.io~csi/volumes/mount").contains("other"), "a volume may be called so");
    for path in ["/mnt", "/mnt/", "/pods/x/other", &format!("/srv/pods/data/volumes/kubelet/pods/{UID}/volumes/x")] {
        assert!(parse(MountCall { target_path: path.to_owned(), ..call(attributes()) }).is_ok(), "{path}");
    }
}

#[test]
fn all_faults_come_at_once() {
    let call = MountCall {
        attributes: with(EPHEMERAL, "maybe").to_string().replace("\"web-secrets\"", "\"no/class\"").replace("\"shop\"", "\"a/b\""),
        secrets: "[".to_owned(),
        target_path: "x".to_owned(),
        permission: "rw".to_owned(),
    };
    insta::assert_snapshot!(faults(call), @r#"
    csi.storage.k8s.io/pod.namespace: "a/b" is not a namespace (kubelet sets it; a class or volume cannot)
    secretProviderClass: "no/class" is not the name of a SecretProviderClass (name the class in the Pod's volume)
    csi.storage.k8s.io/ephemeral: "maybe" is neither "true" nor "false" (kubelet sets it; a class or volume cannot)
    secrets: is not a JSON object of strings, at line 1 column 0 (the driver sends it; any other caller must send a JSON object of strings, each key once)
    permission: "rw" is not a file mode (a decimal number from 0 to 511, such as 420 for 0644)
    target_path: "x" is not an absolute path (kubelet chooses it; any other caller must send the absolute path of this Pod's volume)
    "#);
}

#[test]
fn debug_shows_no_token_secret_or_parameter() {
    let tokens = json!({ "keyferry": { "token": CANARY } }).to_string();
    let mut attributes = with(TOKENS, tokens);
    attributes["misplaced"] = CANARY.into();
    let call = MountCall { secrets: json!({ "user": CANARY }).to_string(), ..call(attributes) };
    assert!(!format!("{call:?}").contains(CANARY));
    let shown = format!("{:?}", parse(call).unwrap());
    assert!(!shown.contains(CANARY) && shown.contains("keyferry") && shown.contains("misplaced"), "{shown}");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_or_quote(text in any::<String>(), secrets in any::<String>(), path in any::<String>(), mode in any::<String>()) {
        let _ = within(MountCall { attributes: text, secrets, target_path: path, permission: mode }, MAX);
    }

    /// Bytes of a real request are changed, dropped or doubled: there is never a panic, and never the token in a message.
    #[test]
    fn a_damaged_request_never_shows_its_token(edits in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..128, 0..3), 1..6)) {
        let mut bytes = with(TOKENS, json!({ "keyferry": { "token": CANARY } }).to_string()).to_string().into_bytes();
        for (at, byte, edit) in edits {
            let at = at.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => _ = bytes.remove(at),
                _ => bytes.insert(at, byte),
            }
        }
        let text = String::from_utf8(bytes).unwrap();
        match parse(call(text)) {
            Err(faults) => prop_assert!(faults.iter().all(|fault| !fault.to_string().contains(CANARY)), "{faults:?}"),
            Ok(request) => {
                let shown = format!("{request:?}");
                prop_assert!(!shown.contains(CANARY), "{}", shown);
            }
        }
    }
}
