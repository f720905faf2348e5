//! A name server that says what the test wants, each time something else if need be: for rebinding, timeouts and
//! chains of names. It speaks just enough of RFC 1035 over UDP and TCP.

mod message;

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the threads look whether they should end.
const TICK: Duration = Duration::from_millis(20);
/// The longest chain of names that is followed.
const MAX_CHAIN: usize = 8;
/// The life of a record where the test does not say, in seconds: answers are asked for again each time.
const TTL: u32 = 0;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueryType {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Anything else, by number.
    Other(u16),
}

/// One resource record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The name it is about; `None` for the name that was asked for.
    pub owner: Option<String>,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: RecordData,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordData {
    /// An address; an A or AAAA record by its family.
    Address(IpAddr),
    /// Another name; the server adds that name's own answer where it knows it.
    Cname(String),
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// These records; none is "no such record".
    Records(Vec<Record>),
    /// The name does not exist.
    NxDomain,
    /// The server failed.
    ServFail,
    /// Nothing is sent.
    Silent,
    /// The records, but only after this time.
    Late(Duration, Vec<Record>),
}

impl Reply {
    /// Addresses with a time to live of 0.
    #[must_use]
    pub fn addresses(addresses: &[&str]) -> Self {
        let record = |text: &&str| Record { owner: None, ttl: TTL, data: RecordData::Address(text.parse().unwrap()) };
        Self::Records(addresses.iter().map(record).collect())
    }

    /// Another name.
    #[must_use]
    pub fn cname(target: &str) -> Self {
        Self::Records(vec![Record { owner: None, ttl: TTL, data: RecordData::Cname(target.to_owned()) }])
    }
}

#[derive(Default)]
struct Zone {
    replies: HashMap<(String, QueryType), Vec<Reply>>,
    asked: Vec<(String, QueryType)>,
}

impl Zone {
    /// The reply that is due for a name: each of a sequence once, the last one for ever. A name that is known for
    /// another type exists without records.
    fn due(&mut self, name: &str, kind: QueryType) -> Reply {
        let key = (name.to_ascii_lowercase(), kind);
        if let Some(replies) = self.replies.get_mut(&key) {
            return if replies.len() > 1 { replies.remove(0) } else { replies[0].clone() };
        }
        let exists = self.replies.keys().any(|(known, _)| *known == key.0);
        if exists { Reply::Records(Vec::new()) } else { Reply::NxDomain }
    }

    fn answer(&mut self, name: &str, kind: QueryType) -> Reply {
        self.asked.push((name.to_ascii_lowercase(), kind));
        let mut reply = self.due(name, kind);
        if let Reply::Records(records) | Reply::Late(_, records) = &mut reply {
            self.follow(records, kind);
        }
        reply
    }

    /// Adds the answers of the names that the records lead to.
    fn follow(&mut self, records: &mut Vec<Record>, kind: QueryType) {
        for _ in 0..MAX_CHAIN {
            let Some(Record { data: RecordData::Cname(target), .. }) = records.last() else { return };
            let target = target.clone();
            let Reply::Records(more) = self.due(&target, kind) else { return };
            if more.is_empty() {
                return;
            }
            let owned = |record: Record| Record { owner: record.owner.or_else(|| Some(target.clone())), ..record };
            records.extend(more.into_iter().map(owned));
        }
    }
}

