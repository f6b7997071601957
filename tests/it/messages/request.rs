//! The call itself: attributes, kubelet's keys, secrets, permission and target.

use keyferry::server::proto::MountRequest;
use serde_json::{Value, json};

use super::{Asked, GOOD};
use crate::support::{House, web};

#[tokio::test]
async fn attributes_that_cannot_be_read() {
    let asked = Asked::new(House::new("")).await;
    let raw = |what, attributes: &str| (what, MountRequest { attributes: attributes.to_owned(), ..asked.house.request(&web(), GOOD) });
    let table = asked
        .refusals([
            raw("empty", ""),
            raw("null", "null"),
            raw("cut", r#"{"objects": "- sec"#),
            raw("a list", r#"["objects"]"#),
            raw("not all strings", r#"{"objects": ["shop/db"], "mode": 420, "optional": null}"#),
            raw("two texts", "{} {}"),
            raw("a key twice", r#"{"objects": "[]", "objects": "[]"}"#),
            raw("1 MiB", &json!({ "objects": "#".repeat(1024 * 1024) }).to_string()),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # empty
    InvalidArgument InvalidRequest: attributes: is not JSON: EOF while parsing a value at line 1 column 0 (the driver sends it; any other caller must send a JSON object of strings, each key once)
    # null
    InvalidArgument InvalidRequest: attributes: is not a JSON object of strings, at line 1 column 4 (the driver sends it; any other caller must send a JSON object of strings, each key once)
    # cut
    InvalidArgument InvalidRequest: attributes: is not JSON: EOF while parsing a string at line 1 column 18 (the driver sends it; any other caller must send a JSON object of strings, each key once)
    # a list
    InvalidArgument InvalidRequest: attributes: is not a JSON object of strings, at line 1 column 0 (the driver sends it; any other caller must send a JSON object of strings, each key once)
    # not all strings
    InvalidArgument InvalidRequest: attributes: the value of "objects" is a list, but must be a string (the driver sends it; any other caller must send a JSON object of strings, each key once); attributes: the value of "mode" is a number, but must be a string (the driver sends it; any other caller must send a JSON object of strings, each key once); attributes: the value of "optional" is null, but must be a string (the driver sends it; any other caller must send a JSON object of strings, each key once); csi.storage.k8s.io/pod.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.namespace: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.uid: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/serviceAccount.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    # two texts
    InvalidArgument InvalidRequest: attributes: is not JSON: trailing characters at line 1 column 4 (the driver sends it; any other caller must send a JSON object of strings, each key once)
    # a key twice
    InvalidArgument InvalidRequest: attributes: holds the key "objects" twice (the driver sends it; any other caller must send a JSON object of strings, each key once); csi.storage.k8s.io/pod.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.namespace: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.uid: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/serviceAccount.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    # 1 MiB
    FailedPrecondition TooLarge: attributes: 1048583 bytes without the tokens; at most 262144 are read (make the class or the volume's attributes smaller, or ask for a higher limits.classBytes)
    "#);
}

#[tokio::test]
async fn kubelets_keys_missing_empty_or_hostile() {
    const KEYS: [&str; 4] = [
        "csi.storage.k8s.io/pod.name",
        "csi.storage.k8s.io/pod.namespace",
        "csi.storage.k8s.io/pod.uid",
        "csi.storage.k8s.io/serviceAccount.name",
    ];
    let asked = Asked::new(House::new("")).await;
    let all = |value: Value| Value::Object(KEYS.iter().map(|key| ((*key).to_owned(), value.clone())).collect());
    let table = asked
        .refusals([
            asked.parameters("one missing", json!({ KEYS[2]: null })),
            asked.parameters("all missing", all(Value::Null)),
            asked.parameters("all empty", all(json!(""))),
            asked.parameters("all globs", all(json!("*"))),
            asked.parameters("all paths", all(json!("../kube-system"))),
            asked.parameters("all placeholders", all(json!("${namespace}"))),
            asked.parameters("all with a newline", all(json!("a\nInternal: b"))),
            asked.parameters("an endless one", json!({ KEYS[1]: "x".repeat(100_000) })),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # one missing
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.uid: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    # all missing
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.namespace: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.uid: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/serviceAccount.name: is missing (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    # all empty
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.name: is empty (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.namespace: is empty (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/pod.uid: is empty (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); csi.storage.k8s.io/serviceAccount.name: is empty (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true)
    # all globs
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.name: "*" is not a Pod's name (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.namespace: "*" is not a namespace (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.uid: "*" is not a Pod's uid (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/serviceAccount.name: "*" is not a ServiceAccount's name (kubelet sets it; a class or volume cannot)
    # all paths
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.name: "../kube-system" is not a Pod's name (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.namespace: "../kube-system" is not a namespace (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.uid: "../kube-system" is not a Pod's uid (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/serviceAccount.name: "../kube-system" is not a ServiceAccount's name (kubelet sets it; a class or volume cannot)
    # all placeholders
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.name: "${namespace}" is not a Pod's name (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.namespace: "${namespace}" is not a namespace (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/serviceAccount.name: "${namespace}" is not a ServiceAccount's name (kubelet sets it; a class or volume cannot)
    # all with a newline
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.name: "a\nInternal: b" is not a Pod's name (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.namespace: "a\nInternal: b" is not a namespace (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/pod.uid: "a\nInternal: b" is not a Pod's uid (kubelet sets it; a class or volume cannot); csi.storage.k8s.io/serviceAccount.name: "a\nInternal: b" is not a ServiceAccount's name (kubelet sets it; a class or volume cannot)
    # an endless one
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.namespace: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"... is not a namespace (kubelet sets it; a class or volume cannot)
    "#);
}

#[tokio::test]
async fn the_calls_other_parts() {
    let asked = Asked::new(House::new("")).await;
    let good = || asked.house.request(&web(), GOOD);
    let path = |path: &str| MountRequest { target_path: path.to_owned(), ..good() };
    let permission = |text: &str| MountRequest { permission: text.to_owned(), ..good() };
    let secrets = |text: &str| MountRequest { secrets: text.to_owned(), ..good() };
    let table = asked
        .refusals([
            ("no target", path("")),
            ("a relative target", path("var/lib/kubelet")),
            ("a target with ..", path("/var/lib/kubelet/../x")),
            ("another Pod's target", path("/var/lib/kubelet/pods/uid-bank-db-0/volumes/kubernetes.io~csi/s/mount")),
            ("a mode in octal", permission("0644")),
            ("a mode over 0777", permission("512")),
            ("a mode in letters", permission("\"rw-r--r--\"")),
            ("a negative mode", permission("-1")),
            ("secrets that are a list", secrets("[]")),
            ("secrets that are cut", secrets(r#"{"a": "b""#)),
            ("secrets that are numbers", secrets(r#"{"a": 1}"#)),
            ("secrets of over 1 MiB", secrets(&json!({ "a": "x".repeat(1024 * 1024) }).to_string())),
            (
                "all at once",
                MountRequest {
                    secrets: "{".to_owned(),
                    permission: "9999".to_owned(),
                    target_path: "x".to_owned(),
                    ..asked.house.asking(&web(), json!({ "csi.storage.k8s.io/pod.uid": "", "secretProviderClass": "/" }))
                },
            ),
        ])
        .await;
    insta::assert_snapshot!(table, @r#"
    # no target
    InvalidArgument InvalidRequest: target_path: "" is not an absolute path (kubelet chooses it; any other caller must send the absolute path of this Pod's volume)
    # a relative target
    InvalidArgument InvalidRequest: target_path: "var/lib/kubelet" is not an absolute path (kubelet chooses it; any other caller must send the absolute path of this Pod's volume)
    # a target with ..
    InvalidArgument InvalidRequest: target_path: "/var/lib/kubelet/../x" has an empty element, `.` or `..` (kubelet chooses it; any other caller must send the absolute path of this Pod's volume)
    # another Pod's target
    InvalidArgument InvalidRequest: target_path: is a volume of the Pod with the uid "uid-bank-db-0", but csi.storage.k8s.io/pod.uid is "uid-shop-web-0" (kubelet chooses it; any other caller must send the absolute path of this Pod's volume)
    # a mode in octal
    InvalidArgument InvalidRequest: permission: "0644" is not a file mode (a decimal number from 0 to 511, such as 420 for 0644)
    # a mode over 0777
    InvalidArgument InvalidRequest: permission: 512 is over 511, that is 0777 (a decimal number from 0 to 511, such as 420 for 0644)
    # a mode in letters
    InvalidArgument InvalidRequest: permission: "\"rw-r--r--\"" is not a file mode (a decimal number from 0 to 511, such as 420 for 0644)
    # a negative mode
    InvalidArgument InvalidRequest: permission: "-1" is not a file mode (a decimal number from 0 to 511, such as 420 for 0644)
    # secrets that are a list
    InvalidArgument InvalidRequest: secrets: is not a JSON object of strings, at line 1 column 0 (the driver sends it; any other caller must send a JSON object of strings, each key once)
    # secrets that are cut
    InvalidArgument InvalidRequest: secrets: is not JSON: EOF while parsing an object at line 1 column 9 (the driver sends it; any other caller must send a JSON object of strings, each key once)
    # secrets that are numbers
    InvalidArgument InvalidRequest: secrets: the value of "a" is a number, but must be a string (the driver sends it; any other caller must send a JSON object of strings, each key once)
    # secrets of over 1 MiB
    FailedPrecondition TooLarge: secrets: 1048584 bytes; at most 1048576 are read (keep the Secret of nodePublishSecretRef small)
    # all at once
    InvalidArgument InvalidRequest: csi.storage.k8s.io/pod.uid: is empty (the CSIDriver object secrets-store.csi.k8s.io needs podInfoOnMount: true); secretProviderClass: "/" is not the name of a SecretProviderClass (name the class in the Pod's volume); secrets: is not JSON: EOF while parsing an object at line 1 column 1 (the driver sends it; any other caller must send a JSON object of strings, each key once); permission: 9999 is over 511, that is 0777 (a decimal number from 0 to 511, such as 420 for 0644); target_path: "x" is not an absolute path (kubelet chooses it; any other caller must send the absolute path of this Pod's volume)
    "#);
}
