use super::*;
use crate::model::{Method, SecretPrefix};

const KEYS: &str = "auth: { method: keys, credentialsFile: /aws }";

fn of(rest: &str) -> AwsConfig {
    config(&format!("region: eu-west-1\n{rest}")).unwrap()
}

fn own() -> AwsConfig {
    of(&format!("account: \"111122223333\"\n{KEYS}"))
}

#[test]
fn an_arn_is_another_spelling_of_a_name() {
    let own = own();
    for (text, name) in [
        ("secretsmanager/shop/db", "secretsmanager/shop/db"),
        ("secretsmanager/shop@x+y=z.w_v-u", "secretsmanager/shop@x+y=z.w_v-u"),
        // Other services of AWS name their secrets like this.
        ("secretsmanager/rds!db-1a2b", "secretsmanager/rds!db-1a2b"),
        ("secretsmanager/events!connection/shop/3f", "secretsmanager/events!connection/shop/3f"),
        (
            "arn:aws:secretsmanager:eu-west-1:111122223333:secret:rds!cluster-b08348b8-b0bc-401c-b7e3-4a7175a5f668-oYo4QI",
            "secretsmanager/rds!cluster-b08348b8-b0bc-401c-b7e3-4a7175a5f668",
        ),
        // `/a` and `a` are two secrets.
        ("secretsmanager//prod/db", "secretsmanager/~/prod/db"),
        ("secretsmanager/a//b/", "secretsmanager/a/~/b/~"),
        ("arn:aws:secretsmanager:eu-west-1:111122223333:secret:/prod/db-AbCdEf", "secretsmanager/~/prod/db"),
        ("arn:aws:secretsmanager:eu-west-1:999999999999:secret:/prod/db-AbCdEf", "secretsmanager/999999999999:/prod/db-AbCdEf"),
        ("ssm/shop/db", "ssm/shop/db"),
        ("ssm/top", "ssm/top"),
        ("ssm/aws/service/ami-amazon-linux-latest/x", "ssm/aws/service/ami-amazon-linux-latest/x"),
        ("arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db-AbCdEf", "secretsmanager/shop/db"),
        ("arn:aws:secretsmanager:eu-west-1:111122223333:secret:shop/db", "secretsmanager/shop/db"),
        ("arn:aws:ssm:eu-west-1:111122223333:parameter/shop/db", "ssm/shop/db"),
        ("arn:aws:ssm:eu-west-1:111122223333:parameter/top", "ssm/top"),
        ("arn:aws:secretsmanager:eu-west-1:999999999999:secret:shop/db-AbCdEf", "secretsmanager/999999999999:shop/db-AbCdEf"),
        ("secretsmanager/999999999999:shop/db-AbCdEf", "secretsmanager/999999999999:shop/db-AbCdEf"),
        ("arn:aws:ssm:eu-west-1:999999999999:parameter/a/b", "ssm/999999999999:a/b"),
        // The same secret through Parameter Store: a rule that denies one name denies the other.
        ("ssm/aws/reference/secretsmanager/root/db", "secretsmanager/root/db"),
        ("arn:aws:ssm:eu-west-1:111122223333:parameter/aws/reference/secretsmanager/root/db", "secretsmanager/root/db"),
    ] {
        let canonical = own.canonical(text).unwrap();
        assert_eq!(canonical.as_str(), name, "{text}");
        assert_eq!(own.canonical(canonical.as_str()).unwrap(), canonical, "{text}");
    }
}

#[test]
fn names_may_be_as_long_as_in_aws() {
    let own = own();
    let named = |service: &str, length: usize| own.canonical(&format!("{service}/{}", "x".repeat(length))).is_ok();
    assert!(named("secretsmanager", 512) && !named("secretsmanager", 513));
    assert!(named("secretsmanager/", 511) && !named("secretsmanager/", 512), "an empty element has no character");
    let foreign = |length: usize| own.canonical(&format!("secretsmanager/999999999999:{}-AbCdEf", "x".repeat(length))).is_ok();
    assert!(foreign(512) && !foreign(513), "the end of an ARN does not count");
    assert!(named("ssm", 960) && !named("ssm", 1_000));
}

