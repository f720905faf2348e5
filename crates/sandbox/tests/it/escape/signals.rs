//! Signals to processes outside. Each is looked for there: the victim has the sandbox's uid, and lives on.

use super::attack::Control::User;
use super::attack::Layer::Pids;
use super::attack::probe;
use super::scene::Scene;

fn ended(scene: &Scene) -> bool {
    scene.victim.has_ended()
}

attacks! { Signals:
    kill_outside, [Pids],
        probe(&["kill", "{pid}"], User).seen(ended).act(),
        "kill(2)";
    queue_outside, [Pids],
        probe(&["sigqueue", "{pid}"], User).seen(ended).act(),
        "rt_sigqueueinfo(2)";
    thread_outside, [Pids],
        probe(&["tgkill", "{pid}"], User).seen(ended).act(),
        "tgkill(2)";
    pidfd_outside, [Pids],
        probe(&["pidfd-signal", "{pid}"], User).seen(ended).act(),
        "pidfd_send_signal(2)";
    priority_outside, [Pids],
        probe(&["setpriority", "{pid}"], User).act(),
        "setpriority(2) of a process of the host";
}
