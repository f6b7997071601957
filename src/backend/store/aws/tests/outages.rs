//! Services that are down, that throttle, or only seem so, below the code that protects a store.

use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::backend::stack::breaker::Breaker;
use crate::backend::stack::circuits::Circuits;
use crate::budget::{Budget, Payer, Purse};
use crate::model::{Method, PodToken, SecretBytes};
use crate::turns::Turns;

const IRSA: &str = "auth: { method: irsa }";

/// Each service has its own address.
fn apart(bench: &Bench, [secrets, parameters, tokens]: [&str; 3], auth: &str) -> Arc<AwsBackend> {
    let text =
        format!("region: eu-west-1\n{auth}\nendpoints: {{ secretsmanager: \"{secrets}\", ssm: \"{parameters}\", sts: \"{tokens}\" }}");
    let limits = StoreLimits { secret_bytes: 1024 * 1024, remembered: 0, clients: 0, calls: 64 };
    Arc::new(AwsBackend::open("amazon".parse().unwrap(), &config(&text).unwrap(), limits, Arc::clone(&bench.clock)).unwrap())
}

fn keys(bench: &Bench) -> String {
    let (id, secret) = (bench.file("id", fake::KEY.0), bench.file("secret", fake::KEY.1));
    format!("auth: {{ method: keys, accessKeyIdFile: {}, secretAccessKeyFile: {} }}", id.display(), secret.display())
}

fn guarded(bench: &Bench, store: &Arc<AwsBackend>) -> (Breaker, Arc<Circuits>) {
    let servers = store.core.config.facts().servers;
    let circuits = Circuits::new(&"amazon".parse().unwrap(), servers, 1 << 20, &bench.clock);
    (Breaker::new(Arc::clone(store) as Arc<dyn Backend>, Arc::clone(&circuits)), circuits)
}

/// As in a VPC that has an endpoint for only one of the two.
#[tokio::test]
async fn a_service_that_is_out_of_reach_turns_the_other_off_for_nobody() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(1));
    aws.parameter("/a", "x");
    let at = format!("http://{}", aws.address);
    for (endpoints, out, fine) in [
        ([at.as_str(), "http://127.0.0.1:9", &at], "ssm", "secretsmanager/many/0"),
        (["http://127.0.0.1:9", &at, &at], "secretsmanager", "ssm/a"),
    ] {
        let store = apart(&bench, endpoints, &keys(&bench));
        let (backend, circuits) = guarded(&bench, &store);
        let ask = async |name: &str| backend.fetch(&secret(&store, name), &cx()).await;
        assert_eq!(ask(&format!("{out}/x")).await.unwrap_err().fault, Fault::Down, "{out}");
        let refused = ask(&format!("{out}/y")).await.unwrap_err();
        assert!(refused.reason.starts_with("not asked, because the store has been out"), "{}", refused.reason);
        assert!(circuits.state().0 && ask(fine).await.is_ok());
        assert!(store.probe(out).await.is_err() && store.probe(fine.split('/').next().unwrap()).await.is_ok());
    }
}

/// A namespace names the roles of its classes. If the issuer of one never answers, only that namespace has trouble.
#[tokio::test]
async fn a_login_of_a_role_that_fails_turns_the_store_off_for_nobody() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(1));
    aws.says(|asked| {
        let error = "<ErrorResponse><Error><Code>IDPCommunicationError</Code><Message>x</Message></Error></ErrorResponse>";
        (asked.operation() == "AssumeRoleWithWebIdentity").then(|| Answer::new(400, error))
    });
    let at = format!("http://{}", aws.address);
    let store = apart(&bench, [&at, &at, &at], IRSA);
    let (backend, circuits) = guarded(&bench, &store);
    for (namespace, name) in [("evil", "a"), ("evil", "b"), ("worse", "c"), ("worse", "d")] {
        let claims = PodClaims { namespace: namespace.into(), name: "x".into(), uid: namespace.into(), service_account: "x".into() };
        let pod = PodIdentity { service_account_uid: Some(namespace.into()), verified: true, ..PodIdentity::believed(&claims) };
        let token = PodToken { jwt: Arc::new(SecretBytes::new(b"jwt".to_vec())), expires: bench.clock.now() };
        let tokens = PodTokens::new(BTreeMap::from([("sts.amazonaws.com".to_owned(), token)]));
        let cx = FetchContext::new(Arc::new(pod), Arc::new(tokens), Instant::now() + Duration::from_secs(30));
        let asked = secret(&store, &format!("secretsmanager/{name}"));
        let asked = asked.with(|asked| asked.login.role = Some("arn:aws:iam::999999999999:role/x".to_owned()));
        let error = backend.fetch(&asked, &cx).await.unwrap_err();
        assert!(error.fault == Fault::NoLogin && error.fault.is_outage(), "{error}");
    }
    assert!(!circuits.state().0);
}

