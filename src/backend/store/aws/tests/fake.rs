//! A small AWS of these tests, for what moto cannot do: it keeps secrets and parameters, verifies every signature, and answers as a test
//! says, if the test says something. `boto3` checks that it works like AWS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::super::credentials::Credentials;
use super::super::sign::Signer;

pub const ACCOUNT: &str = "111122223333";
pub const REGION: &str = "eu-west-1";

/// The key that it accepts, and the one that it gives for a role.
pub const KEY: (&str, &str) = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
const SESSION: (&str, &str, &str) = ("ASIASESSION", "session-key-00000000000000000000", "session-token-0000000000000000");

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Such as `GetSecretValue` or `AssumeRole`.
    pub operation: String,
    pub headers: HeaderMap,
    /// For a form: null.
    pub body: Value,
}

#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

/// It and all its connections are gone when dropped.
pub struct Aws {
    pub address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

type Saying = Box<dyn Fn(&Asked) -> Option<Answer> + Send + Sync>;

#[derive(Default)]
struct State {
    secrets: Mutex<BTreeMap<String, String>>,
    parameters: Mutex<BTreeMap<String, String>>,
    saying: Mutex<Option<Saying>>,
    asked: Mutex<Vec<Asked>>,
}

impl Aws {
    pub fn start() -> Self {
        let listener = crate::http::tests::server::bind(0);
        let (address, state, mut tasks) = (listener.local_addr().unwrap(), Arc::<State>::default(), JoinSet::new());
        let shared = Arc::clone(&state);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(move |request| serve(request, Arc::clone(&state)));
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, state, _tasks: tasks }
    }

    /// With so many secrets `many/N` of the content `value-N`.
    pub fn with_secrets(many: usize) -> Self {
        let aws = Self::start();
        for n in 0..many {
            aws.secret(&format!("many/{n}"), &format!("value-{n}"));
        }
        aws
    }

    pub fn secret(&self, name: &str, text: &str) {
        self.state.secrets.lock().unwrap().insert(name.to_owned(), text.to_owned());
    }

    /// `name` is the name in AWS.
    pub fn parameter(&self, name: &str, text: &str) {
        self.state.parameters.lock().unwrap().insert(name.to_owned(), text.to_owned());
    }

    /// Sets its answers from now on; `None`: the usual answer.
    pub fn says(&self, saying: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) {
        *self.state.saying.lock().unwrap() = Some(Box::new(saying));
    }

    /// The operations since the last time, in their order.
    pub fn operations(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.operation).collect()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().drain(..).collect()
    }
}

impl Answer {
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: vec![("x-amzn-requestid", "0e7f-request".to_owned())], body: body.into() }
    }

    pub fn json(body: &Value) -> Self {
        Self::new(200, body.to_string())
    }

    /// As both services refuse.
    pub fn error(code: &str, message: &str) -> Self {
        Self::new(400, json!({ "__type": format!("com.amazonaws.secretsmanager#{code}"), "message": message }).to_string())
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

async fn serve(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let host = parts.uri.authority().map(ToString::to_string);
    let form: String = String::from_utf8_lossy(&body).into_owned();
    let target = parts.headers.get("x-amz-target").map(|target| target.to_str().unwrap().to_owned());
    let operation = match &target {
        Some(target) => target.split('.').nth(1).unwrap().to_owned(),
        None => form.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or("none").to_owned(),
    };
    let asked = Asked { operation, headers: parts.headers, body: serde_json::from_slice(&body).unwrap_or_default() };
    state.asked.lock().unwrap().push(asked.clone());
    let said = state.saying.lock().unwrap().as_ref().and_then(|saying| saying(&asked));
    let answer = said.unwrap_or_else(|| if is_signed(&asked, host.as_deref(), &body) { state.answer(&asked) } else { unsigned() });
    let mut response = Response::builder().status(answer.status).header("content-type", "application/x-amz-json-1.1");
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::from(answer.body)).unwrap())
}

fn unsigned() -> Answer {
    Answer::error("InvalidSignatureException", "The request signature we calculated does not match the signature you provided.")
}

