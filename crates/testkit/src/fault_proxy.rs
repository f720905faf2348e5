//! A proxy in front of a control plane that does to its calls what networks and machines in between do: resets, lost
//! answers, refusals, stalls, half-open connections. And one that only makes the way longer.
//!
//! It speaks HTTP/1.1 without TLS, one call after the other on a connection, and knows no endpoint: a [`Plan`] looks at
//! each call's path and says what strikes it. What is not struck goes through byte for byte; a client that leaves is seen
//! by the server behind, and a server that is down is a reset.

mod link;
mod message;

pub use link::DelayedLink;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::server::{ServerThread, loopback};
use message::{Message, read_message};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The connection is reset before the call had an effect.
    Reset,
    /// The call has its effect, and the connection is reset instead of the answer.
    LostAnswer,
    /// The call has its effect, half of the answer comes, then the connection is reset.
    TornAnswer,
    /// This status instead, with `Retry-After` in seconds where given.
    Status(u16, Option<u64>),
    /// A page of HTML with status 200 instead.
    Page,
    /// The call goes on after this time only, whether its client still waits or not.
    Stall(Duration),
    /// The call has its effect, and the answer comes after this time only.
    LateAnswer(Duration),
    /// The connection is half open from here on, for this time: the call reaches the server, which sees a client that
    /// waits; the client hears nothing any more, not even an end.
    HalfOpen(Duration),
}

impl Trouble {
    fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::LostAnswer => "lost answer",
            Self::TornAnswer => "torn answer",
            Self::Status(..) => "status",
            Self::Page => "page",
            Self::Stall(_) => "stall",
            Self::LateAnswer(_) => "late answer",
            Self::HalfOpen(_) => "half open",
        }
    }
}

/// Says what strikes a call, given its path.
pub type Plan = Box<dyn FnMut(&str) -> Option<Trouble> + Send>;

struct Shared {
    upstream: Mutex<SocketAddr>,
    plan: Mutex<Plan>,
    struck: Mutex<BTreeMap<&'static str, usize>>,
    calls: Mutex<BTreeMap<String, usize>>,
}

/// A running proxy; stopped when dropped.
pub struct FaultProxy {
    shared: Arc<Shared>,
    server: ServerThread,
}

impl FaultProxy {
    /// In front of this address; nothing is struck until there is a plan.
    #[must_use]
    pub fn start(upstream: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            plan: Mutex::new(Box::new(|_| None)),
            struck: Mutex::default(),
            calls: Mutex::default(),
        });
        let kept = Arc::clone(&shared);
        let server = ServerThread::start(loopback(), move |listener, _| accept(listener, kept)).unwrap();
        Self { shared, server }
    }

    /// `http://` and its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// From now on this is what strikes.
    pub fn plan(&self, plan: impl FnMut(&str) -> Option<Trouble> + Send + 'static) {
        *self.shared.plan.lock().unwrap() = Box::new(plan);
    }

    /// From now on nothing strikes; what has struck goes on.
    pub fn calm(&self) {
        self.plan(|_| None);
    }

    /// The server behind is somewhere else now.
    pub fn upstream(&self, address: SocketAddr) {
        *self.shared.upstream.lock().unwrap() = address;
    }

    /// What has struck, and how often.
    #[must_use]
    pub fn struck(&self) -> BTreeMap<&'static str, usize> {
        self.shared.struck.lock().unwrap().clone()
    }

    /// Calls so far by the last part of their path.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, usize> {
        self.shared.calls.lock().unwrap().clone()
    }
}

