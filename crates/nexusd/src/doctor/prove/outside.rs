//! The control: the same things without a sandbox, where they must succeed, or what was held proves nothing.

use std::path::Path;
use std::time::Duration;

use super::inside;
use super::plan::{Control, Probe};
use super::scene::Scene;
use super::verdict::{Seen, answers};
use crate::doctor::programs::{self, Ran};

/// Longest wait for one of them.
const LIMIT: Duration = Duration::from_secs(5);

/// Each probe without a sandbox; `None` for those that have no control.
///
/// # Errors
/// The scene cannot be restored.
pub(super) async fn try_all(scene: &mut Scene, probes: &[Probe]) -> Result<Vec<Option<Seen>>, String> {
    let mut seen = Vec::new();
    for probe in probes {
        let mut words: Vec<&str> = probe.words.iter().map(String::as_str).collect();
        let proxy = scene.open_proxy.to_string();
        match probe.control {
            Control::Same => {}
            Control::OpenProxy => words.push(&proxy),
            Control::None => {
                seen.push(None);
                continue;
            }
        }
        let said = tried(&scene.helper, &words).await;
        // Whoever comes now is the control, and nobody else's visit afterwards.
        if said == Seen::Open && probe.control == Control::Same {
            scene.awaits(&probe.witness).await?;
        }
        seen.push(Some(said));
    }
    Ok(seen)
}

/// A process that nobody ends stays.
///
/// # Errors
/// It cannot be told to end.
pub(super) async fn survivors(scene: &Scene, own: &Path) -> Result<Seen, String> {
    let lock = own.join(inside::LOCK);
    let path = lock.display().to_string();
    let seen = match tried(&scene.helper, &["stay", &path]).await {
        Seen::Open if inside::is_held(&lock).is_ok_and(|held| held) => Seen::Open,
        Seen::Open => Seen::Shut("it ended by itself".to_owned()),
        other => other,
    };
    std::fs::remove_file(&lock).map_err(|error| format!("cannot remove {path}: {error}"))?;
    Ok(seen)
}

/// As much memory as a sandbox is refused.
pub(super) async fn memory(scene: &Scene) -> Seen {
    tried(&scene.helper, &["memory", &inside::TAKES_MB.to_string()]).await
}

/// As many processes as a sandbox is refused.
pub(super) async fn processes(scene: &Scene) -> Seen {
    tried(&scene.helper, &["processes", &inside::STARTS.to_string()]).await
}

async fn tried(helper: &Path, words: &[&str]) -> Seen {
    let args: Vec<&str> = ["probe"].iter().chain(words).copied().collect();
    match programs::run(helper.as_os_str(), &args, LIMIT).await {
        Ran::Ended { success: true, output } => answer(output.trim()),
        other => Seen::Unknown(other.complaint()),
    }
}

fn answer(line: &str) -> Seen {
    answers(1, &format!("0 {line}"), "it said nothing").pop().unwrap_or_else(|| Seen::Unknown(line.to_owned()))
}
