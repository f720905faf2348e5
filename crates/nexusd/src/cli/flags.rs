//! The flags and subcommands as clap sees them.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};
use conduits::{AllowEntry, EnvName, NetMode, SandboxProfile};

use crate::config::{Platform, parse_duration};
use crate::enroll::KeyKind;

/// What a script must know of `nexusd run`.
const AFTER_RUN: &str = "\
The configuration file gives limits, programs, roots and the rules of egress, where there is one (config.yaml of the working \
directory, or --config); without one, what the flags ask for is allowed.\n\n\
The command reads nexusd's standard input through a pipe, which may read ahead of it: give < /dev/null to keep it.\n\n\
The first SIGINT, SIGTERM or SIGHUP sends the command SIGTERM and leaves it 10 s, a second one ends it at once.\n\n\
Exit codes: the command's own; 124 its timeout; 125 its disk limit; 126 and 127 as shells use them; 128+N killed by signal N; \
130, 143 or 129 ended by a SIGINT, SIGTERM or SIGHUP to nexusd; 141 nobody reads its output any more; 1 it could not be run; \
2 wrong usage or configuration.";

/// Pulls directives from the mothership and runs each in its sandbox.
///
/// Without a subcommand the daemon runs. The flags of the deployment guide work with one dash or two.
#[derive(Debug, Parser)]
#[command(name = "nexusd", max_term_width = 100, disable_version_flag = true, subcommand_negates_reqs = true)]
#[command(after_help = "Exit codes: 0 success, 1 failure, 2 wrong usage or configuration.")]
pub(super) struct Flags {
    /// The configuration file [default: config.yaml]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath, overrides_with = "config")]
    pub(super) config: Option<PathBuf>,

    /// Print the version
    #[arg(long, short = 'V', num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL",
          value_parser = BoolishValueParser::new())]
    pub(super) version: bool,

    /// Check this host and say what is missing; exit 1 when a check fails
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true",
          hide_default_value = true, hide_possible_values = true, value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub(super) doctor: bool,

    /// With -doctor: print JSON
    #[arg(long)]
    pub(super) json: bool,

    /// Enrol this territory with a token (- reads it from standard input)
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true, conflicts_with = "enroll_token_file")]
    pub(super) enroll_token: Option<String>,

    /// Enrol with the token in a file (- is standard input): keeps it out of the process list
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) enroll_token_file: Option<PathBuf>,

    /// Ask for a client certificate; =false only registers [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true,
          value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub(super) enroll_with_csr: Option<bool>,

    /// Where the credentials are written [default: ./nexus-credentials]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) enroll_out_dir: Option<PathBuf>,

    /// The territory's name [default: name of the configuration]
    #[arg(long, value_name = "NAME")]
    pub(super) enroll_name: Option<String>,

    /// ecdsa (P-256), or rsa (3072 bits) for peers that need it [default: ecdsa]
    #[arg(long, value_name = "KIND", value_parser = key_kind)]
    pub(super) enroll_key: Option<KeyKind>,

    /// With enrolment: verify the mothership by these PEM roots
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) ca_file: Option<PathBuf>,

    /// With enrolment: replace credentials that are there
    #[arg(long)]
    pub(super) force: bool,

    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run one command in a sandbox, as a directive would, without a mothership
    #[command(after_long_help = AFTER_RUN)]
    Run(RunFlags),
    /// Check this host and say what is missing
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,

        /// Attack the sandboxes of the configured profiles on this host, and say what held
        #[arg(long)]
        prove: bool,
    },
    /// Say how the running daemon stands
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let the running daemon take on nothing new, also after a restart; what runs goes on
    Drain {
        /// Wait until nothing runs any more
        #[arg(long)]
        wait: bool,

        /// Wait so long at the most, and fail then
        #[arg(long, value_name = "TIME", value_parser = timeout, requires = "wait")]
        timeout: Option<Duration>,
    },
    /// Let a drained daemon take on directives again
    Undrain,
    /// Enrol this territory at the mothership
    Enroll(EnrollFlags),
    /// The pinned root file system
    Rootfs {
        #[command(subcommand)]
        command: RootfsCommand,
    },
    /// The configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    Man {
        /// Into this folder
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RootfsCommand {
    /// Fetch, verify and unpack it, unless it is there; print where it is
    Ensure,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Say what is wrong with the configuration file
    Check,
    /// Print one with every key, its default and what it does
    Example {
        /// linux or macos [default: this one]
        #[arg(long, value_parser = platform)]
        platform: Option<Platform>,
    },
}

