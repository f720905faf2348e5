//! Standard output and standard error: the only place that writes to them.

use std::io::Write as _;

use conduits::LogStream;

use super::CliError;

/// A line on standard output.
pub(super) fn line(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(CliError::Output)
}

/// A line of the program's own on standard error. Where that is closed there is nobody to tell.
pub(super) fn note(text: &str) {
    let written = writeln!(std::io::stderr().lock(), "mothership: {text}");
    drop(written);
}

/// A line on standard error about a log, after it: marked as the daemon marks its own in there.
pub(super) fn remark(text: &str) {
    let written = writeln!(std::io::stderr().lock(), "[mothership] {text}");
    drop(written);
}

/// Runs `write` where it may block: a reader who does not read must not keep an interrupt from being heard.
pub(super) async fn in_background<F>(write: F) -> Result<(), CliError>
where
    F: FnOnce() -> Result<(), CliError> + Send + 'static,
{
    let written = tokio::task::spawn_blocking(write).await;
    written.unwrap_or_else(|error| Err(CliError::Output(std::io::Error::other(error))))
}

/// Output of a command, byte for byte, where it belongs.
pub(super) fn output(stream: LogStream, bytes: &[u8]) -> Result<(), CliError> {
    let written = match stream {
        LogStream::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        LogStream::Stderr => std::io::stderr().lock().write_all(bytes),
    };
    written.map_err(CliError::Output)
}

/// Rows as columns, each as wide as its widest cell; the last one is not padded.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in std::iter::once(&head).chain(rows) {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        line(text.trim_end())?;
    }
    Ok(())
}