/// The running server.
pub struct DnsServer {
    zone: Arc<Mutex<Zone>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl DnsServer {
    /// Serves on these sockets, wherever they are.
    pub fn start(udp: UdpSocket, tcp: TcpListener) -> io::Result<Self> {
        let zone = Arc::<Mutex<Zone>>::default();
        let stop = Arc::<AtomicBool>::default();
        udp.set_read_timeout(Some(TICK))?;
        tcp.set_nonblocking(true)?;
        let threads = vec![
            {
                let (zone, stop) = (Arc::clone(&zone), Arc::clone(&stop));
                std::thread::Builder::new().name("dns-udp".to_owned()).spawn(move || serve_udp(&udp, &zone, &stop))?
            },
            {
                let (zone, stop) = (Arc::clone(&zone), Arc::clone(&stop));
                std::thread::Builder::new().name("dns-tcp".to_owned()).spawn(move || serve_tcp(&tcp, &zone, &stop))?
            },
        ];
        Ok(Self { zone, stop, threads })
    }

    /// The name has these addresses, of both families, for ever.
    pub fn host(&self, name: &str, addresses: &[&str]) {
        for kind in [QueryType::A, QueryType::Aaaa] {
            let of_kind = |text: &&&str| text.contains(':') == (kind == QueryType::Aaaa);
            let addresses: Vec<&str> = addresses.iter().filter(of_kind).copied().collect();
            self.sequence(name, kind, vec![Reply::addresses(&addresses)]);
        }
    }

    /// The name is another name, for both families.
    pub fn alias(&self, name: &str, target: &str) {
        for kind in [QueryType::A, QueryType::Aaaa] {
            self.sequence(name, kind, vec![Reply::cname(target)]);
        }
    }

    /// The name answers this, one after the other and then the last one for ever.
    pub fn sequence(&self, name: &str, kind: QueryType, replies: Vec<Reply>) {
        assert!(!replies.is_empty(), "{name} needs a reply");
        self.zone.lock().unwrap().replies.insert((name.to_ascii_lowercase(), kind), replies);
    }

    /// Both families of the name answer this for ever.
    pub fn always(&self, name: &str, reply: &Reply) {
        for kind in [QueryType::A, QueryType::Aaaa] {
            self.sequence(name, kind, vec![reply.clone()]);
        }
    }

    /// What was asked so far, in lower case.
    #[must_use]
    pub fn asked(&self) -> Vec<(String, QueryType)> {
        self.zone.lock().unwrap().asked.clone()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// The bytes to send back, and how long to wait before; nothing for what is no query or meets silence.
fn respond(query: &[u8], zone: &Mutex<Zone>) -> Option<(Duration, Vec<u8>)> {
    let question = message::Question::read(query)?;
    let reply = zone.lock().unwrap().answer(&question.name, question.kind);
    match reply {
        Reply::Silent => None,
        Reply::Records(records) => Some((Duration::ZERO, question.answer(message::NO_ERROR, &records))),
        Reply::Late(time, records) => Some((time, question.answer(message::NO_ERROR, &records))),
        Reply::NxDomain => Some((Duration::ZERO, question.answer(message::NX_DOMAIN, &[]))),
        Reply::ServFail => Some((Duration::ZERO, question.answer(message::SERV_FAIL, &[]))),
    }
}

fn serve_udp(socket: &UdpSocket, zone: &Mutex<Zone>, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    // Late answers wait here, so that they hold up no others.
    let mut late: Vec<(std::time::Instant, Vec<u8>, std::net::SocketAddr)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let now = std::time::Instant::now();
        for (_, answer, from) in late.extract_if(.., |(due, ..)| *due <= now) {
            drop(socket.send_to(&answer, from));
        }
        let Ok((read, from)) = socket.recv_from(&mut buffer) else { continue };
        match respond(&buffer[..read], zone) {
            Some((Duration::ZERO, answer)) => drop(socket.send_to(&answer, from)),
            Some((wait, answer)) => late.push((std::time::Instant::now() + wait, answer, from)),
            None => {}
        }
    }
}

fn serve_tcp(listener: &TcpListener, zone: &Mutex<Zone>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            // A client that goes away in between is its own matter.
            Ok((stream, _)) => drop(one_by_tcp(stream, zone)),
            Err(_) => std::thread::sleep(TICK),
        }
    }
}

/// One query, with its length before it (RFC 1035 §4.2.2).
fn one_by_tcp(mut stream: TcpStream, zone: &Mutex<Zone>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut query)?;
    let Some((wait, answer)) = respond(&query, zone) else { return Ok(()) };
    std::thread::sleep(wait);
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&answer)
}
