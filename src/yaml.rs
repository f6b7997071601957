//! YAML as a tree that remembers where each value stood, and readers that note every fault instead of stopping at the first.
//!
//! serde stops at the first fault and forgets positions; the configuration and the classes owe their readers all faults at once,
//! each with its line. The parser is granit-parser's (the one under serde-saphyr); the tree has budgets of its own, so that a
//! document of a few hundred bytes cannot become a million nodes through aliases.

use std::collections::{HashMap, HashSet};
use std::fmt;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use crate::nearest::nearest;
use crate::steps::{Spent, Steps};

/// The most nodes that all documents of a text may have, with every copy that an anchor or an alias makes.
const MAX_NODES: usize = 100_000;

/// The deepest nesting, aliases expanded: who reads a tree, compares or drops it recurses that deep.
const MAX_DEPTH: usize = 32;

/// So many bytes of a text that is copied count as one more node: at most 1.6 MB are.
const COPIED: usize = 16;

/// What the parser takes for one event, in steps: up to 300 ns, whatever stands around it.
const EVENT: u64 = 128;

/// What most often is behind a fault of syntax, which the parser notices some lines late.
const SYNTAX_REMEDY: &str =
    "look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes";

/// A place in a text; both from 1.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// A value and where it stood.
#[derive(Clone, Debug)]
pub struct Node {
    pub at: Position,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub enum Value {
    /// In the order of the text; keys are unique.
    Mapping(Vec<(Key, Node)>),
    Null,
    /// The text as written, without quotes. Numbers and booleans are texts too: who reads them knows what they should be.
    Scalar {
        text: String,
        quoted: bool,
    },
    Sequence(Vec<Node>),
}

#[derive(Clone, Debug)]
pub struct Key {
    pub at: Position,
    pub text: String,
}

/// One thing that is wrong, where, and what to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    pub at: Position,
    /// The full key, such as `backends.files.vault` or `mode`.
    pub key: String,
    pub problem: String,
}

/// Faults as they are found: all of them, or no more than so many and how many more there are.
#[derive(Debug)]
pub struct Faults {
    kept: Vec<Fault>,
    most: usize,
    more: usize,
}

/// A mapping being read: it knows which keys were asked for, so that it can name the others.
#[derive(Debug)]
pub struct Reader<'n> {
    /// The mapping's own key, empty for the whole document.
    path: String,
    at: Position,
    entries: &'n [(Key, Node)],
    known: Vec<&'static str>,
}

/// Why a text gave no tree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unparsed {
    Fault(Fault),
    Spent(Spent),
}

/// Parses all documents of a stream.
///
/// # Errors
/// The first fault of syntax, a duplicate key, or a budget passed (100,000 values, 32 levels).
pub fn parse_all(text: &str) -> Result<Vec<Node>, Fault> {
    documents(text, &Steps::unbounded()).map_err(Unparsed::into_fault)
}

/// Parses a text of one document. An empty text is null.
///
/// # Errors
/// As [`parse_all`], and a second document.
pub fn parse(text: &str) -> Result<Node, Fault> {
    parse_within(text, &Steps::unbounded()).map_err(Unparsed::into_fault)
}

/// The same, for as long as there are steps.
///
/// # Errors
/// As [`parse`], and steps that ran out.
pub fn parse_within(text: &str, steps: &Steps) -> Result<Node, Unparsed> {
    let mut documents = documents(text, steps)?;
    match documents.len() {
        0 => Ok(Node { at: Position { line: 1, column: 1 }, value: Value::Null }),
        1 => Ok(documents.remove(0)),
        _ => Err(Unparsed::Fault(Fault {
            at: documents[1].at,
            key: String::new(),
            problem: "a second YAML document starts here; only one is read (remove the `---`)".to_owned(),
        })),
    }
}

