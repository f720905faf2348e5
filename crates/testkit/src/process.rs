//! Real programs in a test: output captured, killed when dropped, waited for with deadlines.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::wait::{patient, until};

/// Which output of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

#[derive(Default)]
struct Captured {
    bytes: Vec<u8>,
    ended: bool,
}

type Shared = Arc<(Mutex<Captured>, Condvar)>;

/// A running program in a process group of its own. Dropped, the whole group is killed.
pub struct Process {
    child: Child,
    name: String,
    outputs: [Shared; 2],
    readers: Vec<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts the program with its standard input closed and both outputs captured. It is born in the namespaces of
    /// the calling thread.
    #[track_caller]
    #[must_use]
    pub fn spawn(command: &mut Command) -> Self {
        Self::start(command.stdin(Stdio::null()))
    }

    /// The same with the standard input as the command has it.
    #[track_caller]
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        let outputs = [Shared::default(), Shared::default()];
        let readers = vec![
            pump(child.stdout.take().expect("piped above"), &outputs[0]),
            pump(child.stderr.take().expect("piped above"), &outputs[1]),
        ];
        Self { child, name, outputs, readers, status: None }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The standard input, where the command had it piped; once.
    pub fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// What it has written so far, invalid UTF-8 replaced.
    #[must_use]
    pub fn text(&self, output: Output) -> String {
        let (captured, _) = &*self.outputs[output as usize];
        String::from_utf8_lossy(&captured.lock().unwrap().bytes).into_owned()
    }

    /// Waits for a whole line that contains `needle`, and gives that line.
    #[track_caller]
    #[must_use]
    pub fn wait_for_line(&self, output: Output, needle: &str, within: Duration) -> String {
        let within = patient(within);
        let end = Instant::now() + within;
        let (captured, changed) = &*self.outputs[output as usize];
        let mut captured = captured.lock().unwrap();
        loop {
            let text = String::from_utf8_lossy(&captured.bytes);
            let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n') || captured.ended);
            if let Some(line) = lines.find(|line| line.contains(needle)) {
                return line.trim_end_matches('\n').to_owned();
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || captured.ended {
                let text = text.into_owned();
                drop(captured);
                panic!(
                    "{}: no line with {needle:?} within {within:?} in {text:?}; the other output: {:?}",
                    self.name,
                    {
                        let other = if output == Output::Stdout { Output::Stderr } else { Output::Stdout };
                        self.text(other)
                    }
                );
            }
            captured = changed.wait_timeout(captured, left).unwrap().0;
        }
    }

    /// Sends a signal to the program itself.
    pub fn signal(&self, signal: Signal) {
        if let (None, Some(pid)) = (self.status, self.pid()) {
            kill_process(pid, signal).unwrap();
        }
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status.is_none()
    }

    /// Waits for its end and for the end of its outputs.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let within = patient(within);
        let end = Instant::now() + within;
        while self.is_running() {
            assert!(
                Instant::now() < end,
                "{} still runs after {within:?}; stdout: {:?}; stderr: {:?}",
                self.name,
                self.text(Output::Stdout),
                self.text(Output::Stderr)
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        // A grandchild may hold the pipes open: that is for the test to see, so the wait for them is bounded too.
        until("the end of its outputs", Duration::from_secs(5), || {
            self.readers.iter().all(JoinHandle::is_finished).then_some(())
        });
        self.status.expect("it has ended")
    }

    /// Kills the whole process group and waits for the program's end.
    pub fn kill(&mut self) {
        if let (true, Some(pid)) = (self.is_running(), self.pid()) {
            // An error means that the group is already gone, which is what is wanted.
            kill_process_group(pid, Signal::KILL).ok();
            drop(self.child.kill());
            self.status = self.child.wait().ok();
        }
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()).ok()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let Some(pid) = self.pid() {
            // What the program left behind in its group; the group's id is not given out again while a member lives.
            kill_process_group(pid, Signal::KILL).ok();
        }
    }
}

fn pump(mut from: impl Read + Send + 'static, into: &Shared) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            let (captured, changed) = &*into;
            let mut captured = captured.lock().unwrap();
            captured.bytes.extend_from_slice(&buffer[..read]);
            captured.ended = read == 0;
            changed.notify_all();
            if read == 0 {
                return;
            }
        }
    })
}

/// A folder of the test's own with a short path (socket names are bounded), removed when dropped.
pub struct WorkDir {
    dir: tempfile::TempDir,
}

impl WorkDir {
    /// Makes one beneath `/tmp`, mode 0700.
    #[must_use]
    pub fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("nx").tempdir_in("/tmp").unwrap() }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path beneath it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file beneath it, with its folders, and gives its path.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().expect("beneath a folder")).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Default for WorkDir {
    fn default() -> Self {
        Self::new()
    }
}

/// A port of 127.0.0.1 that was free a moment ago. For programs that cannot be given port 0: another process may
/// take it in between.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until something accepts on the address.
#[track_caller]
pub fn wait_for_port(address: SocketAddr, within: Duration) {
    until(&format!("a listener on {address}"), within, || {
        TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    const SOON: Duration = Duration::from_secs(10);

    fn sh(script: &str) -> Process {
        Process::spawn(Command::new("/bin/sh").arg("-c").arg(script))
    }

    #[test]
    fn output_is_captured_apart_and_lines_are_waited_for() {
        let mut process = sh("echo one; echo err >&2; sleep 0.05; echo port=17; exit 3");
        assert_eq!(process.wait_for_line(Output::Stdout, "port=", SOON), "port=17");
        assert_eq!(process.wait(SOON).code(), Some(3));
        assert_eq!(process.text(Output::Stdout), "one\nport=17\n");
        assert_eq!(process.text(Output::Stderr), "err\n");
        assert_eq!(process.wait_for_line(Output::Stderr, "err", SOON), "err");
    }

    #[test]
    #[should_panic(expected = "no line with \"never\"")]
    fn a_line_that_never_comes_panics_with_what_came() {
        sh("echo other").wait_for_line(Output::Stdout, "never", SOON).clear();
    }

    #[test]
    #[should_panic(expected = "still runs after")]
    fn a_program_that_does_not_end_panics() {
        sh("sleep 60").wait(Duration::from_millis(30));
    }

    #[test]
    fn dropping_kills_the_whole_group() {
        let process = sh("sleep 60 & echo $!; wait");
        let pid: i32 = process.wait_for_line(Output::Stdout, "", SOON).parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        assert!(rustix::process::test_kill_process(pid).is_ok(), "positive control: it runs");
        drop(process);
        until("the end of the grandchild", SOON, || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
    }

    #[test]
    fn signals_arrive() {
        let mut process = sh("trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.01; done");
        drop(process.wait_for_line(Output::Stdout, "ready", SOON));
        process.signal(Signal::TERM);
        assert_eq!(process.wait(SOON).code(), Some(9));
        assert!(process.text(Output::Stdout).ends_with("term\n"));
    }

    #[test]
    fn folders_vanish_and_ports_are_found() {
        let work = WorkDir::new();
        let path = work.write("a/b.txt", "x");
        assert!(path.exists());
        drop(work);
        assert!(!path.exists());
        let listener = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
        wait_for_port(listener.local_addr().unwrap(), SOON);
    }
}
