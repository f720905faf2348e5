//! `mothership serve`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::args::{AuthMode, Serve};
use super::terminal;
use crate::serve::{self, ServeConfig, ServeError};

/// Why the server did not start or end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeFailed {
    /// It does not start.
    #[error(transparent)]
    Start(#[from] ServeError),
    /// Signals cannot be awaited.
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
}

/// Serves until SIGTERM or SIGINT.
pub(super) async fn run(data_dir: &Path, args: Serve, log: Option<&str>) -> Result<u8, ServeFailed> {
    log_to_stderr(log);
    raise_descriptors();
    let config = ServeConfig {
        listen: args.listen,
        tls_names: args.tls_name,
        auth: match (args.dev, args.auth_mode) {
            (true, _) => serve::AuthMode::Dev,
            (false, AuthMode::Mtls) => serve::AuthMode::Mtls,
            (false, AuthMode::Header) => serve::AuthMode::Header,
            (false, AuthMode::Either) => serve::AuthMode::Either,
        },
        trusted_proxies: args.trusted_proxy,
        lease_ttl: Duration::from_secs(args.lease_ttl_seconds),
        client_lifetime: Duration::from_secs(args.client_certificate_seconds),
        enroll_failures_per_hour: usize::try_from(args.enroll_failures_per_hour).unwrap_or(10),
        ..ServeConfig::new(data_dir)
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeFailed::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeFailed::Signals)?;
    let running = serve::start(config).await?;
    let shown = data_dir.display();
    if running.is_first_start() {
        terminal::note(&format!("made a new mothership in {shown}"));
        terminal::note(&format!("administrator's API token: {shown}/admin-token"));
        terminal::note(&format!("CA certificate: {shown}/ca.pem"));
    }
    if let Err(error) = terminal::line(&format!("mothership ready on {}", running.url())) {
        tracing::debug!(%error, "nobody reads the ready line");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("shutting down");
    running.stop().await;
    Ok(0)
}

/// Each connection is a descriptor, and the usual limit of 1024 is for programs that wait in select(2).
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Logs to standard error: text for people, JSON for machines.
fn log_to_stderr(filter: Option<&str>) {
    let filter = EnvFilter::try_new(filter.unwrap_or("info")).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    if set.is_err() {
        terminal::note("a log subscriber is set already");
    }
}
