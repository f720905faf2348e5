//! Server-sent events out of bytes, in whatever pieces they come (WHATWG HTML, section 9.2.6).

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Event {
    /// Its kind.
    pub(super) name: String,
    /// What it carries.
    pub(super) data: String,
    /// Its id, to resume after.
    pub(super) id: Option<String>,
}

/// The parser's state between pieces.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    event: Event,
    any: bool,
}

impl Parser {
    /// Takes a piece and gives the events that it completes.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for byte in piece {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
            let line = std::mem::take(&mut self.line);
            if let Some(event) = self.take(&String::from_utf8_lossy(&line)) {
                events.push(event);
            }
        }
        events
    }

    fn take(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.any).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = value.to_owned(),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if self.any {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.any = true;
            }
            // Comments and what we do not know.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "event: log\nid: 7\ndata: {\"a\":1}\n\n: comment\n\nevent: end\r\ndata: x\ndata: y\r\n\r\n";

    fn expected() -> Vec<Event> {
        vec![
            Event { name: "log".to_owned(), data: "{\"a\":1}".to_owned(), id: Some("7".to_owned()) },
            Event { name: "end".to_owned(), data: "x\ny".to_owned(), id: None },
        ]
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events(cuts in proptest::collection::vec(0..TEXT.len(), 0..8)) {
            let mut cuts = cuts;
            cuts.extend([0, TEXT.len()]);
            cuts.sort_unstable();
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for pair in cuts.windows(2) {
                events.extend(parser.feed(&TEXT.as_bytes()[pair[0]..pair[1]]));
            }
            prop_assert_eq!(events, expected());
        }
    }
}
