//! A real server that plays AWS: moto, with Secrets Manager, Parameter Store, STS and IAM at one address. Every region is its own store; the account
//! is [`ACCOUNT`]. The unit tests of the crate may use it too. Then `bao` must be next to it, as it is here.
//!
//! No test may depend on what moto does in another way than AWS: errors of signatures and of IAM are XML with 403, a policy on an ARN matches
//! nothing, conditions deny, and moto looks at no time.

#![allow(clippy::unwrap_used, dead_code)] // tests; and neither of the two crates that it is a module of needs all of it

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::bao::{Daemon, eventually, outliving};

/// The account that has the secrets.
pub const ACCOUNT: &str = "123456789012";

/// A server, which ends with the last of its clones.
#[derive(Clone)]
pub struct Moto(Arc<Server>);

struct Server {
    address: SocketAddr,
    folder: TempDir,
    _daemon: Daemon,
}

/// An access key of a user.
#[derive(Clone, Debug)]
pub struct AccessKey {
    pub id: String,
    pub secret: String,
}

impl Moto {
    /// Starts one at a port of its own choice, and waits until it answers: about a second.
    pub async fn start() -> Self {
        let folder = crate::folder::new();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/moto_server");
        assert!(program.exists(), "no moto in .venv: run `make tools` in {}", env!("CARGO_MANIFEST_DIR"));
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = outliving(&program, Signal::KILL);
        command.args(["-H", "127.0.0.1", "-p", "0"]).env("PYTHONUNBUFFERED", "1");
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Daemon::spawn(command);
        let mut address = None;
        eventually("moto answers", async || {
            address = port_in(&folder.path().join("log")).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            let Some(address) = address else { return false };
            send(address, hyper::Request::get("/moto-api/data.json"), Bytes::new()).await.is_some_and(|(status, _)| status == 200)
        })
        .await;
        Self(Arc::new(Server { address: address.unwrap(), folder, _daemon: daemon }))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// What it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.0.folder.path().join("log")).unwrap_or_default()
    }

    // === Calls of a user who may do everything: before checks are on ===

    /// One call in JSON, such as `secretsmanager.CreateSecret`, which must succeed.
    pub async fn must(&self, region: &str, target: &str, body: Value) -> Value {
        let (status, answer) = self.json(region, target, body).await;
        assert_eq!(status, 200, "{target}: {answer}");
        answer
    }

    pub async fn json(&self, region: &str, target: &str, body: Value) -> (u16, Value) {
        let service = if target.starts_with("AmazonSSM.") { "ssm" } else { "secretsmanager" };
        let request = hyper::Request::post("/")
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", target)
            .header("authorization", authorization(region, service));
        let (status, answer) = send(self.0.address, request, Bytes::from(body.to_string())).await.unwrap();
        (status, serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
    }

    /// One call as a form, such as IAM's, which must succeed: its XML.
    pub async fn form(&self, service: &str, parameters: &[(&str, &str)]) -> String {
        let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let form: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let request = hyper::Request::post("/")
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
            .header("authorization", authorization("us-east-1", service));
        let (status, answer) = send(self.0.address, request, Bytes::from(form.join("&"))).await.unwrap();
        assert_eq!(status, 200, "{parameters:?}: {answer}");
        answer
    }

    /// A secret with this text, in place of a former version of it.
    pub async fn secret(&self, region: &str, name: &str, text: &str) {
        let (status, _) = self.json(region, "secretsmanager.CreateSecret", json!({ "Name": name, "SecretString": text })).await;
        if status != 200 {
            self.must(region, "secretsmanager.PutSecretValue", json!({ "SecretId": name, "SecretString": text })).await;
        }
    }

    /// A parameter, in place of a former version of it. `name` is the name that AWS has.
    pub async fn parameter(&self, region: &str, name: &str, text: &str) {
        let body = json!({ "Name": name, "Value": text, "Type": "SecureString", "Overwrite": true });
        self.must(region, "AmazonSSM.PutParameter", body).await;
    }

    /// A user who may do this, such as `secretsmanager:GetSecretValue`.
    pub async fn user(&self, name: &str, actions: &[&str]) -> AccessKey {
        let policy =
            json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Action": actions, "Resource": "*" }] }).to_string();
        let version = ("Version", "2010-05-08");
        self.form("iam", &[("Action", "CreateUser"), version, ("UserName", name)]).await;
        let put = [("Action", "PutUserPolicy"), version, ("UserName", name), ("PolicyName", "p"), ("PolicyDocument", &policy)];
        self.form("iam", &put).await;
        let made = self.form("iam", &[("Action", "CreateAccessKey"), version, ("UserName", name)]).await;
        AccessKey { id: element(&made, "AccessKeyId"), secret: element(&made, "SecretAccessKey") }
    }

    /// A role that may do this, and that anybody may assume. Returns its ARN. Of the trust policy, moto looks at what a signed `AssumeRole` needs.
    pub async fn role(&self, name: &str, actions: &[&str]) -> String {
        let of = |statements: Value| json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
        let trust = of(json!([{ "Effect": "Allow", "Principal": { "AWS": "*" }, "Action": "sts:AssumeRole" }]));
        let policy = of(json!([{ "Effect": "Allow", "Action": actions, "Resource": "*" }]));
        let version = ("Version", "2010-05-08");
        self.form("iam", &[("Action", "CreateRole"), version, ("RoleName", name), ("AssumeRolePolicyDocument", &trust)]).await;
        let put = [("Action", "PutRolePolicy"), version, ("RoleName", name), ("PolicyName", "p"), ("PolicyDocument", &policy)];
        self.form("iam", &put).await;
        format!("arn:aws:iam::{ACCOUNT}:role/{name}")
    }

    /// After `free` more calls, moto checks signatures and rights.
    pub async fn check_after(&self, free: usize) {
        let request = hyper::Request::post("/moto-api/reset-auth").header("content-type", "text/plain");
        let (status, answer) = send(self.0.address, request, Bytes::from(free.to_string())).await.unwrap();
        assert_eq!(status, 200, "{answer}");
    }

    /// moto checks no call any more.
    pub async fn check_nothing(&self) {
        let request = hyper::Request::post("/moto-api/reset-auth").header("content-type", "text/plain");
        send(self.0.address, request, Bytes::from_static(b"inf")).await.unwrap();
    }
}

/// Where it says that it listens.
fn port_in(log: &Path) -> Option<u16> {
    let log = std::fs::read_to_string(log).ok()?;
    let (_, rest) = log.split_once("Running on http://127.0.0.1:")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Of nobody: the scope says region and service.
fn authorization(region: &str, service: &str) -> String {
    format!("AWS4-HMAC-SHA256 Credential=AKIAX/20250101/{region}/{service}/aws4_request, SignedHeaders=host, Signature=0")
}

/// The text of the first element of this name.
fn element(xml: &str, name: &str) -> String {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}"));
    rest.split_once('<').unwrap().0.to_owned()
}

/// One call on a connection of its own. `None`: nothing answers.
async fn send(address: SocketAddr, request: http::request::Builder, body: Bytes) -> Option<(u16, String)> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = request.header("host", address.to_string()).body(Full::new(body)).unwrap();
    let answer = sender.send_request(request).await.ok()?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}
