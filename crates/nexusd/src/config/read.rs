//! The reader: finds a key's node, expands it, checks its type and range by the table, and collects what is
//! wrong instead of stopping at it. A value that is wrong reads as its default, so that the rest is checked too.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use super::document::{self, Node, Value};
use super::files::Surroundings;
use super::keys::{self, Key, Kind};
use super::problem::{MAX_SHOWN, Place, Problem, bare, nearest, quoted};
use super::{expand, scalar};

/// Most items of a list and entries of a mapping in the configuration.
const MAX_ITEMS: usize = 256;

pub(super) struct Reader<'a> {
    root: &'a Node,
    surroundings: &'a Surroundings<'a>,
    problems: Vec<Problem>,
}

/// One scalar, expanded.
struct Scalar {
    place: Place,
    /// As the file has it: what messages show, so that a variable's value is never printed.
    written: String,
    text: String,
    /// Quoted and without a placeholder: text that is not meant to be a number.
    is_text: bool,
}

/// An item of a list and where it stands.
pub(super) struct Item<T> {
    pub(super) place: Place,
    pub(super) value: T,
}

type Parsed<T> = Result<T, String>;

impl<'a> Reader<'a> {
    pub(super) fn new(root: &'a Node, surroundings: &'a Surroundings<'a>, problems: Vec<Problem>) -> Self {
        Self { root, surroundings, problems }
    }

    pub(super) fn finish(self) -> Vec<Problem> {
        self.problems
    }

    /// Reports a problem of a key where it stands in the file.
    pub(super) fn complain(&mut self, path: &str, text: impl Into<String>) {
        let place = self.place_of(path);
        self.complain_at(place, path, text);
    }

    pub(super) fn complain_at(&mut self, place: Place, key: &str, text: impl Into<String>) {
        self.problems.push(Problem { place, key: bare(key), text: text.into() });
    }

    /// Problems so far.
    pub(super) fn count(&self) -> usize {
        self.problems.len()
    }

    /// Problems of one key so far.
    pub(super) fn count_of(&self, path: &str) -> usize {
        self.problems.iter().filter(|problem| problem.key == path).count()
    }

    /// Whether the file names the key with a value.
    pub(super) fn is_named(&self, path: &str) -> bool {
        self.node(path).is_some()
    }

    /// Every key that is not in the table, and every section that is no mapping.
    pub(super) fn check_names(&mut self) {
        if !matches!(self.root.value, Value::Map(_)) {
            let text = format!("the configuration is a mapping of keys to values, this is {}", self.root.kind());
            self.complain_at(self.root.place, "", text);
            return;
        }
        self.check_section(self.root, "");
    }

    fn check_section(&mut self, node: &'a Node, section: &str) {
        let known = keys::names_in(section);
        for entry in node.entries() {
            let path = if section.is_empty() { entry.key.clone() } else { format!("{section}.{}", entry.key) };
            let (is_key, is_section) = (keys::find(&path).is_some(), keys::is_section(&path));
            if entry.key.contains('.') && (is_key || is_section) {
                // The table's own spelling of it, so it looks right; nothing would ever read it.
                self.complain_at(entry.place, &path, format!("a key with dots is not read: write {}", nested(&path)));
                continue;
            }
            if is_key {
                continue;
            }
            if !is_section {
                // Beyond what is shown, a suggestion is not worth its time.
                let shown = self.problems.len() < MAX_SHOWN;
                let text = if shown { unknown(&entry.key, section, &known) } else { "unknown key".to_owned() };
                self.complain_at(entry.place, &path, text);
                continue;
            }
            match entry.node.value {
                Value::Map(_) => self.check_section(&entry.node, &path),
                Value::Null(_) => {}
                Value::Scalar { .. } | Value::List(_) => {
                    let names = keys::names_in(&path).join(", ");
                    let text = format!("is a section, but this is {}: put {names} beneath it", entry.node.kind());
                    self.complain_at(entry.node.place, &path, text);
                }
            }
        }
    }

