//! The reaper: takes back what nobody renews, and forgets what is old.
//!
//! It sleeps until the next lease ends, at most a tenth of a lease's length: with nothing leased it asks the store one
//! indexed question now and then, and writes nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::{Store, claims, idempotency};

/// Between two looks at least.
const SHORTEST: Duration = Duration::from_millis(50);
/// Between two looks at most.
const LONGEST: Duration = Duration::from_secs(10);
/// Looks between two clean-ups of old idempotency keys.
const CLEAN_EVERY: u32 = 360;

/// Reaps until `shutdown`.
pub async fn run(store: Arc<Store>, lease_ttl: Duration, shutdown: CancellationToken) {
    let pause = (lease_ttl / 10).clamp(SHORTEST, LONGEST);
    let mut looks = 0_u32;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if let Err(fault) = look(&store).await {
            tracing::error!(?fault, "the reaper could not look for expired leases");
        }
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(CLEAN_EVERY)
            && let Err(fault) = store.write(|tx| Ok(idempotency::forget_old(tx)?)).await
        {
            tracing::error!(?fault, "old idempotency keys could not be removed");
        }
    }
}

async fn look(store: &Store) -> Result<(), crate::refusal::Fault> {
    let next = store.read(|conn| Ok(claims::next_expiry(conn)?)).await?;
    if next.is_none_or(|at| at > store.clock().now().0) {
        return Ok(());
    }
    let taken = store.write(|tx| Ok(claims::reap(tx)?)).await?;
    tracing::warn!(directives = taken, "leases ended without a heartbeat");
    Ok(())
}
