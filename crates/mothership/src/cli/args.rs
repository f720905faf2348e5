//! What may be typed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::serve::listen::{Listen, ServerName};
use crate::store::api_tokens::Scope;

/// The version, with the commit and its day where the build named them as for nexusd.
fn version() -> &'static str {
    static VERSION: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let version = env!("CARGO_PKG_VERSION");
        match (option_env!("NEXUS_COMMIT"), option_env!("NEXUS_DATE")) {
            (Some(commit), Some(date)) => format!("{version} ({commit}, {date})"),
            (Some(commit), None) => format!("{version} ({commit})"),
            (None, _) => version.to_owned(),
        }
    });
    &VERSION
}

/// The control plane of Nexus: holds directives, hands them out, keeps logs and results.
#[derive(Debug, Parser)]
#[command(name = "mothership", version = version(), max_term_width = 100)]
pub(super) struct Args {
    /// Where the mothership keeps everything; clients find its address, CA and token there
    /// [default: $MOTHERSHIP_DATA_DIR, else ./mothership-data]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) remote: Remote,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// How a client reaches a mothership that is elsewhere.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(super) struct Remote {
    /// URL of the mothership [default: the data directory's]
    #[arg(long, global = true, value_name = "URL")]
    pub(super) server: Option<String>,
    /// File with the API token [default: admin-token in the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// CA certificate to trust, PEM [default: ca.pem in the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve the APIs
    Serve(Serve),
    /// Tokens with which territories enrol
    #[command(subcommand)]
    EnrollToken(EnrollToken),
    /// Tokens for this API: for people and programs
    #[command(subcommand)]
    ApiToken(ApiToken),
    /// The keys that sign directive tokens
    #[command(subcommand)]
    SigningKey(SigningKey),
    /// The certificate authority of the data directory, and its successor; run it on the mothership's machine
    #[command(subcommand)]
    Ca(Ca),
    /// Shut a territory out, or let it in again
    #[command(subcommand)]
    Territory(Territory),
    /// Workspaces that persist
    #[command(subcommand)]
    Facility(Facility),
    /// Run a command, stream its output, exit with its code
    Run(Run),
    /// Print a directive's output
    Logs {
        /// Follow until the directive has ended
        #[arg(short, long)]
        follow: bool,
        /// The directive
        id: String,
    },
    /// Cancel a directive
    Cancel {
        /// The directive
        id: String,
    },
    /// List directives, newest first
    Ls {
        /// Only in this state
        #[arg(long)]
        state: Option<String>,
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List territories
    Territories {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    Man {
        /// Into this folder
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct Serve {
    /// Address to listen on: :3000 (every address), 127.0.0.1:3000, [::1]:3000; port 0 takes a free one
    #[arg(long, default_value = "0.0.0.0:3000", value_name = "ADDR")]
    pub(super) listen: Listen,
    /// Further name or address for the server's certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(super) tls_name: Vec<ServerName>,
    /// Development: plain HTTP, and whoever says to be a territory is believed; loopback only
    #[arg(long, conflicts_with_all = ["auth_mode", "tls_name"])]
    pub(super) dev: bool,
    /// How territories prove who they are
    #[arg(long, value_enum, default_value_t = AuthMode::Mtls)]
    pub(super) auth_mode: AuthMode,
    /// Network whose fingerprint header is believed; may be repeated
    #[arg(long, value_name = "CIDR")]
    pub(super) trusted_proxy: Vec<IpNet>,
    /// Seconds that a lease lives without a heartbeat
    #[arg(long, hide = true, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) lease_ttl_seconds: u64,
    /// Seconds that a territory's certificate is good: thirty days
    #[arg(long, hide = true, default_value_t = 2_592_000, value_parser = clap::value_parser!(u64).range(60..=31_536_000))]
    pub(super) client_certificate_seconds: u64,
    /// Failed enrolments that an address may have in an hour
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) enroll_failures_per_hour: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum AuthMode {
    /// The client certificate of the TLS connection
    Mtls,
    /// X-Nexus-Client-Cert-Fingerprint from a trusted proxy
    Header,
    /// Either of them
    Either,
}

#[derive(Debug, Subcommand)]
pub(super) enum EnrollToken {
    /// Make a token, good for one territory, and print it
    Create {
        /// How long it is good: 1h, 30m, 90s
        #[arg(long, default_value = "1h", value_parser = duration)]
        ttl: u64,
        /// Label that the territory gets, as key=value; may be repeated
        #[arg(long, value_name = "K=V", value_parser = pair)]
        label: Vec<(String, String)>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List tokens
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token by its id
    Revoke {
        /// The token's id
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ApiToken {
    /// Make a token and print it; it is shown once
    Create {
        /// What it is called, in lists and in the audit
        name: String,
        /// What it may be used for: read, run (read, and make, cancel and delete) or admin (everything)
        #[arg(long, default_value = "run", value_name = "SCOPE")]
        scope: Scope,
        /// How long it is good: 30d, 12h
        #[arg(long, default_value = "90d", value_parser = duration)]
        ttl: u64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List tokens
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token by its id, at once
    Revoke {
        /// The token's id
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum SigningKey {
    /// Make a new key, which signs from now on; the older ones verify for seven days more
    Rotate {
        /// The older ones verify no more: every directive token that is out is void at once
        #[arg(long)]
        drop_older: bool,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(super) enum Ca {
    /// Say where a change of authorities stands, and which territories do not know the next one
    Status,
    /// Make the next authority: trusted and handed out from the next start of the mothership on
    Prepare,
    /// Let the next authority sign from the next start on; the present one stays trusted
    Switch {
        /// Even where territories do not know it yet: they must then enrol anew
        #[arg(long)]
        force: bool,
    },
    /// Trust the authority before this one no more from the next start on
    Retire {
        /// Even where territories have no certificate of this one yet: they must then enrol anew
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Territory {
    /// Shut a territory out at once, on every connection that it has
    Disable {
        /// The territory
        id: String,
    },
    /// Let it in again
    Enable {
        /// The territory
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Facility {
    /// Make a facility and print its id
    Create {
        /// Its name [default: its id]
        name: Option<String>,
        /// What to clone into it when it is first used
        #[arg(long, value_name = "URL")]
        repo_url: Option<String>,
        /// The territory to put it on [default: the one that first takes a directive of it]
        #[arg(long, value_name = "ID")]
        territory: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// List facilities
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a facility with its directives, logs and results; its territory then removes the folder
    Delete {
        /// Its name or id
        facility: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct Run {
    /// Facility to run in, by name or id [default: a new one, whose name is told]
    #[arg(long, value_name = "F")]
    pub(super) facility: Option<String>,
    /// Sandbox profile: untrusted, trusted, host, darwin-automation
    #[arg(long, default_value = "untrusted", value_name = "P")]
    pub(super) profile: String,
    /// Network: none, allowlist, unrestricted [default: allowlist with --allow, else none]
    #[arg(long, value_name = "MODE")]
    pub(super) net: Option<String>,
    /// Destination that may be reached, host:port; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) allow: Vec<String>,
    /// Time for the command: 60s, 5m
    #[arg(long, value_parser = duration)]
    pub(super) timeout: Option<u64>,
    /// Variable for the command; may be repeated
    #[arg(long, value_name = "K=V", value_parser = pair)]
    pub(super) env: Vec<(String, String)>,
    /// Directory beneath the workspace to run in
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<String>,
    /// Print events as JSON lines instead of the output
    #[arg(long)]
    pub(super) json: bool,
    /// The command: one word is a script for the shell, several are a command with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}

/// Whole seconds of `90s`, `5m`, `1h30m`, rounded up; a bare number is seconds.
fn duration(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is not a duration of at least 1s; write 90s, 5m or 1h30m");
    let days =
        text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()).and_then(|days| days.checked_mul(86_400));
    let seconds = match days.map_or_else(|| text.parse::<u64>(), Ok) {
        Ok(seconds) => seconds,
        Err(_) => text
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|duration| u64::try_from(duration.as_nanos()).ok())
            .map(|nanos| nanos.div_ceil(1_000_000_000))
            .ok_or_else(wrong)?,
    };
    if seconds == 0 { Err(wrong()) } else { Ok(seconds) }
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text} is not KEY=VALUE"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_holds_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_are_whole_seconds() {
        for (text, seconds) in
            [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("1.5s", 2), ("1ms", 1), ("90d", 7_776_000)]
        {
            assert_eq!(duration(text), Ok(seconds));
        }
        for text in ["", "0", "0s", "-5s", "soon"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
