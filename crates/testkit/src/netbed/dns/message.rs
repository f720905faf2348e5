//! Reading a query and writing its answer (RFC 1035 §4).

use std::net::IpAddr;

use super::{QueryType, Record, RecordData};

pub(super) const NO_ERROR: u8 = 0;
pub(super) const SERV_FAIL: u8 = 2;
pub(super) const NX_DOMAIN: u8 = 3;

const HEADER_BYTES: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

/// The one question of a query.
pub(super) struct Question {
    id: [u8; 2],
    recursion_desired: bool,
    /// The question section as it came, to be sent back as it is.
    section: Vec<u8>,
    pub(super) name: String,
    pub(super) kind: QueryType,
}

impl Question {
    /// Reads a query of exactly one question, without compression, as every resolver sends it.
    pub(super) fn read(query: &[u8]) -> Option<Self> {
        let header = query.get(..HEADER_BYTES)?;
        let is_response = header[2] & 0x80 != 0;
        if is_response || header[4..6] != [0, 1] {
            return None;
        }
        let mut labels = Vec::new();
        let mut at = HEADER_BYTES;
        loop {
            let length = usize::from(*query.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = query.get(at..at + length).filter(|_| length < 64)?;
            labels.push(String::from_utf8_lossy(label).into_owned());
            at += length;
        }
        let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
        let section = query.get(HEADER_BYTES..at + 4)?.to_vec();
        let kind = match kind {
            TYPE_A => QueryType::A,
            TYPE_AAAA => QueryType::Aaaa,
            other => QueryType::Other(other),
        };
        Some(Self {
            id: [header[0], header[1]],
            recursion_desired: header[2] & 1 != 0,
            section,
            name: labels.join("."),
            kind,
        })
    }

    /// The answer with this code and these records.
    pub(super) fn answer(&self, code: u8, records: &[Record]) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(&self.id);
        // Response, authoritative; recursion available, so that no resolver looks elsewhere.
        out.push(0x84 | u8::from(self.recursion_desired));
        out.push(0x80 | code);
        let count = u16::try_from(records.len()).expect("a test's few records");
        for section in [1, count, 0, 0] {
            out.extend_from_slice(&section.to_be_bytes());
        }
        out.extend_from_slice(&self.section);
        for record in records {
            write_name(record.owner.as_deref().unwrap_or(&self.name), &mut out);
            let (kind, data) = match &record.data {
                RecordData::Address(IpAddr::V4(v4)) => (TYPE_A, v4.octets().to_vec()),
                RecordData::Address(IpAddr::V6(v6)) => (TYPE_AAAA, v6.octets().to_vec()),
                RecordData::Cname(target) => {
                    let mut name = Vec::new();
                    write_name(target, &mut name);
                    (TYPE_CNAME, name)
                }
            };
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&CLASS_IN.to_be_bytes());
            out.extend_from_slice(&record.ttl.to_be_bytes());
            out.extend_from_slice(&u16::try_from(data.len()).expect("at most a name").to_be_bytes());
            out.extend_from_slice(&data);
        }
        out
    }
}

fn write_name(name: &str, out: &mut Vec<u8>) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(u8::try_from(label.len()).expect("a label"));
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
}
