//! A class has a second secret for when the first one's store is out: only an outage leads to the second.

use tokio::time::Instant;

use super::*;
use crate::backend::testing::fake::text;
use crate::model::{Code, Plan, PodTokens};
use crate::policy::Policy;
use crate::yaml::{self, Faults};

const OUTAGES: [Fault; 4] = [Fault::Down, Fault::Throttled, Fault::TimedOut, Fault::Unavailable];

/// All other faults that a store can report.
const ANSWERS: [Fault; 8] = [
    Fault::Corrupt,
    Fault::Denied,
    Fault::Invalid,
    Fault::NotFound,
    Fault::TooLarge,
    Fault::Unauthenticated,
    Fault::Unhelpful,
    Fault::Unsupported,
];

struct Bench {
    first: Arc<Fake>,
    other: Arc<Fake>,
    backends: Backends,
    permits: Permits,
}

impl Bench {
    fn new() -> Self {
        let (first, other) = (Fake::new(), Fake::new());
        other.put("kv/replica", &[("password", b"other")]);
        let named = [("one", &first), ("two", &other)];
        let backends = named.map(|(name, fake)| (name.parse().unwrap(), Arc::clone(fake) as Arc<dyn Backend>));
        let backends = Backends::new(Configured::default(), backends.into());
        Self { first, other, backends, permits: permits("[\"one/kv/db\", \"two/kv/replica\"]").unwrap() }
    }

    async fn ask(&self) -> Result<(usize, Fetched), BackendError> {
        let deadline = Instant::now() + Duration::from_mins(1);
        let terms = Terms { tokens: Arc::new(PodTokens::default()), fresh: None, max_stale: None, payer: None, deadline };
        self.backends.fetch_or_instead(&self.permits, 0, &terms).await
    }

    fn calls(&self) -> (usize, usize) {
        (self.first.calls(), self.other.calls())
    }
}

/// For a Pod that may read these.
fn permits(read: &str) -> Option<Permits> {
    let of = |backend: &str, name: &str| SecretRef::read(backend.parse().unwrap(), name.parse().unwrap());
    let secrets = vec![of("one", "kv/db"), of("two", "kv/replica")];
    let plan = Arc::new(Plan { secrets, instead: [(0, 1)].into(), ..Plan::default() });
    let rules = format!("- pods: {{ namespace: \"*\" }}\n  read: {read}\n");
    let policy = Policy::parse(&yaml::parse(&rules).unwrap(), &[], &mut Faults::default());
    let pod = context("uid-1", "web", Duration::from_mins(1)).pod;
    policy.of(&pod).grant(&plan).ok()?.permits(&pod, &plan)
}

#[tokio::test(start_paused = true)]
async fn the_other_is_asked_while_the_first_store_is_out_and_only_then() {
    let bench = Bench::new();
    let (at, fetched) = bench.ask().await.unwrap();
    assert_eq!((at, text(&fetched).as_str(), bench.calls()), (0, "v1", (1, 0)));
    for fault in OUTAGES {
        bench.first.is_out(Some(fault));
        let before = bench.calls();
        let (at, fetched) = bench.ask().await.unwrap();
        assert_eq!((at, text(&fetched).as_str(), fetched.by.as_str()), (1, "other", "two"), "{fault:?}");
        assert_eq!(bench.calls(), (before.0 + 1, before.1 + 1));
    }
    let before = bench.calls().1;
    for fault in ANSWERS {
        bench.first.is_out(Some(fault));
        assert_eq!(bench.ask().await.unwrap_err().fault, fault);
    }
    assert_eq!(bench.calls().1, before, "what the first store says is the answer");
    bench.first.is_out(None);
    assert_eq!(bench.ask().await.unwrap().0, 0, "and it is asked first again");
}

/// Half of the time is for the other store.
#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_leaves_time_for_the_other() {
    let bench = Bench::new();
    bench.first.next([(Duration::from_hours(1), Then::Answer)]);
    let start = Instant::now();
    assert_eq!(bench.ask().await.unwrap().0, 1);
    assert!(start.elapsed() <= Duration::from_secs(30), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn if_the_other_does_not_help_it_is_an_outage_that_names_both() {
    let bench = Bench::new();
    bench.first.is_out(Some(Fault::Unavailable));
    for fault in [Fault::Denied, Fault::NotFound, Fault::Down] {
        bench.other.is_out(Some(fault));
        let error = bench.ask().await.unwrap_err();
        assert_eq!((error.fault, error.backend.as_str()), (Fault::Unavailable, "one"));
        assert!(error.reason.contains("; two/kv/replica, asked for instead: "), "{}", error.reason);
        assert_eq!(error.fault.code(), Code::BackendUnavailable);
    }
}

/// Neither is fetched without a rule for both, and the second one is not given from memory either.
#[tokio::test(start_paused = true)]
async fn policy_decides_both() {
    assert!(permits("[\"one/kv/db\"]").is_none() && permits("[\"two/kv/replica\"]").is_none());
    let bench = Bench::new();
    let terms = Terms {
        tokens: Arc::new(PodTokens::default()),
        fresh: None,
        max_stale: None,
        payer: None,
        deadline: Instant::now() + Duration::from_mins(1),
    };
    assert_eq!(bench.backends.recall(&bench.permits, &terms).len(), 2);
    assert_eq!(bench.permits.plan().needed(), 1);
}
