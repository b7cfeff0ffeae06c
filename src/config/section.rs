//! Reading a table key by key. Each read says what is expected and what holds when the key is absent; what is wrong is
//! collected, never thrown, so one pass finds all errors. The same pass records what is in force for `weir check`.

use crate::config::{
    effective::Line,
    error::{ConfigError, Wrong},
    leaf::Leaf,
    node::{Entries, Node, Source, key_path},
};

/// What a reading leaves behind: what is wrong, and what is in force.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) source: Source,
    pub(super) errors: Vec<ConfigError>,
    pub(super) lines: Vec<Line>,
}

impl Sink {
    pub(super) fn new(source: Source) -> Self {
        Self { source, errors: Vec::new(), lines: Vec::new() }
    }

    pub(super) fn wrong(&mut self, key: impl Into<String>, wrong: Wrong) {
        self.errors.push(self.source.error(key.into(), wrong));
    }
}

/// A value as read: absent and wrong are different things, since the wrong one has already been reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found<T> {
    Absent,
    Wrong,
    Good(T),
}

/// One table being read.
pub(super) struct Section<'s> {
    pub(super) sink: &'s mut Sink,
    /// Such as `cluster.servers[1]`; empty at the top.
    path: String,
    entries: Entries,
    known: Vec<&'static str>,
}

impl<'s> Section<'s> {
    /// Reads a whole table with `read`, then reports the keys that nobody asked for.
    pub(super) fn read<T>(
        sink: &mut Sink,
        path: String,
        entries: Entries,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        let mut section = Section { sink, path, entries, known: Vec::new() };
        let value = read(&mut section);
        section.report_unknown();
        value
    }

    fn report_unknown(&mut self) {
        for (key, _) in std::mem::take(&mut self.entries) {
            let right = format!("the keys here are {}", self.known.join(", "));
            let wrong = Wrong::new("there is no such key", right);
            self.wrong(&key, wrong);
        }
    }

    /// The full path of a key of this table.
    pub(super) fn path(&self, key: &str) -> String {
        key_path(&self.path, key)
    }

    /// Reports an error at a key of this table.
    pub(super) fn wrong(&mut self, key: &str, wrong: Wrong) {
        self.sink.wrong(self.path(key), wrong);
    }

    /// Reports an error at entry `i` of a list of this table.
    pub(super) fn wrong_entry(&mut self, key: &str, i: usize, wrong: Wrong) {
        self.sink.wrong(format!("{}[{i}]", self.path(key)), wrong);
    }

    /// Reports an error of the table as a whole.
    pub(super) fn wrong_table(&mut self, wrong: Wrong) {
        self.sink.wrong(self.path.clone(), wrong);
    }

