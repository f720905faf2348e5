//! What the sandboxes may not call, and why: data, one line an entry.

/// What a refused call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// EPERM.
    NotPermitted,
    /// EAFNOSUPPORT: what a kernel without the address family says.
    NotSupported,
    /// ENOSYS: callers fall back to the older call.
    NoSuchCall,
    /// EINVAL: what a kernel without system-call filters says.
    Invalid,
    /// ENOPROTOOPT: what a kernel without the option of sockets says.
    NoSuchOption,
}

impl Answer {
    /// All of them.
    pub(super) const ALL: [Self; 5] =
        [Self::NotPermitted, Self::NotSupported, Self::NoSuchCall, Self::Invalid, Self::NoSuchOption];

    pub(super) fn errno(self) -> u32 {
        let errno = match self {
            Self::NotPermitted => libc::EPERM,
            Self::NotSupported => libc::EAFNOSUPPORT,
            Self::NoSuchCall => libc::ENOSYS,
            Self::Invalid => libc::EINVAL,
            Self::NoSuchOption => libc::ENOPROTOOPT,
        };
        errno.unsigned_abs()
    }
}

/// A test of one argument's lower 32 bits; the first argument is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// The argument has this value.
    Is(u8, u64),
    /// It has another.
    IsNot(u8, u64),
    /// These bits of it (the second) have this value (the third).
    Masked(u8, u64, u64),
}

/// One refusal: the call, when all tests hold.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Number of the call on this architecture.
    pub call: i64,
    /// Its name.
    pub name: &'static str,
    /// What the caller gets.
    pub answer: Answer,
    /// When; empty is always.
    pub tests: &'static [Test],
}

use Answer::{Invalid, NoSuchCall, NoSuchOption, NotPermitted, NotSupported};
use Test::{Is, IsNot, Masked};

/// Names libc's constant and keeps its name.
macro_rules! call {
    ($name:ident, $answer:expr, $tests:expr) => {
        Rule { call: libc::$name, name: stringify!($name), answer: $answer, tests: $tests }
    };
    ($name:ident, $answer:expr) => {
        call!($name, $answer, &[])
    };
}

/// A call that libc does not name yet; the number is the same on every architecture.
const fn newer(name: &'static str, number: i64) -> Rule {
    Rule { call: number, name, answer: NotPermitted, tests: &[] }
}

/// All rules for this architecture.
pub fn rules() -> impl Iterator<Item = Rule> {
    EVERYWHERE.iter().chain(ONLY_HERE).copied()
}

/// `CLONE_NEW*` (linux/sched.h): a namespace of one's own opens kernel code that only root was meant to reach.
const NEW_TIME: u64 = 0x80;
const NEW_MOUNT: u64 = 0x0002_0000;
const NEW_CGROUP: u64 = 0x0200_0000;
const NEW_UTS: u64 = 0x0400_0000;
const NEW_IPC: u64 = 0x0800_0000;
const NEW_USER: u64 = 0x1000_0000;
const NEW_PID: u64 = 0x2000_0000;
const NEW_NET: u64 = 0x4000_0000;

const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
/// The bits of socket(2)'s second argument that are the type; the others are flags.
const SOCKET_TYPE: u64 = 0xf;
const SOCK_RAW: u64 = 3;
const SOCK_DCCP: u64 = 6;
const SOCK_PACKET: u64 = 10;
const IPPROTO_L2TP: u64 = 115;
const IPPROTO_SCTP: u64 = 132;
const IPPROTO_SMC: u64 = 256;

/// linux/seccomp.h, linux/prctl.h.
const SECCOMP_SET_MODE_FILTER: u64 = 1;
const PR_SET_SECCOMP: u64 = 22;
const SECCOMP_MODE_FILTER: u64 = 2;

/// asm-generic/socket.h.
const SOL_SOCKET: u64 = 1;
const SO_ATTACH_FILTER: u64 = 26;
const SO_ATTACH_BPF: u64 = 50;
const SO_ATTACH_REUSEPORT_CBPF: u64 = 51;
const SO_ATTACH_REUSEPORT_EBPF: u64 = 52;

const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;
const PTRACE_ATTACH: u64 = 16;
const PTRACE_SEIZE: u64 = 0x4206;

