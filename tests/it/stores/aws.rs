//! Whole mounts from AWS, which moto plays: names, ARNs and prefixes under the node's policy.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::moto::{self, Moto};
use crate::support::{House, ISSUER, Provider, TOKENS, request, shown, tokens, web};

const REGION: &str = "eu-west-1";

struct Region {
    house: House,
    moto: Moto,
}

impl Region {
    /// With these rules. Keyferry asks AWS with a key of the daemon's.
    async fn with(rules: &str) -> Self {
        let (house, moto) = (House::bare(), Moto::start().await);
        let (root, uid) = (house.folder.path().display(), rustix::process::geteuid().as_raw());
        fs::create_dir_all(house.path("kubelet/pods")).unwrap();
        fs::write(house.path("credentials"), "[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = a-secret-key\n").unwrap();
        let (url, account) = (moto.url(), moto::ACCOUNT);
        let config = format!(
            "socketDir: {root}/sockets\nstateDir: {root}/state\nkubeletDir: {root}/kubelet\nallowedPeers: [{uid}]\n\
             identity: {{ verify: jwks, audience: keyferry, issuer: \"{ISSUER}\", jwks: {{ file: {root}/jwks.json }} }}\n\
             backends:\n  amazon:\n    kind: aws\n    region: {REGION}\n    account: \"{account}\"\n    \
             auth: {{ method: keys, credentialsFile: {root}/credentials }}\n    \
             endpoints: {{ secretsmanager: \"{url}\", ssm: \"{url}\", sts: \"{url}\" }}\n\
             policy:\n{rules}\n"
        );
        fs::write(house.path("keyferry.yaml"), config).unwrap();
        Self { house, moto }
    }

    /// How many calls AWS has logged, after the last ones are written. Those of the daemon's start count too.
    async fn calls(&self) -> usize {
        let count = || self.moto.log().matches("POST / ").count();
        let mut before = count();
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = count();
            if now == before {
                return now;
            }
            before = now;
        }
    }

    async fn mount(&self, provider: &Provider, objects: &str) -> String {
        let own = self.house.token(&web(), "keyferry");
        let attributes = json!({ TOKENS: tokens(&[("keyferry", &own)]), "objects": objects });
        match provider.mount(request(&web(), attributes)).await {
            Ok(answer) => {
                let mut files = shown(&answer);
                files.sort();
                files.join("\n")
            }
            Err(status) => status.message().to_owned(),
        }
    }
}

