//! Takes known secrets out of a stream of bytes. Pure: no clock, no I/O.
//!
//! Promises: the result does not depend on how the input was cut into pieces; a secret is found across any border; bytes that
//! are no secret pass as they are, UTF-8 or not; what is held back for a decision is bounded (a secret's length, and 400 bytes
//! inside a private key). Of several secrets that begin at one place the longest counts, of overlapping ones the first.
//!
//! This is against accidents (`set -x`, a dumped environment, `cat key.pem`). A command that wants to show a secret can always
//! spell it differently.

mod key;

use memchr::memmem::Finder;

use key::{Header, KeyScan, Step};

/// What stands in the place of a secret.
pub const REDACTED: &[u8] = b"[REDACTED]";
/// What stands in the place of a private key in PEM.
pub const REDACTED_KEY: &[u8] = b"[REDACTED PRIVATE KEY]";
/// Shorter texts are not hidden: they would be found everywhere.
pub const MIN_SECRET_BYTES: usize = 6;
/// Secrets hidden at once; beyond it the oldest are forgotten (a token lives for minutes, a run may take days).
pub const MAX_SECRETS: usize = 32;

/// The pure redactor of one stream.
#[derive(Debug)]
pub struct Redactor {
    /// First the marker of PEM, then the secrets.
    needles: Vec<Finder<'static>>,
    held: Vec<u8>,
    key: Option<KeyScan>,
    /// Bytes of input that were replaced.
    replaced: u64,
}

/// Where the next decision is to be made.
enum Found {
    /// Nothing from here to the end.
    Nothing,
    /// A needle at this place, of this index.
    At(usize, usize),
    /// From this place on more input is needed.
    Undecided(usize),
}

impl Redactor {
    /// A redactor that hides PEM private keys and these texts.
    #[must_use]
    pub fn new(secrets: &[String]) -> Self {
        let needles = vec![Finder::new(key::BEGIN).into_owned()];
        let mut new = Self { needles, held: Vec::new(), key: None, replaced: 0 };
        secrets.iter().for_each(|secret| new.hide(secret));
        new
    }

    /// Hides one more text from here on. Too short ones are ignored ([`MIN_SECRET_BYTES`]).
    pub fn hide(&mut self, secret: &str) {
        let known = self.needles.iter().any(|needle| needle.needle() == secret.as_bytes());
        if secret.len() < MIN_SECRET_BYTES || known {
            return;
        }
        if self.needles.len() > MAX_SECRETS {
            self.needles.remove(1);
        }
        self.needles.push(Finder::new(secret.as_bytes()).into_owned());
    }