async fn accept(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        connections.spawn(connection(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

/// One client connection with the one behind it, until either ends or is cut.
async fn connection(mut client: TcpStream, shared: Arc<Shared>) {
    drop(client.set_nodelay(true));
    let mut server: Option<TcpStream> = None;
    loop {
        // How a connection ended shows in what the client got.
        let call = tokio::select! {
            call = read_message(&mut client) => match call {
                Ok(Some(call)) => call,
                Ok(None) | Err(_) => return,
            },
            () = left(server.as_ref()) => return,
        };
        let trouble = (shared.plan.lock().unwrap())(call.path());
        *shared.calls.lock().unwrap().entry(call.endpoint().to_owned()).or_default() += 1;
        if let Some(trouble) = trouble {
            *shared.struck.lock().unwrap().entry(trouble.name()).or_default() += 1;
        }
        let exchange = Exchange { client: &mut client, server: &mut server, shared: &shared };
        match exchange.carry(call, trouble).await {
            Ok(After::Open) => {}
            Ok(After::Closed) => return drop(client.shutdown().await),
            Ok(After::Reset) | Err(_) => {
                // Without lingering the close is a reset (socket(7), SO_LINGER).
                drop(client.set_zero_linger());
                return;
            }
        }
    }
}

enum After {
    Open,
    Closed,
    Reset,
}

struct Exchange<'a> {
    client: &'a mut TcpStream,
    server: &'a mut Option<TcpStream>,
    shared: &'a Shared,
}

impl Exchange<'_> {
    async fn carry(mut self, call: Message, trouble: Option<Trouble>) -> io::Result<After> {
        match trouble {
            None => {
                let Some(answer) = self.ask_while_waited_for(&call).await? else { return Ok(After::Reset) };
                self.client.write_all(&answer.bytes).await?;
            }
            Some(Trouble::Reset) => return Ok(After::Reset),
            Some(Trouble::LostAnswer) => {
                self.ask(&call).await?;
                return Ok(After::Reset);
            }
            Some(Trouble::TornAnswer) => {
                let answer = self.ask(&call).await?;
                self.client.write_all(&answer.bytes[..answer.bytes.len() / 2]).await?;
                return Ok(After::Reset);
            }
            Some(Trouble::Status(status, retry_after)) => {
                let wait = retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
                let body = r#"{"error":"fault","detail":"asked for by the test"}"#;
                let head = format!("HTTP/1.1 {status} Fault\r\n{wait}content-type: application/json\r\n");
                return self.say(&head, body).await;
            }
            Some(Trouble::Page) => {
                let page = "<html><body>Please sign in</body></html>";
                return self.say("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n", page).await;
            }
            Some(Trouble::Stall(time)) => {
                tokio::time::sleep(time).await;
                let answer = self.ask(&call).await?;
                self.client.write_all(&answer.bytes).await?;
            }
            Some(Trouble::LateAnswer(time)) => {
                let answer = self.ask(&call).await?;
                tokio::time::sleep(time).await;
                self.client.write_all(&answer.bytes).await?;
            }
            Some(Trouble::HalfOpen(time)) => {
                let asked = async {
                    drop(self.ask(&call).await);
                    std::future::pending::<()>().await;
                };
                // At the end of the time the server is told too.
                drop(tokio::time::timeout(time, asked).await);
                return Ok(After::Reset);
            }
        }
        Ok(After::Open)
    }

    async fn say(&mut self, head: &str, body: &str) -> io::Result<After> {
        let text = format!("{head}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        self.client.write_all(text.as_bytes()).await?;
        Ok(After::Closed)
    }

    /// The server's answer, whether the client is still there or not.
    async fn ask(&mut self, call: &Message) -> io::Result<Message> {
        ask(self.server, self.shared, call).await
    }

    /// The same; `None` once the client has left, which the server then sees.
    async fn ask_while_waited_for(&mut self, call: &Message) -> io::Result<Option<Message>> {
        tokio::select! {
            answer = ask(self.server, self.shared, call) => answer.map(Some),
            () = gone(self.client) => Ok(None),
        }
    }
}

async fn ask(server: &mut Option<TcpStream>, shared: &Shared, call: &Message) -> io::Result<Message> {
    if server.is_none() {
        let address = *shared.upstream.lock().unwrap();
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        *server = Some(stream);
    }
    let server = server.as_mut().expect("connected above");
    server.write_all(&call.bytes).await?;
    read_message(server).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// The same of the one behind, once there is one.
async fn left(server: Option<&TcpStream>) {
    match server {
        Some(server) => gone(server).await,
        None => std::future::pending().await,
    }
}

/// Completes when the peer has closed or reset.
async fn gone(stream: &TcpStream) {
    match stream.peek(&mut [0]).await {
        Ok(0) | Err(_) => {}
        // A call behind the call: its end is for later.
        Ok(_) => std::future::pending().await,
    }
}
