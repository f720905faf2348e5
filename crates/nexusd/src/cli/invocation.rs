//! What the command line asks for, as one value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};
use conduits::{AllowEntry, EnvName, NetMode, SandboxProfile};

use super::argv::{self, Takes};
use super::flags::{Command, ConfigCommand, EnrollFlags, Flags, RootfsCommand, RunFlags};
use crate::config::{ConfigSource, Platform};
use crate::enroll::KeyKind;

/// Where the guide's implementation looks for its configuration.
const DEFAULT_CONFIG: &str = "config.yaml";
const DEFAULT_OUT_DIR: &str = "./nexus-credentials";

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Invocation {
    /// Run the daemon until it is told to stop.
    Daemon {
        /// Its configuration; must be there.
        config: ConfigSource,
    },
    /// Print [`super::version_line`].
    Version,
    /// Check the host.
    Doctor {
        /// Without a file, all profiles of the platform count.
        config: ConfigSource,
        /// Print JSON.
        json: bool,
        /// Attack the sandboxes of the configured profiles instead.
        prove: bool,
    },
    /// Say how the running daemon stands.
    Status {
        /// Whose `work_dir` the daemon has.
        config: ConfigSource,
        /// Print JSON.
        json: bool,
    },
    /// Let the running daemon take on nothing new.
    Drain {
        /// Whose `work_dir` the daemon has.
        config: ConfigSource,
        /// Until nothing runs any more; within a time, or for as long as it takes.
        wait: Option<Option<Duration>>,
    },
    /// Let it take on directives again.
    Undrain {
        /// Whose `work_dir` the daemon has.
        config: ConfigSource,
    },
    /// Enrol this territory.
    Enroll(EnrollArgs),
    /// Run one command without a mothership.
    Run(RunArgs),
    /// Make sure the pinned root is there.
    RootfsEnsure {
        /// Names the archive and the cache.
        config: ConfigSource,
    },
    /// Validate a configuration.
    ConfigCheck {
        /// Which; must be there.
        config: ConfigSource,
    },
    /// Print the example configuration.
    ConfigExample {
        /// Of which system.
        platform: Platform,
    },
    /// Print completions.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages.
    Manual {
        /// Into this folder.
        dir: PathBuf,
    },
}

/// How an enrolment is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollArgs {
    /// Names the mothership; the built-in defaults where it is neither named nor there.
    pub config: ConfigSource,
    /// Where the token comes from.
    pub token: TokenSource,
    /// Ask for a client certificate.
    pub with_csr: bool,
    /// The kind of key.
    pub key: KeyKind,
    /// Where the credentials go.
    pub out_dir: PathBuf,
    /// The territory's name, where not the configuration's.
    pub name: Option<String>,
    /// Roots to verify the mothership by, before those of the configuration.
    pub ca_file: Option<PathBuf>,
    /// Replace what is there.
    pub force: bool,
}

/// Where a secret comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// The command line itself, where `ps` shows it.
    Argument(String),
    /// A file.
    File(PathBuf),
    /// Standard input.
    StandardInput,
}

/// Never shows the token.
impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(_) => f.write_str("Argument(***)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::StandardInput => f.write_str("StandardInput"),
        }
    }
}

/// One command to run without a mothership.
#[derive(Debug, Clone, PartialEq)]
pub struct RunArgs {
    /// The built-in defaults where it is neither named nor there.
    pub config: ConfigSource,
    /// The isolation.
    pub profile: SandboxProfile,
    /// The network.
    pub net: NetMode,
    /// Destinations; not empty exactly with [`NetMode::Allowlist`].
    pub allow: Vec<AllowEntry>,
    /// The workspace; `None`: an empty one, removed afterwards.
    pub facility: Option<PathBuf>,
    /// `None`: the configuration's.
    pub timeout: Option<Duration>,
    /// Report the end as JSON on standard error.
    pub json: bool,
    /// Variables for the command.
    pub env: BTreeMap<EnvName, String>,
    /// What the shell is given: one word as it is, several quoted one by one.
    pub script: String,
}

/// A command line that is no invocation: help that was asked for, or a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// To be printed as it is, on standard output exactly when the code is 0.
    pub text: String,
    /// The process's exit code: 0 for help, 2 for a mistake.
    pub code: u8,
}

impl From<clap::Error> for Usage {
    fn from(error: clap::Error) -> Self {
        Self { text: error.render().to_string(), code: if error.use_stderr() { 2 } else { 0 } }
    }
}

fn mistake(text: &str) -> Usage {
    Usage { text: format!("error: {text}\n\nFor more information, try '--help'.\n"), code: 2 }
}

/// Reads a command line, the program's name first.
///
/// # Errors
/// Help that was asked for, or what is wrong and how to write it.
pub fn parse(args: impl IntoIterator<Item = OsString>, platform: Platform) -> Result<Invocation, Usage> {
    let command = Flags::command();
    let args = argv::rewrite(args, &|name| takes(&command, name));
    let flags = Flags::from_arg_matches(&command.try_get_matches_from(args)?)?;
    invocation(flags, platform)
}

/// Whether a long flag anywhere in the tree takes the next argument as its value.
fn takes(command: &clap::Command, name: &str) -> Option<Takes> {
    let here = command.get_arguments().find(|arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    });
    if let Some(arg) = here {
        let value = arg.get_action().takes_values() && !arg.is_require_equals_set();
        return Some(if value { Takes::Value } else { Takes::Nothing });
    }
    command.get_subcommands().find_map(|sub| takes(sub, name))
}

