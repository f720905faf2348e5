//! The command line: `serve`, and a client of the user API for everything else.
//!
//! What the command writes goes to standard output byte for byte, everything the program says itself to
//! standard error. The environment is not read here: `main` hands on what it found.

mod args;
mod ca;
mod client;
mod commands;
mod follow;
mod plain;
mod run;
mod serve;
mod shell;
mod sse;
mod takers;
mod terminal;
mod texts;
mod whole;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser as _;

use args::{Args, Command};
pub use ca::CaFailed;
use client::Client;
pub use client::ClientError;
pub use serve::ServeFailed;

/// What `main` found in the environment.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `MOTHERSHIP_DATA_DIR`.
    pub data_dir: Option<PathBuf>,
    /// `MOTHERSHIP_LOG`: a filter as tracing takes it.
    pub log: Option<String>,
}

/// What a command whose reader is gone exits with, as one that SIGPIPE ended (128 + 13).
const READER_GONE: u8 = 141;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A call of the API.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server.
    #[error(transparent)]
    Serve(#[from] ServeFailed),
    /// A step of a change of authorities.
    #[error(transparent)]
    Ca(#[from] CaFailed),
    /// The directive that was followed is no more.
    #[error("directive {0} was deleted with its facility while it was waited for; it does not run any more")]
    Deleted(String),
    /// A manual page.
    #[error("cannot write {}: {source}", path.display())]
    Page {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Standard output is gone.
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
    /// The runtime could not be started.
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
}

/// Runs the command line and says with which code to exit: 0, 1 failure, 2 usage, the code of the command that ran,
/// 130 or 143 where a signal ended the wait for it, 141 where nobody reads the output.
///
/// # Errors
/// The command failed in a way worth a line on standard error.
pub fn main(words: impl Iterator<Item = OsString>, environment: Environment) -> Result<u8, CliError> {
    let args = match Args::try_parse_from(words) {
        Ok(args) => args,
        Err(error) => {
            // Help goes to standard output with code 0, mistakes to standard error with code 2.
            error.print().map_err(CliError::Output)?;
            return Ok(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let data_dir = args.data_dir.or(environment.data_dir).unwrap_or_else(|| PathBuf::from("./mothership-data"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::Runtime)?;
    let result = runtime.block_on(async {
        if let Command::Serve(serve) = args.command {
            return Ok(serve::run(&data_dir, serve, environment.log.as_deref()).await?);
        }
        match args.command {
            Command::Ca(command) => return ca::run(&data_dir, command),
            Command::Completions { shell } => return texts::completions(shell).map(|()| 0),
            Command::Man { dir } => return texts::manual(&dir).map(|()| 0),
            _ => {}
        }
        let client = Client::open(&data_dir, &args.remote).await?;
        commands::run(&client, args.command).await
    });
    // Whoever leaves does not wait for a write that nobody takes.
    runtime.shutdown_background();
    match result {
        // `| head` has seen enough: no failure, and nothing to say.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(READER_GONE),
        result => result,
    }
}
