//! One control plane, faults in front of it, one daemon behind them; and the questions that every run ends with.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use testkit::{Dice, FaultProxy, Output, Process, Trouble, WorkDir};

use crate::mothership::Mothership;
use crate::oracle::{self, Account};
use crate::wall::WallClock;

/// Long enough for a loaded machine; nothing waits for it unless something is wrong.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Directives at the same time.
pub(crate) const SLOTS: usize = 5;

pub(crate) struct Bed {
    pub(crate) mothership: Mothership,
    pub(crate) proxy: FaultProxy,
    pub(crate) daemon: Option<Process>,
    pub(crate) mark: String,
    pub(crate) facilities: Vec<String>,
    /// What was queued: its facility.
    pub(crate) queued: BTreeMap<String, String>,
    dir: WorkDir,
    clock: Option<WallClock>,
    /// The daemon's root, where that is another than ours.
    seen_through: Option<PathBuf>,
}

/// What a directive came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It ran once, whole, and all of its output is there.
    Whole,
    /// It ran once and was cut off; what is there of its output is how it began.
    CutOff(String),
    /// It never began.
    NeverRan(String),
}

impl Bed {
    pub(crate) async fn new(what: &str, dice: &mut Dice, lease_ttl: u64, keys: &str) -> Self {
        Self::made(WorkDir::new(), what, dice, lease_ttl, keys, [None, None]).await
    }

    /// The same with wall clocks that the test sets: the control plane's and the daemon's.
    pub(crate) async fn with_clocks(what: &str, dice: &mut Dice, lease_ttl: u64) -> (Self, [WallClock; 2]) {
        let dir = WorkDir::new();
        let clocks = ["clock-of-the-mothership", "clock-of-nexusd"].map(|name| WallClock::new(dir.join(name)));
        let bed = Self::made(dir, what, dice, lease_ttl, "", clocks.clone().map(Some)).await;
        (bed, clocks)
    }

    async fn made(
        dir: WorkDir,
        what: &str,
        dice: &mut Dice,
        lease_ttl: u64,
        keys: &str,
        clocks: [Option<WallClock>; 2],
    ) -> Self {
        let [of_the_mothership, clock] = clocks;
        let mothership = Mothership::start(&dir, lease_ttl, of_the_mothership);
        let proxy = FaultProxy::start(mothership.url.strip_prefix("http://").unwrap().parse().unwrap());
        let territory = mothership.territory().await;
        let mut facilities = Vec::new();
        for _ in 0..SLOTS {
            facilities.push(mothership.facility(&territory).await);
        }
        let config = format!(
            "server_url: \"{}\"\nterritory_id: {territory}\nwork_dir: {}\nmin_free_bytes: 0\nlog_level: info\n\
             supported_sandbox_profiles: [untrusted, host]\nmax_concurrent_directives: {SLOTS}\n\
             poll: {{max_directives_to_claim: {SLOTS}}}\n{keys}",
            proxy.url(),
            dir.join("w").display(),
        );
        dir.write("config.yaml", config);
        let mark = format!("chaos-{what}-{:x}", dice.number());
        let queued = BTreeMap::new();
        Self { mothership, proxy, daemon: None, mark, facilities, queued, dir, clock, seen_through: None }
    }

    /// Starts the daemon, up to where it takes directives.
    pub(crate) fn start(&mut self) {
        self.begin();
        self.await_up();
    }

    /// Starts the daemon and does not wait for it.
    pub(crate) fn begin(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nexusd"));
        command.arg("-config").arg(self.dir.join("config.yaml"));
        if let Some(clock) = &self.clock {
            clock.wear(&mut command);
        }
        self.daemon = Some(Process::start(&mut command));
    }

    /// Starts the daemon with a `work_dir` of this size, in a mount namespace of its own.
    pub(crate) fn start_on_tmpfs(&mut self, size: &str) {
        let place = self.dir.join("w");
        std::fs::create_dir(&place).unwrap();
        let script = r#"mount -t tmpfs -o "size=$1,mode=0755" tmpfs "$2" && exec "$3" -config "$4""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", size]).arg(&place).arg(env!("CARGO_BIN_EXE_nexusd"));
        let daemon = Process::start(command.arg(self.dir.join("config.yaml")));
        self.seen_through = Some(PathBuf::from(format!("/proc/{}/root", daemon.id())));
        self.daemon = Some(daemon);
        self.await_up();
    }

