//! A TOML document as a tree that keeps the order of the file and knows the line of every key.
//!
//! Why not serde structs: serde stops at the first error, and operators are told all errors at once
//! (docs/contract.md, towards operators 3). Order matters too: of two accounts with a matching entry in `users`, the
//! first in the file wins.

use std::{borrow::Cow, collections::HashMap};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::config::{
    effective::toml_key,
    error::{ConfigError, Place, Wrong},
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
    /// What it is, for `… is a string`. Never the value itself.
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
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The file's name as it was given, or `--server`.
    file: String,
    /// The line of each key and list entry, by its full path.
    lines: HashMap<String, usize>,
}

impl Source {
    /// Of something that has no lines.
    pub(super) fn without_lines(file: &str) -> Self {
        Self { file: file.to_owned(), lines: HashMap::new() }
    }

    /// An error at the key of this path. A key that is missing has the line of the table in which it is missing.
    pub(super) fn error(&self, key: String, wrong: Wrong) -> ConfigError {
        let around = std::iter::successors(Some(&*key), |path| enclosing(path));
        let line = around.into_iter().find_map(|path| self.lines.get(path).copied());
        ConfigError { place: Place { file: self.file.clone(), line, column: None }, key, wrong }
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
pub(super) fn parse(file: &str, text: &str) -> Result<(Entries, Source), Vec<ConfigError>> {
    let (root, mut errors) = DeTable::parse_recoverable(text);
    let starts = LineStarts::of(text);
    if errors.is_empty() {
        let mut reading = Reading { starts, lines: HashMap::new() };
        let entries = reading.entries("", root.into_inner());
        return Ok((entries, Source { file: file.to_owned(), lines: reading.lines }));
    }
    let at = |error: &toml::de::Error| error.span().map_or(0, |span| span.start).min(text.len());
    errors.sort_by_key(at);
    let errors = errors.iter().map(|error| {
        let (line, column) = starts.position(text, at(error));
        ConfigError {
            place: Place { file: file.to_owned(), line: Some(line), column: Some(column) },
            key: String::new(),
            // Only the parser's message: its full form repeats the line, and the line may hold a token.
            wrong: Wrong::new(format!("this is not TOML: {}", error.message()), "mend this line"),
        }
    });
    Err(errors.collect())
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

    /// Line and column of a byte, both counted from 1; columns count characters.
    fn position(&self, text: &str, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let before = &text.as_bytes()[self.0[line - 1]..at];
        (line, 1 + String::from_utf8_lossy(before).chars().count())
    }
}

/// Turns the parser's tree into nodes, and notes the line of each.
struct Reading {
    starts: LineStarts,
    lines: HashMap<String, usize>,
}

impl Reading {
    fn entries(&mut self, path: &str, table: DeTable<'_>) -> Entries {
        let mut sorted: Vec<(Spanned<Cow<'_, str>>, Spanned<DeValue<'_>>)> = table.into_iter().collect();
        sorted.sort_by_key(|(key, _)| key.span().start);
        let entries = sorted.into_iter().map(|(key, value)| {
            let path = key_path(path, key.get_ref());
            (key.into_inner().into_owned(), self.node(path, value))
        });
        entries.collect()
    }

    /// A value begins on the line of its key; a table, on the line of its `[header]`.
    fn node(&mut self, path: String, value: Spanned<DeValue<'_>>) -> Node {
        let line = self.starts.line(value.span().start);
        let node = match value.into_inner() {
            DeValue::String(text) => Node::String(text.into_owned()),
            // A number that does not fit 128 bits is out of every key's range, and so is this one.
            DeValue::Integer(n) => Node::Integer(i128::from_str_radix(n.as_str(), n.radix()).unwrap_or(i128::MAX)),
            DeValue::Float(f) => Node::Float(f.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(b) => Node::Bool(b),
            DeValue::Datetime(_) => Node::Date,
            DeValue::Array(list) => {
                let items = list.into_iter().enumerate().map(|(i, item)| self.node(format!("{path}[{i}]"), item));
                Node::List(items.collect())
            }
            DeValue::Table(table) => Node::Table(self.entries(&path, table)),
        };
        self.lines.insert(path, line);
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
        let wrong = Wrong::new("w", "r");
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
            let error = source.error(key.to_owned(), wrong.clone());
            assert_eq!(error.place.line, line, "{key}");
        }
        let error = Source::without_lines("--server").error("cluster.servers[0]".to_owned(), wrong);
        assert_eq!(error.to_string(), "--server: cluster.servers[0]: w; r");
    }
}
