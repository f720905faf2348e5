//! The sandbox profiles that a requester may ask for, and the drivers that implement them.

use serde::{Deserialize, Serialize};

/// A name that is none of the known ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value} is not a {kind}; use one of {known}")]
pub struct UnknownName {
    /// What was to be read: `sandbox profile`, `driver`, …
    pub kind: &'static str,
    /// The text, quoted, escaped and shortened for a message.
    pub value: String,
    /// The names that would have been right.
    pub known: String,
}

/// Implements `ALL`, `as_str`, `FromStr`, `Display` and the string form of serde for a closed set of names.
macro_rules! named {
    ($name:ident, $kind:literal, { $($variant:ident => $text:literal),+ $(,)? }) => {
        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::profile::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    other => Err($crate::profile::UnknownName {
                        kind: $kind,
                        value: $crate::text::quote(other),
                        known: [$($text),+].join(", "),
                    }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::profile::UnknownName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.as_str().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use named;

/// The isolation that the requester asks for. What is absent means [`SandboxProfile::Untrusted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SandboxProfile {
    /// Namespaces and seccomp, or a microVM; no network but through the egress proxy.
    #[default]
    Untrusted,
    /// A container.
    Trusted,
    /// A plain process of the host: no isolation is claimed.
    Host,
    /// A plain process on macOS that may drive the desktop.
    DarwinAutomation,
}

named!(SandboxProfile, "sandbox profile", {
    Untrusted => "untrusted",
    Trusted => "trusted",
    Host => "host",
    DarwinAutomation => "darwin-automation",
});

impl SandboxProfile {
    /// How far the profile is trusted: untrusted 0, trusted 1, host and darwin-automation 2. What a profile of one
    /// rank wrote is not run by a profile of a higher one.
    #[must_use]
    pub const fn trust_rank(self) -> u8 {
        match self {
            Self::Untrusted => 0,
            Self::Trusted => 1,
            Self::Host | Self::DarwinAutomation => 2,
        }
    }
}

/// What implements a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DriverKind {
    /// bubblewrap, for `untrusted`.
    Bwrap,
    /// A Firecracker microVM, for `untrusted`.
    Firecracker,
    /// Podman or Docker, for `trusted`.
    Container,
    /// A process group, for `host`.
    Host,
    /// A process group with the desktop's tools, for `darwin-automation`.
    DarwinAutomation,
}

named!(DriverKind, "driver", {
    Bwrap => "bwrap",
    Firecracker => "firecracker",
    Container => "container",
    Host => "host",
    DarwinAutomation => "darwin-automation",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for profile in SandboxProfile::ALL {
            assert_eq!(profile.as_str().parse::<SandboxProfile>().unwrap(), *profile);
            assert_eq!(serde_json::to_value(profile).unwrap(), profile.as_str());
        }
        for driver in DriverKind::ALL {
            assert_eq!(driver.to_string().parse::<DriverKind>().unwrap(), *driver);
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        for text in ["", "Untrusted", "untrusted ", "root", "none"] {
            assert!(text.parse::<SandboxProfile>().is_err(), "{text:?}");
        }
        assert_eq!(
            "root".parse::<SandboxProfile>().unwrap_err().to_string(),
            "\"root\" is not a sandbox profile; use one of untrusted, trusted, host, darwin-automation"
        );
    }

    #[test]
    fn trust_rises_from_untrusted_to_host() {
        let ranks: Vec<u8> = SandboxProfile::ALL.iter().map(|p| p.trust_rank()).collect();
        assert_eq!(ranks, [0, 1, 2, 2]);
        assert_eq!(SandboxProfile::default(), SandboxProfile::Untrusted);
    }
}
