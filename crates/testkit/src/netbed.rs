//! A network of the test's own: two network namespaces joined by a veth pair.
//!
//! ```text
//!   near                                        far
//!   the program under test                      origins, name server
//!   10.99.0.2, fd99::2  ── near0 ═══ far0 ──    10.99.0.1, fd99::1
//!   resolv.conf of its own                      any address that a test asks for, on lo
//! ```
//!
//! Everything that leaves the near side arrives at the far side, which answers for the addresses it was given: public
//! ones, private ones, metadata services. No rule about addresses has to be loosened for a test. Needs root.
//!
//! A socket belongs to the namespace it was made in, wherever it is used later: listeners made by
//! [`NetBed::far_listener`] are served by threads of the test's own namespace. Programs and threads belong to the
//! namespace of the thread that starts them: see [`NetBed::near`]. The namespaces vanish with their last member; the
//! bed's own threads end when it is dropped.

mod dns;
mod namespace;

pub use dns::{DnsServer, QueryType, Record, RecordData, Reply};

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;

use crate::process::{Process, WorkDir};
use namespace::Namespace;

/// The near side's own IPv4 address.
pub const NEAR_V4: &str = "10.99.0.2";
/// The near side's own IPv6 address.
pub const NEAR_V6: &str = "fd99::2";
/// The far side's end of the cable.
pub const FAR_V4: &str = "10.99.0.1";
/// The far side's end of the cable.
pub const FAR_V6: &str = "fd99::1";
/// Where the near side's resolv.conf says the name server is.
pub const NAME_SERVER: &str = "9.9.9.9";

/// The two namespaces and the name server. Torn down when dropped.
pub struct NetBed {
    dns: DnsServer,
    near: Namespace,
    far: Namespace,
    _files: WorkDir,
}

impl NetBed {
    /// Makes a bed: both sides up, the name server running and knowing no name.
    pub fn new() -> io::Result<Self> {
        let files = WorkDir::new();
        let resolv = files.write("resolv.conf", format!("nameserver {NAME_SERVER}\noptions timeout:2 attempts:1\n"));
        let hosts = files.write("hosts", "127.0.0.1 localhost\n::1 localhost\n");
        let binds = vec![(resolv, "/etc/resolv.conf".into()), (hosts, "/etc/hosts".into())];
        let near = Namespace::start("near", binds)?;
        let far = Namespace::start("far", Vec::new())?;
        let other = far.path();
        near.run(move || ip(&["link", "add", "near0", "type", "veth", "peer", "name", "far0", "netns", &other]))?;
        near.run(|| configure("near0", NEAR_V4, NEAR_V6))?;
        far.run(|| configure("far0", FAR_V4, FAR_V6))?;
        near.run(|| {
            ip(&["route", "add", "default", "via", FAR_V4])?;
            ip(&["-6", "route", "add", "default", "via", FAR_V6])
        })?;
        let sockets = far.run(|| {
            add_address(NAME_SERVER.parse().expect("an address"))?;
            let address = (NAME_SERVER, 53);
            Ok::<_, io::Error>((std::net::UdpSocket::bind(address)?, TcpListener::bind(address)?))
        })?;
        Ok(Self { dns: DnsServer::start(sockets.0, sockets.1)?, near, far, _files: files })
    }

    /// The name server: what is known, what was asked.
    #[must_use]
    pub const fn dns(&self) -> &DnsServer {
        &self.dns
    }

    /// Runs the work on the near side and waits for it. Threads, runtimes and programs that it starts are on the near
    /// side too, and see its resolv.conf.
    pub fn near<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.near.run(work)
    }

    /// Runs the work on the far side and waits for it.
    pub fn far<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.far.run(work)
    }

    /// Runs the asynchronous work on the near side, on a runtime of its own with one thread, and waits for it.
    pub fn near_async<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        self.near(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work())
        })
    }

    /// Starts a program on the near side.
    #[must_use]
    pub fn spawn_near(&self, mut command: Command) -> Process {
        self.near(move || Process::spawn(&mut command))
    }

    /// A listener on the far side. The address is added to it where it is not there yet.
    #[must_use]
    pub fn far_listener(&self, address: SocketAddr) -> TcpListener {
        self.far(move || {
            add_address(address.ip()).unwrap();
            TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"))
        })
    }

    /// A listener on the near side, such as for a control plane on the daemon's own machine.
    #[must_use]
    pub fn near_listener(&self, address: SocketAddr) -> TcpListener {
        self.near(move || TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}")))
    }
}

fn configure(link: &str, v4: &str, v6: &str) -> io::Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", &format!("{v4}/24"), "dev", link])?;
    // Without duplicate detection the address is usable at once.
    ip(&["-6", "address", "add", &format!("{v6}/64"), "dev", link, "nodad"])?;
    ip(&["link", "set", link, "up"])
}

/// Adds the address to this side's `lo`, unless it is there.
fn add_address(address: IpAddr) -> io::Result<()> {
    if TcpListener::bind((address, 0)).is_ok() {
        return Ok(());
    }
    match address {
        IpAddr::V4(v4) => ip(&["address", "add", &format!("{v4}/32"), "dev", "lo"]),
        IpAddr::V6(v6) => ip(&["-6", "address", "add", &format!("{v6}/128"), "dev", "lo", "nodad"]),
    }
}

/// Runs iproute2 in the calling thread's namespace.
fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), text.trim())))
}