#[allow(clippy::wildcard_enum_match_arm)] // a foreign, non-exhaustive enum
fn documents(text: &str, steps: &Steps) -> Result<Vec<Node>, Unparsed> {
    steps.charge_bytes(text.len())?;
    let mut builder = Builder { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0, steps };
    let mut documents = Vec::new();
    while let Some((event, span)) = builder.next()? {
        match event {
            Event::DocumentStart(..) => builder.anchors.clear(),
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | Event::Comment(..) => {}
            node => documents.push(builder.node(node, span, 0)?.node),
        }
    }
    Ok(documents)
}

struct Builder<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    anchors: HashMap<usize, Built>,
    /// Of all documents, those that were copied too.
    nodes: usize,
    steps: &'t Steps,
}

/// A node, and what a copy of it takes.
#[derive(Clone)]
struct Built {
    node: Node,
    /// How many values it counts as.
    weight: usize,
    /// How many levels are below it.
    height: usize,
}

// === impl Unparsed ===

impl Unparsed {
    fn into_fault(self) -> Fault {
        match self {
            Self::Fault(fault) => fault,
            Self::Spent(spent) => Fault { at: Position::default(), key: String::new(), problem: format!("{spent} (write less)") },
        }
    }
}

impl From<Fault> for Unparsed {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Spent> for Unparsed {
    fn from(spent: Spent) -> Self {
        Self::Spent(spent)
    }
}

// === impl Builder ===

impl<'t> Builder<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, Unparsed> {
        self.steps.charge(EVENT)?;
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok(event)) => Ok(Some(event)),
            Some(Err(error)) => {
                let marker = error.marker();
                let at = Position { line: marker.line(), column: marker.col() + 1 };
                Err(fault(at, format!("not valid YAML: {} ({SYNTAX_REMEDY})", error.info())))
            }
        }
    }

    /// The next event of a node's content: comments and the like passed over.
    fn inner(&mut self) -> Result<(Event<'t>, Span), Unparsed> {
        loop {
            match self.next()? {
                Some((Event::Comment(..) | Event::Anchor(..), _)) => {}
                Some(event) => return Ok(event),
                None => {
                    return Err(fault(Position::default(), format!("not valid YAML: it ends in the middle of a value ({SYNTAX_REMEDY})")));
                }
            }
        }
    }

    #[allow(clippy::wildcard_enum_match_arm)] // a foreign, non-exhaustive enum
    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Built, Unparsed> {
        let at = Position { line: span.start.line(), column: span.start.col() + 1 };
        self.count(1, at)?;
        check_depth(depth, at)?;
        let (built, anchor) = match event {
            Event::Alias(id) => return self.alias(id, at, depth),
            Event::Scalar(text, style, anchor, _) => {
                let quoted = style != ScalarStyle::Plain;
                let null = !quoted && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let weight = 1 + text.len() / COPIED;
                let value = if null { Value::Null } else { Value::Scalar { text: text.into_owned(), quoted } };
                (Built { node: Node { at, value }, weight, height: 0 }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.sequence(at, depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping(at, depth)?, anchor),
            _ => return Err(fault(at, "is not a YAML value (write a text, a list or a mapping)".to_owned())),
        };
        if anchor != 0 {
            // Kept for aliases, it is a copy already: anchors around anchors keep what is innermost many times.
            self.count(built.weight, at)?;
            self.anchors.insert(anchor, built.clone());
        }
        Ok(built)
    }

    fn sequence(&mut self, at: Position, depth: usize) -> Result<Built, Unparsed> {
        let (mut items, mut weight, mut height) = (Vec::new(), 1, 0);
        loop {
            match self.inner()? {
                (Event::SequenceEnd, _) => return Ok(Built { node: Node { at, value: Value::Sequence(items) }, weight, height }),
                (event, span) => {
                    let item = self.node(event, span, depth + 1)?;
                    (weight, height) = (weight + item.weight, height.max(item.height + 1));
                    items.push(item.node);
                }
            }
        }
    }

    fn mapping(&mut self, at: Position, depth: usize) -> Result<Built, Unparsed> {
        let (mut entries, mut weight, mut height): (Vec<(Key, Node)>, _, _) = (Vec::new(), 1, 0);
        let mut seen = HashSet::new();
        loop {
            let (event, span) = self.inner()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Built { node: Node { at, value: Value::Mapping(entries) }, weight, height });
            }
            let Built { node: key, weight: of_key, .. } = self.node(event, span, depth + 1)?;
            let text = match key.value {
                Value::Scalar { text, .. } => text,
                Value::Null => "null".to_owned(),
                Value::Mapping(_) | Value::Sequence(_) => {
                    let problem = "a key is a list or a mapping; keys are texts (one that starts with `[` or `{` needs quotes)";
                    return Err(fault(key.at, problem.to_owned()));
                }
            };
            if !seen.insert(text.clone()) {
                return Err(Fault { at: key.at, problem: "given twice in one mapping (remove one)".to_owned(), key: text }.into());
            }
            let (event, span) = self.inner()?;
            let value = self.node(event, span, depth + 1)?;
            (weight, height) = (weight + of_key + value.weight, height.max(value.height + 1));
            entries.push((Key { at: key.at, text }, value.node));
        }
    }

    /// An alias is a copy, and the copy counts: that is what defuses a bomb. It nests as deep as what is copied.
    fn alias(&mut self, id: usize, at: Position, depth: usize) -> Result<Built, Unparsed> {
        let Some(Built { weight, height, .. }) = self.anchors.get(&id) else {
            return Err(fault(at, "an alias of what it stands in (write the value out)".to_owned()));
        };
        let (weight, height) = (*weight, *height);
        check_depth(depth + height, at)?;
        self.count(weight, at)?;
        let value = self.anchors[&id].node.value.clone();
        Ok(Built { node: Node { at, value }, weight, height })
    }

    fn count(&mut self, nodes: usize, at: Position) -> Result<(), Unparsed> {
        self.steps.charge_bytes(nodes)?;
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let problem = format!("over the budget of {MAX_NODES} YAML values, aliases expanded (write less, with fewer aliases)");
            return Err(fault(at, problem));
        }
        Ok(())
    }
}

