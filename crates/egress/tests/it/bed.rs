//! What a test needs: a proxy on a real listener, a small DNS server, origins on loopback.
//!
//! Loopback is opened by `allow_private` where the address ladder is not what the test is about;
//! `netns` has a bed in which nothing is opened.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use conduits::{DirectiveId, NetCapability};
use egress::{
    AuditLog, AuditSettings, Credential, DENIAL_QUEUE, Denial, EgressCounters, EgressPolicy, EgressSummary,
    OperatorRules, Proxy, ProxyListener, ProxyParts, Resolver, UpstreamProxy,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// No test waits longer than this for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The answers of the DNS server: for each name a list of answers, one for each question, the last
/// one staying. An answer is a list of addresses; an absent name does not exist.
pub(crate) type Zone = HashMap<String, Vec<Vec<IpAddr>>>;

/// Names that are aliases of others.
pub(crate) type Aliases = HashMap<String, String>;

pub(crate) struct Dns {
    pub(crate) address: SocketAddr,
    /// Names asked for, in order, once for each record type.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Dns {
    pub(crate) async fn start(zone: Zone, at: SocketAddr) -> Self {
        Self::start_with(zone, Aliases::new(), at).await
    }

    pub(crate) async fn start_with(zone: Zone, aliases: Aliases, at: SocketAddr) -> Self {
        let socket = UdpSocket::bind(at).await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        task.spawn(serve_dns(socket, zone, aliases, Arc::clone(&asked)));
        Self { address, asked, _task: task }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve_dns(socket: UdpSocket, zone: Zone, aliases: Aliases, asked: Arc<Mutex<Vec<String>>>) {
    let mut packet = [0; 1500];
    let mut served: HashMap<(String, u16), usize> = HashMap::new();
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut packet).await else { return };
        let query = &packet[..length];
        let (mut at, mut labels) = (12, Vec::new());
        while query[at] != 0 {
            let size = usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..at + 1 + size]).to_ascii_lowercase());
            at += size + 1;
        }
        let name = labels.join(".");
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let question = &query[12..at + 5];
        asked.lock().unwrap().push(name.clone());
        let time = served.entry((name.clone(), kind)).or_default();
        let mut chain = vec![name.clone()];
        while let Some(target) = chain.last().and_then(|last| aliases.get(last)) {
            chain.push(target.clone());
        }
        let owner = chain.last().unwrap();
        let answer = zone.get(owner).map(|answers| &answers[(*time).min(answers.len() - 1)]);
        *time += 1;
        let records: Vec<Vec<u8>> = answer
            .into_iter()
            .flatten()
            .filter_map(|address| match (address, kind) {
                (IpAddr::V4(ip), 1) => Some(ip.octets().to_vec()),
                (IpAddr::V6(ip), 28) => Some(ip.octets().to_vec()),
                _ => None,
            })
            .collect();
        let code = if answer.is_some() { 0 } else { 3 };
        let mut reply = [&query[..2], &[0x85, 0x80 | code, 0, 1]].concat();
        reply.extend(u16::try_from(records.len() + chain.len() - 1).unwrap().to_be_bytes());
        reply.extend([0; 4]);
        reply.extend(question);
        // Each record: the name it is of, type, class, and a time to live of 0 (asked anew each time).
        let mut push = |of: &str, kind: u16, data: &[u8]| {
            // A pointer to the question's name where it is that one: many records have to fit.
            reply.extend(if of == name { vec![0xc0, 12] } else { wire_name(of) });
            reply.extend(kind.to_be_bytes());
            reply.extend([0, 1, 0, 0, 0, 0]);
            reply.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            reply.extend(data);
        };
        for pair in chain.windows(2) {
            push(&pair[0], 5, &wire_name(&pair[1]));
        }
        for data in records {
            push(owner, kind, &data);
        }
        socket.send_to(&reply, peer).await.unwrap();
    }
}

fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

pub(crate) fn zone(names: &[(&str, &[&str])]) -> Zone {
    names
        .iter()
        .map(|(name, addresses)| ((*name).into(), vec![addresses.iter().map(|ip| ip.parse().unwrap()).collect()]))
        .collect()
}

