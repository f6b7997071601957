//! AWS, as much of it as a mount needs: STS, Secrets Manager and Parameter Store at one address. It is as quick, large, slow or unwilling as
//! the second element of a name says. Like [`super::store`], it has a thread of its own.
//!
//! It believes every signature: the store's own tests look at those.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

use super::node::SMALL_VALUE;
use super::store::{Answer, Server};

const ACCOUNT: &str = "111122223333";

/// Another account, which gives nothing to anybody here.
pub const OTHER: &str = "999999999999";

/// The account of a Pod's role, if its class names none.
pub const ROLE: &str = ", role: \"arn:aws:iam::111122223333:role/${namespace}.${serviceAccount}\"";

/// What each namespace may read there. Of the other account policy lets them ask for all: that account says no itself.
pub const RULES: &str = concat!(
    "  - { pods: { namespace: \"*\" }, read: [\"aws/*/${namespace}/**\"] }\n",
    "  - { pods: { namespace: \"*\" }, read: [\"aws/secretsmanager/999999999999:allowed/**\"] }\n"
);

/// Bytes of a large secret's value, and of a large parameter's.
const LARGE: usize = 60_000;
const LARGE_PARAMETER: usize = 8_000;

/// How long a slow answer takes: longer than a trial.
const SLOW: Duration = Duration::from_secs(20);

/// Names below a prefix, and how many of them a page has.
const NAMES: usize = 10_000;
const PAGE: usize = 100;

/// The server. It is gone with the last of its clones.
#[derive(Clone)]
pub struct Aws {
    server: Arc<Server>,
    counted: Arc<Counted>,
}

#[derive(Default)]
struct Counted {
    logins: AtomicUsize,
    victims: AtomicUsize,
}

/// One answer.
type Said = (u16, String);

// === impl Aws ===

impl Aws {
    pub fn start() -> Self {
        let counted = Arc::<Counted>::default();
        Self { server: Arc::new(Server::start(Arc::clone(&counted), answer)), counted }
    }

    /// A backend of a configuration. `role`: what of `auth` says the role.
    pub fn backend(&self, name: &str, role: &str) -> String {
        let url = format!("\"http://{}\"", self.server.address);
        format!(
            "  {name}: {{ kind: aws, region: eu-west-1, account: \"{ACCOUNT}\", auth: {{ method: irsa, audience: bao{role} }}, \
             classMay: {{ role: [\"**\"] }}, endpoints: {{ secretsmanager: {url}, ssm: {url}, sts: {url} }} }}\n"
        )
    }

    /// Logins so far: all, and those for the victim's role.
    pub fn logins(&self) -> (usize, usize) {
        (self.counted.logins.load(Ordering::Relaxed), self.counted.victims.load(Ordering::Relaxed))
    }
}

/// The ARN of a role of this account.
pub fn role(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:role/{name}")
}

async fn answer(request: hyper::Request<Incoming>, counted: Arc<Counted>) -> Answer {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let operation = target.split('.').nth(1).unwrap_or_default();
    let (status, text) = match operation {
        "" => log_in(&String::from_utf8_lossy(&body), &counted).await,
        operation => read(operation, &serde_json::from_slice(&body).unwrap_or_default()).await,
    };
    Ok(hyper::Response::builder().status(status).body(Full::from(text)).unwrap())
}

/// `AssumeRoleWithWebIdentity`; roles that begin with `slow` get a slow answer.
async fn log_in(form: &str, counted: &Counted) -> Said {
    // A request without a target and without a form is a probe.
    let Some(role) = form.split('&').find_map(|pair| pair.strip_prefix("RoleArn=")) else { return error("MissingAuthenticationToken") };
    let number = counted.logins.fetch_add(1, Ordering::Relaxed);
    if role.contains("role%2Fvictim.") {
        counted.victims.fetch_add(1, Ordering::Relaxed);
    }
    if role.contains("role%2Fslow") {
        sleep(SLOW).await;
    }
    let xml = format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA{number}</AccessKeyId>\
         <SecretAccessKey>secret-access-key-{number:024}</SecretAccessKey><SessionToken>session-token-{number:024}-{}</SessionToken>\
         <Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        "t".repeat(1_000)
    );
    (200, xml)
}

async fn read(operation: &str, asked: &Value) -> Said {
    let listed = ["SecretIdList", "Names"].iter().find_map(|key| asked[key].as_array());
    let one = asked["SecretId"].as_str().map(str::to_owned).into_iter();
    let names: Vec<String> = one.chain(listed.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned))).collect();
    let kinds: Vec<&str> = names.iter().map(|name| name.trim_start_matches('/').split('/').nth(1).unwrap_or_default()).collect();
    if kinds.contains(&"throttled") {
        return error("ThrottlingException");
    }
    if kinds.contains(&"slow") {
        sleep(SLOW).await;
    }
    match operation {
        "GetSecretValue" => match names.first().and_then(|name| secret(name)) {
            Some(secret) => (200, secret.to_string()),
            None => error("AccessDeniedException"),
        },
        "BatchGetSecretValue" => {
            let denied = |name: &&String| secret(name).is_none();
            let told = |name: &String| json!({ "SecretId": name, "ErrorCode": "AccessDeniedException", "Message": "not authorized" });
            let errors: Vec<Value> = names.iter().filter(denied).map(told).collect();
            let values: Vec<Value> = names.iter().filter_map(|name| secret(name)).collect();
            (200, json!({ "SecretValues": values, "Errors": errors }).to_string())
        }
        "GetParameters" => (200, json!({ "Parameters": names.iter().map(|name| parameter(name)).collect::<Vec<_>>() }).to_string()),
        "ListSecrets" => page(asked, "SecretList", asked["Filters"][0]["Values"][0].as_str().unwrap_or_default()),
        "DescribeParameters" => {
            page(asked, "Parameters", &format!("{}/", asked["ParameterFilters"][0]["Values"][0].as_str().unwrap_or_default()))
        }
        _ => error("ValidationException"),
    }
}

/// `None`: it is another account's.
fn secret(name: &str) -> Option<Value> {
    if name.contains(OTHER) {
        return None;
    }
    let text =
        if name.split('/').nth(1) == Some("large") { json!({ "password": "x".repeat(LARGE) }) } else { json!({ "password": SMALL_VALUE }) };
    let arn = format!("arn:aws:secretsmanager:eu-west-1:{ACCOUNT}:secret:{name}-AbCdEf");
    Some(json!({ "Name": name, "ARN": arn, "VersionId": "v-1", "SecretString": text.to_string() }))
}

fn parameter(name: &str) -> Value {
    let arn = format!("arn:aws:ssm:eu-west-1:{ACCOUNT}:parameter{name}");
    json!({ "Name": name, "ARN": arn, "Version": 1, "Value": "x".repeat(LARGE_PARAMETER) })
}

/// Names below a prefix, a hundred per page.
fn page(asked: &Value, key: &str, below: &str) -> Said {
    let from: usize = asked["NextToken"].as_str().and_then(|token| token.parse().ok()).unwrap_or_default();
    let names: Vec<Value> =
        (from..NAMES.min(from + PAGE)).map(|number| json!({ "Name": format!("{below}{}{number}", "a".repeat(60)) })).collect();
    let next = (from + PAGE < NAMES).then(|| (from + PAGE).to_string());
    (200, json!({ key: names, "NextToken": next }).to_string())
}

fn error(code: &str) -> Said {
    (400, json!({ "__type": code, "message": "said by the tests' own AWS" }).to_string())
}
