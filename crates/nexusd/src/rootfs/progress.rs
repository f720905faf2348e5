//! How far it is: a value, a line made of it (pure), and the painter that shows it on a terminal or as a few lines.

use std::io::Write as _;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How often the line on a terminal is painted.
const PAINT_EVERY: Duration = Duration::from_millis(100);

/// How often a line is printed where there is no terminal.
const PRINT_EVERY: Duration = Duration::from_secs(10);

/// What is being done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nothing yet.
    #[default]
    Beginning,
    /// Another process is at it.
    Waiting {
        /// Which.
        pid: Option<u32>,
    },
    /// The server has been asked.
    Asking,
    /// Bytes come.
    Fetching {
        /// So many have come.
        done: u64,
        /// Of so many.
        total: Option<u64>,
    },
    /// They came no more; there will be another try.
    Pausing {
        /// What happened.
        why: String,
    },
    /// The file is hashed.
    Verifying {
        /// So many bytes.
        done: u64,
        /// Of so many.
        total: u64,
    },
    /// The file is unpacked.
    Unpacking {
        /// So many bytes of it.
        done: u64,
        /// Of so many.
        total: u64,
    },
}

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Whether a download was continued, and not fetched in one piece.
    pub continued: bool,
}

impl Stage {
    /// A few words, for a log or a health check.
    #[must_use]
    pub fn words(&self) -> String {
        let percent = |done: u64, total: u64| match total {
            0 => String::new(),
            total => format!(" ({} %)", u128::from(done) * 100 / u128::from(total)),
        };
        match self {
            Self::Beginning => "beginning".to_owned(),
            Self::Waiting { pid: Some(pid) } => format!("waiting for process {pid}, which is fetching it"),
            Self::Waiting { pid: None } => "waiting for another process, which is fetching it".to_owned(),
            Self::Asking => "asking the server".to_owned(),
            Self::Fetching { done, total: Some(total) } => format!("fetching{}", percent(*done, *total)),
            Self::Fetching { done, total: None } => format!("fetching ({})", mib(*done)),
            Self::Pausing { why } => format!("{why}; trying again"),
            Self::Verifying { done, total } => format!("verifying{}", percent(*done, *total)),
            Self::Unpacking { done, total } => format!("unpacking{}", percent(*done, *total)),
        }
    }

    fn amounts(&self) -> Option<(&'static str, u64, u64)> {
        match self {
            Self::Fetching { done, total: Some(total) } => Some(("fetching", *done, *total)),
            Self::Verifying { done, total } => Some(("verifying", *done, *total)),
            Self::Unpacking { done, total } => Some(("unpacking", *done, *total)),
            _ => None,
        }
    }
}

/// When the stage that is shown began, and how far it was then.
#[derive(Debug, Clone, Copy)]
pub struct Since {
    /// How long ago.
    pub elapsed: Duration,
    /// Bytes that were done then: what an earlier try has brought is not this one's speed.
    pub done: u64,
}

/// The line for a terminal of this width: a bar where the end is known, else words.
#[must_use]
pub fn line(stage: &Stage, since: Since, width: usize) -> String {
    let Some((word, done, total)) = stage.amounts().filter(|(_, _, total)| *total > 0) else {
        return fitting(&stage.words(), width);
    };
    let percent = (u128::from(done.min(total)) * 100 / u128::from(total)).min(100);
    let start = format!("{word:<9} {percent:>3} % ");
    let millis = since.elapsed.as_millis().max(1);
    let speed = u128::from(done.saturating_sub(since.done)) * 1000 / millis;
    let left = match speed {
        0 => "-:--".to_owned(),
        speed => clock(u128::from(total.saturating_sub(done)) / speed),
    };
    let speed = u64::try_from(speed).unwrap_or(u64::MAX);
    let end = format!(" {} of {}  {}/s  {left} left", mib(done), mib(total), mib(speed));
    // What is left between the words, less the brackets.
    match width.checked_sub(start.len() + end.len() + 2).filter(|room| *room >= 5) {
        Some(room) => {
            let room = room.min(40);
            let full = usize::try_from(percent).unwrap_or(100) * room / 100;
            format!("{start}[{}{}]{end}", "#".repeat(full), " ".repeat(room - full))
        }
        None => fitting(&format!("{start}{}", end.trim_start()), width),
    }
}

fn fitting(text: &str, width: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(width).collect()
}

