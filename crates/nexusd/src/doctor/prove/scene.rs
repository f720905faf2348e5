//! What is set out to be reached: files, listeners and a process of nexusd's own, which tell when somebody was there.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::plan::{Places, Witness};
use crate::config::Config;

/// How many of the host's addresses are tried, of each kind.
const MOST_ADDRESSES: usize = 4;

/// Longest wait until a visit is noticed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Files that no command may read, beside those of the configuration.
const SECRETS: [&str; 3] = ["/etc/shadow", "/root", "/etc/ssh/ssh_host_ed25519_key"];

/// Sockets behind which somebody does what he is asked.
const SOCKETS: [&str; 6] = [
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/user/0/bus",
];

/// All of it; gone when the value is.
#[derive(Debug)]
pub(super) struct Scene {
    /// The helper as a file.
    pub(super) helper: PathBuf,
    /// A proxy that refuses nothing, for controls.
    pub(super) open_proxy: u16,
    places: Places,
    shared: SharedFile,
    victim: Child,
    visitors: BTreeMap<Option<SocketAddr>, Arc<AtomicUsize>>,
    _listeners: JoinSet<()>,
}

/// A file that everybody may read and write, removed with the value.
#[derive(Debug)]
struct SharedFile(PathBuf);

impl Drop for SharedFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(file = %self.0.display(), %error, "stays behind");
        }
    }
}

impl Scene {
    /// Sets everything out; `own` is a folder that nobody else enters, `temp` the host's temporary one.
    ///
    /// # Errors
    /// The host refused; says what.
    pub(super) async fn set(own: &Path, temp: &Path, home: &str, config: &Config) -> Result<Self, String> {
        let fail = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
        let name = format!("nexusd-prove-{:016x}", rand::random::<u64>());
        let secret = own.join("secret");
        write(&secret, b"secret", 0o600).map_err(fail("write a secret of its own"))?;
        let helper = own.join("probe");
        write(&helper, guest::HELPER, 0o755).map_err(fail("write the probing program"))?;
        let canary = temp.join(&name);
        write(&canary, b"canary", 0o666).map_err(fail("write a file into the temporary folder"))?;
        let shared = SharedFile(canary.clone());
        let victim = victim(&helper).map_err(fail("start the probing program"))?;

        let (mut listeners, mut visitors) = (JoinSet::new(), BTreeMap::new());
        let (mut loopback, mut outer) = (Vec::new(), Vec::new());
        for ip in addresses() {
            let list = if ip.is_loopback() { &mut loopback } else { &mut outer };
            if list.len() == MOST_ADDRESSES {
                continue;
            }
            // An address that cannot be listened at is none that a sandbox could reach something at.
            let Ok(listener) = TcpListener::bind((ip, 0)).await else { continue };
            let address = listener.local_addr().map_err(fail("listen"))?;
            let counter = Arc::new(AtomicUsize::new(0));
            listeners.spawn(count(listener, counter.clone()));
            visitors.insert(Some(address), counter);
            list.push(address);
        }
        let counter = Arc::new(AtomicUsize::new(0));
        listeners.spawn(count_unix(abstract_listener(&name).map_err(fail("listen"))?, counter.clone()));
        visitors.insert(None, counter);
        let proxy = TcpListener::bind(("127.0.0.1", 0)).await.map_err(fail("listen"))?;
        let open_proxy = proxy.local_addr().map_err(fail("listen"))?.port();
        listeners.spawn(refuse_nothing(proxy));

        let present = |path: &PathBuf| std::fs::symlink_metadata(path).is_ok();
        let configured = [config.tls.client_key_file.clone(), config.tls.client_cert_file.clone()];
        let homes = [".ssh", ".aws", ".config", ".gnupg"].map(|name| Path::new(home).join(name));
        let files = SECRETS.iter().map(PathBuf::from).chain(configured.into_iter().flatten()).chain(homes);
        let places = Places {
            canary,
            secret,
            files: files.filter(present).collect(),
            sockets: SOCKETS.iter().map(PathBuf::from).filter(present).collect(),
            abstract_socket: name,
            victim: victim.id().ok_or("the process to be ended has ended by itself")?,
            loopback,
            outer,
            proxy: false,
        };
        Ok(Self { helper, open_proxy, places, shared, victim, visitors, _listeners: listeners })
    }

    /// What there is to be reached, in a sandbox with a proxy or without.
    pub(super) fn places(&self, proxy: bool) -> Places {
        Places { proxy, ..self.places.clone() }
    }