    pub(crate) fn await_up(&self) {
        let daemon = self.daemon.as_ref().expect("started");
        drop(daemon.wait_for_line(Output::Stderr, "nexusd is up", SOON));
    }

    /// Kills the daemon and nothing else.
    pub(crate) fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("started");
        daemon.signal(Signal::KILL);
        daemon.wait(SOON);
        self.keep_log(&daemon);
    }

    /// Asks the daemon to stop, and waits until it has.
    pub(crate) fn stop_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("started");
        daemon.signal(Signal::TERM);
        let status = daemon.wait(Duration::from_secs(100));
        self.keep_log(&daemon);
        let said = daemon.text(Output::Stderr);
        // Before it listens to signals they do what they do to any program: it has asked for nothing yet.
        let too_early = status.signal() == Some(15) && !said.contains("nexusd is up");
        assert!(status.success() || too_early, "{status}: {said}");
    }

    /// What a test that fails shows of it.
    fn keep_log(&self, daemon: &Process) {
        use std::io::Write as _;
        let mut file = std::fs::File::options().append(true).create(true).open(self.dir.join("nexusd.log")).unwrap();
        file.write_all(daemon.text(Output::Stderr).as_bytes()).unwrap();
    }

    /// The daemon's lines about a directive, over all of its lives.
    pub(crate) fn said_of(&self, id: &str) -> String {
        let mut text = std::fs::read_to_string(self.dir.join("nexusd.log")).unwrap_or_default();
        text.push_str(&self.daemon.as_ref().map(|daemon| daemon.text(Output::Stderr)).unwrap_or_default());
        text.lines().filter(|line| line.contains(id)).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn work_dir(&self) -> PathBuf {
        let place = self.dir.join("w");
        match &self.seen_through {
            Some(root) => root.join(place.strip_prefix("/").unwrap()),
            None => place,
        }
    }

    /// Queues a command of the oracle in the facility of this number.
    pub(crate) async fn queue(&mut self, number: usize, command: &str) -> String {
        let facility = self.facilities[number % self.facilities.len()].clone();
        let profile = if number % 5 == 4 { "host" } else { "untrusted" };
        let id = self.mothership.queue(&facility, profile, command).await;
        self.queued.insert(id.clone(), facility);
        id
    }

    /// A command line of the oracle with this bed's mark.
    pub(crate) fn command(&self, parts: usize, out: usize, err: usize, pause: &str) -> String {
        oracle::command(&self.mark, parts, out, err, pause)
    }

    /// Waits until each directive is terminal, and asks all the questions about it.
    pub(crate) async fn ends(&self, within: Duration) -> BTreeMap<String, End> {
        let began = Instant::now();
        let mut ends = BTreeMap::new();
        for (id, facility) in &self.queued {
            let view = loop {
                let view = self.mothership.directive(id).await;
                if ["succeeded", "failed", "canceled", "timed_out"].contains(&view["state"].as_str().unwrap()) {
                    break view;
                }
                assert!(began.elapsed() < within, "{id} is {} after {within:?}\n{}", view["state"], self.said_of(id));
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            // A facility of profile host has the same place.
            let account = Account::read(&self.work_dir().join(facility), id);
            ends.insert(id.clone(), self.end_of(id, &view, &account).await);
        }
        ends
    }

    async fn end_of(&self, id: &str, view: &Value, account: &Account) -> End {
        let said = || format!("{view:#}\n{account:?}\n{}", self.said_of(id));
        assert!(account.starts.len() <= 1, "{id} ran {} times\n{}", account.starts.len(), said());
        let reason = view["reason"].as_str().unwrap_or("").to_owned();
        let logs = [self.mothership.log(id, "stdout").await, self.mothership.log(id, "stderr").await];
        for (stream, log) in logs.iter().enumerate() {
            let name = ["stdout", "stderr"][stream];
            // Lines of the daemon's own come after what the command printed.
            let own = if stream == 1 {
                log.windows(8).position(|w| w == b"[nexusd]").unwrap_or(log.len())
            } else {
                log.len()
            };
            let given = account.given(stream);
            let whole = account.printed[stream].as_ref().filter(|_| !account.ends.is_empty());
            match whole.filter(|_| view["state"] == "succeeded") {
                Some((len, digest)) => {
                    let same = log.len() == *len && oracle::sha256(log) == *digest;
                    assert!(same, "{id}: {name} has {} bytes of {len}, or others\n{}", log.len(), said());
                }
                None => {
                    let shown = log.get(..own).unwrap_or_default();
                    let shown = if own < log.len() && !given.starts_with(shown) {
                        &shown[..own.saturating_sub(1)]
                    } else {
                        shown
                    };
                    assert!(given.starts_with(shown), "{id}: {name} is not how it began\n{}", said());
                }
            }
            let counted = &view["result"]["artifacts_manifest"]["log"][name]["bytes"];
            if !counted.is_null() {
                assert_eq!(counted.as_u64(), Some(log.len() as u64), "{id}: {name} as counted and as read\n{}", said());
            }
        }
        match (view["state"].as_str().unwrap(), account.starts.len(), account.ends.len()) {
            ("succeeded", 1, 1) => End::Whole,
            (_, 0, _) => End::NeverRan(reason),
            ("failed" | "canceled", 1, _) => End::CutOff(reason),
            _ => panic!("{id}: what was reported is not what happened\n{}", said()),
        }
    }

    /// The questions about everything, once the daemon has stopped: nothing is left anywhere.
    pub(crate) async fn settled(&self) {
        assert!(self.daemon.is_none(), "stop it first");
        assert_eq!(self.mothership.held().await, Vec::<String>::new(), "leases that nobody works on");
        let list = self.mothership.get("/facilities").await;
        let locked: Vec<_> =
            list["facilities"].as_array().unwrap().iter().filter(|f| !f["locked_by"].is_null()).collect();
        assert!(locked.is_empty(), "facilities are locked: {locked:?}");
        assert_eq!(oracle::processes(&self.mark), Vec::<String>::new(), "processes of sandboxes are left");
        assert_eq!(self.left(), Vec::<String>::new(), "the spool or the outbox is not empty");
    }

    /// Whether the daemon owes nothing, within a moment: what is acknowledged is deleted just after.
    pub(crate) fn state_is_empty(&self) -> bool {
        let began = Instant::now();
        while !self.left().is_empty() {
            if began.elapsed() > Duration::from_secs(5) {
                eprintln!("left: {:?}", self.left());
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// What lies in spool and outbox.
    fn left(&self) -> Vec<String> {
        let state = self.work_dir().join(".nexus");
        let spool = state.join("spool");
        let mut left: Vec<_> = names(&spool).iter().map(|id| format!("{id}: {:?}", names(&spool.join(id)))).collect();
        left.extend(names(&state.join("outbox")).into_iter().filter(|name| name != "slots"));
        let slots = std::fs::read(state.join("outbox/slots")).unwrap();
        let taken = slots.chunks(4096).filter(|slot| !slot.starts_with(b"vacant") && slot[0] != 0);
        left.extend(taken.map(|slot| String::from_utf8_lossy(&slot[..300]).into_owned()));
        left
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let mut names: Vec<String> = entries.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Faults on `percent` of all calls: mostly quick ones, some that stall for ten seconds, some that leave a connection half open.
pub(crate) fn faults(mut dice: Dice, percent: u64) -> impl FnMut(&str) -> Option<Trouble> + Send + 'static {
    let stall = Duration::from_secs(10);
    move |_| {
        dice.percent(percent).then(|| match dice.below(100) {
            0..=17 => Trouble::Reset,
            18..=35 => Trouble::LostAnswer,
            36..=44 => Trouble::TornAnswer,
            45..=53 => Trouble::Status(500, None),
            54..=62 => Trouble::Status(502, None),
            63..=71 => Trouble::Status(503, Some(1)),
            72..=80 => Trouble::Status(429, Some(1)),
            81..=89 => Trouble::Page,
            90..=93 => Trouble::Stall(stall),
            94..=96 => Trouble::LateAnswer(stall),
            _ => Trouble::HalfOpen(stall * 3),
        })
    }
}
