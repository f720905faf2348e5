//! `nexusd rootfs ensure`, and the same for `nexusd run`: in the foreground, with a bar on a terminal.

use std::io;
use std::path::PathBuf;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::progress::{Audience, Progress, show};
use super::{RootfsError, Wanted, ensure};
use crate::signals::Signals;

/// Makes sure that the root is there; the first signal ends it. `audience` is told how far it is, where there is one.
///
/// # Errors
/// [`RootfsError`].
pub async fn ensure_here(
    wanted: &Wanted,
    audience: Option<Audience>,
    signals: &mut Signals,
) -> Result<PathBuf, RootfsError> {
    let (sender, receiver) = watch::channel(Progress::default());
    let cancel = CancellationToken::new();
    let work = async {
        let mut work = std::pin::pin!(ensure(wanted, sender, &cancel));
        tokio::select! {
            done = &mut work => done,
            () = signals.again(|| ()) => {
                cancel.cancel();
                // It ends soon, and cleans up after itself.
                work.await
            }
        }
    };
    let shown = async {
        if let Some(audience) = audience {
            show(receiver, audience).await;
        }
    };
    tokio::join!(work, shown).0
}

/// The whole of `nexusd rootfs ensure`.
///
/// # Errors
/// [`RootfsError`], or the process cannot listen to signals.
pub async fn run(wanted: &Wanted) -> Result<PathBuf, CommandError> {
    let mut signals = Signals::new().map_err(CommandError::Signals)?;
    Ok(ensure_here(wanted, Some(Audience::of_stderr()), &mut signals).await?)
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no root.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// Signals.
    #[error("cannot listen to signals: {0}")]
    Signals(io::Error),
}
