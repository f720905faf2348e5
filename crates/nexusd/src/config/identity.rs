//! Who this territory is: the id of the configuration, or the one that enrolment wrote beside the certificate.

use std::io::Read;
use std::path::{Path, PathBuf};

use conduits::TerritoryId;
use serde::{Deserialize, Serialize};

use super::Config;

/// The file that enrolment writes beside the certificate.
pub const TERRITORY_FILE: &str = "territory.json";

/// Largest `territory.json`.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// The contents of `territory.json`. Fields that are not known are ignored, so that a newer enrolment's file
/// can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerritoryRecord {
    /// The id that the mothership gave.
    pub territory_id: TerritoryId,
    /// `server`, `desktop`, `mobile` or `bridge`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The mothership that was enrolled at.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server_url: String,
    /// When, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub enrolled_at: String,
}

/// How the mothership knows this territory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// By client certificate.
    Certificate {
        /// The id, where the configuration or `territory.json` has it; the mothership knows it in any case.
        territory_id: Option<TerritoryId>,
        /// PEM certificate chain.
        cert_file: PathBuf,
        /// PEM private key.
        key_file: PathBuf,
    },
    /// By a header that anyone could send: for development.
    Header {
        /// The id sent.
        territory_id: TerritoryId,
    },
}

impl Identity {
    /// The id, where it is known.
    #[must_use]
    pub const fn territory_id(&self) -> Option<&TerritoryId> {
        match self {
            Self::Certificate { territory_id, .. } => territory_id.as_ref(),
            Self::Header { territory_id } => Some(territory_id),
        }
    }
}

/// Why there is no identity to run with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Neither a certificate nor an id.
    #[error(
        "this territory has no identity: enrol it (nexusd -enroll-token TOKEN) and set tls.client_cert_file and \
         tls.client_key_file, or set territory_id"
    )]
    None,
    /// The two ids differ.
    #[error(
        "territory_id {configured} is not the id {enrolled} that {} was enrolled with: correct or remove territory_id",
        file.display()
    )]
    Differs {
        /// The file's.
        configured: TerritoryId,
        /// The credentials'.
        enrolled: TerritoryId,
        /// The credentials' record.
        file: PathBuf,
    },
    /// `territory.json` is there and cannot be used.
    #[error("{}: {why}: enrol anew, or remove the file and set territory_id", file.display())]
    Record {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Config {
    /// The identity to run with. Reads `territory.json` beside the client certificate, where there is one.
    ///
    /// # Errors
    /// When there is none, or when two sources contradict each other.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        let (Some(cert), Some(key)) = (&self.tls.client_cert_file, &self.tls.client_key_file) else {
            return match &self.territory_id {
                Some(id) => Ok(Identity::Header { territory_id: id.clone() }),
                None => Err(IdentityError::None),
            };
        };
        let file = cert.parent().unwrap_or(Path::new(".")).join(TERRITORY_FILE);
        let territory_id = match (read_record(&file)?, &self.territory_id) {
            (Some(record), Some(configured)) if record.territory_id != *configured => {
                let (configured, enrolled) = (configured.clone(), record.territory_id);
                return Err(IdentityError::Differs { configured, enrolled, file });
            }
            (Some(record), _) => Some(record.territory_id),
            (None, configured) => configured.clone(),
        };
        Ok(Identity::Certificate { territory_id, cert_file: cert.clone(), key_file: key.clone() })
    }
}

/// Reads a `territory.json`; `None` where there is none.
///
/// # Errors
/// When it is there and cannot be read, is too large or is no record.
pub fn read_record(file: &Path) -> Result<Option<TerritoryRecord>, IdentityError> {
    let wrong = |why: String| IdentityError::Record { file: file.to_path_buf(), why };
    let opened = match std::fs::File::open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| wrong(format!("cannot be read: {error}")))?,
    };
    let mut bytes = Vec::new();
    let mut bounded = opened.take(MAX_RECORD_BYTES);
    bounded.read_to_end(&mut bytes).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| wrong(format!("is no territory record: {error}")))
}
