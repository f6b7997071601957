use super::*;
use crate::kube::KubeClient;
use crate::kube::api_server::{Answer, ApiServer};

fn pod(namespace: &str, name: &str) -> Arc<PodClaims> {
    let uid = format!("uid-{namespace}-{name}");
    Arc::new(PodClaims { namespace: namespace.into(), name: name.into(), uid, service_account: "web".into() })
}

fn put(board: &Board, namespace: &str) -> bool {
    board.put(&pod(namespace, "web-0"), Reason::RotationFailing, Timestamp::UNIX_EPOCH, || "x".into()).is_some()
}

/// How many Events a namespace gets that asks for more than there are.
fn flood(board: &Board, namespace: &str) -> usize {
    (0..100).filter(|_| put(board, namespace)).count()
}

/// All waiting notices are sent.
async fn tell_all(board: &Board) -> usize {
    let mut told = 0;
    while !board.lock().waiting.is_empty() {
        let notice = board.next().await;
        board.done(notice);
        told += 1;
    }
    told
}

#[tokio::test(start_paused = true)]
async fn a_node_tells_thirty_a_minute_and_no_namespace_has_anothers() {
    let board = Board::default();
    let first = flood(&board, "evil");
    assert_eq!(first, A_MINUTE.saturating_sub(FIRSTS) / 2);
    let others: usize = (0..50).map(|n| flood(&board, &format!("shop-{n}"))).sum();
    assert_eq!(first + others, A_MINUTE, "however many namespaces there are");
    let sure = (0..50).filter(|n| board.shares.of(&format!("shop-{n}")) > 0).count();
    assert!(sure >= FIRSTS + 4, "{sure} namespaces have one");
    assert_eq!(tell_all(&board).await, A_MINUTE);
    assert!(!put(&board, "evil") && !put(&board, "late"), "told, and still of this minute");
    tokio::time::advance(Duration::from_millis(59_999)).await;
    assert!(!put(&board, "late"));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(put(&board, "late"));
    assert_eq!(flood(&board, "evil"), first - 1, "it has its share again");
}

/// The API server hangs for an hour: the number of waiting notices does not grow.
#[tokio::test(start_paused = true)]
async fn what_is_not_told_yet_keeps_its_place() {
    let board = Board::default();
    for minute in 0..60 {
        for tenant in 0..100 {
            flood(&board, &format!("tenant-{tenant}"));
        }
        assert_eq!(board.lock().waiting.len(), A_MINUTE, "{minute}");
        assert!(board.lock().told.is_empty());
        tokio::time::advance(MINUTE).await;
    }
    assert_eq!(tell_all(&board).await, A_MINUTE);
    assert_eq!(board.shares.used(), 0, "each had its place for over a minute");
}

