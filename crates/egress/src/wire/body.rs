//! Message bodies: how long one is, and reading it piece by piece.
//!
//! A chunked body is decoded and written anew for the next hop, so chunk extensions, odd sizes and
//! whatever else could be read in two ways end here (RFC 9112, section 7.1).

use super::head::{HeadScanner, is_end_to_end, push_field};

/// The most bytes of a chunk's size line (digits and extension).
const MAX_SIZE_LINE_BYTES: usize = 1024;
/// The most bytes of a trailer section.
pub const MAX_TRAILER_BYTES: usize = 8 * 1024;
/// The most fields of a trailer section.
const MAX_TRAILER_FIELDS: usize = 32;

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    None,
    /// This many bytes.
    Exact(u64),
    /// Chunked.
    Chunked,
    /// Until the peer closes; responses only.
    UntilClose,
}

/// Why a body cannot be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A chunk size that is no plain hexadecimal number of at most 16 digits.
    #[error("an invalid chunk size")]
    ChunkSize,
    /// A size line that is too long or has a control character.
    #[error("an invalid chunk extension")]
    ChunkExtension,
    /// A chunk that does not end where its size says.
    #[error("a chunk that does not end with CR LF")]
    ChunkEnd,
    /// A trailer section that is malformed or over its bound.
    #[error("an invalid trailer section")]
    Trailers,
    /// The peer closed before the body was whole.
    #[error("the body ended early")]
    Truncated,
}

/// One step of reading a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// The next `n` bytes of the input are content.
    Content(usize),
    /// The next `n` bytes of the input are framing: drop them.
    Framing(usize),
    /// The body is whole; its trailer fields, ready to send (each line ended), and how many bytes of the input to drop.
    End {
        /// Bytes to drop.
        consumed: usize,
        /// Trailer field lines for the next hop, without the empty line.
        trailers: Vec<u8>,
    },
    /// The input is used up.
    More,
}

#[derive(Debug)]
enum State {
    Exact(u64),
    UntilClose,
    Size { value: u64, digits: u8, line: usize },
    Extension { line: usize },
    SizeEnd { value: u64 },
    Content(u64),
    ContentCr,
    ContentLf,
    Trailers { scanner: HeadScanner, held: Vec<u8> },
    Done,
}

/// Reads one body.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    size: u64,
}

impl BodyReader {
    /// A reader for a body of this length.
    #[must_use]
    pub fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::None => State::Exact(0),
            BodyLength::Exact(bytes) => State::Exact(bytes),
            BodyLength::Chunked => State::Size { value: 0, digits: 0, line: 0 },
            BodyLength::UntilClose => State::UntilClose,
        };
        Self { state, size: 0 }
    }

    /// Says what the start of `input` is. The caller drops what was named and asks again.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, BodyError> {
        match &mut self.state {
            State::Done => Ok(Piece::End { consumed: 0, trailers: Vec::new() }),
            State::Exact(0) => {
                self.state = State::Done;
                Ok(Piece::End { consumed: 0, trailers: Vec::new() })
            }
            _ if input.is_empty() => Ok(Piece::More),
            State::Exact(left) => Ok(Piece::Content(take(left, input))),
            State::UntilClose => Ok(Piece::Content(input.len())),
            State::Content(left) => {
                let taken = take(left, input);
                if *left == 0 {
                    self.state = State::ContentCr;
                }
                Ok(Piece::Content(taken))
            }
            State::Trailers { .. } => self.trailers(input),
            _ => self.framing(input),
        }
    }

    /// Judges the end of the peer's bytes.
    ///
    /// # Errors
    /// The body is not whole.
    pub const fn at_end(&self) -> Result<(), BodyError> {
        match self.state {
            State::UntilClose | State::Done | State::Exact(0) => Ok(()),
            _ => Err(BodyError::Truncated),
        }
    }

    fn framing(&mut self, input: &[u8]) -> Result<Piece, BodyError> {
        let mut used = 0;
        for byte in input {
            self.framing_byte(*byte)?;
            used += 1;
            if matches!(self.state, State::Content(_) | State::Trailers { .. }) {
                break;
            }
        }
        Ok(Piece::Framing(used))
    }

    fn framing_byte(&mut self, byte: u8) -> Result<(), BodyError> {
        self.state = match self.state {
            State::Size { value, digits, line } => match (hex(byte), byte) {
                // 16 digits are 64 bits: no size wraps around.
                (Some(_), _) if digits >= 16 => return Err(BodyError::ChunkSize),
                (Some(digit), _) => {
                    State::Size { value: value << 4 | u64::from(digit), digits: digits + 1, line: line + 1 }
                }
                (None, _) if digits == 0 => return Err(BodyError::ChunkSize),
                (None, b'\r') => State::SizeEnd { value },
                (None, b';') => {
                    self.size = value;
                    State::Extension { line: line + 1 }
                }
                (None, _) => return Err(BodyError::ChunkSize),
            },
            State::Extension { line } => match byte {
                b'\r' => State::SizeEnd { value: self.size },
                _ if line >= MAX_SIZE_LINE_BYTES => return Err(BodyError::ChunkExtension),
                b'\t' | b' '..=b'~' | 0x80.. => State::Extension { line: line + 1 },
                _ => return Err(BodyError::ChunkExtension),
            },
            State::SizeEnd { value } => match (byte, value) {
                (b'\n', 0) => State::Trailers { scanner: HeadScanner::default(), held: Vec::new() },
                (b'\n', _) => State::Content(value),
                _ => return Err(BodyError::ChunkSize),
            },
            State::ContentCr if byte == b'\r' => State::ContentLf,
            State::ContentLf if byte == b'\n' => State::Size { value: 0, digits: 0, line: 0 },
            _ => return Err(BodyError::ChunkEnd),
        };
        Ok(())
    }

    fn trailers(&mut self, input: &[u8]) -> Result<Piece, BodyError> {
        let State::Trailers { scanner, held } = &mut self.state else { return Ok(Piece::More) };
        let before = held.len();
        held.extend_from_slice(&input[..input.len().min(MAX_TRAILER_BYTES + 1 - before)]);
        match scanner.scan(held).map_err(|_| BodyError::Trailers)? {
            Some(length) if length <= MAX_TRAILER_BYTES => {
                let trailers = pass_on(&held[..length])?;
                self.state = State::Done;
                Ok(Piece::End { consumed: length - before, trailers })
            }
            None if held.len() <= MAX_TRAILER_BYTES => Ok(Piece::Framing(held.len() - before)),
            _ => Err(BodyError::Trailers),
        }
    }
}