/// Whether the signature comes from a known key and covers the headers that it names, and those are all that matter.
fn is_signed(asked: &Asked, host: Option<&str>, body: &[u8]) -> bool {
    let header = |name: &str| asked.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let Some(authorization) = header("authorization") else { return false };
    let part = |name: &str| authorization.split([' ', ',']).find_map(|part| part.strip_prefix(name)).unwrap_or_default().to_owned();
    let (credential, names) = (part("Credential="), part("SignedHeaders="));
    let [id, _, region, service, _] = credential.split('/').collect::<Vec<_>>()[..] else { return false };
    let token = header("x-amz-security-token");
    let secret = match (id, token.as_deref()) {
        (id, None) if id == KEY.0 => KEY.1,
        (id, Some(token)) if id == SESSION.0 && token == SESSION.2 => SESSION.1,
        _ => return false,
    };
    let token = token.map(Zeroizing::new);
    let credentials = Credentials::new(id.to_owned(), Zeroizing::new(secret.to_owned()), token, None).unwrap();
    let own = ["host", "x-amz-date", "x-amz-security-token"];
    let signed: Vec<(&str, String)> =
        names.split(';').filter(|name| !own.contains(name)).map(|name| (name, header(name).unwrap_or_default())).collect();
    let signed: Vec<(&str, &str)> = signed.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let host = host.map_or_else(|| header("host").unwrap(), str::to_owned);
    let date = header("x-amz-date").unwrap();
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", &date).unwrap().to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
    let again = Signer { region, service, host: &host, time }.sign(&credentials, &signed, body);
    let needed = if asked.headers.contains_key("x-amz-target") {
        &["content-type", "host", "x-amz-date", "x-amz-target"][..]
    } else {
        &["host"][..]
    };
    region == REGION && needed.iter().all(|needed| names.split(';').any(|name| name == *needed)) && again[1].1 == authorization.as_str()
}

impl State {
    fn answer(&self, asked: &Asked) -> Answer {
        let id = asked.body["SecretId"].as_str().unwrap_or_default();
        match asked.operation.as_str() {
            "GetSecretValue" => self.secret(id).map_or_else(absent, |secret| Answer::json(&secret)),
            "BatchGetSecretValue" => {
                let ids: Vec<&str> = asked.body["SecretIdList"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
                if ids.len() > 20 {
                    return Answer::error("InvalidParameterException", "too many");
                }
                let found: Vec<Value> = ids.iter().filter_map(|id| self.secret(id)).collect();
                let errors: Vec<Value> = ids.iter().filter(|id| self.secret(id).is_none()).map(|id| unread(id)).collect();
                Answer::json(&json!({ "SecretValues": found, "Errors": errors }))
            }
            "ListSecrets" => {
                let beginning = asked.body["Filters"][0]["Values"][0].as_str().unwrap_or_default().to_owned();
                page(asked, self.secrets.lock().unwrap().keys().filter(|name| name.starts_with(&beginning)), "SecretList")
            }
            "GetParameters" => {
                let names: Vec<&str> = asked.body["Names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
                if names.len() > 10 {
                    return Answer::error("ValidationException", "too many");
                }
                let found: Vec<Value> = names.iter().filter_map(|name| self.parameter(name)).collect();
                let invalid: Vec<&&str> = names.iter().filter(|name| self.parameter(name).is_none()).collect();
                Answer::json(&json!({ "Parameters": found, "InvalidParameters": invalid }))
            }
            "DescribeParameters" => {
                let path = asked.body["ParameterFilters"][0]["Values"][0].as_str().unwrap_or_default().to_owned();
                page(asked, self.parameters.lock().unwrap().keys().filter(|name| name.starts_with(&path)), "Parameters")
            }
            "AssumeRole" => Answer::new(
                200,
                format!(
                    "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials><AccessKeyId>{}</AccessKeyId>\
                     <SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials>\
                     </AssumeRoleResult></AssumeRoleResponse>",
                    SESSION.0,
                    SESSION.1,
                    SESSION.2,
                    jiff::Timestamp::from_second(4_000_000_000).unwrap()
                ),
            ),
            other => Answer::error("UnknownOperationException", other),
        }
    }

    fn secret(&self, id: &str) -> Option<Value> {
        let secrets = self.secrets.lock().unwrap();
        let text = secrets.get(id)?;
        let arn = format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{id}-AbCdEf");
        Some(json!({ "ARN": arn, "Name": id, "VersionId": format!("v-{text}"), "VersionStages": ["AWSCURRENT"], "SecretString": text }))
    }

    fn parameter(&self, name: &str) -> Option<Value> {
        let (name, selector) = name.split_once(':').map_or((name, None), |(name, selector)| (name, Some(format!(":{selector}"))));
        let parameters = self.parameters.lock().unwrap();
        let text = parameters.get(name)?;
        let arn = format!("arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/{}", name.trim_start_matches('/'));
        Some(json!({ "Name": name, "Type": "SecureString", "Value": text, "Version": 3, "ARN": arn, "Selector": selector }))
    }
}

/// Three names on a page, after an empty page.
fn page<'n>(asked: &Asked, names: impl Iterator<Item = &'n String>, list: &str) -> Answer {
    let names: Vec<Value> = names.map(|name| json!({ "Name": name })).collect();
    let Some(from) = asked.body["NextToken"].as_str() else { return Answer::json(&json!({ list: [], "NextToken": "0" })) };
    let from: usize = from.parse().unwrap();
    let next = (from + 3 < names.len()).then(|| (from + 3).to_string());
    Answer::json(&json!({ list: names.into_iter().skip(from).take(3).collect::<Vec<_>>(), "NextToken": next }))
}

fn absent() -> Answer {
    Answer::error("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
}

fn unread(id: &str) -> Value {
    json!({ "SecretId": id, "ErrorCode": "ResourceNotFoundException", "Message": "Secrets Manager can't find the specified secret." })
}
