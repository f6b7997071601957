//! YAML as a tree that remembers the place of each value, and readers that note every fault instead of stopping at the first.
//!
//! serde stops at the first fault and forgets positions. Users of the configuration and of classes need all faults at once, each with its
//! line. The parser is granit-parser (the one in serde-saphyr). The tree has its own limits, so that aliases cannot turn a document of a
//! few hundred bytes into a million nodes.
//!
//! Other programs read the same texts: kubectl reads the manifests, the providers for Vault and OpenBao read `objects`, and an admission
//! rule may check a class. If two readers of one text disagree, one of them can be deceived. So Keyferry reads the same value as those
//! programs, or reports a fault: `tests/golden/yaml.json` has their answers.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag};

use self::merge::{MERGE, Merge, is_merge};
use self::scalar::{Plain, Scalar};
use crate::steps::{Spent, Steps};

mod merge;
mod reader;
mod scalar;
mod source;
#[cfg(test)]
mod tests;
mod time;

pub use reader::{Fault, Faults, Reader, not_text, unknown_key};
pub use scalar::Kind;

/// The most nodes that all documents of a text may have, with every copy that an anchor or an alias makes.
const MAX_NODES: usize = 100_000;

/// The deepest nesting, aliases expanded: code that reads a tree, compares or drops it recurses that deep.
const MAX_DEPTH: usize = 32;

/// In a copy, this many bytes of a text count as one more node: so at most 1.6 MB are copied.
const COPIED: usize = 16;

/// The steps of the parser for one event: up to 300 ns, with any text around it.
const EVENT: u64 = 128;

/// The most likely causes of a syntax fault, which the parser notices some lines later.
const SYNTAX_REMEDY: &str =
    "look there and just above for an open bracket or quote, a tab, uneven indentation, or a value that needs quotes";

/// A place in a text; both from 1.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// A value and its place.
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
    /// The text as written, without quotes, for numbers and booleans too: the code that reads it knows which kind it needs.
    Scalar {
        text: String,
        kind: Kind,
    },
    Sequence(Vec<Node>),
}

#[derive(Clone, Debug)]
pub struct Key {
    pub at: Position,
    pub text: String,
    /// The kind of value that it was before it became a key.
    pub kind: Kind,
}

/// Whose rules decide what a text means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Schema {
    /// kubectl's (sigs.k8s.io/yaml): for manifests.
    Kubernetes,
    /// The rules of gopkg.in/yaml.v3, with which the providers for Vault and OpenBao read `objects`: for these, and for Keyferry's own
    /// files.
    V3,
}

/// Why a text has no tree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unparsed {
    Fault(Fault),
    Spent(Spent),
}

/// Parses all documents of a stream of manifests, as kubectl reads them.
///
/// # Errors
/// The first syntax fault, a duplicate key, a text that kubectl would read in another way, or a limit exceeded (100,000 values, 32 levels).
pub fn parse_all(text: &str) -> Result<Vec<Node>, Fault> {
    documents(text, Schema::Kubernetes, &Steps::unbounded()).map_err(Unparsed::into_fault)
}

/// Parses a text of one document. An empty text is null, and an empty document at its end is nothing.
///
/// # Errors
/// As [`parse_all`], or a second document.
pub fn parse(text: &str) -> Result<Node, Fault> {
    parse_within(text, &Steps::unbounded()).map_err(Unparsed::into_fault)
}

/// The same, as long as there are steps.
///
/// # Errors
/// As [`parse`], or the steps are used up.
pub fn parse_within(text: &str, steps: &Steps) -> Result<Node, Unparsed> {
    parse_as(Schema::V3, text, steps)
}

