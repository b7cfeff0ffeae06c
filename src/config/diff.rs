//! What changes from one configuration to another, in the words of the file: a reload logs it. Values that must not be
//! shown are compared and never shown.

use std::fmt;

use serde::Serialize;

use crate::config::{
    Effective,
    effective::{Line, Mark, toml_key},
    live::{Live, live},
    schema,
};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The header of the table, with what tells it from others of its kind: `[accounts.ORDERS]`, or
    /// `[[listeners]] "0.0.0.0:4222"`. Empty at the top level.
    pub table: String,
    /// The key; empty where the whole table comes or goes.
    pub key: String,
    /// The value before, as TOML, or in words what held; `None` where the table was not there.
    pub old: Option<String>,
    /// The value from now on; `None` where the table is not there any more.
    pub new: Option<String>,
    /// Why it needs a restart; `None` where a reload makes it.
    pub restart: Option<&'static str>,
}

impl Change {
    /// The path of the key: `[accounts.ORDERS] max_connections`.
    pub fn path(&self) -> String {
        [&*self.table, &*self.key].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// The sign in front of a change: a table comes (`+`), goes (`-`), or has another value (`~`).
    fn sign(&self) -> char {
        match (&self.old, &self.new) {
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.sign(), self.path())?;
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(f, ": {old} -> {new}")?,
            (Some(one), None) | (None, Some(one)) if !one.is_empty() => write!(f, ": {one}")?,
            _ => {}
        }
        match self.restart {
            Some(why) => write!(f, " (needs a restart: {why})"),
            None => Ok(()),
        }
    }
}

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    key: String,
    /// As TOML, or in words.
    shown: String,
    /// Whether the words are about a value that must not be shown.
    is_hidden: bool,
    /// Whether the file has the key.
    given: bool,
    /// Tells two values apart that are shown alike.
    mark: Mark,
}

impl Value {
    /// Whether both are the same. What is in a file that was not read is taken for the same.
    fn is(&self, other: &Self) -> bool {
        match (self.mark, other.mark) {
            (Mark::Unread, _) | (_, Mark::Unread) => self.is_hidden || other.is_hidden || self.shown == other.shown,
            (one, another) => self.shown == other.shown && one == another,
        }
    }
}

/// One table with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    label: String,
    /// As in the reference: `accounts.NAME`.
    schema: String,
    values: Vec<Value>,
}

impl Table {
    fn value(&self, key: &str) -> Option<&Value> {
        self.values.iter().find(|value| value.key == key)
    }

    /// What the file gives of it, on one line.
    fn given(&self) -> String {
        let given = self.values.iter().filter(|value| value.given);
        given.map(|value| format!("{} = {}", toml_key(&value.key), value.shown)).collect::<Vec<_>>().join(", ")
    }
}

/// The keys that tell tables of one list apart, by list: the first that a table gives.
fn identity(schema: &str) -> &'static [&'static str] {
    match schema {
        "listeners" => &["listen"],
        "cluster.servers" => &["name", "address"],
        _ => &[],
    }
}

/// The tables of a configuration, each with a label of its own.
fn tables(effective: &Effective) -> Vec<Table> {
    let mut all: Vec<Table> = vec![Table { label: String::new(), schema: String::new(), values: Vec::new() }];
    for line in &effective.lines {
        let (key, shown, given, mark, is_hidden) = match line {
            Line::Header { text, .. } => {
                let schema = schema_of(text);
                all.push(Table { label: text.clone(), schema, values: Vec::new() });
                continue;
            }
            Line::Value { key, literal, given, mark, .. } => (key, literal, *given, *mark, false),
            Line::Note { key, text, given } => (key, text, *given, Mark::Shown, false),
            Line::Hidden { key, text, given, mark } => (key, text, *given, *mark, true),
            Line::Absent { .. } | Line::Comment { .. } => continue,
        };
        if let Some(table) = all.last_mut() {
            table.values.push(Value { key: key.clone(), shown: shown.clone(), is_hidden, given, mark });
        }
    }
    // A table below an entry of a list belongs to that entry.
    let mut entry = String::new();
    for at in 0..all.len() {
        let (schema, header) = (all[at].schema.clone(), all[at].label.clone());
        let of_list =
            identity(&schema).iter().find_map(|key| all[at].value(key).filter(|value| value.given || *key != "name"));
        if let Some(value) = of_list {
            entry = value.shown.clone();
            all[at].label = format!("{header} {entry}");
        } else if schema.starts_with("listeners.") {
            all[at].label = format!("{header} of {entry}");
        }
        // Two of one label are told apart by their order.
        let label = all[at].label.clone();
        let same =
            all[..at].iter().filter(|other| other.label == label || other.label.starts_with(&format!("{label} #")));
        match same.count() {
            0 => {}
            before => all[at].label = format!("{label} #{}", before + 1),
        }
    }
    all
}

