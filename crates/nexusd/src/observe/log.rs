//! The daemon's own log on standard error.
//!
//! One JSON object a line when standard error is not a terminal, text for reading when it is. The level applies to
//! this project's crates; what libraries say is kept to warnings, unless the level is `trace`, because an HTTP
//! client at `debug` writes every header.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing::subscriber::{SetGlobalDefaultError, set_global_default};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{LogFormat, LogLevel};

/// This project's crates, whose level is the configured one.
const OWN_CRATES: &[&str] = &["nexusd", "egress", "sandbox", "sys", "conduits"];

/// The form of a log line, decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogForm {
    /// One JSON object a line.
    Json,
    /// For reading; with colours or without.
    Text {
        /// Whether to colour it.
        colours: bool,
    },
}

impl LogForm {
    /// The form for a configured format and what standard error is. `no_color` is whether the environment asks for
    /// no colours (<https://no-color.org>).
    #[must_use]
    pub const fn choose(format: LogFormat, is_terminal: bool, no_color: bool) -> Self {
        match (format, is_terminal) {
            (LogFormat::Json, _) | (LogFormat::Auto, false) => Self::Json,
            (LogFormat::Text, _) | (LogFormat::Auto, true) => Self::Text { colours: is_terminal && !no_color },
        }
    }
}

/// Changes the level of a running log.
#[derive(Clone)]
pub struct LogHandle(reload::Handle<Targets, Registry>);

impl LogHandle {
    /// Takes effect from the next line on.
    ///
    /// # Errors
    /// When the log is gone.
    pub fn set_level(&self, level: LogLevel) -> Result<(), reload::Error> {
        self.0.reload(targets(level))
    }
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogHandle")
    }
}

/// Starts the process's log on standard error.
///
/// # Errors
/// When one has been started before.
pub fn init(level: LogLevel, format: LogFormat, no_color: bool) -> Result<LogHandle, SetGlobalDefaultError> {
    let form = LogForm::choose(format, std::io::stderr().is_terminal(), no_color);
    let (subscriber, handle) = subscriber(level, form, std::io::stderr);
    set_global_default(subscriber)?;
    Ok(handle)
}

/// The log as a value, for any writer.
pub fn subscriber<W>(level: LogLevel, form: LogForm, writer: W) -> (impl tracing::Subscriber + Send + Sync, LogHandle)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(targets(level));
    let lines: Box<dyn Layer<_> + Send + Sync> = match form {
        LogForm::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .with_writer(writer)
            .boxed(),
        LogForm::Text { colours } => fmt::layer().with_ansi(colours).with_writer(writer).boxed(),
    };
    (tracing_subscriber::registry().with(filter).with(lines), LogHandle(handle))
}

fn targets(level: LogLevel) -> Targets {
    let own = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let others = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Trace => LevelFilter::DEBUG,
        LogLevel::Warn | LogLevel::Info | LogLevel::Debug => LevelFilter::WARN,
    };
    OWN_CRATES.iter().fold(Targets::new().with_default(others), |targets, name| targets.with_target(*name, own))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn logged(form: LogForm, during: impl FnOnce(&LogHandle)) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let (subscriber, handle) = subscriber(LogLevel::Info, form, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || during(&handle));
        sink.text()
    }

    #[test]
    fn json_lines_carry_the_directive_and_cannot_be_broken_by_a_value() {
        let text = logged(LogForm::Json, |_| {
            let span = tracing::info_span!("directive", directive = "d-1");
            span.in_scope(|| tracing::info!(target: "nexusd::run", reason = "a\nb\"c", "ended"));
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["message"], &line["reason"]), (&"ended".into(), &"a\nb\"c".into()));
        assert_eq!(line["spans"][0]["directive"], "d-1");
        assert_eq!(line["level"], "INFO");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn the_level_changes_while_running_and_libraries_stay_quiet() {
        let text = logged(LogForm::Text { colours: false }, |handle| {
            tracing::debug!(target: "nexusd::run", "hidden");
            tracing::info!(target: "hyper::client", "library");
            handle.set_level(LogLevel::Debug).unwrap();
            tracing::debug!(target: "nexusd::run", "shown");
            tracing::debug!(target: "hyper::client", "library");
            tracing::warn!(target: "hyper::client", "trouble");
        });
        assert!(!text.contains("hidden") && !text.contains("library"), "{text}");
        assert!(text.contains("shown") && text.contains("trouble"), "{text}");
    }

    #[test]
    fn the_form_follows_the_terminal_unless_it_is_said() {
        let table = [
            (LogFormat::Auto, false, LogForm::Json),
            (LogFormat::Auto, true, LogForm::Text { colours: true }),
            (LogFormat::Json, true, LogForm::Json),
            (LogFormat::Text, false, LogForm::Text { colours: false }),
        ];
        for (format, terminal, expected) in table {
            assert_eq!(LogForm::choose(format, terminal, false), expected);
        }
        assert_eq!(LogForm::choose(LogFormat::Auto, true, true), LogForm::Text { colours: false });
    }
}
