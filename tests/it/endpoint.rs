//! The metrics endpoint of the real binary: what Prometheus, kubelet's probes and a person get.

use std::fs;

use serde_json::{Value, json};

use crate::support::{House, http, pod, web};

const DB: &str = "- { secret: shop/db, field: password, path: password }\n";

fn house() -> House {
    House::new("metrics: { listen: \"127.0.0.1:0\" }")
}

#[tokio::test]
async fn metrics_count_mounts_by_outcome_and_code() {
    let house = house();
    let provider = house.serve();
    let address = provider.metrics_address();
    for _ in 0..3 {
        provider.mount(house.request(&web(), DB)).await.unwrap();
    }
    provider.mount(house.request(&pod("bank", "web-0", "web"), DB)).await.unwrap_err();
    provider.mount(house.request(&web(), "- secret: shop/gone\n")).await.unwrap_err();
    let answer = http(&address, "GET", "/metrics").await;
    assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(answer.body.ends_with("# EOF\n"));
    for line in [
        "keyferry_mounts_total{outcome=\"ok\",code=\"OK\"} 3",
        "keyferry_mounts_total{outcome=\"failed\",code=\"PolicyDenied\"} 1",
        "keyferry_mounts_total{outcome=\"failed\",code=\"SecretNotFound\"} 1",
        "keyferry_mount_duration_seconds_count 5",
        "keyferry_backend_calls_total{backend=\"files\",operation=\"fetch\",outcome=\"ok\"} 3",
        "keyferry_backend_calls_total{backend=\"files\",operation=\"fetch\",outcome=\"not_found\"} 1",
        "keyferry_backend_call_duration_seconds_count{backend=\"files\"} 4",
        "keyferry_files_delivered_total 3",
        "keyferry_mounts_in_flight 0",
        "keyferry_memory_used_bytes{pot=\"mounts\"} 0",
        "keyferry_waiting{what=\"place\"} 0",
        "keyferry_audit_lines_lost_total 0",
        &format!("keyferry_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line} is not in\n{}", answer.body);
    }
    let bytes = 3 * "correct horse".len();
    let counted = answer.body.lines().any(|line| line.starts_with("keyferry_delivered") && line.ends_with(&format!("_total {bytes}")));
    assert!(counted, "{bytes} bytes are not in\n{}", answer.body);
    // Labels are bounded, and none has a secret's value.
    for word in ["shop/", "web-0", "bank", "correct horse", "eyJ"] {
        assert!(!answer.body.contains(word), "{word} is in\n{}", answer.body);
    }
}

#[tokio::test]
async fn readiness_says_why_not_and_liveness_is_another_matter() {
    let house = house();
    let provider = house.serve();
    let address = provider.metrics_address();
    let ready = async || {
        let answer = http(&address, "GET", "/readyz").await;
        assert_eq!(answer.content_type, "text/plain; charset=utf-8");
        (answer.status, answer.body.replace(house.folder.path().to_str().unwrap(), "ROOT"))
    };
    assert_eq!(ready().await, (200, "ok\n".into()));
    fs::rename(house.path("vault"), house.path("elsewhere")).unwrap();
    let (status, reason) = ready().await;
    assert_eq!(status, 503);
    insta::assert_snapshot!(reason, @"backend files: the vault's folder ROOT/vault is not there (is its volume mounted, and synced?)");
    assert_eq!(http(&address, "GET", "/livez").await.status, 200, "a restart would repair nothing");
    fs::rename(house.path("elsewhere"), house.path("vault")).unwrap();
    assert_eq!(ready().await, (200, "ok\n".into()));
    // Only a restart can bring back a socket that is gone.
    fs::remove_file(&provider.socket).unwrap();
    let (status, reason) = ready().await;
    assert_eq!(status, 503);
    insta::assert_snapshot!(reason, @"socket ROOT/sockets/keyferry.sock: is gone (restart the provider)");
}

#[tokio::test]
async fn a_person_reads_the_state() {
    let house = house();
    let provider = house.serve();
    let address = provider.metrics_address();
    let state = async || {
        let answer = http(&address, "GET", "/statusz").await;
        assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/json"));
        serde_json::from_str::<Value>(&answer.body).unwrap()
    };
    let found = state().await;
    assert_eq!((&found["version"], &found["backends"]), (&json!(env!("CARGO_PKG_VERSION")), &json!(["files"])));
    assert_eq!((&found["providers"], &found["failing"]), (&json!(["keyferry"]), &json!([])));
    fs::rename(house.path("vault"), house.path("elsewhere")).unwrap();
    assert_eq!(state().await["failing"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn anything_else_is_refused() {
    let house = house();
    let provider = house.serve();
    let address = provider.metrics_address();
    for path in ["/", "/metrics/", "/debug/pprof", "/../etc/passwd"] {
        let answer = http(&address, "GET", path).await;
        assert_eq!((answer.status, answer.body.contains("/readyz")), (404, true), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(http(&address, method, "/metrics").await.status, 405, "{method}");
    }
}
