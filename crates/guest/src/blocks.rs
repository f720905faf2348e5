//! The functions on blocks of memory that compiled code calls by name, as a libc would bring them.
//!
//! In a test they have no such names: the test's own libc has them. None is written as a plain loop: the compiler would recognise it and make it a call of the function itself.

use core::arch::asm;

/// # Safety
/// `count` bytes can be read at `from` and written at `to`; they do not overlap, or `to` lies before `from`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise; upwards, so that what lies before may overlap.
    unsafe { copy_up(to, from, count) };
    to
}

/// # Safety
/// `count` bytes can be read at `from` and written at `to`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller's promise; in the direction in which no byte is overwritten before it is read.
    unsafe {
        if to.addr().wrapping_sub(from.addr()) >= count {
            copy_up(to, from, count);
        } else {
            copy_down(to, from, count);
        }
    }
    to
}

/// # Safety
/// `count` bytes can be written at `to`.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // The C function takes an int and means its low byte.
    let [byte, ..] = value.to_le_bytes();
    // SAFETY: the caller's promise.
    unsafe { fill(to, byte, count) };
    to
}

/// # Safety
/// `count` bytes can be read at both.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: the caller's promise. Volatile reads are never made into a call.
        let (left, right) = unsafe { (left.add(index).read_volatile(), right.add(index).read_volatile()) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// # Safety
/// `count` bytes can be read at both.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(left, right, count) }
}

/// # Safety
/// `text` is null-terminated.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller's promise. Volatile reads are never made into a call.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

#[cfg(target_arch = "x86_64")]
unsafe fn copy_up(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the caller's promise; the ABI keeps the direction flag clear.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn copy_down(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the caller's promise, and `count` is not 0; the direction flag is clear again at the end.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _, inout("rdi") to.add(count).sub(1) => _,
            inout("rsi") from.add(count).sub(1) => _, options(nostack));
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn fill(to: *mut u8, byte: u8, count: usize) {
    // SAFETY: the caller's promise; the ABI keeps the direction flag clear.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") byte,
            options(nostack, preserves_flags));
    }
}

/// Sixteen bytes at a time, then the rest: unaligned accesses are fine in ordinary memory.
#[cfg(target_arch = "aarch64")]
unsafe fn copy_up(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the caller's promise. Each piece is read whole before it is written.
    unsafe {
        asm!(
            "2: subs {left}, {left}, #16", "b.lo 3f", "ldp {a}, {b}, [{from}], #16", "stp {a}, {b}, [{to}], #16", "b 2b",
            "3: adds {left}, {left}, #16", "b.eq 5f",
            "4: ldrb {a:w}, [{from}], #1", "strb {a:w}, [{to}], #1", "subs {left}, {left}, #1", "b.ne 4b",
            "5:",
            left = inout(reg) count => _, from = inout(reg) from => _, to = inout(reg) to => _,
            a = out(reg) _, b = out(reg) _, options(nostack),
        );
    }
}

#[cfg(target_arch = "aarch64")]
unsafe fn copy_down(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the caller's promise, and `count` is not 0.
    unsafe {
        asm!(
            "2: ldrb {a:w}, [{from}, #-1]!", "strb {a:w}, [{to}, #-1]!", "subs {left}, {left}, #1", "b.ne 2b",
            left = inout(reg) count => _, from = inout(reg) from.add(count) => _, to = inout(reg) to.add(count) => _,
            a = out(reg) _, options(nostack),
        );
    }
}

#[cfg(target_arch = "aarch64")]
unsafe fn fill(to: *mut u8, byte: u8, count: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "2: subs {left}, {left}, #16", "b.lo 3f", "stp {a}, {a}, [{to}], #16", "b 2b",
            "3: adds {left}, {left}, #16", "b.eq 5f",
            "4: strb {a:w}, [{to}], #1", "subs {left}, {left}, #1", "b.ne 4b",
            "5:",
            left = inout(reg) count => _, to = inout(reg) to => _,
            a = in(reg) u64::from(byte) * 0x0101_0101_0101_0101, options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const SIZES: core::ops::Range<usize> = 0..70;

    fn bytes() -> Vec<u8> {
        (0..=255).collect()
    }

    #[test]
    fn blocks_are_copied_in_either_direction() {
        for (from, to) in [(0, 100), (3, 101), (100, 5), (40, 41), (41, 40), (40, 57), (57, 40), (40, 40), (40, 109)] {
            for size in SIZES {
                let (mut block, mut expected) = (bytes(), bytes());
                expected.copy_within(from..from + size, to);
                let start = block.as_mut_ptr();
                // SAFETY: both places and their ends lie within 256 bytes.
                let end = unsafe { memmove(start.add(to), start.add(from), size) };
                assert_eq!((&block, end.addr()), (&expected, start.addr() + to), "{size} from {from} to {to}");
            }
        }
        for size in SIZES {
            let (from, mut block, mut expected) = (bytes(), bytes(), bytes());
            expected[5..5 + size].copy_from_slice(&from[9..9 + size]);
            // SAFETY: two blocks of 256 bytes.
            unsafe { memcpy(block.as_mut_ptr().add(5), from.as_ptr().add(9), size) };
            assert_eq!(block, expected, "{size}");
        }
    }

    #[test]
    fn blocks_are_filled() {
        for size in SIZES {
            let (mut block, mut expected) = (bytes(), bytes());
            expected[3..3 + size].fill(0x5a);
            // SAFETY: within 256 bytes.
            unsafe { memset(block.as_mut_ptr().add(3), 0x1234_565a, size) };
            assert_eq!(block, expected, "{size}");
        }
    }

    #[test]
    fn blocks_are_compared() {
        for size in SIZES {
            for at in 0..size {
                let (mut left, right) = (bytes(), bytes());
                left[at] = 0xff;
                // SAFETY: two blocks of 256 bytes.
                unsafe {
                    assert!(memcmp(left.as_ptr(), right.as_ptr(), size) > 0);
                    assert!(memcmp(right.as_ptr(), left.as_ptr(), size) < 0);
                    assert!(bcmp(left.as_ptr(), right.as_ptr(), size) != 0);
                    assert_eq!(memcmp(left.as_ptr(), right.as_ptr(), at), 0);
                }
            }
        }
        for length in SIZES {
            let mut text = alloc::vec![b'x'; 80];
            text[length] = 0;
            // SAFETY: there is a null within.
            assert_eq!(unsafe { strlen(text.as_ptr()) }, length);
        }
    }
}
