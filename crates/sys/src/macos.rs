//! What macOS alone has: the functions of its frameworks and kernel that nothing else gives a safe surface to.

use std::ffi::c_void;

use crate::consent::Answers;

/// Through which scripts drive the desktop.
const SYSTEM_EVENTS: &[u8] = b"com.apple.systemevents";

/// `typeApplicationBundleID` and `typeWildCard` (AEDataModel.h).
const BUNDLE_ID: u32 = u32::from_be_bytes(*b"bund");
const ANY: u32 = u32::from_be_bytes(*b"****");

/// Room for an `AEDesc` (AEDataModel.h): a type and a pointer, packed to two bytes. Only its functions look into it.
#[repr(C, align(8))]
struct Descriptor([u8; 16]);

#[link(name = "ApplicationServices", kind = "framework")]
#[link(name = "CoreServices", kind = "framework")]
#[link(name = "CoreGraphics", kind = "framework")]
#[allow(unsafe_code)]
unsafe extern "C" {
    fn AXIsProcessTrusted() -> u8;
    fn CGPreflightScreenCaptureAccess() -> bool;
    fn AECreateDesc(kind: u32, data: *const c_void, size: isize, result: *mut Descriptor) -> i16;
    fn AEDisposeDesc(descriptor: *mut Descriptor) -> i16;
    fn AEDeterminePermissionToAutomateTarget(
        target: *const Descriptor,
        class: u32,
        event: u32,
        ask_user_if_needed: u8,
    ) -> i32;
}

/// What the three functions answer. None of them shows a dialog.
#[allow(unsafe_code)]
pub(crate) fn consent() -> Answers {
    // SAFETY: both take nothing and only read.
    let (accessibility, screen_recording) = unsafe { (AXIsProcessTrusted() != 0, CGPreflightScreenCaptureAccess()) };
    Answers { automation: automation(), accessibility, screen_recording }
}

#[allow(unsafe_code)]
fn automation() -> i32 {
    let mut target = Descriptor([0; 16]);
    // SAFETY: the bytes are copied, as many as are said; `target` is written before it is read, and disposed of once.
    unsafe {
        let made =
            AECreateDesc(BUNDLE_ID, SYSTEM_EVENTS.as_ptr().cast(), SYSTEM_EVENTS.len().cast_signed(), &raw mut target);
        if made != 0 {
            return i32::from(made);
        }
        let status = AEDeterminePermissionToAutomateTarget(&raw const target, ANY, ANY, 0);
        AEDisposeDesc(&raw mut target);
        status
    }
}

/// The memory of the machine, in bytes (sysctl(3), `hw.memsize`).
#[allow(unsafe_code)]
pub(crate) fn memory_bytes() -> std::io::Result<u64> {
    let (mut bytes, mut size) = (0_u64, size_of::<u64>());
    // SAFETY: the name is null-terminated; at most `size` bytes are written to `bytes`, which lives across the call.
    let result = unsafe {
        libc::sysctlbyname(c"hw.memsize".as_ptr(), (&raw mut bytes).cast(), &raw mut size, std::ptr::null_mut(), 0)
    };
    if result == 0 { Ok(bytes) } else { Err(std::io::Error::last_os_error()) }
}
