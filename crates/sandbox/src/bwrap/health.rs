//! Whether bubblewrap works here: a real sandbox with the real arguments, in which the network is really absent.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

use tokio::sync::watch;

use super::Bwrap;
use crate::engine::Engine;
use crate::{
    CommandLine, Environment, Health, Limits, NetworkPath, PreparedRun, RunName, Workspace, WorkspaceAccess,
    WorkspaceCwd, WorkspaceFiles,
};

/// How long the trial may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Succeeds only where the loopback device is the one network device.
const TRIAL: &str = "set -e; n=0; while read -r line; do n=$((n+1)); done < /proc/net/dev; test $n -eq 3";

/// Succeeds only where the host's own /etc is not there; a rootfs has one of its own.
const TRIAL_OF_HOST_USR: &str = "; test ! -e /etc/shadow";

impl Bwrap {
    /// Runs the trial.
    pub(crate) async fn health(&self, engine: &Engine) -> Health {
        let version = engine.version_of(self.program()).await;
        let mut details = BTreeMap::from([
            ("program".to_owned(), self.program().display().to_string()),
            ("uid".to_owned(), self.owner.uid.to_string()),
        ]);
        let reason = match self.trial(engine).await {
            Ok(layers) => {
                details.insert("layers".to_owned(), layers);
                None
            }
            Err(reason) => Some(reason),
        };
        Health { healthy: reason.is_none(), version, reason, details }
    }

    async fn trial(&self, engine: &Engine) -> Result<String, String> {
        let workspace = engine.trial_workspace().map_err(|error| error.to_string())?;
        let output = sys::pipe::pipe().map_err(|error| error.to_string())?;
        let script = if self.host_usr { format!("{TRIAL}{TRIAL_OF_HOST_USR}") } else { TRIAL.to_owned() };
        let run = PreparedRun {
            name: RunName::parse(&engine.trial_name()).map_err(|error| error.to_string())?,
            command: CommandLine::new("/bin/sh", script).map_err(|error| error.to_string())?,
            cwd: WorkspaceCwd::default(),
            environment: Environment::default(),
            workspace: Workspace { host_dir: workspace, access: WorkspaceAccess::ReadOnly, files: WorkspaceFiles::Its },
            network: NetworkPath::Isolated,
            limits: Limits::default(),
            stdin: None,
            stdout: output.write.try_clone().map_err(|error| error.to_string())?,
            stderr: output.write,
            timeout: TIMEOUT,
        };
        let armed = self.arm(engine, run).map_err(|error| error.to_string())?;
        let mut handle = armed.start(engine.spawner()).await.map_err(|error| error.to_string())?;
        handle.ready().await.map_err(|error| error.to_string())?;
        handle.release().map_err(|error| error.to_string())?;
        let (_keep, stop) = watch::channel(None);
        let exit = handle.wait(stop).await;
        if exit.code == 0 {
            return Ok(handle.layers().to_string());
        }
        let mut said = String::new();
        // Whatever could not be read does not change the verdict.
        std::io::Read::read_to_string(&mut File::from(output.read), &mut said).unwrap_or(0);
        Err(format!("the trial sandbox ended with code {} ({:?}): {}", exit.code, exit.ended, said.trim()))
    }
}
