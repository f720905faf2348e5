//! The door of [`crate::control`], from inside: says how the daemon stands, and lets polling rest.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Daemon;
use crate::control::{Answer, Held, MAX_LINE, Request, SOCKET, Status, TIMEOUT, at};
use crate::observe::ready::readiness;

/// Conversations at a time; a person has one.
const MOST: usize = 8;

/// Pause after an accept that failed, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The file that keeps a daemon drained over restarts.
const MARK: &str = "drained";

/// Whether an earlier daemon of this folder was drained.
pub(super) fn was_drained(state: &Path) -> bool {
    let drained = state.join(MARK).exists();
    if drained {
        info!("drained: nothing is taken on until nexusd undrain");
    }
    drained
}

/// Opens the door. The folder's lock is held, so a socket there is a dead one's.
pub(super) async fn open(state: &Path) -> io::Result<UnixListener> {
    let socket = state.join(SOCKET);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = at(&socket, |path| std::future::ready(UnixListener::bind(path))).await?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until `stop`; the socket goes with it.
pub(super) async fn serve(daemon: Arc<Daemon>, listener: UnixListener, stop: CancellationToken) {
    let socket = daemon.engine.config.state_dir().join(SOCKET);
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept(), if conversations.len() < MOST => match accepted {
                Ok((stream, _)) => drop(conversations.spawn(converse(Arc::clone(&daemon), stream))),
                Err(error) => {
                    debug!(%error, "a local connection is not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = conversations.join_next() => {}
        }
    }
    if let Err(error) = std::fs::remove_file(&socket) {
        debug!(%error, "the local socket stays behind");
    }
}

async fn converse(daemon: Arc<Daemon>, stream: UnixStream) {
    // The folder is closed to others; who they are is looked at all the same.
    let ours = [0, sys::user::effective_uid()];
    if !stream.peer_cred().is_ok_and(|peer| ours.contains(&peer.uid())) {
        return;
    }
    let conversation = async {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        BufReader::new(read.take(MAX_LINE)).read_line(&mut line).await?;
        let answer = match serde_json::from_str(&line) {
            Ok(request) => daemon.answer(request),
            Err(error) => Answer::Error(format!("not a request: {error}")),
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        write.write_all(&line).await
    };
    match tokio::time::timeout(TIMEOUT, conversation).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a local conversation broke off"),
        Err(_) => debug!("a local conversation took too long"),
    }
}

impl Daemon {
    fn answer(&self, request: Request) -> Answer {
        let mark = self.engine.config.state_dir().join(MARK);
        let done = match request {
            Request::Status => Ok(()),
            Request::Drain => std::fs::write(&mark, "").map(|()| self.rest(true)),
            Request::Undrain => remove(&mark).map(|()| self.rest(false)),
        };
        match done {
            Ok(()) => Answer::Status(Box::new(self.status())),
            Err(error) => {
                warn!(mark = %mark.display(), %error, "drain and undrain need this file");
                Answer::Error(format!("cannot keep it over a restart: {}: {error}", mark.display()))
            }
        }
    }

    /// Lets polling rest, or go on.
    fn rest(&self, drained: bool) {
        let changed = self.drained.send_if_modified(|now| std::mem::replace(now, drained) != drained);
        if changed {
            info!(drained, "as asked by nexusd drain or undrain");
            self.publish(self.engine.config.territory_heartbeat.interval);
        }
    }

    fn status(&self) -> Status {
        let facts = self.facts.borrow().clone();
        let now = Instant::now();
        let work = super::work_of(Arc::clone(&self.counters), self.outbox.clone(), self.mothership.clone())();
        let held = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let directives = held
            .iter()
            .map(|(id, running)| Held { directive_id: id.clone(), seconds: running.since.elapsed().as_secs() })
            .collect();
        Status {
            version: crate::cli::version_line(),
            pid: std::process::id(),
            up_seconds: self.began.elapsed().as_secs(),
            server_url: self.engine.config.server_url.to_string(),
            profiles: self.engine.offered_profiles().iter().map(ToString::to_string).collect(),
            slots: self.engine.config.max_concurrent_directives,
            directives,
            drained: *self.drained.borrow(),
            not_ready: readiness(&facts, now).err().unwrap_or_default(),
            last_contact_seconds: facts.last_contact.map(|at| now.saturating_duration_since(at).as_secs()),
            spool_bytes: work.spool_bytes,
            outbox_entries: work.outbox_entries,
            certificate_ends: work.client_cert_expiry,
        }
    }
}

fn remove(mark: &Path) -> io::Result<()> {
    match std::fs::remove_file(mark) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
