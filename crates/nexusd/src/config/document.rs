//! YAML to a tree of nodes that know where they stand.
//!
//! Built on the parser's events rather than on serde: a duplicate key, a quoted number and an alias stay
//! visible, every mistake gets its position, and one mistake does not hide the next.
//!
//! Hostile input is bounded: the file by its size, nesting by [`MAX_DEPTH`] also through aliases, a mapping by
//! [`MAX_ENTRIES`]. An alias costs one reference count, because an anchored node is shared, never copied, and
//! nothing walks the tree except along the known keys: nested aliases multiply nothing.

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::problem::{Place, Problem, bare};

/// Deepest nesting of lists and mappings. The configuration needs four.
const MAX_DEPTH: usize = 32;

/// Entries of one mapping (looking for duplicates is quadratic in them) and items of one list. Reading ends there.
const MAX_ENTRIES: usize = 1024;

/// A node and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
    /// Levels beneath it. Bounded, because dropping a tree recurses.
    height: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A plain, unquoted nothing, `~` or `null`: as if the key were not there. Holds what was written.
    Null(String),
    /// Text with YAML's own escapes resolved.
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Rc<Node>,
}

impl Node {
    /// The value of `key` in a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| entry.node.as_ref())
    }

    /// The entries of a mapping; none for anything else.
    pub(super) fn entries(&self) -> &[Entry] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    /// What it is, for messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self.value {
            Value::Null(_) => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// Parses one document. An empty one is a mapping without entries. The tree holds what could be read; the
/// problems say what could not.
pub(super) fn parse(text: &str) -> (Node, Vec<Problem>) {
    let options = granit_parser::options! {
        emit_unresolved_aliases: true,
        disallow_directives: true,
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        if builder.full {
            break;
        }
        match event {
            Ok((event, span)) => builder.take(event, place(&span.start)),
            Err(error) => {
                builder.problem(error_place(&error), "", format!("not YAML: {}", bare(&error.info())));
                break;
            }
        }
    }
    let root = builder.finish();
    (root, builder.problems)
}

fn place(mark: &Marker) -> Place {
    Place { line: mark.line().max(1), column: mark.col().saturating_add(1) }
}

fn error_place(error: &ScanError) -> Place {
    place(error.marker())
}

/// A list or mapping whose end has not been seen.
struct Open {
    place: Place,
    anchor: usize,
    height: usize,
    items: Items,
}

enum Items {
    List(Vec<Rc<Node>>),
    /// The entries, and the key that waits for its value.
    Map(Vec<Entry>, Option<(Place, Option<String>)>),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
    documents: usize,
    /// Something holds more than [`MAX_ENTRIES`]: this is no configuration, the rest is not read.
    full: bool,
    problems: Vec<Problem>,
}

impl Builder {
    fn problem(&mut self, place: Place, key: &str, text: impl Into<String>) {
        self.problems.push(Problem { place, key: bare(key), text: text.into() });
    }

    fn take(&mut self, event: Event<'_>, place: Place) {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents == 2 {
                    self.problem(place, "", "a second document: one file holds one configuration");
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = self.tag_says_text(tag.as_deref(), place);
                let quoted = style != ScalarStyle::Plain || is_text;
                let value = if !quoted && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
                    Value::Null(text.into_owned())
                } else {
                    Value::Scalar { text: text.into_owned(), quoted }
                };
                self.place_node(Rc::new(Node { place, value, height: 0 }), anchor);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag_says_text(tag.as_deref(), place);
                self.open.push(Open { place, anchor, height: 1, items: Items::List(Vec::new()) });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag_says_text(tag.as_deref(), place);
                self.open.push(Open { place, anchor, height: 1, items: Items::Map(Vec::new(), None) });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => {
                let node = self.aliased(id, place);
                self.place_node(node, 0);
            }
            Event::UnresolvedAlias(name) => {
                self.problem(place, "", format!("no anchor &{} before this alias", bare(&name)));
                self.place_node(nothing(place), 0);
            }
            _ => {}
        }
    }

    fn aliased(&mut self, id: usize, place: Place) -> Rc<Node> {
        match self.anchors.get(&id) {
            Some(node) if self.open.len() + node.height <= MAX_DEPTH => return Rc::clone(node),
            Some(_) => self.problem(place, "", "nested too deeply through aliases: write the value out"),
            None => self.problem(place, "", "an alias inside its own anchor: write the value out"),
        }
        nothing(place)
    }

    /// Whether a tag makes a plain scalar text. Tags beyond the core schema ask for code to be run in other
    /// languages' loaders; nothing here needs one.
    fn tag_says_text(&mut self, tag: Option<&Tag>, place: Place) -> bool {
        let Some(tag) = tag else { return false };
        match tag.core_suffix() {
            Some("str") => true,
            Some(_) => false,
            // `!` alone is YAML's non-specific tag: text.
            None if tag.original() == "!" => true,
            None => {
                self.problem(place, "", format!("the tag {} means nothing here", bare(&tag.original())));
                false
            }
        }
    }

    fn close(&mut self) {
        let Some(open) = self.open.pop() else { return };
        let value = match open.items {
            Items::List(items) => Value::List(items),
            Items::Map(entries, _) => Value::Map(entries),
        };
        self.place_node(Rc::new(Node { place: open.place, value, height: open.height }), open.anchor);
    }

    fn place_node(&mut self, node: Rc<Node>, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        let Some(open) = self.open.last_mut() else {
            self.root.get_or_insert(node);
            return;
        };
        open.height = open.height.max(node.height + 1);
        let Items::Map(entries, waiting) = &mut open.items else {
            if let Items::List(items) = &mut open.items {
                if items.len() < MAX_ENTRIES {
                    items.push(node);
                } else {
                    self.overflow(node.place, "items in one list");
                }
            }
            return;
        };
        match waiting.take() {
            None => {
                let key = match &node.value {
                    Value::Scalar { text, .. } => Some(text.clone()),
                    Value::Null(text) => Some(text.clone()),
                    Value::List(_) | Value::Map(_) => None,
                };
                *waiting = Some((node.place, key));
            }
            Some((place, None)) => self.problem(place, "", "a key must be plain text"),
            Some((place, Some(key))) => {
                let first = entries.iter().find(|entry| entry.key == key).map(|entry| entry.place.line);
                match first {
                    Some(line) => {
                        self.problem(place, &key, format!("written twice, first on line {line}: keep one"));
                    }
                    None if entries.len() < MAX_ENTRIES => entries.push(Entry { key, place, node }),
                    None => self.overflow(place, "entries in one mapping"),
                }
            }
        }
    }

    fn overflow(&mut self, place: Place, what: &str) {
        self.full = true;
        self.problem(place, "", format!("more than {MAX_ENTRIES} {what}: this is no configuration"));
    }

    /// The root; what a broken document left open is closed, so that its beginning is still checked.
    fn finish(&mut self) -> Node {
        while !self.open.is_empty() {
            self.close();
        }
        match self.root.take() {
            Some(root) if !matches!(root.value, Value::Null(_)) => root.as_ref().clone(),
            _ => Node { place: Place::START, value: Value::Map(Vec::new()), height: 0 },
        }
    }
}

fn nothing(place: Place) -> Rc<Node> {
    Rc::new(Node { place, value: Value::Null(String::new()), height: 0 })
}
