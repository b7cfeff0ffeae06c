//! Reads a table key by key. Each call says what the key accepts and what holds if it is absent. Errors are collected
//! and not returned, so that one pass finds all of them; the same pass records for `weir check` what is in force.

use std::path::{Path, PathBuf};

use crate::{
    config::{
        effective::{Line, Mark},
        finding::{Finding, Problem, Severity},
        leaf::{Any, Leaf, Rule},
        node::{Entries, Node, Source, key_path},
        schema::{self, Key},
        suggest::closest,
    },
    operator_file,
};

/// A file that holds a login is shorter than this. In bytes.
pub(super) const LONGEST_FILE: u64 = 64 * 1024;

/// Whether files that hold secrets are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// Yes, and it is an error where one cannot be read.
    All,
    /// Where that is possible.
    IfThere,
    Nothing,
}

/// What reading a configuration yields beside its values: what was found, and what is in force.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) source: Source,
    pub(super) findings: Vec<Finding>,
    pub(super) lines: Vec<Line>,
    /// Whether files that hold secrets are read.
    pub(super) reads: Reads,
    /// Those that could have been read, with [`Reads::IfThere`].
    pub(super) unread: Vec<Finding>,
    /// Collects every key that is asked for, for the [`schema`]; `None` for every other reading.
    pub(super) keys: Option<Vec<Key>>,
}

impl Sink {
    pub(super) fn new(source: Source) -> Self {
        Self { source, findings: Vec::new(), lines: Vec::new(), reads: Reads::Nothing, unread: Vec::new(), keys: None }
    }

    /// Reports an error, unless the value of the key is one whose variables could not be replaced: it is not the one
    /// that is meant.
    pub(super) fn report(&mut self, key: impl Into<String>, problem: Problem) {
        let key = key.into();
        if !self.source.is_broken(&key) {
            self.findings.push(self.source.finding(Severity::Error, key, problem));
        }
    }

    /// Reports that a value cannot be read. `takes` is what the key takes. What variables hold is not shown.
    fn report_value(&mut self, key: String, problem: Problem, takes: impl FnOnce() -> String) {
        let problem = match self.source.written(&key) {
            None => problem,
            Some(written) => {
                let what = format!("{written} makes a value (not shown) that this key does not take");
                Problem::new(what, format!("set the variables so that it is this: {}", takes()))
            }
        };
        self.report(key, problem);
    }

    /// Notes that a file of this key could not be read, and need not be.
    pub(super) fn note_unread(&mut self, key: String, path: &Path, why: &str) {
        let what = format!("{}: {why}: it is not known whether its content is another", path.display());
        let problem = Problem::new(what, "put it there to have it compared");
        self.unread.push(self.source.finding(Severity::Warning, key, problem));
    }

    /// Reports what is not wrong, and may not be meant.
    pub(super) fn warn(&mut self, key: impl Into<String>, problem: Problem) {
        self.findings.push(self.source.finding(Severity::Warning, key.into(), problem));
    }

    fn note_key(&mut self, table: &str, key: &str, rest: impl FnOnce() -> (String, Option<String>, String)) {
        if let Some(keys) = &mut self.keys {
            let (kind, range, default) = rest();
            keys.push(Key { table: schema::table(table), key: key.to_owned(), kind, range, default });
        }
    }
}

/// What a key takes, in words.
fn takes(kind: &str, range: Option<String>) -> String {
    range.map_or_else(|| kind.to_owned(), |range| format!("{kind}, {range}"))
}

/// A value as it was found. An invalid one has been reported already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found<T> {
    Absent,
    Invalid,
    Valid(T),
}

impl<T> Found<T> {
    /// The same of what a valid value becomes.
    pub(super) fn map<U>(self, become_of: impl FnOnce(T) -> U) -> Found<U> {
        match self {
            Self::Absent => Found::Absent,
            Self::Invalid => Found::Invalid,
            Self::Valid(value) => Found::Valid(become_of(value)),
        }
    }
}

/// One table being read.
pub(super) struct Section<'s> {
    pub(super) sink: &'s mut Sink,
    /// Such as `cluster.servers[1]`; empty at the top level.
    path: String,
    entries: Entries,
    known: Vec<&'static str>,
}