const EVERYWHERE: &[Rule] = &[
    // The mount family: with a user namespace these are the way to other views of the file system.
    call!(SYS_mount, NotPermitted),
    call!(SYS_umount2, NotPermitted),
    call!(SYS_pivot_root, NotPermitted),
    call!(SYS_chroot, NotPermitted),
    call!(SYS_move_mount, NotPermitted),
    call!(SYS_open_tree, NotPermitted),
    call!(SYS_fsopen, NotPermitted),
    call!(SYS_fsconfig, NotPermitted),
    call!(SYS_fsmount, NotPermitted),
    call!(SYS_fspick, NotPermitted),
    call!(SYS_mount_setattr, NotPermitted),
    newer("open_tree_attr", 467),
    call!(SYS_swapon, NotPermitted),
    call!(SYS_swapoff, NotPermitted),
    call!(SYS_quotactl, NotPermitted),
    call!(SYS_quotactl_fd, NotPermitted),
    // A file by handle leaves every mount behind (the "shocker" escape).
    call!(SYS_open_by_handle_at, NotPermitted),
    // Namespaces. clone3 keeps its flags in memory, where no filter sees them: callers fall back to clone.
    call!(SYS_clone3, NoSuchCall),
    call!(SYS_setns, NotPermitted),
    call!(SYS_clone, NotPermitted, &[Masked(0, NEW_MOUNT, NEW_MOUNT)]),
    call!(SYS_clone, NotPermitted, &[Masked(0, NEW_CGROUP, NEW_CGROUP)]),
    call!(SYS_clone, NotPermitted, &[Masked(0, NEW_UTS, NEW_UTS)]),
    call!(SYS_clone, NotPermitted, &[Masked(0, NEW_IPC, NEW_IPC)]),
    call!(SYS_clone, NotPermitted, &[Masked(0, NEW_USER, NEW_USER)]),
    call!(SYS_clone, NotPermitted, &[Masked(0, NEW_PID, NEW_PID)]),
    call!(SYS_clone, NotPermitted, &[Masked(0, NEW_NET, NEW_NET)]),
    call!(SYS_unshare, NotPermitted, &[Masked(0, NEW_TIME, NEW_TIME)]),
    call!(SYS_unshare, NotPermitted, &[Masked(0, NEW_MOUNT, NEW_MOUNT)]),
    call!(SYS_unshare, NotPermitted, &[Masked(0, NEW_CGROUP, NEW_CGROUP)]),
    call!(SYS_unshare, NotPermitted, &[Masked(0, NEW_UTS, NEW_UTS)]),
    call!(SYS_unshare, NotPermitted, &[Masked(0, NEW_IPC, NEW_IPC)]),
    call!(SYS_unshare, NotPermitted, &[Masked(0, NEW_USER, NEW_USER)]),
    call!(SYS_unshare, NotPermitted, &[Masked(0, NEW_PID, NEW_PID)]),
    call!(SYS_unshare, NotPermitted, &[Masked(0, NEW_NET, NEW_NET)]),
    // Other processes: memory, descriptors, tracing what one has not started oneself. Debuggers that start their
    // program (PTRACE_TRACEME) work.
    call!(SYS_ptrace, NotPermitted, &[Is(0, PTRACE_ATTACH)]),
    call!(SYS_ptrace, NotPermitted, &[Is(0, PTRACE_SEIZE)]),
    call!(SYS_process_vm_readv, NotPermitted),
    call!(SYS_process_vm_writev, NotPermitted),
    call!(SYS_process_madvise, NotPermitted),
    call!(SYS_pidfd_getfd, NotPermitted),
    call!(SYS_kcmp, NotPermitted),
    call!(SYS_move_pages, NotPermitted),
    call!(SYS_migrate_pages, NotPermitted),
    // Programs in the kernel, and the kernel itself.
    call!(SYS_bpf, NotPermitted),
    call!(SYS_kexec_load, NotPermitted),
    call!(SYS_init_module, NotPermitted),
    call!(SYS_finit_module, NotPermitted),
    call!(SYS_delete_module, NotPermitted),
    call!(SYS_reboot, NotPermitted),
    call!(SYS_syslog, NotPermitted),
    // Filters of one's own. Each is a program that the kernel compiles and keeps: thousands of them, a chain to a process
    // or one to a socket, use up memory that no limit counts and lock a host's kernel up. What wants one (a browser's
    // sandbox, sshd, man) copes with a kernel without.
    call!(SYS_seccomp, Invalid, &[Is(0, SECCOMP_SET_MODE_FILTER)]),
    call!(SYS_prctl, Invalid, &[Is(0, PR_SET_SECCOMP), Is(1, SECCOMP_MODE_FILTER)]),
    call!(SYS_setsockopt, NoSuchOption, &[Is(1, SOL_SOCKET), Is(2, SO_ATTACH_FILTER)]),
    call!(SYS_setsockopt, NoSuchOption, &[Is(1, SOL_SOCKET), Is(2, SO_ATTACH_BPF)]),
    call!(SYS_setsockopt, NoSuchOption, &[Is(1, SOL_SOCKET), Is(2, SO_ATTACH_REUSEPORT_CBPF)]),
    call!(SYS_setsockopt, NoSuchOption, &[Is(1, SOL_SOCKET), Is(2, SO_ATTACH_REUSEPORT_EBPF)]),
    // Large and often exploited: performance counters, page faults in user space, fanotify.
    call!(SYS_perf_event_open, NotPermitted),
    call!(SYS_userfaultfd, NotPermitted),
    call!(SYS_fanotify_init, NotPermitted),
    call!(SYS_fanotify_mark, NotPermitted),
    // io_uring makes calls that no filter sees; run-times that try it fall back.
    call!(SYS_io_uring_setup, NoSuchCall),
    call!(SYS_io_uring_enter, NoSuchCall),
    call!(SYS_io_uring_register, NoSuchCall),
    // Contexts of older asynchronous requests are given out from one number for the whole host, to whoever comes first:
    // a sandbox could take them all, and the host's databases would get none. Those who want one do without.
    call!(SYS_io_setup, NoSuchCall),
    // Key rings are per uid, not per namespace: the daemon's, or another sandbox's, would be in reach.
    call!(SYS_add_key, NotPermitted),
    call!(SYS_request_key, NotPermitted),
    call!(SYS_keyctl, NotPermitted),
    // Host-wide settings.
    call!(SYS_acct, NotPermitted),
    call!(SYS_settimeofday, NotPermitted),
    call!(SYS_clock_settime, NotPermitted),
    call!(SYS_clock_adjtime, NotPermitted),
    call!(SYS_adjtimex, NotPermitted),
    call!(SYS_sethostname, NotPermitted),
    call!(SYS_setdomainname, NotPermitted),
    call!(SYS_vhangup, NotPermitted),
    call!(SYS_nfsservctl, NoSuchCall),
    call!(SYS_lookup_dcookie, NotPermitted),
    // Typing into a terminal that somebody else reads, also through the console (CVE-2017-5226).
    call!(SYS_ioctl, NotPermitted, &[Is(1, TIOCSTI)]),
    call!(SYS_ioctl, NotPermitted, &[Is(1, TIOCLINUX)]),
    // Address families: only Unix, IPv4, IPv6 and the routing part of netlink (getifaddrs). vsock would reach the
    // hypervisor, packet sockets the wire, the others rarely read kernel code.
    call!(SYS_socket, NotSupported, &[IsNot(0, AF_UNIX), IsNot(0, AF_INET), IsNot(0, AF_INET6), IsNot(0, AF_NETLINK)]),
    call!(SYS_socket, NotSupported, &[Is(0, AF_NETLINK), IsNot(2, 0)]),
    call!(SYS_socket, NotSupported, &[Is(0, AF_INET), Masked(1, SOCKET_TYPE, SOCK_RAW)]),
    call!(SYS_socket, NotSupported, &[Is(0, AF_INET6), Masked(1, SOCKET_TYPE, SOCK_RAW)]),
    call!(SYS_socket, NotSupported, &[Is(0, AF_INET), Masked(1, SOCKET_TYPE, SOCK_PACKET)]),
    // The kernel makes both sockets, and loads what that needs, before it finds that a family has no pairs; TIPC has some.
    call!(SYS_socketpair, NotSupported, &[IsNot(0, AF_UNIX)]),
    // Protocols of IP that tools do not speak and whose code is looked for, and loaded, by number.
    call!(SYS_socket, NotSupported, &[Is(0, AF_INET), Masked(1, SOCKET_TYPE, SOCK_DCCP)]),
    call!(SYS_socket, NotSupported, &[Is(0, AF_INET6), Masked(1, SOCKET_TYPE, SOCK_DCCP)]),
    call!(SYS_socket, NotSupported, &[Is(0, AF_INET), Is(2, IPPROTO_SCTP)]),
    call!(SYS_socket, NotSupported, &[Is(0, AF_INET6), Is(2, IPPROTO_SCTP)]),
    call!(SYS_socket, NotSupported, &[Is(0, AF_INET), Is(2, IPPROTO_L2TP)]),
    call!(SYS_socket, NotSupported, &[Is(0, AF_INET6), Is(2, IPPROTO_L2TP)]),
    call!(SYS_socket, NotSupported, &[Is(0, AF_INET), Is(2, IPPROTO_SMC)]),
    call!(SYS_socket, NotSupported, &[Is(0, AF_INET6), Is(2, IPPROTO_SMC)]),
];

#[cfg(target_arch = "x86_64")]
const ONLY_HERE: &[Rule] = &[
    // Ports of the machine, and descriptor tables for 16-bit code.
    call!(SYS_iopl, NotPermitted),
    call!(SYS_ioperm, NotPermitted),
    call!(SYS_modify_ldt, NotPermitted),
    call!(SYS_kexec_file_load, NotPermitted),
    // Long gone or never there; named so that a kernel that still has them does not matter.
    call!(SYS_uselib, NoSuchCall),
    call!(SYS_ustat, NoSuchCall),
    call!(SYS_sysfs, NoSuchCall),
    call!(SYS__sysctl, NoSuchCall),
];

#[cfg(target_arch = "aarch64")]
const ONLY_HERE: &[Rule] = &[newer("kexec_file_load", 294)];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ONLY_HERE: &[Rule] = &[];
