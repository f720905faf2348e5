//! A client of the user API: where it is, with which token, trusting whom.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conduits::ErrorBody;
use reqwest::{Certificate, Method, Response, StatusCode, Url};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::args::Remote;
use super::plain;
use crate::serve::directory;

/// A call's time, but for live logs.
const CALL: Duration = Duration::from_secs(30);
/// The time to reach the mothership.
const CONNECT: Duration = Duration::from_secs(10);
/// The time that a mothership which was just started may take until it listens.
const STARTING: Duration = Duration::from_secs(5);
/// Between two looks for its address.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves from the data directory.
    #[error(
        "waited {seconds} s for {path}, which a mothership writes once it listens; start one with `mothership serve` and this data directory, or give --server, --token-file and --ca-file"
    )]
    NotServed {
        /// The file that was waited for.
        path: PathBuf,
        /// For how long.
        seconds: u64,
    },
    /// A file of the data directory, or one that was named, cannot be read.
    #[error("{path}: {source}; run this as the user of the mothership, or give --server, --token-file and --ca-file")]
    File {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// The CA certificate is not one.
    #[error("{path} is not a PEM certificate: {detail}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why not.
        detail: String,
    },
    /// The URL is not one of a mothership.
    #[error("{url:?} is not the URL of a mothership: {why}; write https://host:port")]
    Server {
        /// The text.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The API token would be sent in the clear.
    #[error("{0} is plain HTTP off loopback, and the API token would be readable on the way; use https")]
    Plain(String),
    /// The mothership cannot be reached or breaks off.
    #[error("{url}: {detail}")]
    Transport {
        /// What was called.
        url: String,
        /// The whole chain of causes.
        detail: String,
    },
    /// The mothership says no.
    #[error("{detail} ({status}, {code})")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The contractual code.
        code: String,
        /// Why, one line.
        detail: String,
    },
}

/// The client.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    server: String,
    token: String,
}

impl Client {
    /// Finds server, token and CA: as told, else in the data directory, where a mothership may be just starting.
    pub(super) async fn open(data_dir: &Path, remote: &Remote) -> Result<Self, ClientError> {
        let server = match &remote.server {
            Some(server) => server.clone(),
            None => address(&data_dir.join(directory::ADDRESS), STARTING).await?,
        };
        let url = server_url(server.trim())?;
        let server = url.as_str().trim_end_matches('/').to_owned();
        let token_file = remote.token_file.clone().unwrap_or_else(|| data_dir.join(directory::ADMIN_TOKEN));
        let token = read(&token_file)?.trim().to_owned();
        // Proxies of the environment are not for a control plane; and only main reads the environment.
        // A redirect would take the token to a place that nobody checked.
        let mut builder =
            reqwest::Client::builder().connect_timeout(CONNECT).no_proxy().redirect(reqwest::redirect::Policy::none());
        let ca_file = remote
            .ca_file
            .clone()
            .or_else(|| remote.server.is_none().then(|| data_dir.join(directory::CA_CERTIFICATE)));
        if let Some(path) = ca_file.filter(|_| url.scheme() == "https") {
            let pem = read(&path)?;
            let certificate = Certificate::from_pem(pem.as_bytes())
                .map_err(|error| ClientError::Ca { path, detail: error.to_string() })?;
            builder = builder.tls_certs_only([certificate]);
        }
        let http = builder.build().map_err(|error| transport(&server, &error))?;
        Ok(Self { http, server, token })
    }

    /// A call with a JSON answer; none for an empty one.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let url = format!("{}{path}", self.server);
        let mut request = self.http.request(method, &url).bearer_auth(&self.token).timeout(CALL);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| transport(&url, &error))?;
        let response = accepted(&url, response).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        response.json().await.map_err(|error| transport(&url, &error))
    }

    /// A GET.
    pub(super) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, path, None).await
    }

    /// A POST.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Opens the live log of a directive, after the event `after` where given.
    pub(super) async fn live(&self, id: &str, after: Option<&str>) -> Result<Response, ClientError> {
        let url = format!("{}/api/v1/directives/{}/logs/stream", self.server, segment(id));
        let mut request = self.http.get(&url).bearer_auth(&self.token);
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        // The answer's head is bounded, its body is followed for as long as it grows.
        let response = timeout(CALL, request.send())
            .await
            .map_err(|_| ClientError::Transport {
                url: url.clone(),
                detail: format!("no answer within {} s", CALL.as_secs()),
            })?
            .map_err(|error| transport(&url, &error))?;
        accepted(&url, response).await
    }
}