#[test]
fn what_is_sent_is_what_policy_saw() {
    let own = own();
    for (name, sent) in [
        ("secretsmanager/shop/db", "shop/db"),
        ("secretsmanager/999999999999:shop/db-AbCdEf", "arn:aws:secretsmanager:eu-west-1:999999999999:secret:shop/db-AbCdEf"),
        ("secretsmanager/~/prod/~/db", "/prod//db"),
        ("secretsmanager/999999999999:/prod/db-AbCdEf", "arn:aws:secretsmanager:eu-west-1:999999999999:secret:/prod/db-AbCdEf"),
        ("ssm/shop/db", "/shop/db"),
        ("ssm/top", "top"),
        ("ssm/999999999999:a/b", "arn:aws:ssm:eu-west-1:999999999999:parameter/a/b"),
    ] {
        assert_eq!(name::Named::of(&own.canonical(name).unwrap()).unwrap().id(&own), sent);
    }
    let china = config(&format!("region: cn-north-1\naccount: \"111122223333\"\n{KEYS}")).unwrap();
    let foreign = china.canonical("arn:aws-cn:ssm:cn-north-1:999999999999:parameter/a").unwrap();
    assert_eq!(name::Named::of(&foreign).unwrap().id(&china), "arn:aws-cn:ssm:cn-north-1:999999999999:parameter/a");
}

