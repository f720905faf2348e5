//! Finding the end of a header block, strictly.
//!
//! Every smuggling trick needs two readers that see different lines. So before a block is parsed
//! it must consist of lines that everybody reads alike: ended by CR LF, no CR or LF anywhere else,
//! no NUL, no folded line (RFC 9112, sections 2.2 and 5.2).

/// The most bytes of a header block.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;
/// The most header fields of a block.
pub const MAX_FIELDS: usize = 128;

/// Why bytes are not a header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// A line feed without the carriage return before it.
    #[error("a bare LF; lines end with CR LF")]
    BareLf,
    /// A carriage return without the line feed after it.
    #[error("a bare CR; lines end with CR LF")]
    BareCr,
    /// A NUL byte.
    #[error("a NUL byte in the header block")]
    Nul,
    /// A line that continues the one before.
    #[error("a folded header line")]
    Folded,
    /// More than [`MAX_HEAD_BYTES`].
    #[error("a header block over {MAX_HEAD_BYTES} bytes")]
    TooLarge,
}

/// Looks for the end of a block in bytes that arrive piece by piece; each byte is looked at once.
#[derive(Debug, Clone, Default)]
pub struct HeadScanner {
    scanned: usize,
    line_start: usize,
    after_cr: bool,
    lines: usize,
}

impl HeadScanner {
    /// Looks at what `buffer` (the block from its first byte on) has gained since the last call.
    /// `Some(length)` is the block with its empty last line. An empty block is `Some(2)`.
    ///
    /// # Errors
    /// The bytes are not a header block.
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Option<usize>, HeadError> {
        while let Some(byte) = buffer.get(self.scanned) {
            let at = self.scanned;
            if at >= MAX_HEAD_BYTES {
                return Err(HeadError::TooLarge);
            }
            self.scanned += 1;
            match (byte, self.after_cr) {
                (b'\n', true) => {
                    self.after_cr = false;
                    if at == self.line_start + 1 {
                        return Ok(Some(self.scanned));
                    }
                    self.line_start = self.scanned;
                    self.lines += 1;
                }
                (b'\n', false) => return Err(HeadError::BareLf),
                (_, true) => return Err(HeadError::BareCr),
                (b'\r', false) => self.after_cr = true,
                (0, _) => return Err(HeadError::Nul),
                (b' ' | b'\t', _) if at == self.line_start && self.lines > 0 => return Err(HeadError::Folded),
                _ => {}
            }
        }
        Ok(None)
    }
}

/// The fields of a `Connection` header (RFC 9110, section 7.6.1): names, lower-case.
pub(super) fn connection_options<'a>(fields: &[httparse::Header<'a>]) -> Vec<String> {
    let values = fields.iter().filter(|field| {
        field.name.eq_ignore_ascii_case("connection") || field.name.eq_ignore_ascii_case("proxy-connection")
    });
    values
        .flat_map(|field| field.value.split(|byte| *byte == b','))
        .map(|option| String::from_utf8_lossy(option.trim_ascii()).to_ascii_lowercase())
        .filter(|option| !option.is_empty())
        .collect()
}

/// Fields that concern one hop, whether or not `Connection` names them. The framing fields are
/// among them: each hop writes its own, from the body length it has read.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "http2-settings",
];

/// Whether a field is passed on to the next hop.
pub(super) fn is_end_to_end(name: &str, options: &[String]) -> bool {
    !HOP_BY_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop))
        && !options.iter().any(|option| name.eq_ignore_ascii_case(option))
}

/// Appends one field line.
pub(super) fn push_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Outcome = Result<Option<usize>, HeadError>;

    #[test]
    fn blocks() {
        let cases: &[(&[u8], Outcome)] = &[
            (b"", Ok(None)),
            (b"\r\n", Ok(Some(2))),
            (b"GET / HTTP/1.1\r\n\r\n", Ok(Some(18))),
            (b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest", Ok(Some(24))),
            (b"GET / HTTP/1.1\r\nA: b\r\n", Ok(None)),
            (b"GET / HTTP/1.1\nA: b\r\n\r\n", Err(HeadError::BareLf)),
            (b"GET / HTTP/1.1\r\nA: b\n\r\n", Err(HeadError::BareLf)),
            (b"GET / HTTP/1.1\r\nA: b\r\n\n", Err(HeadError::BareLf)),
            (b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", Err(HeadError::BareCr)),
            (b"GET / HTTP/1.1\r\nA: b\r\r\n\r\n", Err(HeadError::BareCr)),
            (b"GET / HTTP/1.1\r\nA: \0\r\n\r\n", Err(HeadError::Nul)),
            (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", Err(HeadError::Folded)),
            (b"GET / HTTP/1.1\r\n\tA: b\r\n\r\n", Err(HeadError::Folded)),
        ];
        for (bytes, want) in cases {
            assert_eq!(HeadScanner::default().scan(bytes), *want, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn the_bound_is_exact() {
        let mut block = b"GET / HTTP/1.1\r\nA: ".to_vec();
        block.resize(MAX_HEAD_BYTES - 4, b'x');
        block.extend_from_slice(b"\r\n\r\n");
        assert_eq!(HeadScanner::default().scan(&block), Ok(Some(MAX_HEAD_BYTES)));
        block.insert(30, b'x');
        assert_eq!(HeadScanner::default().scan(&block), Err(HeadError::TooLarge));
    }

    proptest! {
        #[test]
        fn splitting_changes_nothing(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b'a'), Just(0u8), any::<u8>()], 0..80), cuts in proptest::collection::vec(0usize..80, 0..8)) {
            let whole = HeadScanner::default().scan(&bytes);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut scanner = HeadScanner::default();
            let mut result = Ok(None);
            for cut in cuts {
                result = scanner.scan(&bytes[..cut]);
                if !matches!(result, Ok(None)) {
                    break;
                }
            }
            prop_assert_eq!(result, whole);
        }
    }
}
