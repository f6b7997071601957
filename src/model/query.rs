//! What an object's `field` asks for: a field with exactly that name, or else what the text finds as a JMESPath expression
//! (<https://jmespath.org/specification.html>).
//!
//! The author of a class writes the expression, and one class must not harm another's mount. JMESPath has no loops, but a short expression
//! can nest deep enough to overflow a stack (`((((`...), and double its value with every few characters (`[@,@]|[@,@]|`...). So there are
//! three limits, which are checked before an expression runs: on the length, on the operators, which nest, and on the *growth*: how many
//! times larger than the secret a value may become meanwhile. A fourth limit, on the steps of a search, also depends on the document.

use std::fmt;
use std::str::FromStr;

use jmespath::ast::Ast;
use jmespath::{Context, ErrorReason, Rcvar, RuntimeError, Variable};
use serde_json::value::RawValue;
use thiserror::Error;

use super::{FieldName, quoted};

pub use multiselect::Missing;

mod calls;
mod multiselect;
mod whole;

/// The longest expression in bytes.
const MAX_LENGTH: usize = 1024;

/// The most operators: parser, interpreter and destructor each recurse at most this deep.
const MAX_OPERATORS: usize = 64;

/// Signs that open a nesting or link two parts. Signs in quoted texts count too: a few more do no harm.
const OPERATORS: &[char] = &['.', '[', '(', '{', '!', '&', '|', '*', '<', '>', '=', '?'];

/// Signs that most expressions have, and names of fields usually do not. Dots and dashes are in names such as `tls.crt` and `ca-cert`.
const EXPRESSION: &[char] = &['[', ']', '{', '}', '(', ')', '|', '&', '*', '@'];

/// The most that a value may grow, with a secret of any size. A renderer multiplies the growth with the size, and has its own limit.
const MAX_GROWTH: u64 = 100_000;

/// The largest number in a slice: with it, the sums of the interpreter stay within 32 bits.
const MAX_SLICE: u32 = 1_000_000_000;

/// A field's name, or an expression over the fields.
#[derive(Clone)]
pub struct Query {
    text: FieldName,
    meaning: Meaning,
}

/// What the text is if no field has that name.
#[derive(Clone, Debug)]
enum Meaning {
    Expression {
        ast: Box<Ast>,
        cost: Box<Cost>,
    },
    /// A plain name, or a text that is meant as a name: if no field has it, there is nothing to search for.
    Name,
    /// Not an expression, from this character on (from 1).
    Neither(usize),
}

/// Why a text cannot be a query. The message completes "the field ...".
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum InvalidQuery {
    /// It fails with every document: there is no such function, or it takes another number of arguments.
    #[error("is a JMESPath expression that always fails: {0}")]
    Call(String),
    #[error("is empty")]
    Empty,
    #[error("could make a value more than {MAX_GROWTH} times as large as the secret")]
    Growth,
    #[error("joins with a text that is not a literal, so the result could have any size")]
    OpenJoin,
    #[error("has more than {MAX_OPERATORS} operators ({0})")]
    Operators(usize),
    #[error("has a number over {MAX_SLICE} in a slice")]
    Slice,
    #[error("uses `&` outside the arguments of map, max_by, min_by and sort_by")]
    StrayReference,
    #[error("is not a JMESPath expression: it is wrong at character {0}")]
    Syntax(usize),
    #[error("is {0} bytes long: at most {MAX_LENGTH} are allowed")]
    TooLong(usize),
}

/// Why an expression gave nothing. Neither message shows a value.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum QueryError {
    /// It finds something that it was not written for, such as a number where it needs a text.
    #[error("the JMESPath expression fails: {0}")]
    Failed(String),
    /// It is not an expression at all.
    #[error("as a JMESPath expression it is wrong at character {0}")]
    Syntax(usize),
}

// === impl Query ===

