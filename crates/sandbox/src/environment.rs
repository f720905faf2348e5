//! The environment of a command, built from nothing.
//!
//! Promises: none of the daemon's own variables is in it. Pure.

use std::collections::BTreeMap;

/// Most bytes of one `NAME=value`: the kernel takes no longer string (MAX_ARG_STRLEN, execve(2)).
const MAX_VARIABLE: usize = 128 * 1024 - 1;

/// Most bytes of the whole environment.
const MAX_ENVIRONMENT: usize = 1024 * 1024;

/// The search path inside a sandbox.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every command finds, whatever the driver: quiet, uncoloured, without pagers.
const COMMON: [(&str, &str); 9] = [
    ("CI", "true"),
    ("CYBROS_NEXUS", "1"),
    ("GIT_PAGER", "cat"),
    ("LANG", "C.UTF-8"),
    ("LC_ALL", "C.UTF-8"),
    ("NO_COLOR", "1"),
    ("PAGER", "cat"),
    ("PATH", PATH),
    ("TERM", "dumb"),
];

/// Caches go to the sandbox's own /tmp, not into the facility: what one directive caches, the next would trust.
const SANDBOX_CACHES: [(&str, &str); 2] = [("XDG_CACHE_HOME", "/tmp/.cache"), ("npm_config_cache", "/tmp/.cache/npm")];

/// Where the proxy is inside a sandbox.
const SANDBOX_PROXY: &str = "http://127.0.0.1:9080";
/// The same, for what speaks SOCKS; the `h` leaves names to the proxy.
const SANDBOX_SOCKS: &str = "socks5h://127.0.0.1:9080";
/// What is reached without the proxy.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";

/// An exact set of variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

/// What the standard environment depends on.
#[derive(Clone, Copy, Debug)]
pub struct BaseEnvironment<'a> {
    /// `CYBROS_DIRECTIVE_ID`.
    pub directive_id: &'a str,
    /// `CYBROS_FACILITY_ID`.
    pub facility_id: &'a str,
    /// `CYBROS_TERRITORY_ID`.
    pub territory_id: &'a str,
    /// `CYBROS_SANDBOX_PROFILE`.
    pub profile: &'a str,
    /// `CYBROS_WORKSPACE`: `/workspace`, or the facility's path where the command sees the host's files.
    pub workspace: &'a str,
    /// `HOME`: `/workspace` in a sandbox, the daemon's user's for host profiles.
    pub home: &'a str,
    /// Whether the command has a `/tmp` of its own that caches go to.
    pub private_tmp: bool,
    /// The proxy variables.
    pub proxy: ProxyVariables<'a>,
}

/// Which proxy the variables name.
#[derive(Clone, Copy, Debug)]
pub enum ProxyVariables<'a> {
    /// None: nothing enforces a network policy, or there is no network.
    None,
    /// The one at 127.0.0.1:9080 in the sandbox's own network.
    Sandbox,
    /// Another one.
    Url {
        /// For `HTTP_PROXY` and its like.
        http: &'a str,
        /// For `ALL_PROXY`.
        socks: &'a str,
    },
}

/// Why a variable cannot be in an environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// The name is empty or has `=` or NUL.
    #[error("environment variable name {name:?} is empty or has '=' or a NUL byte")]
    Name {
        /// The name, shortened.
        name: String,
    },
    /// The value has a NUL byte.
    #[error("the value of environment variable {name} has a NUL byte")]
    Value {
        /// The variable.
        name: String,
    },
    /// It is longer than the kernel takes, alone or together with the others.
    #[error("environment variable {name} is too long: {length} bytes (one may have 131071, all together 1048576)")]
    TooLong {
        /// The variable, shortened.
        name: String,
        /// Its length, or that of all together.
        length: usize,
    },
}

impl Environment {
    /// The standard environment of a command.
    ///
    /// # Errors
    /// One of the given values cannot be a variable's value.
    pub fn base(base: &BaseEnvironment<'_>) -> Result<Self, EnvironmentError> {
        let mut environment = Self::default();
        let caches: &[(&str, &str)] = if base.private_tmp { &SANDBOX_CACHES } else { &[] };
        let own = [
            ("CYBROS_DIRECTIVE_ID", base.directive_id),
            ("CYBROS_FACILITY_ID", base.facility_id),
            ("CYBROS_SANDBOX_PROFILE", base.profile),
            ("CYBROS_TERRITORY_ID", base.territory_id),
            ("CYBROS_WORKSPACE", base.workspace),
            ("HOME", base.home),
        ];
        let proxy: Vec<(&str, &str)> = match base.proxy {
            ProxyVariables::None => Vec::new(),
            ProxyVariables::Sandbox => proxy_variables(SANDBOX_PROXY, SANDBOX_SOCKS),
            ProxyVariables::Url { http, socks } => proxy_variables(http, socks),
        };
        for (name, value) in COMMON.iter().chain(caches).chain(&own).chain(&proxy) {
            environment.set(name, value)?;
        }
        Ok(environment)
    }

