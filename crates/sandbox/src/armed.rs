//! A run put together and not yet started: all that can be refused about it has been, and what will be in force around it
//! is known, so that this can be told while its process is made.

use std::os::fd::OwnedFd;
use std::time::Duration;

use sys::cgroup::Group;
use sys::spawn::{Program, Spawner};

use crate::container::{Meeting, Trace};
use crate::control::Control;
use crate::outlet::Outlet;
use crate::{LaunchError, Layers, RunHandle, process};

/// A run put together. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Armed {
    program: Program,
    around: Around,
}

/// What stands around a run from here to its end.
#[derive(Debug)]
pub(crate) struct Around {
    /// To the helper; the plan waits in it.
    pub(crate) control: Control,
    /// Read end of the pipe that takes what the engine itself says.
    pub(crate) diagnostics: OwnedFd,
    /// Who takes the sandbox's sockets; nobody any more, once they have been handed on.
    pub(crate) outlet: Option<Outlet>,
    pub(crate) group: Option<Group>,
    pub(crate) layers: Layers,
    pub(crate) timeout: Duration,
    /// Turns the engine's own message into a sentence with the mend.
    pub(crate) explain: fn(&str) -> String,
    /// How long the set-up may take.
    pub(crate) ready_within: Duration,
    /// Where the helper comes for its descriptors, until it has come.
    pub(crate) meeting: Option<Meeting>,
    /// The container that may be left where its end is not orderly.
    pub(crate) trace: Option<Trace>,
}

impl Armed {
    pub(crate) fn new(program: Program, around: Around) -> Self {
        Self { program, around }
    }

    /// What will be in force around the run.
    #[must_use]
    pub fn layers(&self) -> &Layers {
        &self.around.layers
    }

    /// Makes the process; the sandbox is then being set up, and the command waits.
    pub(crate) async fn start(self, spawner: &Spawner) -> Result<RunHandle, LaunchError> {
        let process = process::start(spawner, self.program).await?;
        Ok(RunHandle::new(process, self.around))
    }
}
