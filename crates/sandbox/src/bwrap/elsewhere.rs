//! In the place of bubblewrap where there is no Linux: a driver that is never there.

use std::convert::Infallible;
use std::path::Path;

use sys::beneath::Beneath;

use crate::armed::Armed;
use crate::drivers::Owner;
use crate::engine::Engine;
use crate::run::WorkspaceAccess;
use crate::{DriverSettings, DriversError, Health, LaunchError, PreparedRun};

pub(crate) use crate::finding::{find_program, host, open_null};

/// This driver's name.
pub(crate) const NAME: &str = "bwrap";

/// Nothing is selected where nothing is narrowed.
pub(crate) fn check_selected(_: &Beneath, _: &WorkspaceAccess, _: Owner, _: bool) -> Result<(), LaunchError> {
    Err(LaunchError::Unavailable { driver: NAME, reason: NEEDS_LINUX.to_owned() })
}

const NEEDS_LINUX: &str = "bubblewrap needs Linux";

/// None can be made.
#[derive(Debug)]
pub(crate) struct Bwrap(Infallible);

impl Bwrap {
    /// Says why.
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    pub(crate) fn prepare(_: &DriverSettings, _: Owner, _: &Path) -> Result<Result<Self, String>, DriversError> {
        Ok(Err(NEEDS_LINUX.to_owned()))
    }

    pub(crate) fn lacks(&self) -> Option<String> {
        match self.0 {}
    }

    pub(crate) fn arm(&self, _: &Engine, _: PreparedRun) -> Result<Armed, LaunchError> {
        match self.0 {}
    }

    #[allow(clippy::unused_async, reason = "as on Linux")]
    pub(crate) async fn health(&self, _: &Engine) -> Health {
        match self.0 {}
    }
}
