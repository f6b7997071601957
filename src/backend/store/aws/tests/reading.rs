use serde_json::json;

use super::moto::Moto;
use super::*;

const REGION: &str = "eu-west-1";

/// The rights that reading needs.
const RIGHTS: [&str; 6] = [
    "secretsmanager:GetSecretValue",
    "secretsmanager:BatchGetSecretValue",
    "secretsmanager:ListSecrets",
    "ssm:GetParameters",
    "ssm:DescribeParameters",
    // Only moto's users need this right: AWS needs none here.
    "sts:GetCallerIdentity",
];

/// A backend with a user's key. From then on, moto checks signatures and rights.
async fn backend(bench: &Bench, moto: &Moto, rights: &[&str]) -> Arc<AwsBackend> {
    let key = moto.user("keyferry", rights).await;
    moto.check_after(0).await;
    bench.backend_with(&moto.url(), (&key.id, &key.secret), "", &format!("account: \"{}\"", moto::ACCOUNT))
}

#[tokio::test]
async fn secrets_and_parameters_are_read_with_a_signature() {
    let (bench, moto) = (Bench::new(), Moto::start().await);
    moto.secret(REGION, "shop/db", r#"{ "username": "app", "port": 5432, "password": "correct horse" }"#).await;
    moto.must(REGION, "secretsmanager.CreateSecret", json!({ "Name": "binary", "SecretBinary": "AP/+" })).await;
    moto.parameter(REGION, "/shop/url", "postgres://db").await;
    moto.parameter(REGION, "top", "level").await;
    let backend = backend(&bench, &moto, &RIGHTS).await;
    let db = read(&backend, "secretsmanager/shop/db").await.unwrap();
    assert_eq!((field(&db, "username"), field(&db, "port"), field(&db, "password")), ("app".into(), "5432".into(), "correct horse".into()));
    assert_eq!(whole(&db), r#"{ "username": "app", "port": 5432, "password": "correct horse" }"#, "to the byte");
    let arn = format!("arn:aws:secretsmanager:eu-west-1:{}:secret:shop/db-AbCdEf", moto::ACCOUNT);
    assert_eq!(whole(&read(&backend, &arn).await.unwrap()), whole(&db));
    let binary = read(&backend, "secretsmanager/binary").await.unwrap();
    assert_eq!(binary.fields["value"].bytes.expose(), [0, 0xff, 0xfe]);
    assert_eq!(field(&read(&backend, "ssm/shop/url").await.unwrap(), "value"), "postgres://db");
    assert_eq!(field(&read(&backend, "ssm/top").await.unwrap(), "value"), "level");
    let names = ["secretsmanager/shop/db", "secretsmanager/binary", "secretsmanager/none", "ssm/shop/url", "ssm/none"];
    let all = at_once(&backend, names.map(str::to_owned)).await;
    let faults: Vec<_> = all.iter().map(|read| read.as_ref().err().map(|error| error.fault)).collect();
    assert_eq!(faults, [None, None, Some(Fault::NotFound), None, Some(Fault::NotFound)]);
    backend.check().await.unwrap();
}

#[tokio::test]
async fn pins_are_ids_stages_numbers_and_labels() {
    let (bench, moto) = (Bench::new(), Moto::start().await);
    moto.secret(REGION, "rotated", "old").await;
    let token = "release.of_2026+with/other=characters";
    let own = json!({ "SecretId": "rotated", "SecretString": "own", "ClientRequestToken": token, "VersionStages": ["own"] });
    moto.must(REGION, "secretsmanager.PutSecretValue", own).await;
    moto.secret(REGION, "rotated", "new").await;
    moto.parameter(REGION, "/rotated", "old").await;
    moto.parameter(REGION, "/rotated", "new").await;
    let label = json!({ "Name": "/rotated", "ParameterVersion": 1, "Labels": ["blue"] });
    moto.must(REGION, "AmazonSSM.LabelParameterVersion", label).await;
    let backend = backend(&bench, &moto, &RIGHTS).await;
    let previous = read(&backend, "secretsmanager/rotated@AWSPREVIOUS").await.unwrap();
    assert_eq!(field(&previous, "value"), "old");
    let by_id = read(&backend, &format!("secretsmanager/rotated@{}", version(&previous))).await.unwrap();
    assert_eq!(field(&by_id, "value"), "old");
    let by_token = read(&backend, &format!("secretsmanager/rotated@id:{token}")).await.unwrap();
    assert_eq!((field(&by_token, "value"), version(&by_token)), ("own".into(), token));
    assert_eq!(field(&read(&backend, "secretsmanager/rotated").await.unwrap(), "value"), "new");
    for (pin, value) in [("ssm/rotated@1", "old"), ("ssm/rotated@blue", "old"), ("ssm/rotated@2", "new"), ("ssm/rotated", "new")] {
        assert_eq!(field(&read(&backend, pin).await.unwrap(), "value"), value, "{pin}");
    }
    assert_eq!(version(&read(&backend, "ssm/rotated@blue").await.unwrap()), "1");
    for pin in
        ["secretsmanager/rotated@none", "secretsmanager/rotated@0f1e2d3c-0000-4000-8000-123456789abc", "ssm/rotated@9", "ssm/rotated@none"]
    {
        assert_eq!(read(&backend, pin).await.unwrap_err().fault, Fault::NotFound, "{pin}");
    }
}

#[tokio::test]
async fn what_the_role_may_not_is_denied_and_says_what_to_allow() {
    let (bench, moto) = (Bench::new(), Moto::start().await);
    moto.secret(REGION, "a", "1").await;
    moto.secret(REGION, "b", "2").await;
    moto.parameter(REGION, "/shop/a", "3").await;
    let backend = backend(&bench, &moto, &RIGHTS[..1]).await;
    let both = at_once(&backend, ["secretsmanager/a", "secretsmanager/b"].map(str::to_owned)).await;
    assert!(both.iter().all(Result::is_ok), "without the right to batches: {both:?}");
    let error = read(&backend, "ssm/shop/a").await.unwrap_err();
    assert_eq!(error.fault, Fault::Denied);
    assert!(error.to_string().contains("ssm:GetParameters"), "{error}");
}

#[tokio::test]
async fn a_secret_that_is_to_be_deleted_is_not_there() {
    let (bench, moto) = (Bench::new(), Moto::start().await);
    moto.secret(REGION, "gone", "1").await;
    moto.must(REGION, "secretsmanager.DeleteSecret", json!({ "SecretId": "gone" })).await;
    let backend = backend(&bench, &moto, &RIGHTS).await;
    // moto has the words of AWS's older references.
    let error = read(&backend, "secretsmanager/gone").await.unwrap_err();
    assert_eq!(error.fault, Fault::NotFound, "{error}");
    assert!(error.to_string().contains("restore-secret"), "{error}");
}

#[tokio::test]
async fn another_account_is_asked_by_arn_and_must_be_that() {
    let (bench, moto) = (Bench::new(), Moto::start().await);
    moto.secret(REGION, "shop/db", "1").await;
    let listed = moto.must(REGION, "secretsmanager.ListSecrets", json!({})).await;
    let arn = listed["SecretList"][0]["ARN"].as_str().unwrap().to_owned();
    let key = moto.user("keyferry", &RIGHTS).await;
    moto.check_after(0).await;
    // For this backend, the server's account is another one.
    let backend = bench.backend_with(&moto.url(), (&key.id, &key.secret), "", "account: \"999999999999\"");
    assert_eq!(field(&read(&backend, &arn).await.unwrap(), "value"), "1");
    let name = secret(&backend, &arn).name.clone();
    assert!(name.as_str().starts_with("secretsmanager/123456789012:shop/db-"), "{name}");
    // A partial ARN that ends like a whole one: AWS would find the secret with it, but policy checked another name.
    moto.check_nothing().await;
    moto.secret(REGION, "shop-abcdef", "2").await;
    let error = read(&backend, "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-abcdef").await.unwrap_err();
    assert!(matches!(error.fault, Fault::Denied | Fault::NotFound), "{error}");
}

#[tokio::test]
async fn names_below_a_folder_are_listed() {
    let (bench, moto) = (Bench::new(), Moto::start().await);
    for name in ["shop/a", "shop/b/c", "other"] {
        moto.secret(REGION, name, "1").await;
        moto.parameter(REGION, &format!("/{name}x/y"), "1").await;
    }
    let backend = backend(&bench, &moto, &RIGHTS).await;
    let list = async |prefix: &str| {
        let prefix = SecretPrefix { backend: "amazon".parse().unwrap(), prefix: prefix.to_owned(), login: Login::default() };
        let names = backend.list(&prefix, &cx()).await.unwrap();
        names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list("secretsmanager/shop/").await, "secretsmanager/shop/a secretsmanager/shop/b/c");
    assert_eq!(list("ssm/shop/").await, "ssm/shop/ax/y ssm/shop/b/cx/y");
}