fn check_depth(depth: usize, at: Position) -> Result<(), Unparsed> {
    if depth > MAX_DEPTH {
        return Err(fault(at, format!("nested deeper than {MAX_DEPTH} levels (nest less)")));
    }
    Ok(())
}

/// One that is at no key.
fn fault(at: Position, problem: String) -> Unparsed {
    Unparsed::Fault(Fault { at, key: String::new(), problem })
}

// === impl Node ===

impl Node {
    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Mapping(_) | Value::Null | Value::Sequence(_) => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// A plain `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match &self.value {
            Value::Scalar { text, quoted: false } => match text.as_str() {
                "true" | "True" | "TRUE" => Some(true),
                "false" | "False" | "FALSE" => Some(false),
                _ => None,
            },
            Value::Mapping(_) | Value::Null | Value::Scalar { .. } | Value::Sequence(_) => None,
        }
    }

    /// What it is, for messages: "a list", say.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Mapping(_) => "a mapping",
            Value::Null => "nothing",
            Value::Scalar { .. } => "a text",
            Value::Sequence(_) => "a list",
        }
    }

    /// How many values it is, itself included; a text of more than 16 bytes counts as several.
    pub fn weight(&self) -> usize {
        1 + match &self.value {
            Value::Mapping(entries) => entries.iter().map(|(key, node)| 1 + key.text.len() / COPIED + node.weight()).sum::<usize>(),
            Value::Sequence(items) => items.iter().map(Self::weight).sum(),
            Value::Scalar { text, .. } => text.len() / COPIED,
            Value::Null => 0,
        }
    }
}

// === impl Faults ===

