use serde_json::json;

use super::bao::Proxy;
use super::*;

#[tokio::test]
async fn what_is_asked_for_at_once_is_one_call() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(20));
    let backend = bench.backend(&aws);
    let read = at_once(&backend, many(20)).await;
    for (n, read) in read.iter().enumerate() {
        assert_eq!(field(read.as_ref().unwrap(), "value"), format!("value-{n}"));
        assert_eq!(version(read.as_ref().unwrap()), format!("v-value-{n}"));
    }
    assert_eq!(aws.operations(), ["BatchGetSecretValue"]);
    super::read(&backend, "secretsmanager/many/3").await.unwrap();
    assert_eq!(aws.operations(), ["GetSecretValue"], "one alone");
}

#[tokio::test]
async fn each_object_of_a_batch_has_its_own_fault() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(3));
    let backend = bench.backend(&aws);
    let names = ["secretsmanager/many/0", "secretsmanager/nothing", "secretsmanager/many/1"].map(str::to_owned);
    let read = at_once(&backend, names).await;
    assert!(read[0].is_ok() && read[2].is_ok());
    let error = read[1].as_ref().unwrap_err();
    assert_eq!(error.fault, Fault::NotFound);
    insta::assert_snapshot!(error, @"amazon/secretsmanager/nothing: Secrets Manager says ResourceNotFoundException: Secrets Manager can't find the specified secret. (check the name, its version and the backend's region; AWS's request id is 0e7f-request)");
    assert_eq!(aws.operations(), ["BatchGetSecretValue"]);
}

/// The same for what AWS says about only one secret.
#[tokio::test]
async fn a_denied_name_of_a_batch_fails_alone() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(1));
    let faults = [
        ("denied", "AccessDeniedException", "not authorized to perform: secretsmanager:GetSecretValue", Fault::Denied),
        ("kms", "AccessDeniedException", "Access to KMS is not allowed", Fault::Denied),
        ("key", "DecryptionFailure", "The key is disabled", Fault::Corrupt),
        (
            "gone",
            "InvalidRequestException",
            "You can't perform this operation on the secret because it was marked for deletion.",
            Fault::NotFound,
        ),
        ("new", "SomethingNewException", "", Fault::Unavailable),
        ("silent", "", "", Fault::Unavailable),
    ];
    aws.says(move |asked| {
        let errors = faults.map(|(name, code, message, _)| json!({ "SecretId": name, "ErrorCode": code, "Message": message }));
        let value = json!({ "Name": "many/0", "VersionId": "v", "SecretString": "value-0" });
        (asked.operation() == "BatchGetSecretValue").then(|| Answer::json(&json!({ "SecretValues": [value], "Errors": errors })))
    });
    let names = faults.iter().map(|(name, ..)| format!("secretsmanager/{name}"));
    let read = at_once(&bench.backend(&aws), names.chain(many(1))).await;
    assert_eq!(field(read[6].as_ref().unwrap(), "value"), "value-0");
    let errors: Vec<_> = read[..6].iter().map(|read| read.as_ref().unwrap_err()).collect();
    assert_eq!(errors.iter().map(|error| error.fault).collect::<Vec<_>>(), faults.map(|(.., fault)| fault));
    assert_eq!(aws.operations(), ["BatchGetSecretValue"], "none is asked for once more");
    insta::assert_snapshot!(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"), @"
    amazon/secretsmanager/denied: Secrets Manager says AccessDeniedException: not authorized to perform: secretsmanager:GetSecretValue (allow secretsmanager:GetSecretValue on it in the role's policy; AWS says the same about a secret that does not exist; AWS's request id is 0e7f-request)
    amazon/secretsmanager/kms: Secrets Manager says AccessDeniedException: Access to KMS is not allowed (the secret's KMS key must allow kms:Decrypt to the role, in the key's policy and in the role's; AWS's request id is 0e7f-request)
    amazon/secretsmanager/key: Secrets Manager says DecryptionFailure: The key is disabled (check the KMS key of the secret: is it disabled, or will it be deleted?; AWS's request id is 0e7f-request)
    amazon/secretsmanager/gone: Secrets Manager says InvalidRequestException: You can't perform this operation on the secret because it was marked for deletion. (it can be restored until its deletion: aws secretsmanager restore-secret; AWS's request id is 0e7f-request)
    amazon/secretsmanager/new: Secrets Manager says SomethingNewException (kubelet tries again by itself; AWS's request id is 0e7f-request)
    amazon/secretsmanager/silent: Secrets Manager says nothing (kubelet tries again by itself; AWS's request id is 0e7f-request)
    ");
}

/// Two ServiceAccounts of one namespace are two to AWS: no secret is read with the other's key.
#[tokio::test]
async fn service_accounts_share_no_batch() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(4));
    let role = ", assumeRole: { role: \"arn:aws:iam::111122223333:role/${namespace}.${serviceAccount}\" }";
    let backend = bench.backend_with(&format!("http://{}", aws.address), fake::KEY, role, "");
    let fetch = async |account: &str, n: usize| {
        let mut cx = cx_of(account);
        let uid = Some(format!("uid-of-{account}").as_str().into());
        cx.pod = Arc::new(PodIdentity { service_account: account.into(), service_account_uid: uid, ..(*cx.pod).clone() });
        backend.fetch(&secret(&backend, &format!("secretsmanager/many/{n}")), &cx).await.unwrap();
    };
    for _ in 0..2 {
        tokio::join!(fetch("web", 0), fetch("api", 1), fetch("web", 2), fetch("api", 3));
    }
    let asked = aws.asked();
    let batches: Vec<String> = asked.iter().map(|asked| asked.json()["SecretIdList"].to_string()).filter(|ids| ids != "null").collect();
    assert!(batches.len() >= 2, "{asked:?}");
    for ids in batches {
        let [of_web, of_api] = [["many/0", "many/2"], ["many/1", "many/3"]].map(|own| own.iter().any(|id| ids.contains(id)));
        assert!(of_web != of_api, "{ids}");
    }
}

