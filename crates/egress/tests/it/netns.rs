//! The address ladder over real sockets, with nothing opened: the proxy lives in one network
//! namespace, and in another, across a veth pair, live a name server and an origin that answers
//! on public-looking addresses and, so that a hole would show, on forbidden ones too.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::bed::{Bed, Dns, Setup, Zone, read_head, refusal, zone};

/// Where the origin answers as anybody on the Internet would.
pub(crate) const PUBLIC: &[&str] = &["93.184.216.34", "151.101.1.69", "2606:2800:220:1::34"];

/// Forbidden addresses that are made to work on the far side: only the proxy's judgement keeps them unreached.
pub(crate) const FORBIDDEN: &[&str] = &[
    "10.0.0.1",
    "100.64.0.1",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.7.7",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "2001:db8::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "3fff::1",
    "fc00::1",
    "fec0::1",
    "100::1",
    "4000::1",
    "64:ff9b::a00:1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "2002:a00:1::1",
    "2002:7f00:1::1",
    "2001:0:4136:e378:8000:63:f5ff:fffe",
    "2001:0:7f00:1:8000:63:3fff:fdd2",
    "::ffff:0:a00:1",
    "2a00:1:2:3:0:5efe:a00:1",
    "2a00:1:2:3:200:5efe:7f00:1",
];

/// Forbidden addresses that no far side can have: they mean this host, everybody, or are turned into IPv4 by the kernel.
pub(crate) const FORBIDDEN_HERE: &[&str] = &[
    "0.0.0.0",
    "127.0.0.1",
    "127.8.8.8",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "11.99.0.2",
    "11.99.0.1",
    "::",
    "::1",
    "fe80::1",
    "ff02::1",
    "2607:99::2",
    "51.15.8.7",
    "2607:98::7",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "::10.0.0.1",
];

pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn new(role: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("egress-{role}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"));
        Self(name)
    }

    /// Runs a future on a thread of its own inside the namespace.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        std::thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        Command::new("ip").args(["netns", "del", &self.0]).status().ok();
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Says so aloud and lets the test pass where the machine cannot make namespaces, unless it must.
pub(crate) fn can_make_namespaces() -> bool {
    let able = rustix::process::geteuid().is_root() && Command::new("ip").arg("-V").output().is_ok();
    let required = std::env::var("NEXUS_REQUIRE").is_ok_and(|list| list.split(',').any(|word| word == "netns"));
    assert!(able || !required, "network namespaces are required (NEXUS_REQUIRE) and need root and iproute2");
    if !able {
        eprintln!("SKIPPED: network namespaces need root and iproute2");
    }
    able
}

pub(crate) fn join(near: &Namespace, far: &Namespace) {
    let (near, far) = (&near.0, &far.0);
    ip(&format!("-n {near} link add out type veth peer name in netns {far}"));
    for (namespace, device, four, six) in
        [(near, "out", "11.99.0.2/24", "2607:99::2/64"), (far, "in", "11.99.0.1/24", "2607:99::1/64")]
    {
        ip(&format!("-n {namespace} addr add {four} dev {device}"));
        ip(&format!("-n {namespace} addr add {six} dev {device} nodad"));
        ip(&format!("-n {namespace} link set lo up"));
        ip(&format!("-n {namespace} link set {device} up"));
    }
    // Whole ranges that are this host's own.
    ip(&format!("-n {near} route add local 51.15.8.0/24 dev lo"));
    ip(&format!("-n {near} -6 route add local 2607:98::/64 dev lo"));
    ip(&format!("-n {near} route add default via 11.99.0.1"));
    ip(&format!("-n {near} -6 route add default via 2607:99::1"));
    for address in PUBLIC.iter().chain(FORBIDDEN) {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        ip(&format!("-n {far} addr add {address} dev lo {nodad}"));
        // Some of the prefixes are not routed by default: what is forbidden must be reachable here.
        if address.contains(':') {
            ip(&format!("-n {near} -6 route replace {address}/128 via 2607:99::1"));
        }
    }
}

/// The addresses that connections came in at.
type Reached = Arc<Mutex<Vec<IpAddr>>>;

/// A name server on 11.99.0.1:5300 and an origin on every address at port 80, until told to stop.
async fn far_side(
    zone: Zone,
    reached: Reached,
    ready: std::sync::mpsc::Sender<()>,
    stop: tokio::sync::oneshot::Receiver<()>,
) -> Vec<String> {
    let dns = Dns::start(zone, "11.99.0.1:5300".parse().unwrap()).await;
    let listener = TcpListener::bind("[::]:80").await.unwrap();
    ready.send(()).unwrap();
    let accept = async {
        let mut serving = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            reached.lock().unwrap().push(stream.local_addr().unwrap().ip().to_canonical());
            serving.spawn(async move {
                read_head(&mut stream).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await.ok();
            });
        }
    };
    tokio::select! {
        () = accept => {}
        _ = stop => {}
    }
    dns.asked()
}

/// Runs `client` beside a proxy with these rules; gives what it gives, the addresses reached, and the names asked for.
fn across<T: Send + 'static>(
    names: Zone,
    client: impl AsyncFnOnce(Bed) -> T + Send + 'static,
    open: bool,
) -> (T, Vec<IpAddr>, Vec<String>) {
    let (near, far) = (Namespace::new("near"), Namespace::new("far"));
    join(&near, &far);
    let reached = Reached::default();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (zone, seen) = (names.clone(), Arc::clone(&reached));
    let serving = far.run(async move || far_side(zone, seen, ready, stopped).await);
    is_ready.recv().unwrap();
    let running = near.run(async move || {
        let mut setup = Setup::allowing(&[]);
        setup.net =
            json!({"mode": "allowlist", "allow": names.keys().map(|name| format!("{name}:80")).collect::<Vec<_>>()});
        let own = egress::host_addresses::read(std::path::Path::new("/proc/thread-self/net")).unwrap();
        setup.rules.own_addresses = own.clone().into();
        assert!(own.contains(&"11.99.0.2/32".parse().unwrap()), "the namespace's own: {own:?}");
        setup.rules.allow_private =
            if open { vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()] } else { Vec::new() };
        client(setup.start_with("11.99.0.1:5300".parse::<SocketAddr>().unwrap()).await).await
    });
    let result = running.join().unwrap();
    stop.send(()).unwrap();
    let asked = serving.join().unwrap();
    let reached = reached.lock().unwrap().clone();
    (result, reached, asked)
}