impl Faults {
    /// For what a tenant writes: no more are kept than a message has room for.
    pub fn at_most(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    pub fn add(&mut self, at: Position, key: impl Into<String>, problem: impl Into<String>) {
        self.add_with(at, || (key.into(), problem.into()));
    }

    /// Key and problem are written only where they are kept.
    pub fn add_with(&mut self, at: Position, words: impl FnOnce() -> (String, String)) {
        if self.kept.len() < self.most {
            let (key, problem) = words();
            self.kept.push(Fault { at, key, problem });
        } else {
            self.more += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many were found, kept or not.
    pub fn len(&self) -> usize {
        self.kept.len() + self.more
    }

    /// How many were not kept.
    pub fn more(&self) -> usize {
        self.more
    }

    /// Those that were kept, in the order of the text.
    pub fn into_sorted(mut self) -> Vec<Fault> {
        self.kept.sort_by_key(|fault| fault.at);
        self.kept
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self { kept: Vec::new(), most: usize::MAX, more: 0 }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.problem) } else { write!(f, "{}: {}", self.key, self.problem) }
    }
}

// === impl Reader ===

impl<'n> Reader<'n> {
    /// Starts to read a mapping. Anything else is a fault; null is an empty mapping.
    pub fn of(node: &'n Node, path: impl Into<String>, faults: &mut Faults) -> Option<Self> {
        let path = path.into();
        let entries: &[(Key, Node)] = match &node.value {
            Value::Mapping(entries) => entries,
            Value::Null => &[],
            Value::Scalar { .. } | Value::Sequence(_) => {
                faults.add(node.at, path, format!("is {}, but must be a mapping (write a line `key: value` for each key)", node.kind()));
                return None;
            }
        };
        Some(Self { path, at: node.at, entries, known: Vec::new() })
    }

    /// Where the mapping stands.
    pub fn at(&self) -> Position {
        self.at
    }

    /// The full name of one of its keys.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key; null is as good as absent. From now on the key is known.
    pub fn get(&mut self, key: &'static str) -> Option<&'n Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.entries.iter().find(|(k, _)| k.text == key).map(|(_, node)| node).filter(|node| !node.is_null())
    }

    /// Every entry, for a mapping whose keys are names.
    pub fn entries(&self) -> &'n [(Key, Node)] {
        self.entries
    }

    /// The scalar text of a key; a list or mapping is a fault.
    pub fn text(&mut self, key: &'static str, faults: &mut Faults) -> Option<&'n str> {
        let node = self.get(key)?;
        if node.text().is_none() {
            faults.add(node.at, self.path(key), not_text(node));
        }
        node.text()
    }

    /// A key's text parsed; what the parser says is the fault.
    pub fn parsed<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        faults: &mut Faults,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(key, faults)?;
        let at = self.get(key)?.at;
        parse(text).map_err(|error| faults.add(at, self.path(key), error.to_string())).ok()
    }

    /// A plain `true` or `false`.
    pub fn boolean(&mut self, key: &'static str, faults: &mut Faults) -> Option<bool> {
        let node = self.get(key)?;
        let value = node.boolean();
        if value.is_none() {
            faults.add(node.at, self.path(key), "must be true or false (write one of them, without quotes)");
        }
        value
    }

    /// A list of texts; one text alone stands for a list of one.
    pub fn texts(&mut self, key: &'static str, faults: &mut Faults) -> Option<Vec<(Position, &'n str)>> {
        let node = self.get(key)?;
        let items = match &node.value {
            Value::Sequence(items) => items.as_slice(),
            Value::Mapping(_) | Value::Null | Value::Scalar { .. } => std::slice::from_ref(node),
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.text() {
                Some(text) => texts.push((item.at, text)),
                None => faults.add(
                    item.at,
                    self.path(key),
                    format!("holds {}, but must be a list of texts (write each on a line of its own, after `- `)", item.kind()),
                ),
            }
        }
        Some(texts)
    }

