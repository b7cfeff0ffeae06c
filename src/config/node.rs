//! A TOML document as a tree that keeps the order of the file and knows the line of every key.
//!
//! Why not serde structs: serde stops at the first error, and operators are told all errors at once
//! (docs/contract.md, towards operators 3). Order matters too: of two accounts with a matching entry in `users`, the
//! first in the file wins.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::config::{
    effective::toml_key,
    finding::{Finding, Place, Problem, Severity},
};

/// The keys of a table, in the order of the file.
pub(super) type Entries = Vec<(String, Node)>;

/// One value of the document.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    String(String),
    Integer(i128),
    Float(f64),
    Bool(bool),
    Date,
    List(Vec<Node>),
    Table(Entries),
}

impl Node {
    /// The type in words, for `it is a string`. Never shows the value.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a fraction",
            Self::Bool(_) => "true or false",
            Self::Date => "a date or time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// Where the keys of one configuration stand.
#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    /// The file's name as it was given, or `--server`.
    file: String,
    /// Line and column of each key and list entry, by its full path.
    places: HashMap<String, (usize, usize)>,
    /// The keys that arguments of the command line give, with the name of the argument: each with all below it.
    arguments: Vec<(&'static str, &'static str)>,
    /// The values with variables in them, by their full path: as they are written, and so without what the variables
    /// hold. A list with such an entry is here too.
    written: HashMap<String, String>,
    /// The values whose variables cannot be replaced, by their full path.
    broken: HashSet<String>,
}

impl Source {
    /// For what is not a file that was read.
    pub(super) fn without_lines(file: &str) -> Self {
        Self { file: file.to_owned(), ..Self::default() }
    }

    /// This argument gives the key of this path, with all below it.
    pub(super) fn give(&mut self, path: &'static str, argument: &'static str) {
        self.arguments.push((path, argument));
    }

    /// The argument that gives the key of this path.
    pub(super) fn argument(&self, path: &str) -> Option<&'static str> {
        let is_below =
            |above: &str| path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.arguments.iter().find(|(above, _)| is_below(above)).map(|(_, argument)| *argument)
    }

    /// The value of this path has variables, and is written so.
    pub(super) fn note_written(&mut self, path: String, literal: String) {
        self.written.insert(path, literal);
    }

    /// A value with variables as it is written.
    pub(super) fn written(&self, path: &str) -> Option<&str> {
        self.written.get(path).map(String::as_str)
    }

    /// The variables of the value of this path cannot be replaced, which has been reported.
    pub(super) fn note_broken(&mut self, path: String) {
        self.broken.insert(path);
    }

    /// Whether [`Source::note_broken`] was called for this path.
    pub(super) fn is_broken(&self, path: &str) -> bool {
        self.broken.contains(path)
    }

    /// A finding at the key of this path. A key that is missing has the place of the table in which it is missing.
    pub(super) fn finding(&self, severity: Severity, key: String, problem: Problem) -> Finding {
        if let Some(argument) = self.argument(&key) {
            let place = Place { file: argument.to_owned(), line: None, column: None };
            return Finding { severity, place, key, problem };
        }
        let around = std::iter::successors(Some(&*key), |path| enclosing(path));
        let place = around.into_iter().find_map(|path| self.places.get(path).copied());
        let place = Place { file: self.file.clone(), line: place.map(|at| at.0), column: place.map(|at| at.1) };
        Finding { severity, place, key, problem }
    }
}

/// The path of the table or list in which a path ends: `a.b` for `a.b.c` and for `a.b[1]`. A dot or bracket inside a
/// quoted key separates nothing.
fn enclosing(path: &str) -> Option<&str> {
    let (mut end, mut quoted, mut escaped) = (None, false, false);
    for (at, c) in path.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            '.' | '[' if !quoted => end = Some(at),
            _ => {}
        }
    }
    end.map(|end| &path[..end])
}

