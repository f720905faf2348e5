//! Ways around the filter, and filters of its own.

use super::attack::Control::User;
use super::attack::Layer::Seccomp;
use super::attack::probe;

attacks! { Doors:
    the_32_bit_gate, [Seccomp],
        probe(&["gate", "32", "getpid"], User).act(),
        "`int 0x80`: calls by the numbers of another architecture";
    a_namespace_by_the_32_bit_gate, [Seccomp],
        probe(&["gate", "32", "unshare"], User).act(),
        "`int 0x80` for unshare(CLONE_NEWUSER)";
    x32, [Seccomp],
        probe(&["gate", "x32", "getpid"], User).act(),
        "calls of the x32 ABI, whose numbers are others";
    a_namespace_by_x32, [Seccomp],
        probe(&["gate", "x32", "unshare"], User).act(),
        "unshare(CLONE_NEWUSER) by the x32 ABI";
}
