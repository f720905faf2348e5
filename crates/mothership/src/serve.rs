//! `mothership serve`: the data directory, the parts, their life from start to shutdown.

pub mod directory;
pub mod files;
pub mod listen;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::turns::Turns;
use crate::api::{self, App};
use crate::ca::{Authority, CLIENT_LIFETIME, CaError};
use crate::clock::Clock;
use crate::hub::Hub;
use crate::presence::Presence;
use crate::rate::FailureLimit;
use crate::reaper;
use crate::refusal::Fault;
use crate::secret;
use crate::server::tls::{self, Presented, TlsError};
use crate::server::{self, Transport};
use crate::store::api_tokens::{self, NewToken, Scope};
use crate::store::{Store, StoreError, Tx, accounts, audit, authorities, claims, signing_keys};
use crate::token::{Keyring, TokenKeys};
use directory::DirectoryError;
use listen::{Listen, ServerName, certificate_names};

/// How often the server's own certificate is made anew; a third of its lifetime.
const RENEW_SERVER_CERTIFICATE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often the keys of directive tokens are looked at.
const TEND_KEYS: Duration = Duration::from_secs(6 * 60 * 60);
/// How long chunks that an ended directive's log lacks are waited for: nexusd goes on sending what was not acknowledged.
const LOG_PATIENCE: Duration = Duration::from_secs(75);
/// Enrolments that are read at once: strangers can make this process hold so many bodies and no more.
const ENROLL_BODIES: usize = 128;
/// Those of one address: being slow must not keep everybody else from enrolling.
const ENROLL_BODIES_OF_ONE: usize = 32;
/// The name of the API token that the first start makes.
const ADMIN_TOKEN_NAME: &str = "admin";

/// How territories prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// By the client certificate of the TLS connection.
    Mtls,
    /// By a fingerprint header from a trusted proxy.
    Header,
    /// By either.
    Either,
    /// Development: by saying so. Only on loopback.
    Dev,
}

/// What `serve` is told.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Where everything is kept; made if it does not exist.
    pub data_dir: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: Listen,
    /// Further names and addresses for the server's certificate.
    pub tls_names: Vec<ServerName>,
    /// How territories prove who they are.
    pub auth: AuthMode,
    /// Whence the fingerprint header and `X-Forwarded-For` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long a lease lives without a heartbeat.
    pub lease_ttl: Duration,
    /// How long chunks that an ended directive's log lacks are waited for, from the last one that came.
    pub log_patience: Duration,
    /// Failed enrolments an hour and address.
    pub enroll_failures_per_hour: usize,
    /// How long a territory's certificate is good.
    pub client_lifetime: Duration,
}

impl ServeConfig {
    /// The defaults for `data_dir`: TLS on every IPv4 address, port 3000.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            listen: Listen::At((Ipv4Addr::UNSPECIFIED, 3000).into()),
            tls_names: Vec::new(),
            auth: AuthMode::Mtls,
            trusted_proxies: Vec::new(),
            lease_ttl: Duration::from_secs(conduits::poll::DEFAULT_LEASE_TTL_SECONDS),
            log_patience: LOG_PATIENCE,
            enroll_failures_per_hour: 10,
            client_lifetime: CLIENT_LIFETIME,
        }
    }
}

/// Why the mothership does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// `--dev` off loopback.
    #[error(
        "--dev believes every caller, so it listens on loopback only, not on {0}; use --listen 127.0.0.1:3000, or leave --dev away"
    )]
    DevOffLoopback(Listen),
    /// Header identity without anybody to trust.
    #[error("--auth-mode header and either need --trusted-proxy: without one nobody's header is believed")]
    NoTrustedProxy,
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A file of the data directory.
    #[error("{path}: {source}; the mothership's user must own the data directory")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another process serves from this directory.
    #[error("{0} is in use by another mothership; stop that one, or take another --data-dir")]
    InUse(PathBuf),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}; choose another --listen")]
    Listen {
        /// Which.
        address: Listen,
        /// Why not.
        source: std::io::Error,
    },
    /// The authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store holds no signing key though one was made.
    #[error("the database has no key for directive tokens; restore a backup")]
    NoSigningKey,
}

