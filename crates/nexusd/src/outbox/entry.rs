//! One report as it lies on disk: a line with length and checksum, then the report as JSON. Pure.

use conduits::{DirectiveId, DirectiveToken, FinishedRequest, StartedRequest};
use serde::{Deserialize, Serialize};

use crate::logs::{boot_id, checksum};

/// First word of the head line, with the version of the format.
const MAGIC: &str = "nexus-outbox-1";

/// What is reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "request", rename_all = "snake_case")]
pub enum Report {
    /// The command is about to run.
    Started(StartedRequest),
    /// It ended.
    Finished(Box<FinishedRequest>),
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReportKind {
    /// [`Report::Started`]
    Started,
    /// [`Report::Finished`]
    Finished,
}

impl ReportKind {
    /// As in the file name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Finished => "finished",
        }
    }
}

impl Report {
    /// Which of the two.
    #[must_use]
    pub fn kind(&self) -> ReportKind {
        match self {
            Self::Started(_) => ReportKind::Started,
            Self::Finished(_) => ReportKind::Finished,
        }
    }
}

/// A report, whom it is about, and the lease's token (perhaps expired when it is sent: then it is recovered).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The directive.
    pub directive_id: DirectiveId,
    /// The token as it was when the entry was made.
    pub token: DirectiveToken,
    /// What to send.
    pub report: Report,
    /// The mothership has accepted it. Of a `started`: from here on the command may run, until there is an end.
    #[serde(default)]
    pub accepted: bool,
    /// Which boot of the machine wrote it.
    #[serde(default)]
    pub boot: String,
}

impl Entry {
    /// A report that is to be sent.
    #[must_use]
    pub fn new(directive_id: DirectiveId, token: DirectiveToken, report: Report) -> Self {
        Self { directive_id, token, report, accepted: false, boot: boot() }
    }

    /// Whether its command may have begun: `started` was accepted, or the machine has stopped since, and what was written
    /// last before that may not have reached the disk.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        self.accepted || self.boot != boot()
    }
}

/// This boot of the machine.
fn boot() -> String {
    uuid::Uuid::from_bytes(boot_id()).simple().to_string()
}

/// Why a file is not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The head line is missing or of another format.
    #[error("the head line is not that of an outbox entry")]
    Head,
    /// Shorter or longer than the head says.
    #[error("it has {found} bytes of content, its head says {expected}")]
    Length {
        /// As the head says.
        expected: usize,
        /// As it is.
        found: usize,
    },
    /// The content is not what was written.
    #[error("its checksum does not match")]
    Checksum,
    /// The content is not a report (written by another version?).
    #[error("its content is not a report: {0}")]
    Content(String),
}

impl Entry {
    /// The file name: directive and kind. Both are of characters that are safe in names.
    #[must_use]
    pub fn file_name(&self) -> String {
        file_name(&self.directive_id, self.report.kind())
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let content = serde_json::to_vec(self)?;
        let mut bytes = head_line(&content).into_bytes();
        bytes.push(b'\n');
        bytes.extend_from_slice(&content);
        Ok(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        Self::read(bytes, |content, expected| (content.len() == expected).then_some(content))
    }

    /// An entry that something else follows.
    pub(super) fn decode_slot(bytes: &[u8]) -> Result<Self, EntryError> {
        Self::read(bytes, |content, expected| content.get(..expected))
    }

    fn read(bytes: &[u8], whole: impl Fn(&[u8], usize) -> Option<&[u8]>) -> Result<Self, EntryError> {
        let end = bytes.iter().position(|b| *b == b'\n').ok_or(EntryError::Head)?;
        let (head, content) = (bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default());
        let head = std::str::from_utf8(head).map_err(|_| EntryError::Head)?;
        let mut words = head.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(EntryError::Head);
        }
        let expected: usize = words.next().and_then(|word| word.parse().ok()).ok_or(EntryError::Head)?;
        let Some(content) = whole(content, expected) else {
            return Err(EntryError::Length { expected, found: content.len() });
        };
        if head != head_line(content) {
            return Err(EntryError::Checksum);
        }
        serde_json::from_slice(content).map_err(|error| EntryError::Content(error.to_string()))
    }
}

/// Format, length and checksum. There is one spelling of each head, so a damaged one never passes.
fn head_line(content: &[u8]) -> String {
    format!("{MAGIC} {} {:016x}", content.len(), checksum(&[content]))
}

pub(super) fn file_name(id: &DirectiveId, kind: ReportKind) -> String {
    format!("{id}.{}.report", kind.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use conduits::FinishedStatus;
    use proptest::prelude::*;

    fn entry(diff: Vec<u8>) -> Entry {
        let mut request = FinishedRequest::new(FinishedStatus::Failed);
        request.exit_code = Some(3);
        request.diff_base64 = Some(diff);
        Entry::new("d-1".parse().unwrap(), DirectiveToken::new("a.b.c"), Report::Finished(Box::new(request)))
    }

    #[test]
    fn a_command_may_have_run_once_its_start_is_accepted_or_the_machine_was_off() {
        let started = Report::Started(conduits::StartedRequest::default());
        let fresh = Entry::new("d-1".parse().unwrap(), DirectiveToken::new("a.b.c"), started);
        let accepted = Entry { accepted: true, ..fresh.clone() };
        let before_the_boot = Entry { boot: "another".into(), ..fresh.clone() };
        assert_eq!([&fresh, &accepted, &before_the_boot].map(Entry::may_have_run), [false, true, true]);
        // As versions before this field wrote it.
        let mut old = serde_json::to_value(&fresh).unwrap();
        old.as_object_mut().unwrap().retain(|key, _| key != "boot" && key != "accepted");
        assert!(serde_json::from_value::<Entry>(old).unwrap().may_have_run());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(diff in proptest::collection::vec(any::<u8>(), 0..300)) {
            let entry = entry(diff);
            prop_assert_eq!(Entry::decode(&entry.encode().unwrap()), Ok(entry));
        }

        #[test]
        fn a_torn_or_damaged_file_is_never_taken_for_a_report(cut in any::<usize>(), at in any::<usize>(), bit in 0u8..8) {
            let bytes = entry(vec![7; 60]).encode().unwrap();
            prop_assert!(Entry::decode(&bytes[..cut % bytes.len()]).is_err());
            let mut damaged = bytes;
            let at = at % damaged.len();
            damaged[at] ^= 1 << bit;
            prop_assert!(Entry::decode(&damaged).is_err());
        }
    }
}
