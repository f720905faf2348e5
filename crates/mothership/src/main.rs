//! The `mothership` binary: reads the environment, runs the command line, exits.

use std::process::ExitCode;

use mothership::cli::{self, Environment};

fn main() -> ExitCode {
    #[allow(clippy::disallowed_methods, reason = "main is where the environment is read")]
    let environment = Environment {
        data_dir: std::env::var_os("MOTHERSHIP_DATA_DIR").map(Into::into),
        log: std::env::var("MOTHERSHIP_LOG").ok(),
    };
    match cli::main(std::env::args_os(), environment) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            #[allow(clippy::print_stderr, reason = "the last word of a failed command")]
            {
                eprintln!("mothership: {error}");
            }
            ExitCode::FAILURE
        }
    }
}
