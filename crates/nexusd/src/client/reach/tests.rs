use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

fn failed_times(state: &mut ReachState, now: Instant, times: u32) -> Change {
    (0..times).map(|_| state.failed(now, None)).last().unwrap_or(Change::None)
}

#[tokio::test(start_paused = true)]
async fn a_single_failure_is_noise_and_three_in_a_row_are_an_outage() {
    let now = Instant::now();
    let mut state = ReachState::new();
    assert_eq!(failed_times(&mut state, now, 2), Change::None);
    assert_eq!(state.succeeded(now), Change::None);
    assert_eq!(failed_times(&mut state, now, 2), Change::None);
    assert!(!state.is_down());
    assert_eq!(state.failed(now, None), Change::WentDown);
    assert_eq!(state.failed(now, None), Change::None, "an outage begins once");
    let later = now + Duration::from_secs(42);
    assert_eq!(state.succeeded(later), Change::CameBack { after: Duration::from_secs(42) });
    assert_eq!(state.last_success(), Some(later));
}

#[tokio::test(start_paused = true)]
async fn probes_are_jittered_and_slow_down_after_ten_minutes() {
    let start = Instant::now();
    let mut state = ReachState::new();
    failed_times(&mut state, start, 3);
    assert_eq!(state.next_probe(start, 0.0) - start, Duration::from_millis(1500));
    assert_eq!(state.next_probe(start, 1.0) - start, Duration::from_millis(1000));
    let young = start + Duration::from_secs(599);
    assert!(state.next_probe(young, 0.0) - young <= Duration::from_millis(1500));
    let old = start + Duration::from_secs(600);
    assert_eq!(state.next_probe(old, 0.0) - old, Duration::from_secs(30));
    assert_eq!(state.next_probe(old, 1.0) - old, Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn retry_after_holds_the_probe_for_five_minutes_at_most() {
    let start = Instant::now();
    let mut state = ReachState::new();
    state.failed(start, Some(Duration::from_secs(20)));
    state.failed(start, Some(Duration::from_secs(7)));
    state.failed(start, None);
    assert_eq!(state.next_probe(start, 0.5), start + Duration::from_secs(20));
    state.failed(start, Some(Duration::from_secs(100_000)));
    assert_eq!(state.next_probe(start, 0.5), start + Duration::from_secs(300));
    state.succeeded(start);
    failed_times(&mut state, start, 3);
    assert!(state.next_probe(start, 0.5) < start + Duration::from_secs(2), "a success forgets the hold");
}

struct Server {
    reach: Reach,
    up: AtomicBool,
    probes: AtomicU32,
}

impl Server {
    fn down() -> Arc<Self> {
        let server = Self { reach: Reach::new(), up: AtomicBool::new(false), probes: AtomicU32::new(0) };
        for _ in 0..FAILURES_TO_DOWN {
            server.reach.failed("refused", None);
        }
        Arc::new(server)
    }

    async fn probe(&self) {
        self.probes.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        if self.up.load(Ordering::Relaxed) {
            self.reach.succeeded();
        } else {
            self.reach.failed("refused", None);
        }
    }

    async fn wait(&self) -> Instant {
        self.reach.ready(|| self.probe()).await;
        Instant::now()
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_waiters_make_one_probe_at_a_time_and_are_released_over_a_second() {
    let server = Server::down();
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let server = Arc::clone(&server);
        waiters.spawn(async move { server.wait().await });
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let probes = server.probes.load(Ordering::Relaxed);
    assert!((39..=60).contains(&probes), "{probes} probes in a minute, one each 1.0 to 1.5 s");

    let back = Instant::now();
    server.up.store(true, Ordering::Relaxed);
    let mut went_on: Vec<Duration> = Vec::new();
    while let Some(at) = waiters.join_next().await {
        went_on.push(at.unwrap() - back);
    }
    went_on.sort();
    assert_eq!(went_on.len(), 50);
    assert!(went_on[0] <= Duration::from_millis(1510), "the prober goes on at once: {:?}", went_on[0]);
    assert!(went_on[49] <= Duration::from_millis(2520), "{:?}", went_on[49]);
    let spread = went_on[49] - went_on[0];
    assert!(spread > Duration::from_millis(500), "not all at once: {spread:?}");
    assert!(went_on[10] - went_on[0] > Duration::from_millis(20), "not ten in one go");
}

#[tokio::test(start_paused = true)]
async fn after_ten_minutes_it_asks_every_half_minute() {
    let server = Server::down();
    let waiting = Arc::clone(&server);
    let mut waiters = tokio::task::JoinSet::new();
    waiters.spawn(async move { waiting.wait().await });
    tokio::time::sleep(YOUNG_OUTAGE + Duration::from_secs(1)).await;
    let young = server.probes.load(Ordering::Relaxed);
    assert!((395..=601).contains(&young), "{young}");
    tokio::time::sleep(Duration::from_secs(600)).await;
    let old = server.probes.load(Ordering::Relaxed) - young;
    assert!((18..=31).contains(&old), "{old}");
}

#[tokio::test(start_paused = true)]
async fn when_the_prober_stops_waiting_the_next_one_probes() {
    let server = Server::down();
    let first = tokio::time::timeout(Duration::from_millis(300), server.wait());
    let (first, second) = tokio::join!(first, async {
        server.up.store(true, Ordering::Relaxed);
        tokio::time::timeout(Duration::from_secs(5), server.wait()).await
    });
    assert!(first.is_err());
    assert!(second.is_ok());
    assert_eq!(server.probes.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_success_of_any_call_releases_the_waiters() {
    let server = Server::down();
    let start = Instant::now();
    let (at, ()) = tokio::join!(server.wait(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.reach.succeeded();
    });
    assert!(at - start <= Duration::from_millis(1600));
    assert_eq!(server.probes.load(Ordering::Relaxed), 0);
}