/// What the file of the address says, once it is there: `mothership serve &` and the next command of a script meet here.
async fn address(path: &Path, patience: Duration) -> Result<String, ClientError> {
    let deadline = Instant::now() + patience;
    loop {
        match read(path) {
            Err(ClientError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
        if Instant::now() >= deadline {
            return Err(ClientError::NotServed { path: path.to_owned(), seconds: patience.as_secs() });
        }
        sleep(LOOK_AGAIN).await;
    }
}

fn read(path: &Path) -> Result<String, ClientError> {
    std::fs::read_to_string(path).map_err(|source| ClientError::File { path: path.to_owned(), source })
}

/// The URL of a mothership, by the rules that the client library resolves it by: a token goes over HTTPS, or in the clear
/// to this machine and no other.
fn server_url(text: &str) -> Result<Url, ClientError> {
    let wrong = |why: &str| ClientError::Server { url: text.to_owned(), why: why.to_owned() };
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        // The text is not repeated: it may hold a password.
        let why = "it holds a user name; the API token is the identity, remove it".to_owned();
        return Err(ClientError::Server { url: url.host_str().unwrap_or_default().to_owned(), why });
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a query or a fragment; remove it"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(url.host_str().unwrap_or_default()) => Ok(url),
        "http" => Err(ClientError::Plain(text.to_owned())),
        _ => Err(wrong("it does not begin with https://")),
    }
}

/// Whether a host of a parsed URL can only mean this machine.
fn is_loopback(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || inner.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// A piece of a path. Ids have no other characters; anything else must not become another route.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&conduits::fingerprint::hex(&[byte]));
        }
    }
    out
}

pub(super) fn transport(url: &str, error: &reqwest::Error) -> ClientError {
    let detail = plain::words(error).map_or_else(|| causes(error), str::to_owned);
    ClientError::Transport { url: url.to_owned(), detail }
}

fn causes(error: &reqwest::Error) -> String {
    let mut detail = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        if !detail.is_empty() {
            detail.push_str(": ");
        }
        detail.push_str(&error.to_string());
        cause = error.source();
    }
    if detail.is_empty() { error.to_string() } else { detail }
}

async fn accepted(url: &str, response: Response) -> Result<Response, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.text().await.map_err(|error| transport(url, &error))?;
    let body: ErrorBody = serde_json::from_str(&text).unwrap_or_default();
    Err(ClientError::Refused {
        status,
        code: body.error,
        detail: if body.detail.is_empty() { format!("{url} answered {status}") } else { body.detail },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_in_the_clear_on_loopback_only() {
        for url in [
            "http://127.0.0.1:3000",
            "http://localhost:1",
            "HTTP://LocalHost:1/",
            "http://[::1]:1",
            "http://[::ffff:127.0.0.1]:1",
            "http://127.9.9.9:1/x",
            "https://example.com",
            "HTTPS://10.0.0.1:3000/base/",
        ] {
            assert!(server_url(url).is_ok(), "{url}");
        }
        for url in [
            "http://example.com",
            "http://10.0.0.1:3000",
            "http://0.0.0.0:3000",
            "HTTP://0.0.0.0:3000",
            "hTTp://example.com",
            "http:example.com",
            "http:\\\\example.com",
            "\thttp://example.com",
            "ht\ntp://example.com",
            "http://localhost.example.com:1",
            "http://127.0.0.1.nip.io",
            "http://[::]:1",
        ] {
            assert!(matches!(server_url(url), Err(ClientError::Plain(_))), "{url:?}");
        }
        for url in ["", "localhost:3000", "10.0.0.1:3000", "ftp://localhost", "https://", "https://h?x", "https://h#x"]
        {
            assert!(matches!(server_url(url), Err(ClientError::Server { .. })), "{url}");
        }
        let named = server_url("http://127.0.0.1:hunter2@example.com").unwrap_err().to_string();
        assert!(!named.contains("hunter2") && named.contains("user name"), "{named}");
    }

    #[test]
    fn an_id_stays_one_segment() {
        assert_eq!(segment("a-1_b.c"), "a-1_b.c");
        assert_eq!(segment("../x?y"), "..%2fx%3fy");
    }
}