#[test]
fn names_that_cannot_be_asked_for_say_why() {
    let own = own();
    let long = format!("secretsmanager/{}", "x".repeat(513));
    let deep = format!("ssm/{}", vec!["x"; 16].join("/"));
    let names = [
        "shop/db",
        "secretsmanager",
        "secretsmanager/",
        "secretsmanager/a~b",
        "secretsmanager/~a/b",
        "secretsmanager/999999999999:",
        "ssm//a",
        "ssm/~/a",
        "ssm/AWS/reference/secretsmanager/root",
        "ssm/999999999999:aws/reference/secretsmanager/x",
        "secretsmanager/a/../b",
        "secretsmanager/a b",
        "secretsmanager/a:b",
        "secretsmanager/ü",
        "secretsmanager/111122223333:a-AbCdEf",
        "secretsmanager/999999999999:a",
        "secretsmanager/99:a",
        "secretsmanager/arn:aws:secretsmanager:eu-west-1:111122223333:secret:db-AbCdEf",
        "ssm/arn:aws:ssm:eu-west-1:111122223333:parameter/a",
        &long,
        "ssm/a:3",
        "ssm/a+b",
        "ssm/a ",
        "ssm/a%2Fb",
        "secretsmanager/a*",
        "ssm/111122223333:a",
        &deep,
        "ssm/aws/reference/secretsmanager/a:b",
        "arn:aws:secretsmanager:eu-west-1",
        "arn:aws:secretsmanager:eu-central-1:111122223333:secret:a-AbCdEf",
        "arn:aws-cn:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf",
        "arn:aws:s3:eu-west-1:111122223333:secret:a-AbCdEf",
        "arn:aws:ssm:eu-west-1:111122223333:document/a",
        "arn:aws:ssm:eu-west-1:111122223333:secret:a-AbCdEf",
        "arn:aws:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf:password::",
        "arn:aws:secretsmanager:eu-west-1::secret:a-AbCdEf",
        "arn:aws:secretsmanager:eu-west-1:111122223333:secret:",
        "arn:aws:ssm:eu-west-1:111122223333:parameter/",
    ];
    let said: Vec<_> = names.iter().map(|name| format!("{name:.70} {}", own.canonical(name).unwrap_err())).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    shop/db does not begin with `secretsmanager/` or `ssm/` (write for example "secretsmanager/shop/db")
    secretsmanager has no name of a secret after `secretsmanager/` (write it there)
    secretsmanager/ has an empty element (`//`, or a `/` at its start or end)
    secretsmanager/a~b has '~', which the name of a secret cannot have (letters, digits and /_+=.@!-)
    secretsmanager/~a/b has '~', which the name of a secret cannot have (letters, digits and /_+=.@!-)
    secretsmanager/999999999999: has no name of a secret after the account (write it there)
    ssm//a has an empty element (`//`, or a `/` at its start or end)
    ssm/~/a has '~', which the name of a parameter cannot have (letters, digits and /_.-)
    ssm/AWS/reference/secretsmanager/root begins with another spelling of `aws/reference/secretsmanager/` (write secretsmanager/NAME)
    ssm/999999999999:aws/reference/secretsmanager/x begins with another spelling of `aws/reference/secretsmanager/` (write secretsmanager/NAME)
    secretsmanager/a/../b has the element ".."
    secretsmanager/a b has ' ', which the name of a secret cannot have (letters, digits and /_+=.@!-)
    secretsmanager/a:b has a `:`, which the name of a secret cannot have (write a part of the secret as `field`)
    secretsmanager/ü has 'ü', which the name of a secret cannot have (letters, digits and /_+=.@!-)
    secretsmanager/111122223333:a-AbCdEf has the backend's own account (leave it out)
    secretsmanager/999999999999:a is of another account, and does not end like an ARN, such as with -AbCdEf (write the whole ARN)
    secretsmanager/99:a has a `:`, which the name of a secret cannot have (write a part of the secret as `field`)
    secretsmanager/arn:aws:secretsmanager:eu-west-1:111122223333:secret:db has an ARN after `secretsmanager/` (write only the ARN)
    ssm/arn:aws:ssm:eu-west-1:111122223333:parameter/a has an ARN after `ssm/` (write only the ARN)
    secretsmanager/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx is over 512 characters, which is too long for the name of a secret (check its spelling)
    ssm/a:3 has a `:`, which the name of a parameter cannot have (write a version or a label as `version`)
    ssm/a+b has '+', which the name of a parameter cannot have (letters, digits and /_.-)
    ssm/a  has ' ', which the name of a parameter cannot have (letters, digits and /_.-)
    ssm/a%2Fb has the character '%', which stores read as an escape or a query
    secretsmanager/a* has '*', which the name of a secret cannot have (letters, digits and /_+=.@!-)
    ssm/111122223333:a has the backend's own account (leave it out)
    ssm/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x has over 15 levels, which is too many for a parameter (check its spelling)
    ssm/aws/reference/secretsmanager/a:b has a `:`, which the name of a secret cannot have (write a part of the secret as `field`)
    arn:aws:secretsmanager:eu-west-1 is not a whole ARN (copy it from AWS, or write secretsmanager/NAME or ssm/NAME)
    arn:aws:secretsmanager:eu-central-1:111122223333:secret:a-AbCdEf is an ARN of the region "eu-central-1", and this backend is in eu-west-1 (use a backend of that region)
    arn:aws-cn:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf is an ARN of the partition "aws-cn", and this backend is in aws (use a backend of that partition)
    arn:aws:s3:eu-west-1:111122223333:secret:a-AbCdEf is not the ARN of a secret or a parameter (copy it from AWS)
    arn:aws:ssm:eu-west-1:111122223333:document/a is not the ARN of a secret or a parameter (copy it from AWS)
    arn:aws:ssm:eu-west-1:111122223333:secret:a-AbCdEf is not the ARN of a secret or a parameter (copy it from AWS)
    arn:aws:secretsmanager:eu-west-1:111122223333:secret:a-AbCdEf:password has a `:`, which the name of a secret cannot have (write a part of the secret as `field`)
    arn:aws:secretsmanager:eu-west-1::secret:a-AbCdEf is an ARN without the number of an account (copy the whole ARN from AWS)
    arn:aws:secretsmanager:eu-west-1:111122223333:secret: ends before the name (copy the whole ARN from AWS)
    arn:aws:ssm:eu-west-1:111122223333:parameter/ ends before the name (copy the whole ARN from AWS)
    "#);
}

