//! Signals from the operator and words to the service manager.

use std::convert::Infallible;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// SIGTERM and SIGINT end the daemon, SIGHUP reloads.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes the signals over from their default actions.
    ///
    /// # Errors
    /// The runtime cannot listen to them.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the order to stop; calls `reload` at each SIGHUP meanwhile.
    pub async fn until_stop(&mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => { info!("SIGTERM: shutting down"); return }
                _ = self.interrupt.recv() => { info!("SIGINT: shutting down"); return }
                _ = self.hangup.recv() => { info!("SIGHUP: reloading"); reload() }
            }
        }
    }

    /// Waits for a further order to stop; calls `reload` at each SIGHUP meanwhile, of which it says nothing.
    pub async fn again(&mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload(),
            }
        }
    }

    /// Says to each SIGHUP that it comes too late.
    pub async fn too_late(&mut self) -> Infallible {
        loop {
            self.hangup.recv().await;
            warn!("SIGHUP: nothing is reloaded, nexusd is about to be down");
        }
    }

    /// Waits for whatever asks a program at a terminal to leave. Cancel safe.
    pub async fn leave(&mut self) -> Leave {
        tokio::select! {
            _ = self.terminate.recv() => Leave::Terminate,
            _ = self.interrupt.recv() => Leave::Interrupt,
            _ = self.hangup.recv() => Leave::HangUp,
        }
    }
}

/// What asked a program at a terminal to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// SIGTERM.
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGHUP: the terminal was closed.
    HangUp,
}

impl Leave {
    /// The signal's number, the same on every system.
    pub fn number(self) -> i32 {
        match self {
            Self::HangUp => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

/// Tells systemd that the daemon is up (`sd_notify(3)`, READY=1); nothing where nobody listens.
pub fn notify_ready() {
    notify(&sd_notify::NotifyState::Ready);
}

/// Tells systemd, where it asks for it (`WatchdogSec=`), that the daemon is alive, until `stop`. Sent by the runtime that all work
/// runs on: a daemon that hangs falls silent.
pub async fn watchdog(stop: CancellationToken) {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    // systemd asks for half the time (sd_watchdog_enabled(3)).
    let mut ticks = tokio::time::interval(within / 2);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => notify(&sd_notify::NotifyState::Watchdog),
        }
    }
}

/// Tells systemd that the daemon is going down.
pub fn notify_stopping() {
    notify(&sd_notify::NotifyState::Stopping);
}

fn notify(state: &sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        warn!(%error, "the service manager could not be told");
    }
}