    /// The mapping under a key.
    pub fn reader(&mut self, key: &'static str, faults: &mut Faults) -> Option<Reader<'n>> {
        let node = self.get(key)?;
        Reader::of(node, self.path(key), faults)
    }

    /// Notes a key that must be there and is not.
    pub fn missing(&self, key: &str, remedy: &str, faults: &mut Faults) {
        faults.add(self.at, self.path(key), format!("is missing ({remedy})"));
    }

    /// Ends the reading: every key that nobody asked for is a fault that names the nearest known one.
    pub fn finish(self, faults: &mut Faults) {
        for (key, _) in self.entries {
            if !self.known.contains(&key.text.as_str()) {
                faults.add(key.at, self.path(&key.text), unknown_key(&key.text, &self.known));
            }
        }
    }
}

/// What to say of a value that is no text.
pub fn not_text(node: &Node) -> String {
    format!("is {}, but must be a text (write one value; one that starts with `[` or `{{` needs quotes)", node.kind())
}

/// `is unknown (did you mean `path`?)`, or, where nothing is near, the keys there are.
pub fn unknown_key(key: &str, known: &[&'static str]) -> String {
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("is no known key (did you mean `{near}`?)"),
        None => format!("is no known key (known here: {})", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kind of text, and one of this size.
    type Kind = (&'static str, fn(usize) -> String);

    #[test]
    fn positions_quotes_and_nulls_are_kept() {
        let node = parse("a: 0444\nb:\n  - \"0444\"\n  - ~\nc:\n").unwrap();
        let Value::Mapping(entries) = &node.value else { panic!() };
        assert_eq!(entries[0].1.at, Position { line: 1, column: 4 });
        assert!(matches!(&entries[0].1.value, Value::Scalar { text, quoted: false } if text == "0444"));
        let Value::Sequence(items) = &entries[1].1.value else { panic!() };
        assert!(matches!(&items[0].value, Value::Scalar { text, quoted: true } if text == "0444"));
        assert!(items[1].is_null() && entries[2].1.is_null());
        assert_eq!(items[0].at, Position { line: 3, column: 5 });
    }

    #[test]
    fn every_unknown_key_is_named_with_the_nearest() {
        let node = parse("path: x\nmoed: 1\nzzz: 2").unwrap();
        let mut faults = Faults::default();
        let mut reader = Reader::of(&node, "top", &mut faults).unwrap();
        assert_eq!(reader.text("path", &mut faults), Some("x"));
        assert_eq!(reader.text("mode", &mut faults), None);
        reader.finish(&mut faults);
        let shown: Vec<_> = faults.into_sorted().iter().map(|f| format!("{}: {f}", f.at.line)).collect();
        assert_eq!(shown, ["2: top.moed: is no known key (did you mean `mode`?)", "3: top.zzz: is no known key (known here: path, mode)"]);
    }

    #[test]
    fn an_alias_bomb_is_refused_quickly() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{},", level - 1).repeat(10);
            bomb += &format!("a{level}: &a{level} [{before}]\n");
        }
        assert!(parse(&bomb).unwrap_err().problem.contains("budget"));
        let long = format!("- &a {}\n- [{}]\n", "x".repeat(500_000), "*a,".repeat(50_000));
        assert!(parse(&long).unwrap_err().problem.contains("budget"), "50,000 copies of a long text are 25 GB");
    }

    fn nested_anchors(levels: usize, items: usize) -> String {
        let opened: String = (0..levels).map(|level| format!("&a{level} [")).collect();
        format!("{opened}{}{}", "x,".repeat(items), "]".repeat(levels))
    }

    #[test]
    fn what_an_anchor_copies_counts() {
        assert!(parse(&nested_anchors(31, 1_000)).is_ok());
        // 31 copies of 99,000 values.
        assert!(parse(&nested_anchors(31, 99_000)).unwrap_err().problem.contains("budget"));
        let texts: String = (0..500).map(|n| format!("- &a{n} {}\n", "x".repeat(4_000))).collect();
        assert!(parse(&texts).unwrap_err().problem.contains("budget"), "copies of 2 MB of text");
    }

    /// A chain of aliases nests deeper than any of its parts.
    #[test]
    fn an_alias_nests_as_deep_as_what_it_copies() {
        let link = |level: usize, inner: &str| format!("- &a{level} {}{inner}{}\n", "[".repeat(10), "]".repeat(10));
        let chain = |links: usize| {
            let first = link(0, "x");
            (1..links).fold(first, |chain, level| chain + &link(level, &format!("*a{}", level - 1)))
        };
        assert!(parse(&chain(3)).is_ok());
        let fault = parse(&chain(4)).unwrap_err();
        assert_eq!((fault.at.line, fault.problem.as_str()), (4, "nested deeper than 32 levels (nest less)"));
        assert!(parse(&chain(80)).unwrap_err().problem.contains("nested"));
    }

    /// The stack of a thread of the runtime, whose frames are larger in this build than in a release.
    #[test]
    fn the_deepest_tree_fits_the_stack() {
        let deepest = || {
            let [flow, block, mapping] = [("[", "x", "]"), ("- ", "x", ""), ("{a: ", "x", "}")]
                .map(|(open, inner, close)| parse(&format!("{}{inner}{}", open.repeat(32), close.repeat(32))).unwrap());
            assert_eq!([&flow, &block, &mapping].map(Node::weight), [33, 33, 65]);
            drop(flow.clone());
            assert!(parse(&"- ".repeat(125_000)).is_err() && parse(&"[".repeat(250_000)).is_err());
            assert!(parse(&"? ".repeat(125_000)).is_err() && parse(&"{a: ".repeat(62_500)).is_err());
        };
        std::thread::Builder::new().stack_size(2 << 20).spawn(deepest).unwrap().join().unwrap();
    }

    fn steps_of(text: &str) -> u64 {
        let steps = Steps::unbounded();
        let _ = parse_within(text, &steps);
        steps.spent()
    }

    #[test]
    fn twice_the_text_takes_twice_the_steps() {
        let kinds: [Kind; 8] = [
            ("lines", |n| "- a\n".repeat(n)),
            ("flow", |n| format!("[{}]", "a,".repeat(n))),
            ("members", |n| (0..n).map(|n| format!("key{n:06}: x\n")).collect()),
            ("comments", |n| "# a\n".repeat(n)),
            ("anchors", |n| (0..n).map(|n| format!("- &a{n:06} x\n")).collect()),
            ("aliases", |n| format!("- &a [x, y]\n{}", "- *a\n".repeat(n))),
            ("anchors in anchors", |n| nested_anchors(8, n)),
            ("one text", |n| "a b ".repeat(n)),
        ];
        for (kind, text) in kinds {
            let (once, twice) = (steps_of(&text(5_000)), steps_of(&text(10_000)));
            assert!(twice * 10 <= once * 22, "{kind}: {once}, {twice}");
        }
    }

    #[test]
    fn parsing_ends_with_the_steps() {
        let steps = Steps::new(10_000, tokio::time::Instant::now() + tokio::time::Duration::from_mins(1));
        assert_eq!(parse_within(&"- a\n".repeat(60_000), &steps).unwrap_err(), Unparsed::Spent(Spent::Steps(10_000)));
        assert_eq!(steps.spent(), 240_000, "a text that is too long is not begun");
        let steps = Steps::new(100_000, tokio::time::Instant::now() + tokio::time::Duration::from_mins(1));
        assert!(parse_within(&"- a\n".repeat(20_000), &steps).is_err());
        assert!(steps.spent() < 101_000);
    }

    #[test]
    fn deep_nesting_duplicate_keys_and_bad_syntax_are_faults() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"- ".repeat(40)).unwrap_err().problem.contains("nested"));
        let twice = parse("a: 1\nb: 2\na: 3").unwrap_err();
        assert_eq!((twice.at.line, twice.key.as_str()), (3, "a"));
        assert!(parse("a: [1, 2").unwrap_err().problem.contains("not valid YAML"));
        assert!(parse("a: &x [*x]").is_err());
        assert!(parse("a: 1\n---\nb: 2").unwrap_err().problem.contains("second"));
    }

    #[test]
    fn aliases_and_several_documents_are_read() {
        let node = parse("a: &x {k: v}\nb: *x").unwrap();
        let mut faults = Faults::default();
        let mut reader = Reader::of(&node, "", &mut faults).unwrap();
        let mut b = reader.reader("b", &mut faults).unwrap();
        assert_eq!(b.text("k", &mut faults), Some("v"));
        assert_eq!(parse_all("a: 1\n---\nb: 2\n").unwrap().len(), 2);
        assert!(parse("").unwrap().is_null());
        assert!(parse("# only a comment\n").unwrap().is_null());
    }
}