impl Query {
    /// An expression, even if the text could be the name of a field.
    ///
    /// # Errors
    /// It is not an expression, or exceeds a limit.
    pub fn expression(text: &str) -> Result<Self, InvalidQuery> {
        check_length(text)?;
        let query = Self { text: FieldName::new(text), meaning: Meaning::expression(text)? };
        match &query.meaning {
            Meaning::Neither(character) => Err(InvalidQuery::Syntax(*character)),
            Meaning::Expression { .. } | Meaning::Name => query.wrong_call().map_or(Ok(query), |call| Err(InvalidQuery::Call(call))),
        }
    }

    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }

    /// The text as the name of a field, which it may be.
    pub fn name(&self) -> &FieldName {
        &self.text
    }

    /// How many times larger than the searched document a value can become; at least 1.
    pub fn growth(&self) -> u64 {
        match &self.meaning {
            Meaning::Expression { cost, .. } => cost.growth,
            Meaning::Name | Meaning::Neither(_) => 1,
        }
    }

    /// How many values can exist at once, as a multiple of those in the searched document; at least 1.
    pub fn values(&self) -> u64 {
        match &self.meaning {
            Meaning::Expression { cost, .. } => cost.values,
            Meaning::Name | Meaning::Neither(_) => 1,
        }
    }

    /// The most steps for a search in a document with this many bytes and values.
    pub fn steps(&self, bytes: u64, values: u64) -> u64 {
        match &self.meaning {
            Meaning::Expression { cost, .. } => {
                cost.fixed.saturating_add(cost.per_byte.saturating_mul(bytes)).saturating_add(cost.per_value.saturating_mul(values))
            }
            Meaning::Name | Meaning::Neither(_) => 1,
        }
    }

    /// Whether it needs a document to search, if no field has the name.
    pub fn is_expression(&self) -> bool {
        matches!(self.meaning, Meaning::Expression { .. })
    }

    /// What is wrong with a text that looks like an expression. A field may still have that name.
    pub fn suspicious(&self) -> Option<InvalidQuery> {
        match self.meaning {
            Meaning::Neither(character) if self.as_str().contains(EXPRESSION) => Some(InvalidQuery::Syntax(character)),
            Meaning::Expression { .. } => self.wrong_call().map(InvalidQuery::Call),
            Meaning::Name | Meaning::Neither(_) => None,
        }
    }

    fn wrong_call(&self) -> Option<String> {
        let Meaning::Expression { ast, .. } = &self.meaning else { return None };
        calls::wrong(ast, &mut Context::new(self.as_str(), &whole::RUNTIME))
    }

    /// The first member of `{a: x, b: y}` or `[x, y]` that is a plain path and finds nothing.
    pub fn missing(&self, document: &Rcvar) -> Option<Missing> {
        match &self.meaning {
            Meaning::Expression { ast, .. } => multiselect::missing(ast, document),
            Meaning::Name | Meaning::Neither(_) => None,
        }
    }

    /// What a plain path such as `db.ports[0]` finds, to the digit. `None`: the expression is not a plain path, or finds nothing.
    pub fn written<'d>(&self, document: &'d RawValue) -> Option<&'d RawValue> {
        match &self.meaning {
            Meaning::Expression { ast, .. } => multiselect::written(ast, document),
            Meaning::Name | Meaning::Neither(_) => None,
        }
    }

    /// What the expression finds; `None` is null, which is absent.
    pub fn search(&self, document: &Rcvar) -> Result<Option<Rcvar>, QueryError> {
        let ast = match &self.meaning {
            Meaning::Expression { ast, .. } => ast,
            Meaning::Name => return Ok(None),
            Meaning::Neither(character) => return Err(QueryError::Syntax(*character)),
        };
        let found = jmespath::interpret(document, ast, &mut Context::new(self.as_str(), &whole::RUNTIME));
        match found {
            Ok(value) => Ok(Some(value).filter(|value| !value.is_null())),
            Err(error) => Err(QueryError::Failed(match error.reason {
                ErrorReason::Runtime(reason) => explain(&reason),
                ErrorReason::Parse(_) => "an argument of a function is not what it must be".to_owned(),
            })),
        }
    }
}

