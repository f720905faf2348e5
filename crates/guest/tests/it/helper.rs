//! The helper as an executable: what it is, and what it does as the supervisor of a host run.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use guest::frame::{Bridge, Decoder, Ended, Failed, Frame, How, MAX_FROM_HELPER, Order, Plan, Step};
use tempfile::TempDir;

/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Puts the helper into a directory. Another process writes the file: one that this process had open for writing could be
/// busy when it is executed, by way of a fork in another test.
pub(crate) fn install(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("nexus-init");
    let mut child = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(guest::HELPER).unwrap();
    assert!(child.wait().unwrap().success());
    path
}

/// A helper in host mode.
struct Helper {
    dir: TempDir,
    child: Child,
    control: UnixStream,
    decoder: Decoder,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    fn start(plan: Plan) -> Self {
        Self::start_by(&[], plan)
    }

    /// By a program that becomes the one which its last arguments name.
    fn start_by(by: &[&str], plan: Plan) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = install(&dir);
        let (control, theirs) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(LIMIT)).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" host 3<&0 4>&1 5>&2 0</dev/null", "sh"])
            .args(by)
            .arg(path)
            .current_dir(dir.path())
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut helper = Self { dir, child, control, decoder: Decoder::new(MAX_FROM_HELPER), stdout };
        helper.say(&Frame::Plan(plan));
        helper
    }

    /// One whose command runs.
    fn released(plan: Plan) -> Self {
        let mut helper = Self::start(plan);
        assert_eq!(helper.hear(), Frame::Ready);
        helper.say(&Frame::Release);
        helper
    }

    fn say(&mut self, frame: &Frame) {
        self.control.write_all(&frame.encode()).unwrap();
    }

    fn hear(&mut self) -> Frame {
        let mut buffer = [0; 512];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let count = self.control.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "the helper is gone");
            self.decoder.push(&buffer[..count]);
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// How the command ended, and what it wrote.
    fn end(mut self) -> (How, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        let Frame::Exited(Ended { how, .. }) = self.hear() else { panic!("no end") };
        self.stdout.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert!(self.child.wait().unwrap().success());
        (how, out, err)
    }

    /// Its mapped and its resident memory, in pages.
    fn memory(&self) -> (u64, u64) {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    fn children(&self) -> usize {
        let parent = format!("PPid:\t{}\n", self.child.id());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter(|entry| {
                std::fs::read_to_string(entry.path().join("status")).is_ok_and(|status| status.contains(&parent))
            })
            .count()
    }
}

fn sh(script: impl Into<Vec<u8>>) -> Plan {
    let environment = vec![b"PATH=/usr/bin:/bin".to_vec()];
    Plan { shell: b"/bin/sh".to_vec(), script: script.into(), environment, ..Plan::default() }
}

/// What is reported as in force is, or nothing runs: Landlock refuses whoever could still gain privileges.
#[test]
fn without_a_layer_that_the_kernel_has_nothing_runs() {
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let run = |writable: Vec<Vec<u8>>| {
        let by = if root { &user[..] } else { &[] };
        let mut helper = Helper::start_by(by, Plan { writable, ..sh("echo ran") });
        assert_eq!(helper.hear(), Frame::Ready);
        helper.say(&Frame::Release);
        helper.end()
    };
    let ran = (How::Code(0), "ran\n".to_owned(), String::new());
    assert_eq!(run(Vec::new()), ran);
    let there = std::fs::read_to_string("/proc/kallsyms").unwrap().contains("sys_landlock_create_ruleset");
    let refused = (How::Code(126), String::new(), "nexus: Landlock: Operation not permitted\n".to_owned());
    assert_eq!(run(vec![b"/tmp".to_vec()]), if there { refused } else { ran });
}

/// Who has sent all of a question still waits for the answer, for as long as that takes.
#[test]
fn socat_passes_the_end_of_one_side_on_and_waits_for_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy");
    let proxy = UnixListener::bind(&path).unwrap();
    let answering = std::thread::spawn(move || {
        let (mut connection, _) = proxy.accept().unwrap();
        connection.set_read_timeout(Some(LIMIT)).unwrap();
        let mut asked = String::new();
        connection.read_to_string(&mut asked).unwrap();
        // Longer than socat waits unless it is told to.
        std::thread::sleep(Duration::from_secs(1));
        connection.write_all(b"answer").unwrap();
        asked
    });
    let socket = path.into_os_string().into_encoded_bytes();
    let bridge = Bridge::Socat { program: b"/usr/bin/socat".to_vec(), socket };
    let plan = Plan { bridge, ..sh("printf question | socat -t 30 - TCP:127.0.0.1:9080") };
    let network =
        ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"];
    let mut helper = Helper::start_by(&network, plan);
    assert_eq!(helper.hear(), Frame::Ready);
    helper.say(&Frame::Release);
    let (how, out, _) = helper.end();
    assert_eq!((how, out.as_str()), (How::Code(0), "answer"));
    assert_eq!(answering.join().unwrap(), "question");
}

