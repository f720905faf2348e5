//! darwin-automation: the host driver on a Mac, for commands that drive its desktop with `osascript` and `shortcuts`.
//!
//! Promises: it is there on macOS on Apple Silicon alone, with both tools, and says what is missing otherwise; what a run
//! is and how it ends is the host driver's ([`crate::host`]), to the letter. macOS's consent to automation is looked up and
//! told, never asked for: nobody is shown a dialog by a daemon.
//!
//! Portable: the machine, the search path and who answers for the consent are values, so all of it is tested anywhere with
//! stand-ins for the tools.

mod health;
mod permissions;

use std::path::{Path, PathBuf};

pub use health::ConsentReader;
pub use permissions::{Permission, Permissions};

use crate::armed::Armed;
use crate::bwrap::find_program;
use crate::engine::Engine;
use crate::run::PreparedRun;
use crate::{DriverSettings, LaunchError, host};
use health::Asking;

/// This driver's name.
pub(crate) const NAME: &str = "darwin-automation";

/// The tools, and where each comes from.
const TOOLS: [(&str, &str); 2] = [
    ("osascript", "install the Xcode Command Line Tools: xcode-select --install"),
    ("shortcuts", "it comes with macOS 12 and later: update macOS"),
];

/// What machine this is, as Rust names systems and processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// `macos`, `linux`, …
    pub system: &'static str,
    /// `aarch64`, `x86_64`, …
    pub processor: &'static str,
}

impl Machine {
    /// The machine that this program was built for.
    #[must_use]
    pub const fn this() -> Self {
        Self { system: std::env::consts::OS, processor: std::env::consts::ARCH }
    }

    /// A Mac on Apple Silicon.
    #[must_use]
    pub const fn apple_silicon() -> Self {
        Self { system: "macos", processor: "aarch64" }
    }

    /// Why there is no desktop automation here; `None` on a Mac that has it.
    #[must_use]
    pub fn lacks_automation(self) -> Option<String> {
        (self != Self::apple_silicon()).then(|| {
            let Self { system, processor } = self;
            format!("it needs macOS on Apple Silicon, and this is {system} on {processor}")
        })
    }
}

/// What the driver is built from.
#[derive(Clone, Copy, Debug)]
pub struct DarwinSettings {
    /// The machine it is to work on.
    pub machine: Machine,
    /// Who says what macOS allows.
    pub consent: ConsentReader,
}

impl DarwinSettings {
    /// This machine, and its own word on what is allowed.
    #[must_use]
    pub const fn of_this_machine() -> Self {
        Self { machine: Machine::this(), consent: sys::consent::read }
    }
}

/// The driver.
#[derive(Debug)]
pub(crate) struct DarwinAutomation {
    /// Each tool by name, and where it is.
    tools: Vec<(&'static str, PathBuf)>,
    asking: Asking,
}

impl DarwinAutomation {
    /// Looks for what it needs; the text says why it cannot work here.
    pub(crate) fn prepare(settings: &DriverSettings) -> Result<Self, String> {
        let darwin = settings.darwin.clone()?;
        if let Some(reason) = darwin.machine.lacks_automation() {
            return Err(reason);
        }
        let find = |(name, mend): (&'static str, &str)| match find_program(Path::new(name), &settings.search_path) {
            Some(path) => Ok((name, path)),
            None => Err(format!("{name} is not found on nexusd's PATH: {mend}")),
        };
        let tools = TOOLS.into_iter().map(find).collect::<Result<_, _>>()?;
        Ok(Self { tools, asking: Asking::of(darwin.consent) })
    }

    /// Puts a run together, as the host driver does.
    pub(crate) fn arm(&self, engine: &Engine, run: PreparedRun) -> Result<Armed, LaunchError> {
        host::arm(engine, NAME, run)
    }

    /// The folders of the tools, in the order of the tools.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.tools.iter().filter_map(|(_, path)| path.parent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_macs_alone() {
        let said = |system, processor| Machine { system, processor }.lacks_automation();
        assert_eq!(said("macos", "aarch64"), None);
        for (system, processor) in [("macos", "x86_64"), ("linux", "aarch64"), ("linux", "x86_64")] {
            let reason = said(system, processor).unwrap();
            assert_eq!(reason, format!("it needs macOS on Apple Silicon, and this is {system} on {processor}"));
        }
        assert_eq!(
            Machine::this().lacks_automation().is_none(),
            cfg!(all(target_os = "macos", target_arch = "aarch64"))
        );
    }
}