/// Roles that were made for another provider have no right to use batches.
#[tokio::test]
async fn a_batch_that_is_denied_is_asked_for_one_by_one_and_remembered_for_an_hour() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(5));
    aws.says(|asked| {
        let denied = "User: arn:aws:sts::111122223333:assumed-role/web/x is not authorized to perform: secretsmanager:BatchGetSecretValue";
        (asked.operation() == "BatchGetSecretValue").then(|| fake::error("AccessDeniedException", denied))
    });
    let backend = bench.backend(&aws);
    assert!(at_once(&backend, many(5)).await.iter().all(Result::is_ok));
    let operations = aws.operations();
    assert_eq!((operations[0].as_str(), operations.len()), ("BatchGetSecretValue", 6), "{operations:?}");
    assert!(at_once(&backend, many(5)).await.iter().all(Result::is_ok));
    assert_eq!(aws.operations(), ["GetSecretValue"; 5]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(1)).await;
    tokio::time::resume();
    assert!(at_once(&backend, many(5)).await.iter().all(Result::is_ok));
    assert_eq!(aws.operations().len(), 6);
}

#[tokio::test]
async fn a_batch_that_is_throttled_or_too_large_is_asked_for_one_by_one() {
    for (answer, tries) in [
        (fake::error("ThrottlingException", "Rate exceeded"), 1),
        (Answer::new(200, format!("{{\"x\":\"{}\"}}", "x".repeat(9 * 1024 * 1024))), 1),
        (fake::error("ResourceNotFoundException", "can't find the specified secret value"), 1),
        (fake::error("ValidationException", "1 validation error detected"), 1),
        (Answer::new(200, "<html>"), 1),
    ] {
        let (bench, aws) = (Bench::new(), Aws::with_secrets(4));
        let shown = format!("{answer:.60?}");
        aws.says(move |asked| (asked.operation() == "BatchGetSecretValue").then(|| answer.clone()));
        let read = at_once(&bench.backend(&aws), many(4)).await;
        assert!(read.iter().all(Result::is_ok), "{shown} {read:?}");
        assert_eq!(aws.operations().len(), tries + 4, "{shown}");
    }
}

/// A call without an answer means the same for each secret.
#[tokio::test]
async fn a_store_that_fails_is_not_asked_once_for_each() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(8));
    aws.says(|_| Some(Answer::new(500, "{}")));
    let read = at_once(&bench.backend(&aws), many(8)).await;
    assert!(read.iter().all(|read| read.as_ref().unwrap_err().fault == Fault::Unavailable), "{read:?}");
    assert_eq!(aws.operations(), ["BatchGetSecretValue"; 3]);
}

#[tokio::test]
async fn what_a_batch_does_not_tell_of_is_asked_for_by_itself() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(3));
    aws.says(|asked| {
        (asked.operation() == "BatchGetSecretValue")
            .then(|| Answer::json(&json!({ "SecretValues": null, "Errors": [], "NextToken": null })))
    });
    assert!(at_once(&bench.backend(&aws), many(3)).await.iter().all(Result::is_ok));
    assert_eq!(aws.operations().len(), 4);
}