/// What differs from the ordinary proxy of a test.
pub(crate) struct Setup {
    pub(crate) net: Value,
    pub(crate) rules: OperatorRules,
    pub(crate) zone: Zone,
    pub(crate) aliases: Aliases,
    pub(crate) upstream: Option<UpstreamProxy>,
    pub(crate) credential: Option<Credential>,
    /// Where the audit goes, if not to a file of the bed's own.
    pub(crate) audit_sink: Option<PathBuf>,
    /// A layer of the policy that is left out.
    #[cfg(feature = "knockout")]
    pub(crate) knockout: Option<egress::Knockout>,
}

impl Setup {
    /// The entries are allowed, loopback is opened, and every `*.test` name used here is 127.0.0.1.
    pub(crate) fn allowing(entries: &[&str]) -> Self {
        let rules = OperatorRules { allow_private: vec!["127.0.0.0/8".parse().unwrap()], ..OperatorRules::default() };
        let names = ["a.test", "b.test", "c.test", "xn--bcher-kva.test", "closed.test"];
        Self {
            net: json!({"mode": "allowlist", "allow": entries}),
            rules,
            zone: names.iter().map(|name| ((*name).into(), vec![vec!["127.0.0.1".parse().unwrap()]])).collect(),
            aliases: Aliases::new(),
            upstream: None,
            credential: None,
            audit_sink: None,
            #[cfg(feature = "knockout")]
            knockout: None,
        }
    }

    pub(crate) async fn start(self) -> Bed {
        let at = "127.0.0.1:0".parse().unwrap();
        let dns = Dns::start_with(self.zone.clone(), self.aliases.clone(), at).await;
        let server = dns.address;
        Bed::start(self, server, Some(dns)).await
    }

    /// With a name server that is there already.
    pub(crate) async fn start_with(self, server: SocketAddr) -> Bed {
        Bed::start(self, server, None).await
    }
}

pub(crate) struct Bed {
    pub(crate) proxy: SocketAddr,
    dns: Option<Dns>,
    pub(crate) counters: Arc<EgressCounters>,
    pub(crate) denials: mpsc::Receiver<Denial>,
    audit_path: PathBuf,
    cancel: CancellationToken,
    serving: JoinHandle<EgressSummary>,
    tasks: TaskTracker,
    _folder: tempfile::TempDir,
}

/// Everything a proxy leaves behind.
pub(crate) struct Left {
    pub(crate) summary: EgressSummary,
    pub(crate) audit: Vec<Value>,
    pub(crate) denials: Vec<String>,
}

impl Left {
    /// `method host:port decision reason` of each line.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let line = |line: &Value| {
            format!(
                "{} {}:{} {} {}",
                text(line, "method"),
                text(line, "dest_host"),
                line["dest_port"],
                text(line, "decision"),
                text(line, "reason_code")
            )
        };
        self.audit.iter().map(line).collect()
    }
}

