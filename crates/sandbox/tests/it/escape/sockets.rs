//! Sockets of other families.

use super::attack::Control::{Root, User};
use super::attack::Layer::{Capabilities, Seccomp};
use super::attack::probe;

attacks! { Sockets:
    netlink_to_audit, [Seccomp],
        probe(&["socket", "16", "3", "9"], User).act(),
        "AF_NETLINK to the kernel's audit";
    netlink_to_devices, [Seccomp],
        probe(&["socket", "16", "3", "15"], User).act(),
        "AF_NETLINK to the events of devices";
    netlink_to_the_firewall, [Seccomp],
        probe(&["socket", "16", "3", "12"], User).act(),
        "AF_NETLINK to the packet filter";
    a_pair_of_vsock, [Seccomp],
        probe(&["socketpair", "40", "1", "0"], User).act(),
        "socketpair(2) in AF_VSOCK: the kernel makes the sockets before it finds that there are no pairs";
    a_pair_of_netlink, [Seccomp],
        probe(&["socketpair", "16", "3", "12"], User).act(),
        "socketpair(2) in AF_NETLINK, to the packet filter";
    sctp, [Seccomp],
        probe(&["socket", "2", "5", "132"], User).act(),
        "SCTP over IPv4, a protocol that the kernel loads when it is asked for";
    l2tp_six, [Seccomp],
        probe(&["socket", "10", "2", "115"], User).act(),
        "L2TP over IPv6";
    smc, [Seccomp],
        probe(&["socket", "2", "1", "256"], User).act(),
        "SMC over IPv4, loaded when it is asked for";
    dccp, [Seccomp],
        probe(&["socket", "2", "6", "0"], User).act(),
        "DCCP over IPv4";
    packet, [Seccomp, Capabilities],
        probe(&["socket", "17", "3", "768"], Root).act(),
        "AF_PACKET: frames on the wire";
    packet_of_old, [Seccomp, Capabilities],
        probe(&["socket", "2", "10", "768"], Root).act(),
        "SOCK_PACKET, by which IPv4 sockets are packet sockets";
    raw, [Seccomp, Capabilities],
        probe(&["socket", "2", "3", "255"], Root).act(),
        "a raw IPv4 socket";
    raw_six, [Seccomp, Capabilities],
        probe(&["socket", "10", "3", "58"], Root).act(),
        "a raw IPv6 socket";
    vsock, [Seccomp],
        probe(&["socket", "40", "1", "0"], User).act(),
        "AF_VSOCK: to the hypervisor";
    vsock_of_packets, [Seccomp],
        probe(&["socket", "40", "5", "0"], User).act(),
        "AF_VSOCK with packets instead of a stream";
    xdp, [Seccomp, Capabilities],
        probe(&["socket", "44", "3", "0"], Root).act(),
        "AF_XDP";
}
