//! Enrolment: a single-use token in, an identity on disk out.
//!
//! ```text
//! out dir prepared ─▶ key made, kept aside ─▶ request ─▶ answer checked ─▶ files put in place, territory.json last
//!        (nothing there that would be replaced, before the token is spent)
//! ```
//!
//! Promises: the private key never leaves the host and is never readable by others; the mothership is verified by the
//! CA file that was named, else by the digest in the token, else by the configured CA file, else by the system's roots,
//! and never not at all; nothing is replaced unless that was asked for; a failure leaves no half identity behind.
//!
//! Leaves to others: reading the command line, printing, and using the identity.

mod exchange;
mod files;
mod trust;

use std::io::Read;
use std::path::{Path, PathBuf};

use conduits::EnrollToken;

pub(crate) use exchange::{KeyAndRequest, causes, check_bundle, leaf_of};
pub use exchange::{KeyKind, platform_name};
pub use trust::{FirstTrust, TrustError, client_config};

use crate::cli::{EnrollArgs, TokenSource};
use crate::config::{Config, TerritoryRecord};

/// Largest token file.
const MAX_TOKEN_BYTES: u64 = 8 * 1024;

/// Why an enrolment did not happen. No message holds the token.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The token cannot be read.
    #[error("the enrolment token cannot be read from {from}: {source}")]
    ReadToken {
        /// Where from.
        from: String,
        /// Why.
        source: std::io::Error,
    },
    /// What was read is no token.
    #[error("there is no enrolment token in {from}: {why}; `mothership enroll-token create` prints one")]
    NoToken {
        /// Where from.
        from: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The token is none.
    #[error(transparent)]
    Token(#[from] conduits::EnrollTokenError),
    /// The roots cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A key or certificate request could not be made.
    #[error("cannot make the key and certificate request: {0}")]
    Key(#[from] rcgen::Error),
    /// A file that is there would be replaced.
    #[error("{} is there already: this host is enrolled; --force replaces it", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// The out dir is not safe to put a key in.
    #[error("{} can be written by others: chmod go-w {} first", path.display(), path.display())]
    OpenDirectory {
        /// Which.
        path: PathBuf,
    },
    /// A file or the directory could not be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The mothership was not reached, or was not the one it should be.
    #[error("cannot reach {server}: {why}")]
    Unreachable {
        /// Its address.
        server: String,
        /// What happened, with its causes.
        why: String,
    },
    /// 422: the token or the request.
    #[error("the mothership refused the enrolment: {detail} (a token works once and for a limited time)")]
    Refused {
        /// In its own words.
        detail: String,
    },
    /// 429: too many tries.
    #[error("too many attempts to enrol from this address: try again in {seconds} s")]
    TooMany {
        /// From its `Retry-After`.
        seconds: u64,
    },
    /// Any other answer.
    #[error("{server} answered {status}, which is no enrolment{}", detail_of(detail))]
    Answer {
        /// Its address.
        server: String,
        /// The HTTP status.
        status: u16,
        /// The body's own words, may be empty.
        detail: String,
    },
    /// The answer cannot be used.
    #[error("the mothership's answer cannot be used: {0}")]
    Unusable(String),
}

fn detail_of(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

/// A finished enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// What `territory.json` holds.
    pub record: TerritoryRecord,
    /// The file it is in; absolute, as are the others.
    pub territory_file: PathBuf,
    /// The certificate, where one was asked for.
    pub client_cert_file: Option<PathBuf>,
    /// Its key.
    pub client_key_file: Option<PathBuf>,
    /// The authorities, where the mothership sent them.
    pub ca_file: Option<PathBuf>,
    /// What the operator should know, one line each.
    pub notes: Vec<String>,
}

/// Reads the token from where the command line says. White space around it is dropped: files end in a line feed.
///
/// # Errors
/// When it cannot be read or is no token.
pub fn read_token(source: &TokenSource, stdin: &mut dyn Read) -> Result<EnrollToken, EnrollError> {
    let unreadable = |from: &str| {
        let from = from.to_owned();
        move |source| EnrollError::ReadToken { from, source }
    };
    let (mut text, mut from) = (String::new(), "the command line".to_owned());
    match source {
        TokenSource::Argument(token) => text.clone_from(token),
        TokenSource::StandardInput => {
            "standard input".clone_into(&mut from);
            stdin.take(MAX_TOKEN_BYTES).read_to_string(&mut text).map_err(unreadable("standard input"))?;
        }
        TokenSource::File(path) => {
            from = path.display().to_string();
            let unreadable = unreadable(&from);
            let file = std::fs::File::open(path).map_err(unreadable.clone())?;
            file.take(MAX_TOKEN_BYTES).read_to_string(&mut text).map_err(unreadable)?;
        }
    }
    let text = text.trim();
    match not_a_token(text) {
        Some(why) => Err(EnrollError::NoToken { from, why }),
        None => Ok(text.to_owned().try_into()?),
    }
}

/// Why a text cannot be a token at all: one goes into the head of a request, in one piece.
fn not_a_token(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.len() as u64 >= MAX_TOKEN_BYTES {
        return Some("it is too long for a token");
    }
    if text.lines().count() > 1 {
        return Some("it has several lines");
    }
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    (!plain).then_some("it holds blanks or characters that no token has")
}

/// Enrols this host. `now` goes into the record.
///
/// # Errors
/// See [`EnrollError`]; nothing is left behind then, and the token is spent only if the mothership says so.
pub async fn enroll(
    args: &EnrollArgs,
    config: &Config,
    token: EnrollToken,
    now: jiff::Timestamp,
) -> Result<Enrolled, EnrollError> {
    let trust = FirstTrust::choose(args.ca_file.as_deref(), token.ca_key_sha256(), config.tls.ca_file.as_deref())?;
    let mut out = files::OutDir::prepare(&args.out_dir, args.with_csr, args.force)?;
    let name = args.name.as_deref().unwrap_or(&config.name);
    let pair = if args.with_csr { Some(exchange::KeyAndRequest::make(args.key, name)?) } else { None };
    if let Some(pair) = &pair {
        // Kept aside before the token is spent: a full disk must not cost the operator a token.
        out.write(files::KEY, pair.key_pem().as_bytes())?;
    }
    let answer = exchange::ask(config, &trust, token, name, pair.as_ref()).await?;
    if let Some(pair) = &pair {
        let cert = pair.check(answer.mtls_client_cert_pem.as_deref())?;
        out.write(files::CERT, cert.as_bytes())?;
        if let Some(bundle) = &answer.ca_bundle_pem {
            out.write(files::CA, exchange::check_bundle(bundle)?.as_bytes())?;
        }
    }
    let record = TerritoryRecord {
        territory_id: answer.territory_id,
        kind: answer.kind.map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
        server_url: config.server_url.to_string(),
        enrolled_at: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    };
    let json = serde_json::to_vec_pretty(&record).map_err(|error| EnrollError::Unusable(error.to_string()))?;
    out.write(files::TERRITORY, &json)?;
    let has_ca = pair.is_some() && answer.ca_bundle_pem.is_some();
    let mut notes = out.notes();
    let folder = out.commit()?;
    if let Some(configured) = config.territory_id.as_ref().filter(|id| **id != record.territory_id) {
        notes.push(format!("the configuration has territory_id {configured}: replace or remove it before nexusd runs"));
    }
    if matches!(args.token, TokenSource::Argument(_)) {
        notes.push(
            "the token was visible in the process list: --enroll-token-file keeps it out (it is spent now)".to_owned(),
        );
    }
    let file = |name: &str| folder.join(name);
    Ok(Enrolled {
        record,
        territory_file: file(files::TERRITORY),
        client_cert_file: pair.is_some().then(|| file(files::CERT)),
        client_key_file: pair.is_some().then(|| file(files::KEY)),
        ca_file: has_ca.then(|| file(files::CA)),
        notes,
    })
}

impl Enrolled {
    /// One line of JSON for standard output: who this territory is and where the files are.
    #[must_use]
    pub fn json_line(&self) -> String {
        let shown = |path: &Option<PathBuf>| path.as_deref().map(|path| path.display().to_string());
        let mut line = serde_json::json!({
            "territory_id": self.record.territory_id,
            "kind": self.record.kind,
            "server_url": self.record.server_url,
            "territory_file": self.territory_file.display().to_string(),
        });
        let files = [
            ("client_cert_file", shown(&self.client_cert_file)),
            ("client_key_file", shown(&self.client_key_file)),
            ("ca_file", shown(&self.ca_file)),
        ];
        for (key, value) in files {
            if let Some(value) = value {
                line[key] = value.into();
            }
        }
        line.to_string()
    }

    /// What to paste into the configuration, as YAML with a comment above, for standard error.
    #[must_use]
    pub fn snippet(&self) -> String {
        let quoted = |path: &Path| serde_json::Value::from(path.display().to_string()).to_string();
        let mut text = format!("# Enrolled as {}. Put this into the configuration:\n", self.record.territory_id);
        text.push_str(&format!("server_url: {}\n", serde_json::Value::from(self.record.server_url.as_str())));
        match (&self.client_cert_file, &self.client_key_file) {
            (Some(cert), Some(key)) => {
                text.push_str("tls:\n");
                if let Some(ca) = &self.ca_file {
                    text.push_str(&format!("  ca_file: {}\n", quoted(ca)));
                }
                text.push_str(&format!("  client_cert_file: {}\n  client_key_file: {}\n", quoted(cert), quoted(key)));
            }
            _ => text.push_str(&format!("territory_id: \"{}\"\n", self.record.territory_id)),
        }
        for note in &self.notes {
            text.push_str(&format!("# Note: {note}\n"));
        }
        text
    }
}