/// Trailer fields that may go on: not those that frame, route or authenticate (RFC 9110, section 6.5.1).
fn pass_on(section: &[u8]) -> Result<Vec<u8>, BodyError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(section, &mut fields) else {
        return Err(BodyError::Trailers);
    };
    const FORBIDDEN: &[&str] = &[
        "host",
        "trailer",
        "authorization",
        "cookie",
        "set-cookie",
        "expect",
        "range",
        "content-encoding",
        "content-type",
        "content-range",
    ];
    let mut lines = Vec::new();
    for field in fields.iter() {
        if is_end_to_end(field.name, &[]) && !FORBIDDEN.iter().any(|name| field.name.eq_ignore_ascii_case(name)) {
            push_field(&mut lines, field.name, field.value);
        }
    }
    Ok(lines)
}

fn take(left: &mut u64, input: &[u8]) -> usize {
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= taken as u64;
    taken
}

const fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Content, trailers and how much is left over.
    type Outcome = Result<(Vec<u8>, Vec<u8>, usize), BodyError>;

    /// Fed in pieces of the given sizes.
    fn read(length: BodyLength, bytes: &[u8], cuts: &[usize]) -> Outcome {
        let mut reader = BodyReader::new(length);
        let mut content = Vec::new();
        let (mut at, mut end) = (0, 0);
        let mut cuts = cuts.iter().copied();
        loop {
            match reader.next(&bytes[at..end])? {
                Piece::Content(n) => {
                    assert!(n > 0);
                    content.extend_from_slice(&bytes[at..at + n]);
                    at += n;
                }
                Piece::Framing(n) => {
                    assert!(n > 0);
                    at += n;
                }
                Piece::End { consumed, trailers } => return Ok((content, trailers, bytes.len() - at - consumed)),
                Piece::More if end == bytes.len() => return reader.at_end().map(|()| (content, Vec::new(), 0)),
                Piece::More => end = bytes.len().min(end + cuts.next().unwrap_or(bytes.len()).max(1)),
            }
        }
    }

    #[test]
    fn bodies() {
        use BodyLength::{Chunked, Exact, UntilClose};
        let ok = |content: &str, trailers: &str, left| Ok((content.into(), trailers.into(), left));
        let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(2000));
        let many_trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(40));
        let big_trailer = format!("0\r\nA: {}\r\n\r\n", "b".repeat(9000));
        let cases: &[(BodyLength, &[u8], Outcome)] = &[
            (BodyLength::None, b"next", ok("", "", 4)),
            (Exact(0), b"next", ok("", "", 4)),
            (Exact(3), b"abcnext", ok("abc", "", 4)),
            (Exact(3), b"ab", Err(BodyError::Truncated)),
            (UntilClose, b"abc", ok("abc", "", 0)),
            (Chunked, b"0\r\n\r\n", ok("", "", 0)),
            (Chunked, b"3\r\nabc\r\n0\r\n\r\nGET", ok("abc", "", 3)),
            (Chunked, b"00A\r\n0123456789\r\n0\r\n\r\n", ok("0123456789", "", 0)),
            (Chunked, b"3;name=value\r\nabc\r\n0;x\r\n\r\n", ok("abc", "", 0)),
            (Chunked, b"1\r\na\r\n0\r\nX-Sum: 1\r\nContent-Length: 5\r\nHost: h\r\n\r\n", ok("a", "X-Sum: 1\r\n", 0)),
            (Chunked, b"", Err(BodyError::Truncated)),
            (Chunked, b"3\r\nab", Err(BodyError::Truncated)),
            (Chunked, b"3\r\nabc\r\n", Err(BodyError::Truncated)),
            (Chunked, b"3\r\nabc\r\n0\r\n", Err(BodyError::Truncated)),
            (Chunked, b"\r\n", Err(BodyError::ChunkSize)),
            (Chunked, b" 3\r\nabc\r\n", Err(BodyError::ChunkSize)),
            (Chunked, b"3 \r\nabc\r\n", Err(BodyError::ChunkSize)),
            (Chunked, b"+3\r\nabc\r\n", Err(BodyError::ChunkSize)),
            (Chunked, b"-3\r\nabc\r\n", Err(BodyError::ChunkSize)),
            (Chunked, b"0x3\r\nabc\r\n", Err(BodyError::ChunkSize)),
            (Chunked, b"3_0\r\nabc\r\n", Err(BodyError::ChunkSize)),
            (Chunked, b"10000000000000003\r\nabc\r\n", Err(BodyError::ChunkSize)),
            (Chunked, b"3\nabc\r\n0\r\n\r\n", Err(BodyError::ChunkSize)),
            (Chunked, b"3\r\rabc\r\n0\r\n\r\n", Err(BodyError::ChunkSize)),
            (Chunked, b"3;a\nabc\r\n0\r\n\r\n", Err(BodyError::ChunkExtension)),
            (Chunked, b"3;\0\r\nabc\r\n0\r\n\r\n", Err(BodyError::ChunkExtension)),
            (Chunked, b"3\r\nabcd\r\n0\r\n\r\n", Err(BodyError::ChunkEnd)),
            (Chunked, b"3\r\nabc\n0\r\n\r\n", Err(BodyError::ChunkEnd)),
            (Chunked, b"3\r\nabc\r0\r\n\r\n", Err(BodyError::ChunkEnd)),
            (Chunked, b"0\r\n bad: x\r\n\r\n", Err(BodyError::Trailers)),
            (Chunked, b"0\r\nbad x\r\n\r\n", Err(BodyError::Trailers)),
            (Chunked, b"0\r\nA: b\n\r\n", Err(BodyError::Trailers)),
            (Chunked, long_extension.as_bytes(), Err(BodyError::ChunkExtension)),
            (Chunked, many_trailers.as_bytes(), Err(BodyError::Trailers)),
            (Chunked, big_trailer.as_bytes(), Err(BodyError::Trailers)),
        ];
        for (length, bytes, want) in cases {
            assert_eq!(&read(*length, bytes, &[]), want, "whole: {}", bytes.escape_ascii());
            assert_eq!(&read(*length, bytes, &vec![1; bytes.len()]), want, "byte by byte: {}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn splitting_changes_nothing(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'2'), Just(b';'), Just(b'a'), any::<u8>()], 0..64),
            cuts in proptest::collection::vec(1usize..8, 0..64),
        ) {
            prop_assert_eq!(read(BodyLength::Chunked, &bytes, &cuts), read(BodyLength::Chunked, &bytes, &[]));
        }

        #[test]
        fn what_was_chunked_comes_back(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in proptest::collection::vec(1usize..9, 0..200),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(read(BodyLength::Chunked, &wire, &cuts), Ok((chunks.concat(), vec![], 0)));
        }
    }
}
