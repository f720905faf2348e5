//! The name of a variable that a directive may set.

use std::fmt;
use std::str::FromStr;

use crate::text::quote;

/// Why a variable may not be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvNameError {
    /// Not `[A-Za-z_][A-Za-z0-9_]*`, or over 255 characters.
    #[error("{0} is not a variable name; use at most 255 letters, digits and '_', not beginning with a digit")]
    Form(String),
    /// A name that the sandbox sets itself: facts about the run, or the way to the egress proxy.
    #[error("{0} is set by the sandbox itself; remove it or choose another name")]
    Reserved(String),
    /// A name that changes what the dynamic linker loads.
    #[error("{0} steers the dynamic linker and is not taken; set it inside the command where it is needed")]
    Linker(String),
}

/// `[A-Za-z_][A-Za-z0-9_]*`, none of `CYBROS_*`, the proxy variables in any case, or `LD_*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvName(String);

/// The variables that name a proxy. Programs read them in upper and in lower case, some in both.
const PROXY_VARIABLES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY"];
const MAX_NAME_BYTES: usize = 255;

impl EnvName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EnvName {
    type Err = EnvNameError;

    fn from_str(text: &str) -> Result<Self, EnvNameError> {
        let first = |b: u8| b.is_ascii_alphabetic() || b == b'_';
        let formed = text.bytes().next().is_some_and(first)
            && text.bytes().all(|b| first(b) || b.is_ascii_digit())
            && text.len() <= MAX_NAME_BYTES;
        if !formed {
            return Err(EnvNameError::Form(quote(text)));
        }
        let upper = text.to_ascii_uppercase();
        if upper.starts_with("CYBROS_") || PROXY_VARIABLES.contains(&upper.as_str()) {
            return Err(EnvNameError::Reserved(quote(text)));
        }
        if text.starts_with("LD_") {
            return Err(EnvNameError::Linker(quote(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["A", "_", "a1", "PATH", "LDFLAGS", "MY_PROXY", "GOPROXY", "CYBROS", "ld_x", "HTTP_PROXY_X"] {
            assert_eq!(good.parse::<EnvName>().unwrap().as_str(), good);
        }
        for bad in ["", "1A", "A-B", "A=B", "A B", "A\0", "A\n", "é", "A.B"] {
            assert!(matches!(bad.parse::<EnvName>(), Err(EnvNameError::Form(_))), "{bad:?}");
        }
        for bad in [
            "CYBROS_NEXUS",
            "cybros_x",
            "HTTP_PROXY",
            "http_proxy",
            "Https_Proxy",
            "no_proxy",
            "ALL_PROXY",
            "ftp_proxy",
        ] {
            assert!(matches!(bad.parse::<EnvName>(), Err(EnvNameError::Reserved(_))), "{bad:?}");
        }
        for bad in ["LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "LD_"] {
            assert!(matches!(bad.parse::<EnvName>(), Err(EnvNameError::Linker(_))), "{bad:?}");
        }
        assert!("A".repeat(255).parse::<EnvName>().is_ok());
        assert!("A".repeat(256).parse::<EnvName>().is_err());
    }
}
