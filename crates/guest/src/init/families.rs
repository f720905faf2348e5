//! Sockets that no network namespace holds: vsock reaches the hypervisor of this machine, and the machines that run on it,
//! from whatever network a container has. A filter for the command and all its descendants refuses them (seccomp(2),
//! linux/filter.h), where the engine's own filter does not.

use core::ptr::null;

use super::sys::{Errno, call};

/// struct sock_filter.
#[repr(C)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// struct sock_fprog.
#[repr(C)]
struct Program {
    length: u16,
    first: *const Instruction,
}

const PR_SET_SECCOMP: i32 = 22;
const SECCOMP_MODE_FILTER: i32 = 2;

/// Load a word, keep these bits, jump, jump where equal, end with.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Where struct seccomp_data has the call's number, the architecture, and the lower half of the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST: u32 = 16;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const EAFNOSUPPORT: u32 = 97;
const ENOSYS: u32 = 38;

/// The architecture, and the older one that its kernel also runs programs of (linux/audit.h), with socket(2) of each. An x32
/// call is the native one with a bit more.
const NATIVE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
const OLDER: u32 = if cfg!(target_arch = "x86_64") { 0x4000_0003 } else { 0x4000_0028 };
const SOCKET: u32 = if cfg!(target_arch = "x86_64") { 41 } else { 198 };
const OLDER_SOCKET: u32 = if cfg!(target_arch = "x86_64") { 359 } else { 281 };
/// i386 has all calls of sockets in one, too, whose arguments no filter sees.
const SOCKETCALL: u32 = 102;
const WITHOUT_X32: u32 = !0x4000_0000;
/// io_uring makes sockets that no filter sees; its number is the same everywhere.
const IO_URING_SETUP: u32 = 425;

/// AF_UNIX, AF_INET, AF_INET6, AF_NETLINK.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];

const fn at(code: u16, value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, value }
}

const LENGTH: u16 = 20;

/// Jumps are relative to the next line.
static FILTER: [Instruction; LENGTH as usize] = [
    /* 0 */ at(LOAD, ARCHITECTURE, 0, 0),
    /* 1 */ at(EQUAL, NATIVE, 0, 4),
    /* 2 */ at(LOAD, NUMBER, 0, 0),
    /* 3 */ at(AND, WITHOUT_X32, 0, 0),
    /* 4 */ at(EQUAL, SOCKET, 6, 0),
    /* 5 */ at(JUMP, 4, 0, 0),
    /* 6 */ at(EQUAL, OLDER, 0, 11),
    /* 7 */ at(LOAD, NUMBER, 0, 0),
    /* 8 */ at(EQUAL, OLDER_SOCKET, 2, 0),
    /* 9 */ at(EQUAL, if cfg!(target_arch = "x86_64") { SOCKETCALL } else { u32::MAX }, 7, 0),
    /* 10 */ at(EQUAL, IO_URING_SETUP, 6, 8),
    /* 11 */ at(LOAD, FIRST, 0, 0),
    /* 12 */ at(EQUAL, FAMILIES[0], 6, 0),
    /* 13 */ at(EQUAL, FAMILIES[1], 5, 0),
    /* 14 */ at(EQUAL, FAMILIES[2], 4, 0),
    /* 15 */ at(EQUAL, FAMILIES[3], 3, 0),
    /* 16 */ at(RETURN, ERRNO | EAFNOSUPPORT, 0, 0),
    /* 17 */ at(RETURN, ERRNO | ENOSYS, 0, 0),
    /* 18 */ at(RETURN, KILL, 0, 0),
    /* 19 */ at(RETURN, ALLOW, 0, 0),
];

/// Refuses this process and its descendants every other family. A kernel or an engine that does not let it is an error: the
/// daemon says that the network is the container's own.
pub(crate) fn restrict() -> Result<(), Errno> {
    let program = Program { length: LENGTH, first: FILTER.as_ptr() };
    // SAFETY: the program and its instructions live across the call, which copies them; no-new-privs is set by the engine.
    unsafe { call!(PRCTL, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program, null::<u8>(), null::<u8>()) }
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter answers: a machine for its few instructions.
    fn answer(architecture: u32, number: u32, first: u32) -> u32 {
        let (mut at, mut word) = (0, 0);
        loop {
            let line = &FILTER[at];
            at += 1;
            match line.code {
                LOAD => {
                    let words = [(NUMBER, number), (ARCHITECTURE, architecture), (FIRST, first)];
                    word = words.iter().find(|(of, _)| *of == line.value).unwrap().1;
                }
                AND => word &= line.value,
                JUMP => at += line.value as usize,
                EQUAL => at += usize::from(if word == line.value { line.if_true } else { line.if_false }),
                RETURN => return line.value,
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn every_way_to_a_socket_is_asked_for_its_family() {
        let refused = ERRNO | EAFNOSUPPORT;
        for (architecture, number) in [(NATIVE, SOCKET), (NATIVE, SOCKET | 0x4000_0000), (OLDER, OLDER_SOCKET)] {
            for family in FAMILIES {
                assert_eq!(answer(architecture, number, family), ALLOW, "{architecture:x} {number} {family}");
            }
            for family in [0, 17, 31, 38, 40, 42, u32::MAX] {
                assert_eq!(answer(architecture, number, family), refused, "{architecture:x} {number} {family}");
            }
        }
        for architecture in [NATIVE, OLDER] {
            assert_eq!(answer(architecture, IO_URING_SETUP, 1), ERRNO | ENOSYS);
            assert_eq!(answer(architecture, 0, 40), ALLOW);
        }
        #[cfg(target_arch = "x86_64")]
        assert_eq!((answer(OLDER, SOCKETCALL, 1), answer(NATIVE, SOCKETCALL, 1)), (ERRNO | ENOSYS, ALLOW));
        assert_eq!(answer(0x1234, 0, 0), KILL);
    }
}