fn invocation(flags: Flags, platform: Platform) -> Result<Invocation, Usage> {
    let config = ConfigSource {
        named: flags.config.is_some(),
        path: flags.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG)),
    };
    if flags.version {
        return Ok(Invocation::Version);
    }
    let wants_enrolment = flags.enroll_token.is_some() || flags.enroll_token_file.is_some();
    let enrolment_options = flags.enroll_with_csr.is_some()
        || flags.enroll_out_dir.is_some()
        || flags.enroll_name.is_some()
        || flags.enroll_key.is_some()
        || flags.ca_file.is_some()
        || flags.force;
    if flags.command.is_some() && (flags.doctor || flags.json || wants_enrolment || enrolment_options) {
        return Err(mistake("flags of the daemon before a subcommand: write them after it"));
    }
    if flags.doctor && wants_enrolment {
        return Err(mistake("-doctor and -enroll-token ask for two things: give one"));
    }
    if !wants_enrolment && enrolment_options {
        return Err(mistake("an enrolment needs a token: -enroll-token TOKEN or --enroll-token-file FILE"));
    }
    if flags.json && !flags.doctor {
        return Err(mistake("--json goes with -doctor"));
    }
    match flags.command {
        None if flags.doctor => Ok(Invocation::Doctor { config, json: flags.json, prove: false }),
        None if wants_enrolment => enroll(
            config,
            EnrollFlags {
                token: flags.enroll_token,
                token_file: flags.enroll_token_file,
                with_csr: flags.enroll_with_csr,
                key: flags.enroll_key,
                out_dir: flags.enroll_out_dir,
                name: flags.enroll_name,
                ca_file: flags.ca_file,
                force: flags.force,
            },
        ),
        None => Ok(Invocation::Daemon { config }),
        Some(Command::Run(flags)) => run(config, flags, platform),
        Some(Command::Doctor { json, prove }) => Ok(Invocation::Doctor { config, json, prove }),
        Some(Command::Status { json }) => Ok(Invocation::Status { config, json }),
        Some(Command::Drain { wait, timeout }) => Ok(Invocation::Drain { config, wait: wait.then_some(timeout) }),
        Some(Command::Undrain) => Ok(Invocation::Undrain { config }),
        Some(Command::Enroll(flags)) => enroll(config, flags),
        Some(Command::Rootfs { command: RootfsCommand::Ensure }) => Ok(Invocation::RootfsEnsure { config }),
        Some(Command::Config { command: ConfigCommand::Check }) => Ok(Invocation::ConfigCheck { config }),
        Some(Command::Config { command: ConfigCommand::Example { platform: wanted } }) => {
            Ok(Invocation::ConfigExample { platform: wanted.unwrap_or(platform) })
        }
        Some(Command::Completions { shell }) => Ok(Invocation::Completions { shell }),
        Some(Command::Man { dir }) => Ok(Invocation::Manual { dir }),
    }
}

fn enroll(config: ConfigSource, flags: EnrollFlags) -> Result<Invocation, Usage> {
    let token = match (flags.token, flags.token_file) {
        (Some(token), _) if token == "-" => TokenSource::StandardInput,
        (Some(token), _) => TokenSource::Argument(token),
        (None, Some(file)) if file.as_os_str() == "-" => TokenSource::StandardInput,
        (None, Some(file)) => TokenSource::File(file),
        (None, None) => return Err(mistake("an enrolment needs a token: --token TOKEN or --token-file FILE")),
    };
    Ok(Invocation::Enroll(EnrollArgs {
        config,
        token,
        with_csr: flags.with_csr.unwrap_or(true),
        key: flags.key.unwrap_or(KeyKind::EcdsaP256),
        out_dir: flags.out_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_OUT_DIR)),
        name: flags.name,
        ca_file: flags.ca_file,
        force: flags.force,
    }))
}

fn run(config: ConfigSource, flags: RunFlags, platform: Platform) -> Result<Invocation, Usage> {
    let profile = flags.profile.unwrap_or(match platform {
        Platform::Linux => SandboxProfile::Untrusted,
        Platform::Macos => SandboxProfile::DarwinAutomation,
    });
    if !platform.profiles().contains(&profile) {
        return Err(mistake(&platform.lacks(profile)));
    }
    let net = match (flags.net, flags.allow.is_empty()) {
        (None, true) => NetMode::None,
        (None | Some(NetMode::Allowlist), false) => NetMode::Allowlist,
        (Some(NetMode::Allowlist), true) => return Err(mistake("--net allowlist needs --allow HOST:PORT")),
        (Some(mode), true) => mode,
        (Some(mode), false) => return Err(mistake(&format!("--allow goes with --net allowlist, not {mode}"))),
    };
    let mut allow: Vec<AllowEntry> = Vec::new();
    for entry in flags.allow {
        if !allow.contains(&entry) {
            allow.push(entry);
        }
    }
    if let Some(word) = flags.words.iter().find(|word| word.contains('\0')) {
        return Err(mistake(&format!("{word:?} holds a NUL")));
    }
    Ok(Invocation::Run(RunArgs {
        config,
        profile,
        net,
        allow,
        facility: flags.facility,
        timeout: flags.timeout,
        json: flags.json,
        env: flags.env.into_iter().collect(),
        script: script(&flags.words),
    }))
}

/// One word is a script, several are a program with its arguments: each is quoted, so that the shell runs exactly
/// these words.
fn script(words: &[String]) -> String {
    match words {
        [only] => only.clone(),
        _ => words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
    }
}

/// A word as a shell reads it back.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