/// A mothership that serves.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    url: String,
    address_file: PathBuf,
    first_start: bool,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    store: Arc<Store>,
    hub: Arc<Hub>,
    _lock: std::fs::File,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL for clients on this machine.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether this start made the account, the token and the authority.
    #[must_use]
    pub fn is_first_start(&self) -> bool {
        self.first_start
    }

    /// How many polls are held, and how many directives are watched by live logs and held heartbeats.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        self.hub.waiting()
    }

    /// Stops: held requests are answered, running ones end, the store is closed.
    pub async fn stop(self) {
        self.shutdown.cancel();
        // From here on clients wait for the next one to serve.
        if let Err(error) = files::remove(&self.address_file) {
            tracing::warn!(%error, file = %self.address_file.display(), "the address was left behind");
        }
        self.tasks.close();
        self.tasks.wait().await;
        self.store.close().await;
    }
}

/// Opens the data directory, makes what is missing, and serves.
///
/// # Errors
/// Anything of [`ServeError`]; nothing listens then.
pub async fn start(config: ServeConfig) -> Result<Running, ServeError> {
    check(&config)?;
    let dir = &config.data_dir;
    directory::open(dir)?;
    let lock_path = dir.join(directory::LOCK);
    let lock = files::lock(&lock_path)
        .map_err(|source| at(&lock_path, source))?
        .ok_or_else(|| ServeError::InUse(dir.clone()))?;
    // Of an earlier run that was killed: who waits for this one must not find it.
    let address_file = dir.join(directory::ADDRESS);
    files::remove(&address_file).map_err(|source| at(&address_file, source))?;
    let clock = Clock::start();
    let hub = Arc::new(Hub::default());
    let authority = Arc::new(Authority::load_or_create(dir)?);
    tell_the_end(&authority);
    let store = Arc::new(Store::open(&dir.join(directory::DATABASE), Arc::clone(&hub), clock)?);
    let (first_start, keys) = first_things(&store, dir).await?;
    let ttl = config.lease_ttl;
    let trusted: Vec<[u8; 32]> = authority.trusted_keys().collect();
    let after_a_restart = move |tx: &Tx<'_>| {
        authorities::handed_out(tx, &trusted)?;
        Ok(claims::after_a_restart(tx, ttl)?)
    };
    store.write(after_a_restart).await.map_err(of_the_store)?;
    let unheard = |source| ServeError::Listen { address: config.listen, source };
    let listener = config.listen.bind().await.map_err(unheard)?;
    let address = listener.local_addr().map_err(unheard)?;
    let scheme = if config.auth == AuthMode::Dev { "http" } else { "https" };
    let url = format!("{scheme}://{}", config.listen.from_here(address));
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    let keys = Arc::new(Keyring::new(keys));
    let transport = transport(&config, &authority, address, &tasks, &shutdown)?;
    let app = Arc::new(App {
        store: Arc::clone(&store),
        hub: Arc::clone(&hub),
        presence: Arc::new(Presence::new(clock)),
        tickets: Arc::default(),
        authority,
        keys: Arc::clone(&keys),
        auth: config.auth,
        trusted_proxies: config.trusted_proxies.clone(),
        lease_ttl: config.lease_ttl,
        log_patience: config.log_patience,
        client_lifetime: config.client_lifetime,
        enroll_bodies: Turns::new(ENROLL_BODIES, ENROLL_BODIES_OF_ONE),
        enroll_failures: FailureLimit::new(config.enroll_failures_per_hour),
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
    });
    files::write_atomically(&address_file, format!("{url}\n").as_bytes(), 0o644)
        .map_err(|source| at(&address_file, source))?;
    tasks.spawn(reaper::run(Arc::clone(&store), config.lease_ttl, shutdown.clone()));
    tasks.spawn(tend_keys(Arc::clone(&store), keys, shutdown.clone()));
    let proxies = config.trusted_proxies;
    tasks.spawn(server::serve(listener, transport, proxies, api::router(app), shutdown.clone()));
    Ok(Running { address, url, address_file, first_start, shutdown, tasks, store, hub, _lock: lock })
}

fn at(path: &Path, source: std::io::Error) -> ServeError {
    ServeError::File { path: path.to_owned(), source }
}