#[test]
fn the_image_stands_alone() {
    let image = guest::HELPER;
    let half = |at: usize| usize::from(u16::from_le_bytes(*image[at..].first_chunk().unwrap()));
    let word = |at: usize| u32::from_le_bytes(*image[at..].first_chunk().unwrap());
    let long = |at: usize| usize::try_from(u64::from_le_bytes(*image[at..].first_chunk().unwrap())).unwrap();
    assert!(image.starts_with(b"\x7fELF\x02\x01"));
    assert!(image.len() < 128 * 1024, "{} bytes", image.len());
    // ET_EXEC: loaded where it was linked for.
    assert_eq!(half(16), 2);
    let segments: Vec<(u32, u32)> =
        (0..half(56)).map(|index| long(32) + index * half(54)).map(|at| (word(at), word(at + 4))).collect();
    assert!(segments.iter().any(|(kind, _)| *kind == 1), "there is something to load: {segments:?}");
    // PT_DYNAMIC, PT_INTERP, PT_TLS: what a loader or a libc would have to see to.
    assert!(segments.iter().all(|(kind, _)| ![2, 3, 7].contains(kind)), "{segments:?}");
    assert!(segments.iter().all(|(_, flags)| flags & 3 != 3), "nothing is writable and executable: {segments:?}");
    // SHT_SYMTAB, SHT_RELA, SHT_REL, SHT_DYNSYM: no symbol is left to find, nothing to relocate.
    let sections: Vec<u32> = (0..half(60)).map(|index| word(long(40) + index * half(58) + 4)).collect();
    assert!(sections.contains(&1), "there are sections: {sections:?}");
    assert!(sections.iter().all(|kind| ![2, 4, 9, 11].contains(kind)), "{sections:?}");
}

#[test]
fn codes_and_errors() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let plain = plain.to_str().unwrap();
    let shell = |path: &str| Plan { shell: path.into(), ..sh("true") };
    let table = [
        (sh("echo out; echo err >&2; exit 7"), How::Code(7), "out\n", "err\n".to_owned()),
        (sh("kill -9 $$"), How::Signal(9), "", String::new()),
        (sh("umask; read x || echo end"), How::Code(0), "0022\nend\n", String::new()),
        (shell("/no/such"), How::Code(127), "", "nexus: /no/such: No such file or directory\n".to_owned()),
        (shell("/bin/sh/x"), How::Code(126), "", "nexus: /bin/sh/x: Not a directory\n".to_owned()),
        (shell(plain), How::Code(126), "", format!("nexus: {plain}: Permission denied\n")),
    ];
    for (plan, how, out, err) in table {
        assert_eq!(Helper::released(plan).end(), (how, out.to_owned(), err));
    }
    let mut lost = Helper::start(Plan { cwd: b"/no/such".to_vec(), ..sh("true") });
    assert_eq!(lost.hear(), Frame::Failed(Failed { step: Step::EnterCwd, errno: 2 }));
    assert_eq!(lost.child.wait().unwrap().code(), Some(1));
}

#[test]
fn long_scripts_and_environments_arrive() {
    let padding = |count: usize| "#".repeat(count) + "\n";
    let mut plan = sh(padding(100_000) + "echo ${#V299} $0; env | wc -c");
    plan.environment.extend((0..300).map(|index| format!("V{index}={}", "x".repeat(3000)).into_bytes()));
    let (how, out, err) = Helper::released(plan).end();
    let mut words = out.split_whitespace();
    assert_eq!((how, words.next(), words.next()), (How::Code(0), Some("3000"), Some("/bin/sh")), "{err}");
    assert!(words.next().unwrap().parse::<usize>().unwrap() > 900_000, "{out}");
    // The kernel takes no single argument of a mebibyte (MAX_ARG_STRLEN), and that is said.
    assert_eq!(
        Helper::released(sh(padding(1024 * 1024))).end(),
        (How::Code(126), String::new(), "nexus: /bin/sh: Argument list too long\n".to_owned())
    );
}

#[test]
fn orders_reach_descendants_that_ran_away() {
    let mut helper = Helper::released(sh("setsid sh -c 'echo away; sleep 1000' & wait; sleep 1000"));
    assert_eq!(helper.line(), "away");
    helper.say(&Frame::Signal(Order::Terminate));
    assert_eq!(helper.end().0, How::Signal(15));
}

/// Sends orders, each when the one before was obeyed: the command says so.
fn order_often(helper: &mut Helper) {
    for _ in 0..100 {
        helper.say(&Frame::Signal(Order::Terminate));
        assert_eq!(helper.line(), "term");
    }
}

/// Waits until the helper has no child but the command.
fn all_collected(helper: &Helper) {
    let begin = Instant::now();
    while helper.children() > 1 {
        assert!(begin.elapsed() < LIMIT, "{} children were not collected", helper.children());
    }
}

#[test]
fn a_long_life_takes_no_memory() {
    // Each subshell leaves a hundred children behind, for the helper to collect.
    let children = ": & ".repeat(100);
    let script = format!(
        "trap 'echo term' TERM
        leave() {{ i=0; while [ $i -lt $1 ]; do ({children}); i=$((i+1)); done; }}
        await() {{ until [ -e $1 ]; do sleep 0.01; done; }}
        leave 10; echo warm; await more; leave 200; echo done; await end; exit 0"
    );
    let mut helper = Helper::released(sh(script));
    let tell = |helper: &Helper, name: &str| std::fs::write(helper.dir.path().join(name), "").unwrap();
    assert_eq!(helper.line(), "warm");
    all_collected(&helper);
    order_often(&mut helper);
    let before = helper.memory();
    tell(&helper, "more");
    assert_eq!(helper.line(), "done");
    all_collected(&helper);
    order_often(&mut helper);
    let after = helper.memory();
    // Looking for descendants takes more on a busier host: one more chunk of the allocator's, of 64 pages.
    let grown = |before: u64, after: u64| after > before + 64;
    assert!(!grown(before.0, after.0) && !grown(before.1, after.1), "pages: {before:?}, then {after:?}");
    tell(&helper, "end");
    assert_eq!(helper.end().0, How::Code(0));
}
