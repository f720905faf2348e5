//! Recognising a private key in PEM, one byte at a time.
//!
//! A header line alone is not a key: documentation and source code mention it. So the body must look like one: within
//! [`GAP`] bytes there must be a run of at least [`RUN`] characters of base64, and so on until the end line. Indentation, line
//! numbers, quotes and `\n` written as two characters may stand between.

/// What every PEM header begins with.
pub(super) const BEGIN: &[u8] = b"-----BEGIN ";
const LABEL_END: &[u8] = b"PRIVATE KEY-----";
/// Longest label between `BEGIN ` and the dashes (`ENCRYPTED PRIVATE KEY`, `OPENSSH PRIVATE KEY`, …).
const MAX_LABEL: usize = 40;
/// A run of so many characters of base64 is taken for key material.
const RUN: usize = 16;
/// So many bytes without such a run are not part of a key.
const GAP: usize = 256;
/// No key is longer, in bytes (RSA with 16384 bits has 13 KB).
const MAX_KEY: usize = 64 * 1024;

/// What follows [`BEGIN`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// The header of a private key, with its length from the first dash.
    PrivateKey {
        /// In bytes.
        length: usize,
    },
    /// Another kind of object, or no header at all.
    Other,
    /// It may still become one.
    Incomplete,
}

/// Reads the header that `bytes`, which begins with [`BEGIN`], holds.
pub(super) fn header(bytes: &[u8]) -> Header {
    let label = bytes.get(BEGIN.len()..).unwrap_or_default();
    let part = label.get(..(MAX_LABEL + 5).min(label.len())).unwrap_or_default();
    let Some(dash) = part.iter().position(|b| !(b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b' ')) else {
        return if part.len() > MAX_LABEL { Header::Other } else { Header::Incomplete };
    };
    let words = part.get(..dash).unwrap_or_default();
    if dash > MAX_LABEL || !words.ends_with(b"PRIVATE KEY") {
        return Header::Other;
    }
    let dashes = label.get(dash..(dash + 5).min(label.len())).unwrap_or_default();
    match (dashes.iter().all(|b| *b == b'-'), dashes.len()) {
        (true, 5) => Header::PrivateKey { length: BEGIN.len() + dash + 5 },
        (true, _) => Header::Incomplete,
        (false, _) => Header::Other,
    }
}

/// What one byte decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet.
    More,
    /// What was held is key material and is forgotten.
    Confirmed {
        /// Bytes forgotten.
        swallowed: u64,
        /// True the first time.
        first: bool,
    },
    /// The end line is here.
    End {
        /// Bytes forgotten with it.
        swallowed: u64,
    },
    /// What is held is not part of a key.
    NoKey,
}

/// The scan of a body.
#[derive(Debug)]
pub(super) struct KeyScan {
    header: Vec<u8>,
    /// Since the last run of base64.
    held: Vec<u8>,
    run: usize,
    total: usize,
    confirmed: bool,
    over: bool,
}

impl KeyScan {
    pub(super) fn new(header: &[u8]) -> Self {
        Self { header: header.to_vec(), held: Vec::new(), run: 0, total: 0, confirmed: false, over: false }
    }

    /// True once key material was seen.
    pub(super) fn is_key(&self) -> bool {
        self.confirmed
    }

    /// True when it ended with the end line of a key.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// What stood before the body and must be shown when this is no key.
    pub(super) fn header(&self) -> &[u8] {
        if self.confirmed { &[] } else { &self.header }
    }

    /// Bytes that are not decided.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    pub(super) fn feed(&mut self, byte: u8) -> Step {
        self.held.push(byte);
        self.total += 1;
        let base64 = byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        self.run = if base64 { self.run + 1 } else { 0 };
        if self.run >= RUN && self.total <= MAX_KEY {
            let first = !self.confirmed;
            let header = if first { self.header.len() } else { 0 };
            let swallowed = (header + self.held.len()) as u64;
            self.confirmed = true;
            self.held.clear();
            return Step::Confirmed { swallowed, first };
        }
        // The end line, and not the header of a second key that follows a broken-off one.
        if byte == b'-' && self.confirmed && self.held.ends_with(LABEL_END) && self.last_line_is_end() {
            self.over = true;
            let swallowed = self.held.len() as u64;
            self.held.clear();
            return Step::End { swallowed };
        }
        if self.held.len() > GAP || self.total > MAX_KEY {
            return Step::NoKey;
        }
        Step::More
    }

    fn last_line_is_end(&self) -> bool {
        let end = memchr::memmem::rfind(&self.held, b"-----END ");
        end.is_some() && end > memchr::memmem::rfind(&self.held, BEGIN)
    }
}
