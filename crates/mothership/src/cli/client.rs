//! A client of the user API: where it is, with which token, trusting whom.

use std::path::{Path, PathBuf};
use std::time::Duration;

use conduits::ErrorBody;
use reqwest::{Certificate, Method, Response, StatusCode};
use serde_json::Value;

use super::args::Remote;

/// A call's time, but for live logs.
const CALL: Duration = Duration::from_secs(30);
/// The time to reach the mothership.
const CONNECT: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The data directory does not say where the mothership is.
    #[error(
        "{path}: {source}; start `mothership serve --data-dir` with this directory, or give --server, --token-file and --ca-file"
    )]
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
    /// Finds server, token and CA: as told, else in the data directory.
    pub(super) fn open(data_dir: &Path, remote: &Remote) -> Result<Self, ClientError> {
        let server = match &remote.server {
            Some(server) => server.clone(),
            None => read(&data_dir.join("address"))?,
        };
        let server = server.trim().trim_end_matches('/').to_owned();
        if server.starts_with("http://") && !is_loopback(&server) {
            return Err(ClientError::Plain(server));
        }
        let token_file = remote.token_file.clone().unwrap_or_else(|| data_dir.join("admin-token"));
        let token = read(&token_file)?.trim().to_owned();
        // Proxies of the environment are not for a control plane; and only main reads the environment.
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT).no_proxy();
        let ca_file = remote.ca_file.clone().or_else(|| remote.server.is_none().then(|| data_dir.join("ca.pem")));
        if let Some(path) = ca_file.filter(|_| server.starts_with("https://")) {
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
        let response = request.send().await.map_err(|error| transport(&url, &error))?;
        accepted(&url, response).await
    }
}

fn read(path: &Path) -> Result<String, ClientError> {
    std::fs::read_to_string(path).map_err(|source| ClientError::File { path: path.to_owned(), source })
}

/// Whether a `http://` URL can only mean this machine.
fn is_loopback(url: &str) -> bool {
    let rest = url.trim_start_matches("http://");
    let authority = rest.split('/').next().unwrap_or_default();
    authority.parse::<std::net::SocketAddr>().map_or_else(
        |_| {
            let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
            host == "localhost" || host == "127.0.0.1" || host == "[::1]"
        },
        |address| address.ip().is_loopback(),
    )
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
    let mut detail = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        if !detail.is_empty() {
            detail.push_str(": ");
        }
        detail.push_str(&error.to_string());
        cause = error.source();
    }
    if detail.is_empty() {
        detail = error.to_string();
    }
    ClientError::Transport { url: url.to_owned(), detail }
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
        for url in ["http://127.0.0.1:3000", "http://localhost:1", "http://[::1]:1", "http://127.9.9.9:1/x"] {
            assert!(is_loopback(url), "{url}");
        }
        for url in
            ["http://example.com", "http://10.0.0.1:3000", "http://localhost.example.com:1", "http://127.0.0.1.nip.io"]
        {
            assert!(!is_loopback(url), "{url}");
        }
    }

    #[test]
    fn an_id_stays_one_segment() {
        assert_eq!(segment("a-1_b.c"), "a-1_b.c");
        assert_eq!(segment("../x?y"), "..%2fx%3fy");
    }
}