/// A server that accepts connections and never answers.
#[tokio::test]
async fn the_doctor_gives_each_its_own_time() {
    let (bench, aws) = (Bench::new(), Aws::start());
    aws.says(|asked| {
        let arn = "<GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/x</Arn></GetCallerIdentityResult>";
        (asked.operation() == "GetCallerIdentity").then(|| Answer::new(200, arn))
    });
    let silent = crate::http::tests::server::bind(0);
    let (at, nothing) = (format!("http://{}", aws.address), format!("http://{}", silent.local_addr().unwrap()));
    let (backend, began) = (apart(&bench, [&nothing, &at, &at], &keys(&bench)), Instant::now());
    backend.check().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "one that answers is enough: {:?}", began.elapsed());
    let found = backend.examine(None).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let lines: Vec<_> = found.iter().map(|found| format!("{:?} {}: {}", found.level, found.what, found.why)).collect();
    insta::assert_snapshot!(lines.join("\n").replace(&at, "AWS").replace(&nothing, "NOTHING"), @"
    Warn backend amazon: NOTHING: no answer in time
    Ok backend amazon: Parameter Store answers at AWS
    Ok backend amazon: clock: AWS's clock and this node's are the same to the second
    Ok backend amazon: login: as arn:aws:iam::111122223333:user/x
    ");
}

/// `http` tries a 429 again, and no other code tries it once more.
#[tokio::test]
async fn a_429_is_asked_for_three_times_in_all() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(1));
    let backend = bench.backend(&aws);
    aws.says(|_| Some(Answer::new(429, "{}")));
    let error = read(&backend, "secretsmanager/many/0").await.unwrap_err();
    assert_eq!((error.fault, aws.operations().len()), (Fault::Throttled, 3));
    assert!(error.reason.contains(" after 3 tries"), "{error}");
    // If the store names a time after the deadline, there is no next try.
    let backend = bench.backend(&aws);
    aws.says(|_| Some(Answer::new(429, "{}").header("retry-after", "40")));
    let error = read(&backend, "secretsmanager/many/0").await.unwrap_err();
    assert_eq!(aws.operations().len(), 1);
    assert!(error.retry_after.is_some_and(|wait| wait >= Duration::from_secs(40)), "{:?}", error.retry_after);
}

/// The name of a role or a secret may have such words in it.
#[tokio::test]
async fn a_denial_is_one_of_a_key_only_where_aws_says_so() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(1));
    let backend = bench.backend(&aws);
    let denied = "User: arn:aws:sts::111122223333:assumed-role/KMS-AWSKMS/x is not authorized to perform: secretsmanager:GetSecretValue";
    let of_key = "User: x is not authorized to perform: kms:Decrypt on resource: arn:aws:kms:eu-west-1:111122223333:key/1";
    let of_service = "The ciphertext refers to something (Service: AWSKMS; Status Code: 400)";
    for (words, is_of_key) in [(denied, false), (of_key, true), (of_service, true), ("Access to KMS is not allowed", true)] {
        aws.says(move |_| Some(fake::error("AccessDeniedException", words)));
        let error = read(&backend, "secretsmanager/many/0").await.unwrap_err();
        assert_eq!(error.reason.contains("KMS key must allow"), is_of_key, "{error}");
        assert_eq!(error.reason.contains("allow secretsmanager:GetSecretValue on it"), !is_of_key, "{error}");
    }
}

/// A wrong key is tried again once, because the files may have another one by now; but not for each object.
#[tokio::test]
async fn a_wrong_key_in_files_costs_one_call_more() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(4));
    let at = format!("http://{}", aws.address);
    let backend = bench.backend_with(&at, (fake::KEY.0, "another-key"), "", "");
    for (name, calls) in [("many/0", 2), ("many/1", 1), ("many/2", 1)] {
        assert_eq!(read(&backend, &format!("secretsmanager/{name}")).await.unwrap_err().fault, Fault::Unauthenticated);
        assert_eq!(aws.operations().len(), calls, "{name}");
    }
    // The right key is tried, even so soon.
    bench.file("secret", fake::KEY.1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    read(&backend, "secretsmanager/many/3").await.unwrap();

    let role = ", assumeRole: { role: \"arn:aws:iam::111122223333:role/secrets\" }";
    let denied = "<ErrorResponse><Error><Code>InvalidClientTokenId</Code><Message>x</Message></Error></ErrorResponse>";
    aws.says(move |asked| (asked.operation() == "AssumeRole").then(|| Answer::new(403, denied)));
    aws.operations();
    let chained = bench.backend_with(&at, (fake::KEY.0, "another-key"), role, "");
    for (pod, calls) in [("web-0", 2), ("web-1", 1), ("web-2", 1)] {
        let error = chained.fetch(&secret(&chained, "secretsmanager/many/0"), &cx_of(pod)).await.unwrap_err();
        assert_eq!((error.fault, aws.operations().len()), (Fault::Unauthenticated, calls), "{pod}");
    }
}

