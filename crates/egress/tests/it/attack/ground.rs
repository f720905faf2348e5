//! Where the attacks happen: two namespaces, a proxy in one, and on the far side everything that could be reached.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conduits::DnsName;
use egress::Decision;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Layer;
use crate::bed::{Aliases, Bed, Dns, Setup, Zone, read_head, zone};
use crate::netns::{FORBIDDEN, FORBIDDEN_HERE, Namespace, PUBLIC, join};

/// The name server, in the far namespace.
const NAME_SERVER: &str = "11.99.0.1:5300";
/// Answers requests.
pub(super) const WEB: u16 = 80;
/// Sends back what it gets; the port whose first bytes are looked into.
pub(super) const TLS: u16 = 443;
/// Sends back what it gets; a port that is not looked into.
pub(super) const ECHO: u16 = 7;
/// Answers with the bytes that the request's path spells in hexadecimal, and closes.
pub(super) const ODD: u16 = 81;
/// Says a line and closes its side at once, then counts what it gets.
pub(super) const CLOSING: u16 = 82;

/// What came in at the far side.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(super) at: SocketAddr,
    pub(super) bytes: Vec<u8>,
    /// Whether the connection has ended, and how.
    pub(super) ended: bool,
}

type Arrivals = Arc<Mutex<Vec<Arrival>>>;

/// The attacker's side.
pub(crate) struct Ground {
    bed: Bed,
    arrivals: Arrivals,
    /// How long an answer is waited for: where a layer is left out, attacks get through and nothing is closed.
    patience: Duration,
}

/// When enough of an answer is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// The proxy has closed the connection.
    Closed,
    /// The same, or it has begun to say yes.
    Success,
}

impl Ground {
    pub(super) fn bed(&self) -> &Bed {
        &self.bed
    }

    pub(super) fn arrived(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }

    /// Denials counted so far.
    pub(super) fn denied(&self) -> u64 {
        let denied = self.bed.counters.decisions().filter(|(decision, ..)| *decision == Decision::Deny);
        denied.map(|(_, _, count)| count).sum()
    }

