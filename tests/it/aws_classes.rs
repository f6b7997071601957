//! Classes of the AWS provider at its own socket, against moto, which plays AWS.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use keyferry::server::proto::{MountRequest, MountResponse};
use serde_json::{Value, json};

use crate::bao::{NOBODY, Proxy};
use crate::moto::{ACCOUNT, Moto};
use crate::support::{House, Provider, connect, request, tokens, web};
use crate::tenants::store::{Answer, Server};

mod peer;

const IRELAND: &str = "eu-west-1";
const FRANKFURT: &str = "eu-central-1";

/// A node with a backend for each of two regions. Keyferry reaches Ireland through a proxy.
struct Peer {
    house: House,
    provider: Provider,
    moto: Moto,
    ireland: Proxy,
}

impl Peer {
    async fn open(rule: &str) -> Self {
        let moto = Moto::start().await;
        let ireland = Proxy::start(moto.address());
        let house = House::new("");
        house.configure(rule, "providers: [keyferry, aws]\ndialects: { aws: { backend: ireland } }");
        let backend = |name: &str, region: &str, url: &str| {
            format!(
                "{name}: {{ kind: aws, region: {region}, account: \"{ACCOUNT}\", auth: {{ method: irsa, role: \"arn:aws:iam::{ACCOUNT}:role/web\" }}, \
                 endpoints: {{ secretsmanager: \"{url}\", ssm: \"{url}\", sts: \"{}\" }}, cache: {{ fresh: 0 }} }}, ",
                moto.url()
            )
        };
        let backends = backend("ireland", IRELAND, &format!("http://{}", ireland.address)) + &backend("frankfurt", FRANKFURT, &moto.url());
        house.reconfigure("files: {", &(backends + "files: {"));
        let provider = house.serve();
        Self { house, provider, moto, ireland }
    }

    /// What the driver sends: the class's parameters, and a token for each audience that the CSIDriver object names.
    fn asking(&self, parameters: &[(&str, &str)]) -> MountRequest {
        let [own, sts] = ["keyferry", "sts.amazonaws.com"].map(|audience| self.house.token(&web(), audience));
        let mut attributes = json!({
            "csi.storage.k8s.io/serviceAccount.tokens": tokens(&[("keyferry", &own), ("sts.amazonaws.com", &sts)])
        });
        attributes.as_object_mut().unwrap().extend(parameters.iter().map(|(key, value)| ((*key).to_owned(), json!(value))));
        request(&web(), attributes)
    }

    /// Mounts at the provider's socket: the answer, or the code and the message.
    async fn mount(&self, parameters: &[(&str, &str)]) -> Result<MountResponse, String> {
        let mut client = connect(&self.house.path("sockets/aws.sock")).await.unwrap();
        let answer = client.mount(self.asking(parameters)).await;
        answer.map(tonic::Response::into_inner).map_err(|status| format!("{:?} {}", status.code(), status.message()))
    }

    async fn of_two(&self, objects: &str) -> Result<MountResponse, String> {
        self.mount(&[("region", IRELAND), ("failoverRegion", FRANKFURT), ("objects", objects)]).await
    }

    fn ireland_is_out(&self, out: bool) {
        self.ireland.lead_to(if out { NOBODY } else { self.moto.address() });
    }
}

fn files(answer: &MountResponse) -> String {
    let file =
        |file: &keyferry::server::proto::File| format!("{} {:04o} {}", file.path, file.mode, String::from_utf8_lossy(&file.contents));
    answer.files.iter().map(file).collect::<Vec<_>>().join("\n")
}

fn ids(answer: &MountResponse) -> Vec<&str> {
    answer.object_version.iter().map(|object| object.id.as_str()).collect()
}

const RULE: &str =
    "{ pods: { namespace: shop }, read: [\"ireland/secretsmanager/shop/*\", \"ireland/ssm/shop/*\", \"frankfurt/secretsmanager/shop/*\"] }";