    /// Adds a variable, or replaces its value.
    ///
    /// # Errors
    /// The name or the value cannot be in an environment.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), EnvironmentError> {
        let shown = || name.chars().take(64).collect::<String>();
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(EnvironmentError::Name { name: shown() });
        }
        if value.contains('\0') {
            return Err(EnvironmentError::Value { name: shown() });
        }
        let length = name.len() + 1 + value.len();
        if length > MAX_VARIABLE {
            return Err(EnvironmentError::TooLong { name: shown(), length });
        }
        let others: usize =
            self.iter().filter(|(known, _)| *known != name).map(|(known, value)| known.len() + value.len() + 2).sum();
        if others + length > MAX_ENVIRONMENT {
            return Err(EnvironmentError::TooLong { name: shown(), length: others + length });
        }
        self.0.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Adds a folder to the end of `PATH`, where it is not there already.
    ///
    /// # Errors
    /// The folder cannot be in a search path.
    pub fn find_in(&mut self, folder: &str) -> Result<(), EnvironmentError> {
        let path = self.get("PATH").unwrap_or_default();
        if path.split(':').any(|known| known == folder) {
            return Ok(());
        }
        let separator = if path.is_empty() { "" } else { ":" };
        self.set("PATH", &format!("{path}{separator}{folder}"))
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All variables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The variables by which tools find a proxy. Both cases: curl reads only the lower one for http, wget only that.
fn proxy_variables<'a>(http: &'a str, socks: &'a str) -> Vec<(&'static str, &'a str)> {
    vec![
        ("ALL_PROXY", socks),
        ("HTTPS_PROXY", http),
        ("HTTP_PROXY", http),
        ("NO_PROXY", NO_PROXY),
        ("http_proxy", http),
        ("https_proxy", http),
        ("no_proxy", NO_PROXY),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> BaseEnvironment<'static> {
        BaseEnvironment {
            directive_id: "d1",
            facility_id: "f1",
            territory_id: "t1",
            profile: "untrusted",
            workspace: "/workspace",
            home: "/workspace",
            private_tmp: true,
            proxy: ProxyVariables::Sandbox,
        }
    }

    fn listed(environment: &Environment) -> String {
        environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    #[test]
    fn the_sandbox_environment() {
        insta::assert_snapshot!(listed(&Environment::base(&base()).unwrap()));
    }

    #[test]
    fn the_host_environment() {
        let host = BaseEnvironment {
            profile: "host",
            workspace: "/srv/f1",
            home: "/root",
            private_tmp: false,
            proxy: ProxyVariables::None,
            ..base()
        };
        insta::assert_snapshot!(listed(&Environment::base(&host).unwrap()));
    }

    #[test]
    fn a_folder_is_looked_in_once_and_last() {
        let mut environment = Environment::default();
        for (folder, path) in [
            ("/usr/bin", "/usr/bin"),
            ("/usr/bin", "/usr/bin"),
            ("/usr", "/usr/bin:/usr"),
            ("/opt/mac tools", "/usr/bin:/usr:/opt/mac tools"),
        ] {
            environment.find_in(folder).unwrap();
            assert_eq!(environment.get("PATH"), Some(path));
        }
    }

    #[test]
    fn variables_that_no_environment_can_hold() {
        let mut environment = Environment::default();
        for name in ["", "A=B", "A\0"] {
            assert!(matches!(environment.set(name, "x"), Err(EnvironmentError::Name { .. })), "{name:?}");
        }
        assert!(matches!(environment.set("A", "x\0"), Err(EnvironmentError::Value { .. })));
        assert!(matches!(environment.set("A", &"x".repeat(MAX_VARIABLE)), Err(EnvironmentError::TooLong { .. })));
        for index in 0..8 {
            environment.set(&format!("V{index}"), &"x".repeat(MAX_VARIABLE - 3)).unwrap();
        }
        assert!(matches!(environment.set("V8", &"x".repeat(MAX_VARIABLE - 3)), Err(EnvironmentError::TooLong { .. })));
        environment.set("V0", "replaced").unwrap();
        assert_eq!(environment.get("V0"), Some("replaced"));
    }
}