/// The same with the rules of one of the programs.
///
/// # Errors
/// As [`parse_within`].
pub fn parse_as(schema: Schema, text: &str, steps: &Steps) -> Result<Node, Unparsed> {
    let mut documents = documents(text, schema, steps)?;
    while documents.len() > 1 && documents.last().is_some_and(Node::is_null) {
        documents.pop();
    }
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
fn documents(text: &str, schema: Schema, steps: &Steps) -> Result<Vec<Node>, Unparsed> {
    steps.charge_bytes(text.len())?;
    source::check(text, schema)?;
    let parser = Parser::new_from_str_with_options(text, options());
    let mut builder = Builder {
        text,
        is_json: schema == Schema::Kubernetes && text.trim_start().starts_with('{'),
        parser,
        schema,
        anchors: HashMap::new(),
        nodes: 0,
        steps,
    };
    let mut documents = Vec::new();
    while let Some((event, span)) = builder.next()? {
        match event {
            // Both programs skip such a document without a message.
            Event::DocumentStart(false, _) if !documents.is_empty() => {
                let problem = "a document starts here without `---`, and other programs would not read it (write `---` before it)";
                return Err(fault(position(span), problem.to_owned()));
            }
            Event::DocumentStart(..) => builder.anchors.clear(),
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | Event::Comment(..) | Event::Anchor(..) => {}
            node => documents.push(builder.node(node, span, 0)?.node),
        }
    }
    Ok(documents)
}

/// Directives change how tags are read, and not all readers support them.
fn options() -> Options {
    granit_parser::options! { disallow_directives: true, emit_anchor_events: true }
}

struct Builder<'t> {
    text: &'t str,
    /// kubectl first tries to read a text with this start as JSON.
    is_json: bool,
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    schema: Schema,
    anchors: HashMap<usize, Built>,
    /// The nodes of all documents, copies too.
    nodes: usize,
    steps: &'t Steps,
}

