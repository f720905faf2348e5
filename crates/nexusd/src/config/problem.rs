//! What is wrong with a configuration, and where.

use std::fmt;

/// Problems shown of one file; what follows is counted, because a binary passed by mistake has thousands.
pub(super) const MAX_SHOWN: usize = 100;

/// Longest word that is compared with the known ones: comparing takes time by its length.
const MAX_COMPARED: usize = 64;

/// Longest piece of the file that a message repeats, in characters.
const MAX_QUOTED: usize = 80;

/// A position in a file: both from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

impl Place {
    /// The beginning of the file: where a key that is missing is reported.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// One thing wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The dotted key, empty where the trouble is with the YAML itself.
    pub key: String,
    /// What is wrong, which value, and what to write instead. One line, no control characters.
    pub text: String,
}

/// Every problem of one file, in the order of the file. Never empty in an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file as the operator named it.
    pub file: String,
    /// At least one.
    pub list: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file: &str, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.place);
        Self { file: file.to_owned(), list }
    }
}

/// One line a problem: `config.yaml:12:3: poll.long_pol_timeout: unknown key, did you mean …?`
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().take(MAX_SHOWN).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}:{}: ", self.file, problem.place.line, problem.place.column)?;
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            f.write_str(&problem.text)?;
        }
        if let Some(more) = self.list.len().checked_sub(MAX_SHOWN).filter(|more| *more > 0) {
            write!(f, "\n{}: and {more} more", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A piece of the file for a message: in quotes, escaped so that it can neither end the line nor reach the
/// terminal, and shortened.
pub(super) fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(MAX_QUOTED).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("{:?}", format!("{shown}{more}"))
}

/// The same for a key, which carries no quotes.
pub(super) fn bare(text: &str) -> String {
    let quoted = quoted(text);
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
}

/// The known word nearest to a mistyped one: a small edit distance for its length, else none.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_COMPARED {
        return None;
    }
    let folded = word.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|candidate| {
            let plain = candidate.replace('-', "_");
            (strsim::damerau_levenshtein(&folded, &plain), candidate)
        })
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len().max(word.len()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
