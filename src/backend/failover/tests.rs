//! A failover above two fakes, without their decorators: its order, and what it remembers. `registry/tests` have a failover above complete stacks.

use tokio::time::{Duration, advance, timeout};

use super::*;
use crate::backend::testing::conformance::{self, Store};
use crate::backend::testing::fake::{Fake, Then, context, text};
use crate::backend::{BackendConfig, Kind};
use crate::config::Config;
use crate::model::{Code, Method, RefParts};

mod denials;

const ONE: &str = "bao";
const OTHER: &str = "bao-dr";
const MINUTE: Duration = Duration::from_mins(1);
const OUTAGES: [Fault; 4] = [Fault::Down, Fault::Throttled, Fault::TimedOut, Fault::Unavailable];
const DENIALS: [Fault; 3] = [Fault::Denied, Fault::NotFound, Fault::Unauthenticated];

/// The failover `both` of `bao` and `bao-dr`. Classes may choose the role, the mount and the namespace.
pub fn config() -> FailoverConfig {
    let member = |name: &str, mount: &str| {
        format!(
            "  {name}: {{ kind: vault, address: \"https://{name}:8200\", auth: {{ method: jwt, mount: {mount}, role: csi, audience: bao }}, \
             classMay: {{ role: [\"*\"], mount: [\"*\"], namespace: [\"**\"] }} }}\n"
        )
    };
    let text = format!(
        "identity: {{ verify: token-review }}\nbackends:\n{}{}  both: {{ kind: failover, of: [bao, bao-dr] }}\npolicy: []\n",
        member("bao", "jwt"),
        member("bao-dr", "dr")
    );
    let config = Config::parse(&text).unwrap();
    let Some(BackendConfig::Failover(failover)) = config.backends.get(&"both".parse().unwrap()) else { panic!() };
    (**failover).clone()
}

pub fn both(name: &str) -> SecretRef {
    SecretRef::read("both".parse().unwrap(), name.parse().unwrap())
}

struct Bench {
    first: Arc<Fake>,
    second: Arc<Fake>,
    failover: Failover,
}

impl Bench {
    fn new() -> Self {
        Self::with(1 << 20)
    }

    fn with(bytes: usize) -> Self {
        let (first, second) = (Fake::new(), Fake::new());
        second.put("kv/db", &[("password", b"dr")]);
        let members = [&first, &second].map(|fake| Arc::clone(fake) as Arc<dyn Backend>);
        let failover = Failover::new(
            &"both".parse().unwrap(),
            config(),
            members,
            Denials::new(&"both".parse().unwrap(), bytes, None),
            [Counter::default(), Counter::default()],
        );
        Self { first, second, failover }
    }

    async fn ask(&self, secret: &SecretRef) -> Result<Fetched, BackendError> {
        self.failover.fetch(secret, &context("uid-1", "web", MINUTE)).await
    }

    /// Who answers, or how it fails.
    async fn by(&self, secret: &SecretRef) -> String {
        self.ask(secret).await.map_or_else(|error| fails(error.fault), |fetched| fetched.by.to_string())
    }

    fn calls(&self) -> (usize, usize) {
        (self.first.calls(), self.second.calls())
    }
}

fn fails(fault: Fault) -> String {
    format!("{fault:?}")
}