/// AWS refuses the whole call if it denies one name, and does not say which (fault 17 of the AWS provider).
#[tokio::test]
async fn one_denied_parameter_fails_alone() {
    let (bench, aws) = (Bench::new(), Aws::start());
    for name in ["/shop/a", "/shop/b", "/root/c"] {
        aws.parameter(name, name);
    }
    aws.says(|asked| {
        let denied = "User: arn:aws:sts::111122223333:assumed-role/web/x is not authorized to perform: ssm:GetParameters on resource: \
                      arn:aws:ssm:eu-west-1:111122223333:parameter/root/c because no identity-based policy allows the ssm:GetParameters action";
        asked.json()["Names"].to_string().contains("/root/").then(|| fake::error("AccessDeniedException", denied))
    });
    let backend = bench.backend(&aws);
    let names = ["ssm/shop/a", "ssm/root/c", "ssm/shop/b"].map(str::to_owned);
    let read = at_once(&backend, names.clone()).await;
    assert_eq!(field(read[0].as_ref().unwrap(), "value"), "/shop/a");
    assert_eq!(field(read[2].as_ref().unwrap(), "value"), "/shop/b");
    let error = read[1].as_ref().unwrap_err();
    assert_eq!(error.fault, Fault::Denied);
    insta::assert_snapshot!(error, @"amazon/ssm/root/c: Parameter Store says AccessDeniedException: User: arn:aws:sts::111122223333:assumed-role/web/x is not authorized to perform: ssm:GetParameters on resource: arn:aws:ssm:eu-west-1:111122223333:parameter/root/c because no identity-based policy allows the ssm:GetParameters action (allow ssm:GetParameters on it in the role's policy; AWS says the same about a secret that does not exist; AWS's request id is 0e7f-request)");
    assert_eq!(aws.operations().len(), 4);
    at_once(&backend, names).await;
    assert_eq!(aws.operations().len(), 3, "remembered");
}

/// Namespaces may share a session, the daemon's own: a denial for one of them does not affect the others.
#[tokio::test]
async fn a_denied_name_costs_no_other_namespace_its_batches() {
    let (bench, aws) = (Bench::new(), Aws::start());
    for name in ["/shop/a", "/shop/b", "/bank/a"] {
        aws.parameter(name, name);
    }
    aws.says(|asked| {
        let denied = asked.json()["Names"].to_string().contains("/root/");
        denied.then(|| fake::error("AccessDeniedException", "ssm:GetParameters on resource: /root/c"))
    });
    let backend = bench.backend(&aws);
    let fetch = async |namespace: &str, name: &str| {
        let mut cx = cx();
        cx.pod = Arc::new(PodIdentity { namespace: namespace.into(), ..(*cx.pod).clone() });
        backend.fetch(&secret(&backend, name), &cx).await.map(drop)
    };
    for _ in 0..2 {
        let read = tokio::join!(
            fetch("bank", "ssm/bank/a"),
            fetch("bank", "ssm/root/c"),
            fetch("shop", "ssm/shop/a"),
            fetch("shop", "ssm/shop/b")
        );
        assert!(read.0.is_ok() && read.1.is_err() && read.2.is_ok() && read.3.is_ok());
        let of_shop: Vec<String> =
            aws.asked().iter().map(|asked| asked.json()["Names"].to_string()).filter(|names| names.contains("/shop/")).collect();
        assert_eq!(of_shop.len(), 1, "{of_shop:?}");
        assert!(!of_shop[0].contains("/root/"), "{of_shop:?}");
    }
}

/// Two versions of a name would look the same in the answer.
#[tokio::test]
async fn no_parameter_is_in_a_batch_twice() {
    let (bench, aws) = (Bench::new(), Aws::start());
    aws.parameter("/shop/a", "a");
    aws.parameter("/shop/b", "b");
    let names = ["ssm/shop/a@prod", "ssm/shop/a@blue", "ssm/shop/a", "ssm/shop/b@3"].map(str::to_owned);
    let read = at_once(&bench.backend(&aws), names).await;
    assert!(read.iter().all(Result::is_ok), "{read:?}");
    for asked in aws.asked() {
        let names: Vec<String> = serde_json::from_value(asked.json()["Names"].clone()).unwrap();
        let mut bare: Vec<&str> = names.iter().map(|name| name.split(':').next().unwrap()).collect();
        bare.dedup();
        assert_eq!(bare.len(), names.len(), "{names:?}");
    }
}