/// It names types and functions, and never a value.
fn explain(reason: &RuntimeError) -> String {
    match reason {
        RuntimeError::InvalidReturnType { expected, actual, .. } => {
            format!("`&` must give {}, but gives {actual}", expected.replace("expression->", ""))
        }
        RuntimeError::InvalidSlice => "a slice has the step 0".to_owned(),
        RuntimeError::InvalidType { expected, actual, position } => {
            format!("argument {} of a function must be {expected}, but is {actual}", position + 1)
        }
        RuntimeError::NotEnoughArguments { expected, actual } | RuntimeError::TooManyArguments { expected, actual } => {
            let s = if *expected == 1 { "" } else { "s" };
            format!("a function takes {expected} argument{s}, but gets {actual}")
        }
        RuntimeError::UnknownFunction(name) => format!("there is no function {}", quoted(name)),
    }
}

impl FromStr for Query {
    type Err = InvalidQuery;

    fn from_str(text: &str) -> Result<Self, InvalidQuery> {
        check_length(text)?;
        Ok(Self { text: FieldName::new(text), meaning: Meaning::of(text)? })
    }
}

fn check_length(text: &str) -> Result<(), InvalidQuery> {
    match text.len() {
        0 => Err(InvalidQuery::Empty),
        length if length > MAX_LENGTH => Err(InvalidQuery::TooLong(length)),
        _ => Ok(()),
    }
}

impl Meaning {
    fn of(text: &str) -> Result<Self, InvalidQuery> {
        if is_identifier(text) { Ok(Self::Name) } else { Self::expression(text) }
    }

    /// Reads the text as an expression, never as a name.
    fn expression(text: &str) -> Result<Self, InvalidQuery> {
        let operators = text.matches(OPERATORS).count();
        if operators > MAX_OPERATORS {
            return Err(InvalidQuery::Operators(operators));
        }
        match jmespath::parse(text) {
            Ok(ast) => {
                let cost = Box::new(cost(&ast)?);
                if cost.growth > MAX_GROWTH { Err(InvalidQuery::Growth) } else { Ok(Self::Expression { ast: Box::new(ast), cost }) }
            }
            Err(error) => Ok(Self::Neither(error.offset + 1)),
        }
    }
}

/// An unquoted name, as JMESPath defines it.
fn is_identifier(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Query({:?})", self.as_str())
    }
}

/// Limits for what an expression makes of a document, and for the work.
///
/// Each part of an expression sees only its input. So limits multiply along a path, and add up side by side. A projection applies its right
/// side to the elements, whose sizes add up to the list's.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Cost {
    /// `k`: no value that the expression makes is larger than `k` times its input. Sizes are those of the JSON.
    growth: u64,
    /// The same for the number of values that are made.
    values: u64,
    /// Steps for any document.
    fixed: u64,
    /// Steps for each byte of the document.
    per_byte: u64,
    /// Steps for each value in it.
    per_value: u64,
}

/// The steps to look up a name: a missing name costs an allocation.
const LOOK: u64 = 32;

/// The steps for a new value: it is allocated, and freed.
const MADE: u64 = 32;

/// The steps to put a value into a new list.
const LISTED: u64 = 4;

/// For a sort: the logarithm of the most values that a document of 1 MiB can have.
const SORT: u64 = 20;

impl Cost {
    /// One value that exists already.
    fn of_one(fixed: u64) -> Self {
        Self { growth: 1, values: 1, fixed, ..Self::default() }
    }

    /// First this, then `right` on the result.
    fn then(self, right: Self) -> Self {
        Self {
            growth: self.growth.saturating_mul(right.growth),
            values: self.values.saturating_mul(right.values),
            fixed: self.fixed.saturating_add(right.fixed),
            per_byte: self.per_byte.saturating_add(self.growth.saturating_mul(right.per_byte)),
            per_value: self.per_value.saturating_add(self.values.saturating_mul(right.per_value)),
        }
    }