    /// Takes the node of a key, and remembers that the key exists.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        let at = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(at).1)
    }

    /// A single value, checked; what is in force is not recorded yet.
    pub(super) fn leaf<T: Leaf>(&mut self, key: &'static str, check: impl FnOnce(&T) -> Result<(), Wrong>) -> Found<T> {
        let Some(node) = self.take(key) else {
            return Found::Absent;
        };
        let read = T::read(&node).and_then(|value| check(&value).map(|()| value));
        match read {
            Ok(value) => Found::Good(value),
            Err(wrong) => {
                self.wrong(key, wrong);
                Found::Wrong
            }
        }
    }

    /// A value with a default.
    pub(super) fn value<T: Leaf>(
        &mut self,
        key: &'static str,
        default: T,
        check: impl FnOnce(&T) -> Result<(), Wrong>,
    ) -> T {
        let found = self.leaf(key, check);
        let given = found != Found::Absent;
        let value = match found {
            Found::Good(value) => value,
            Found::Absent | Found::Wrong => default,
        };
        self.in_force(key, &value, given);
        value
    }

    /// A value that may be absent; `absence` says what then holds.
    pub(super) fn optional<T: Leaf>(
        &mut self,
        key: &'static str,
        absence: &str,
        check: impl FnOnce(&T) -> Result<(), Wrong>,
    ) -> Option<T> {
        match self.leaf(key, check) {
            Found::Good(value) => {
                self.in_force(key, &value, true);
                Some(value)
            }
            Found::Absent => {
                self.note(key, absence, false);
                None
            }
            Found::Wrong => None,
        }
    }

    /// A value that must be there; `right` says what to write when it is not.
    pub(super) fn required<T: Leaf>(&mut self, key: &'static str, right: &str) -> Option<T> {
        match self.leaf(key, |_| Ok(())) {
            Found::Good(value) => {
                self.in_force(key, &value, true);
                Some(value)
            }
            Found::Absent => {
                self.wrong(key, Wrong::new("it is missing", right));
                None
            }
            Found::Wrong => None,
        }
    }

    /// A list of values with their places, without recording what is in force; each entry that is wrong is reported.
    pub(super) fn list<T: Leaf>(&mut self, key: &'static str) -> Option<Vec<(usize, T)>> {
        let items = match self.take(key)? {
            Node::List(items) => items,
            other => {
                let what = format!("it is {}", other.kind());
                self.wrong(key, Wrong::new(what, "write a list, in [ ]"));
                return None;
            }
        };
        let mut values = Vec::new();
        for (i, item) in items.iter().enumerate() {
            match T::read(item) {
                Ok(value) => values.push((i, value)),
                Err(wrong) => self.wrong_entry(key, i, wrong),
            }
        }
        Some(values)
    }

    /// A table whose absence is an empty table.
    pub(super) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let node = self.take(key);
        let path = self.path(key);
        let given = node.is_some();
        let entries = node.map_or_else(Vec::new, |node| self.entries_of(&path, node));
        // TOML numbers no tables: one under [[listeners]] belongs to the last of them.
        let text = path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".");
        self.sink.lines.push(Line::Header { text: format!("[{text}]"), given });
        Self::read(self.sink, path, entries, read)
    }

    /// A table whose absence means something of its own; `absence` says what.
    pub(super) fn optional_table<T>(
        &mut self,
        key: &'static str,
        absence: &str,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> Option<T> {
        if self.entries.iter().any(|(name, _)| name == key) {
            return Some(self.table(key, read));
        }
        self.known.push(key);
        self.sink.lines.push(Line::Absent { text: format!("[{}]: {absence}", self.path(key)) });
        None
    }

    /// A list of tables, `[[key]]`; `None` when the key is absent.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_>) -> T,
    ) -> Option<Vec<T>> {
        let items = match self.take(key)? {
            Node::List(items) => items,
            other => {
                let path = self.path(key);
                let wrong = Wrong::new(format!("it is {}", other.kind()), format!("write [[{path}]] over each"));
                self.wrong(key, wrong);
                return Some(Vec::new());
            }
        };
        let mut values = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            let header = self.path(key);
            let path = format!("{header}[{i}]");
            let entries = self.entries_of(&path, item);
            self.sink.lines.push(Line::Header { text: format!("[[{header}]]"), given: true });
            values.push(Self::read(self.sink, path, entries, &mut read));
        }
        Some(values)
    }

    /// Tables under names the operator chose, `[key.NAME]`, in the order of the file.
    pub(super) fn named<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&str, &mut Section<'_>) -> T,
    ) -> Vec<(String, T)> {
        let Some(node) = self.take(key) else {
            return Vec::new();
        };
        let under = self.path(key);
        let mut values = Vec::new();
        for (name, node) in self.entries_of(&under, node) {
            let path = key_path(&under, &name);
            let Node::Table(entries) = node else {
                let wrong = Wrong::new(format!("it is {}", node.kind()), format!("write [{path}] and its keys below"));
                self.sink.wrong(path, wrong);
                continue;
            };
            self.sink.lines.push(Line::Header { text: format!("[{path}]"), given: true });
            let value = Self::read(self.sink, path, entries, |s| read(&name, s));
            values.push((name, value));
        }
        values
    }

    /// What is left of a table whose keys the operator chose: all of them, each read as a value.
    pub(super) fn rest<T: Leaf>(&mut self, check: impl Fn(&T) -> Result<(), Wrong>) -> Vec<(String, T)> {
        let mut values = Vec::new();
        for (key, node) in std::mem::take(&mut self.entries) {
            match T::read(&node).and_then(|value| check(&value).map(|()| value)) {
                Ok(value) => {
                    self.in_force(&key, &value, true);
                    values.push((key, value));
                }
                Err(wrong) => self.wrong(&key, wrong),
            }
        }
        values
    }

    /// Records the value in force.
    pub(super) fn in_force<T: Leaf>(&mut self, key: &str, value: &T, given: bool) {
        self.sink.lines.push(Line::Value { key: key.to_owned(), literal: value.show(), given });
    }

    /// Records what holds for a key without a value that may be shown.
    pub(super) fn note(&mut self, key: &str, text: &str, given: bool) {
        self.sink.lines.push(Line::Note { key: key.to_owned(), text: text.to_owned(), given });
    }

    fn entries_of(&mut self, path: &str, node: Node) -> Entries {
        match node {
            Node::Table(entries) => entries,
            other => {
                let wrong =
                    Wrong::new(format!("it is {}", other.kind()), "write a table: a [header] with its keys below");
                self.sink.wrong(path, wrong);
                Vec::new()
            }
        }
    }
}
