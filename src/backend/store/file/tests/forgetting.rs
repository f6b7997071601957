//! Opened secrets do not stay in memory for ever.

use std::sync::Weak;

use super::*;
use crate::model::Secret;

const MINUTE: Duration = Duration::from_mins(1);

impl Bench {
    /// A backend that keeps everything that it opens.
    fn remembering(&self) -> FileBackend {
        FileBackend { name: "files".parse().unwrap(), reader: Arc::new(self.reader()), queue: Arc::default() }
    }
}

async fn opened(backend: &FileBackend, name: &str) -> Weak<Secret> {
    Arc::downgrade(&backend.fetch(&reference(name), &cx()).await.unwrap().secret)
}

/// Lets time pass, and lets the tasks that waited for it run.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

fn is_kept(secret: &Weak<Secret>) -> bool {
    secret.strong_count() > 0
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_nobody_asks_for_is_wiped_after_ten_minutes_and_one_in_use_is_not() {
    let bench = Bench::new();
    bench.set("idle", "value");
    bench.set("busy", "value");
    let backend = bench.remembering();
    let (idle, busy) = (opened(&backend, "idle").await, opened(&backend, "busy").await);
    for _ in 0..9 {
        pass(MINUTE).await;
        opened(&backend, "busy").await;
    }
    assert!(is_kept(&idle) && is_kept(&busy));
    pass(2 * MINUTE).await;
    assert!(!is_kept(&idle));
    assert!(is_kept(&busy), "asked for two minutes ago");
    pass(10 * MINUTE).await;
    assert!(!is_kept(&busy));
    assert_eq!(backend.reader.sweep(), None, "the table is empty");
}

#[tokio::test(start_paused = true)]
async fn nothing_sleeps_while_nothing_is_kept_and_the_next_secret_goes_as_well() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let bench = Bench::new();
    bench.set("db", "value");
    let backend = bench.remembering();
    assert_eq!(tasks(), 0);
    for _ in 0..3 {
        let secret = opened(&backend, "db").await;
        assert!(is_kept(&secret));
        // The task that looks after the reading threads ends with them.
        while tasks() > 1 {
            pass(MINUTE / 600).await;
        }
        assert_eq!(tasks(), 1);
        pass(12 * MINUTE).await;
        assert!(!is_kept(&secret));
        assert_eq!(tasks(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_mount_under_way_keeps_its_secret_and_the_next_opens_it_anew() {
    let bench = Bench::new();
    bench.set("db", "value");
    let backend = bench.remembering();
    let held = backend.fetch(&reference("db"), &cx()).await.unwrap().secret;
    pass(12 * MINUTE).await;
    assert_eq!(Arc::strong_count(&held), 1, "nobody else has it");
    assert_eq!(held.fields["password"].bytes.expose(), b"value");
    assert!(!Arc::ptr_eq(&held, &backend.fetch(&reference("db"), &cx()).await.unwrap().secret));
}

/// The mount's time is up while a slow file system still reads.
#[tokio::test(start_paused = true)]
async fn what_is_opened_for_a_mount_that_gave_up_goes_too() {
    let bench = Bench::new();
    bench.set("db", "value");
    let backend = bench.remembering();
    let late = FetchContext { deadline: Instant::now(), ..cx() };
    // The mount may have given up or not: the reading has begun, or is withdrawn.
    let _ = backend.fetch(&reference("db"), &late).await;
    pass(12 * MINUTE).await;
    assert_eq!(backend.reader.sweep(), None);
}