fn mib(bytes: u64) -> String {
    let tenths = u128::from(bytes) * 10 / (1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn clock(seconds: u128) -> String {
    match seconds {
        360_000.. => "-:--".to_owned(),
        3600.. => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        _ => format!("{}:{:02}", seconds / 60, seconds % 60),
    }
}

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// A person at a terminal, which is this wide.
    Terminal {
        /// Columns.
        width: usize,
    },
    /// A file or a pipe.
    Lines,
}

impl Audience {
    /// Who reads standard error.
    #[must_use]
    pub fn of_stderr() -> Self {
        let width = rustix::termios::tcgetwinsize(std::io::stderr()).map(|size| usize::from(size.ws_col));
        match width {
            // A terminal that does not know its width has the old one.
            Ok(0) => Self::Terminal { width: 80 },
            Ok(width) => Self::Terminal { width },
            Err(_) => Self::Lines,
        }
    }
}

/// Shows progress on standard error until the work is over.
pub async fn show(mut progress: watch::Receiver<Progress>, audience: Audience) {
    let mut painter = Painter { audience, began: Instant::now(), first: Stage::default(), done: 0, printed: None };
    let every = if matches!(audience, Audience::Lines) { PRINT_EVERY } else { PAINT_EVERY };
    loop {
        let stage = progress.borrow_and_update().stage.clone();
        painter.see(&stage);
        // A new stage is shown at once, how far it is from time to time.
        let changed = async {
            loop {
                if progress.changed().await.is_err() {
                    return true;
                }
                if std::mem::discriminant(&progress.borrow_and_update().stage) != std::mem::discriminant(&stage) {
                    return false;
                }
            }
        };
        let over = tokio::time::timeout(every, changed).await;
        if over == Ok(true) {
            return painter.wipe();
        }
    }
}

struct Painter {
    audience: Audience,
    began: Instant,
    first: Stage,
    done: u64,
    printed: Option<String>,
}

impl Painter {
    fn see(&mut self, stage: &Stage) {
        if std::mem::discriminant(stage) != std::mem::discriminant(&self.first) {
            self.began = Instant::now();
            self.first = stage.clone();
            self.done = stage.amounts().map_or(0, |(_, done, _)| done);
        }
        if *stage == Stage::Beginning {
            return;
        }
        match self.audience {
            Audience::Terminal { width } => {
                let since = Since { elapsed: self.began.elapsed(), done: self.done };
                // The last column is left free: some terminals go on to the next line there.
                let text = line(stage, since, width.saturating_sub(1));
                write(&format!("\r{text}\x1b[K"));
            }
            Audience::Lines => {
                let text = stage.words();
                if self.printed.as_ref() != Some(&text) {
                    write(&format!("nexusd: rootfs: {text}\n"));
                    self.printed = Some(text);
                }
            }
        }
    }

    fn wipe(&self) {
        if matches!(self.audience, Audience::Terminal { .. }) {
            write("\r\x1b[K");
        }
    }
}

/// A standard error that is closed leaves nobody to tell.
fn write(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_a_terminal() {
        const MIB: u64 = 1 << 20;
        let since = |millis, done| Since { elapsed: Duration::from_millis(millis), done };
        let half = Stage::Fetching { done: 94 * MIB, total: Some(188 * MIB) };
        let lines = [
            line(&half, since(10_000, 0), 100),
            line(&half, since(10_000, 90 * MIB), 80),
            line(&half, since(10_000, 94 * MIB), 70),
            line(&half, since(10_000, 0), 40),
            line(&half, since(10_000, 0), 10),
            line(&Stage::Fetching { done: 3 * MIB / 2, total: None }, since(1, 0), 80),
            line(&Stage::Fetching { done: 0, total: Some(0) }, since(1, 0), 80),
            line(&Stage::Fetching { done: 9, total: Some(3) }, since(0, 0), 80),
            line(&Stage::Fetching { done: 0, total: Some(u64::MAX) }, since(1, 0), 80),
            line(&Stage::Fetching { done: 1000, total: Some(u64::MAX) }, since(1000, 0), 100),
            line(&Stage::Verifying { done: 188 * MIB, total: 188 * MIB }, since(500, 0), 80),
            line(&Stage::Unpacking { done: MIB, total: 188 * MIB }, since(100, 0), 80),
            line(&Stage::Waiting { pid: Some(7) }, since(1, 0), 80),
            line(&Stage::Asking, since(1, 0), 80),
            line(&Stage::Pausing { why: "connection\nrefused\u{1b}[2J".into() }, since(1, 0), 80),
        ];
        for (width, line) in [100, 80, 70, 40, 10].iter().zip(&lines) {
            assert!(line.chars().count() <= *width, "{line}");
        }
        insta::assert_snapshot!(lines.join("\n"));
    }
}
