//! Renewing the client certificate, from two thirds of its lifetime on.
//!
//! ```text
//! due ─▶ key made ─▶ POST /territories/renew ─▶ answer checked ─▶ on disk ─▶ in use for calls that begin from now on
//! ```
//!
//! Calls in flight end on the connections that they have: the old certificate is good until its own end. A renewal that
//! fails is tried again, sooner the nearer the end is; nothing of it disturbs the work.

use std::path::PathBuf;
use std::time::Duration;

use conduits::RenewRequest;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::folder::{self, Fresh, Owner};
use crate::client::{CallError, Mothership, PemIdentity, Presented};
use crate::config::Config;
use crate::enroll::{KeyAndRequest, KeyKind, check_bundle, leaf_of};

/// How often the clock is looked at: it may be set, and the machine may sleep.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Of the lifetime, the part over which the renewals of many territories are spread: half a day of thirty.
const JITTER_PART: i64 = 60;
/// How often the end of a certificate is told.
const TELL_EVERY: i64 = 3600;
/// Longest wait between two tries, while there is time.
const LONGEST_WAIT: i64 = 6 * 3600;

/// What renews the certificate of a daemon.
#[derive(Debug)]
pub struct Renewal {
    mothership: Mothership,
    state: PathBuf,
    name: String,
    owner: Owner,
}

/// Why a renewal came to nothing.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("cannot make the key and certificate request: {0}")]
    Key(#[from] rcgen::Error),
    #[error("{0}")]
    Answer(String),
    #[error("the new certificate cannot be kept: {0}")]
    Keep(#[from] std::io::Error),
    #[error("the new certificate cannot be used: {0}")]
    Use(#[from] crate::client::ClientError),
}

impl Renewal {
    /// For this configuration; none where no certificate can be in use.
    #[must_use]
    pub fn of(config: &Config, mothership: &Mothership) -> Option<Self> {
        config.server_url.is_tls().then(|| Self {
            mothership: mothership.clone(),
            state: config.state_dir(),
            name: config.name.clone(),
            owner: Owner::of(config),
        })
    }

    /// Renews whenever it is due, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let jitter: f64 = rand::random();
        let mut told = now();
        let mut again = i64::MIN;
        loop {
            let mut wait = LOOK_EVERY;
            if let Some(present) = self.mothership.presented() {
                tell_the_end(&present, &mut told);
                let due = due(&present, jitter).max(again);
                if due <= now() {
                    let renewed = tokio::select! {
                        () = stop.cancelled() => return,
                        renewed = self.renew(&present) => renewed,
                    };
                    let left = self.mothership.presented().map_or(0, |present| present.not_after - now());
                    again = now() + next_try(&renewed.map_err(|error| self.complain(&error, left)), left);
                }
                let until = u64::try_from(due.max(again) - now()).unwrap_or(0);
                wait = LOOK_EVERY.min(Duration::from_secs(until)).max(Duration::from_millis(200));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn renew(&self, present: &Presented) -> Result<(), RenewalError> {
        // An RSA key was asked for, once: it stays one.
        let kind = if present.is_rsa { KeyKind::Rsa3072 } else { KeyKind::EcdsaP256 };
        let name = self.name.clone();
        let made = tokio::task::spawn_blocking(move || KeyAndRequest::make(kind, &name)).await;
        let pair = made.map_err(|error| RenewalError::Answer(error.to_string()))??;
        self.mothership.up().await;
        let answer = self.mothership.renew(&RenewRequest { csr_pem: pair.csr_pem().to_owned() }).await?;
        let unusable = |why: String| RenewalError::Answer(format!("the answer cannot be used: {why}"));
        let certificate =
            pair.check(Some(&answer.mtls_client_cert_pem)).map_err(|error| unusable(error.to_string()))?;
        let ca = answer.ca_bundle_pem.as_deref().map(check_bundle).transpose();
        let ca = ca.map_err(|error| unusable(error.to_string()))?;
        let der = leaf_of(certificate).ok_or_else(|| unusable("no certificate".to_owned()))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| unusable(error.to_string()))?;
        let not_after = parsed.validity().not_after.timestamp();
        if not_after <= present.not_after {
            return Err(unusable("it ends no later than the present certificate".to_owned()));
        }
        let key = pair.key_pem();
        let serial = parsed.raw_serial_as_string();
        folder::keep(&self.state, &Fresh { serial: &serial, certificate, key: &key, ca, owner: &self.owner })?;
        let identity = PemIdentity { cert_pem: certificate.as_bytes().to_vec(), key_pem: key.into_bytes() };
        self.mothership.take_identity(identity, ca.map(str::as_bytes))?;
        info!(until = time(not_after), "the client certificate was renewed");
        Ok(())
    }

    fn complain(&self, error: &RenewalError, left: i64) -> Failed {
        let seconds_left = left.max(0);
        let is_transient = match error {
            RenewalError::Call(call) => call.is_transient(),
            RenewalError::Keep(_) => true,
            _ => false,
        };
        if matches!(error, RenewalError::Call(CallError::NotFound(_))) {
            warn!(seconds_left, "this mothership renews no certificates: enrol anew before the present one ends");
        } else {
            warn!(%error, seconds_left, "the client certificate was not renewed; it is tried again");
        }
        Failed { is_transient }
    }
}

/// A renewal that came to nothing.
#[derive(Debug, Clone, Copy)]
struct Failed {
    /// Another try soon may help.
    is_transient: bool,
}

/// From when on the certificate is renewed: two thirds of its lifetime, and a little later for some than for others.
fn due(present: &Presented, jitter: f64) -> i64 {
    let lifetime = present.not_after.saturating_sub(present.not_before).max(0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "a share of a lifetime in seconds"
    )]
    let spread = (jitter.clamp(0.0, 1.0) * (lifetime / JITTER_PART) as f64) as i64;
    present.not_before.saturating_add(lifetime / 3 * 2).saturating_add(spread)
}

/// Seconds until the next try, where the certificate in use lasts for another `left` seconds. After a renewal, too: a server
/// whose certificates are due when they come is not asked without end.
fn next_try(renewed: &Result<(), Failed>, left: i64) -> i64 {
    match renewed {
        // By a clock that is ahead, every certificate has ended.
        _ if left <= 0 => TELL_EVERY,
        Ok(()) => (left / 20).clamp(1, LONGEST_WAIT),
        Err(Failed { is_transient: true }) => (left / 100).clamp(1, LONGEST_WAIT),
        Err(Failed { is_transient: false }) => (left / 10).clamp(60, 24 * 3600),
    }
}

/// What is to be said of a certificate that has ended; nothing of one that has not.
#[must_use]
pub fn ended(present: &Presented, now: i64) -> Option<String> {
    (present.not_after <= now).then(|| {
        format!(
            "the client certificate ended on {}: enrol this host anew (nexusd -enroll-token TOKEN --force), then restart nexusd or send it SIGHUP",
            time(present.not_after)
        )
    })
}

fn tell_the_end(present: &Presented, told: &mut i64) {
    let at = now();
    // A clock that was set back counts, too.
    if (at - *told).abs() < TELL_EVERY {
        return;
    }
    if let Some(text) = ended(present, at) {
        *told = at;
        error!("{text}");
    }
}

fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |time| time.to_string())
}

pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn it_is_due_at_two_thirds_and_not_for_all_at_once() {
        let present = Presented { not_before: 0, not_after: 30 * DAY, is_rsa: false };
        assert_eq!(due(&present, 0.0), 20 * DAY);
        assert_eq!(due(&present, 0.5), 20 * DAY + DAY / 4);
        assert_eq!(due(&present, 1.0), 20 * DAY + DAY / 2);
        let nonsense = Presented { not_before: 10, not_after: 0, is_rsa: false };
        assert_eq!(due(&nonsense, 1.0), 10);
    }

    #[test]
    fn it_is_tried_again_sooner_the_nearer_the_end() {
        let (transient, refused) = (Err(Failed { is_transient: true }), Err(Failed { is_transient: false }));
        for (outcome, left, expected) in [
            (&transient, 10 * DAY, 8640),
            (&transient, DAY, 864),
            (&transient, 30, 1),
            (&transient, -5, 3600),
            (&refused, 10 * DAY, DAY),
            (&refused, 30, 60),
            (&refused, 0, 3600),
            (&Ok(()), 30 * DAY, 6 * 3600),
            (&Ok(()), 10, 1),
            (&Ok(()), -5, 3600),
        ] {
            assert_eq!(next_try(outcome, left), expected, "{outcome:?} {left}");
        }
    }

    #[test]
    fn the_end_is_told_with_the_mend() {
        let present = Presented { not_before: 0, not_after: 1_800_000_000, is_rsa: false };
        assert_eq!(ended(&present, 1_799_999_999), None);
        let told = ended(&present, 1_800_000_000).unwrap();
        assert!(told.contains("2027-01-15T08:00:00Z") && told.contains("--force") && told.contains("SIGHUP"), "{told}");
    }
}
