//! The volumes that Pods have on this node, by their last mounts: for the metrics and for `keyferry status`.
//!
//! kubelet asks for a volume about once per minute, and reports to nobody when it is gone. So Keyferry forgets a volume for which nobody
//! asked in 10 minutes, or whose Pod's folder is gone. Namespaces share the table: a namespace with many volumes loses its own first.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

use super::ended::Ended;
use super::troubles::{Change, Troubles};
use crate::events::Said;
use crate::model::{Code, PodClaims};
use crate::shelf::Shelf;

/// A volume for which nobody asked in this time is forgotten.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// The weight of all volumes together in the tests, in bytes.
#[cfg(test)]
const BYTES: usize = 1024 * 1024;

/// The weight of a volume without its names, in bytes.
const VOLUME: usize = 512;

/// The longest names of one volume in bytes. Names of Kubernetes with the longest path of Linux are shorter.
const MAX_NAMES: usize = 8 * 1024;

#[derive(Debug)]
pub struct Live {
    volumes: Mutex<Shelf<Arc<str>, Tracked>>,
    /// The Pods' folders at the last look.
    folders: Mutex<HashSet<String>>,
}

/// Identifies a volume: by its target path, which no other volume has.
#[derive(Debug)]
pub(super) struct Whose {
    pub pod: Arc<PodClaims>,
    pub class: Option<Arc<str>>,
    pub target: Arc<str>,
}

/// What is known of a volume.
#[derive(Clone, Debug)]
pub struct Volume {
    pub pod: Arc<PodClaims>,
    pub class: Option<Arc<str>>,
    /// Why its last mount failed; `None`: it was delivered.
    pub code: Option<Code>,
    /// Since when its mounts end like this.
    pub since: Timestamp,
    /// When it was last delivered, as far as this process knows.
    pub delivered: Option<Timestamp>,
    /// When the store gave the oldest answer that the volume has because the store is out.
    pub stale: Option<Timestamp>,
    /// And when the first of them passed half of its time.
    pub half: Option<Timestamp>,
    /// When its last mount arrived.
    pub asked: Instant,
}

/// A volume, and what may be reported about it.
#[derive(Debug)]
struct Tracked {
    volume: Volume,
    /// Whether a token has proven that this Pod has the volume.
    proven: bool,
    troubles: Troubles,
}

/// All volumes together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    pub current: usize,
    pub failing: usize,
    /// Delivered with an earlier answer, because a store is out.
    pub stale: usize,
    /// The earliest of the last deliveries.
    pub oldest: Option<Timestamp>,
    /// When the store gave the oldest answer that a volume has because the store is out.
    pub oldest_stale: Option<Timestamp>,
    /// When the first of them passed half of its time.
    pub half: Option<Timestamp>,
}

// === impl Live ===

impl Live {
    /// For volumes that weigh this many bytes together: 800 bytes each, with names of usual length.
    pub fn of_bytes(bytes: usize) -> Self {
        Self { volumes: Mutex::new(Shelf::of_bytes(bytes)), folders: Mutex::default() }
    }

    /// A mount was answered. Returns how many volumes have no place in the table for it: this one, or others of its namespace. `tell` gets
    /// what may be reported at the volume's Pod, which a token has proven then; it waits for nothing.
    pub(super) fn note(
        &self,
        whose: &Whose,
        how: Ended,
        (asked, now): (Instant, Timestamp),
        tell: &mut dyn FnMut(Change) -> Option<Said>,
    ) -> usize {
        let mut volumes = self.lock();
        if let Some(tracked) = volumes.find_mut(&*whose.target) {
            tracked.prove(&whose.pod, how);
            tracked.ask(how, asked, now, tell);
            return 0;
        }
        let Whose { pod, class, target } = whose;
        let names = target.len() + class.as_ref().map_or(0, |class| class.len()) + pod.names().map(String::len).iter().sum::<usize>();
        if names > MAX_NAMES {
            return 1;
        }
        let mut tracked = Tracked::new(whose, how, asked, now);
        tracked.ask(how, asked, now, tell);
        let gone = volumes.put(&pod.namespace, Arc::clone(target), tracked, VOLUME + names, |_| false);
        gone.iter().filter(|gone| !gone.volume.is_old(asked)).count()
    }

