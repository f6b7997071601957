//! The table of docs/outage.md, cell by cell: a real OpenBao, and a bad network before it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use futures_util::future::join_all;
use keyferry::model::PodClaims;
use serde_json::{Value, json};
use tokio::time::Duration;

use super::gateway::Gateway;
use crate::api_server::{Answer, ApiServer};
use crate::bao::{Options, Proxy};
use crate::stores::Store;
use crate::support::{Provider, pod};

/// What Keyferry has for the request. Each has a secret with this name.
const COLUMNS: [&str; 7] = ["nothing", "fresh", "kept", "past bound", "removed", "unservable", RESTARTED];

/// The last column: the daemon is started again in the middle of the trouble.
const RESTARTED: &str = "sealed after restart";

/// The trouble of each row, and the test that plays it.
macro_rules! rows {
    ($($test:ident: $row:literal,)+) => {
        $(#[tokio::test]
        async fn $test() {
            play($row).await;
        })+

        const ROWS: &[&str] = &[$($row),+];
    };
}

rows! {
    a_body_that_is_cut_off: "body cut off",
    a_login_that_is_refused: "login refused",
    a_path_that_fails_alone: "500 on one path",
    a_refusal_without_a_word_on_the_login: "403, and 503 to whether the login works",
    a_refused_connection: "connection refused",
    a_sealed_store: "503, sealed",
    a_silent_network: "black hole",
    a_slow_network: "slow",
    a_store_that_fails: "500 on all paths",
    a_throttling_store: "429",
    a_token_that_has_ended: "token expired",
    another_servers_certificate: "TLS fails",
    no_trouble: "none",
    status_401: "401",
    status_403: "403",
    status_404: "404",
}

/// The rows: trouble, and its cells.
fn rows() -> Vec<Vec<String>> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/outage.md")).unwrap();
    let table: Vec<Vec<String>> = page
        .lines()
        .skip_while(|line| !line.starts_with("| trouble |"))
        .take_while(|line| line.starts_with('|'))
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches(['|', ' ']).split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert_eq!(table[0][1..], COLUMNS);
    table[1..].to_vec()
}

#[test]
fn each_row_is_played() {
    let named: BTreeSet<String> = rows().into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(named, ROWS.iter().map(|row| (*row).to_owned()).collect());
}

async fn play(row: &str) {
    let expected = rows().into_iter().find(|cells| cells[0] == row).unwrap();
    let mut stage = Stage::set(row).await;
    let _props = stage.begin(row).await;
    let mut found = join_all(COLUMNS.iter().filter(|column| **column != RESTARTED).map(|column| stage.mount(column))).await;
    stage = stage.restart();
    found.push(stage.mount(RESTARTED).await);
    assert_eq!(found, expected[1..], "{row}: {}", stage.provider.log());
    let is_given = ["store", "stale"].contains(&expected[3].as_str());
    if !is_given {
        stage.proxy.lead_nowhere();
        for column in ["kept", RESTARTED] {
            assert_eq!(stage.mount(column).await, "BackendUnavailable", "{row}, {column}: in the outage that follows");
        }
    }
}

struct Stage {
    store: Store,
    proxy: Proxy,
    provider: Provider,
}

impl Stage {
    /// Every column is as its name says, and the store is well.
    async fn set(row: &str) -> Self {
        let store = Store::with(Options { tls: row == "TLS fails", ..Options::default() }).await;
        for column in COLUMNS {
            store.bao.put("kv", &format!("shop/{}", column.replace(' ', "-")), json!({ "password": column })).await;
        }
        let proxy = Proxy::start(store.bao.address());
        let limits = if ["black hole", "slow"].contains(&row) { "limits: { timeout: 16s }" } else { "" };
        let sealed = super::sealed(&store);
        store.configure(&store.bao.url_at(proxy.address), ", cache: { fresh: 10m, stale: 24h }", &format!("{limits}\n{sealed}"));
        let provider = store.house.serve();
        let stage = Self { store, proxy, provider };
        for column in &COLUMNS[1..] {
            assert_eq!(stage.mount(column).await, "store");
        }
        let bao = &stage.store.bao;
        bao.must("DELETE", "kv/data/shop/removed", Value::Null).await;
        assert_eq!(stage.mount("removed").await, "SecretNotFound");
        stage.let_in("system:serviceaccount:shop:web").await;
        stage.revoke_logins().await;
        assert_eq!(stage.mount("unservable").await, "BackendLoginFailed");
        assert_eq!(stage.mount("kept").await, "store");
        stage
    }

