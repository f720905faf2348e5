//! The way out, past the proxy; and what listens on the host's loopback.

use super::attack::Control::User;
use super::attack::Layer::Net;
use super::attack::probe;
use super::scene::Scene;

fn reached(scene: &Scene) -> bool {
    scene.planted.network.as_ref().is_some_and(super::scene::Network::reached)
}

attacks! { Network:
    tcp, [Net],
        probe(&["tcp", "{four}", "{port}"], User).seen(reached).act(),
        "TCP to an address outside";
    tcp_six, [Net],
        probe(&["tcp", "{six}", "{port}"], User).seen(reached).act(),
        "TCP over IPv6 to an address outside";
    udp, [Net],
        probe(&["udp", "{four}", "{port}"], User).seen(reached).act(),
        "UDP to an address outside";
    udp_six, [Net],
        probe(&["udp", "{six}", "{port}"], User).seen(reached).act(),
        "UDP over IPv6 to an address outside";
    dns, [Net],
        probe(&["dns", "{four}", "53"], User).seen(reached).act(),
        "a question to a name server outside";
    icmp, [Net],
        probe(&["ping", "{four}"], User).act(),
        "an echo request to an address outside";
    icmp_six, [Net],
        probe(&["ping", "{six}"], User).act(),
        "an echo request over IPv6";
    interfaces_of_the_host, [Net],
        probe(&["interfaces"], User).act(),
        "looks for an interface beside loopback";
}

pub(super) mod loopback {
    use super::{Net, User, probe, reached};

    attacks! { Loopback:
        a_service, [Net],
            probe(&["tcp", "127.0.0.1", "{port}"], User).seen(reached).act(),
            "TCP to a service on the host's 127.0.0.1";
        a_service_over_six, [Net],
            probe(&["tcp", "::1", "{port}"], User).seen(reached).act(),
            "TCP to a service on the host's ::1";
        the_resolver_stub, [Net],
            probe(&["dns", "127.0.0.53", "53"], User).seen(reached).act(),
            "a question to the host's own resolver at 127.0.0.53";
    }
}
