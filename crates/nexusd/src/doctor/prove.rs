//! `nexusd doctor --prove`: attacks each configured profile's sandbox on this very host, and says what held.
//!
//! ```text
//! scene (what there is to be reached) ─▶ probes (pure) ─┬▶ inside: a directive's own line ─┐
//!                                                       └▶ outside: the same, no sandbox ──┴▶ rows (pure) ─▶ page
//! ```
//!
//! Promises: what is tried goes through the driver, proxy and limits of a directive; nothing counts as held that was not
//! tried, and where it fails without a sandbox as well, that is said; what is reached is nexusd's own, or only opened and
//! not read; nothing stays behind.
//!
//! Leaves to others: the exit code (1 when [`Proof::failed`]).

use std::path::Path;
use std::sync::Arc;

use conduits::{DriverKind, SandboxProfile};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::report::{RULE, Row, State};
use crate::config::{Config, Origin, Sourced};
use crate::engine::{Engine, Surroundings};
use crate::observe::metrics::WorkSample;
use crate::rootfs::{self, Wanted};
use crate::run::{Scratch, facility};
use crate::signals::Signals;

mod inside;
mod outside;
mod plan;
mod scene;
mod verdict;

use inside::Inside;
use plan::{Class, Probe, promise};
use scene::Scene;
use verdict::{Seen, Trial};

/// What was proved of each configured profile.
#[derive(Debug)]
pub struct Proof {
    sections: Vec<Section>,
}

/// One profile's rows.
#[derive(Debug)]
struct Section {
    profile: SandboxProfile,
    driver: DriverKind,
    rows: Vec<Row>,
}

/// Proves each profile that the configuration offers; folders for the time of it are made beneath `temp`. Takes seconds,
/// and at most some minutes where everything hangs.
///
/// # Errors
/// The host refused what the proof itself needs; says what.
pub async fn prove(config: &Config, around: &Surroundings, temp: &Path) -> Result<Proof, String> {
    let mut sections = Vec::new();
    if rootfs::is_wanted(config) {
        let mut signals = Signals::new().map_err(|error| format!("cannot listen to signals: {error}"))?;
        let ensured = rootfs::command::ensure_here(&Wanted::of(config), None, &mut signals).await;
        ensured.map_err(|error| error.to_string())?;
    }
    for profile in &config.supported_sandbox_profiles {
        let driver = config.driver_of(*profile);
        let proved = of_profile(*profile, config, around, temp).await;
        let rows = proved.unwrap_or_else(|why| vec![Row::fail("sandbox", why, "nexusd doctor says what is missing")]);
        sections.push(Section { profile: *profile, driver, rows });
    }
    Ok(Proof { sections })
}

async fn of_profile(
    profile: SandboxProfile,
    config: &Config,
    around: &Surroundings,
    temp: &Path,
) -> Result<Vec<Row>, String> {
    let own = Scratch::in_memory(temp).map_err(|error| error.to_string())?;
    let mut scene = Scene::set(own.path(), temp, &around.home, config).await?;
    let network = config.container.network;
    let promised = |class| promise(profile, network, class) == plan::Promise::Held;

    let bench = Bench::new(for_a_proof(config, profile, &own.path().join("a")), around).await?;
    let mut trials = Vec::new();
    let attacked = async {
        let inside = bench.inside(profile, temp, &scene.helper).await?;
        if Class::ALL.into_iter().any(|class| class.is_attempt() && promised(class)) {
            trials.extend(attempts(&inside, &mut scene, promised).await?);
        }
        if promised(Class::Survivors) {
            let control = outside::survivors(&scene, own.path()).await?;
            trials.push(Trial::of_one(Class::Survivors, inside.survivors().await?, control));
        }
        if promised(Class::Memory) {
            trials.push(Trial::of_one(Class::Memory, inside.memory().await?, outside::memory(&scene).await));
        }
        Ok::<(), String>(())
    };
    let attacked = attacked.await;
    bench.close().await;
    attacked?;
    if promised(Class::Processes) {
        let mut config = for_a_proof(config, profile, &own.path().join("b"));
        // Named, so that a host which cannot keep it refuses the run, and does not go on without.
        config.limits.pids = Sourced { value: inside::PIDS, origin: Origin::Named };
        let bench = Bench::new(config, around).await?;
        let seen = async { bench.inside(profile, temp, &scene.helper).await?.processes().await }.await;
        bench.close().await;
        trials.push(Trial::of_one(Class::Processes, seen?, outside::processes(&scene).await));
    }
    Ok(Class::ALL.map(|class| verdict::row(class, promise(profile, network, class), &trials)).to_vec())
}