    /// The far side as it is once `is_so` holds of it.
    pub(super) async fn once(&self, is_so: impl Fn(&[Arrival]) -> bool) -> Result<Vec<Arrival>, String> {
        let began = std::time::Instant::now();
        loop {
            let arrived = self.arrived();
            if is_so(&arrived) {
                return Ok(arrived);
            }
            if began.elapsed() > crate::bed::PATIENCE {
                return Err(format!("waited in vain: {arrived:?}"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What the proxy says to this on one connection.
    pub(super) async fn answer(&self, say: &[u8], until: Until) -> String {
        let is_enough = |got: &[u8]| {
            until == Until::Success && got.starts_with(b"HTTP/1.1 2") && got.windows(4).any(|end| end == b"\r\n\r\n")
        };
        String::from_utf8_lossy(&self.read(say, is_enough).await).into_owned()
    }

    /// The same in SOCKS, until it is closed or a connection stands.
    pub(super) async fn reply(&self, say: &[u8]) -> Vec<u8> {
        self.read(say, |got| matches!(got, [5, _, 5, 0, ..])).await
    }

    async fn read(&self, say: &[u8], is_enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut client = self.bed.client().await;
        client.send(say).await;
        let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
        while !is_enough(&got) {
            match tokio::time::timeout(self.patience, client.0.read(&mut buffer)).await {
                Ok(Ok(count @ 1..)) => got.extend_from_slice(&buffer[..count]),
                _ => break,
            }
        }
        got
    }

    /// What is allowed still works, and arrives.
    pub(super) async fn control(&self) -> Result<(), String> {
        let arrived =
            || self.arrived().iter().filter(|one| one.bytes.starts_with(b"GET /control HTTP/1.1\r\n")).count();
        let before = arrived();
        let answer = self.bed.talk("GET http://a.test/control HTTP/1.1\r\nConnection: close\r\n\r\n").await;
        if answer.starts_with("HTTP/1.1 200") && arrived() == before + 1 { Ok(()) } else { Err(format!("{answer:?}")) }
    }

    /// The tunnel stands, the packets end it, nothing of them arrives, and it is counted as one denial.
    pub(super) async fn tunnel_is_cut(
        &self,
        to: &str,
        packets: &[Vec<u8>],
        one_denial: impl Fn() -> Result<(), String>,
    ) -> Result<(), String> {
        let before = self.arrived().len();
        let mut client = self.bed.client().await;
        client.tunnel(to).await;
        client.0.set_nodelay(true).unwrap();
        for packet in packets {
            client.send(packet).await;
            // Let each go out by itself.
            tokio::task::yield_now().await;
        }
        let mut buffer = [0; 4096];
        match tokio::time::timeout(self.patience, client.0.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => {}
            other => return Err(format!("not cut: {other:?}")),
        }
        let arrived = self.once(|arrived| arrived[before..].iter().all(|one| one.ended)).await?;
        if arrived[before..].iter().any(|one| !one.bytes.is_empty()) {
            return Err(format!("arrived: {:?}", &arrived[before..]));
        }
        one_denial()
    }
}

/// Names of the addresses, in the order of [`numbered`].
pub(super) fn number(at: usize) -> String {
    format!("n{at}.test")
}

/// Addresses that no directive may reach, each the only one of a name.
pub(super) fn numbered() -> impl Iterator<Item = &'static str> {
    FORBIDDEN.iter().chain(FORBIDDEN_HERE).copied()
}

fn names() -> Zone {
    let parse = |addresses: &[&str]| -> Vec<IpAddr> { addresses.iter().map(|text| text.parse().unwrap()).collect() };
    let public = PUBLIC[0];
    let mut names = zone(&[
        ("a.test", &[public]),
        ("b.test", &[public]),
        ("denied.test", &[public]),
        ("mothership.test", &[public]),
        ("x.wild.test", &[public]),
        ("wild.test", &[public]),
        ("a.test.evil.test", &[public]),
        ("mixed.test", &["10.0.0.1", public, "192.168.7.7", "::ffff:10.0.0.1"]),
        ("all-bad.test", &["10.0.0.1", "192.168.7.7", "fc00::1"]),
        ("bad-six.test", &["fc00::1", public]),
        ("made.test", &["2a01:db9:1::a00:1"]),
    ]);
    for (at, address) in numbered().enumerate() {
        names.insert(number(at), vec![parse(&[address])]);
    }
    names.insert("turns.test".into(), vec![parse(&[public]), parse(&["10.0.0.1"])]);
    names.insert("returns.test".into(), vec![parse(&["10.0.0.1"]), parse(&[public])]);
    names.insert("many.test".into(), vec![(1..=60).map(|last| IpAddr::from([10, 1, 0, last])).collect()]);
    let mut many_and_one: Vec<IpAddr> = (1..=40).map(|last| IpAddr::from([10, 1, 0, last])).collect();
    many_and_one.extend(parse(&[public]));
    names.insert("many-and-one.test".into(), vec![many_and_one]);
    names
}

fn aliases() -> Aliases {
    [
        ("alias.test", "denied.test"),
        ("far-alias.test", "alias.test"),
        ("own-alias.test", "mothership.test"),
        ("bad-alias.test", "all-bad.test"),
    ]
    .map(|(name, target)| (name.to_owned(), target.to_owned()))
    .into()
}

fn allowed() -> Vec<String> {
    let mut allowed: Vec<String> = [WEB, TLS, ECHO, ODD, CLOSING].iter().map(|port| format!("a.test:{port}")).collect();
    allowed
        .extend(["*.wild.test:80", "denied.test:80", "mothership.test:80", "xn--bcher-kva.test:80"].map(str::to_owned));
    let by_address = names().into_keys().filter(|name| {
        !["a.test", "b.test", "wild.test", "x.wild.test", "a.test.evil.test", "denied.test", "mothership.test"]
            .contains(&name.as_str())
    });
    allowed.extend(by_address.chain(aliases().into_keys()).map(|name| format!("{name}:80")));
    allowed
}

/// Runs `attacker` in the near namespace, beside a proxy that leaves a layer out.
pub(super) fn with<T: Send + 'static>(knockout: Layer, attacker: impl AsyncFnOnce(Ground) -> T + Send + 'static) -> T {
    let (near, far) = (Namespace::new("near"), Namespace::new("far"));
    join(&near, &far);
    let arrivals = Arrivals::default();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let record = Arc::clone(&arrivals);
    let serving = far.run(async move || far_side(record, ready, stopped).await);
    is_ready.recv().unwrap();
    let running = near.run(async move || {
        let mut setup = Setup::allowing(&[]);
        setup.net = json!({"mode": "allowlist", "allow": allowed()});
        setup.rules.allow_private = Vec::new();
        setup.rules.own_addresses =
            egress::host_addresses::read(std::path::Path::new("/proc/thread-self/net")).unwrap().into();
        setup.rules.net_deny = vec!["denied.test:80".parse().unwrap()];
        setup.rules.own_names = vec![("mothership.test".parse::<DnsName>().unwrap(), 80)];
        setup.rules.nat64_prefixes = vec!["2a01:db9:1::/96".parse().unwrap()].into();
        setup.rules.max_connections = 64;
        leave_out(&mut setup, knockout);
        let bed = setup.start_with(NAME_SERVER.parse().unwrap()).await;
        let patience = Duration::from_secs(if knockout == Layer::Always { 10 } else { 2 });
        attacker(Ground { bed, arrivals, patience }).await
    });
    let result = running.join().unwrap();
    stop.send(()).unwrap();
    serving.join().unwrap();
    result
}

#[cfg(feature = "knockout")]
fn leave_out(setup: &mut Setup, layer: Layer) {
    setup.knockout = match layer {
        Layer::Addresses => Some(egress::Knockout::Addresses),
        Layer::Hello => Some(egress::Knockout::Hello),
        Layer::Names => Some(egress::Knockout::Names),
        Layer::Always => None,
    };
}

#[cfg(not(feature = "knockout"))]
fn leave_out(_: &mut Setup, layer: Layer) {
    assert_eq!(layer, Layer::Always, "the feature is needed");
}

async fn far_side(arrivals: Arrivals, ready: std::sync::mpsc::Sender<()>, stop: tokio::sync::oneshot::Receiver<()>) {
    let _dns = Dns::start_with(names(), aliases(), NAME_SERVER.parse().unwrap()).await;
    let mut serving = JoinSet::new();
    for port in [WEB, TLS, ECHO, ODD, CLOSING] {
        let listener = TcpListener::bind(("::", port)).await.unwrap();
        let arrivals = Arc::clone(&arrivals);
        serving.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                open.spawn(serve(stream, port, Arc::clone(&arrivals)));
                while open.try_join_next().is_some() {}
            }
        });
    }
    ready.send(()).unwrap();
    stop.await.ok();
}

