//! What macOS alone has: the functions of its frameworks and kernel that nothing else gives a safe surface to.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::consent::Answers;
use crate::processes::Entry;

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
pub(crate) fn memory_bytes() -> io::Result<u64> {
    let (mut bytes, mut size) = (0_u64, size_of::<u64>());
    // SAFETY: the name is null-terminated; at most `size` bytes are written to `bytes`, which lives across the call.
    let result = unsafe {
        libc::sysctlbyname(c"hw.memsize".as_ptr(), (&raw mut bytes).cast(), &raw mut size, std::ptr::null_mut(), 0)
    };
    if result == 0 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

/// Every process of this user's, and what can be seen of others (libproc.h).
#[allow(unsafe_code)]
pub(crate) fn processes() -> Vec<Entry> {
    // Room for those that are made meanwhile.
    const MORE: usize = 64;
    // SAFETY: without a buffer the call only counts.
    let count = usize::try_from(unsafe { libc::proc_listallpids(std::ptr::null_mut(), 0) }).unwrap_or(0);
    let mut pids = vec![0_i32; count + MORE];
    let bytes = i32::try_from(size_of_val(pids.as_slice())).unwrap_or(0);
    // SAFETY: the buffer is as large as said, in bytes.
    let listed = unsafe { libc::proc_listallpids(pids.as_mut_ptr().cast(), bytes) };
    pids.truncate(usize::try_from(listed).unwrap_or(0));
    pids.into_iter().filter_map(process).collect()
}

#[allow(unsafe_code)]
fn process(pid: i32) -> Option<Entry> {
    /// `SZOMB` (sys/proc.h).
    const ZOMBIE: u32 = 5;
    let size = i32::try_from(size_of::<libc::proc_bsdinfo>()).ok()?;
    // SAFETY: the struct is plain numbers, as large as said, and read only where the kernel says that it has filled it.
    let info = unsafe {
        let mut info: libc::proc_bsdinfo = std::mem::zeroed();
        let got = libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, (&raw mut info).cast(), size);
        (got == size).then_some(info)?
    };
    Some(Entry {
        pid,
        parent: i32::try_from(info.pbi_ppid).ok()?,
        group: i32::try_from(info.pbi_pgid).ok()?,
        began: info.pbi_start_tvsec.saturating_mul(1_000_000).saturating_add(info.pbi_start_tvusec),
        is_zombie: info.pbi_status == ZOMBIE,
    })
}

/// The name of this start of the machine (sysctl(3), `kern.bootsessionuuid`).
#[allow(unsafe_code)]
pub(crate) fn boot_id() -> io::Result<String> {
    let mut text = [0_u8; 64];
    let mut size = text.len();
    // SAFETY: the name is null-terminated; at most `size` bytes are written to `text`, which lives across the call.
    let result = unsafe {
        let name = c"kern.bootsessionuuid".as_ptr();
        libc::sysctlbyname(name, text.as_mut_ptr().cast(), &raw mut size, std::ptr::null_mut(), 0)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// The user at the other end of a Unix socket (getpeereid(3)).
#[allow(unsafe_code)]
pub(crate) fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: both live across the call, which writes them.
    let result = unsafe { libc::getpeereid(socket.as_raw_fd(), &raw mut uid, &raw mut gid) };
    if result == 0 { Ok(uid) } else { Err(io::Error::last_os_error()) }
}