/// A node, and the size of a copy of it.
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
            Some(Ok((Event::Anchor(_, name), span))) if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) => {
                Err(fault(
                    position(span),
                    "the name of an anchor has a character that not all readers take (use letters, digits, `-` and `_`)".to_owned(),
                ))
            }
            Some(Ok(event)) => Ok(Some(event)),
            Some(Err(error)) => {
                let marker = error.marker();
                let at = Position { line: marker.line(), column: marker.col() + 1 };
                let is_directive = error.info().contains("directives");
                let remedy = if is_directive { "remove the line that begins with `%`" } else { SYNTAX_REMEDY };
                Err(fault(at, format!("not valid YAML: {} ({remedy})", error.info())))
            }
        }
    }

    /// The next event of a node's content. Comments and similar events are skipped.
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
        let at = position(span);
        self.count(1, at)?;
        check_depth(depth, at)?;
        self.check_source(&event, span, at)?;
        let (built, anchor) = match event {
            Event::Alias(id) => return self.alias(id, at, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let weight = 1 + text.len() / COPIED;
                let value = self.scalar(text.into_owned(), style, tag.as_deref(), at)?;
                (Built { node: Node { at, value }, weight, height: 0 }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), "seq", at)?;
                (self.sequence(at, depth)?, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), "map", at)?;
                (self.mapping(at, depth)?, anchor)
            }
            _ => return Err(fault(at, "is not a YAML value (write a text, a list or a mapping)".to_owned())),
        };
        if anchor != 0 {
            // A value that is kept for aliases is a copy already: with anchors around anchors, the innermost value is kept many times.
            self.count(built.weight, at)?;
            self.anchors.insert(anchor, built.clone());
        }
        Ok(built)
    }

    /// Checks how a value is written, if that makes a difference to some readers.
    fn check_source(&self, event: &Event<'_>, span: Span, at: Position) -> Result<(), Unparsed> {
        if let Some(start) = span.start.byte_offset() {
            source::check_before(self.text.get(..start).unwrap_or_default(), at)?;
        }
        if matches!(event, Event::Scalar(_, ScalarStyle::DoubleQuoted, ..)) && !self.is_json {
            source::check_escapes(span.slice(self.text).unwrap_or_default(), at)?;
        }
        Ok(())
    }

    fn scalar(&self, text: String, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Result<Value, Unparsed> {
        let quoted = style != ScalarStyle::Plain;
        let tag = tag.map(|tag| name_of(tag).ok_or_else(|| fault(at, unread_tag(None)))).transpose()?;
        let plain = Plain { text: &text, quoted, tag: tag.as_deref() };
        Ok(match plain.read(self.schema).map_err(|problem| fault(at, problem))? {
            Scalar::Null => Value::Null,
            Scalar::Decoded(text) => Value::Scalar { text, kind: Kind::Text },
            Scalar::Is(kind) => Value::Scalar { text, kind },
        })
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
        let (mut seen, mut merge): (_, Option<Merge>) = (HashSet::new(), None);
        loop {
            let (event, span) = self.inner()?;
            if matches!(event, Event::MappingEnd) {
                if let Some(merge) = merge {
                    merge.into_entries(&mut entries, self.schema)?;
                }
                return Ok(Built { node: Node { at, value: Value::Mapping(entries) }, weight, height });
            }
            let is_merge = is_merge(&event);
            let at = position(span);
            let (key, of_key) = if is_merge {
                self.count(1, at)?;
                (Key { at, text: MERGE.to_owned(), kind: Kind::Text }, 1)
            } else {
                check_key_tag(&event, at)?;
                let built = self.node(event, span, depth + 1)?;
                (self.key(built.node)?, built.weight)
            };
            if !seen.insert(key.text.clone()) {
                return Err(Fault { at: key.at, problem: "given twice in one mapping (remove one)".to_owned(), key: key.text }.into());
            }
            let (event, span) = self.inner()?;
            let value = self.node(event, span, depth + 1)?;
            weight += of_key + value.weight;
            if is_merge {
                // Merged values move up: by one level, or by two from a list.
                height = height.max(value.height);
                merge = Some(Merge { at: key.at, after: entries.len(), from: value.node });
            } else {
                height = height.max(value.height + 1);
                entries.push((key, value.node));
            }
        }
    }

    fn key(&self, node: Node) -> Result<Key, Unparsed> {
        let at = node.at;
        match node.value {
            Value::Scalar { text, kind } => {
                let written = match self.schema {
                    Schema::Kubernetes => kind.to_key(&text),
                    Schema::V3 => Some(text),
                };
                written
                    .map(|text| Key { at, text, kind })
                    .ok_or_else(|| fault(at, "a key is a number that Kubernetes does not take as a key (put it in quotes)".to_owned()))
            }
            Value::Null => Err(fault(at, "a key is empty or null; keys are texts (write one, or put it in quotes)".to_owned())),
            Value::Mapping(_) | Value::Sequence(_) => {
                let problem = "a key is a list or a mapping; keys are texts (one that starts with `[` or `{` needs quotes)";
                Err(fault(at, problem.to_owned()))
            }
        }
    }

    /// An alias is a copy, and the copy counts: so a small text cannot become a huge tree. It nests as deep as its original.
    fn alias(&mut self, id: usize, at: Position, depth: usize) -> Result<Built, Unparsed> {
        let Some(Built { weight, height, .. }) = self.anchors.get(&id) else {
            return Err(fault(at, "an alias of a value that it is part of (write the value out)".to_owned()));
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

fn position(span: Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

/// The name of a tag from YAML's own namespace, such as `int` of `!!int`.
fn name_of(tag: &Tag) -> Option<String> {
    tag.suffix_in_namespace("tag:yaml.org,2002:").map(std::borrow::Cow::into_owned)
}

/// Tags of lists and mappings either have no effect, or are refused.
fn check_tag(tag: Option<&Tag>, natural: &str, at: Position) -> Result<(), Unparsed> {
    match tag {
        Some(tag) if name_of(tag).as_deref() != Some(natural) => Err(fault(at, unread_tag(name_of(tag).as_deref()))),
        Some(_) | None => Ok(()),
    }
}

/// A decoded key is not a text for all readers.
fn check_key_tag(event: &Event<'_>, at: Position) -> Result<(), Unparsed> {
    let Event::Scalar(_, _, _, Some(tag)) = event else { return Ok(()) };
    if name_of(tag).as_deref() == Some("binary") { Err(fault(at, unread_tag(name_of(tag).as_deref()))) } else { Ok(()) }
}

/// A message shows a tag only if it is YAML's: any other text may be a value that begins with `!`. `name`: of a tag in YAML's own
/// namespace.
fn unread_tag(name: Option<&str>) -> String {
    const OWN: [&str; 15] =
        ["binary", "bool", "float", "int", "map", "merge", "null", "omap", "pairs", "seq", "set", "str", "timestamp", "value", "yaml"];
    match name.filter(|name| OWN.contains(name)) {
        Some(name) => format!("the tag `!!{name}` is not read here (remove it; `!!str` makes a text)"),
        None => "a tag, which is a word that begins with `!`, is not read here (put a text that begins with `!` in quotes)".to_owned(),
    }
}

/// A fault without a key.
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
            Value::Scalar { kind: Kind::Boolean(value), .. } => Some(*value),
            Value::Mapping(_) | Value::Null | Value::Scalar { .. } | Value::Sequence(_) => None,
        }
    }

    /// The kind of value, for messages: for example "a list".
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Mapping(_) => "a mapping",
            Value::Null => "nothing",
            Value::Scalar { .. } => "a text",
            Value::Sequence(_) => "a list",
        }
    }

    /// How many values it counts as, itself included. A text of more than 16 bytes counts as several.
    pub fn weight(&self) -> usize {
        1 + match &self.value {
            Value::Mapping(entries) => entries.iter().map(|(key, node)| 1 + key.text.len() / COPIED + node.weight()).sum::<usize>(),
            Value::Sequence(items) => items.iter().map(Self::weight).sum(),
            Value::Scalar { text, .. } => text.len() / COPIED,
            Value::Null => 0,
        }
    }
}