/// The operator's configuration, but for where its state is.
fn for_a_proof(config: &Config, profile: SandboxProfile, state: &Path) -> Config {
    let mut config = config.clone();
    config.work_dir = state.to_owned();
    config.bwrap.proxy_socket_dir = state.join("proxy");
    config.supported_sandbox_profiles = vec![profile];
    config.min_free_bytes = 0;
    config
}

/// An engine of the proof's own.
struct Bench {
    engine: Engine,
    stop: CancellationToken,
}

impl Bench {
    async fn new(config: Config, around: &Surroundings) -> Result<Self, String> {
        let counters = Arc::default();
        let metrics = Arc::new(crate::engine::metrics(&counters, Arc::new(WorkSample::default)));
        let stop = CancellationToken::new();
        let engine = Engine::new(config, around.clone(), metrics, counters, &stop).await;
        Ok(Self { engine: engine.map_err(|error| error.to_string())?, stop })
    }

    /// A facility with the probing program in it, where the profile's driver works.
    async fn inside(&self, profile: SandboxProfile, temp: &Path, helper: &Path) -> Result<Inside<'_>, String> {
        let engine = &self.engine;
        let health = engine.check_health().await;
        if let Some(health) = health.get(&engine.config.driver_of(profile)).filter(|health| !health.healthy) {
            let reason = health.reason.as_deref().unwrap_or("its driver does not work here");
            return Err(format!("cannot be proved, for nothing runs in it: {reason}"));
        }
        let folder = facility::take(engine, None, temp, profile).await.map_err(|error| error.to_string())?;
        let copied = std::fs::copy(helper, folder.path.join("probe"));
        copied.map_err(|error| format!("cannot put the probing program into a facility: {error}"))?;
        Ok(Inside { engine, profile, folder })
    }

    async fn close(self) {
        self.stop.cancel();
        self.engine.tasks.close();
        self.engine.tasks.wait().await;
    }
}

/// All that one run tries, with and without a sandbox; what is not promised is left alone.
async fn attempts(
    inside: &Inside<'_>,
    scene: &mut Scene,
    promised: impl Fn(Class) -> bool,
) -> Result<Vec<Trial>, String> {
    let probes = |scene: &Scene| {
        let all = plan::probes(&scene.places(inside.has_proxy())).into_iter();
        all.filter(|probe| promised(probe.class)).collect::<Vec<_>>()
    };
    let controls = probes(scene);
    let outside = outside::try_all(scene, &controls).await?;
    // The control has ended the process that was there to be ended: there is another one now.
    let probes = probes(scene);
    let ran = inside.run(&script(&probes), json!({})).await?;
    let seen = verdict::answers(probes.len(), &ran.stdout, &ran.why());
    let mut trials = Vec::new();
    for ((probe, said), outside) in probes.into_iter().zip(seen).zip(outside) {
        let inside = if scene.was_reached(&probe.witness)? { Seen::Open } else { said };
        trials.push(Trial { class: probe.class, what: probe.what, inside, outside });
    }
    if !scene.is_untouched() {
        return Err("LEAK: the file in the host's temporary folder was changed from inside".to_owned());
    }
    Ok(trials)
}

/// A line of output for each probe, its number before it.
fn script(probes: &[Probe]) -> String {
    let mut script = String::new();
    for (index, probe) in probes.iter().enumerate() {
        let words: Vec<String> = probe.words.iter().map(|word| crate::cli::quote(word)).collect();
        script.push_str(&format!("printf '{index} '; ./probe probe {} || echo\n", words.join(" ")));
    }
    script
}

impl Proof {
    /// Whether anything leaked, or was not tried.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.sections.iter().flat_map(|section| &section.rows).any(|row| row.state == State::Fail)
    }

    /// The look of doctor, a section for each profile.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("nexusd doctor --prove\n{RULE}\n");
        for section in &self.sections {
            text.push_str(&format!("{} ({})\n", section.profile, section.driver.as_str()));
            section.rows.iter().for_each(|row| row.render(&mut text));
            text.push_str(&format!("{RULE}\n"));
        }
        let all = self.sections.iter().flat_map(|section| &section.rows).all(|row| row.state == State::Pass);
        let end = match (self.failed(), all) {
            (true, _) => "Some promises do not hold here, or were not tried. See details above.",
            (false, true) => "All promises held.",
            (false, false) => "Nothing leaked; what is marked ─ or ⚠ is not promised, or not proved.",
        };
        text.push_str(&format!("  {end}\n"));
        text
    }

    /// The same for programs: `{"passed": …, "profiles": [{profile, driver, checks: [{name, state, detail, mend?}]}]}`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let of = |section: &Section| json!({ "profile": section.profile.as_str(), "driver": section.driver.as_str(), "checks": section.rows });
        json!({ "passed": !self.failed(), "profiles": self.sections.iter().map(of).collect::<Vec<_>>() })
    }
}
