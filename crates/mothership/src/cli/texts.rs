//! What is generated from the command line's own declaration: completions and manual pages.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;
use conduits::LogStream;

use super::CliError;
use super::args::Args;
use super::terminal::output;

/// What stands at the foot of every page. An empty day would be lost on the way, and the version stand in its place.
const DATE: &str = match option_env!("NEXUS_DATE") {
    Some(date) => date,
    None => "undated",
};

/// Prints the completion script for a shell.
pub(super) fn completions(shell: Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "mothership", &mut script);
    output(LogStream::Stdout, &script)
}

/// Writes the manual pages into a folder.
pub(super) fn manual(dir: &Path) -> Result<(), CliError> {
    for (name, text) in pages() {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|source| CliError::Page { path, source })?;
    }
    Ok(())
}

/// Every page: the name of its file, and its text.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut top = Args::command().disable_help_subcommand(true);
    top.build();
    let mut pages = Vec::new();
    render(&top, &mut pages);
    pages
}

fn render(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) {
    let source = concat!("mothership ", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone()).date(DATE).source(source).manual("Nexus");
    let mut text = Vec::new();
    // Nothing fails to be written into memory.
    if page.render(&mut text).is_ok() {
        pages.push((page.get_filename(), text));
    }
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        render(inner, pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_sound_and_every_command_has_a_page() {
        Args::command().debug_assert();
        let names: Vec<String> = pages().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.first().map(String::as_str), Some("mothership.1"));
        for name in ["mothership-serve.1", "mothership-enroll-token-create.1", "mothership-completions.1"] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("-help")), "{names:?}");
    }
}