    /// Whether somebody was there since this was last asked. A process that was ended is replaced.
    ///
    /// # Errors
    /// The process cannot be replaced.
    pub(super) fn was_reached(&mut self, witness: &Witness) -> Result<bool, String> {
        let key = match witness {
            Witness::Nobody => return Ok(false),
            Witness::Listener(address) => Some(*address),
            Witness::AbstractSocket => None,
            Witness::Victim => {
                let ended = self.victim.try_wait().map_err(|error| format!("cannot wait for a process: {error}"))?;
                if ended.is_some() {
                    self.victim = victim(&self.helper).map_err(|error| format!("cannot start a process: {error}"))?;
                    self.places.victim = self.victim.id().unwrap_or(u32::MAX);
                }
                return Ok(ended.is_some());
            }
        };
        Ok(self.visitors.get(&key).is_some_and(|counter| counter.swap(0, Ordering::Relaxed) > 0))
    }

    /// Waits until the witness has seen somebody who has been there.
    ///
    /// # Errors
    /// It never does: it is no witness.
    pub(super) async fn awaits(&mut self, witness: &Witness) -> Result<(), String> {
        let began = Instant::now();
        while *witness != Witness::Nobody && !self.was_reached(witness)? {
            if began.elapsed() > PATIENCE {
                return Err(format!("{witness:?} did not notice who was there"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Whether the file in the temporary folder is as it was.
    pub(super) fn is_untouched(&self) -> bool {
        std::fs::read(&self.shared.0).is_ok_and(|content| content == b"canary")
    }
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    io::Write::write_all(&mut file, content)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

#[allow(clippy::disallowed_methods, reason = "a process of the check's own, outside every sandbox and directive")]
fn victim(helper: &Path) -> io::Result<Child> {
    let mut command = Command::new(helper);
    command.args(["probe", "wait"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true).spawn()
}

/// Loopback first, and the interfaces' own, not the ranges around them; gateways are others' and cannot be listened at.
fn addresses() -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    let own = egress::host_addresses::read(Path::new("/proc/net")).unwrap_or_default();
    let single = own.into_iter().filter(|range| range.prefix_len() == range.max_prefix_len()).map(|range| range.addr());
    all.extend(single.filter(|ip| !ip.is_loopback()));
    all
}

#[cfg(target_os = "linux")]
fn abstract_listener(name: &str) -> io::Result<tokio::net::UnixListener> {
    use std::os::linux::net::SocketAddrExt as _;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let listener = std::os::unix::net::UnixListener::bind_addr(&address)?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

/// Linux alone has such names, and the sandboxes that are to be proved.
#[cfg(not(target_os = "linux"))]
fn abstract_listener(_: &str) -> io::Result<tokio::net::UnixListener> {
    Err(io::ErrorKind::Unsupported.into())
}

async fn count(listener: TcpListener, counter: Arc<AtomicUsize>) {
    while listener.accept().await.is_ok() {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

async fn count_unix(listener: tokio::net::UnixListener, counter: Arc<AtomicUsize>) {
    while listener.accept().await.is_ok() {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Says yes to whatever is asked, and connects nobody.
async fn refuse_nothing(listener: TcpListener) {
    use tokio::io::AsyncWriteExt as _;
    while let Ok((mut client, _)) = listener.accept().await {
        if let Err(error) = client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await {
            tracing::debug!(%error, "nobody waits for the answer");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;

    use super::*;
    use crate::config::Platform;

    /// Whoever says nothing of where he was is seen all the same.
    #[tokio::test]
    async fn every_visit_is_noticed_once() {
        let (own, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = Config::built_in(Platform::Linux, &|_| None).unwrap();
        let mut scene = Scene::set(own.path(), temp.path(), "/nowhere", &config).await.unwrap();
        let places = scene.places(false);
        let listener = Witness::Listener(places.loopback[0]);
        for witness in [&listener, &Witness::AbstractSocket, &Witness::Victim, &Witness::Nobody] {
            assert!(!scene.was_reached(witness).unwrap(), "{witness:?}");
        }
        drop(std::net::TcpStream::connect(places.loopback[0]).unwrap());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&places.abstract_socket).unwrap();
        drop(std::os::unix::net::UnixStream::connect_addr(&address).unwrap());
        let victim = rustix::process::Pid::from_raw(places.victim.cast_signed()).unwrap();
        rustix::process::kill_process(victim, rustix::process::Signal::TERM).unwrap();
        for witness in [&listener, &Witness::AbstractSocket, &Witness::Victim] {
            scene.awaits(witness).await.unwrap();
            assert!(!scene.was_reached(witness).unwrap(), "{witness:?} is told of once");
        }
        assert_ne!(scene.places(false).victim, places.victim, "there is another one to be ended");
        assert!(scene.is_untouched());
        std::fs::write(&places.canary, "changed").unwrap();
        assert!(!scene.is_untouched());
        drop(scene);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
