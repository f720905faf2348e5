//! The host driver: a process of the host, without isolation, that still cannot outlive its run.
//!
//! The helper supervises it as a subreaper, so what the command leaves behind, daemonised or not, is found and killed. Where
//! there are no subreapers, [`crate::supervisor`] does what can be done without.

use guest::frame::Frame;
use sys::spawn::{Program, Stage};

use crate::armed::{Armed, Around};
use crate::bwrap::host as failed;
use crate::control::Control;
use crate::engine::Engine;
use crate::limits::Fence;
use crate::run::{NetworkPath, PreparedRun, WorkspaceAccess};
use crate::{LaunchError, Layers, NetworkLayer, READY_TIMEOUT};

/// This driver's name.
pub(crate) const NAME: &str = "host";

/// Puts a run together, for this driver or one that has only another name and further conditions.
pub(crate) fn arm(engine: &Engine, driver: &'static str, run: PreparedRun) -> Result<Armed, LaunchError> {
    let frame = run.plan(String::new(), &[]);
    let fence = Fence::build(engine, driver, &run)?;
    if run.workspace.access != WorkspaceAccess::ReadWrite {
        let reason = "capabilities.fs narrows the workspace, which a process of the host is not held to".to_owned();
        return Err(LaunchError::Unsupported { driver, reason });
    }
    if !matches!(run.network, NetworkPath::HostNetwork) {
        let reason = "it has the host's network and no other".to_owned();
        return Err(LaunchError::Unsupported { driver, reason });
    }
    let (_, cwd) = run.open_workspace()?;
    let pair = sys::fdpass::socket_pair().map_err(failed("a socket pair"))?;
    let diagnostics = engine.diagnostics()?;
    let again = diagnostics.write.try_clone().map_err(failed("a descriptor"))?;
    let mut stages = vec![Stage::NewSession];
    stages.extend(fence.stages);
    stages.extend([Stage::WorkingDirectory(cwd), Stage::DieWithParent]);
    let (image, opened) = engine.host_helper()?;
    // The order is that of `guest::fd`.
    let mut fds = vec![
        run.stdin.map_or_else(|| engine.null(), Ok)?,
        diagnostics.write,
        again,
        pair.theirs,
        run.stdout,
        run.stderr,
    ];
    fds.extend(opened);
    let program =
        Program { image, argv: vec![c"nexus-init".to_owned(), c"host".to_owned()], env: Vec::new(), stages, fds };
    let mut control = Control::new(pair.ours).map_err(failed("the control socket"))?;
    control.send(&Frame::Plan(frame));
    let layers = Layers {
        driver,
        namespaces: Vec::new(),
        seccomp: false,
        no_new_privs: false,
        landlock_abi: None,
        uid: sys::user::effective_uid(),
        separate_uid: false,
        cgroup: fence.layer,
        network: NetworkLayer::Host,
        limits: fence.limits,
        image: None,
    };
    let (group, timeout) = (fence.group, run.timeout);
    let explain = |said: &str| said.to_owned();
    let diagnostics = diagnostics.read;
    Ok(Armed::new(
        program,
        Around {
            control,
            diagnostics,
            outlet: None,
            group,
            layers,
            timeout,
            explain,
            ready_within: READY_TIMEOUT,
            meeting: None,
            trace: None,
        },
    ))
}
