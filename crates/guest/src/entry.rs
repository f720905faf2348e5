//! Where the kernel enters the program: no libc has run before, and none is needed.

use core::arch::naked_asm;
use core::ffi::{CStr, c_char};

use crate::init::os;

/// Most arguments that are looked at: one more than any use has, so that too many are seen.
const MOST: usize = 6;

/// The kernel jumps here with the argument count at the top of the stack, the arguments above it, and no caller to go back
/// to (System V ABI, "process initialization").
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {begin}", "ud2", begin = sym begin)
}

/// The same on aarch64, whose kernel keeps the stack aligned.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("mov x29, xzr", "mov x30, xzr", "mov x0, sp", "bl {begin}", "brk #1", begin = sym begin)
}

extern "C" fn begin(stack: *const usize) -> ! {
    let mut arguments: [&[u8]; MOST] = [&[]; MOST];
    let mut count = 0;
    // SAFETY: the kernel puts the count there, then that many pointers to null-terminated strings, which live as long as
    // the process. The first is the program's own name, where there is one.
    unsafe {
        let given = stack.read();
        let strings: *const *const c_char = stack.add(1).cast();
        for (place, index) in arguments.iter_mut().zip(1..given) {
            *place = CStr::from_ptr(strings.add(index).read()).to_bytes();
            count += 1;
        }
    }
    os::exit(crate::run(arguments.get(..count).unwrap_or_default()))
}

/// What the precompiled `alloc` names for a panic that unwinds. Here a panic ends the process, so neither is ever called.
#[cfg(bare)]
mod unwinding {
    #[unsafe(no_mangle)]
    extern "C" fn rust_eh_personality() -> ! {
        crate::os::exit(crate::PANICKED)
    }

    #[unsafe(no_mangle)]
    extern "C" fn _Unwind_Resume() -> ! {
        crate::os::exit(crate::PANICKED)
    }
}
