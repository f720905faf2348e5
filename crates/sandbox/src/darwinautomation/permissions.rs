//! What macOS's consent database (TCC) lets this process do, out of what its functions answer. Pure.

use std::fmt;

use sys::consent::Answers;

/// The answers of `AEDeterminePermissionToAutomateTarget` (AppleEvents.h, MacErrors.h).
const NO_ERROR: i32 = 0;
const NOT_RUNNING: i32 = -600;
const NOT_PERMITTED: i32 = -1743;
const WOULD_ASK: i32 = -1744;

/// One permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Given.
    Granted,
    /// Refused, or not given yet: macOS does not tell these apart here.
    NotGranted,
    /// Nobody has decided: the first use would show a dialog.
    NotAsked,
    /// Consent goes by application, and the one that was asked about does not run now.
    TargetNotRunning,
    /// An answer that is not known, or none in time.
    Unknown(Option<i32>),
}

/// The permissions that matter to automation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Sending events to other applications; asked of System Events, through which scripts drive the desktop.
    pub automation: Permission,
    /// Driving the user interface.
    pub accessibility: Permission,
    /// Seeing the screen.
    pub screen_recording: Permission,
}

impl Permissions {
    /// Nobody could be asked, or nobody answered.
    pub(super) const UNKNOWN: Self = Self {
        automation: Permission::Unknown(None),
        accessibility: Permission::Unknown(None),
        screen_recording: Permission::Unknown(None),
    };

    /// What the answers mean.
    pub(super) fn of(answers: Answers) -> Self {
        let plain = |granted| if granted { Permission::Granted } else { Permission::NotGranted };
        Self {
            automation: match answers.automation {
                NO_ERROR => Permission::Granted,
                NOT_PERMITTED => Permission::NotGranted,
                WOULD_ASK => Permission::NotAsked,
                NOT_RUNNING => Permission::TargetNotRunning,
                other => Permission::Unknown(Some(other)),
            },
            accessibility: plain(answers.accessibility),
            screen_recording: plain(answers.screen_recording),
        }
    }

    /// Each by the name that System Settings has for it.
    #[must_use]
    pub fn named(&self) -> [(&'static str, Permission); 3] {
        [
            ("Automation", self.automation),
            ("Accessibility", self.accessibility),
            ("Screen Recording", self.screen_recording),
        ]
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted => f.write_str("granted"),
            Self::NotGranted => f.write_str("not granted"),
            Self::NotAsked => f.write_str("not asked yet"),
            Self::TargetNotRunning => f.write_str("not known (System Events does not run)"),
            Self::Unknown(None) => f.write_str("not known"),
            Self::Unknown(Some(status)) => write!(f, "not known (status {status})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_answers_mean() {
        for (automation, expected, said) in [
            (0, Permission::Granted, "granted"),
            (-1743, Permission::NotGranted, "not granted"),
            (-1744, Permission::NotAsked, "not asked yet"),
            (-600, Permission::TargetNotRunning, "not known (System Events does not run)"),
            (-1708, Permission::Unknown(Some(-1708)), "not known (status -1708)"),
        ] {
            for (accessibility, screen_recording) in [(false, true), (true, false)] {
                let found = Permissions::of(Answers { automation, accessibility, screen_recording });
                assert_eq!(found.automation, expected);
                assert_eq!(found.automation.to_string(), said);
                let of = |granted| if granted { "granted" } else { "not granted" };
                assert_eq!(found.accessibility.to_string(), of(accessibility));
                assert_eq!(found.screen_recording.to_string(), of(screen_recording));
            }
        }
        assert!(Permissions::UNKNOWN.named().iter().all(|(_, permission)| permission.to_string() == "not known"));
    }
}