/// Reads a document; `file` is the name that errors carry. All syntax errors that can be told apart come back at once.
pub(super) fn parse(file: &str, text: &str) -> Result<(Entries, Source), Vec<Finding>> {
    let (root, mut errors) = DeTable::parse_recoverable(text);
    let starts = LineStarts::of(text);
    if errors.is_empty() {
        let mut reading = Reading { text, starts, last: (0, 1), places: HashMap::new() };
        let entries = reading.entries("", root.into_inner());
        return Ok((entries, Source { file: file.to_owned(), places: reading.places, ..Source::default() }));
    }
    let at = |error: &toml::de::Error| error.span().map_or(0, |span| span.start).min(text.len());
    errors.sort_by_key(at);
    // The parser goes on within a line, and what it finds there mostly follows from the first error.
    errors.dedup_by_key(|error| starts.line(at(error)));
    let errors = errors.iter().map(|error| {
        let at = at(error);
        let (line, column) = starts.position(text, at);
        let remedy = match looks_like_another_format(starts.text_of(text, line)) {
            true => "write `key = value`; this looks like YAML or a configuration of nats-server",
            false => "fix this line",
        };
        Finding {
            severity: Severity::Error,
            place: Place { file: file.to_owned(), line: Some(line), column: Some(column) },
            key: String::new(),
            // Only the parser's message: its full form repeats the line, and the line may hold a token.
            problem: Problem::new(format!("this is not TOML: {}", error.message()), remedy),
        }
    });
    Err(errors.collect())
}

/// Whether a line of text is `key: value`, or `key {`.
fn looks_like_another_format(line: &str) -> bool {
    let rest = line.trim_start().trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let begins_with_word = rest.len() < line.trim_start().len();
    begins_with_word && rest.trim_start().starts_with([':', '{'])
}

/// The byte at which each line of a text begins.
struct LineStarts(Vec<usize>);

impl LineStarts {
    fn of(text: &str) -> Self {
        let after_breaks = memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1);
        Self(std::iter::once(0).chain(after_breaks).collect())
    }

    /// The line of a byte, counted from 1.
    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|&start| start <= at)
    }

    /// A line, counted from 1.
    fn text_of<'t>(&self, text: &'t str, line: usize) -> &'t str {
        let end = self.0.get(line).copied().unwrap_or(text.len());
        &text[self.0[line - 1]..end]
    }

    /// Line and column of a byte, both counted from 1; columns count characters.
    fn position(&self, text: &str, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let before = &text.as_bytes()[self.0[line - 1]..at];
        (line, 1 + String::from_utf8_lossy(before).chars().count())
    }
}

/// More entries of one list on one line have no place of their own, but the list's: a place takes a hundred bytes.
const MOST_ON_A_LINE: usize = 10_000;

/// Turns the parser's tree into nodes, and notes the place of each.
struct Reading<'t> {
    text: &'t str,
    starts: LineStarts,
    /// The last byte whose place was asked for, and its column.
    last: (usize, usize),
    places: HashMap<String, (usize, usize)>,
}

impl Reading<'_> {
    /// Line and column of a byte. It counts from the last place on, since a line may be as long as the file.
    fn place(&mut self, at: usize) -> (usize, usize) {
        let line = self.starts.line(at);
        let (from, column) = match self.last {
            (last, column) if last <= at && self.starts.line(last) == line => (last, column),
            _ => (self.starts.0[line - 1], 1),
        };
        let passed = String::from_utf8_lossy(&self.text.as_bytes()[from..at]).chars().count();
        self.last = (at, column + passed);
        (line, column + passed)
    }

    fn entries(&mut self, path: &str, table: DeTable<'_>) -> Entries {
        let mut sorted: Vec<(Spanned<Cow<'_, str>>, Spanned<DeValue<'_>>)> = table.into_iter().collect();
        sorted.sort_by_key(|(key, _)| key.span().start);
        let entries = sorted.into_iter().map(|(key, value)| {
            let path = key_path(path, key.get_ref());
            (key.into_inner().into_owned(), self.node(path, value, None))
        });
        entries.collect()
    }

    /// In TOML a value begins on the line of its key. The span of a table is that of its `[header]`. An entry of a list
    /// that has many before it on `line_of_many` has no place of its own if it is on that line too.
    fn node(&mut self, path: String, value: Spanned<DeValue<'_>>, line_of_many: Option<usize>) -> Node {
        let place = self.place(value.span().start);
        let node = match value.into_inner() {
            DeValue::String(text) => Node::String(text.into_owned()),
            // A number that does not fit 128 bits is out of every key's range, and so is this one.
            DeValue::Integer(n) => Node::Integer(i128::from_str_radix(n.as_str(), n.radix()).unwrap_or(i128::MAX)),
            DeValue::Float(f) => Node::Float(f.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(b) => Node::Bool(b),
            DeValue::Datetime(_) => Node::Date,
            DeValue::Array(list) => {
                let items = list.into_iter().enumerate().map(|(i, item)| {
                    let line_of_many = (i >= MOST_ON_A_LINE).then_some(place.0);
                    self.node(format!("{path}[{i}]"), item, line_of_many)
                });
                Node::List(items.collect())
            }
            DeValue::Table(table) => Node::Table(self.entries(&path, table)),
        };
        if line_of_many != Some(place.0) {
            self.places.insert(path, place);
        }
        node
    }
}

