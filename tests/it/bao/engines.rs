//! What is in the server: secrets engines, policies, namespaces, quotas, and the leases that they give.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Bao, Postgres, eventually};

impl Bao {
    /// Mounts an engine of the second version of KV, and waits until it takes secrets.
    pub async fn kv2(&self, mount: &str) {
        self.must("POST", &format!("sys/mounts/{mount}"), json!({ "type": "kv", "options": { "version": "2" } })).await;
        eventually("a new kv-v2 engine is usable", async || self.api("GET", &format!("{mount}/config"), Value::Null).await.0 == 200).await;
    }

    /// Writes a secret's fields into an engine of the second version. Returns the new version.
    pub async fn put(&self, mount: &str, name: &str, fields: Value) -> u64 {
        let answer = self.must("POST", &format!("{mount}/data/{name}"), json!({ "data": fields })).await;
        answer["data"]["version"].as_u64().unwrap()
    }

    /// Mounts an engine of the first version of KV. Write by `must("POST", "secret1/name", fields)`.
    pub async fn kv1(&self, mount: &str) {
        self.mount(mount, "kv").await;
    }

    /// Mounts any engine.
    pub async fn mount(&self, mount: &str, kind: &str) {
        self.must("POST", &format!("sys/mounts/{mount}"), json!({ "type": kind })).await;
    }

    /// Writes a policy, such as `path "kv/data/*" { capabilities = ["read"] }`.
    pub async fn policy(&self, name: &str, rules: &str) {
        self.must("PUT", &format!("sys/policies/acl/{name}"), json!({ "policy": rules })).await;
    }

    /// Makes a namespace in this one, and returns the server in it. Its children are made by the same call on it.
    pub async fn namespace(&self, name: &str) -> Self {
        self.must("POST", &format!("sys/namespaces/{name}"), Value::Null).await;
        let path = if self.namespace.is_empty() { name.to_owned() } else { format!("{}/{name}", self.namespace) };
        self.within(&path)
    }

    /// Mounts the engine `mount` over a database, with a role of this name: `GET mount/creds/role` is a login with a lease (renewable).
    /// Lives are like `2s`, `1h`.
    pub async fn database(&self, mount: &str, postgres: &Postgres, role: &str, ttl: &str, max_ttl: &str) {
        self.mount(mount, "database").await;
        let connection = json!({
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": "*",
            "connection_url": format!("postgresql://{{{{username}}}}:{{{{password}}}}@{}/postgres?sslmode=disable", postgres.address()),
            "username": Postgres::ADMIN,
            "password": postgres.password,
        });
        self.must("POST", &format!("{mount}/config/postgres"), connection).await;
        self.database_role(mount, role, ttl, max_ttl).await;
    }

    /// A further role of [`Bao::database`], or other lives for one.
    pub async fn database_role(&self, mount: &str, role: &str, ttl: &str, max_ttl: &str) {
        let statement = r#"CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"#;
        let role_of = json!({ "db_name": "postgres", "creation_statements": [statement], "default_ttl": ttl, "max_ttl": max_ttl });
        self.must("POST", &format!("{mount}/roles/{role}"), role_of).await;
    }

    /// Mounts a CA, with a role for any name: `POST mount/issue/role {"common_name": ...}`. With `leased` each certificate has a lease, which
    /// is not renewable.
    pub async fn pki(&self, mount: &str, role: &str, ttl: &str, leased: bool) {
        self.mount(mount, "pki").await;
        let root = json!({ "common_name": "Test CA", "key_type": "ec", "ttl": "720h" });
        self.must("POST", &format!("{mount}/root/generate/internal"), root).await;
        let any = json!({ "allow_any_name": true, "key_type": "ec", "generate_lease": leased, "ttl": ttl, "max_ttl": "720h" });
        self.must("POST", &format!("{mount}/roles/{role}"), any).await;
    }

    /// Mounts the engine of one-time passwords for SSH: `POST mount/creds/role {"ip": "10.0.0.1"}`, leased and not renewable.
    pub async fn ssh_otp(&self, mount: &str, role: &str, ttl: &str) {
        self.mount(mount, "ssh").await;
        self.must("POST", &format!("sys/mounts/{mount}/tune"), json!({ "default_lease_ttl": ttl })).await;
        let otp = json!({ "key_type": "otp", "default_user": "app", "cidr_list": "10.0.0.0/8" });
        self.must("POST", &format!("{mount}/roles/{role}"), otp).await;
    }

    /// The server answers 429 to more than this many calls of a path in `seconds`. The path is empty (all paths), a mount such as `kv`, or deeper.
    /// The harness' own calls count too. `retry_after`: whether the answers say when to come again; this is the same for all quotas.
    pub async fn rate_limit(&self, path: &str, calls: u32, seconds: u32, retry_after: bool) {
        self.must("POST", "sys/quotas/config", json!({ "enable_rate_limit_response_headers": retry_after })).await;
        let quota = json!({ "path": path, "rate": calls, "interval": format!("{seconds}s") });
        self.must("POST", "sys/quotas/rate-limit/test", quota).await;
    }

    /// Removes the quota.
    pub async fn lift_rate_limit(&self) {
        self.must("DELETE", "sys/quotas/rate-limit/test", Value::Null).await;
    }

    /// The leases below a path that have not ended, such as `database/creds/app`.
    pub async fn leases(&self, path: &str) -> Vec<String> {
        let (mut leases, mut folders) = (Vec::new(), vec![format!("{path}/")]);
        while let Some(folder) = folders.pop() {
            for key in self.keys(&format!("sys/leases/lookup/{folder}")).await {
                let full = format!("{folder}{key}");
                if key.ends_with('/') { folders.push(full) } else { leases.push(full) }
            }
        }
        leases.sort();
        leases
    }

    /// What the server knows of a lease (`ttl` in seconds, `expire_time`, `last_renewal`, `renewable`); `None` if it is gone.
    pub async fn lease(&self, id: &str) -> Option<Value> {
        let (status, body) = self.api("PUT", "sys/leases/lookup", json!({ "lease_id": id })).await;
        (status == 200).then(|| body["data"].clone())
    }

    /// Revokes a lease as an operator would, and waits for it.
    pub async fn revoke(&self, id: &str) {
        self.must("PUT", "sys/leases/revoke", json!({ "lease_id": id, "sync": true })).await;
    }

    /// The accessors of all valid tokens of this namespace, with that of the harness' own root token.
    pub async fn accessors(&self) -> BTreeSet<String> {
        self.keys("auth/token/accessors").await.into_iter().collect()
    }

    /// What the server knows of a token, by its accessor; `None` if it is gone.
    pub async fn token_of(&self, accessor: &str) -> Option<Value> {
        let (status, body) = self.api("POST", "auth/token/lookup-accessor", json!({ "accessor": accessor })).await;
        (status == 200).then(|| body["data"].clone())
    }

    /// Revokes a token, and its leases with it.
    pub async fn revoke_token(&self, accessor: &str) {
        self.must("POST", "auth/token/revoke-accessor", json!({ "accessor": accessor })).await;
    }

    /// The keys of a list; empty if there is no list.
    async fn keys(&self, path: &str) -> Vec<String> {
        let (status, body) = self.api("LIST", path, Value::Null).await;
        assert!(status == 200 || status == 404, "LIST {path}: {status} {body}");
        let keys = body["data"]["keys"].as_array();
        keys.map(|keys| keys.iter().map(|key| key.as_str().unwrap().to_owned()).collect()).unwrap_or_default()
    }
}
