//! Whether containers work here: what the runtime says of the host and the image, a real container, and what is left of others.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use super::runtime::{self, Found};
use super::{Container, Known};
use crate::engine::Engine;
use crate::run::{NetworkPath, PreparedRun, WorkspaceFiles};
use crate::{
    CommandLine, Environment, Health, ImagePull, Limits, RunName, Starts, Workspace, WorkspaceAccess, WorkspaceCwd,
};

/// How long the trial's command may take.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(10);

impl Container {
    /// Looks at the runtime and the image anew, and removes what is left of runs that did not end as they should.
    pub(crate) async fn health(&self, engine: &Engine) -> Health {
        let mut details = BTreeMap::from([
            ("program".to_owned(), self.cli.program.display().to_string()),
            ("image".to_owned(), self.settings.image.clone()),
        ]);
        let (version, reason) = match self.look(engine).await {
            Ok(known) => {
                details.insert("rootless".to_owned(), known.facts.rootless.to_string());
                if let Some(image) = &known.image {
                    details.insert("digest".to_owned(), image.digest.clone());
                }
                (self.cli.runtime.version_line(&known.facts.version), None)
            }
            Err(reason) => (engine.version_of(&self.cli.program).await, Some(reason)),
        };
        Health { healthy: reason.is_none(), version, reason, details }
    }

    async fn look(&self, engine: &Engine) -> Result<Known, String> {
        let looked = self.look_anew(engine).await;
        if looked.is_err() {
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        looked
    }

    async fn look_anew(&self, engine: &Engine) -> Result<Known, String> {
        // Runs go on meanwhile with what is known.
        let earlier = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // What the host can do stays; which image the name means may change.
        let facts = match earlier {
            Some(known) => known.facts,
            None => {
                let facts = self.cli.facts(engine).await?;
                self.note_leftovers(engine).await?;
                facts
            }
        };
        self.sweep(engine).await;
        let image = match (self.cli.image(engine, &self.settings.image).await, self.settings.pull) {
            (Ok(image), _) => Some(image),
            // It is fetched with the run. Whatever else is wrong would be so then, too.
            (Err(error), ImagePull::Missing | ImagePull::Always) if runtime::is_absence(&error) => None,
            (Err(error), _) => return Err(error),
        };
        let known = Known { facts, image };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
        if let Some(image) = &known.image
            && self.is_new(image)
        {
            self.trial(engine).await?;
            *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = Some(image.id.clone());
        }
        Ok(known)
    }

    /// Whether a container of this image has not been tried yet. A single command is its own trial.
    fn is_new(&self, image: &Found) -> bool {
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        self.starts == Starts::Many && tried.as_ref() != Some(&image.id)
    }

    /// Runs a real container with the arguments of every other, which has nothing but loopback.
    async fn trial(&self, engine: &Engine) -> Result<(), String> {
        let place = engine.trial_workspace().map_err(|error| error.to_string())?;
        let output = sys::pipe::pipe().map_err(|error| error.to_string())?;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let run = PreparedRun {
            name: RunName::parse(&engine.trial_name()).map_err(|error| text(&error))?,
            command: CommandLine::new("/bin/sh", "exit 0").map_err(|error| text(&error))?,
            cwd: WorkspaceCwd::default(),
            environment: Environment::default(),
            workspace: Workspace { host_dir: place, access: WorkspaceAccess::ReadOnly, files: WorkspaceFiles::Its },
            network: NetworkPath::Isolated,
            limits: Limits::default(),
            stdin: None,
            stdout: output.write.try_clone().map_err(|error| text(&error))?,
            stderr: output.write,
            timeout: TRIAL_TIMEOUT,
        };
        let armed = self.arm(engine, run).map_err(|error| text(&error))?;
        let mut handle = armed.start(engine.spawner()).await.map_err(|error| text(&error))?;
        handle.ready().await.map_err(|error| text(&error))?;
        handle.release().map_err(|error| text(&error))?;
        let (_keep, stop) = tokio::sync::watch::channel(None);
        let exit = handle.wait(stop).await;
        if exit.code == 0 {
            return Ok(());
        }
        let mut said = String::new();
        // Whatever could not be read does not change the verdict.
        std::io::Read::read_to_string(&mut std::fs::File::from(output.read), &mut said).unwrap_or(0);
        Err(format!("the trial container ended with code {} ({:?}): {}", exit.code, exit.ended, said.trim()))
    }

    /// What daemons that are gone have left: nobody else uses this label, and the daemon is one of a kind in its folder.
    async fn note_leftovers(&self, engine: &Engine) -> Result<(), String> {
        let left = self.cli.labelled(engine, &self.label).await?;
        if !left.is_empty() {
            tracing::info!(containers = left.len(), "containers of an earlier nexusd are removed");
        }
        self.stale.lock().unwrap_or_else(PoisonError::into_inner).extend(left);
        Ok(())
    }

    /// Removes what is left. What cannot be removed now is tried again at the next look.
    pub(crate) async fn sweep(&self, engine: &Engine) {
        let stale = std::mem::take(&mut *self.stale.lock().unwrap_or_else(PoisonError::into_inner));
        if stale.is_empty() {
            return;
        }
        if let Err(error) = self.cli.remove(engine, &stale).await {
            tracing::warn!(containers = stale.join(" "), error, "containers that are left could not be removed");
            self.stale.lock().unwrap_or_else(PoisonError::into_inner).extend(stale);
        }
    }
}