impl<'s> Section<'s> {
    /// Reads a whole table with `read`, then reports the keys that `read` did not take.
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
            // Beyond some errors nobody reads what may have been meant, and each key is compared with all others.
            let few = self.sink.findings.len() < 100;
            let known = self.known.join(", ");
            let meant = closest(&key, self.known.iter().copied()).filter(|_| few);
            let elsewhere = if few && meant.is_none() { schema::tables_with(&key) } else { String::new() };
            let remedy = match (meant, &*elsewhere) {
                (Some(meant), _) => format!("did you mean {meant}? The keys here are {known}"),
                (None, "") => format!("the keys here are {known}"),
                (None, tables) => format!("it is a key of {tables}; the keys here are {known}"),
            };
            self.report(&key, Problem::new("unknown key", remedy));
        }
    }

    /// The full path of a key of this table.
    pub(super) fn path(&self, key: &str) -> String {
        key_path(&self.path, key)
    }

    /// Reports an error at a key of this table.
    pub(super) fn report(&mut self, key: &str, problem: Problem) {
        self.sink.report(self.path(key), problem);
    }

    /// Reports an error at entry `i` of a list of this table.
    pub(super) fn report_entry(&mut self, key: &str, i: usize, problem: Problem) {
        self.sink.report(format!("{}[{i}]", self.path(key)), problem);
    }

    /// Reports an error in the table as a whole.
    pub(super) fn report_table(&mut self, problem: Problem) {
        self.sink.report(self.path.clone(), problem);
    }

    /// Takes the node of a key, which counts as known from now on.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        let at = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(at).1)
    }

    /// Reads and checks a value, but does not record what is in force. `absence` says what holds without it.
    pub(super) fn leaf<T: Leaf>(&mut self, key: &'static str, absence: &str, rule: &impl Rule<T>) -> Found<T> {
        self.sink.note_key(&self.path, key, || (T::kind(), rule.range(), absence.to_owned()));
        let Some(node) = self.take(key) else {
            return Found::Absent;
        };
        match rule.read(&node) {
            Ok(value) => Found::Valid(value),
            Err(problem) => {
                let takes = || takes(&T::kind(), rule.range());
                self.sink.report_value(self.path(key), problem, takes);
                Found::Invalid
            }
        }
    }

    /// Reads a value that has a default.
    pub(super) fn value<T: Leaf>(&mut self, key: &'static str, default: T, rule: impl Rule<T>) -> T {
        let found = self.leaf(key, &default.show(), &rule);
        let given = found != Found::Absent;
        let value = match found {
            Found::Valid(value) => value,
            Found::Absent | Found::Invalid => default,
        };
        self.in_force(key, &value, given);
        value
    }

    /// Reads a value that may be absent; `absence` says what holds in that case.
    pub(super) fn optional<T: Leaf>(&mut self, key: &'static str, absence: &str, rule: impl Rule<T>) -> Option<T> {
        match self.leaf(key, absence, &rule) {
            Found::Valid(value) => {
                self.in_force(key, &value, true);
                Some(value)
            }
            Found::Absent => {
                self.note(key, absence, false);
                None
            }
            Found::Invalid => None,
        }
    }

    /// The same of the path of a file whose content is in force until it is read again.
    pub(super) fn optional_file(&mut self, key: &'static str, absence: &str) -> Option<PathBuf> {
        match self.leaf(key, absence, &Any) {
            Found::Valid(path) => {
                self.file_in_force(key, &path);
                Some(path)
            }
            Found::Absent => {
                self.note(key, absence, false);
                None
            }
            Found::Invalid => None,
        }
    }

    /// Reads a value that must be present; `remedy` says what to write if it is not.
    pub(super) fn required<T: Leaf>(&mut self, key: &'static str, remedy: &str) -> Option<T> {
        match self.leaf(key, schema::REQUIRED, &Any) {
            Found::Valid(value) => {
                self.in_force(key, &value, true);
                Some(value)
            }
            Found::Absent => {
                self.report(key, Problem::new("it is missing", remedy));
                None
            }
            Found::Invalid => None,
        }
    }

    /// Takes this word as the value of a key for a list that has nothing but the word.
    pub(super) fn word_as_list(&mut self, key: &str, word: &str) -> &mut Self {
        for (_, node) in self.entries.iter_mut().filter(|(name, _)| name == key) {
            if matches!(node, Node::String(text) if text == word) {
                *node = Node::List(vec![Node::String(word.to_owned())]);
            }
        }
        self
    }

    /// Reads a list of values with their indices, but does not record what is in force. Reports each invalid entry.
    pub(super) fn list<T: Leaf>(&mut self, key: &'static str) -> Option<Vec<(usize, T)>> {
        self.sink.note_key(&self.path, key, || (format!("list: {}", T::kind()), None, "none".to_owned()));
        let items = match self.take(key)? {
            Node::List(items) => items,
            other => {
                let what = format!("it is {}", other.kind());
                self.report(key, Problem::new(what, "write a list, in [ ]"));
                return None;
            }
        };
        let mut values = Vec::new();
        for (i, item) in items.iter().enumerate() {
            match T::read(item) {
                Ok(value) => values.push((i, value)),
                Err(problem) => {
                    self.sink.report_value(format!("{}[{i}]", self.path(key)), problem, || takes(&T::kind(), None));
                }
            }
        }
        Some(values)
    }

    /// Reads a table; an absent one is read as an empty one.
    pub(super) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        self.note_table(key);
        let node = self.take(key);
        let path = self.path(key);
        let given = node.is_some();
        let entries = node.map_or_else(Vec::new, |node| self.entries_of(&path, node));
        // Headers in TOML have no indices: a table below [[listeners]] belongs to the last listener.
        self.sink.lines.push(Line::Header { text: format!("[{}]", schema::table(&path)), given });
        Self::read(self.sink, path, entries, read)
    }

    /// Reads a table that may be absent; `absence` says what holds in that case.
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

    /// Reads a list of tables, `[[key]]`; `None` if the key is absent.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_>) -> T,
    ) -> Option<Vec<T>> {
        self.note_table(key);
        let items = match self.take(key)? {
            Node::List(items) => items,
            other => {
                let path = self.path(key);
                let problem = Problem::new(format!("it is {}", other.kind()), format!("write [[{path}]] over each"));
                self.report(key, problem);
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

    /// Reads tables with names of the operator's choice, `[key.NAME]`, in the order of the file.
    pub(super) fn named<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&str, &mut Section<'_>) -> T,
    ) -> Vec<(String, T)> {
        self.note_table(key);
        let Some(node) = self.take(key) else {
            return Vec::new();
        };
        let under = self.path(key);
        let mut values = Vec::new();
        for (name, node) in self.entries_of(&under, node) {
            let path = key_path(&under, &name);
            let Node::Table(entries) = node else {
                let problem =
                    Problem::new(format!("it is {}", node.kind()), format!("write [{path}] and its keys below"));
                self.sink.report(path, problem);
                continue;
            };
            self.sink.lines.push(Line::Header { text: format!("[{path}]"), given: true });
            let value = Self::read(self.sink, path, entries, |s| read(&name, s));
            values.push((name, value));
        }
        values
    }

    /// Reads the remaining keys of a table whose keys are of the operator's choice.
    pub(super) fn rest<T: Leaf>(&mut self, rule: impl Rule<T>) -> Vec<(String, T)> {
        self.sink.note_key(&self.path, "…", || (T::kind(), rule.range(), "none".to_owned()));
        let mut values = Vec::new();
        for (key, node) in std::mem::take(&mut self.entries) {
            match rule.read(&node) {
                Ok(value) => {
                    self.in_force(&key, &value, true);
                    values.push((key, value));
                }
                Err(problem) => {
                    let takes = || takes(&T::kind(), rule.range());
                    self.sink.report_value(self.path(&key), problem, takes);
                }
            }
        }
        values
    }

    /// Records the value in force; one with variables as it is written.
    pub(super) fn in_force<T: Leaf>(&mut self, key: &str, value: &T, given: bool) {
        let path = self.path(key);
        let literal = self.sink.source.written(&path).map_or_else(|| value.show(), str::to_owned);
        let argument = self.sink.source.argument(&path);
        self.sink.lines.push(Line::Value { key: key.to_owned(), literal, given, argument, mark: Mark::Shown });
    }

    /// Records the path of a file whose content is in force until it is read again, with the mark of that.
    pub(super) fn file_in_force(&mut self, key: &str, path: &PathBuf) {
        self.in_force(key, path, true);
        let content = match self.sink.reads {
            Reads::Nothing => Mark::Unread,
            Reads::All | Reads::IfThere => match operator_file::read(path, LONGEST_FILE) {
                Ok(bytes) => Mark::of(&bytes),
                Err(err) => {
                    // That it cannot be read where it must be is reported by who needs it.
                    if self.sink.reads == Reads::IfThere {
                        self.sink.note_unread(self.path(key), path, &format!("it cannot be read ({err})"));
                    }
                    Mark::Unread
                }
            },
        };
        if let Some(Line::Value { mark, .. }) = self.sink.lines.last_mut() {
            *mark = content;
        }
    }

    /// Records what holds for a key that is absent, or whose value must not be shown.
    pub(super) fn note(&mut self, key: &str, text: &str, given: bool) {
        self.sink.lines.push(Line::Note { key: key.to_owned(), text: text.to_owned(), given });
    }

    /// Records a value that must not be shown, with what may be said of it.
    pub(super) fn hidden(&mut self, key: &str, text: &str, mark: Mark, given: bool) {
        let (key, text) = (key.to_owned(), text.to_owned());
        self.sink.lines.push(Line::Hidden { key, text, given, mark });
    }

    fn note_table(&mut self, key: &str) {
        self.sink.note_key(&self.path, key, || (schema::TABLE.to_owned(), None, String::new()));
    }

    fn entries_of(&mut self, path: &str, node: Node) -> Entries {
        match node {
            Node::Table(entries) => entries,
            other => {
                let problem =
                    Problem::new(format!("it is {}", other.kind()), "write a table: a [header] with its keys below");
                self.sink.report(path, problem);
                Vec::new()
            }
        }
    }
}