    /// Another redactor of the same secrets, at the beginning of its own stream.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self { needles: self.needles.clone(), held: Vec::new(), key: None, replaced: 0 }
    }

    /// Bytes of input that were replaced so far.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// True when pushing `input` would append just this: nothing is held back and nothing in it is or begins a secret. Saves
    /// the copy.
    #[must_use]
    pub fn passes(&self, input: &[u8]) -> bool {
        self.held.is_empty() && self.key.is_none() && matches!(self.find(input, false), Found::Nothing)
    }

    /// Takes `input` and appends to `out` what is decided.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if self.held.is_empty() {
            self.run(input, out, false);
        } else {
            let mut all = std::mem::take(&mut self.held);
            all.extend_from_slice(input);
            self.run(&all, out, false);
        }
    }

    /// The end of the stream: what is held back is decided.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        self.run(&held, out, true);
        if let Some(scan) = self.key.take() {
            if scan.is_key() {
                self.replaced += scan.held().len() as u64;
            } else {
                self.release(&scan, &[], out, true);
            }
        }
    }

    fn run(&mut self, mut input: &[u8], out: &mut Vec<u8>, last: bool) {
        loop {
            if let Some(mut scan) = self.key.take() {
                match self.inside_key(&mut scan, input, out) {
                    Some(rest) if scan.is_over() => input = rest,
                    // The scan gave up: what it holds is ordinary output and may hold secrets of its own.
                    Some(rest) => return self.release(&scan, rest, out, last),
                    None => {
                        self.key = Some(scan);
                        return;
                    }
                }
            }
            match self.find(input, last) {
                Found::Nothing => return out.extend_from_slice(input),
                Found::Undecided(from) => {
                    let (clear, rest) = input.split_at(from);
                    out.extend_from_slice(clear);
                    self.held = rest.to_vec();
                    return;
                }
                Found::At(from, needle) => {
                    let (clear, rest) = input.split_at(from);
                    out.extend_from_slice(clear);
                    input = self.replace(needle, rest, out);
                }
            }
        }
    }

    /// `rest` begins with the needle (and, for the marker of PEM, with a header that is decided).
    fn replace<'a>(&mut self, needle: usize, rest: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let length = self.needles.get(needle).map_or(0, |n| n.needle().len());
        if needle != 0 {
            self.replaced += length as u64;
            out.extend_from_slice(REDACTED);
            return rest.get(length..).unwrap_or_default();
        }
        match key::header(rest) {
            Header::PrivateKey { length } => {
                let (header, after) = rest.split_at(length);
                self.key = Some(KeyScan::new(header));
                after
            }
            Header::Other | Header::Incomplete => {
                let (marker, after) = rest.split_at(length);
                out.extend_from_slice(marker);
                after
            }
        }
    }

    /// Feeds the scan; `Some(rest)` when it ended.
    fn inside_key<'a>(&mut self, scan: &mut KeyScan, input: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
        for (at, byte) in input.iter().enumerate() {
            match scan.feed(*byte) {
                Step::More => {}
                Step::Confirmed { swallowed, first } => {
                    self.replaced += swallowed;
                    if first {
                        out.extend_from_slice(REDACTED_KEY);
                    }
                }
                Step::End { swallowed } => {
                    self.replaced += swallowed;
                    return input.get(at + 1..);
                }
                Step::NoKey => return input.get(at + 1..),
            }
        }
        None
    }

    /// Ordinary output after all: what stood before the body passes, the body is searched again.
    fn release(&mut self, scan: &KeyScan, rest: &[u8], out: &mut Vec<u8>, last: bool) {
        out.extend_from_slice(scan.header());
        let mut again = scan.held().to_vec();
        again.extend_from_slice(rest);
        self.run(&again, out, last);
        if last {
            // A second header may have begun in what was released; it cannot be longer than what is left.
            let held = std::mem::take(&mut self.held);
            out.extend_from_slice(&held);
            if let Some(inner) = self.key.take()
                && !inner.is_key()
            {
                self.release(&inner, &[], out, true);
            }
        }
    }

    fn find(&self, input: &[u8], last: bool) -> Found {
        let mut best: Option<(usize, usize)> = None;
        for (index, needle) in self.needles.iter().enumerate() {
            // Only an earlier place can win over what is found already; at the same place the longer one.
            let until = best.map_or(input.len(), |(at, _)| (at + needle.needle().len()).min(input.len()));
            let Some(at) = needle.find(input.get(..until).unwrap_or(input)) else { continue };
            let longer = |(known_at, known): (usize, usize)| {
                at < known_at || self.needles.get(known).is_none_or(|k| k.needle().len() < needle.needle().len())
            };
            if best.is_none_or(longer) {
                best = Some((at, index));
            }
        }
        let open = if last { None } else { self.open_end(input) };
        match (best, open) {
            (Some((at, _)), Some(from)) if from <= at => Found::Undecided(from),
            (Some((at, 0)), _) if !last && matches!(key::header(&input[at..]), Header::Incomplete) => {
                Found::Undecided(at)
            }
            (Some((at, needle)), _) => Found::At(at, needle),
            (None, Some(from)) => Found::Undecided(from),
            (None, None) => Found::Nothing,
        }
    }

    /// The first place from which the input ends in a proper beginning of a needle.
    fn open_end(&self, input: &[u8]) -> Option<usize> {
        let mut first: Option<usize> = None;
        for needle in &self.needles {
            let needle = needle.needle();
            let start = input.len().saturating_sub(needle.len() - 1);
            let end = first.unwrap_or(input.len());
            let Some(head) = needle.first() else { continue };
            let tail = input.get(start..end).unwrap_or_default();
            let open =
                memchr::memchr_iter(*head, tail).map(|at| start + at).find(|at| needle.starts_with(&input[*at..]));
            if let Some(at) = open {
                first = Some(at);
            }
        }
        first
    }
}

#[cfg(test)]
mod tests;
