//! Where a reader stands in a log: the cursor of pages and live streams.

use std::fmt;
use std::str::FromStr;

use conduits::LogStream;

/// The next chunk that a reader wants of each stream: it has all below. Written `12-3`: stdout from 12, stderr from 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    stdout: u64,
    stderr: u64,
}

impl Position {
    /// The beginning of both streams.
    pub const START: Self = Self { stdout: 0, stderr: 0 };

    /// The next chunk of `stream`.
    #[must_use]
    pub fn of(self, stream: LogStream) -> u64 {
        match stream {
            LogStream::Stdout => self.stdout,
            LogStream::Stderr => self.stderr,
        }
    }

    /// This position with `next` as the next chunk of `stream`.
    #[must_use]
    pub fn with(self, stream: LogStream, next: u64) -> Self {
        match stream {
            LogStream::Stdout => Self { stdout: next, ..self },
            LogStream::Stderr => Self { stderr: next, ..self },
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stdout, self.stderr)
    }
}

/// A text that is no place in a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no place in a log; use one that an answer gave, such as 12-3 (the next chunk of stdout and of stderr), or 0 for the beginning"
)]
pub struct PositionError(String);

/// Characters of a wrong text that are repeated.
const SHOWN: usize = 60;

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let wrong = || PositionError(text.chars().take(SHOWN).collect());
        if text == "0" {
            return Ok(Self::START);
        }
        let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse().map_err(|_| wrong()),
            false => Err(wrong()),
        };
        let (stdout, stderr) = text.split_once('-').ok_or_else(wrong)?;
        Ok(Self { stdout: number(stdout)?, stderr: number(stderr)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_as_it_is_written_and_nothing_else_does() {
        for (stdout, stderr) in [(0, 0), (12, 3), (u64::MAX, 0)] {
            let position = Position { stdout, stderr };
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        assert_eq!("0".parse(), Ok(Position::START));
        for text in ["", "-", "1-", "-1", "17", "1-2-3", "+1-2", "1 -2", "a-b", "18446744073709551616-0"] {
            let error = text.parse::<Position>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("12-3"), "{error}");
        }
    }
}
