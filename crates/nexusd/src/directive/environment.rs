//! The environment of a directive's command: the standard one, then the plain variables of its specification.

use conduits::{DirectiveId, DriverKind};
use sandbox::{BaseEnvironment, Environment, EnvironmentError, ProxyVariables};

use super::admit::Admitted;
use super::network::ProxyAddress;
use crate::engine::{Engine, driver};
use crate::facility::Occupied;

/// Where the workspace is inside every isolated sandbox.
const WORKSPACE: &str = "/workspace";

/// The exact environment of one run.
///
/// # Errors
/// A value that no environment can hold.
pub(super) fn of(
    engine: &Engine,
    id: &DirectiveId,
    admitted: &Admitted,
    occupied: &Occupied,
    proxy: Option<&ProxyAddress>,
) -> Result<Environment, EnvironmentError> {
    let spec = &admitted.spec;
    let facility = occupied.path.to_string_lossy();
    let isolated = isolated(admitted.driver);
    let mut environment = Environment::base(&BaseEnvironment {
        directive_id: id.as_str(),
        facility_id: spec.facility.id.as_str(),
        territory_id: &engine.territory,
        profile: spec.sandbox_profile.as_str(),
        workspace: if isolated { WORKSPACE } else { &facility },
        home: if isolated { WORKSPACE } else { &engine.home },
        private_tmp: isolated,
        proxy: match proxy {
            Some(ProxyAddress { http, socks, .. }) => ProxyVariables::Url { http, socks },
            None if isolated => ProxyVariables::Sandbox,
            None => ProxyVariables::None,
        },
    })?;
    for folder in engine.drivers.tool_folders(driver(admitted.driver)) {
        environment.find_in(&folder.to_string_lossy())?;
    }
    for (name, value) in &spec.env {
        environment.set(name.as_str(), value)?;
    }
    Ok(environment)
}

/// Whether the driver gives the command a file system of its own.
pub(super) fn isolated(driver: DriverKind) -> bool {
    !matches!(driver, DriverKind::Host | DriverKind::DarwinAutomation)
}