/// The files have another key, and the former session is still valid.
#[tokio::test]
async fn the_key_that_the_files_have_now_is_nobodys_secret_either() {
    const NEW: &str = "new-secret-access-key-0000000000000000";
    let (bench, aws) = (Bench::new(), Aws::with_secrets(1));
    aws.secret("keys", &format!("{{\"key\":\"{NEW}\"}}"));
    let role = ", assumeRole: { role: \"arn:aws:iam::111122223333:role/secrets\" }";
    let backend = bench.backend_with(&format!("http://{}", aws.address), fake::KEY, role, "");
    assert!(read(&backend, "secretsmanager/keys").await.is_ok(), "it is not a key yet");
    bench.file("secret", NEW);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    aws.operations();
    assert_eq!(read(&backend, "secretsmanager/keys").await.unwrap_err().fault, Fault::Denied);
    assert_eq!(aws.operations(), ["GetSecretValue"], "by the session of before");
    assert!(read(&backend, "secretsmanager/many/0").await.is_ok());
}

/// The key is not delivered as the version of a secret either.
#[tokio::test]
async fn a_version_that_is_the_key_is_not_delivered() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(1));
    aws.says(|_| {
        let arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:many/0-AbCdEf";
        Some(Answer::json(&json!({ "Name": "many/0", "ARN": arn, "VersionId": fake::KEY.1, "SecretString": "x" })))
    });
    let error = read(&bench.backend(&aws), "secretsmanager/many/0").await.unwrap_err();
    assert_eq!(error.fault, Fault::Denied);
}

/// A message about an answer of success has the id that AWS's support asks for, like a message about a refusal.
#[tokio::test]
async fn every_message_has_the_request_id() {
    let (bench, aws) = (Bench::new(), Aws::start());
    let backend = bench.backend(&aws);
    let values = json!({ "SecretValues": [{ "Name": "a", "VersionId": "v" }, { "Name": "b", "VersionId": "v" }] });
    let answers = [
        (Answer::new(200, r#"{"Parameters":[],"InvalidParameters":["/x/a","/x/b"]}"#), "ssm/x/"),
        (Answer::new(200, r#"{"Parameters":[{"Name":"/x/a","Value":"v","Version":1,"Selector":":2"}]}"#), "ssm/x/"),
        (Answer::new(200, r#"{"Parameters":[{"Name":"/other","Value":"v"}]}"#), "ssm/x/"),
        (Answer::new(200, "[]"), "ssm/x/"),
        (Answer::new(200, "[]"), "secretsmanager/"),
        (Answer::json(&values), "secretsmanager/"),
        (Answer::new(200, r#"{"Name":"z","SecretString":"v"}"#), "secretsmanager/"),
    ];
    for (answer, names) in answers {
        let shown = format!("{answer:.200?}");
        aws.says(move |_| Some(answer.clone()));
        let alone = read(&backend, &format!("{names}a")).await;
        let both = at_once(&backend, ["a", "b"].map(|name| format!("{names}{name}"))).await;
        for error in std::iter::once(alone).chain(both).filter_map(Result::err) {
            assert_eq!(error.reason.matches("AWS's request id is 0e7f-request)").count(), 1, "{shown}: {error}");
        }
    }
}

/// The shorter a class's prefix is, the longer its listing.
#[tokio::test]
async fn names_are_paid_for_by_who_lists_them() {
    let (bench, aws) = (Bench::new(), Aws::start());
    let budget = Budget::new(256 << 20, 1 << 20, 8 << 20, 8).unwrap();
    let place = Turns::new(4).take(&"shop".into(), Instant::now() + Duration::from_secs(1)).await.unwrap();
    let purse = Purse::new(&budget, place);
    let (held, seen) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&purse));
    let counted = Arc::clone(&held);
    aws.says(move |asked| {
        counted.lock().unwrap().push(seen.spent());
        let page: usize = asked.json()["NextToken"].as_str().map_or(0, |page| page.parse().unwrap());
        let names: Vec<_> = (0..100).map(|n| json!({ "Name": format!("shop/{page}-{n}-{}", "x".repeat(480)) })).collect();
        Some(Answer::json(&json!({ "SecretList": names, "NextToken": (page < 4).then(|| (page + 1).to_string()) })))
    });
    let backend = bench.backend(&aws);
    let name = backend.core.config.canonical("secretsmanager/shop/x").unwrap().folder().unwrap();
    let asked = RefParts { method: Method::List, ..RefParts::read("amazon".parse().unwrap(), name) };
    let asked = SecretRef::from(backend.core.config.admit(asked).unwrap());
    let cx = FetchContext { payer: Some(Payer::new(&purse)), ..cx() };
    backend.fetch(&asked, &cx).await.unwrap();
    let held = held.lock().unwrap().clone();
    assert_eq!(held.len(), 5);
    assert!(held.iter().zip(0..).all(|(spent, page)| *spent >= page * 100 * 480), "{held:?}");
    assert_eq!(purse.spent(), 0);
}