    pub fn count(&self) -> Counts {
        let mut volumes = self.lock();
        forget_old(&mut volumes, Instant::now());
        let mut counts = Counts::default();
        for Tracked { volume, .. } in volumes.values() {
            let of_its_state = match (volume.code, volume.stale) {
                (Some(_), _) => &mut counts.failing,
                (None, Some(_)) => &mut counts.stale,
                (None, None) => &mut counts.current,
            };
            *of_its_state += 1;
            counts.oldest = counts.oldest.into_iter().chain(volume.delivered).min();
            counts.oldest_stale = counts.oldest_stale.into_iter().chain(volume.stale).min();
            counts.half = counts.half.into_iter().chain(volume.half).min();
        }
        counts
    }

    /// Each of them, in any order.
    pub fn all(&self) -> Vec<Volume> {
        let mut volumes = self.lock();
        forget_old(&mut volumes, Instant::now());
        volumes.values().map(|tracked| tracked.volume.clone()).collect()
    }

    /// Uses a look at kubelet's folder of Pods. Keyferry forgets only volumes whose folder was seen at the look before. It forgets none
    /// while there is no folder at all: kubelet has just started, or its folder is not mounted.
    pub fn looked(&self, present: HashSet<String>) {
        if present.is_empty() {
            return;
        }
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: HashSet<&String> = folders.difference(&present).collect();
        if !gone.is_empty() {
            self.lock().retain(|tracked| !gone.contains(&tracked.volume.pod.uid));
        }
        *folders = present;
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Shelf<Arc<str>, Tracked>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget_old(volumes: &mut Shelf<Arc<str>, Tracked>, now: Instant) {
    volumes.retain(|tracked| !tracked.volume.is_old(now));
}

// === impl Tracked ===

impl Tracked {
    fn new(whose: &Whose, how: Ended, asked: Instant, now: Timestamp) -> Self {
        let (pod, class) = (Arc::clone(&whose.pod), whose.class.clone());
        let volume = Volume { pod, class, code: how.code, since: now, delivered: None, stale: None, half: None, asked };
        Self { volume, proven: how.proven, troubles: Troubles::default() }
    }

    /// A mount that fails before its token is checked proves nothing, and changes no earlier proof.
    fn prove(&mut self, pod: &PodClaims, how: Ended) {
        let same = *self.volume.pod == *pod;
        self.proven = same && (how.proven || (self.proven && how.code.is_some()));
    }

    fn ask(&mut self, how: Ended, asked: Instant, now: Timestamp, tell: &mut dyn FnMut(Change) -> Option<Said>) {
        let (proven, had_files) = (self.proven, self.volume.delivered.is_some());
        self.troubles.note(&how, had_files, asked, &mut |change| if proven { tell(change) } else { None });
        self.volume.ask(how, asked, now);
    }
}

// === impl Volume ===

impl Volume {
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.asked) >= FORGOTTEN
    }

