//! Filters of its own: each is a program in the kernel, and thousands of them lock a host up. One at most is made here.

use super::attack::Control::User;
use super::attack::Layer::Seccomp;
use super::attack::probe;

attacks! { Filters:
    of_system_calls, [Seccomp],
        probe(&["filter-seccomp"], User).act(),
        "seccomp(2): a filter of system calls";
    of_system_calls_by_prctl, [Seccomp],
        probe(&["filter-prctl"], User).act(),
        "prctl(PR_SET_SECCOMP): the same";
    asking_whether_there_are_any, [Seccomp],
        probe(&["filter-probe"], User).act(),
        "asks as libraries do whether there are filters, by one without a program";
    of_packets, [Seccomp],
        probe(&["socket-filter", "26"], User).act(),
        "setsockopt(SO_ATTACH_FILTER)";
    of_packets_by_bpf, [Seccomp],
        probe(&["socket-filter", "50"], User).act(),
        "setsockopt(SO_ATTACH_BPF)";
    of_connections, [Seccomp],
        probe(&["socket-filter", "51"], User).act(),
        "setsockopt(SO_ATTACH_REUSEPORT_CBPF)";
    of_connections_by_bpf, [Seccomp],
        probe(&["socket-filter", "52"], User).act(),
        "setsockopt(SO_ATTACH_REUSEPORT_EBPF)";
}
