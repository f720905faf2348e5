//! By which files this territory is known, and how they are renewed.
//!
//! ```text
//! enrolment ─▶ tls.client_cert_file, client_key_file ──────┐
//!                                                          ├─▶ the newest valid pair is in force
//! renewal ──▶ <work_dir>/.nexus/credentials/current/ ──────┘
//! ```
//!
//! Promises: a pair is taken whole or not at all; a renewed pair of another territory or another mothership does not count;
//! nothing here is read where no TLS is used.

mod check;
mod folder;
pub mod renewal;

use std::path::{Path, PathBuf};

pub(crate) use check::{Credentials, read};

use crate::client::{PemIdentity, TlsSettings, Trust};
use crate::config::{Config, TlsSettings as Files};

/// Configured files that cannot be read or used; all of them at once.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\nnexusd: "))]
pub struct UnusableFiles(Vec<String>);

/// The files in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InForce {
    /// The configured ones, with the renewed pair in the place of the configured one where it wins.
    pub(crate) files: Files,
    /// Authorities that came with the renewed pair, beside those of `tls.ca_file`.
    pub(crate) further_ca: Option<PathBuf>,
}

/// The files in force at `now` (Unix seconds); `state` is the daemon's own folder.
pub(crate) fn in_force(config: &Config, state: &Path, now: i64) -> InForce {
    let mut found = InForce { files: config.tls.clone(), further_ca: None };
    let configured = check::read(&config.tls);
    // A configured pair that is damaged or open to others is an error, and stays one.
    if !config.server_url.is_tls() || !matches!(configured, Credentials::Pair { .. }) {
        return found;
    }
    let Some(renewed) = folder::current(config, state) else { return found };
    let with_renewed = Files {
        client_cert_file: Some(renewed.certificate),
        client_key_file: Some(renewed.key),
        ca_file: None,
        ..config.tls.clone()
    };
    match check::read(&with_renewed) {
        Credentials::Wrong { what, mend: _ } => {
            tracing::warn!(what, "the renewed certificate cannot be used; the configured one is");
        }
        fresh if wins(&fresh, &configured, now) => {
            found.files = Files { ca_file: config.tls.ca_file.clone(), ..with_renewed };
            found.further_ca = renewed.ca;
        }
        _ => {}
    }
    found
}

/// Whether the renewed pair is the newest valid one; where none is valid, the one that ends later.
fn wins(renewed: &Credentials, configured: &Credentials, now: i64) -> bool {
    let (Credentials::Pair { not_before: from, not_after: to }, Credentials::Pair { not_before, not_after }) =
        (renewed, configured)
    else {
        return false;
    };
    let is_valid = |from: i64, to: i64| from <= now && now < to;
    match (is_valid(*from, *to), is_valid(*not_before, *not_after)) {
        (true, true) => from > not_before,
        (false, false) => to > not_after,
        (fresh, _) => fresh,
    }
}

/// Reads the files in force for the client.
///
/// # Errors
/// Every file that cannot be read or used.
pub fn load(config: &Config, state: &Path, now: i64) -> Result<TlsSettings, UnusableFiles> {
    let InForce { files, further_ca } = in_force(config, state, now);
    let mut missing = Vec::new();
    let mut bytes = |key: &str, path: &Option<PathBuf>| {
        let path = path.as_ref()?;
        let text = |error| format!("{key}: cannot read {}: {error} (enrolment writes it)", path.display());
        std::fs::read(path).map_err(|error| missing.push(text(error))).ok()
    };
    let mut ca = bytes("tls.ca_file", &files.ca_file);
    let certificate = bytes("tls.client_cert_file", &files.client_cert_file);
    let key = bytes("tls.client_key_file", &files.client_key_file);
    if missing.is_empty() {
        // What the HTTP client would say of them names neither the file nor the mend.
        missing.extend(check::fault(&files));
    }
    if !missing.is_empty() {
        return Err(UnusableFiles(missing));
    }
    if let (Some(ca), Some(further)) = (&mut ca, further_ca.and_then(|path| std::fs::read(path).ok())) {
        ca.push(b'\n');
        ca.extend(further);
    }
    let trust = match ca {
        _ if files.insecure_skip_verify => Trust::Anybody,
        Some(ca) => Trust::OnlyCa(ca),
        None => Trust::System,
    };
    let identity = certificate.zip(key).map(|(cert_pem, key_pem)| PemIdentity { cert_pem, key_pem });
    Ok(TlsSettings { trust, identity })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_valid_pair_wins() {
        let pair = |not_before, not_after| Credentials::Pair { not_before, not_after };
        let now = 100;
        for (why, renewed, configured, expected) in [
            ("renewed", pair(50, 150), pair(0, 120), true),
            ("enrolled anew after it", pair(50, 150), pair(60, 110), false),
            ("the configured one has ended", pair(50, 150), pair(60, 100), true),
            ("the renewed one has ended", pair(50, 100), pair(0, 101), false),
            ("both have ended", pair(50, 99), pair(0, 90), true),
            ("a clock that is behind", pair(150, 300), pair(120, 250), true),
            ("the same", pair(0, 120), pair(0, 120), false),
            ("none", Credentials::None, pair(0, 120), false),
        ] {
            assert_eq!(wins(&renewed, &configured, now), expected, "{why}");
        }
    }
}
