//! What to say after a log: that it is not all that the command wrote, and what ended the command where nothing in it says.

use conduits::LogStream;
use serde_json::{Value, json};

/// How the daemon's own lines on a command's standard error begin.
const OWN_LINE: &[u8] = b"[nexusd] ";
/// Characters of a cause that are repeated.
const SHOWN: usize = 60;

/// Looks out for a line of the daemon's own, in whatever pieces the log comes.
#[derive(Debug, Default)]
pub(super) struct OwnLines {
    /// The line that is being read, as far as it matters.
    line: Vec<u8>,
    seen: bool,
}

impl OwnLines {
    pub(super) fn feed(&mut self, stream: LogStream, bytes: &[u8]) {
        if stream != LogStream::Stderr || self.seen {
            return;
        }
        for byte in bytes {
            if *byte == b'\n' {
                self.line.clear();
            } else if self.line.len() < OWN_LINE.len() {
                self.line.push(*byte);
                if self.line == OWN_LINE {
                    self.seen = true;
                    return;
                }
            }
        }
    }

    pub(super) fn seen(&self) -> bool {
        self.seen
    }
}

/// The end of a directive, as its live log's last event has it.
pub(super) fn end_of(directive: &Value) -> Value {
    let manifest = &directive["result"]["artifacts_manifest"];
    json!({
        "state": directive["state"],
        "reason": directive["reason"],
        "exit_code": directive["result"]["exit_code"],
        "log": manifest["log"],
        "ended_by": manifest["ended_by"],
    })
}

/// The line about a log that is not whole; none where it is, or where its end does not say.
pub(super) fn left_out(end: &Value) -> Option<String> {
    let log = &end["log"];
    let of = |stream: &str| log[stream]["left_out"].as_u64().unwrap_or(0);
    let (stdout, stderr) = (of("stdout"), of("stderr"));
    if stdout == 0 && stderr == 0 {
        let incomplete = log["complete"] == false;
        return incomplete.then(|| "the log is not whole: a part of it did not reach the mothership".to_owned());
    }
    Some(format!("the log is not whole: {stdout} bytes of stdout and {stderr} bytes of stderr were left out"))
}

/// The line about an end that was not the command's own.
pub(super) fn ended_by(end: &Value) -> Option<String> {
    let cause = end["ended_by"].as_str().filter(|cause| !cause.is_empty())?;
    let shown: String = cause.chars().map(|c| if c.is_control() { '?' } else { c }).take(SHOWN).collect();
    Some(format!("ended by: {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted_and_a_whole_log_is_silent() {
        let told = |stdout: u64, stderr: u64, complete: bool| {
            let stream = |left_out: u64| json!({ "chunks": 1, "bytes": 9, "left_out": left_out });
            left_out(&json!({ "log": { "stdout": stream(stdout), "stderr": stream(stderr), "complete": complete } }))
        };
        assert_eq!(told(0, 0, true), None);
        let counted = "the log is not whole: 7 bytes of stdout and 0 bytes of stderr were left out";
        assert_eq!(told(7, 0, false).as_deref(), Some(counted));
        assert_eq!(told(7, 0, true).as_deref(), Some(counted));
        assert!(told(0, 1, false).unwrap().contains("0 bytes of stdout and 1 bytes of stderr"));
        assert!(told(0, 0, false).unwrap().contains("did not reach the mothership"));
        for unsaid in [json!({}), json!({ "log": null }), json!({ "log": { "stdout": { "chunks": 1 } } })] {
            assert_eq!(left_out(&unsaid), None, "{unsaid}");
        }
    }

    #[test]
    fn a_cause_is_one_printable_line() {
        assert_eq!(ended_by(&json!({ "ended_by": "disk" })).as_deref(), Some("ended by: disk"));
        assert_eq!(ended_by(&json!({ "ended_by": "a\nb\u{1b}" })).as_deref(), Some("ended by: a?b?"));
        for none in [json!({}), json!({ "ended_by": null }), json!({ "ended_by": "" }), json!({ "ended_by": 5 })] {
            assert_eq!(ended_by(&none), None, "{none}");
        }
    }

    #[test]
    fn a_line_of_the_daemon_s_is_seen_across_pieces_and_only_at_its_beginning() {
        let seen = |pieces: &[&str], stream| {
            let mut lines = OwnLines::default();
            pieces.iter().for_each(|piece| lines.feed(stream, piece.as_bytes()));
            lines.seen()
        };
        assert!(seen(&["x\n[nex", "usd] ended"], LogStream::Stderr));
        assert!(seen(&["[nexusd] ended\n", "x"], LogStream::Stderr));
        assert!(!seen(&["x [nexusd] ended"], LogStream::Stderr));
        assert!(!seen(&["[nexusd] ended"], LogStream::Stdout));
        assert!(!seen(&["[nexus", "\nd] "], LogStream::Stderr));
    }
}