impl Bed {
    async fn start(setup: Setup, server: SocketAddr, dns: Option<Dns>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let audit_path = setup.audit_sink.clone().unwrap_or_else(|| folder.path().join("egress.jsonl"));
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let audit =
            AuditLog::start(AuditSettings::at(audit_path.clone()), &tasks, CancellationToken::new()).await.unwrap();
        let net = NetCapability::from_value(&setup.net).unwrap();
        let policy = EgressPolicy::compile(&net, &setup.rules, tokio::time::Instant::now()).unwrap();
        #[cfg(feature = "knockout")]
        let policy = match setup.knockout {
            Some(layer) => policy.without(layer),
            None => policy,
        };
        let counters = Arc::new(EgressCounters::default());
        let (denied, denials) = mpsc::channel(DENIAL_QUEUE);
        let proxy = Proxy::new(ProxyParts {
            directive_id: "d-1".parse::<DirectiveId>().unwrap(),
            policy,
            resolver: Resolver::with_nameservers(&[server]).unwrap(),
            upstream: setup.upstream,
            audit,
            counters: Arc::clone(&counters),
            denials: denied,
            credential: setup.credential,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(proxy.serve(ProxyListener::Tcp(listener), cancel.clone()));
        Self { proxy: address, dns, counters, denials, audit_path, cancel, serving, tasks, _folder: folder }
    }

    /// What the bed's own name server was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.dns.as_ref().unwrap().asked()
    }

    pub(crate) async fn client(&self) -> Client {
        Client(TcpStream::connect(self.proxy).await.unwrap())
    }

    /// One connection: sends, and reads to the end.
    pub(crate) async fn talk(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.client().await;
        client.send(bytes).await;
        client.rest_text().await
    }

    /// Stops the proxy and gathers what it left.
    pub(crate) async fn end(mut self) -> Left {
        self.cancel.cancel();
        let summary = tokio::time::timeout(PATIENCE, self.serving).await.expect("the proxy ends").unwrap();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.expect("the audit ends");
        let text = std::fs::read_to_string(&self.audit_path).unwrap();
        let audit = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut denials = Vec::new();
        while let Ok(denial) = self.denials.try_recv() {
            denials.push(denial.to_string());
        }
        Left { summary, audit, denials }
    }
}

pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A refusal may close the connection before all is sent; what matters is what is read.
        self.0.write_all(bytes.as_ref()).await.ok();
    }

    pub(crate) async fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        tokio::time::timeout(PATIENCE, self.0.read_exact(&mut bytes)).await.expect("in time").expect("bytes");
        bytes
    }

    pub(crate) async fn expect(&mut self, text: &str) {
        let got = self.read_exactly(text.len()).await;
        assert_eq!(String::from_utf8_lossy(&got), text);
    }

    /// Up to and including the empty line of a header block.
    pub(crate) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.read_exactly(1).await);
        }
        String::from_utf8(head).unwrap()
    }

    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset after the last byte is an end, too.
        tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await.expect("closed in time").ok();
        bytes
    }

    pub(crate) async fn rest_text(&mut self) -> String {
        String::from_utf8_lossy(&self.rest().await).into_owned()
    }

    /// Opens a tunnel by CONNECT.
    pub(crate) async fn tunnel(&mut self, to: &str) {
        self.send(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")).await;
        self.expect("HTTP/1.1 200 Connection established\r\n\r\n").await;
    }
}

/// An origin that runs `serve` for each connection.
pub(crate) struct Origin {
    pub(crate) port: u16,
    _task: JoinSet<()>,
}

impl Origin {
    pub(crate) async fn start<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0", serve).await
    }

    pub(crate) async fn start_at<F, R>(at: &str, serve: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(at).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                serving.spawn(serve(stream));
                while serving.try_join_next().is_some() {}
            }
        });
        Self { port, _task: task }
    }

    /// Sends back what it gets, and closes when the client has.
    pub(crate) async fn echo() -> Self {
        Self::start(|mut stream| async move {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.ok();
            write.shutdown().await.ok();
        })
        .await
    }

    /// Answers each request whose head it reads with these bytes, on one connection.
    pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |mut stream| {
            let answer = answer.clone();
            async move {
                while read_head(&mut stream).await.is_some() {
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Answers each request with the head it read as the body.
    pub(crate) async fn mirror() -> Self {
        Self::start(|mut stream| async move {
            while let Some(head) = read_head(&mut stream).await {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    /// Records everything a connection sends until it is quiet for a moment, then answers 200 and closes.
    pub(crate) async fn recording() -> (Self, Arc<Mutex<Vec<u8>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let origin = Self::start(move |mut stream| {
            let record = Arc::clone(&record);
            async move {
                let mut buffer = [0; 4096];
                while let Ok(Ok(count @ 1..)) =
                    tokio::time::timeout(Duration::from_millis(300), stream.read(&mut buffer)).await
                {
                    record.lock().unwrap().extend_from_slice(&buffer[..count]);
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await.ok();
            }
        })
        .await;
        (origin, seen)
    }
}

pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    String::from_utf8(head).ok()
}

/// The status, the reason header and the body of a refusal.
pub(crate) fn refusal(answer: &str) -> (u16, &str, &str) {
    let status = answer.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let reason =
        answer.split("X-Nexus-Egress-Reason: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap_or("");
    (status, reason, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body))
}
