//! What the kernel's errors are called.

use core::fmt::{Display, Formatter, Result};

use super::sys::Errno;

/// The names of those that starting a program, entering a directory and connecting can give (errno(3), as C libraries word
/// them).
const TEXTS: &[(i32, &str)] = &[
    (1, "Operation not permitted"),
    (2, "No such file or directory"),
    (3, "No such process"),
    (4, "Interrupted system call"),
    (5, "Input/output error"),
    (6, "No such device or address"),
    (7, "Argument list too long"),
    (8, "Exec format error"),
    (9, "Bad file descriptor"),
    (11, "Resource temporarily unavailable"),
    (12, "Cannot allocate memory"),
    (13, "Permission denied"),
    (14, "Bad address"),
    (16, "Device or resource busy"),
    (19, "No such device"),
    (20, "Not a directory"),
    (21, "Is a directory"),
    (22, "Invalid argument"),
    (23, "Too many open files in system"),
    (24, "Too many open files"),
    (26, "Text file busy"),
    (28, "No space left on device"),
    (32, "Broken pipe"),
    (36, "File name too long"),
    (38, "Function not implemented"),
    (40, "Too many levels of symbolic links"),
    (80, "Accessing a corrupted shared library"),
    (97, "Address family not supported by protocol"),
    (99, "Cannot assign requested address"),
    (100, "Network is down"),
    (101, "Network is unreachable"),
    (104, "Connection reset by peer"),
    (110, "Connection timed out"),
    (111, "Connection refused"),
    (113, "No route to host"),
    (116, "Stale file handle"),
    (122, "Disk quota exceeded"),
];

impl Display for Errno {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match TEXTS.iter().find(|(number, _)| *number == self.0) {
            Some((_, text)) => f.write_str(text),
            None => write!(f, "error {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn errors_have_the_system_s_texts() {
        for (number, text) in TEXTS {
            let system = std::io::Error::from_raw_os_error(*number).to_string();
            assert_eq!(system, format!("{text} (os error {number})"));
        }
        assert_eq!(Errno(4000).to_string(), "error 4000");
    }
}
