//! Values that are one of a few words, each with its spelling in the file.

/// Declares an enum of words with its spelling in the file, in one place.
macro_rules! words {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$inner])* $variant),+ }

        impl $name {
            /// Every spelling, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The spelling in the configuration.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            pub(super) fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words! {
    /// `bwrap.bridge`
    Bridge {
        /// The project's own helper; a root needs nothing.
        Builtin = "builtin",
        /// `bwrap.socat_path` inside the sandbox.
        Socat = "socat",
    }
}
words! {
    /// `log_level`
    LogLevel {
        /// Failures only.
        Error = "error",
        /// And what an operator should look at.
        Warn = "warn",
        /// And the life of each directive.
        Info = "info",
        /// And each decision.
        Debug = "debug",
        /// And each message.
        Trace = "trace",
    }
}
words! {
    /// `log_format`
    LogFormat {
        /// JSON when standard error is not a terminal.
        Auto = "auto",
        /// One JSON object a line.
        Json = "json",
        /// For reading.
        Text = "text",
    }
}
words! {
    /// `egress.sni_policy`
    SniPolicy {
        /// A missing server name is noted and let through.
        Audit = "audit",
        /// A missing server name is refused.
        Enforce = "enforce",
    }
}
words! {
    /// `container.runtime`
    ContainerRuntime {
        /// Podman, rootless preferred.
        Podman = "podman",
        /// Docker.
        Docker = "docker",
    }
}
words! {
    /// `container.proxy_mode`
    ContainerProxyMode {
        /// By the usual environment variables.
        Env = "env",
    }
}
words! {
    /// `container.network`
    ContainerNetwork {
        /// The host's network; the proxy is a convention.
        Host = "host",
        /// No network but the proxy.
        Isolated = "isolated",
    }
}
words! {
    /// `container.pull`
    PullPolicy {
        /// The image must be there.
        Never = "never",
        /// Fetched when it is not there.
        Missing = "missing",
        /// Fetched before every run.
        Always = "always",
    }
}