    /// First this, then `right` on each element of the result.
    fn then_each(self, right: Self) -> Self {
        let each = Self { fixed: MADE, per_value: right.per_value.saturating_add(right.fixed).saturating_add(LISTED), ..right };
        self.then(each)
    }

    /// Both on the same input.
    fn and(self, other: Self) -> Self {
        Self {
            growth: self.growth.saturating_add(other.growth),
            values: self.values.saturating_add(other.values),
            fixed: self.fixed.saturating_add(other.fixed),
            per_byte: self.per_byte.saturating_add(other.per_byte),
            per_value: self.per_value.saturating_add(other.per_value),
        }
    }

    /// Something of `bytes` is made around the result.
    fn within(self, bytes: u64) -> Self {
        self.and(Self { growth: bytes, values: 1, fixed: bytes.saturating_add(MADE), ..Self::default() })
    }

    /// Every byte and every value of the result is looked at this many times.
    fn looked_at(self, times: u64) -> Self {
        self.then(Self { growth: 1, values: 1, fixed: 1, per_byte: times, per_value: times })
    }

    fn grown(self, times: u64) -> Self {
        Self { growth: self.growth.saturating_mul(times), ..self }
    }
}

fn cost(ast: &Ast) -> Result<Cost, InvalidQuery> {
    Ok(match ast {
        Ast::Field { name, .. } => Cost::of_one(LOOK + name.len() as u64),
        Ast::Identity { .. } | Ast::Index { .. } => Cost::of_one(1),
        Ast::Literal { value, .. } => Cost { growth: size(value), values: values(value), ..Cost::of_one(1) },
        Ast::Slice { start, stop, step, .. } => {
            let within = |number: i32| number.unsigned_abs() <= MAX_SLICE;
            if !(start.is_none_or(within) && stop.is_none_or(within) && within(*step)) {
                return Err(InvalidQuery::Slice);
            }
            Cost { per_value: LISTED, ..Cost::of_one(MADE) }
        }
        Ast::Flatten { node, .. } | Ast::ObjectValues { node, .. } => cost(node)?.then(Cost { per_value: LISTED, ..Cost::of_one(MADE) }),
        Ast::Not { node, .. } => cost(node)?.then(Cost::of_one(MADE)),
        Ast::Projection { lhs, rhs, .. } => cost(lhs)?.then_each(cost(rhs)?),
        Ast::Subexpr { lhs, rhs, .. } => cost(lhs)?.then(cost(rhs)?),
        Ast::And { lhs, rhs, .. } | Ast::Or { lhs, rhs, .. } => cost(lhs)?.and(cost(rhs)?),
        Ast::Comparison { lhs, rhs, .. } => {
            let both = cost(lhs)?.and(cost(rhs)?);
            // At most as much is looked at as the smaller one has.
            let compared = match (&**lhs, &**rhs) {
                (Ast::Literal { value, .. }, _) | (_, Ast::Literal { value, .. }) => both.then(Cost::of_one(size(value))),
                _ => both.looked_at(1),
            };
            compared.then(Cost::of_one(MADE))
        }
        Ast::Condition { predicate, then, .. } => cost(predicate)?.and(cost(then)?),
        Ast::MultiList { elements, .. } => all(elements.iter().map(cost))?.within(elements.len() as u64 + 1),
        Ast::MultiHash { elements, .. } => {
            all(elements.iter().map(|pair| Ok(cost(&pair.value)?.within(pair.key.len() as u64 + 4))))?.within(1)
        }
        Ast::Expref { .. } => return Err(InvalidQuery::StrayReference),
        Ast::Function { name, args, .. } => cost_of_call(name, args)?,
    })
}