    /// A process ends in order, and another one starts.
    fn restart(self) -> Self {
        let Self { store, proxy, provider } = self;
        provider.stop();
        let provider = store.house.serve();
        Self { store, proxy, provider }
    }

    /// Starts the trouble of this row. Returns what must live as long as it.
    async fn begin(&self, row: &str) -> Option<(Option<Gateway>, Option<ApiServer>)> {
        let bao = &self.store.bao;
        let gateway = |rule: fn(&str) -> Option<u16>| async move {
            let gateway = Gateway::start(bao.address(), rule).await;
            self.proxy.lead_to(gateway.address);
            Some((Some(gateway), None))
        };
        match row {
            "none" => {}
            "connection refused" => self.proxy.lead_nowhere(),
            "black hole" => self.proxy.blackhole(true),
            "slow" => {
                self.proxy.delay(Duration::from_secs(20));
                self.proxy.cut();
            }
            "TLS fails" => {
                let other = ApiServer::start(Answer::Status(200)).await;
                self.proxy.lead_to(other.address);
                return Some((None, Some(other)));
            }
            "429" => return gateway(|_| Some(429)).await,
            "500 on one path" => {
                return gateway(|path| (path.contains("/shop/kept") || path.contains("/shop/sealed")).then_some(500)).await;
            }
            "500 on all paths" => return gateway(|_| Some(500)).await,
            "503, sealed" => bao.seal().await,
            "body cut off" => {
                self.proxy.reset_after(100, 1_000);
                self.proxy.cut();
            }
            "401" => return gateway(|path| path.contains("/kv/data/").then_some(401)).await,
            "403" => bao.policy("csi", r#"path "other/*" { capabilities = ["read"] }"#).await,
            "403, and 503 to whether the login works" => {
                let rule = |path: &str| match path {
                    _ if path.contains("/kv/data/") => Some(403),
                    _ if path.contains("/lookup-self") => Some(503),
                    _ => None,
                };
                return gateway(rule).await;
            }
            "404" => {
                for column in COLUMNS {
                    bao.must("DELETE", &format!("kv/data/shop/{}", column.replace(' ', "-")), Value::Null).await;
                }
            }
            "login refused" => {
                self.let_in("system:serviceaccount:bank:web").await;
                self.revoke_logins().await;
            }
            "token expired" => self.revoke_logins().await,
            other => panic!("no such trouble: {other}"),
        }
        None
    }

    /// The source of what is delivered, or the code.
    async fn mount(&self, column: &str) -> String {
        let account = if column == "unservable" { "api" } else { "web" };
        let name = column.replace(' ', "-");
        let pod: PodClaims = pod("shop", &format!("{name}-0"), account);
        let objects = format!("- {{ secret: kv/data/shop/{name}, field: password, path: p }}");
        let parameters = match column {
            "fresh" => json!({ "objects": objects }),
            "past bound" => json!({ "objects": objects, "fresh": "0", "maxStale": "0" }),
            _ => json!({ "objects": objects, "fresh": "0" }),
        };
        match self.provider.mount(self.store.asking_with(&pod, &parameters)).await {
            Ok(answer) => {
                assert_eq!(super::only_file(&answer), column, "another's secret");
                let audit = self.store.house.audit();
                let line = audit.iter().rev().find(|line| line.to_string().contains(&format!("shop/{name}\"")));
                line.unwrap()["objects"][0]["source"].as_str().unwrap().to_owned()
            }
            Err(status) => status.message().split(':').next().unwrap().to_owned(),
        }
    }

    /// From now on the store takes the logins of this subject.
    async fn let_in(&self, subject: &str) {
        let role = json!({ "policies": ["csi"], "ttl": "1h", "bound_subject": subject });
        self.store.bao.jwt_role("jwt", "csi", "bao", role).await;
    }

    /// Every token that Pods have logged in for ends.
    async fn revoke_logins(&self) {
        let bao = &self.store.bao;
        for accessor in bao.accessors().await {
            if bao.token_of(&accessor).await.is_some_and(|token| token["path"] == "auth/jwt/login") {
                bao.revoke_token(&accessor).await;
            }
        }
    }
}
