//! What to ask a server for, and what its answer means: pure.
//!
//! A download is only continued where the server says that the file is still the one it was (If-Range with a validator,
//! RFC 9110, 13.1.5); two halves of two files would make a third.

use std::time::Duration;

/// Longest `Retry-After` that is obeyed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Where a part came from: the note beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) url: String,
    /// A strong entity tag, or a date of last change.
    pub(super) validator: Option<String>,
    pub(super) total: Option<u64>,
}

impl Origin {
    pub(super) fn parse(note: &str) -> Option<Self> {
        let mut lines = note.lines();
        let url = lines.next().filter(|url| !url.is_empty())?.to_owned();
        let validator = lines.next()?.strip_prefix("validator ")?;
        let total = lines.next()?.strip_prefix("total ")?;
        let validator = (!validator.is_empty()).then(|| validator.to_owned());
        Some(Self { url, validator, total: total.parse().ok() })
    }

    pub(super) fn text(&self) -> String {
        let total = self.total.map(|total| total.to_string()).unwrap_or_default();
        format!("{}\nvalidator {}\ntotal {total}\n", self.url, self.validator.as_deref().unwrap_or_default())
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// Nothing: everything is here.
    Nothing,
    Whole,
    Rest {
        from: u64,
        validator: String,
    },
}

/// What to ask for with `have` bytes of `origin` here.
pub(super) fn ask(have: u64, origin: Option<&Origin>, url: &str) -> Ask {
    match origin.filter(|origin| origin.url == url) {
        Some(origin) if have > 0 && origin.total == Some(have) => Ask::Nothing,
        Some(Origin { validator: Some(validator), total, .. })
            if have > 0 && total.is_none_or(|total| have < total) =>
        {
            Ask::Rest { from: have, validator: validator.clone() }
        }
        _ => Ask::Whole,
    }
}

/// The parts of an answer's head that matter.
#[derive(Debug, Clone, Default)]
pub(super) struct Head<'a> {
    pub(super) status: u16,
    pub(super) etag: Option<&'a str>,
    pub(super) last_modified: Option<&'a str>,
    pub(super) content_range: Option<&'a str>,
    pub(super) content_length: Option<u64>,
    pub(super) retry_after: Option<&'a str>,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its body follows what is here.
    Append { total: Option<u64> },
    /// Its body is the whole file.
    StartOver(Origin),
    /// There is nothing after what is here.
    Complete,
    /// What is here is of no use: ask for the whole.
    AskWhole,
    /// Ask again later.
    Again { why: String, after: Option<Duration> },
    /// There is nothing to be had.
    Refused { why: String },
}

pub(super) fn judge(ask: &Ask, head: &Head<'_>, url: &str) -> Verdict {
    match (head.status, ask) {
        (200, _) => {
            let strong = head.etag.filter(|tag| tag.starts_with('"'));
            let validator = strong.or(head.last_modified).filter(|text| !text.contains('\n')).map(str::to_owned);
            Verdict::StartOver(Origin { url: url.to_owned(), validator, total: head.content_length })
        }
        (206, Ask::Rest { from, validator }) => {
            let changed = head.etag.is_some_and(|tag| validator.starts_with('"') && tag != validator);
            match head.content_range.and_then(parse_range) {
                Some((first, total)) if first == *from && !changed => Verdict::Append { total },
                _ => Verdict::AskWhole,
            }
        }
        (416, Ask::Rest { from, .. }) => {
            let total = head.content_range.and_then(|text| text.strip_prefix("bytes */")?.parse::<u64>().ok());
            if total == Some(*from) { Verdict::Complete } else { Verdict::AskWhole }
        }
        (status @ (408 | 425 | 429 | 500..=599), _) => {
            Verdict::Again { why: format!("the server answers {status}"), after: head.retry_after.and_then(seconds) }
        }
        (status, _) => Verdict::Refused { why: format!("the server answers {status}") },
    }
}

/// `bytes FIRST-LAST/TOTAL`, where the total may be `*`.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    let total = if total == "*" { None } else { Some(total.parse::<u64>().ok()?) };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