/// Also faults 1, 2, 5, 12 and 16 of the provider.
#[tokio::test]
async fn classes_of_the_aws_provider_work_unchanged() {
    let peer = Peer::open(RULE).await;
    let secret = r#"{"username":"app","password":"correct horse","port":5432,"tls":{"crt":"PEM"}}"#;
    peer.moto.secret(IRELAND, "shop/db", secret).await;
    for url in ["former", "latter"] {
        peer.moto.parameter(IRELAND, "/shop/url", url).await;
    }
    let arn = peer.moto.must(IRELAND, "secretsmanager.DescribeSecret", json!({ "SecretId": "shop/db" })).await["ARN"].clone();
    let objects = format!(
        "
- objectName: shop/db
  objectType: secretsmanager
  JMESPath:
    - Path: username
      ObjectAlias: user
    - path: port
      objectAlias: port
      filePermission: 0400
    - path: tls.crt
      objectAlias: tls/crt
- objectName: {}
  objectAlias: by-arn
  filePermission: \"0600\"
- {{objectName: /shop/url, objectType: ssmparameter, objectVersion: 1, objectAlias: former}}
- {{objectName: /shop/url, objectType: ssmparameter, objectVersion: 2, objectAlias: latter}}
- {{objectName: /shop/url, objectType: ssmparameter}}
",
        arn.as_str().unwrap()
    );
    let answer = peer.mount(&[("objects", &objects)]).await.unwrap();
    insta::assert_snapshot!(files(&answer), @r#"
    shop_db 0644 {"username":"app","password":"correct horse","port":5432,"tls":{"crt":"PEM"}}
    user 0644 app
    port 0400 5432
    tls_crt 0644 PEM
    by-arn 0600 {"username":"app","password":"correct horse","port":5432,"tls":{"crt":"PEM"}}
    former 0644 former
    latter 0644 latter
    _shop_url 0644 latter
    "#);
    assert_eq!(ids(&answer), ["shop_db", "user", "port", "tls_crt", "by-arn", "former", "latter", "_shop_url"]);
    let version = |id: &str| answer.object_version.iter().find(|object| object.id == id).unwrap().version.clone();
    assert_eq!((version("former"), version("latter"), version("shop_db")), ("1".to_owned(), "2".to_owned(), version("by-arn")));
    let nested = peer.mount(&[("objects", &objects), ("pathTranslation", "False")]).await.unwrap();
    assert_eq!(ids(&nested), ["shop/db", "user", "port", "tls/crt", "by-arn", "former", "latter", "shop/url"]);
    // The same at our own socket.
    let own = peer.provider.mount(peer.asking(&[("objects", &objects), ("dialect", "aws")])).await.unwrap();
    assert_eq!(files(&own), files(&answer));
    // Fault 15 of the provider.
    let empty = peer.mount(&[("objects", "[]")]).await.unwrap();
    assert_eq!(empty.object_version.len(), 1);
}

/// Only an outage leads to the other region. Then the files, the versions and the audit line are those of that region.
#[tokio::test]
async fn a_failover_region_serves_while_the_region_is_out() {
    let peer = Peer::open(RULE).await;
    peer.moto.secret(IRELAND, "shop/db", r#"{"user":"ireland"}"#).await;
    peer.moto.secret(FRANKFURT, "shop/db", r#"{"user":"frankfurt"}"#).await;
    peer.moto.secret(FRANKFURT, "shop/only", "text").await;
    let object = "- {objectName: shop/db, objectType: secretsmanager, jmesPath: [{path: user, objectAlias: user}]}";
    let usual = peer.of_two(object).await.unwrap();
    assert!(files(&usual).ends_with("user 0644 ireland"), "{}", files(&usual));
    let absent = peer.of_two("- {objectName: shop/only, objectType: secretsmanager}").await.unwrap_err();
    assert!(absent.starts_with("NotFound SecretNotFound: object 1 (shop_only): ireland/secretsmanager/shop/only"), "{absent}");

    peer.ireland_is_out(true);
    let other = peer.of_two(object).await.unwrap();
    assert!(files(&other).ends_with("user 0644 frankfurt"), "{}", files(&other));
    assert_ne!(usual.object_version, other.object_version);
    // The remedy is about the secret that answered.
    let unfit = peer.of_two(&object.replace("path: user,", "path: password,")).await.unwrap_err();
    assert!(unfit.contains(": frankfurt/secretsmanager/shop/db: the expression \"password\" finds nothing in it"), "{unfit}");
    let alone = tokio::time::timeout(Duration::from_mins(1), peer.mount(&[("region", IRELAND), ("objects", object)])).await.unwrap();
    assert!(alone.unwrap_err().contains("BackendUnavailable"), "without a failover region it is out");
    let lines = peer.house.audit();
    let line = lines.iter().rfind(|line| line["outcome"] == "delivered").unwrap();
    let told: &Value = &line["objects"][0];
    assert_eq!((&told["backend"], &told["source"], &told["version"]), (&json!("ireland"), &Value::Null, &Value::Null), "{told}");
    let stood_in = &told["others"][0];
    assert_eq!((&stood_in["backend"], &stood_in["source"]), (&json!("frankfurt"), &json!("store")), "{told}");
    assert_eq!(stood_in["version"], json!(other.object_version[0].version), "{told}");
}

/// A Secrets Manager that refuses every request, in the way that the secret's name says.
async fn unwilling(asked: hyper::Request<Incoming>, _: Arc<()>) -> Answer {
    let body: Value = serde_json::from_slice(&asked.into_body().collect().await.unwrap().to_bytes()).unwrap_or_default();
    let name = body["SecretId"].as_str().unwrap_or_default();
    let (code, message) = match name {
        "shop/denied" => ("AccessDeniedException", "no identity-based policy allows the secretsmanager:GetSecretValue action"),
        "shop/kms" => ("AccessDeniedException", "Access to KMS is not allowed"),
        "shop/deleted" => ("InvalidRequestException", "it was marked for deletion."),
        "shop/throttled" => ("ThrottlingException", "Rate exceeded"),
        "shop/text" => {
            let value = json!({ "Name": name, "VersionId": "v-1", "SecretString": "hunter2" });
            return Ok(hyper::Response::new(Full::from(value.to_string())));
        }
        _ => ("ValidationException", "1 validation error detected"),
    };
    let said = json!({ "__type": code, "message": message }).to_string();
    Ok(hyper::Response::builder().status(400).body(Full::from(said)).unwrap())
}

/// Fault 3 of the provider: for all of these it says that it could not fetch the secret from all regions.
#[tokio::test]
async fn a_failover_region_hides_no_fault() {
    let peer = Peer::open(RULE).await;
    let server = Server::start(Arc::new(()), unwilling);
    peer.ireland.switch(server.address);
    peer.ireland.cut();
    for name in ["shop/denied", "shop/kms", "shop/deleted", "shop/text", "shop/unfit"] {
        peer.moto.secret(FRANKFURT, name, r#"{"user":"frankfurt"}"#).await;
    }
    let mut told = Vec::new();
    for name in ["denied", "kms", "deleted", "text", "unfit", "throttled"] {
        let object = format!("- {{objectName: shop/{name}, objectType: secretsmanager, jmesPath: [{{path: user, objectAlias: u}}]}}");
        told.push(without_request_id(&peer.of_two(&object).await.unwrap_err()));
    }
    assert!(!told.concat().contains("hunter2"));
    insta::assert_snapshot!(told.join("\n"), @"
    PermissionDenied BackendDenied: object 1 (shop_denied): ireland/secretsmanager/shop/denied: Secrets Manager says AccessDeniedException: no identity-based policy allows the secretsmanager:GetSecretValue action (allow secretsmanager:GetSecretValue on it in the role's policy; AWS says the same about a secret that does not exist)
    PermissionDenied BackendDenied: object 1 (shop_kms): ireland/secretsmanager/shop/kms: Secrets Manager says AccessDeniedException: Access to KMS is not allowed (the secret's KMS key must allow kms:Decrypt to the role, in the key's policy and in the role's)
    NotFound SecretNotFound: object 1 (shop_deleted): ireland/secretsmanager/shop/deleted: Secrets Manager says InvalidRequestException: it was marked for deletion. (it can be restored until its deletion: aws secretsmanager restore-secret)
    DataLoss SecretCorrupt: object 1 (shop_text): ireland/secretsmanager/shop/text: is not JSON, which an expression searches: line 1, column 1 (store JSON, or remove `jmesPath`)
    InvalidArgument InvalidRequest: object 1 (shop_unfit): ireland/secretsmanager/shop/unfit: Secrets Manager says ValidationException: 1 validation error detected (check the name and the version in the class)
    FailedPrecondition BackendUnavailable: object 1 (shop_throttled): ireland/secretsmanager/shop/throttled: Secrets Manager says ThrottlingException after 3 tries: Rate exceeded (the account's quota for secretsmanager:GetSecretValue in this region is used up; kubelet tries again by itself); frankfurt/secretsmanager/shop/throttled, asked for instead: Secrets Manager says ResourceNotFoundException: Secrets Manager can't find the specified secret. (check the name, its version and the backend's region; AWS's request id is ID)
    ");
    // If AWS throttles, this is an outage, and Keyferry delivers the other region's secret.
    peer.moto.secret(FRANKFURT, "shop/throttled", "frankfurt").await;
    let object = "- {objectName: shop/throttled, objectType: secretsmanager}";
    assert_eq!(files(&peer.of_two(object).await.unwrap()), "shop_throttled 0644 frankfurt");
}

/// The request id is another one at each call.
fn without_request_id(message: &str) -> String {
    const BEFORE: &str = "AWS's request id is ";
    let Some(at) = message.find(BEFORE) else { return message.to_owned() };
    let (head, tail) = message.split_at(at + BEFORE.len());
    let end = tail.find(')').unwrap_or(tail.len());
    format!("{head}ID{}", &tail[end..])
}

/// Policy must also allow what Keyferry would ask for instead.
#[tokio::test]
async fn what_a_class_of_the_aws_provider_may_not_is_told_in_its_own_words() {
    let peer = Peer::open(RULE).await;
    peer.moto.secret(IRELAND, "shop/db", r#"{"user":"hunter2"}"#).await;
    peer.moto.secret(IRELAND, "shop/text", "hunter2").await;
    let of = |keys: &str| format!("- {{objectName: shop/db, objectType: secretsmanager, objectAlias: db, {keys}}}");
    let mut told = Vec::new();
    for (what, parameters) in [
        ("another's", vec![("objects", "- {objectName: bank/db, objectType: secretsmanager}".to_owned())]),
        ("instead", vec![("failoverRegion", FRANKFURT.to_owned()), ("objects", of("failoverObject: {objectName: bank/db}"))]),
        ("a region", vec![("region", "us-east-1".to_owned()), ("objects", of(""))]),
        ("a way in", vec![("usePodIdentity", "true".to_owned()), ("objects", of(""))]),
        ("an ARN", vec![("objects", format!("- {{objectName: 'arn:aws:secretsmanager:{FRANKFURT}:{ACCOUNT}:secret:shop/db-AbCdEf'}}"))]),
        ("nothing found", vec![("objects", of("jmesPath: [{path: pasword, objectAlias: p}]"))]),
        (
            "no JSON",
            vec![("objects", "- {objectName: shop/text, objectType: secretsmanager, jmesPath: [{path: a, objectAlias: p}]}".to_owned())],
        ),
        ("no such stage", vec![("objects", of("objectVersionLabel: AWSPENDING"))]),
        ("a name with an empty element", vec![("objects", "- {objectName: /shop/db, objectType: secretsmanager}".to_owned())]),
        ("600 objects", vec![("objects", (0..600).map(|n| format!("- {{objectName: s{n}, objectType: secretsmanager}}\n")).collect())]),
    ] {
        let parameters: Vec<(&str, &str)> = parameters.iter().map(|(key, value)| (*key, value.as_str())).collect();
        told.push(format!("# {what}\n{}", without_request_id(&peer.mount(&parameters).await.unwrap_err())));
    }
    assert!(!told.concat().contains("hunter2"));
    insta::assert_snapshot!(told.join("\n"), @r#"
    # another's
    PermissionDenied PolicyDenied: object 1 (bank_db): ireland/secretsmanager/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["ireland/secretsmanager/bank/db"])
    # instead
    PermissionDenied PolicyDenied: object 1 (db): frankfurt/secretsmanager/bank/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["frankfurt/secretsmanager/bank/db"])
    # a region
    InvalidArgument InvalidRequest: region: no backend of this node serves classes of the dialect `aws` in the region "us-east-1" (there is frankfurt in eu-central-1, ireland in eu-west-1; the cluster's admin can add one of the kind aws for that region)
    # a way in
    InvalidArgument InvalidRequest: usePodIdentity: means login by "podIdentity", and the backend that serves this class logs in by irsa (change that in the class; or the cluster's admin can add a backend of this region with the other auth.method)
    # an ARN
    InvalidArgument InvalidRequest: object 1 (arn:aws:secretsmanager:eu-central-1:123456789012:secret:shop/db-AbCdEf): objectName: the name "arn:aws:secretsmanager:eu-central-1:123456789012:secret:shop/db-AbCdEf" is an ARN of the region "eu-central-1", and this backend is in eu-west-1 (use a backend of that region)
    # nothing found
    NotFound SecretNotFound: object 1 (db): ireland/secretsmanager/shop/db: the expression "pasword" finds nothing in it (correct the expression, or the secret)
    # no JSON
    DataLoss SecretCorrupt: object 1 (shop_text): ireland/secretsmanager/shop/text: is not JSON, which an expression searches: line 1, column 1 (store JSON, or remove `jmesPath`)
    # no such stage
    NotFound SecretNotFound: object 1 (db): ireland/secretsmanager/shop/db: Secrets Manager says ResourceNotFoundException: Secrets Manager can't find the specified secret. (check the name, its version and the backend's region; AWS's request id is ID)
    # a name with an empty element
    PermissionDenied PolicyDenied: object 1 (_shop_db): ireland/secretsmanager/~/shop/db: no rule of the policy allows ServiceAccount shop/web to read it (the cluster's admin can add a rule with read: ["ireland/secretsmanager/~/shop/db"])
    # 600 objects
    FailedPrecondition TooLarge: objects: has 600 objects: at most 512 are allowed on this node (split the class, or ask for a higher limits.objects)
    "#);
}