/// Fault 13 of the AWS provider: it crashes on a parameter that it did not ask for.
#[tokio::test]
async fn a_parameter_that_nobody_asked_for_is_nobodys() {
    let arn = |account: &str, name: &str| format!("arn:aws:ssm:eu-west-1:{account}:parameter{name}");
    for stranger in [
        json!({ "Name": "/root/x", "ARN": arn("111122223333", "/root/x"), "Value": "canary-13", "Version": 1 }),
        json!({ "Name": "/shop/A", "ARN": arn("111122223333", "/shop/A"), "Value": "canary-13", "Version": 1 }),
        json!({ "Name": "/shop/a", "ARN": arn("999999999999", "/shop/a"), "Value": "canary-13", "Version": 1 }),
        json!({ "Name": "/shop/a", "ARN": arn("111122223333", "/root/x"), "Value": "canary-13", "Version": 1 }),
        json!({ "Name": null, "ARN": null, "Value": "canary-13" }),
        json!({ "ARN": arn("111122223333", "/shop/a"), "Value": "canary-13" }),
        json!({}),
        json!(null),
    ] {
        let (bench, aws) = (Bench::new(), Aws::start());
        aws.parameter("/shop/a", "a");
        aws.parameter("/shop/b", "b");
        let (backend, answer) = (bench.backend(&aws), Answer::json(&json!({ "Parameters": [stranger], "InvalidParameters": [] })));
        let alone = answer.clone();
        aws.says(move |asked| (asked.json()["Names"].as_array().unwrap().len() > 1).then(|| answer.clone()));
        let both = at_once(&backend, ["ssm/shop/a", "ssm/shop/b"].map(str::to_owned)).await;
        let values: Vec<_> = both.iter().map(|read| field(read.as_ref().unwrap(), "value")).collect();
        assert_eq!(values, ["a", "b"], "{stranger}");
        aws.says(move |_| Some(alone.clone()));
        let error = read(&backend, "ssm/shop/a").await.unwrap_err();
        assert!(matches!(error.fault, Fault::Corrupt | Fault::Denied), "{stranger}: {error}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{stranger}");
    }
}

#[tokio::test]
async fn pins_are_asked_for_one_by_one() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(2));
    let names = ["secretsmanager/many/0@AWSPREVIOUS", "secretsmanager/many/1@AWSPREVIOUS"].map(str::to_owned);
    assert!(at_once(&bench.backend(&aws), names).await.iter().all(Result::is_ok));
    let asked = aws.asked();
    assert!(asked.iter().all(|asked| asked.operation() == "GetSecretValue" && asked.json()["VersionStage"] == "AWSPREVIOUS"));
    assert_eq!(asked.len(), 2);
}

/// 5 ms away, there and back.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_secrets_cost_one_login_and_the_time_of_five_calls_at_most() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(100));
    let proxy = Proxy::start(aws.address);
    let role = ", assumeRole: { role: \"arn:aws:iam::111122223333:role/secrets\" }";
    let backend = bench.backend_with(&format!("http://{}", proxy.address), fake::KEY, role, "");
    // Connections are open, as in a running daemon.
    read(&backend, "secretsmanager/many/0").await.unwrap();
    aws.operations();
    proxy.delay(Duration::from_micros(2500));
    let began = Instant::now();
    read(&backend, "secretsmanager/many/0").await.unwrap();
    let call = began.elapsed();
    assert!(call >= Duration::from_millis(5));
    aws.operations();
    // Other work runs on the machine too: one round of twenty has to be in time.
    let most = call.max(Duration::from_millis(6)) * 5;
    let mut rounds = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        assert!(at_once(&backend, many(100)).await.iter().all(Result::is_ok));
        rounds.push((began.elapsed(), aws.operations().len()));
        if rounds.iter().any(|(took, calls)| *took <= most && *calls == 5) {
            return;
        }
    }
    panic!("{rounds:?}, a call takes {call:?}");
}

