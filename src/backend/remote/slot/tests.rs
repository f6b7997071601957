use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;
use tokio::time::sleep;

use super::*;

struct Ticket {
    number: u32,
    ends: Instant,
}

impl Pass for Ticket {
    const REMEMBERED: Duration = Duration::from_secs(2);

    fn standing(&self) -> Standing {
        match self.ends.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Standing::Spent,
            left if left <= Duration::from_mins(5) => Standing::Due,
            _ => Standing::Fresh,
        }
    }
}

/// Counts its logins, which take a second and give tickets for an hour, or fail.
#[derive(Default)]
struct Desk {
    logins: AtomicU32,
    fails: Mutex<Option<Fault>>,
    slow: Mutex<Duration>,
}

impl Desk {
    async fn log_in(&self) -> Result<Arc<Ticket>, Refusal> {
        let number = self.logins.fetch_add(1, Ordering::Relaxed) + 1;
        let slow = *self.slow.lock().unwrap();
        sleep(Duration::from_secs(1) + slow).await;
        match *self.fails.lock().unwrap() {
            Some(fault) => Err(Refusal::new(fault, format!("no {number}"))),
            None => Ok(Arc::new(Ticket { number, ends: Instant::now() + Duration::from_hours(1) })),
        }
    }

    fn fails(&self, fault: impl Into<Option<Fault>>) {
        *self.fails.lock().unwrap() = fault.into();
    }

    async fn ask(&self, slot: &Slot<Ticket>, pod: &str) -> Result<u32, String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let entered = slot.enter(None, &pod.into(), deadline, self.log_in()).await;
        entered.map(|ticket| ticket.number).map_err(|refusal| refusal.reason)
    }

    async fn ask_all(&self, slot: &Slot<Ticket>, pods: &[&str]) -> Vec<Result<u32, String>> {
        join_all(pods.iter().map(|pod| self.ask(slot, pod))).await
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_one_logs_in_and_again_before_it_ends_without_keeping_anybody_waiting() {
    let (desk, slot) = (Desk::default(), Slot::default());
    assert_eq!(desk.ask_all(&slot, &["a", "b", "c"]).await, [Ok(1), Ok(1), Ok(1)]);
    tokio::time::advance(Duration::from_mins(54)).await;
    assert_eq!(desk.ask(&slot, "a").await, Ok(1));
    tokio::time::advance(Duration::from_mins(2)).await;
    let began = Instant::now();
    assert_eq!(desk.ask_all(&slot, &["a", "b", "c"]).await, [Ok(2), Ok(1), Ok(1)], "the others go on with what there is");
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    assert_eq!((desk.ask(&slot, "b").await, desk.logins.load(Ordering::Relaxed)), (Ok(2), 2));
}

#[tokio::test(start_paused = true)]
async fn trouble_while_it_is_renewed_harms_nobody_until_it_ends() {
    let (desk, slot) = (Desk::default(), Slot::default());
    desk.ask(&slot, "a").await.unwrap();
    tokio::time::advance(Duration::from_mins(56)).await;
    for fault in [Fault::Unavailable, Fault::TimedOut] {
        desk.fails(fault);
        assert_eq!(desk.ask(&slot, "a").await, Ok(1));
        let logins = desk.logins.load(Ordering::Relaxed);
        assert_eq!((desk.ask(&slot, "a").await, desk.logins.load(Ordering::Relaxed)), (Ok(1), logins), "it is not tried each time");
        tokio::time::advance(REST).await;
    }
    desk.fails(None);
    *desk.slow.lock().unwrap() = Duration::from_mins(1);
    let began = Instant::now();
    assert_eq!((desk.ask(&slot, "a").await, began.elapsed()), (Ok(1), EARLY), "nor waited for");
    *desk.slow.lock().unwrap() = Duration::ZERO;
    desk.fails(Fault::Unavailable);
    tokio::time::advance(Duration::from_mins(5)).await;
    assert!(desk.ask(&slot, "a").await.is_err(), "it ended");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_while_it_is_renewed_is_one() {
    let (desk, slot) = (Desk::default(), Slot::default());
    desk.ask(&slot, "a").await.unwrap();
    tokio::time::advance(Duration::from_mins(56)).await;
    desk.fails(Fault::Unauthenticated);
    assert_eq!(desk.ask(&slot, "a").await, Err("no 2".into()));
    assert_eq!(desk.ask(&slot, "b").await, Err("no 3".into()), "what it gave before serves nobody any more");
}

#[tokio::test(start_paused = true)]
async fn trouble_is_everybodys_and_a_refusal_is_the_pods_own() {
    let (desk, slot) = (Desk::default(), Slot::default());
    desk.fails(Fault::Unavailable);
    assert_eq!(desk.ask_all(&slot, &["a", "b", "c"]).await, ["no 1", "no 1", "no 1"].map(|no| Err(no.to_owned())));
    assert_eq!(desk.ask(&slot, "d").await, Err("no 1".into()), "a moment later, too");
    tokio::time::advance(Duration::from_secs(3)).await;
    desk.fails(Fault::Unauthenticated);
    assert_eq!(desk.ask_all(&slot, &["a", "a", "b", "a"]).await, ["no 2", "no 2", "no 3", "no 4"].map(|no| Err(no.to_owned())));
    tokio::time::advance(Duration::from_secs(3)).await;
    desk.fails(Fault::TimedOut);
    assert_eq!(desk.ask_all(&slot, &["a", "a"]).await, ["no 5", "no 6"].map(|no| Err(no.to_owned())), "the next one may be in time");
    desk.fails(None);
    assert_eq!(desk.ask(&slot, "a").await, Ok(7));
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_not_given_again() {
    let (desk, slot) = (Desk::default(), Slot::default());
    desk.ask(&slot, "a").await.unwrap();
    let spent = slot.pass().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let pod: Arc<str> = "a".into();
    let enter = || slot.enter(Some(&spent), &pod, deadline, desk.log_in());
    let entered = [enter().await, enter().await].map(|entered| entered.map_or(0, |ticket| ticket.number));
    assert_eq!(entered, [2, 2]);
}