async fn serve(mut stream: TcpStream, port: u16, arrivals: Arrivals) {
    let local = stream.local_addr().unwrap();
    let index = {
        let mut arrivals = arrivals.lock().unwrap();
        let at = SocketAddr::new(local.ip().to_canonical(), local.port());
        arrivals.push(Arrival { at, bytes: Vec::new(), ended: false });
        arrivals.len() - 1
    };
    let record = |bytes: &[u8]| arrivals.lock().unwrap()[index].bytes.extend_from_slice(bytes);
    match port {
        WEB | ODD => {
            while let Some(head) = read_head(&mut stream).await {
                record(head.as_bytes());
                let (answer, closes) = if port == WEB {
                    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), false)
                } else {
                    (spelled(&head), true)
                };
                if stream.write_all(&answer).await.is_err() || closes {
                    break;
                }
            }
        }
        _ => {
            if port == CLOSING {
                stream.write_all(b"bye\n").await.ok();
                stream.shutdown().await.ok();
            }
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                record(&buffer[..count]);
                if port != CLOSING && stream.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(stream);
    arrivals.lock().unwrap()[index].ended = true;
}

/// The bytes that a request for `/<hexadecimal>` asks for.
fn spelled(head: &str) -> Vec<u8> {
    let digits: Vec<u8> = head.split(['/', ' ']).nth(2).unwrap_or_default().bytes().collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap_or(0)).collect()
}