fn cost_of_call(name: &str, args: &[Ast]) -> Result<Cost, InvalidQuery> {
    match (name, args) {
        ("map", [Ast::Expref { ast, .. }, list]) => Ok(cost(list)?.then_each(cost(ast)?.within(1))),
        ("max_by" | "min_by", [list, Ast::Expref { ast, .. }]) => Ok(cost(list)?.then_each(cost(ast)?.looked_at(2).within(1))),
        ("sort_by", [list, Ast::Expref { ast, .. }]) => Ok(cost(list)?.then_each(cost(ast)?.looked_at(SORT).within(1))),
        ("join", [Ast::Literal { value, .. }, list]) => Ok(cost(list)?.looked_at(1).grown(size(value))),
        ("join", [_, _]) => Err(InvalidQuery::OpenJoin),
        // JSON within a JSON text: each quote and backslash gets another backslash.
        ("to_string", [value]) => Ok(cost(value)?.looked_at(2).grown(2)),
        ("sort", [list]) => Ok(cost(list)?.looked_at(SORT).within(1)),
        // Types are checked first.
        _ => Ok(all(args.iter().map(cost))?.looked_at(2).within(1)),
    }
}

fn all(costs: impl Iterator<Item = Result<Cost, InvalidQuery>>) -> Result<Cost, InvalidQuery> {
    costs.into_iter().try_fold(Cost::default(), |sum, cost| Ok(sum.and(cost?)))
}

fn size(literal: &Rcvar) -> u64 {
    literal.to_string().len() as u64
}