/// 250 Pods with three secrets each, sixty in all, below the layer that joins equal requests. Other work runs on the machine too: in one round of
/// twenty all of them have to come within a moment.
#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_service_account_share_a_login_and_batches() {
    let mut rounds = Vec::new();
    while !rounds.contains(&3) {
        assert!(rounds.len() < 20, "{rounds:?}");
        let (bench, aws) = (Bench::new(), Aws::with_secrets(60));
        let role = ", assumeRole: { role: \"arn:aws:iam::111122223333:role/${namespace}.${serviceAccount}\" }";
        let store = bench.backend_with(&format!("http://{}", aws.address), fake::KEY, role, "");
        let metrics = Arc::new(crate::telemetry::Metrics::new());
        let name: BackendName = "amazon".parse().unwrap();
        let inner = Arc::clone(&store) as Arc<dyn Backend>;
        let backend = Arc::new(crate::backend::stack::coalesce::Coalesced::new(inner, name, &metrics));
        let mut running = JoinSet::new();
        for at in 0..750 {
            let (backend, asked) = (Arc::clone(&backend), secret(&store, &format!("secretsmanager/many/{}", at % 60)));
            running.spawn(async move { backend.fetch(&asked, &cx_of(&format!("web-{}", at / 3))).await.unwrap() });
        }
        running.join_all().await;
        let operations = aws.operations();
        let of = |operation: &str| operations.iter().filter(|asked| *asked == operation).count();
        assert_eq!(of("AssumeRole"), 1, "{operations:?}");
        rounds.push(of("BatchGetSecretValue") + of("GetSecretValue"));
    }
}

#[tokio::test]
async fn a_mount_that_ends_leaves_the_others_their_answers() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(6));
    let backend = bench.backend(&aws);
    read(&backend, "secretsmanager/many/5").await.unwrap();
    let first = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move { read(&backend, "secretsmanager/many/0").await }
    });
    tokio::task::yield_now().await;
    let others = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move { at_once(&backend, many(5).into_iter().skip(1)).await }
    });
    tokio::task::yield_now().await;
    first.abort();
    assert!(others.await.unwrap().iter().all(Result::is_ok));
}

/// The official client works with the tests' own AWS. So the tests compare Keyferry with AWS, not with Keyferry's idea of AWS.
#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_reads_from_the_tests_own_aws() {
    let (aws, root) = (Aws::with_secrets(3), env!("CARGO_MANIFEST_DIR"));
    aws.parameter("/shop/a", "a-value");
    let program = r#"
import sys, boto3
from botocore.config import Config
from botocore.exceptions import ClientError
url, key, secret = sys.argv[1:]
at = dict(endpoint_url=url, region_name="eu-west-1", aws_access_key_id=key, config=Config(retries={"max_attempts": 0}))
client = boto3.client("secretsmanager", aws_secret_access_key=secret, **at)
print(client.get_secret_value(SecretId="many/1")["SecretString"])
batch = client.batch_get_secret_value(SecretIdList=["many/0", "none"])
print([value["Name"] for value in batch["SecretValues"]], [error["ErrorCode"] for error in batch["Errors"]])
print([secret["Name"] for page in client.get_paginator("list_secrets").paginate() for secret in page["SecretList"]])
for calls in (lambda: client.get_secret_value(SecretId="none"), lambda: boto3.client("secretsmanager", aws_secret_access_key="wrong", **at).get_secret_value(SecretId="many/1")):
    try:
        calls()
    except ClientError as error:
        print(error.response["Error"]["Code"])
ssm = boto3.client("ssm", aws_secret_access_key=secret, **at)
got = ssm.get_parameters(Names=["/shop/a:3", "/none"], WithDecryption=True)
print(got["Parameters"][0]["Value"], got["Parameters"][0]["Selector"], got["InvalidParameters"])
sts = boto3.client("sts", aws_secret_access_key=secret, **at)
print(sts.assume_role(RoleArn="arn:aws:iam::111122223333:role/secrets", RoleSessionName="x1")["Credentials"]["AccessKeyId"])
"#;
    let url = format!("http://{}", aws.address);
    let said = tokio::task::spawn_blocking(move || {
        let mut python = std::process::Command::new(format!("{root}/.venv/bin/python"));
        python.args(["-c", program, &url, fake::KEY.0, fake::KEY.1]).env_clear().env("HOME", "/nonexistent").output().unwrap()
    });
    let said = said.await.unwrap();
    assert!(said.status.success(), "run `make tools`: {}", String::from_utf8_lossy(&said.stderr));
    insta::assert_snapshot!(String::from_utf8(said.stdout).unwrap(), @"
    value-1
    ['many/0'] ['ResourceNotFoundException']
    ['many/0', 'many/1', 'many/2']
    ResourceNotFoundException
    InvalidSignatureException
    a-value :3 ['/none']
    ASIASESSION
    ");
}