/// The path of a key of the table at `path`.
pub(super) fn key_path(path: &str, key: &str) -> String {
    let key = toml_key(key);
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_keep_the_order_of_the_file() {
        let text = "[accounts.zeta]\nb = 1_000\na = 0x10\n[accounts.alpha]\n";
        let (root, _) = parse("f", text).unwrap();
        let [(accounts, Node::Table(named))] = root.as_slice() else {
            panic!("{root:?}");
        };
        assert_eq!(accounts, "accounts");
        assert_eq!(named[0].0, "zeta");
        assert_eq!(named[1].0, "alpha");
        let Node::Table(zeta) = &named[0].1 else {
            panic!("{named:?}");
        };
        assert_eq!(zeta[0], ("b".into(), Node::Integer(1000)));
        assert_eq!(zeta[1], ("a".into(), Node::Integer(16)));
    }

    #[test]
    fn syntax_errors_carry_their_place_and_not_the_line() {
        let text = "a = 1\nb = \"hunter2\nc = = 3\n";
        let errors = parse("weir.toml", text).unwrap_err();
        assert!(errors.len() >= 2, "{errors:?}");
        assert!(errors[0].to_string().starts_with("weir.toml:2:"), "{errors:?}");
        assert!(errors.iter().any(|e| e.to_string().starts_with("weir.toml:3:")));
        assert!(errors.iter().all(|e| !e.to_string().contains("hunter2")));
    }

    #[test]
    fn every_key_knows_its_line_and_a_missing_one_that_of_its_table() {
        let text = "workers = 1\n\n[[cluster.servers]]\naddress = \"a:1\"\n[[cluster.servers]]\n[cluster.system]\n\
                    [cluster]\nlist = [\n  1,\n  2,\n]\n[\"a.b\".\"c[0]\"]\n\"d\\\"]\" = { e = 1 }\n";
        let (_, source) = parse("f", text).unwrap();
        let problem = Problem::new("w", "r");
        for (key, line) in [
            ("workers", Some(1)),
            ("cluster.servers", Some(3)),
            ("cluster.servers[0].address", Some(4)),
            ("cluster.servers[0].name", Some(3)),
            ("cluster.servers[1].address", Some(5)),
            ("cluster.system.user", Some(6)),
            ("cluster", Some(7)),
            ("cluster.reserve", Some(7)),
            ("cluster.list[1]", Some(10)),
            ("\"a.b\".\"c[0]\".\"d\\\"]\".e", Some(13)),
            ("\"a.b\".\"c[0]\".missing", Some(12)),
            ("admission.rate", None),
            ("", None),
        ] {
            let error = source.finding(Severity::Error, key.to_owned(), problem.clone());
            assert_eq!(error.place.line, line, "{key}");
        }
        let args = Source::without_lines("--server");
        let error = args.finding(Severity::Error, "cluster.servers[0]".to_owned(), problem);
        assert_eq!(error.to_string(), "--server: cluster.servers[0]: w; r");
    }

    #[test]
    fn columns_count_characters() {
        let text = "a = \"\u{e4}\u{f6}\" # \u{fc}\nb = [1, { c = \"\u{e4}\", d = 2 }, [3]]\ne = 1\n";
        let (_, source) = parse("f", text).unwrap();
        for (key, place) in [
            ("a", (1, 5)),
            ("b", (2, 5)),
            ("b[0]", (2, 6)),
            ("b[1]", (2, 9)),
            ("b[1].c", (2, 15)),
            ("b[1].d", (2, 24)),
            ("b[2][0]", (2, 30)),
            ("e", (3, 5)),
        ] {
            assert_eq!(source.places.get(key).copied(), Some(place), "{key}");
        }
    }

    #[test]
    fn other_formats_are_recognised() {
        for line in ["listen: 0.0.0.0:4222", "cluster {", "  max_connections: 5", "authorization: {"] {
            assert!(looks_like_another_format(line), "{line}");
        }
        for line in ["listen = 1", "[a", "{ a }", "", "x"] {
            assert!(!looks_like_another_format(line), "{line}");
        }
    }
}
