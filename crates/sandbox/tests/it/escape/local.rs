//! Unix sockets of the host: session buses and engines of containers.

use super::attack::Control::User;
use super::attack::Layer::{Mounts, Net};
use super::attack::probe;
use super::scene::Scene;

fn reached(scene: &Scene) -> bool {
    scene.planted.unix_reached()
}

attacks! { Local:
    the_session_bus, [Mounts],
        probe(&["unix", "/run/user/bus"], User).seen(reached).act(),
        "connects to a session bus, as `systemd-run --user` does";
    the_manager_s_private_socket, [Mounts],
        probe(&["unix", "/run/systemd/private"], User).seen(reached).act(),
        "connects to the private socket of a service manager";
    podman, [Mounts],
        probe(&["unix", "/run/podman/podman.sock"], User).seen(reached).act(),
        "connects to podman's socket";
    docker, [Mounts],
        probe(&["unix", "/run/docker.sock"], User).seen(reached).act(),
        "connects to Docker's socket";
    an_abstract_socket, [Net],
        probe(&["unix", "@nexus-escape-{unique}"], User).seen(reached).act(),
        "connects to an abstract socket of the host, which no mount hides";
}