fn values(literal: &Variable) -> u64 {
    1 + match literal {
        Variable::Array(items) => items.iter().map(|item| values(item)).sum::<u64>(),
        Variable::Object(members) => members.values().map(|member| values(member)).sum(),
        Variable::Bool(_) | Variable::Expref(_) | Variable::Null | Variable::Number(_) | Variable::String(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn search(query: &str, document: &str) -> Result<Option<String>, QueryError> {
        let document = Rcvar::new(Variable::from_json(document).unwrap());
        query.parse::<Query>().unwrap().search(&document).map(|found| found.map(|value| value.to_string()))
    }

    fn refused(query: &str) -> InvalidQuery {
        query.parse::<Query>().unwrap_err()
    }

    #[test]
    fn what_people_write() {
        let document = r#"{"db": {"users": [{"name": "a", "pw": "1"}, {"name": "b", "pw": "2"}]}, "user": "u", "pw": "p"}"#;
        assert_eq!(search("db.users[0].name", document).unwrap().unwrap(), r#""a""#);
        assert_eq!(search("db.users[?name=='b'].pw | [0]", document).unwrap().unwrap(), r#""2""#);
        assert_eq!(search("join(':', [user, pw])", document).unwrap().unwrap(), r#""u:p""#);
        assert_eq!(search("{name: user, password: pw}", document).unwrap().unwrap(), r#"{"name":"u","password":"p"}"#);
        assert_eq!(search("sort_by(db.users, &pw)[-1].name", document).unwrap().unwrap(), r#""b""#);
        assert_eq!(search("db.users[*].{n: name, p: pw}", document).unwrap().unwrap(), r#"[{"n":"a","p":"1"},{"n":"b","p":"2"}]"#);
        assert_eq!(search("db.missing", document).unwrap(), None);
    }

    #[test]
    fn a_plain_path_finds_what_is_written() {
        let document: &RawValue =
            serde_json::from_str(r#" {"a":{"b":[1.10,{"c":1e3}]},"a b":-0,"n":1,"n":12345678901234567890123} "#).unwrap();
        let written = |path: &str| Query::expression(path).unwrap().written(document).map(RawValue::get);
        for (path, text) in [
            ("a.b[0]", "1.10"),
            ("a.b[-2]", "1.10"),
            ("a.b[1].c", "1e3"),
            ("\"a b\"", "-0"),
            ("n", "12345678901234567890123"),
            ("@.n", "12345678901234567890123"),
        ] {
            assert_eq!(written(path), Some(text), "{path}");
        }
        for path in ["a.b[2]", "a.b[-3]", "a.x", "n.x", "n[0]", "a.b[*]", "n || a", "to_string(n)"] {
            assert_eq!(written(path), None, "{path}");
        }
    }

    #[test]
    fn names_that_are_no_expressions_are_queries_still() {
        assert_eq!(search("ca-cert", "{}"), Err(QueryError::Syntax(3)));
        assert_eq!(search(".dockerconfigjson", "{}"), Err(QueryError::Syntax(1)));
        assert_eq!(search("password", r#"{"password": "x"}"#), Ok(None), "a plain name is looked up before, never searched");
    }

    #[test]
    fn what_was_likely_meant_as_an_expression_is_told_from_a_name() {
        let suspicious = |text: &str| text.parse::<Query>().unwrap().suspicious().map(|problem| problem.to_string());
        for name in ["password", "ca-cert", "tls.crt", ".dockerconfigjson", "a b", "a/b", "db.users[0]", "a || b"] {
            assert_eq!(suspicious(name), None, "{name}");
        }
        for (text, character) in [("hosts[", 7), ("{a: b", 6), ("join(',', x", 12), ("a |", 4), ("@foo", 2), ("a]", 2), ("*a", 2)] {
            assert_eq!(suspicious(text), Some(InvalidQuery::Syntax(character).to_string()), "{text}");
        }
    }

    #[test]
    fn failures_name_types_never_values() {
        let shown = search("join(',', pw)", r#"{"pw": "hunter2"}"#).unwrap_err().to_string();
        insta::assert_snapshot!(shown, @"the JMESPath expression fails: argument 2 of a function must be array[string], but is string");
        let shown = search("decrypt(pw)", r#"{"pw": "hunter2"}"#).unwrap_err().to_string();
        insta::assert_snapshot!(shown, @r#"the JMESPath expression fails: there is no function "decrypt""#);
    }

    #[test]
    fn nothing_overflows_the_stack() {
        for part in ["(", "[", "{a:", "!", "&", "a(", "[?", "a.", "a|", "*.", "[*]", "[]", "a||", "a==", "[*].", "`[`"] {
            assert!(matches!(refused(&part.repeat(100_000)), InvalidQuery::TooLong(_)), "{part}");
            let _ = part.repeat(MAX_LENGTH / part.len()).parse::<Query>();
            let most = part.repeat(MAX_OPERATORS / part.matches(OPERATORS).count().max(1));
            for end in ["", "a", ")"] {
                if let Ok(query) = format!("{most}{end}").parse::<Query>() {
                    let _ = query.search(&Rcvar::new(Variable::from_json(r#"{"a":[[{"a":{}}]]}"#).unwrap()));
                }
            }
        }
        let _ = format!("`{}`", "[".repeat(1000)).parse::<Query>();
    }

    #[test]
    fn nothing_explodes() {
        assert_eq!(refused("[@,@]|".repeat(30).trim_end_matches('|')), InvalidQuery::Growth);
        assert_eq!(refused(&format!("@{}", "|[@,@][]".repeat(20))), InvalidQuery::Growth);
        assert_eq!(refused(&format!("a{}", "|map(&[@,@], @)".repeat(12))), InvalidQuery::Growth);
        assert_eq!(refused("join(a, b)"), InvalidQuery::OpenJoin);
        assert_eq!(refused("[&a]"), InvalidQuery::StrayReference);
        assert_eq!(refused("to_array(&a)"), InvalidQuery::StrayReference);
        assert_eq!(refused("a[1::2147483647]"), InvalidQuery::Slice);
        assert_eq!(search("a[1::1000000000]", r#"{"a": [1, 2, 3]}"#).unwrap().unwrap(), "[2]");
    }

    /// The limit holds: no result is larger than the growth times the document.
    #[test]
    fn growth_bounds_results() {
        let document = r#"{"a": ["xxxxxxxx", "y"], "b": {"k": "\"\"\"\""}, "c": [{"n": 1}, {"n": 2}]}"#;
        for text in [
            "[@,@]",
            "{x: a, y: a}",
            "to_string(@)",
            "to_string([@])",
            "join('----', a)",
            "c[*].{first: n, second: n}",
            "map(&[@,@], c)",
            "values(@)",
            "[a,a][]",
            "merge(@, b)",
            "to_string([to_string(b), to_string(b)])",
            "a || b",
            "*.k",
            "'literal'",
            "keys(@)",
        ] {
            let query: Query = text.parse().unwrap();
            let found = query.search(&Rcvar::new(Variable::from_json(document).unwrap())).unwrap().unwrap();
            assert!(found.to_string().len() as u64 <= query.growth() * document.len() as u64, "{text}: {}", query.growth());
        }
    }

    #[test]
    fn a_path_costs_the_same_on_any_document() {
        let steps = |text: &str, bytes, values| text.parse::<Query>().unwrap().steps(bytes, values);
        for path in ["a.b.c", "db.users[0].name", "\"tls.crt\".x", "@", "[a, b]", "{x: a.b, y: c}", "a || b"] {
            assert_eq!(steps(path, 100, 10), steps(path, 1 << 20, 40_000), "{path}");
            assert!(steps(path, 1 << 20, 40_000) < 300, "{path}");
        }
        for whole in ["a[*].b", "a[?b == c]", "keys(@)", "a[::2]", "*.a", "a[]", "to_string(@)", "sort(a)", "sort_by(a, &b)"] {
            let (once, twice) = (steps(whole, 1 << 19, 20_000), steps(whole, 1 << 20, 40_000));
            assert!(twice > once && twice * 10 <= once * 22, "{whole}: {once}, {twice}");
        }
    }

    /// The most work of the library, compared with the time that it takes: a step is never more than some nanoseconds.
    #[test]
    fn many_pipes_are_paid_for() {
        let steps = |text: &str| text.parse::<Query>().unwrap().steps(1 << 20, 40_000);
        assert!(steps(&format!("a{}", "|[::1]".repeat(20))) >= 20 * 4 * 40_000);
        assert!(steps("map(&[@], a)") >= 64 * 40_000 && steps("a[*].*") >= 32 * 40_000, "a new value is dear");
        assert!(steps("a[?b == 'c'].d | [0]") < 200 * 40_000, "a name is looked up in each, and no more");
        assert!(steps(&format!("a{}", "|sort(@)".repeat(15))) >= 15 * 20 * (1 << 20));
        assert!(steps("`[1,2,3,4]`[*].to_string(a)") >= 4);
        assert!(steps("a[*].[b, b, b]|[*].sort(@)") >= 20 * 40_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// This includes the crate's own sums and slices.
        #[test]
        fn no_expression_panics(parts in proptest::collection::vec(
            prop_oneof![
                Just("a"), Just("b"), Just("@"), Just("."), Just("["), Just("]"), Just("[]"), Just("[*]"), Just("*"), Just("|"), Just("||"),
                Just("&&"), Just("!"), Just("=="), Just("<"), Just("("), Just(")"), Just("{"), Just("}"), Just(":"), Just(","), Just("0"),
                Just("-1"), Just("-2147483647"), Just("2147483647"), Just("::"), Just("[?"), Just("&"), Just("`1`"), Just("'x'"), Just("`\"\"`"),
                Just("sort("), Just("max("), Just("sum("), Just("avg("), Just("reverse("), Just("map(&"), Just("sort_by("), Just("to_number("),
                Just("length("), Just("join('"), Just("[-1]"), Just("[::-1]"), Just("[1:]"), Just("a[0]"), Just("ü"), Just("\u{0}"),
            ],
            0..10,
        )) {
            if let Ok(query) = parts.concat().parse::<Query>() {
                let _ = query.search(&Rcvar::new(Variable::from_json(r#"{"a": [[3, 1], ["x"], []], "b": {"a": 1e300, "b": "7"}}"#).unwrap()));
            }
        }
    }
}
