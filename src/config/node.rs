//! A TOML document as a tree that keeps the order of the file.
//!
//! Why not serde structs: serde stops at the first error, and an operator deserves all of them at once. Order matters
//! too, since `users` of the first account that fits win.

use std::borrow::Cow;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::config::error::{ConfigError, Wrong};

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

/// Reads a document; `file` is the name that errors carry. All syntax errors that can be told apart come back at once.
pub(super) fn parse(file: &str, text: &str) -> Result<Entries, Vec<ConfigError>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(entries(root.into_inner()));
    }
    let mut found: Vec<(usize, ConfigError)> = errors
        .iter()
        .map(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let (line, column) = position(text, at);
            let error = ConfigError {
                file: format!("{file}:{line}:{column}"),
                key: String::new(),
                // Only the parser's message: its full form repeats the line, and the line may hold a token.
                wrong: Wrong::new(format!("this is not TOML: {}", error.message()), "mend this line"),
            };
            (at, error)
        })
        .collect();
    found.sort_by_key(|(at, _)| *at);
    Err(found.into_iter().map(|(_, error)| error).collect())
}

/// Line and column of a byte, both from 1; columns count characters.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at];
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |nl| nl + 1);
    let line = 1 + before.iter().filter(|b| **b == b'\n').count();
    let column = 1 + String::from_utf8_lossy(&before[line_start..]).chars().count();
    (line, column)
}

fn entries(table: DeTable<'_>) -> Entries {
    let mut sorted: Vec<(Spanned<Cow<'_, str>>, Spanned<DeValue<'_>>)> = table.into_iter().collect();
    sorted.sort_by_key(|(key, _)| key.span().start);
    sorted.into_iter().map(|(key, value)| (key.into_inner().into_owned(), node(value.into_inner()))).collect()
}

fn node(value: DeValue<'_>) -> Node {
    match value {
        DeValue::String(text) => Node::String(text.into_owned()),
        // What does not even fit 128 bits is out of every key's range, and saturates to a number that says so.
        DeValue::Integer(n) => Node::Integer(i128::from_str_radix(n.as_str(), n.radix()).unwrap_or(i128::MAX)),
        DeValue::Float(f) => Node::Float(f.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(b) => Node::Bool(b),
        DeValue::Datetime(_) => Node::Date,
        DeValue::Array(list) => Node::List(list.into_iter().map(|item| node(item.into_inner())).collect()),
        DeValue::Table(table) => Node::Table(entries(table)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_keep_the_order_of_the_file() {
        let text = "[accounts.zeta]\nb = 1_000\na = 0x10\n[accounts.alpha]\n";
        let root = parse("f", text).unwrap();
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
        assert!(errors[0].file.starts_with("weir.toml:2:"), "{errors:?}");
        assert!(errors.iter().any(|e| e.file.starts_with("weir.toml:3:")));
        assert!(errors.iter().all(|e| !e.to_string().contains("hunter2")));
    }
}