#[derive(Debug, Args)]
pub(super) struct RunFlags {
    /// untrusted, trusted, host or darwin-automation [default: untrusted; darwin-automation on macOS]
    #[arg(long, value_name = "PROFILE", value_parser = profile)]
    pub(super) profile: Option<SandboxProfile>,

    /// A destination the command may reach, host:port; may be given several times
    #[arg(long, value_name = "HOST:PORT", value_parser = entry)]
    pub(super) allow: Vec<AllowEntry>,

    /// none, allowlist or unrestricted [default: none, or allowlist with --allow]
    #[arg(long, value_name = "MODE", value_parser = net_mode)]
    pub(super) net: Option<NetMode>,

    /// The directory that is /workspace, one run at a time [default: an empty one, removed afterwards]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) facility: Option<PathBuf>,

    /// End the command after this long, such as 60s [default: limits.default_timeout]
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    pub(super) timeout: Option<Duration>,

    /// Print how it ended as one line of JSON on standard output; all output of the command goes to standard error
    #[arg(long)]
    pub(super) json: bool,

    /// A variable for the command; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(super) env: Vec<(EnvName, String)>,

    /// The command: several words are run as they are, a single one is a shell script
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(super) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct EnrollFlags {
    /// The token (- reads it from standard input)
    #[arg(long, alias = "enroll-token", value_name = "TOKEN", allow_hyphen_values = true)]
    pub(super) token: Option<String>,

    /// The token is in this file (- is standard input)
    #[arg(long, alias = "enroll-token-file", value_name = "FILE", conflicts_with = "token", value_hint = ValueHint::FilePath)]
    pub(super) token_file: Option<PathBuf>,

    /// Ask for a client certificate; =false only registers [default: true]
    #[arg(long, alias = "enroll-with-csr", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          hide_possible_values = true, value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub(super) with_csr: Option<bool>,

    /// Where the credentials are written [default: ./nexus-credentials]
    #[arg(long, alias = "enroll-out-dir", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) out_dir: Option<PathBuf>,

    /// The territory's name [default: name of the configuration]
    #[arg(long, alias = "enroll-name", value_name = "NAME")]
    pub(super) name: Option<String>,

    /// ecdsa (P-256), or rsa (3072 bits) for peers that need it [default: ecdsa]
    #[arg(long, alias = "enroll-key", value_name = "KIND", value_parser = key_kind)]
    pub(super) key: Option<KeyKind>,

    /// Verify the mothership by these PEM roots
    #[arg(long = "ca-file", id = "enroll_ca_file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) ca_file: Option<PathBuf>,

    /// Replace credentials that are there
    #[arg(long = "force", id = "enroll_force")]
    pub(super) force: bool,
}

/// The whole command line as clap's value: for help, completions and manual pages.
#[must_use]
pub fn command() -> clap::Command {
    Flags::command()
}

/// The completion script for a shell.
#[must_use]
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "nexusd", &mut script);
    script
}

fn platform(text: &str) -> Result<Platform, String> {
    match text {
        "linux" => Ok(Platform::Linux),
        "macos" => Ok(Platform::Macos),
        _ => Err("linux or macos".to_owned()),
    }
}

fn key_kind(text: &str) -> Result<KeyKind, String> {
    match text {
        "ecdsa" => Ok(KeyKind::EcdsaP256),
        "rsa" => Ok(KeyKind::Rsa3072),
        _ => Err("ecdsa or rsa".to_owned()),
    }
}

fn profile(text: &str) -> Result<SandboxProfile, String> {
    text.parse().map_err(|error: conduits::UnknownName| error.to_string())
}

fn net_mode(text: &str) -> Result<NetMode, String> {
    text.parse().map_err(|error: conduits::UnknownName| error.to_string())
}

fn entry(text: &str) -> Result<AllowEntry, String> {
    text.parse().map_err(|error: conduits::EntryError| error.to_string())
}

fn timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        timeout => Ok(timeout),
    }
}

fn variable(text: &str) -> Result<(EnvName, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| "write NAME=VALUE".to_owned())?;
    let name = name.parse().map_err(|error: conduits::EnvNameError| error.to_string())?;
    Ok((name, value.to_owned()))
}
