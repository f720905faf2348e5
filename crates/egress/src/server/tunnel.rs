//! A tunnel, from "connected" to the end: the first client bytes are judged, then bytes flow.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::Attempt;
use super::departure;
use super::{Shared, session::READ_BYTES};
use crate::policy::Refusal;
use crate::policy::reason::Reason;
use crate::relay::{Meter, pump};
use crate::stream::Stream;
use crate::wire::hello::{self, Hello};
use crate::wire::host::Destination;

/// How long a client hello may take from its first byte.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// What ended a guarded piece of work from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Nothing moved for too long.
    Idle,
    /// The directive's time on the network is over.
    Expired,
}

/// Runs `work` for as long as bytes move and the policy lasts.
pub(super) async fn guarded<T>(shared: &Shared, meter: &Meter, work: impl Future<Output = T>) -> Result<T, Cut> {
    let expiry = async {
        match shared.policy.expires_at() {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = expiry => Err(Cut::Expired),
        done = work => Ok(done),
        () = meter.idle(shared.policy.idle_timeout) => Err(Cut::Idle),
    }
}

enum UploadEnd {
    Io(io::Error),
    Refused(Refusal),
}

/// Carries a tunnel to its end and notes on `attempt` how it ended. `early` is what the client sent along with its request.
pub(super) async fn carry(
    shared: &Shared,
    attempt: &mut Attempt,
    to: &Destination,
    (client, early): (&Stream, Vec<u8>),
    origin: &Stream,
) {
    let outcome = {
        let account = &*attempt;
        // Boxed, for what takes a future holds it twice: an idle tunnel is little more than these two.
        let upload = Box::pin(async {
            let first = if shared.policy.checks_hello(to.port) {
                inspect(shared, account, to, client, early).await?
            } else {
                early
            };
            origin.write_all(&first).await.map_err(UploadEnd::Io)?;
            account.meter.moved(&account.meter.up, first.len());
            drop(first);
            pump(client, origin, &account.meter, &account.meter.up).await.map_err(UploadEnd::Io)
        });
        let down = &account.meter.down;
        let download = Box::pin(async { pump(origin, client, &account.meter, down).await.map_err(UploadEnd::Io) });
        guarded(shared, &account.meter, both(client, upload, download)).await
    };
    match outcome {
        Ok(Err(UploadEnd::Refused(refusal))) => attempt.deny(&refusal),
        Ok(Err(UploadEnd::Io(error))) => tracing::trace!(%error, "a tunnel ended with an error"),
        Err(Cut::Expired) => attempt.ended(Reason::PolicyExpired),
        Ok(Ok(())) | Err(Cut::Idle) => {}
    }
}

/// Both ways to their ends. A failure of one ends both; so does a client that is gone, which over TCP looks like one that has
/// ended its side, and that may still read.
async fn both(
    client: &Stream,
    mut upload: impl Future<Output = Result<(), UploadEnd>> + Unpin,
    mut download: impl Future<Output = Result<(), UploadEnd>> + Unpin,
) -> Result<(), UploadEnd> {
    tokio::select! {
        sent = &mut upload => sent?,
        received = &mut download => {
            received?;
            return upload.await;
        }
    }
    tokio::select! {
        received = download => received,
        () = departure::left(client, || false) => Err(UploadEnd::Io(io::ErrorKind::ConnectionReset.into())),
    }
}

/// Reads the first client bytes until they can be judged, and gives them back to be sent on.
async fn inspect(
    shared: &Shared,
    attempt: &Attempt,
    to: &Destination,
    client: &Stream,
    mut held: Vec<u8>,
) -> Result<Vec<u8>, UploadEnd> {
    // Where the client waits for the origin to speak first, the tunnel's own idle bound applies.
    if held.is_empty() && client.read_into(&mut held, READ_BYTES).await.map_err(UploadEnd::Io)? == 0 {
        return Ok(held);
    }
    let deadline = Instant::now() + HELLO_TIMEOUT;
    let hello = loop {
        if let Some(hello) = hello::read(&held) {
            break hello;
        }
        match tokio::time::timeout_at(deadline, client.read_into(&mut held, READ_BYTES)).await {
            Err(_) => break Hello::Broken("not finished within 2 s"),
            // A reset is no better an end than an orderly one.
            Ok(Ok(0) | Err(_)) => break Hello::Broken("cut off"),
            Ok(Ok(_)) => {}
        }
    };
    // Set at most once: this function runs once for an attempt.
    attempt.sni.get_or_init(|| hello.note());
    shared.policy.judge_hello(to, &hello).map_err(UploadEnd::Refused)?;
    Ok(held)
}