#[tokio::test]
async fn names_arns_and_prefixes_are_mounted() {
    let region = Region::with("  - pods: { namespace: shop }\n    read: [\"amazon/**\"]").await;
    region.moto.secret(REGION, "shop/db", r#"{"username":"app","password":"correct horse"}"#).await;
    region.moto.secret(REGION, "shop/certs/web", "web's").await;
    region.moto.secret(REGION, "shop/certs/team/batch", "batch's").await;
    region.moto.parameter(REGION, "/shop/url", "postgres://db").await;
    // RDS names its secrets like this.
    region.moto.secret(REGION, "rds!db-1a2b", "managed").await;
    let provider = region.house.serve();
    let account = moto::ACCOUNT;
    let objects = format!(
        "- {{ secret: secretsmanager/shop/db, field: password, path: password }}\n\
         - {{ secret: \"arn:aws:secretsmanager:{REGION}:{account}:secret:shop/db-AbCdEf\", field: username, path: username }}\n\
         - {{ secret: ssm/shop/url, path: url }}\n\
         - {{ secret: secretsmanager/shop/none, optional: true, path: none }}\n\
         - {{ secret: secretsmanager/rds!db-1a2b, path: managed }}\n\
         - {{ prefix: secretsmanager/shop/certs/, path: certs/ }}\n"
    );
    let files = "certs/team/batch 0644 batch's\ncerts/web 0644 web's\nmanaged 0644 managed\npassword 0644 correct horse\nurl 0644 postgres://db\nusername 0644 app";
    assert_eq!(region.mount(&provider, &objects).await, files);
}

/// As they are stored: blanks, order and numbers stay, and Keyferry takes nothing apart.
#[tokio::test]
async fn a_whole_secret_is_its_bytes() {
    let region = Region::with("  - pods: { namespace: shop }\n    read: [\"amazon/**\"]").await;
    let texts = [r#"{"password": "x"}"#, r#"{ "b": 1.10, "a": [1,  2] }"#, r#"{"a":null}"#, "{}", "[1, 2]", "plain\n", "\"text\"", "null"];
    let mut objects = String::new();
    for (at, text) in texts.iter().enumerate() {
        region.moto.secret(REGION, &format!("shop/{at}"), text).await;
        objects += &format!("- {{ secret: secretsmanager/shop/{at}, path: f{at} }}\n");
    }
    let provider = region.house.serve();
    let expected: Vec<String> = texts.iter().enumerate().map(|(at, text)| format!("f{at} 0644 {text}")).collect();
    assert_eq!(region.mount(&provider, &objects).await, expected.join("\n"));
    let parsed =
        "- { secret: secretsmanager/shop/1, format: json, path: f }\n- { secret: secretsmanager/shop/0, encoding: base64, path: g }";
    assert!(region.mount(&provider, parsed).await.contains("object 2 (g)"), "the stored bytes are decoded, and these are not base64");
}

/// `/prod/db` and `prod/db` are two secrets, and two names.
#[tokio::test]
async fn names_with_empty_elements_are_names_of_their_own() {
    let rules = "  - pods: { namespace: shop }\n    read: [\"amazon/**\"]\n  - pods: { namespace: bank }\n    read: [\"amazon/secretsmanager/prod/**\"]";
    let region = Region::with(rules).await;
    region.moto.secret(REGION, "/prod/db", "with").await;
    region.moto.secret(REGION, "prod/db", "without").await;
    region.moto.secret(REGION, "prod//db", "twice").await;
    let (provider, account) = (region.house.serve(), moto::ACCOUNT);
    let objects = format!(
        "- {{ secret: secretsmanager//prod/db, path: a }}\n- {{ secret: secretsmanager/~/prod/db, path: b }}\n\
         - {{ secret: \"arn:aws:secretsmanager:{REGION}:{account}:secret:/prod/db-AbCdEf\", path: c }}\n\
         - {{ secret: secretsmanager/prod/db, path: d }}\n- {{ prefix: secretsmanager/prod/, path: e/ }}\n"
    );
    let files = "a 0644 with\nb 0644 with\nc 0644 with\nd 0644 without\ne/db 0644 without\ne/~/db 0644 twice";
    assert_eq!(region.mount(&provider, &objects).await, files);
    let all = "- { prefix: secretsmanager/, path: all/ }";
    assert_eq!(region.mount(&provider, all).await, "all/prod/db 0644 without\nall/prod/~/db 0644 twice\nall/~/prod/db 0644 with");
}

/// If policy denies a name, it denies every spelling of it, and also the other way to it.
#[tokio::test]
async fn a_deny_rule_holds_for_every_spelling() {
    let rules = "  - pods: { namespace: \"*\" }\n    deny: [\"amazon/secretsmanager/root/db\", \"amazon/ssm/root/db\"]\n  \
                 - pods: { namespace: shop }\n    read: [\"amazon/**\"]";
    let region = Region::with(rules).await;
    region.moto.secret(REGION, "root/db", "canary-5").await;
    region.moto.parameter(REGION, "/root/db", "canary-5").await;
    let (provider, account) = (region.house.serve(), moto::ACCOUNT);
    let whole = region.moto.must(REGION, "secretsmanager.DescribeSecret", json!({ "SecretId": "root/db" })).await["ARN"].clone();
    for name in [
        "secretsmanager/root/db".to_owned(),
        whole.as_str().unwrap().to_owned(),
        format!("arn:aws:secretsmanager:{REGION}:{account}:secret:root/db-AbCdEf"),
        format!("arn:aws:secretsmanager:{REGION}:{account}:secret:root/db"),
        "ssm/aws/reference/secretsmanager/root/db".to_owned(),
        format!("arn:aws:ssm:{REGION}:{account}:parameter/aws/reference/secretsmanager/root/db"),
        "ssm/root/db".to_owned(),
        format!("arn:aws:ssm:{REGION}:{account}:parameter/root/db"),
    ] {
        let said = region.mount(&provider, &format!("- {{ secret: \"{name}\", path: x }}")).await;
        assert!(said.starts_with("PolicyDenied"), "{name}: {said}");
    }
}

/// A hostile class: 512 names of another account. Keyferry denies all together, and does not ask AWS.
#[tokio::test]
async fn names_of_another_account_are_names_of_their_own_to_policy() {
    let region = Region::with("  - pods: { namespace: shop }\n    read: [\"amazon/secretsmanager/shop/*\", \"amazon/ssm/shop/*\"]").await;
    let provider = region.house.serve();
    let before = region.calls().await;
    let objects: String = (0..512)
        .map(|n| format!("- {{ secret: \"arn:aws:secretsmanager:{REGION}:999999999999:secret:shop/s{n}-AbCdEf\", path: f{n} }}\n"))
        .collect();
    let said = region.mount(&provider, &objects).await;
    assert!(said.starts_with("PolicyDenied"), "{said}");
    assert!(said.contains("999999999999:shop/s0-AbCdEf"), "{said}");
    let (told, more) = said.rsplit_once("; ... and ").unwrap();
    let told = told.matches("no rule of the policy allows").count();
    assert_eq!(more, format!("{} more", 512 - told), "{said}");
    assert_eq!(region.calls().await, before);
}

/// IAM shows every name to a user who may list. So Keyferry needs a rule that covers all names below before it asks AWS.
#[tokio::test]
async fn a_prefix_needs_a_rule_that_covers_all_below() {
    let rules = "  - pods: { namespace: shop }\n    read: [\"amazon/secretsmanager/shop/certs/web\", \"amazon/ssm/shop/*/url\"]\n  \
                 - pods: { namespace: shop }\n    read: [\"amazon/secretsmanager/shop/all/**\"]\n    deny: [\"amazon/secretsmanager/shop/all/root\"]";
    let region = Region::with(rules).await;
    for name in ["shop/certs/web", "shop/all/web", "shop/all/root"] {
        region.moto.secret(REGION, name, "canary-8").await;
    }
    region.moto.parameter(REGION, "/shop/a/url", "canary-8").await;
    let provider = region.house.serve();
    let before = region.calls().await;
    let mut said = Vec::new();
    for prefix in ["secretsmanager/shop/certs/", "ssm/shop/", "ssm/shop/a/", "secretsmanager/"] {
        said.push(region.mount(&provider, &format!("- {{ prefix: {prefix}, path: all/ }}")).await);
    }
    assert_eq!(region.calls().await, before, "AWS is not asked");
    // The rule covers all, and another one denies one name of it.
    said.push(region.mount(&provider, "- { prefix: secretsmanager/shop/all/, path: all/ }").await);
    assert!(!said.concat().contains("canary"));
    insta::assert_snapshot!(said.join("\n"), @r#"
    PolicyDenied: object 1 (all/): amazon/secretsmanager/shop/certs/: no rule of the policy allows ServiceAccount shop/web to read everything below it (the cluster's admin can add a rule with read: ["amazon/secretsmanager/shop/certs/**"])
    PolicyDenied: object 1 (all/): amazon/ssm/shop/: no rule of the policy allows ServiceAccount shop/web to read everything below it (the cluster's admin can add a rule with read: ["amazon/ssm/shop/**"])
    PolicyDenied: object 1 (all/): amazon/ssm/shop/a/: no rule of the policy allows ServiceAccount shop/web to read everything below it (the cluster's admin can add a rule with read: ["amazon/ssm/shop/a/**"])
    PolicyDenied: object 1 (all/): amazon/secretsmanager/: no rule of the policy allows ServiceAccount shop/web to read everything below it (the cluster's admin can add a rule with read: ["amazon/secretsmanager/**"])
    PolicyDenied: object 1 (all/): amazon/secretsmanager/shop/all/: policy rule 2 denies 1 of the secrets below it to ServiceAccount shop/web (leave them out with `exclude`; only the cluster's admin can change the rule)
    "#);
}
