//! How a client logs in: auth methods and their roles. A role may have any field of the API, which wins over what its function sets.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

use super::{Bao, Reviews};

impl Bao {
    /// Enables `jwt` at a mount (`jwt`) with the keys of a JWKS, those of an `Issuer` of ours. Only elliptic keys of P-256.
    pub async fn jwt(&self, mount: &str, jwks: &str) {
        self.enable(mount, "jwt").await;
        self.must("POST", &format!("auth/{mount}/config"), json!({ "jwt_validation_pubkeys": public_keys(jwks) })).await;
    }

    /// A role of [`Bao::jwt`] for tokens of any subject with this audience. `more`: `policies`, `ttl`, `max_ttl`, `period`,
    /// `bound_claims` (`{"/kubernetes.io/namespace": "shop"}`), `bound_subject`, ...
    pub async fn jwt_role(&self, mount: &str, role: &str, audience: &str, more: Value) {
        let role_of = json!({ "role_type": "jwt", "user_claim": "sub", "bound_audiences": [audience] });
        self.must("POST", &format!("auth/{mount}/role/{role}"), over(role_of, more)).await;
    }

    /// Enables `kubernetes` at a mount (`kubernetes`), where tokens are reviewed by this API server.
    pub async fn kubernetes(&self, mount: &str, reviews: &Reviews) {
        self.enable(mount, "kubernetes").await;
        let config = json!({
            "kubernetes_host": reviews.url(),
            "kubernetes_ca_cert": reviews.ca(),
            "token_reviewer_jwt": "reviewer",
            "disable_local_ca_jwt": true,
        });
        self.must("POST", &format!("auth/{mount}/config"), config).await;
    }

    /// A role of [`Bao::kubernetes`] for every ServiceAccount. `more`: `policies`, `ttl`, `audience`, `bound_service_account_names`, ...
    pub async fn kubernetes_role(&self, mount: &str, role: &str, more: Value) {
        let role_of = json!({ "bound_service_account_names": ["*"], "bound_service_account_namespaces": ["*"] });
        self.must("POST", &format!("auth/{mount}/role/{role}"), over(role_of, more)).await;
    }

    /// Enables `approle` at a mount if it is not yet enabled, with a role. Returns its role id and a secret id.
    pub async fn approle(&self, mount: &str, role: &str, more: Value) -> (String, String) {
        self.enable(mount, "approle").await;
        let path = format!("auth/{mount}/role/{role}");
        self.must("POST", &path, more).await;
        let id = self.must("GET", &format!("{path}/role-id"), Value::Null).await;
        let secret = self.must("POST", &format!("{path}/secret-id"), Value::Null).await;
        (text(&id["data"]["role_id"]), text(&secret["data"]["secret_id"]))
    }

    /// Enables `cert` at a mount, with a role for every client certificate of a CA (PEM). The server needs [`super::Options::tls`].
    pub async fn cert(&self, mount: &str, role: &str, ca: &str, more: Value) {
        self.enable(mount, "cert").await;
        self.must("POST", &format!("auth/{mount}/certs/{role}"), over(json!({ "certificate": ca }), more)).await;
    }

    /// A new token. `more`: `policies`, `ttl`, `period`, `explicit_max_ttl`, `renewable`, `num_uses`, `no_parent`, ...
    pub async fn new_token(&self, more: Value) -> String {
        text(&self.must("POST", "auth/token/create", more).await["auth"]["client_token"])
    }

    /// Logs in at a mount with these parameters (`{"role": ..., "jwt": ...}`). Returns the server with this login, or status and error.
    pub async fn login(&self, mount: &str, parameters: Value) -> Result<Self, (u16, String)> {
        let nobody = self.with_token("");
        let (status, body) = nobody.api("POST", &format!("auth/{mount}/login"), parameters).await;
        match body["auth"]["client_token"].as_str() {
            Some(token) => Ok(self.with_token(token)),
            None => Err((status, body["errors"].to_string())),
        }
    }

    /// Enables an auth method if it is not yet enabled.
    async fn enable(&self, mount: &str, kind: &str) {
        let (status, body) = self.api("POST", &format!("sys/auth/{mount}"), json!({ "type": kind })).await;
        let there = body["errors"].to_string().contains("already in use");
        assert!(status < 300 || there, "enabling {kind} at {mount}: {status} {body}");
    }
}

/// The keys of a JWKS as PEM (SubjectPublicKeyInfo, RFC 5480), which is what `jwt_validation_pubkeys` takes.
fn public_keys(jwks: &str) -> Vec<String> {
    /// All that comes before the point: a sequence of the algorithm (ecPublicKey, prime256v1) and a bit string.
    const HEAD: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04";
    let jwks: Value = serde_json::from_str(jwks).unwrap();
    let coordinate = |key: &Value, name: &str| BASE64URL_NOPAD.decode(key[name].as_str().unwrap().as_bytes()).unwrap();
    let pem = |key: &Value| {
        assert_eq!(key["crv"], "P-256", "only keys of P-256 are turned into PEM");
        let der = [HEAD, &coordinate(key, "x"), &coordinate(key, "y")].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(&der))
    };
    jwks["keys"].as_array().unwrap().iter().map(pem).collect()
}

/// An object, with the keys of another one in place of its own.
fn over(mut object: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("a role is an object: {more}") };
    object.as_object_mut().unwrap().extend(more);
    object
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