#[tokio::test(start_paused = true)]
async fn no_note_is_made_for_nothing() {
    let board = Board::default();
    flood(&board, "evil");
    let told = board.put(&pod("evil", "web-0"), Reason::StartedStale, Timestamp::UNIX_EPOCH, || panic!("nobody reads it"));
    assert!(told.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_one_task_is_woken_and_gets_them_in_their_order() {
    let board = Arc::new(Board::default());
    let taking = tokio::spawn({
        let board = Arc::clone(&board);
        async move { [board.next().await, board.next().await].map(|notice| notice.pod.namespace.clone()) }
    });
    tokio::task::yield_now().await;
    assert!(put(&board, "a"));
    tokio::task::yield_now().await;
    assert!(put(&board, "b") && put(&board, "c"));
    assert_eq!(taking.await.unwrap(), ["a", "b"]);
    assert_eq!(board.lock().waiting.len(), 1);
}

#[test]
fn an_event_is_the_same_one_for_a_pod_and_a_reason() {
    let reasons = [Reason::RotationFailing, Reason::RotationRecovered, Reason::StaleReplaced, Reason::StartedStale];
    let pods = [pod("shop", "web-0"), pod("shop", "web-1")];
    let names: std::collections::BTreeSet<_> = pods.iter().flat_map(|pod| reasons.map(|reason| reason.name_for(pod))).collect();
    assert_eq!(names.len(), 8);
    // A DNS subdomain, as the API asks for.
    assert!(names.iter().all(|name| name.len() == 41 && name.bytes().all(|byte| byte == b'-' || byte.is_ascii_alphanumeric())));
    assert_eq!(Reason::StartedStale.name_for(&pods[0]), Reason::StartedStale.name_for(&pods[0].clone()));
    let shown = reasons.map(|reason| format!("{} {} {}", reason.as_str(), reason.action(), reason.is_warning()));
    insta::assert_snapshot!(shown.join("\n"), @r"
    SecretRotationFailing RotateSecret true
    SecretRotationRecovered RotateSecret false
    StaleSecretReplaced RotateSecret false
    StartedFromStaleSecret MountSecret true
    ");
}

struct Scene {
    server: ApiServer,
    teller: Teller,
    metrics: Arc<Metrics>,
    board: Board,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new(answer: Answer) -> Self {
        let (server, folder) = (ApiServer::start(answer).await, crate::folder::new());
        server.service_account(folder.path(), "own-canary");
        let (host, port) = (server.address.ip().to_string(), server.address.port().to_string());
        let metrics = Arc::new(Metrics::new());
        let client = KubeClient::new(KubeConfig::of(Some(host), Some(port), folder.path()).unwrap()).unwrap();
        Self { server, teller: Teller::to(client, Arc::clone(&metrics)), metrics, board: Board::default(), _folder: folder }
    }

    /// Whether it was sent, and how many calls that needed.
    async fn tell(&self, answer: Answer) -> (bool, usize) {
        self.server.answer(answer);
        let said = self.board.put(&pod("shop", "web-0"), Reason::StartedStale, Timestamp::UNIX_EPOCH, || "x".into()).unwrap();
        let notice = self.board.next().await;
        self.teller.tell(&notice).await;
        (said.is_said(), self.server.calls().len())
    }

    fn count(&self, outcome: &str) -> u64 {
        let name = format!("keyferry_events_total{{outcome=\"{outcome}\"}} ");
        let text = self.metrics.encode();
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    }
}

#[tokio::test]
async fn what_passes_is_tried_once_more_and_the_rest_is_counted() {
    let scene = Scene::new(Answer::Status(201)).await;
    assert_eq!(scene.tell(Answer::Status(201)).await, (true, 1));
    assert_eq!(scene.tell(Answer::Status(403)).await, (false, 1));
    assert_eq!(scene.tell(Answer::Status(404)).await, (false, 1));
    assert_eq!(scene.tell(Answer::Status(422)).await, (false, 1));
    assert_eq!(scene.tell(Answer::Status(429)).await, (false, 2));
    assert_eq!(["sent", "refused", "dropped"].map(|outcome| scene.count(outcome)), [1, 1, 3]);
    let complained = scene.teller.complained.lock().unwrap();
    assert_eq!(complained.keys().collect::<Vec<_>>(), [&EventOutcome::Dropped, &EventOutcome::Refused]);
}

#[tokio::test]
async fn an_api_server_that_hangs_is_left_alone_soon() {
    let scene = Scene::new(Answer::Never).await;
    let said = scene.board.put(&pod("shop", "web-0"), Reason::StartedStale, Timestamp::UNIX_EPOCH, || "x".into()).unwrap();
    let notice = scene.board.next().await;
    let telling = scene.teller.tell(&notice);
    tokio::pin!(telling);
    // While the clock is paused, time jumps to the next timer as soon as nothing else happens: the call must be under way by then.
    while scene.server.calls().is_empty() {
        tokio::select! {
            () = &mut telling => panic!("nobody has answered"),
            () = sleep(Duration::from_millis(5)) => {}
        }
    }
    tokio::time::pause();
    let began = Instant::now();
    telling.await;
    assert!(began.elapsed() <= Duration::from_secs(2 * 5) + AGAIN, "{:?}", began.elapsed());
    assert_eq!((said.is_said(), scene.count("dropped")), (false, 1));
}
