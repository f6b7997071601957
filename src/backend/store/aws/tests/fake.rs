//! A small AWS of these tests, for what moto cannot do: it keeps secrets and parameters, verifies every signature, and answers as a test
//! says, if the test says something. `boto3` checks that it works like AWS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::super::credentials::Credentials;
use super::super::sign::Signer;
use crate::backend::testing::server::{Answer, Asked, Server};

pub const ACCOUNT: &str = "111122223333";
pub const REGION: &str = "eu-west-1";

/// The key that it accepts, and the one that it gives for a role.
pub const KEY: (&str, &str) = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
const SESSION: (&str, &str, &str) = ("ASIASESSION", "session-key-00000000000000000000", "session-token-0000000000000000");

/// It and all its connections are gone when dropped.
pub struct Aws {
    pub address: SocketAddr,
    server: Server,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    secrets: Mutex<BTreeMap<String, String>>,
    parameters: Mutex<BTreeMap<String, String>>,
}

impl Aws {
    pub fn start() -> Self {
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let server = Server::plain(move |asked| as_of_aws(if is_signed(asked) { shared.answer(asked) } else { unsigned() }));
        Self { address: server.address, server, state }
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
        self.server.says(move |asked| saying(asked).map(as_of_aws));
    }

    /// The operations since the last time, in their order.
    pub fn operations(&self) -> Vec<String> {
        self.asked().iter().map(Asked::operation).collect()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.server.asked()
    }
}

impl Asked {
    /// Such as `GetSecretValue` or `AssumeRole`.
    pub fn operation(&self) -> String {
        let target = self.header("x-amz-target").split('.').nth(1).map(str::to_owned);
        target.or_else(|| self.parameter("Action")).unwrap_or_default()
    }
}

/// As both services refuse.
pub fn error(code: &str, message: &str) -> Answer {
    Answer::new(400, json!({ "__type": format!("com.amazonaws.secretsmanager#{code}"), "message": message }).to_string())
}

fn as_of_aws(answer: Answer) -> Answer {
    answer.header("content-type", "application/x-amz-json-1.1").header("x-amzn-requestid", "0e7f-request")
}

fn unsigned() -> Answer {
    error("InvalidSignatureException", "The request signature we calculated does not match the signature you provided.")
}

/// Whether the signature comes from a known key and covers the headers that it names, and those are all that matter.
fn is_signed(asked: &Asked) -> bool {
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
    let date = header("x-amz-date").unwrap();
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", &date).unwrap().to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
    let again = Signer { region, service, host: &asked.host, time }.sign(&credentials, &signed, asked.body.as_bytes());
    let needed = if asked.headers.contains_key("x-amz-target") {
        &["content-type", "host", "x-amz-date", "x-amz-target"][..]
    } else {
        &["host"][..]
    };
    region == REGION && needed.iter().all(|needed| names.split(';').any(|name| name == *needed)) && again[1].1 == authorization.as_str()
}

impl State {
    fn answer(&self, asked: &Asked) -> Answer {
        let body = asked.json();
        let id = body["SecretId"].as_str().unwrap_or_default();
        match asked.operation().as_str() {
            "GetSecretValue" => self.secret(id).map_or_else(absent, |secret| Answer::json(&secret)),
            "BatchGetSecretValue" => {
                let ids: Vec<&str> = body["SecretIdList"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
                if ids.len() > 20 {
                    return error("InvalidParameterException", "too many");
                }
                let found: Vec<Value> = ids.iter().filter_map(|id| self.secret(id)).collect();
                let errors: Vec<Value> = ids.iter().filter(|id| self.secret(id).is_none()).map(|id| unread(id)).collect();
                Answer::json(&json!({ "SecretValues": found, "Errors": errors }))
            }
            "ListSecrets" => {
                let beginning = body["Filters"][0]["Values"][0].as_str().unwrap_or_default().to_owned();
                page(&body, self.secrets.lock().unwrap().keys().filter(|name| name.starts_with(&beginning)), "SecretList")
            }
            "GetParameters" => {
                let names: Vec<&str> = body["Names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
                if names.len() > 10 {
                    return error("ValidationException", "too many");
                }
                let found: Vec<Value> = names.iter().filter_map(|name| self.parameter(name)).collect();
                let invalid: Vec<&&str> = names.iter().filter(|name| self.parameter(name).is_none()).collect();
                Answer::json(&json!({ "Parameters": found, "InvalidParameters": invalid }))
            }
            "DescribeParameters" => {
                let path = body["ParameterFilters"][0]["Values"][0].as_str().unwrap_or_default().to_owned();
                page(&body, self.parameters.lock().unwrap().keys().filter(|name| name.starts_with(&path)), "Parameters")
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
            other => error("UnknownOperationException", other),
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
fn page<'n>(body: &Value, names: impl Iterator<Item = &'n String>, list: &str) -> Answer {
    let names: Vec<Value> = names.map(|name| json!({ "Name": name })).collect();
    let Some(from) = body["NextToken"].as_str() else { return Answer::json(&json!({ list: [], "NextToken": "0" })) };
    let from: usize = from.parse().unwrap();
    let next = (from + 3 < names.len()).then(|| (from + 3).to_string());
    Answer::json(&json!({ list: names.into_iter().skip(from).take(3).collect::<Vec<_>>(), "NextToken": next }))
}

fn absent() -> Answer {
    error("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
}

fn unread(id: &str) -> Value {
    json!({ "SecretId": id, "ErrorCode": "ResourceNotFoundException", "Message": "Secrets Manager can't find the specified secret." })
}
