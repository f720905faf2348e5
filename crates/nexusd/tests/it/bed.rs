//! A real daemon against a stub control plane.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use conduits::{DirectiveId, FinishedRequest, LogStream};
use serde_json::{Value, json};
use testkit::{Endpoint, Fault, Output, Process, Stub, StubOptions, WorkDir};

/// Long enough for a loaded machine; nothing waits for it unless something is wrong.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// One daemon, one control plane, one folder.
pub(crate) struct Bed {
    pub(crate) stub: Stub,
    pub(crate) daemon: Process,
    pub(crate) dir: WorkDir,
}

impl Bed {
    /// With profiles untrusted and host, and a control plane that knows every addition.
    pub(crate) fn new() -> Self {
        Self::with(StubOptions::full(), "supported_sandbox_profiles: [untrusted, host]\nmax_concurrent_directives: 4\n")
    }

    pub(crate) fn with(options: StubOptions, keys: &str) -> Self {
        Self::started_by(options, keys, |_| nexusd())
    }

    /// The same, where `program` gives the command that is the daemon but for its arguments.
    pub(crate) fn started_by(options: StubOptions, keys: &str, program: impl FnOnce(&WorkDir) -> Command) -> Self {
        let dir = WorkDir::new();
        let work_dir = dir.join("w");
        let program = program(&dir);
        Self::in_dir(options, dir, &work_dir, &format!("min_free_bytes: 0\n{keys}"), program)
    }

    /// The same, where the first calls of `endpoint` meet a fault already.
    pub(crate) fn faulty(
        options: StubOptions,
        keys: &str,
        endpoint: Endpoint,
        fault: Option<Fault>,
        program: impl FnOnce(&WorkDir) -> Command,
    ) -> Self {
        let stub = Stub::start(options);
        if let Some(fault) = fault {
            stub.fail(endpoint, fault);
        }
        let dir = WorkDir::new();
        let (work_dir, program) = (dir.join("w"), program(&dir));
        Self::at(stub, dir, &work_dir, &format!("min_free_bytes: 0\n{keys}"), program)
    }

    /// With a work_dir somewhere else, and whatever it asks to be left free.
    pub(crate) fn with_work_dir(options: StubOptions, work_dir: &Path, keys: &str) -> Self {
        Self::in_dir(options, WorkDir::new(), work_dir, keys, nexusd())
    }

    fn in_dir(options: StubOptions, dir: WorkDir, work_dir: &Path, keys: &str, program: Command) -> Self {
        Self::at(Stub::start(options), dir, work_dir, keys, program)
    }

    fn at(stub: Stub, dir: WorkDir, work_dir: &Path, keys: &str, program: Command) -> Self {
        let config = format!(
            "server_url: \"{}\"\nterritory_id: t-1\nwork_dir: {}\npoll: {{retry_backoff: 50ms}}\n{keys}",
            stub.url(),
            work_dir.display()
        );
        dir.write("config.yaml", config);
        let daemon = start_by(program, &dir);
        Self { stub, daemon, dir }
    }

    /// With another daemon of the same files, for which these lines are `/etc/hosts`. Needs root.
    pub(crate) fn with_hosts(self, hosts: &str) -> Self {
        let Self { stub, daemon, dir } = self;
        drop(daemon);
        let hosts = dir.write("hosts", hosts);
        let script = r#"mount --bind "$1" /etc/hosts && exec "$2" -config "$3""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(hosts);
        command.arg(env!("CARGO_BIN_EXE_nexusd")).arg(dir.join("config.yaml"));
        let daemon = Process::start(&mut command);
        drop(daemon.wait_for_line(Output::Stderr, "nexusd is up", SOON));
        Self { stub, daemon, dir }
    }

    /// Queues a directive of these fields over the usual ones, and waits for its end.
    pub(crate) async fn run(&self, fields: Value) -> Ended {
        let id = self.queue(fields);
        self.ended(id).await
    }

    pub(crate) fn queue(&self, fields: Value) -> DirectiveId {
        let id = DirectiveId::generate();
        self.stub.queue_as(&id, spec(&id, fields));
        id
    }

    pub(crate) async fn ended(&self, id: DirectiveId) -> Ended {
        let report = self.stub.finished(&id, SOON).await;
        let text = |stream| self.stub.log_text(&id, stream);
        Ended { report, stdout: text(LogStream::Stdout), stderr: text(LogStream::Stderr) }
    }
}

pub(crate) fn start(dir: &WorkDir) -> Process {
    start_by(nexusd(), dir)
}

pub(crate) fn start_by(mut program: Command, dir: &WorkDir) -> Process {
    let daemon = Process::start(program.arg("-config").arg(dir.join("config.yaml")));
    drop(daemon.wait_for_line(Output::Stderr, "nexusd is up", SOON));
    daemon
}

pub(crate) fn nexusd() -> Command {
    Command::new(PathBuf::from(env!("CARGO_BIN_EXE_nexusd")))
}

/// An ordinary user: nobody, whom every system has.
pub(crate) const ORDINARY: u32 = 65_534;

/// The daemon as an ordinary user's, to whom the folder is given: root's programs may be out of his reach, so he has his own.
pub(crate) fn ordinary_user_s(dir: &WorkDir) -> Command {
    let own = dir.join("nexusd");
    let program = Path::new(env!("CARGO_BIN_EXE_nexusd"));
    // A second daemon has the first one's: a copy over a link to the program would empty the program.
    if !own.exists() {
        std::fs::hard_link(program, &own).or_else(|_| std::fs::copy(program, &own).map(drop)).unwrap();
    }
    std::os::unix::fs::chown(dir.path(), Some(ORDINARY), Some(ORDINARY)).unwrap();
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={ORDINARY}"), format!("--regid={ORDINARY}"), "--clear-groups".to_owned()]);
    command.arg(own);
    command
}

/// How a directive ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) report: FinishedRequest,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Status, exit code and standard output: what most tests compare.
    pub(crate) fn outcome(&self) -> (&str, i32, &str) {
        (self.report.status.as_str(), self.report.exit_code.unwrap(), &self.stdout)
    }
}

/// A specification: `true` in a facility of its own, untrusted, without a network, overlaid with `fields`.
fn spec(id: &DirectiveId, fields: Value) -> Value {
    let mut spec = json!({
        "directive_id": id,
        "facility": { "id": format!("f-{id}") },
        "command": "true",
        "capabilities": { "net": { "mode": "none" } },
    });
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
    }
    spec
}
