//! An HTTP server whose every answer is scripted to the byte: cut, stalled, changed, wrong.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The first line.
    pub(crate) line: String,
    fields: Vec<(String, String)>,
}

impl Asked {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first byte that was asked for.
    pub(crate) fn from(&self) -> Option<usize> {
        self.field("range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    head: String,
    body: Vec<u8>,
    /// Bytes of the body that are really sent, before the connection is closed or stalls.
    sent: usize,
    stalls: bool,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { head: format!("HTTP/1.1 {status} x\r\nconnection: close\r\n"), body: Vec::new(), sent: 0, stalls: false }
            .length(0)
    }

    /// The whole file.
    pub(crate) fn whole(body: &[u8]) -> Self {
        Self::without_length(body).length(body.len())
    }

    /// The whole file, its end being the connection's.
    pub(crate) fn without_length(body: &[u8]) -> Self {
        let head = "HTTP/1.1 200 x\r\nconnection: close\r\n".to_owned();
        Self { head, body: body.to_vec(), sent: body.len(), stalls: false }
    }

    /// What was asked for of a file with this tag, as an honest server answers it.
    pub(crate) fn of(file: &[u8], tag: &str, asked: &Asked) -> Self {
        match asked.from() {
            Some(from) if asked.field("if-range") == Some(tag) => Self::rest(file, from),
            _ => Self::whole(file),
        }
        .with("etag", tag)
    }

    /// A part from there to the end.
    pub(crate) fn rest(file: &[u8], from: usize) -> Self {
        let body = file[from..].to_vec();
        let head = format!(
            "HTTP/1.1 206 x\r\nconnection: close\r\ncontent-range: bytes {from}-{}/{}\r\n",
            file.len() - 1,
            file.len()
        );
        Self { head, sent: body.len(), body, stalls: false }.length(file.len() - from)
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    fn length(self, length: usize) -> Self {
        self.with("content-length", &length.to_string())
    }

    /// So many bytes, then the connection is closed.
    pub(crate) fn cut(mut self, at: usize) -> Self {
        self.sent = at.min(self.body.len());
        self
    }

    /// So many bytes, then nothing more, for as long as the server lives.
    pub(crate) fn stalled(self, at: usize) -> Self {
        Self { stalls: true, ..self.cut(at) }
    }
}

type Script = dyn Fn(usize, &Asked) -> Reply + Send + Sync;

pub(crate) struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers the nth request (from 0) as the script says.
    pub(crate) fn start(script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    pub(crate) fn start_on(
        listener: TcpListener,
        script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let (asked, stop) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::new(AtomicBool::new(false)));
        let (kept, stopped, script): (_, _, Arc<Script>) = (Arc::clone(&asked), Arc::clone(&stop), Arc::new(script));
        let thread = std::thread::spawn(move || {
            let mut threads = Vec::new();
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (kept, stopped, script) = (Arc::clone(&kept), Arc::clone(&stopped), Arc::clone(&script));
                threads.push(std::thread::spawn(move || answer(stream.unwrap(), &kept, &stopped, &*script)));
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
        Self { address, asked, stop, thread: Some(thread) }
    }

    /// Serves one file honestly.
    pub(crate) fn honest(file: &[u8]) -> Self {
        let file = file.to_vec();
        Self::start(move |_, asked| Reply::of(&file, "\"one\"", asked))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/root.tar.xz", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The first bytes that were asked for, request by request.
    pub(crate) fn ranges(&self) -> Vec<Option<usize>> {
        self.asked().iter().map(Asked::from).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; the test fails at what it waits for.
            drop(thread.join());
        }
    }
}

fn answer(mut stream: TcpStream, kept: &Mutex<Vec<Asked>>, stop: &AtomicBool, script: &Script) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let Some(asked) = read_head(&mut stream) else { return };
    let number = {
        let mut kept = kept.lock().unwrap();
        kept.push(asked.clone());
        kept.len() - 1
    };
    let reply = script(number, &asked);
    let sent = stream
        .write_all(format!("{}\r\n", reply.head).as_bytes())
        .and_then(|()| stream.write_all(&reply.body[..reply.sent]));
    if reply.stalls && sent.is_ok() {
        let end = Instant::now() + Duration::from_secs(50);
        while !stop.load(Ordering::SeqCst) && Instant::now() < end && is_open(&stream) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut byte = [0; 1];
    !matches!(stream.peek(&mut byte), Ok(0))
}

fn read_head(stream: &mut TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let mut lines = text.lines();
    let line = lines.next()?.to_owned();
    let fields = lines.filter_map(|line| line.split_once(": "));
    Some(Asked { line, fields: fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect() })
}