fn check(config: &ServeConfig) -> Result<(), ServeError> {
    if config.auth == AuthMode::Dev && !config.listen.is_loopback() {
        return Err(ServeError::DevOffLoopback(config.listen));
    }
    let by_header = matches!(config.auth, AuthMode::Header | AuthMode::Either);
    if by_header && config.trusted_proxies.is_empty() {
        return Err(ServeError::NoTrustedProxy);
    }
    Ok(())
}

/// The account, the administrator's token and the signing key: made where they are missing.
async fn first_things(store: &Store, dir: &Path) -> Result<(bool, TokenKeys), ServeError> {
    let token_path = dir.join(directory::ADMIN_TOKEN);
    let has_file = token_path.exists();
    let token = secret::api_token();
    let fresh = token.clone();
    let (first, keys) = store
        .write(move |tx| {
            let known = accounts::first(tx)?;
            let first = known.is_none();
            let account = match known {
                Some(account) => account,
                None => {
                    let id = uuid::Uuid::now_v7().to_string();
                    accounts::create(tx, &id, "default")?;
                    id
                }
            };
            // A lost token file is made anew and the old token revoked: whoever has the data directory may.
            if !has_file {
                api_tokens::revoke_named(tx, &account, ADMIN_TOKEN_NAME)?;
                let id = uuid::Uuid::now_v7().to_string();
                let new =
                    NewToken { id: &id, name: ADMIN_TOKEN_NAME, secret: &fresh, scope: Scope::Admin, expires_at: None };
                api_tokens::add(tx, &account, &new)?;
                audit::record(
                    tx,
                    &account,
                    "mothership",
                    "api_token.create",
                    &id,
                    &serde_json::json!({ "name": ADMIN_TOKEN_NAME }),
                )?;
            }
            Ok((first, signing_keys::current(tx)?))
        })
        .await
        .map_err(of_the_store)?;
    if !has_file {
        files::write_atomically(&token_path, format!("{token}\n").as_bytes(), 0o600)
            .map_err(|source| at(&token_path, source))?;
    }
    let keys = TokenKeys::new(&keys).ok_or(ServeError::NoSigningKey)?;
    Ok((first, keys))
}

/// Looks after the keys of directive tokens until shutdown: a new one when the newest has signed for long enough, none whose
/// overlap is over.
async fn tend_keys(store: Arc<Store>, keys: Arc<Keyring>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TEND_KEYS) => {}
        }
        match store.write(|tx| Ok(signing_keys::current(tx)?)).await {
            Ok(found) => {
                if let Some(found) = TokenKeys::new(&found) {
                    keys.take(found);
                }
            }
            Err(fault) => tracing::error!(?fault, "the keys of directive tokens were not looked after"),
        }
    }
}

/// The failure of a job that refuses nothing.
fn of_the_store(fault: Fault) -> StoreError {
    match fault {
        Fault::Store(error) => error,
        Fault::Refused(refusal) => StoreError::Corrupt { what: "the start", detail: refusal.detail.into_owned() },
    }
}

fn transport(
    config: &ServeConfig,
    authority: &Arc<Authority>,
    address: SocketAddr,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<Transport, ServeError> {
    if config.auth == AuthMode::Dev {
        return Ok(Transport::Plain);
    }
    let (names, addresses) = certificate_names(files::host_name().as_deref(), &config.tls_names, address);
    let presented = Arc::new(Presented::new(authority.server(&names, &addresses)?)?);
    let tls = tls::config(authority, Arc::clone(&presented))?;
    tasks.spawn(renew(Arc::clone(authority), presented, names, addresses, shutdown.clone()));
    Ok(Transport::Tls(Arc::new(tls)))
}

fn tell_the_end(authority: &Authority) {
    if let Some(text) = authority.ending(SystemTime::now()) {
        tracing::warn!("{text}");
    }
}

/// Replaces the server's certificate now and then, until shutdown.
async fn renew(
    authority: Arc<Authority>,
    presented: Arc<Presented>,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RENEW_SERVER_CERTIFICATE) => {}
        }
        tell_the_end(&authority);
        let renewed = authority
            .server(&names, &addresses)
            .map_err(ServeError::from)
            .and_then(|certificate| Ok(presented.replace(certificate)?));
        if let Err(error) = renewed {
            tracing::error!(%error, "the server's certificate was not renewed; restart before it ends");
        }
    }
}
