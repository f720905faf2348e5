//! The proxies beside each other: how each is started, and what it speaks.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// In which the kernel tells user space of CPU time (`USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    Connect,
    Socks5,
}

/// A proxy that runs.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) at: SocketAddr,
    pub(crate) speaks: &'static [Speech],
    process: Child,
}

impl Contender {
    fn start(name: &'static str, port: u16, speaks: &'static [Speech], command: &mut Command) -> Option<Self> {
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::piped());
        let Ok(process) = quiet.spawn() else {
            println!("NOT MEASURED: {name} is not installed (tools/bootstrap.sh bench)");
            return None;
        };
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let contender = Self { name, at, speaks, process };
        let began = Instant::now();
        while TcpStream::connect(at).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "{name} does not listen on {at}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(contender)
    }

    /// CPU seconds that the process and its threads have used, those that have ended too.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        ticks as f64 / TICKS_A_SECOND
    }

    /// Bytes of memory that are the process's own.
    pub(crate) fn private_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process.id())).unwrap();
        let kib = |line: &str| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
        text.lines().filter(|line| line.starts_with("Private_")).map(kib).sum::<u64>() * 1024
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Ours alone, with a sink for its audit that takes 5 ms a line where that is asked for.
pub(crate) fn ours(folder: &Path, port: u16, audit: &str) -> Contender {
    let speaks = &[Speech::Connect, Speech::Socks5];
    let name = if audit == "plain" { "nexus" } else { "nexus, slow audit" };
    let mut command = Command::new(std::env::current_exe().unwrap());
    Contender::start(name, port, speaks, command.args(["--serve", &port.to_string()]).arg(folder).arg(audit)).unwrap()
}

/// The others that are installed.
pub(crate) fn others(folder: &Path) -> Vec<Contender> {
    let write = |name: &str, text: &str| -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let tinyproxy = write(
        "tinyproxy.conf",
        "Port 18881\nListen 127.0.0.1\nTimeout 600\nMaxClients 512\nLogLevel Critical\nDisableViaHeader Yes\n",
    );
    let squid = write(
        "squid.conf",
        &format!(
            "http_port 127.0.0.1:18882\nhttp_access allow all\ncache deny all\naccess_log none\ncache_log /dev/null\n\
             cache_store_log none\npid_filename none\npinger_enable off\ncoredump_dir {}\nshutdown_lifetime 0 seconds\n",
            folder.display()
        ),
    );
    let connect = &[Speech::Connect];
    let mut all = vec![
        Contender::start("tinyproxy", 18881, connect, Command::new("tinyproxy").arg("-d").arg("-c").arg(tinyproxy)),
        Contender::start("squid", 18882, connect, Command::new("squid").arg("-N").arg("-f").arg(squid)),
    ];
    let microsocks = &mut Command::new("microsocks");
    all.push(Contender::start(
        "microsocks",
        18883,
        &[Speech::Socks5],
        microsocks.args(["-i", "127.0.0.1", "-p", "18883"]),
    ));
    all.into_iter().flatten().collect()
}