    /// After a failure the volume has the same files as before.
    fn ask(&mut self, Ended { code, stale, proven: _ }: Ended, asked: Instant, now: Timestamp) {
        self.asked = asked;
        if code.is_none() {
            self.delivered = Some(now);
            self.stale = stale.map(|stale| now.checked_sub(stale.age()).unwrap_or(now));
            self.half = stale.map(|stale| now.checked_sub(stale.past_half()).unwrap_or(now));
        }
        if self.code != code {
            (self.code, self.since) = (code, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ended::Stale;
    use super::*;

    fn whose(namespace: &str, pod: &str) -> Whose {
        let pod = PodClaims { namespace: namespace.into(), name: pod.into(), uid: format!("uid-{pod}"), service_account: "web".into() };
        let target = format!("/var/lib/kubelet/pods/{}/volumes/kubernetes.io~csi/secrets/mount", pod.uid).into();
        Whose { pod: Arc::new(pod), class: Some("shop".into()), target }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn noted(live: &Live, whose: &Whose, how: Ended, second: i64) -> usize {
        live.note(whose, how, (Instant::now(), at(second)), &mut |_| None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_is_as_its_last_mount_went() {
        let live = Live::of_bytes(BYTES);
        let (web, db) = (whose("shop", "web-0"), whose("shop", "db-0"));
        let note = |whose: &Whose, code, second| assert_eq!(noted(&live, whose, Ended { code, ..Ended::default() }, second), 0);
        assert_eq!(live.count(), Counts::default());
        note(&web, None, 10);
        note(&db, Some(Code::PolicyDenied), 11);
        assert_eq!(
            live.count(),
            Counts { current: 1, failing: 1, oldest: Some(at(10)), ..Counts::default() },
            "what was never delivered has no last time"
        );
        note(&web, Some(Code::BackendUnavailable), 20);
        note(&web, Some(Code::BackendUnavailable), 30);
        note(&db, None, 31);
        assert_eq!(live.count(), Counts { current: 1, failing: 1, oldest: Some(at(10)), ..Counts::default() });
        let all = live.all();
        let found = all.iter().find(|volume| volume.pod.name == "web-0").unwrap();
        assert_eq!((found.code, found.since, found.delivered), (Some(Code::BackendUnavailable), at(20), Some(at(10))));
        note(&web, None, 40);
        assert_eq!(live.count(), Counts { current: 2, failing: 0, oldest: Some(at(31)), ..Counts::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_answer_in_use_is_known_until_the_store_answers_again() {
        let live = Live::of_bytes(BYTES);
        let [web, db] = ["web-0", "db-0"].map(|pod| whose("shop", pod));
        let note = |whose: &Whose, code, stale: Option<u64>, second| {
            let stale = stale.map(|age| Stale::with(None, Duration::from_secs(age), Duration::from_secs(100)));
            noted(&live, whose, Ended { code, stale, proven: false }, second);
            let Counts { oldest_stale, half, .. } = live.count();
            assert_eq!(half, oldest_stale.map(|since| since + Duration::from_secs(50)));
            oldest_stale
        };
        assert_eq!(note(&web, None, None, 100), None);
        assert_eq!(note(&web, None, Some(30), 110), Some(at(80)));
        assert_eq!(note(&db, None, Some(60), 120), Some(at(60)));
        assert_eq!(note(&db, Some(Code::PolicyDenied), None, 130), Some(at(60)), "its files are as they were");
        assert_eq!(note(&db, None, None, 140), Some(at(80)));
        assert_eq!(note(&web, None, None, 150), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_is_current_failing_or_stale_and_the_first_half_that_is_over_counts() {
        let live = Live::of_bytes(BYTES);
        let [web, db, api] = ["web-0", "db-0", "api-0"].map(|pod| whose("shop", pod));
        let hours = |n| Duration::from_hours(n);
        // The older answer has the longer time.
        let stale = Stale::with(Some(Stale::with(None, hours(5), hours(24))), hours(1), hours(4));
        noted(&live, &web, Ended { stale: Some(stale), ..Ended::default() }, 100_000);
        noted(&live, &api, Ended::default(), 100_000);
        noted(&live, &db, Ended { code: Some(Code::BackendUnavailable), ..Ended::default() }, 100_000);
        let counts = live.count();
        assert_eq!((counts.current, counts.failing, counts.stale), (1, 1, 1));
        assert_eq!((counts.oldest_stale, counts.half), (Some(at(100_000 - 5 * 3_600)), Some(at(100_000 + 3_600))));
        noted(&live, &web, Ended { code: Some(Code::BackendUnavailable), ..Ended::default() }, 100_060);
        assert_eq!((live.count().failing, live.count().stale), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_is_forgotten() {
        let live = Live::of_bytes(BYTES);
        noted(&live, &whose("shop", "web-0"), Ended::default(), 0);
        tokio::time::advance(Duration::from_mins(9)).await;
        noted(&live, &whose("shop", "web-1"), Ended::default(), 540);
        assert_eq!(live.count().current, 2);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!((live.count().current, live.all()[0].pod.name.as_str()), (1, "web-1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_whose_folder_is_gone_takes_its_volumes_along() {
        let live = Live::of_bytes(BYTES);
        for pod in ["web-0", "web-1", "elsewhere"] {
            noted(&live, &whose("shop", pod), Ended::default(), 0);
        }
        let look = |pods: &[&str]| live.looked(pods.iter().map(|pod| format!("uid-{pod}")).collect());
        look(&["web-0", "web-1"]);
        look(&[]);
        assert_eq!(live.count().current, 3, "a folder without Pods says nothing");
        look(&["web-1"]);
        let mut names: Vec<_> = live.all().into_iter().map(|volume| volume.pod.name.clone()).collect();
        names.sort();
        assert_eq!(names, ["elsewhere", "web-1"], "what was never seen is not missed");
    }

    /// One namespace makes as many volumes as it likes: the table keeps its limit, and the others keep theirs.
    #[tokio::test(start_paused = true)]
    async fn a_namespace_with_many_volumes_pushes_out_its_own() {
        let live = Live::of_bytes(BYTES);
        for n in 0..20 {
            assert_eq!(noted(&live, &whose("shop", &format!("web-{n}")), Ended::default(), 0), 0);
        }
        let lost: usize = (0..5_000).map(|n| noted(&live, &whose("evil", &format!("evil-{n}")), Ended::default(), 1)).sum();
        let all = live.all();
        let of = |namespace: &str| all.iter().filter(|volume| volume.pod.namespace == namespace).count();
        assert_eq!((of("shop"), of("evil") + lost), (20, 5_000));
        assert!(of("evil") > 1_000 && live.lock().weight() <= BYTES, "{}", of("evil"));
        let long = whose("evil", &"x".repeat(MAX_NAMES));
        assert_eq!((noted(&live, &long, Ended::default(), 2), live.count().current), (1, 20 + of("evil")));
    }

    /// Anybody may claim that a volume belongs to a Pod; only a token makes an Event of it, and never for another Pod.
    #[tokio::test(start_paused = true)]
    async fn only_of_a_pod_that_a_token_has_proven_there_is_something_to_tell() {
        let live = Live::of_bytes(BYTES);
        let told = |whose: &Whose, how: Ended| {
            let mut told = 0;
            let mut tell = |_| {
                told += 1;
                None
            };
            live.note(whose, how, (Instant::now(), at(0)), &mut tell);
            told
        };
        let day = Duration::from_hours(24);
        let stale = Ended { stale: Some(Stale::with(None, Duration::from_secs(1), day)), ..Ended::default() };
        let failed = Ended { code: Some(Code::IdentityUnverified), ..Ended::default() };
        let proven = |how: Ended| Ended { proven: true, ..how };
        let web = whose("shop", "web-0");
        assert_eq!(told(&web, stale), 0, "the driver says so");
        assert_eq!(told(&web, proven(stale)), 1);
        assert_eq!(told(&web, stale), 0, "and says so again");
        assert_eq!(told(&web, proven(stale)), 1);
        // Another Pod's name for the same volume, with its own token.
        let other = Whose { pod: whose("shop", "web-1").pod, class: None, target: Arc::clone(&web.target) };
        assert_eq!((told(&other, proven(stale)), told(&other, stale)), (0, 0));
        assert_eq!(told(&web, proven(stale)), 1);
        assert_eq!(told(&web, failed), 0);
        tokio::time::advance(Duration::from_mins(10)).await;
        assert_eq!(told(&web, failed), 1, "its token came to its end, and it was this Pod's");
        assert_eq!(told(&other, failed), 0);
    }

    /// With the most that a node's Pods can have, a volume needs no more memory than it counts.
    #[test]
    fn a_volume_counts_what_it_takes() {
        // Its place in two maps, and the counts and lengths of its texts.
        let texts = 2 * 16 + size_of::<PodClaims>() + 16;
        // Two flags with their counts.
        let flags = 2 * 32;
        assert!(size_of::<Tracked>() + 2 * size_of::<Arc<str>>() + texts + flags + 64 <= VOLUME, "{}", size_of::<Tracked>());
    }
}