fn get(name: &str) -> String {
    format!("GET http://{name}/ HTTP/1.1\r\nConnection: close\r\n\r\n")
}

/// A name for each address, after its place in the list.
fn named(addresses: &[&str]) -> Zone {
    addresses
        .iter()
        .enumerate()
        .map(|(at, address)| (format!("n{at}.test"), vec![vec![address.parse().unwrap()]]))
        .collect()
}

#[test]
fn public_addresses_are_reached_and_forbidden_ones_are_not() {
    if !can_make_namespaces() {
        return;
    }
    let all = [PUBLIC, FORBIDDEN, FORBIDDEN_HERE].concat();
    let count = all.len();
    let (answers, reached, _) = across(
        named(&all),
        async move |bed| {
            let mut answers = Vec::new();
            for at in 0..count {
                let answer = bed.talk(get(&format!("n{at}.test"))).await;
                answers.push((refusal(&answer).0, refusal(&answer).1.to_owned()));
            }
            let left = bed.end().await;
            assert_eq!(
                (left.summary.allowed, left.summary.denied),
                (PUBLIC.len() as u64, (count - PUBLIC.len()) as u64)
            );
            answers
        },
        false,
    );
    for (address, (status, reason)) in all.iter().zip(answers) {
        let want = if PUBLIC.contains(address) { (200, "") } else { (403, "DNS_DENIED") };
        assert_eq!((status, reason.as_str()), want, "{address}");
    }
    let public: Vec<IpAddr> = PUBLIC.iter().map(|address| address.parse().unwrap()).collect();
    assert_eq!(reached, public, "and nothing else was even tried");
}

/// Without this the test above could pass because the far side does not work.
#[test]
fn the_forbidden_addresses_would_be_reached_if_the_operator_opened_them() {
    if !can_make_namespaces() {
        return;
    }
    let (answers, reached, _) = across(
        named(FORBIDDEN),
        async |bed| {
            let mut answers = Vec::new();
            for at in 0..FORBIDDEN.len() {
                answers.push(refusal(&bed.talk(get(&format!("n{at}.test"))).await).0);
            }
            answers
        },
        true,
    );
    for (address, status) in FORBIDDEN.iter().zip(answers) {
        assert_eq!(status, 200, "{address}");
    }
    assert_eq!(reached.len(), FORBIDDEN.len());
}

#[test]
fn rebinding_and_mixed_answers_reach_only_what_was_judged() {
    if !can_make_namespaces() {
        return;
    }
    let parse =
        |addresses: &[&str]| -> Vec<IpAddr> { addresses.iter().map(|address| address.parse().unwrap()).collect() };
    let mut names = zone(&[
        ("mixed.test", &["10.0.0.1", "93.184.216.34", "192.168.7.7", "::ffff:10.0.0.1"]),
        ("all-bad.test", &["10.0.0.1", "192.168.7.7", "fc00::1"]),
        ("bad-six.test", &["fc00::1", "93.184.216.34"]),
        ("good-six.test", &["2606:2800:220:1::34", "10.0.0.1"]),
        ("dead-first.test", &["151.101.1.70", "93.184.216.34"]),
    ]);
    // A good answer once, then a forbidden one, and the other way round.
    names.insert("turns.test".into(), vec![parse(&["93.184.216.34"]), parse(&["10.0.0.1"])]);
    names.insert("returns.test".into(), vec![parse(&["10.0.0.1"]), parse(&["93.184.216.34"])]);
    names.insert("many.test".into(), vec![(1..=60).map(|last| IpAddr::from([10, 1, 0, last])).collect()]);
    let (answers, reached, asked) = across(
        names,
        async |bed| {
            let mut answers = Vec::new();
            for name in [
                "mixed",
                "all-bad",
                "bad-six",
                "good-six",
                "dead-first",
                "turns",
                "turns",
                "turns",
                "returns",
                "returns",
                "many",
            ] {
                let answer = bed.talk(get(&format!("{name}.test"))).await;
                answers.push((name, refusal(&answer).0));
            }
            let answer = bed.talk(get("never-asked.test")).await;
            answers.push(("never-asked", refusal(&answer).0));
            answers
        },
        false,
    );
    let want = [
        ("mixed", 200),
        ("all-bad", 403),
        ("bad-six", 200),
        ("good-six", 200),
        ("dead-first", 200),
        ("turns", 200),
        ("turns", 403),
        ("turns", 403),
        ("returns", 403),
        ("returns", 200),
        ("many", 403),
        ("never-asked", 403),
    ];
    assert_eq!(answers, want);
    let public: Vec<IpAddr> = PUBLIC.iter().map(|address| address.parse().unwrap()).collect();
    assert!(reached.iter().all(|address| public.contains(address)), "{reached:?}");
    assert_eq!(reached.len(), 6);
    // One question for each record type and attempt: what was judged is not asked for again.
    assert_eq!(asked.iter().filter(|name| *name == "turns.test").count(), 6, "{asked:?}");
    assert!(!asked.iter().any(|name| name == "never-asked.test"), "no query before the name is allowed");
}