#[tokio::test(start_paused = true)]
async fn the_second_is_asked_while_the_first_is_out_and_only_then() {
    let (bench, db) = (Bench::new(), both("kv/db"));
    assert_eq!((bench.by(&db).await, bench.calls()), (ONE.to_owned(), (1, 0)));
    for fault in OUTAGES {
        bench.first.is_out(Some(fault));
        assert_eq!(bench.by(&db).await, OTHER, "{fault:?}");
        bench.first.is_out(None);
        assert_eq!(bench.by(&db).await, ONE, "{fault:?}");
    }
    let before = bench.second.calls();
    for fault in [Fault::Corrupt, Fault::Invalid, Fault::Short, Fault::TooLarge, Fault::Unhelpful, Fault::Unsupported] {
        bench.first.is_out(Some(fault));
        assert_eq!((bench.by(&db).await, bench.second.calls()), (fails(fault), before), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_second_refuses_is_part_of_the_outage() {
    for fault in [Fault::Corrupt, Fault::Denied, Fault::NotFound, Fault::TooLarge, Fault::Unauthenticated, Fault::Unavailable] {
        let bench = Bench::new();
        bench.first.is_out(Some(Fault::Unavailable));
        bench.second.is_out(Some(fault));
        let error = bench.ask(&both("kv/db")).await.unwrap_err();
        assert_eq!((error.fault, error.fault.code()), (Fault::Unavailable, Code::BackendUnavailable), "no optional file is absent by it");
        assert_eq!(error.to_string(), "both/kv/db: bao: as it was told; bao-dr: as it was told");
        bench.second.is_out(None);
        assert_eq!(bench.by(&both("kv/db")).await, OTHER, "and it binds nobody");
    }
    let bench = Bench::new();
    bench.first.is_out(Some(Fault::Down));
    bench.second.is_out(Some(Fault::Short));
    assert_eq!(bench.by(&both("kv/db")).await, fails(Fault::Short), "the mount asks again once it has memory");
}

#[tokio::test(start_paused = true)]
async fn what_the_first_denied_the_second_is_not_asked_until_the_first_allows_it() {
    for denial in DENIALS {
        let (bench, db) = (Bench::new(), both("kv/db"));
        bench.first.is_out(Some(denial));
        let error = bench.ask(&db).await.unwrap_err();
        assert_eq!((error.fault, error.to_string()), (denial, "both/kv/db: bao: as it was told".to_owned()));
        for outage in OUTAGES {
            bench.first.is_out(Some(outage));
            let error = bench.ask(&db).await.unwrap_err();
            assert_eq!((error.fault, bench.second.calls()), (outage, 0), "{denial:?}");
            assert_eq!(
                error.reason,
                "bao: as it was told; bao-dr is not asked, because bao has denied this request before and has not answered it since"
            );
        }
        let other = db.with(|asked| asked.login.role = Some("other".to_owned()));
        assert_eq!(bench.by(&other).await, OTHER, "another request");
        bench.first.is_out(None);
        assert_eq!(bench.by(&db).await, ONE);
        bench.first.is_out(Some(Fault::Down));
        assert_eq!(bench.by(&db).await, OTHER, "it was allowed again");
    }
}

/// The request was sent before the denial, and its answer comes after it.
#[tokio::test(start_paused = true)]
async fn an_answer_that_was_under_way_ends_no_denial() {
    let (bench, db) = (Bench::new(), both("kv/db"));
    bench.first.next([(Duration::from_secs(2), Then::Answer), (Duration::from_secs(1), Then::Fail(Fault::Denied))]);
    let (slow, denied) = tokio::join!(bench.by(&db), bench.by(&db));
    assert_eq!((slow, denied), (ONE.to_owned(), fails(Fault::Denied)));
    bench.first.is_out(Some(Fault::Down));
    assert_eq!(bench.by(&db).await, fails(Fault::Down));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_at_the_second_that_the_first_may_have_made() {
    let issue = both("pki/issue/web").with(|asked| asked.method = Method::Post);
    for fault in OUTAGES {
        let bench = Bench::new();
        bench.first.is_out(Some(fault));
        let not_sent = fault == Fault::Down;
        let expected = if not_sent { OTHER.to_owned() } else { fails(fault) };
        assert_eq!((bench.by(&issue).await, bench.calls()), (expected, (1, usize::from(not_sent))));
    }
    for denial in DENIALS {
        let bench = Bench::new();
        bench.first.is_out(Some(denial));
        assert_eq!(bench.by(&issue).await, fails(denial));
        bench.first.is_out(Some(Fault::Down));
        assert_eq!((bench.by(&issue).await, bench.second.calls()), (fails(Fault::Down), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_member_that_hangs_leaves_the_second_its_time() {
    for seconds in [1, 4, 60] {
        let bench = Bench::new();
        bench.first.next([(Duration::from_hours(1), Then::Answer)]);
        bench.second.next([(Duration::from_secs(seconds) / 3, Then::Answer)]);
        let cx = context("uid-1", "web", Duration::from_secs(seconds));
        let fetched = timeout(Duration::from_secs(seconds), bench.failover.fetch(&both("kv/db"), &cx)).await.unwrap().unwrap();
        assert_eq!(fetched.by.as_str(), "bao-dr", "{seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn who_had_no_turn_at_the_first_waits_for_it_and_not_for_the_second() {
    let bench = Bench::new();
    bench.first.next([(Duration::ZERO, Then::Fail(Fault::NoTurn))]);
    assert_eq!((bench.by(&both("kv/db")).await, bench.calls()), (ONE.to_owned(), (2, 0)));
    bench.first.is_out(Some(Fault::NoTurn));
    assert_eq!((bench.by(&both("kv/db")).await, bench.second.calls()), (fails(Fault::NoTurn), 0));
}

#[tokio::test(start_paused = true)]
async fn equal_content_has_one_version_whoever_answers() {
    let (bench, db) = (Bench::new(), both("kv/db"));
    bench.second.put("kv/db", &[("password", b"v1")]);
    let one = bench.ask(&db).await.unwrap();
    bench.first.is_out(Some(Fault::Down));
    let other = bench.ask(&db).await.unwrap();
    assert_eq!((text(&one), one.by.as_str(), &one.secret.version), ("v1".to_owned(), "bao", &None));
    assert_eq!((text(&other), other.by.as_str(), &other.secret.version), ("v1".to_owned(), "bao-dr", &None));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_its_members_business() {
    let (bench, creds) = (Bench::new(), both("database/creds/app"));
    bench.first.is_out(Some(Fault::Down));
    bench.second.next([(Duration::ZERO, Then::Leased)]);
    let lease = bench.ask(&creds).await.unwrap().secret.lease.clone().unwrap();
    assert_eq!(lease.secret.backend.as_str(), "bao-dr");
    bench.first.is_out(None);
    bench.failover.revoke(bench.failover.renew(lease, Instant::now() + MINUTE).await.unwrap(), Instant::now() + MINUTE).await.unwrap();
    let revoked = [&bench.first, &bench.second].map(|fake| fake.revoked.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(revoked, [0, 1]);
    advance(MINUTE).await;
}

#[test]
fn each_member_is_sent_the_same_request_without_what_its_own_configuration_says() {
    let failover = config();
    let ask = |change: &dyn Fn(&mut RefParts)| {
        let mut parts = RefParts::read("both".parse().unwrap(), "kv/data/db".parse().unwrap());
        change(&mut parts);
        failover.admit(parts).map(SecretRef::from)
    };
    let sent = |secret: &SecretRef| {
        failover.of_members(secret).map(|secret| format!("{} {:?}", secret.id(), (&secret.login.mount, &secret.login.role)))
    };
    let none = ask(&|_| {}).unwrap();
    assert_eq!(sent(&none), ["bao/kv/data/db (None, None)", "bao-dr/kv/data/db (None, None)"]);
    assert_eq!(ask(&|parts| parts.login.role = Some("csi".to_owned())).unwrap(), none, "as both say it");
    let mount = ask(&|parts| parts.login.mount = Some("/jwt/".to_owned())).unwrap();
    assert_eq!(mount.login.mount.as_deref(), Some("jwt"), "policy judges it, since one of them does not say so");
    assert_eq!(sent(&mount), ["bao/kv/data/db (None, None)", "bao-dr/kv/data/db (Some(\"jwt\"), None)"]);
    let namespace = ask(&|parts| parts.login.namespace = Some("team".to_owned())).unwrap();
    assert_eq!(sent(&namespace), ["bao/team/kv/data/db (None, None)", "bao-dr/team/kv/data/db (None, None)"]);
    let told = |refused: Result<SecretRef, crate::backend::Inadmissible>| format!("{:?}", refused.unwrap_err());
    let refused = [
        told(ask(&|parts| parts.login.address = Some("https://bao:8200".to_owned()))),
        told(ask(&|parts| parts.args.insert("version", &3.into()))),
        failover.pin("3").unwrap_err(),
    ];
    insta::assert_snapshot!(refused.join("\n"), @r#"
    Login { key: Address, problem: "a failover has the two addresses of bao and bao-dr, so a class cannot choose one (remove it)" }
    Request { key: "args", problem: "have a version, but the members of a failover each count their own versions (remove it)" }
    cannot be pinned in a failover: bao and bao-dr each count their own versions (remove it; or name one of them as the backend)
    "#);
}

/// A store that consists of two: each gets what is put in.
struct Pair {
    bench: Bench,
    backend: Arc<Failover>,
    config: FailoverConfig,
}

impl Store for Pair {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend) as Arc<dyn Backend>
    }

    fn kind(&self) -> &dyn Kind {
        &self.config
    }

    fn put(&self, name: &str, fields: &[(&str, &[u8])]) {
        self.bench.first.put(name, fields);
        self.bench.second.put(name, fields);
    }

    fn remove(&self, name: &str) {
        self.bench.first.remove(name);
        self.bench.second.remove(name);
    }

    fn name(&self) -> &'static str {
        "both"
    }

    fn by(&self) -> &str {
        if self.bench.first.is_it_out() { "bao-dr" } else { "bao" }
    }
}

#[tokio::test]
async fn it_is_a_backend_as_any_other() {
    let bench = Bench::new();
    let members = [&bench.first, &bench.second].map(|fake| Arc::clone(fake) as Arc<dyn Backend>);
    let name = "both".parse().unwrap();
    let backend =
        Arc::new(Failover::new(&name, config(), members, Denials::new(&name, 1 << 20, None), [Counter::default(), Counter::default()]));
    conformance::hold(&Pair { bench, backend, config: config() }).await;
}