/// The name of a table in the reference: `accounts.NAME` for `[accounts.ORDERS]`.
fn schema_of(header: &str) -> String {
    let path = header.trim_matches(['[', ']']);
    for (begin, name) in [("accounts.", "NAME"), ("users.", "PATTERN"), ("names.", "PATTERN")] {
        if path.starts_with(begin) {
            return format!("{begin}{name}");
        }
    }
    schema::table(path)
}

/// What changes from `old` to `new`, in the order of `new`; what is gone comes last.
pub fn diff(old: &Effective, new: &Effective) -> Vec<Change> {
    let (old, new) = (tables(old), tables(new));
    let find = |all: &[Table], label: &str| all.iter().position(|table| table.label == label);
    let whole = |table: &Table, old: Option<String>, new: Option<String>| {
        let restart = restart(&table.schema, "");
        Change { table: table.label.clone(), key: String::new(), old, new, restart }
    };
    let mut changes = Vec::new();
    for after in &new {
        match find(&old, &after.label) {
            Some(at) => changes_within(&old[at], after, &mut changes),
            None => changes.push(whole(after, None, Some(after.given()))),
        }
    }
    let gone = old.iter().filter(|before| find(&new, &before.label).is_none());
    changes.extend(gone.map(|before| whole(before, Some(before.given()), None)));
    changes
}

fn changes_within(before: &Table, after: &Table, changes: &mut Vec<Change>) {
    let nothing = || "not there".to_owned();
    let mut note = |key: &str, old: Option<&Value>, new: Option<&Value>| {
        let is_same = old.zip(new).is_some_and(|(old, new)| old.is(new));
        if is_same || old.is_none() && new.is_none() {
            return;
        }
        let shown = |value: Option<&Value>| value.map_or_else(nothing, |value| value.shown.clone());
        let is_hidden = new.is_some_and(|new| new.is_hidden);
        let (old, mut new) = (shown(old), shown(new));
        if old == new {
            let what = if is_hidden { "another, not shown" } else { "the same file with another content" };
            new = what.to_owned();
        }
        let restart = restart(&after.schema, key);
        changes.push(Change {
            table: after.label.clone(),
            key: key.to_owned(),
            old: Some(old),
            new: Some(new),
            restart,
        });
    };
    for value in &after.values {
        note(&value.key, before.value(&value.key), Some(value));
    }
    for value in before.values.iter().filter(|value| after.value(&value.key).is_none()) {
        note(&value.key, Some(value), None);
    }
}

