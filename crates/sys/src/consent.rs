//! What macOS lets this process do with other applications and the screen, looked up and never asked for.
//!
//! The consent database (TCC) has no interface of its own that may be read without full disk access. These are the functions
//! that answer for the calling process and show no dialog. What an answer means is left to others.

/// What the functions answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The status of asking whether System Events may be sent events (0: it may).
    pub automation: i32,
    /// Whether the user interface may be driven.
    pub accessibility: bool,
    /// Whether the screen may be seen.
    pub screen_recording: bool,
}

/// Looks everything up; `None` on other systems. May wait for another process.
#[must_use]
pub fn read() -> Option<Answers> {
    #[cfg(target_os = "macos")]
    return Some(crate::macos::consent());
    #[cfg(not(target_os = "macos"))]
    None
}