fn seconds(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://a.example/x";

    fn origin(validator: Option<&str>, total: Option<u64>) -> Origin {
        Origin { url: URL.into(), validator: validator.map(str::to_owned), total }
    }

    #[test]
    fn the_note_comes_back_as_it_was() {
        for origin in [origin(None, None), origin(Some("\"e\""), Some(7)), origin(Some("Wed, 21 Oct"), None)] {
            assert_eq!(Origin::parse(&origin.text()), Some(origin));
        }
        for torn in ["", "\n", URL, "https://a.example/x\nvalidator", "a test"] {
            assert_eq!(Origin::parse(torn), None, "{torn:?}");
        }
    }

    #[test]
    fn what_is_asked_for() {
        let rest = |from| Ask::Rest { from, validator: "\"e\"".into() };
        for (have, origin, url, expected) in [
            (0, None, URL, Ask::Whole),
            (5, None, URL, Ask::Whole),
            (0, Some(origin(Some("\"e\""), Some(9))), URL, Ask::Whole),
            (5, Some(origin(Some("\"e\""), Some(9))), URL, rest(5)),
            (5, Some(origin(Some("\"e\""), None)), URL, rest(5)),
            (5, Some(origin(None, Some(9))), URL, Ask::Whole),
            (9, Some(origin(Some("\"e\""), Some(9))), URL, Ask::Nothing),
            (9, Some(origin(None, Some(9))), URL, Ask::Nothing),
            // More than there should be.
            (10, Some(origin(Some("\"e\""), Some(9))), URL, Ask::Whole),
            // Configured anew meanwhile.
            (5, Some(origin(Some("\"e\""), Some(9))), "https://b.example/x", Ask::Whole),
        ] {
            assert_eq!(ask(have, origin.as_ref(), url), expected, "{have} {origin:?}");
        }
    }

    #[test]
    fn what_an_answer_means() {
        let rest = || Ask::Rest { from: 5, validator: "\"e\"".into() };
        let head = |status, content_range, etag| Head { status, content_range, etag, ..Head::default() };
        let again = |why: &str, after| Verdict::Again { why: why.into(), after };
        let refused = |status: u16| Verdict::Refused { why: format!("the server answers {status}") };
        for (ask, head, expected) in [
            (Ask::Whole, head(200, None, Some("\"e\"")), Verdict::StartOver(origin(Some("\"e\""), None))),
            // A weak tag says nothing of bytes.
            (Ask::Whole, head(200, None, Some("W/\"e\"")), Verdict::StartOver(origin(None, None))),
            (
                rest(),
                Head { status: 200, last_modified: Some("then"), content_length: Some(9), ..Head::default() },
                Verdict::StartOver(origin(Some("then"), Some(9))),
            ),
            (rest(), head(206, Some("bytes 5-8/9"), Some("\"e\"")), Verdict::Append { total: Some(9) }),
            (rest(), head(206, Some("bytes 5-8/*"), None), Verdict::Append { total: None }),
            (rest(), head(206, Some("bytes 5-8/9"), Some("\"f\"")), Verdict::AskWhole),
            (rest(), head(206, Some("bytes 4-8/9"), None), Verdict::AskWhole),
            (rest(), head(206, Some("bytes 5-9/9"), None), Verdict::AskWhole),
            (rest(), head(206, None, None), Verdict::AskWhole),
            (rest(), head(206, Some("pages 5-8/9"), None), Verdict::AskWhole),
            (Ask::Whole, head(206, Some("bytes 0-8/9"), None), refused(206)),
            (rest(), head(416, Some("bytes */5"), None), Verdict::Complete),
            (rest(), head(416, Some("bytes */4"), None), Verdict::AskWhole),
            (rest(), head(416, None, None), Verdict::AskWhole),
            (Ask::Whole, head(416, Some("bytes */5"), None), refused(416)),
            (Ask::Whole, head(404, None, None), refused(404)),
            (rest(), head(403, None, None), refused(403)),
            (Ask::Whole, head(302, None, None), refused(302)),
            (Ask::Whole, head(204, None, None), refused(204)),
            (Ask::Whole, head(500, None, None), again("the server answers 500", None)),
            (
                rest(),
                Head { status: 503, retry_after: Some("7"), ..Head::default() },
                again("the server answers 503", Some(Duration::from_secs(7))),
            ),
            (
                rest(),
                Head { status: 429, retry_after: Some("9999"), ..Head::default() },
                again("the server answers 429", Some(MAX_RETRY_AFTER)),
            ),
        ] {
            assert_eq!(judge(&ask, &head, URL), expected, "{ask:?} {head:?}");
        }
    }
}