fn restart(schema: &str, key: &str) -> Option<&'static str> {
    match live(schema, key) {
        Live::Yes => None,
        Live::Restart(why) => Some(why),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    const SERVER: &str = "[[cluster.servers]]\nname = \"n1\"\naddress = \"n1:4222\"\n";

    fn parse(text: &str) -> Config {
        Config::parse("weir.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn lines(old: &str, new: &str) -> Vec<String> {
        diff(parse(old).effective(), parse(new).effective()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_change_is_told_in_the_words_of_the_file() {
        let old =
            format!("workers = 2\n{SERVER}[accounts.A]\nmax_connections = 5\nrate = 7\n[accounts.GONE]\nrate = 3\n");
        let new = format!(
            "workers = 4\n[log]\nlevel = \"warn\"\n{SERVER}[accounts.A]\nmax_connections = 6\n[accounts.\"N E W\"]\n\
             max_connections = 1\nusers = [\"hunter2\"]\n[admission.max_hold_by_lang]\nGo = \"1s\"\n"
        );
        assert_eq!(
            lines(&old, &new),
            [
                "~ workers: 2 -> 4 (needs a restart: the threads are started with weir)",
                "~ [log] level: \"info\" -> \"warn\"",
                "~ [admission.max_hold_by_lang] Go: not there -> \"1s\"",
                "~ [accounts.A] max_connections: 5 -> 6",
                "~ [accounts.A] rate: 7 -> no limit",
                "~ [accounts.A] burst: 10 -> a tenth of the rate, at least 10",
                "+ [accounts.\"N E W\"]: users = 1 entry, not shown, max_connections = 1",
                "- [accounts.GONE]: rate = 3",
            ]
        );
    }

    #[test]
    fn what_must_not_be_shown_is_compared_and_not_shown() {
        let with = |user: &str, password: &str| {
            format!(
                "{SERVER}[cluster.system]\nuser = \"sys\"\npassword = \"{password}\"\n[accounts.A]\nusers = [\"{user}\"]\n"
            )
        };
        assert_eq!(lines(&with("hunter2", "hunter3"), &with("hunter2", "hunter3")), [""; 0]);
        let told = lines(&with("hunter2", "hunter3"), &with("hunter4", "hunter5"));
        assert_eq!(
            told,
            [
                "~ [cluster.system] password: given, not shown -> another, not shown (needs a restart: weir logs in to the \
                 system account when it starts)",
                "~ [accounts.A] users: 1 entry, not shown -> another, not shown",
            ]
        );
        let debug =
            format!("{:?}", diff(parse(&with("hunter2", "a")).effective(), parse(&with("b", "hunter3")).effective()));
        assert!(!debug.contains("hunter"), "{debug}");
    }

    #[test]
    fn entries_of_a_list_are_known_by_what_they_are_called() {
        let listener = |listen: &str, rest: &str| format!("[[listeners]]\nlisten = \"{listen}\"\n{rest}\n");
        let [a, b] = ["127.0.0.1:1", "127.0.0.1:2"].map(|listen| listener(listen, ""));
        let old = format!("{a}{b}{SERVER}[[cluster.servers]]\naddress = \"n2:4222\"\n");
        let new = format!(
            "{}{}[[cluster.servers]]\naddress = \"n2:4222\"\nmax_connections = 9\n{SERVER}",
            listener("127.0.0.1:2", "max_clients = 7\nkind = \"websocket\"\n[listeners.websocket]\ncompression = true"),
            listener("127.0.0.1:3", ""),
        );
        let told = lines(&old, &new);
        let told: Vec<_> = told.iter().map(|line| line.split(" (needs").next().unwrap()).collect();
        assert_eq!(
            told,
            [
                "~ [[listeners]] \"127.0.0.1:2\" kind: \"client\" -> \"websocket\"",
                "~ [[listeners]] \"127.0.0.1:2\" max_clients: 65536 -> 7",
                "+ [listeners.websocket] of \"127.0.0.1:2\": compression = true",
                "+ [listeners.websocket.headers] of \"127.0.0.1:2\"",
                "+ [[listeners]] \"127.0.0.1:3\": listen = \"127.0.0.1:3\"",
                "~ [[cluster.servers]] \"n2:4222\" max_connections: the server's own -> 9",
                "- [[listeners]] \"127.0.0.1:1\": listen = \"127.0.0.1:1\"",
            ]
        );
        let any = listener("127.0.0.1:0", "");
        assert_eq!(lines(&format!("{any}{SERVER}"), &format!("{any}{any}{SERVER}")).len(), 1, "the second one is new");
    }

    proptest! {
        /// The same configuration has no difference to itself, and every change of one quota is found, and alone.
        #[test]
        fn nothing_changes_unseen(quotas in prop::collection::vec((1u32..1000, 1u32..1000), 1..20), at in 0usize..20) {
            let text = |quotas: &[(u32, u32)]| {
                let tables = quotas.iter().enumerate();
                let tables = tables.map(|(n, (most, rate))| {
                    format!("[accounts.A{n}]\nmax_connections = {most}\nrate = {rate}\nburst = 5\n")
                });
                format!("{SERVER}{}", tables.collect::<String>())
            };
            prop_assert!(lines(&text(&quotas), &text(&quotas)).is_empty());
            let mut other = quotas.clone();
            let at = at % other.len();
            other[at].0 += 1;
            let told = lines(&text(&quotas), &text(&other));
            let expected = format!("~ [accounts.A{at}] max_connections: {} -> {}", quotas[at].0, other[at].0);
            prop_assert_eq!(told, [expected]);
        }
    }
}
