//! A bug in the daemon: the mount that meets it fails, and nothing else. The binary has no such bug, so the test builds one into a store. Around it
//! everything is as `app` builds it, sockets included.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use keyferry::app::commons;
use keyferry::audit::AuditLog;
use keyferry::backend::store::file::FileBackend;
use keyferry::backend::{Backend, BackendConfig, BackendError, Backends, FetchContext};
use keyferry::clock::{Clock, SystemClock};
use keyferry::config::Config;
use keyferry::delivery::{Deliverer, DeliveryMode, VersionKey};
use keyferry::identity;
use keyferry::model::{Fetched, SecretRef};
use keyferry::pipeline::{MountLimits, Pipeline, Plans};
use keyferry::server::Server;
use keyferry::telemetry::{Metrics, Outlet, logs};
use tokio::sync::oneshot;
use tokio::time::Duration;
use tonic::Code;

use crate::support::{House, apart, connect, shown, web};

/// What the bug has at hand when it panics.
const VALUE: &str = "hunter2";

/// A file vault that panics over secrets called `bug`, in the fetch's first step or a later one.
#[derive(Debug)]
struct Buggy(FileBackend);

#[async_trait]
impl keyferry::backend::stack::Decorator for Buggy {
    fn inner(&self) -> &dyn Backend {
        &self.0
    }

    async fn fetch(&self, secret: &SecretRef, cx: &FetchContext) -> Result<Fetched, BackendError> {
        match secret.name.as_str() {
            "shop/bug" => panic!("the value is {VALUE}"),
            "shop/late-bug" => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                panic!("the value is {VALUE}")
            }
            "shop/blocking-bug" => {
                let job = tokio::task::spawn_blocking(|| panic!("the value is {VALUE}"));
                std::panic::resume_unwind(job.await.unwrap_err().into_panic())
            }
            _ => self.0.fetch(secret, cx).await,
        }
    }
}

fn pipeline(config: &Config, audit: Vec<u8>) -> Pipeline {
    let (clock, metrics): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), Arc::new(Metrics::new()));
    let (name, BackendConfig::File(file)) = config.backends.iter().next().unwrap() else { panic!("the house has a file vault") };
    let buggy = Buggy(FileBackend::open(name.clone(), file, config.limits.secret_bytes, Arc::clone(&clock)).unwrap());
    let limits = config.limits;
    let commons = Arc::new(commons(&limits, config.delivery).unwrap());
    Pipeline {
        identity: identity::build(&config.identity, &config.state_dir, Arc::clone(&clock)).unwrap(),
        policy: config.policy.clone(),
        backends: Backends::new(config.configured(), BTreeMap::from([(name.clone(), Arc::new(buggy) as Arc<dyn Backend>)])),
        version_key: VersionKey::new(&vec![7; VersionKey::LENGTH].into()),
        limits: MountLimits {
            objects: limits.objects,
            class_bytes: limits.class_bytes,
            files: limits.files,
            secret_bytes: limits.secret_bytes,
            mount_bytes: limits.mount_bytes,
        },
        deliverer: Deliverer::new(DeliveryMode::Driver, &config.kubelet_dir, Arc::clone(&clock), Arc::clone(&commons.volumes)),
        audit: Arc::new(AuditLog::start(Box::new(audit), false, Arc::clone(&metrics)).unwrap()),
        metrics,
        clock,
        commons,
        plans: Arc::new(Plans::new(1 << 20)),
        teller: None,
    }
}

/// Set in the process that plays the daemon, because the log's panic hook is for a whole process.
const INSIDE: &str = "KEYFERRY_TEST_BUG_INSIDE";

#[test]
fn a_panic_fails_its_mount_alone_and_its_words_are_withheld() {
    if std::env::var_os(INSIDE).is_some() {
        return play();
    }
    let child = apart(std::env::current_exe().unwrap())
        .args(["--exact", "bugs::a_panic_fails_its_mount_alone_and_its_words_are_withheld", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let (out, log) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && out.contains("1 passed"), "{out}\n{log}");
    let reported: Vec<_> = log.lines().filter(|line| line.contains("the code panicked")).collect();
    assert_eq!(reported.len(), 3 * 5, "{log}");
    assert!(reported.iter().all(|line| line.contains("\"place\":\"") && line.contains("bugs.rs:")), "{log}");
    assert!(!log.contains(VALUE) && !out.contains(VALUE), "{log}");
}

/// More bugs than there are places: each of them gives its place back.
#[tokio::main]
async fn play() {
    let house = House::new("");
    let config = Config::load(&house.path("keyferry.yaml")).unwrap();
    let outlet = Outlet::stderr().unwrap();
    logs::start(config.log, &outlet);
    let sockets = config.sockets.bind().await.unwrap();
    let pipeline = Arc::new(ArcSwap::from_pointee(pipeline(&config, Vec::new())));
    let metrics = Arc::clone(&pipeline.load().metrics);
    let server =
        Server { pipeline, metrics, allowed_peers: config.sockets.allowed_peers.as_slice().into(), timeout: config.limits.timeout };
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(sockets, async move { drop(stopped.await) }, Duration::from_secs(5)));
    let mut client = connect(&config.sockets.path("keyferry")).await.unwrap();
    for bug in ["shop/bug", "shop/late-bug", "shop/blocking-bug"] {
        for _ in 0..5 {
            let request = house.request(&web(), &format!("- secret: shop/db\n- secret: {bug}\n"));
            let status = client.mount(request).await.unwrap_err();
            assert_eq!(status.code(), Code::Internal);
            insta::allow_duplicates! {
                insta::assert_snapshot!(status.message(), @"Internal: a bug in the provider; this mount alone is affected (its log names the place in the code; please report it)");
            }
            let good = client.mount(house.request(&web(), "- { secret: shop/db, field: username }\n")).await.unwrap();
            assert_eq!(shown(good.get_ref()), ["username 0644 app"]);
        }
    }
    drop(client);
    stop.send(()).unwrap();
    assert!(serving.await.unwrap());
    assert!(outlet.flush(Duration::from_secs(10)));
}
