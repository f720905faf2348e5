//! Questions and answers of the domain name system (RFC 1035), as far as one question about a host needs it.
//!
//! Pure, on hostile bytes. What is behind the question in a message (a resolver's options, signatures) is not read.

use std::net::{Ipv4Addr, Ipv6Addr};

use conduits::DnsName;

use crate::wire::host::parse_host;

/// The longest question that is looked at over TCP; over UDP the rest of a longer one is cut off and ignored.
pub const MAX_QUERY: usize = 4096;

/// How long an answer may be kept, in seconds. It holds for the directive's life, but permission may end before.
const TTL: u32 = 60;

const HEADER: usize = 12;
const MAX_LABEL: usize = 63;
/// Of a name with its length bytes (RFC 1035, 2.3.4).
const MAX_NAME: usize = 255;

const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_ANY: u16 = 255;

/// Bits of the second word of a header.
const IS_ANSWER: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;

/// Response codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// What is known of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It exists, and these are its addresses.
    As(Ipv4Addr, Option<Ipv6Addr>),
    /// There is no such name.
    Absent,
    /// It cannot be told now.
    Unknown,
}

/// Answers a message. `look` is asked about a name where there is one that a host can have, and told whether its
/// addresses are what is wanted. `None`: no answer at all, such as to an answer.
pub fn answer(query: &[u8], look: impl FnOnce(&DnsName, bool) -> Known) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
    let (id, flags) = (word(0)?, word(2)?);
    let (questions, answers, authorities) = (word(4)?, word(6)?, word(8)?);
    query.get(..HEADER)?;
    if flags & IS_ANSWER != 0 {
        return None;
    }
    let refuse = |code| Some(reply(id, flags, code, &[], &[]));
    if flags & OPCODE != 0 {
        return refuse(Code::NotImplemented);
    }
    if (questions, answers, authorities) != (1, 0, 0) {
        return refuse(Code::FormatError);
    }
    let Some((name, end)) = read_name(query) else { return refuse(Code::FormatError) };
    let (Some(kind), Some(class)) = (word(end), word(end + 2)) else { return refuse(Code::FormatError) };
    let question = query.get(HEADER..end + 4)?;
    let done = |code, records: &[Vec<u8>]| Some(reply(id, flags, code, question, records));
    if class != CLASS_IN && class != CLASS_ANY {
        return done(Code::Refused, &[]);
    }
    // A name that no host can have: of another spelling, an address, a service's or a reverse one.
    let Some(host) = name.and_then(|name| parse_host(&name).ok()) else { return done(Code::NoSuchName, &[]) };
    let (wants_v4, wants_v6) = (matches!(kind, TYPE_A | TYPE_ANY), matches!(kind, TYPE_AAAA | TYPE_ANY));
    match look(&host, wants_v4 || wants_v6) {
        Known::Absent => done(Code::NoSuchName, &[]),
        Known::Unknown => done(Code::ServerFailure, &[]),
        Known::As(four, six) => {
            let four = wants_v4.then(|| record(TYPE_A, &four.octets()));
            let six = six.filter(|_| wants_v6).map(|six| record(TYPE_AAAA, &six.octets()));
            let records: Vec<Vec<u8>> = four.into_iter().chain(six).collect();
            done(Code::NoError, &records)
        }
    }
}

/// The name of the one question as text, and where it ends. No text where a label has a dot, or bytes that a spelling for
/// people would be made of: read as text, that would be another name.
fn read_name(query: &[u8]) -> Option<(Option<Vec<u8>>, usize)> {
    let (mut at, mut text, mut is_text) = (HEADER, Vec::new(), true);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((is_text.then_some(text), at));
        }
        // Larger values lead elsewhere in the message: there is nothing before the first name to lead to.
        if length > MAX_LABEL || at + length + 1 - HEADER > MAX_NAME {
            return None;
        }
        let label = query.get(at..at + length)?;
        is_text &= label.is_ascii() && !label.contains(&b'.');
        if !text.is_empty() {
            text.push(b'.');
        }
        text.extend_from_slice(label);
        at += length;
    }
}

fn reply(id: u16, flags: u16, code: Code, question: &[u8], records: &[Vec<u8>]) -> Vec<u8> {
    let flags = IS_ANSWER | (flags & (OPCODE | RECURSION_DESIRED)) | AUTHORITATIVE | RECURSION_AVAILABLE | code as u16;
    let mut bytes = Vec::with_capacity(HEADER + question.len() + 64);
    let answers = u16::try_from(records.len()).unwrap_or(0);
    for word in [id, flags, u16::from(!question.is_empty()), answers, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend_from_slice(question);
    for record in records {
        bytes.extend_from_slice(record);
    }
    bytes
}

/// A record about the name of the question, by a pointer to it.
fn record(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xc0, 12];
    bytes.extend(kind.to_be_bytes());
    bytes.extend(CLASS_IN.to_be_bytes());
    bytes.extend(TTL.to_be_bytes());
    bytes.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
