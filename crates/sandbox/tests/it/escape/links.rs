//! Links that one directive leaves in a facility for the daemon's next look at it.

use sandbox::{LaunchError, Selected, WorkspaceAccess, WorkspaceCwd};

use super::attack::Control::Inside;
use super::attack::Layer::{Beneath, Mounts};
use super::attack::{Act, Verdict, probe};
use super::scene::Scene;
use crate::bed::Run;

/// The verdict on a run that must not be started, and the control: one of the same kind without a link is.
fn started(scene: &Scene, by_link: Run, plain: Run) -> Verdict {
    let start = |run| scene.block_on(async { scene.bed.start(run).await.map(|(handle, ..)| handle.abandon()) });
    start(plain).expect("the control");
    match start(by_link) {
        Ok(()) => Verdict::Broken("it was started".to_owned()),
        Err(LaunchError::Cwd { reason, .. } | LaunchError::Unsupported { reason, .. }) => Verdict::Held(reason),
        Err(error) => panic!("{error}"),
    }
}

fn link(scene: &Scene, target: &str) {
    std::os::unix::fs::symlink(scene.word(target), scene.bed.facility().join("link")).unwrap();
    scene.bed.make_dir("plain");
}

fn cwd(scene: &Scene, target: &str) -> Verdict {
    link(scene, target);
    let at = |cwd: &str| Run { cwd: cwd.into(), ..Run::sh("true") };
    started(scene, at("link"), at("plain"))
}

fn narrowed(scene: &Scene, target: &str) -> Verdict {
    link(scene, target);
    let only = |path| {
        let access = WorkspaceAccess::Only(vec![Selected { path: WorkspaceCwd::parse(path).unwrap(), writable: true }]);
        Run { access, ..Run::sh("true") }
    };
    started(scene, only("link"), only("plain"))
}

attacks! { Links:
    cwd_by_a_link_to_etc, [Beneath],
        Act::Own(|scene| cwd(scene, "/etc")),
        "a working directory that is a link to `/etc`";
    cwd_by_a_link_beside, [Beneath],
        Act::Own(|scene| cwd(scene, "../beside")),
        "a working directory that is a relative link out of the facility";
    a_selected_path_by_a_link, [Beneath],
        Act::Own(|scene| narrowed(scene, "{dir}/beside")),
        "a path of `capabilities.fs` that is a link out of the facility, to be mounted writable";
    a_link_to_a_key, [Mounts],
        probe(&["read", "/workspace/link-to-key"], Inside(&["read", "/workspace/link-to-own"])).act(),
        "reads the daemon's key through a link in the workspace";
}
