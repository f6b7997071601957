use super::*;
use crate::model::Code;

const STALE: Ended = Ended { code: None, stale: None, proven: true };

/// A volume, and what was reported about it.
#[derive(Default)]
struct Bench {
    troubles: Troubles,
    had_files: bool,
    /// Whether there is a place for reports.
    full: bool,
    /// The API server gets none of the reports.
    deaf: bool,
    told: Vec<String>,
}

impl Bench {
    fn ended(&mut self, ended: Ended) {
        let (full, deaf, told) = (self.full, self.deaf, &mut self.told);
        let mut tell = |change: Change| {
            let said = Said::default();
            if !deaf {
                said.say();
            }
            (!full).then(|| {
                told.push(match change {
                    Change::Recovered { after } => format!("recovered after {} s", after.as_secs()),
                    Change::RotationFailing => "failing".to_owned(),
                    Change::StaleReplaced => "replaced".to_owned(),
                    Change::StartedStale(stale) => format!("started with {} s", stale.age().as_secs()),
                });
                said
            })
        };
        self.troubles.note(&ended, self.had_files, Instant::now(), &mut tell);
        self.had_files |= ended.code.is_none();
    }

    fn good(&mut self) -> &[String] {
        self.ended(Ended { stale: None, ..STALE });
        &self.told
    }

    fn fails(&mut self) -> &[String] {
        self.ended(Ended { code: Some(Code::BackendUnavailable), ..STALE });
        &self.told
    }

    fn stale(&mut self) -> &[String] {
        let (age, bound) = (Duration::from_secs(90), Duration::from_hours(24));
        self.ended(Ended { stale: Some(Stale::with(None, age, bound)), ..STALE });
        &self.told
    }

    /// Fails once per minute, for this many minutes.
    async fn fails_for(&mut self, minutes: u64) -> &[String] {
        for _ in 0..minutes {
            tokio::time::advance(Duration::from_mins(1)).await;
            self.fails();
        }
        &self.told
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotation_that_fails_for_ten_minutes_is_told_once_and_so_is_its_end() {
    let mut volume = Bench::default();
    volume.good();
    assert_eq!(volume.fails_for(10).await, [""; 0], "nine minutes since the first one");
    assert_eq!(volume.fails_for(1).await, ["failing"]);
    assert_eq!(volume.fails_for(120).await, ["failing"]);
    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!(volume.good(), ["failing", "recovered after 7860 s"]);
    assert_eq!(volume.good().len(), 2);
    assert_eq!(volume.fails_for(11).await.len(), 3, "another time");
}

#[tokio::test(start_paused = true)]
async fn what_passes_by_itself_is_not_told() {
    let mut volume = Bench::default();
    volume.good();
    for _ in 0..20 {
        volume.fails_for(9).await;
        assert_eq!(volume.good(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_mount_that_fails_is_kubelets_to_tell() {
    let mut volume = Bench::default();
    assert_eq!(volume.fails_for(60).await, [""; 0]);
    assert_eq!(volume.good(), [""; 0], "nor is its end");
}

#[tokio::test(start_paused = true)]
async fn a_start_from_a_stale_answer_is_told_until_the_store_answers() {
    let mut volume = Bench::default();
    volume.fails();
    assert_eq!(volume.stale(), ["started with 90 s"], "first mounts that fail come before");
    assert_eq!(volume.stale().len(), 1);
    assert_eq!(volume.fails_for(5).await.len(), 1);
    assert_eq!(volume.stale().len(), 1);
    assert_eq!(volume.good(), ["started with 90 s", "replaced"]);
    assert_eq!(volume.stale().len(), 2, "it started well enough before this outage");
}

#[tokio::test(start_paused = true)]
async fn both_can_end_at_once() {
    let mut volume = Bench::default();
    volume.stale();
    volume.fails_for(11).await;
    assert_eq!(volume.good(), ["started with 90 s", "failing", "recovered after 600 s", "replaced"]);
    let mut volume = Bench::default();
    volume.stale();
    volume.fails_for(11).await;
    assert_eq!(volume.stale(), ["started with 90 s", "failing", "recovered after 600 s"]);
}

#[tokio::test(start_paused = true)]
async fn what_found_no_place_is_told_later() {
    let mut volume = Bench { full: true, ..Bench::default() };
    assert_eq!(volume.stale(), [""; 0]);
    assert_eq!(volume.fails_for(20).await, [""; 0]);
    volume.full = false;
    assert_eq!(volume.fails(), ["failing"]);
    assert_eq!(volume.stale(), ["failing", "recovered after 1140 s", "started with 90 s"]);
}

#[tokio::test(start_paused = true)]
async fn an_end_whose_beginning_was_not_told_is_not_told() {
    for (full, deaf) in [(true, false), (false, true)] {
        let mut volume = Bench { full, deaf, ..Bench::default() };
        volume.stale();
        volume.fails_for(11).await;
        (volume.full, volume.deaf) = (false, false);
        volume.told.clear();
        assert_eq!(volume.good(), [""; 0]);
    }
}