/// Without the account, Keyferry cannot know whose ARN it is, and cannot compare a rule for a name with it.
#[test]
fn without_an_account_no_arn_is_a_name() {
    let none = of(KEYS);
    let said: Vec<_> = ["arn:aws:ssm:eu-west-1:111122223333:parameter/a", "ssm/111122223333:a", "secretsmanager/111122223333:shop/x"]
        .iter()
        .map(|name| none.canonical(name).unwrap_err().to_string())
        .collect();
    insta::assert_snapshot!(said.join("\n"), @"
    is an ARN, and the backend has no `account`: without it, Keyferry reads no ARN (write the name, as secretsmanager/NAME or ssm/NAME; or the cluster's admin can set `account` of the backend to its own account's number)
    has the account 111122223333, and the backend has no `account`: without it, Keyferry reads no ARN, and no name of another account (the cluster's admin can set `account` of the backend to its own account's number)
    has the account 111122223333, and the backend has no `account`: without it, Keyferry reads no ARN, and no name of another account (the cluster's admin can set `account` of the backend to its own account's number)
    ");
    assert!(none.canonical("ssm/a").is_ok());
}

fn admitted(kind: &AwsConfig, name: &str, change: impl FnOnce(&mut RefParts)) -> Result<RefParts, String> {
    let mut asked = RefParts::read("amazon".parse().unwrap(), kind.canonical(name).unwrap());
    change(&mut asked);
    kind.admit(asked).map_err(|refused| match refused {
        crate::backend::Inadmissible::Login { key, problem } | crate::backend::Inadmissible::NoLogin { key, problem } => {
            format!("{}: {problem}", key.as_str())
        }
        crate::backend::Inadmissible::Request { key, problem } => format!("{key}: {problem}"),
    })
}

#[test]
fn a_class_asks_for_what_aws_has_and_no_more() {
    let (keys, irsa) = (own(), of("auth: { method: irsa, role: \"arn:aws:iam::111122223333:role/web\" }"));
    let chained = of("auth: { method: irsa, assumeRole: { role: \"arn:aws:iam::111122223333:role/x\" } }");
    let role = |role: &str| Login { role: Some(role.to_owned()), ..Login::default() };
    let own = admitted(&irsa, "ssm/a", |asked| asked.login = role("arn:aws:iam::111122223333:role/web")).unwrap();
    assert_eq!(own.login, Login::default(), "as the configuration says");
    let other = admitted(&irsa, "ssm/a", |asked| asked.login = role("arn:aws:iam::111122223333:role/other")).unwrap();
    assert_eq!(other.login, role("arn:aws:iam::111122223333:role/other"));
    let mount = |mount: &str| Login { mount: Some(mount.to_owned()), ..Login::default() };
    assert_eq!(admitted(&irsa, "ssm/a", |asked| asked.login = mount("irsa")).unwrap().login, Login::default());
    let refused = [
        admitted(&irsa, "ssm/a", |asked| asked.login = role("web")),
        admitted(&keys, "ssm/a", |asked| asked.login = role("arn:aws:iam::111122223333:role/web")),
        admitted(&chained, "ssm/a", |asked| asked.login = role("arn:aws:iam::111122223333:role/web")),
        admitted(&irsa, "ssm/a", |asked| asked.login = mount("podIdentity")),
        admitted(&irsa, "ssm/a", |asked| asked.login.address = Some("https://evil.example".to_owned())),
        admitted(&irsa, "ssm/a", |asked| asked.login.namespace = Some("team".to_owned())),
        admitted(&keys, "ssm/a", |asked| asked.method = Method::Post),
        admitted(&keys, "ssm/a", |asked| asked.args.insert("x", &"y".into())),
        admitted(&keys, "ssm/a", |asked| asked.version = Some(Version::new("3a"))),
        admitted(&keys, "secretsmanager/a", |asked| asked.version = Some(Version::new("stage:"))),
    ];
    let said: Vec<_> = refused.into_iter().map(Result::unwrap_err).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    role: "web" is not the ARN of a role (write for example arn:aws:iam::111122223333:role/web)
    role: cannot be chosen by a class, because this backend has auth.method keys (remove it)
    role: cannot be chosen by a class, because this backend has auth.assumeRole (remove it)
    mount: means login by "podIdentity", and the backend that serves this class logs in by irsa (change that in the class; or the cluster's admin can add a backend of this region with the other auth.method)
    address: means nothing to AWS: a class can choose only the role of a login (remove it)
    namespace: means nothing to AWS: a class can choose only the role of a login (remove it)
    method: POST means nothing to AWS, whose secrets are only read (remove it)
    args: mean nothing to AWS, whose secrets are asked for by name alone (remove it)
    version: "3a" is neither the number nor the label of a parameter's version (a label has letters, digits and _.-, and does not begin with a digit, `aws` or `ssm`)
    version: "" is not the stage of a secret's version (1 to 256 characters, such as AWSPREVIOUS)
    "#);
}

#[test]
fn what_the_configuration_cannot_mean_is_said_all_at_once() {
    let entries = [
        "auth: {}",
        "region: eu-west\nauth: { method: token }",
        "region: xx-north-1\nauth: { method: irsa, role: web, profile: x }",
        "region: eu-west-1\naccount: 1111\nauth: { method: keys }",
        "region: eu-west-1\nauth: { method: keys, credentialsFile: /aws, accessKeyIdFile: /id }",
        "region: eu-west-1\nauth: { method: keys, accessKeyIdFile: /id, secretAccessKeyFile: /secret, profile: x }\nshare: pod",
        "region: eu-west-1\nauth: { method: instance, address: \"http://10.0.0.1\" }",
        "region: eu-west-1\nauth: { method: podIdentity, address: \"http://169.254.169.254\" }\nclassMay: { role: [\"**\"] }",
        "region: eu-west-1\nauth: { method: irsa }\nclassMay: { address: [\"**\"], tls: true }",
        "region: eu-west-1\nauth: { method: irsa }\nfips: true\nendpoints: { ssm: \"http://aws.example\", s3: x, sts: \"https://x/base\" }",
        "region: eu-west-1\nauth: { method: keys, credentialsFile: aws, assumeRole: [{ role: \"arn:aws:iam::111122223333:role/${namespace}-${serviceAccount}\" }, { externalId: x }] }",
        "region: eu-west-1\nauth: { method: irsa }\nendpoints: { ssm: \"https://x\" }\nfips: true",
    ];
    let said: Vec<_> = entries.iter().map(|entry| format!("{}\n", config(entry).unwrap_err())).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    amazon.region: is missing (where the secrets are, such as region: eu-west-1)
    amazon.auth.method: is missing (one of irsa, podIdentity, keys, instance)

    amazon.region: "eu-west" is not a region (write for example eu-west-1)
    amazon.auth.method: is not a way to log in (known here: irsa, podIdentity, keys, instance)

    amazon.region: "xx-north-1" is not a region that this version knows (check its spelling; for a new region, write `endpoints` for secretsmanager, ssm and sts)
    amazon.auth.role: "web" is not the ARN of a role (write for example arn:aws:iam::111122223333:role/web)
    amazon.auth.profile: works only with keys, not with irsa (remove it)

    amazon.account: "1111" is not the number of an account (twelve digits, in quotes: "111122223333")
    amazon.auth.accessKeyIdFile: is missing (the file with the id of the access key; or credentialsFile, a file as AWS's tools write it)
    amazon.auth.secretAccessKeyFile: is missing (the file with the key itself; or credentialsFile, a file as AWS's tools write it)

    amazon.auth.credentialsFile: cannot be used together with `accessKeyIdFile` (remove one)

    amazon.auth.profile: belongs to `credentialsFile`, which is missing (write that too, or remove it)
    amazon.share: works only with irsa and podIdentity: here all Pods are the same to AWS (remove it)

    amazon.auth.address: is not an address of this node (write http://169.254.169.254 or http://[fd00:ec2::254], or one of 127.0.0.1)

    amazon.auth.address: is not an address of this node (write http://169.254.170.23 or http://[fd00:ec2::23], or one of 127.0.0.1)
    amazon.classMay.role: cannot be granted here: a class can choose a role only where the Pod's own token is the whole login (use auth.method irsa without assumeRole, or remove it)

    amazon.classMay.address: cannot be granted here: a class can choose only the role of a login to AWS (remove it)
    amazon.classMay.tls: cannot be granted here: a class can choose only the role of a login to AWS (remove it)

    amazon.endpoints.ssm: does not begin with https:// (write https://; http:// is only for this machine's own addresses, such as 127.0.0.1)
    amazon.endpoints.s3: is not a known key (known here: secretsmanager, ssm, sts)
    amazon.endpoints.sts: has a path, and Keyferry asks AWS only at `/` (write only scheme, host and port)

    amazon.auth.credentialsFile: "aws" is not an absolute path (start it with /)
    amazon.auth.assumeRole.role: "arn:aws:iam::111122223333:role/${namespace}-${serviceAccount}" gives ServiceAccounts of several namespaces the same role, such as c of a-b and b-c of a (write ${namespace}.${serviceAccount} or ${namespace}/${serviceAccount})
    amazon.auth.assumeRole.role: is missing (the ARN of the role, such as arn:aws:iam::111122223333:role/secrets)
    amazon.auth.assumeRole.externalId: is not an external id (2 to 1224 letters, digits and _+=,.@:/-)

    amazon.fips: is for AWS's own addresses, and cannot be used together with `endpoints` (write those hosts there, or remove one)
    "#);
}

#[test]
fn a_whole_entry_is_read() {
    let read = config(
        "region: us-gov-west-1\naccount: \"111122223333\"\nca: /ca.crt\nshare: pod\nfips: true\ndualStack: true\nstoreWords: false\n\
         auth: { method: podIdentity, audience: x, address: \"http://[fd00:ec2::23]\" }\ncache: { fresh: 1m }",
    )
    .unwrap();
    assert_eq!(read.endpoint(Service::Parameters).to_string(), "https://ssm-fips.us-gov-west-1.api.aws");
    assert_eq!(read.endpoint(Service::SecretsManager).to_string(), "https://secretsmanager-fips.us-gov-west-1.amazonaws.com");
    assert_eq!(read.audience().unwrap().text, "x");
    let newer = config(
        "region: xx-north-1\nauth: { method: irsa }\nendpoints: { ssm: \"https://a\", sts: \"https://b\", secretsmanager: \"https://c\" }",
    );
    assert_eq!(newer.unwrap().endpoint(Service::Tokens).to_string(), "https://b");
}

/// Fault 7 of the AWS provider: it logs in at an address without FIPS.
#[test]
fn fips_is_for_logins_as_well() {
    for (entry, host) in [
        ("region: us-east-1\nfips: true", "https://sts-fips.us-east-1.amazonaws.com"),
        ("region: ca-west-1\nfips: true", "https://sts-fips.ca-west-1.amazonaws.com"),
        ("region: us-east-1\nfips: true\ndualStack: true", "https://sts-fips.us-east-1.api.aws"),
        // Every address there is FIPS.
        ("region: us-gov-west-1\nfips: true", "https://sts.us-gov-west-1.amazonaws.com"),
        ("region: us-east-1", "https://sts.us-east-1.amazonaws.com"),
    ] {
        let read = config(&format!("{entry}\nauth: {{ method: irsa }}")).unwrap();
        assert_eq!(read.endpoint(Service::Tokens).to_string(), host, "{entry}");
    }
}

/// The answers that are kept on disk depend on this text.
#[test]
fn answers_hang_on_who_asks_where_and_how() {
    let text = |entry: &str| config(entry).unwrap().hangs_on().to_text();
    let entries = [
        "region: eu-west-1\nauth: { method: irsa }",
        "region: eu-west-1\naccount: \"111122223333\"\nshare: pod\nauth: { method: irsa, role: \"arn:aws:iam::111122223333:role/x\" }",
        "region: eu-west-1\nauth: { method: keys, credentialsFile: /aws, assumeRole: { role: \"arn:aws:iam::111122223333:role/x\", externalId: abc } }",
        "region: eu-west-1\nauth: { method: keys, accessKeyIdFile: /a, secretAccessKeyFile: /b, sessionTokenFile: /c }",
        "region: eu-west-1\nauth: { method: instance, address: \"http://127.0.0.1:1\" }",
        "region: eu-west-1\nauth: { method: podIdentity }",
    ];
    let texts: Vec<_> = entries.iter().map(|entry| text(entry)).collect();
    insta::assert_snapshot!(texts.join("\n"), @r#"
    [["kind","aws"],["region","eu-west-1"],["secretsmanager","https://secretsmanager.eu-west-1.amazonaws.com"],["ssm","https://ssm.eu-west-1.amazonaws.com"],["sts","https://sts.eu-west-1.amazonaws.com"],["method","irsa"],["audience","sts.amazonaws.com"]]
    [["kind","aws"],["region","eu-west-1"],["account","111122223333"],["secretsmanager","https://secretsmanager.eu-west-1.amazonaws.com"],["ssm","https://ssm.eu-west-1.amazonaws.com"],["sts","https://sts.eu-west-1.amazonaws.com"],["method","irsa"],["audience","sts.amazonaws.com"],["role","arn:aws:iam::111122223333:role/x"],["share","pod"]]
    [["kind","aws"],["region","eu-west-1"],["secretsmanager","https://secretsmanager.eu-west-1.amazonaws.com"],["ssm","https://ssm.eu-west-1.amazonaws.com"],["sts","https://sts.eu-west-1.amazonaws.com"],["method","keys"],["credentialsFile","/aws"],["profile","default"],["assumeRole","arn:aws:iam::111122223333:role/x"],["externalId","abc"]]
    [["kind","aws"],["region","eu-west-1"],["secretsmanager","https://secretsmanager.eu-west-1.amazonaws.com"],["ssm","https://ssm.eu-west-1.amazonaws.com"],["sts","https://sts.eu-west-1.amazonaws.com"],["method","keys"],["accessKeyIdFile","/a"],["secretAccessKeyFile","/b"],["sessionTokenFile","/c"]]
    [["kind","aws"],["region","eu-west-1"],["secretsmanager","https://secretsmanager.eu-west-1.amazonaws.com"],["ssm","https://ssm.eu-west-1.amazonaws.com"],["sts","https://sts.eu-west-1.amazonaws.com"],["method","instance"],["address","http://127.0.0.1:1"]]
    [["kind","aws"],["region","eu-west-1"],["secretsmanager","https://secretsmanager.eu-west-1.amazonaws.com"],["ssm","https://ssm.eu-west-1.amazonaws.com"],["sts","https://sts.eu-west-1.amazonaws.com"],["method","podIdentity"],["audience","pods.eks.amazonaws.com"]]
    "#);
}

#[tokio::test]
async fn a_prefix_is_a_folder_of_one_of_the_services() {
    let backend = Bench::new().backend_with("http://127.0.0.1:9", ("AKIA", "x"), "", "");
    let prefix = |prefix: &str| SecretPrefix { backend: "amazon".parse().unwrap(), prefix: prefix.to_owned(), login: Login::default() };
    for text in ["shop/", "", "secretsmanager/a/../"] {
        assert_eq!(backend.list(&prefix(text), &cx()).await.unwrap_err().fault, Fault::Invalid, "{text:?}");
    }
}

/// AWS refuses what is signed for another region, and roles of one partition do not exist in another.
#[test]
fn another_regions_address_and_another_partitions_role_are_refused() {
    let entries = [
        "region: eu-west-1\nauth: { method: irsa }\nendpoints: { sts: \"https://sts.amazonaws.com\" }",
        "region: eu-west-1\nauth: { method: irsa }\nendpoints: { ssm: \"https://ssm.us-east-1.amazonaws.com\", secretsmanager: \"https://SecretsManager.EU-west-2.api.aws\" }",
        "region: eu-west-1\nauth: { method: irsa, role: \"arn:aws-cn:iam::111122223333:role/web\" }",
        "region: cn-north-1\nauth: { method: irsa, role: \"arn:aws:iam::111122223333:role/web\" }",
        "region: eu-west-1\nauth: { method: irsa, role: \"arn:awsfoo:iam::111122223333:role/web\" }",
        "region: eu-west-1\nauth: { method: instance, assumeRole: { role: \"arn:aws-us-gov:iam::111122223333:role/web\" } }",
        "region: us-foo-bar-baz-1\nauth: { method: irsa }",
    ];
    let said: Vec<_> = entries.iter().map(|entry| config(entry).unwrap_err()).collect();
    insta::assert_snapshot!(said.join("\n"), @r#"
    amazon.endpoints.sts: is not an address of eu-west-1, and AWS refuses what is signed for another region (write https://sts.eu-west-1.amazonaws.com, or remove it)
    amazon.endpoints.ssm: is not an address of eu-west-1, and AWS refuses what is signed for another region (write https://ssm.eu-west-1.amazonaws.com, or remove it)
    amazon.endpoints.secretsmanager: is not an address of eu-west-1, and AWS refuses what is signed for another region (write https://secretsmanager.eu-west-1.amazonaws.com, or remove it)
    amazon.auth.role: "arn:aws-cn:iam::111122223333:role/web" is an ARN of the partition "aws-cn", and eu-west-1 is in aws (begin it with arn:aws:)
    amazon.auth.role: "arn:aws:iam::111122223333:role/web" is an ARN of the partition "aws", and cn-north-1 is in aws-cn (begin it with arn:aws-cn:)
    amazon.auth.role: "arn:awsfoo:iam::111122223333:role/web" is not the ARN of a role (write for example arn:aws:iam::111122223333:role/web)
    amazon.auth.assumeRole.role: "arn:aws-us-gov:iam::111122223333:role/web" is an ARN of the partition "aws-us-gov", and eu-west-1 is in aws (begin it with arn:aws:)
    amazon.region: "us-foo-bar-baz-1" is not a region that this version knows (check its spelling; for a new region, write `endpoints` for secretsmanager, ssm and sts)
    "#);
    for entry in [
        "region: eu-west-1\nauth: { method: irsa }\nendpoints: { sts: \"https://vpce-1.sts.eu-west-1.vpce.amazonaws.com\", ssm: \"https://aws.corp.example\" }",
        "region: cn-north-1\nauth: { method: irsa, role: \"arn:aws-cn:iam::111122223333:role/web\" }",
        "region: xx-north-1\nauth: { method: irsa, role: \"arn:aws-new:iam::111122223333:role/web\" }\nendpoints: { ssm: \"https://a\", sts: \"https://b\", secretsmanager: \"https://c\" }",
    ] {
        config(entry).unwrap();
    }
    let irsa = of("auth: { method: irsa }");
    let role = |role: &str| Login { role: Some(role.to_owned()), ..Login::default() };
    let refused = admitted(&irsa, "ssm/a", |asked| asked.login = role("arn:aws-cn:iam::111122223333:role/web")).unwrap_err();
    insta::assert_snapshot!(refused, @r#"role: "arn:aws-cn:iam::111122223333:role/web" is an ARN of the partition "aws-cn", and eu-west-1 is in aws (begin it with arn:aws:)"#);
}
