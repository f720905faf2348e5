//! Giving back memory that only a program's start needed.

#![allow(unsafe_code)]

use std::fs;
use std::io;

use rustix::mm::{Advice, madvise};

/// Gives back what only past work needed: free memory of the allocator, and the pages of the program's text. Says how many
/// bytes of text were given back; what is needed again comes back by itself.
///
/// # Errors
/// As [`release_program_text`].
pub fn give_back() -> io::Result<u64> {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no memory of ours; other threads may allocate meanwhile (malloc_trim(3) is thread-safe).
    unsafe {
        libc::malloc_trim(0)
    };
    release_program_text()
}

/// This process's resident memory in bytes.
///
/// # Errors
/// `/proc/self` cannot be read, or says something else.
pub fn resident() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    resident_in(&status).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/status has no VmRSS"))
}

/// The resident memory in bytes, from the text of /proc/self/status (proc_pid_status(5)).
fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Unmaps the pages of this program's own text, and says how many bytes the mapping has. They come back from the page
/// cache one by one as they are used (madvise(2), MADV_DONTNEED): what only the start needed stays out.
///
/// # Errors
/// `/proc/self` cannot be read, or the kernel refuses.
pub fn release_program_text() -> io::Result<u64> {
    let program = fs::read_link("/proc/self/exe")?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut released = 0;
    for (start, end) in text_ranges(&maps, &program.to_string_lossy()) {
        // SAFETY: a private mapping of a file that has never been writable holds nothing but the file's own bytes, so
        // dropping its pages changes nothing that any thread can see; the range is the kernel's own account of it.
        unsafe { madvise(start as *mut _, end - start, Advice::LinuxDontNeed)? };
        released += (end - start) as u64;
    }
    Ok(released)
}

/// The executable, unwritable private mappings of the program, from the text of /proc/self/maps (proc_pid_maps(5)).
fn text_ranges<'a>(maps: &'a str, program: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
    maps.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let is_text = fields.next()? == "r-xp" && fields.nth(3)? == program;
        let number = |text| usize::from_str_radix(text, 16).ok();
        is_text.then_some((number(start)?, number(end)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_program_s_own_text() {
        let maps = "1000-2000 r--p 00000000 fe:00 7 /usr/bin/nexusd\n\
            2000-5000 r-xp 00001000 fe:00 7 /usr/bin/nexusd\n\
            5000-6000 rw-p 00004000 fe:00 7 /usr/bin/nexusd\n\
            7000-8000 r-xp 00000000 fe:00 9 /usr/lib/libc.so.6\n\
            9000-a000 rw-p 00000000 00:00 0 [heap]\n\
            b000-c000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(text_ranges(maps, "/usr/bin/nexusd").collect::<Vec<_>>(), [(0x2000, 0x5000)]);
    }

    #[test]
    fn resident_memory_is_counted_in_bytes() {
        assert_eq!(resident_in("Name:\tx\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\n"), Some(1024 * 1024));
        for nonsense in ["", "VmRSS:\t 12", "VmRSS:\t -1 kB", "VmRSS:\t 18446744073709551615 kB"] {
            assert_eq!(resident_in(nonsense), None, "{nonsense:?}");
        }
        assert!(resident().unwrap() > 1024 * 1024);
    }

    #[test]
    fn the_program_goes_on() {
        assert!(give_back().unwrap() > 0);
        // Every page that runs from here on has come back.
        assert_eq!((0..1000_u64).sum::<u64>(), 499_500);
    }
}