    /// The node of a key, where the file gives it a value. A section that is no mapping has been reported.
    fn node(&self, path: &str) -> Option<&'a Node> {
        let mut node = self.root;
        for name in path.split('.') {
            node = node.get(name)?;
        }
        (!matches!(node.value, Value::Null(_))).then_some(node)
    }

    /// Where the value of a key stands; the beginning of the file where it is not named.
    pub(super) fn place_of(&self, path: &str) -> Place {
        self.node(path).map_or(Place::START, |node| node.place)
    }

    /// Where the first item of a list stands of which `is` holds once it is expanded; the list's own place where none is.
    pub(super) fn place_of_item(&self, path: &str, is: impl Fn(&str) -> bool) -> Place {
        let Some(Node { value: Value::List(items), .. }) = self.node(path) else { return self.place_of(path) };
        let found = items.iter().find(|item| match &item.value {
            Value::Scalar { text, .. } => {
                expand::expand(text, self.surroundings.environment).is_ok_and(|expanded| is(&expanded))
            }
            _ => false,
        });
        found.map_or_else(|| self.place_of(path), |item| item.place)
    }

    fn scalar(&mut self, key: &Key, node: &Node, what: &str) -> Option<Scalar> {
        let Value::Scalar { text, quoted } = &node.value else {
            let text = format!("expected {what}, found {}", node.kind());
            self.complain_at(node.place, key.path, text);
            return None;
        };
        match expand::expand(text, self.surroundings.environment) {
            Ok(expanded) => Some(Scalar {
                place: node.place,
                is_text: *quoted && matches!(expanded, Cow::Borrowed(_)),
                text: expanded.into_owned(),
                written: text.clone(),
            }),
            Err(problem) => {
                self.complain_at(node.place, key.path, problem);
                None
            }
        }
    }

    /// The value of a key by `parse`; its default where the file is silent or wrong. `None` only for a key
    /// whose default is computed.
    fn value<T>(&mut self, path: &'static str, parse: impl Fn(&Self, &Key, &Scalar) -> Parsed<T>) -> Option<T> {
        let key = keys::find(path)?;
        if let Some(node) = self.lone_tilde_checked(key)
            && let Some(scalar) = self.scalar(key, node, &key.kind.words())
        {
            match parse(self, key, &scalar) {
                Ok(value) => return Some(value),
                Err(problem) => self.complain_at(scalar.place, path, problem),
            }
        }
        let (default, _) = document::parse(key.default.yaml(self.surroundings.platform)?);
        let Value::Scalar { text, .. } = default.value else { return None };
        parse(self, key, &Scalar { place: Place::START, written: text.clone(), text, is_text: false }).ok()
    }

    /// A `~` alone is YAML's null, but beside a path it means somebody's home: never silently the default.
    fn lone_tilde_checked(&mut self, key: &Key) -> Option<&'a Node> {
        if matches!(key.kind, Kind::Path | Kind::Program) {
            let mut node = Some(self.root);
            for name in key.path.split('.') {
                node = node.and_then(|node| node.get(name));
            }
            if let Some(Node { place, value: Value::Null(written), .. }) = node
                && written == "~"
            {
                self.complain_at(*place, key.path, "a lone ~ is YAML's null: write \"~\" for the home directory");
            }
        }
        self.node(key.path)
    }

    /// Text by a parser of its own.
    pub(super) fn text<T>(&mut self, path: &'static str, parse: fn(&str) -> Parsed<T>) -> Option<T> {
        self.value(path, |_, _, scalar| parse(&scalar.text).map_err(|why| format!("{} {why}", quoted(&scalar.written))))
    }

    /// Text of which an empty one means none.
    pub(super) fn optional_text<T>(&mut self, path: &'static str, parse: fn(&str) -> Parsed<T>) -> Option<T> {
        self.value(path, |_, _, scalar| {
            if scalar.text.is_empty() {
                return Ok(None);
            }
            parse(&scalar.text).map(Some).map_err(|why| format!("{} {why}", quoted(&scalar.written)))
        })
        .flatten()
    }

    /// The same for a value that may hold a password: the message does not repeat it.
    pub(super) fn optional_secret<T>(&mut self, path: &'static str, parse: fn(&str) -> Parsed<T>) -> Option<T> {
        self.value(path, |_, _, scalar| {
            if scalar.text.is_empty() {
                Ok(None)
            } else {
                parse(&scalar.text).map(Some).map_err(|why| format!("the value {why}"))
            }
        })
        .flatten()
    }

    /// One of a set of words.
    pub(super) fn word<T>(&mut self, path: &'static str, parse: fn(&str) -> Option<T>) -> Option<T> {
        self.value(path, |_, key, scalar| {
            let Kind::OneOf(words) = key.kind else { return Err("has no words".to_owned()) };
            parse(&scalar.text).ok_or_else(|| {
                let meant = nearest(&scalar.text, words.iter().copied());
                let hint = meant.map(|word| format!(", did you mean {word}?")).unwrap_or_default();
                match words {
                    [only] => format!("{} is not known: {only} alone is{hint}", quoted(&scalar.written)),
                    _ => format!("{} is none of {}{hint}", quoted(&scalar.written), words.join(", ")),
                }
            })
        })
    }

    pub(super) fn flag(&mut self, path: &'static str) -> bool {
        self.value(path, |_, _, scalar| {
            unquoted(scalar, "true or false")?;
            scalar::flag(&scalar.text).map_err(|why| format!("{} {why}", quoted(&scalar.written)))
        })
        .unwrap_or_default()
    }

    /// A whole number or a size, within the table's bounds.
    pub(super) fn number(&mut self, path: &'static str) -> Option<u64> {
        self.value(path, |_, key, scalar| {
            let (is_size, min, max) = match key.kind {
                Kind::Integer(min, max) => (false, min, max),
                Kind::Bytes(min, max) => (true, min, max),
                _ => return Err("is no number".to_owned()),
            };
            let parse = if is_size { scalar::bytes } else { scalar::integer };
            let plain = scalar.text.bytes().all(|byte| byte.is_ascii_digit());
            if plain {
                unquoted(scalar, "the number")?;
            }
            let number = parse(&scalar.text).map_err(|why| format!("{} {why}", quoted(&scalar.written)))?;
            if (min..=max).contains(&number) {
                return Ok(number);
            }
            Err(out_of_range(key, scalar))
        })
    }

    /// A duration within the table's bounds.
    pub(super) fn duration(&mut self, path: &'static str) -> Duration {
        self.value(path, |_, key, scalar| {
            let (min, max, zero) = match key.kind {
                Kind::Duration(min, max) => (min, max, false),
                Kind::DurationOrZero(min, max) => (min, max, true),
                _ => return Err("is no duration".to_owned()),
            };
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
            let found = scalar::duration(&scalar.text).map_err(|why| format!("{} {why}", quoted(&scalar.written)))?;
            if (min..=max).contains(&found) || zero && found.is_zero() {
                return Ok(found);
            }
            Err(out_of_range(key, scalar))
        })
        .unwrap_or_default()
    }

    /// A file or folder; empty means none. `~` is expanded, a relative path is relative to the file.
    pub(super) fn path(&mut self, path: &'static str) -> Option<PathBuf> {
        self.value(
            path,
            |reader, _, scalar| {
                if scalar.text.is_empty() { Ok(None) } else { reader.resolved(scalar).map(Some) }
            },
        )
        .flatten()
    }

    /// A program: a name without a slash stays one, to be found on `PATH`.
    pub(super) fn program(&mut self, path: &'static str) -> PathBuf {
        self.value(path, |reader, _, scalar| match scalar.text.as_str() {
            "" => Err("must name a program".to_owned()),
            name if !name.contains('/') && !name.starts_with('~') && !name.contains('\0') => Ok(PathBuf::from(name)),
            _ => reader.resolved(scalar),
        })
        .unwrap_or_default()
    }

    fn resolved(&self, scalar: &Scalar) -> Parsed<PathBuf> {
        self.surroundings.resolve(&scalar.text).map_err(|why| format!("{} {why}", quoted(&scalar.written)))
    }

    /// A list of scalars; wrong items are reported and left out. The parser's error is a whole sentence.
    pub(super) fn list<T>(&mut self, path: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> Vec<Item<T>> {
        let Some(key) = keys::find(path) else { return Vec::new() };
        let default = key.default.yaml(self.surroundings.platform).map(|text| document::parse(text).0);
        let Some(node) = self.node(path).or(default.as_ref()) else { return Vec::new() };
        let Value::List(nodes) = &node.value else {
            let text = format!("expected {}, found {}: write [a, b]", key.kind.words(), node.kind());
            self.complain_at(node.place, path, text);
            return Vec::new();
        };
        if nodes.len() > MAX_ITEMS {
            self.complain_at(node.place, path, format!("{} items are too many: at most {MAX_ITEMS}", nodes.len()));
        }
        let mut items = Vec::new();
        for node in nodes.iter().take(MAX_ITEMS) {
            let Some(scalar) = self.scalar(key, node, "a single value in the list") else { continue };
            match parse(&scalar.text) {
                Ok(value) => items.push(Item { place: scalar.place, value }),
                Err(why) => self.complain_at(scalar.place, path, why),
            }
        }
        items
    }

    /// A mapping of text to text.
    pub(super) fn pairs(&mut self, path: &'static str) -> Vec<(Item<String>, Item<String>)> {
        let (Some(key), Some(node)) = (keys::find(path), self.node(path)) else { return Vec::new() };
        let Value::Map(entries) = &node.value else {
            let text = format!("expected {}, found {}: write {{key: value}}", key.kind.words(), node.kind());
            self.complain_at(node.place, path, text);
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for entry in entries {
            if let Value::Null(_) = entry.node.value {
                let value = Item { place: entry.node.place, value: String::new() };
                pairs.push((Item { place: entry.place, value: entry.key.clone() }, value));
            } else if let Some(scalar) = self.scalar(key, &entry.node, "a single value") {
                let value = Item { place: scalar.place, value: scalar.text };
                pairs.push((Item { place: entry.place, value: entry.key.clone() }, value));
            }
        }
        pairs
    }
}

/// What the value counts is what a wrong one most often got wrong.
fn out_of_range(key: &Key, scalar: &Scalar) -> String {
    let range = key.kind.range().unwrap_or_default();
    let mut about = key.about.trim_end_matches('.').chars();
    let counts: String = about.next().into_iter().flat_map(char::to_lowercase).chain(about).collect();
    format!("{} is out of range: write {range} ({counts})", bare(&scalar.written))
}

fn unquoted(scalar: &Scalar, what: &str) -> Parsed<()> {
    if scalar.is_text {
        return Err(format!("{} is text: write {what} without quotes", quoted(&scalar.written)));
    }
    Ok(())
}

/// A dotted path as the file has it: `rootfs: {amd64: {url: …}}`.
fn nested(path: &str) -> String {
    path.rsplit('.').fold(String::from("…"), |inner, name| match inner.as_str() {
        "…" => format!("{name}: …"),
        _ => format!("{name}: {{{inner}}}"),
    })
}

/// `unknown key`, with the nearest known one: of its own section first, then of the whole table, because
/// wrong indentation is as common as a slip of the finger.
fn unknown(name: &str, section: &str, known: &[&'static str]) -> String {
    if name == "<<" {
        return "unknown key: merge keys are not part of YAML 1.2, write the values out".to_owned();
    }
    if let Some(elsewhere) = keys::KEYS.iter().find(|key| key.path.rsplit('.').next() == Some(name) && key.path != name)
    {
        return format!("unknown key, did you mean {}?", elsewhere.path);
    }
    if let Some(top) = keys::names_in("").into_iter().find(|top| *top == name).filter(|_| !section.is_empty()) {
        return format!("unknown key, did you mean {top} at the left margin?");
    }
    if let Some(near) = nearest(name, known.iter().copied()) {
        return format!("unknown key, did you mean {near}?");
    }
    let last = |key: &'static Key| key.path.rsplit('.').next().unwrap_or(key.path);
    let far = nearest(name, keys::KEYS.iter().map(last));
    match far.and_then(|far| keys::KEYS.iter().find(|key| last(key) == far)) {
        Some(key) => format!("unknown key, did you mean {}?", key.path),
        None if section.is_empty() => "unknown key".to_owned(),
        None => format!("unknown key, {section} has {}", known.join(", ")),
    }
}
