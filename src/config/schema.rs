//! Every key that a configuration can have, with its kind, range and default. It is collected by reading a
//! configuration in which every table occurs, so the program, its errors and the reference cannot disagree.

use std::sync::OnceLock;

use crate::config::{
    live::{Live, live},
    node, raw,
    section::{Section, Sink},
};

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The path of its table, such as `cluster.servers`; empty at the top level.
    pub table: String,
    /// The key; `…` stands for those that the operator chooses.
    pub key: String,
    /// The kind of its value, such as `duration`.
    pub kind: String,
    /// Such as `1 to 1024`, where the kind has an order.
    pub range: Option<String>,
    /// The default as a TOML literal, or in words what holds without the key.
    pub default: String,
}

impl Key {
    /// Whether a reload changes it.
    pub fn live(&self) -> Live {
        live(&self.table, &self.key)
    }
}

/// The default of a key that has none.
pub(super) const REQUIRED: &str = "required";

/// The kind of a key that is a table.
pub(super) const TABLE: &str = "table";

/// A configuration in which every table occurs. Reading it finds errors, which nobody hears of.
const ALL_TABLES: &str = r#"
[monitor]
[admin]
[[listeners]]
[listeners.tls]
[[listeners.tls.certificates]]
[[listeners]]
kind = "websocket"
[[listeners]]
kind = "passthrough"
[[listeners]]
kind = "leafnode"
[warnings]
[warnings.login]
[cluster.tls]
[cluster.websocket_tls]
[cluster.system]
[[cluster.servers]]
[fleet]
[accounts.NAME]
[users.PATTERN]
[names.PATTERN]
[policies.idle]
[policies.name]
[policies.version]
"#;

/// Every key and every table, in the order of reading.
fn all() -> &'static [Key] {
    static ALL: OnceLock<Vec<Key>> = OnceLock::new();
    ALL.get_or_init(|| {
        let Ok((entries, source)) = node::parse("", ALL_TABLES) else { return Vec::new() };
        let mut sink = Sink::new(source);
        sink.keys = Some(Vec::new());
        let _ = Section::read(&mut sink, String::new(), entries, raw::read);
        let mut all: Vec<Key> = Vec::new();
        for key in sink.keys.unwrap_or_default() {
            let is_new = all.iter().all(|other| (&other.table, &other.key) != (&key.table, &key.key));
            if is_new && key.table != "accounts.default" {
                all.push(key);
            }
        }
        all
    })
}

/// Every key that has a value, in the order of reading.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    all().iter().filter(|key| key.kind != TABLE)
}

/// The tables that have this key, at most three, as `[admission] and [cluster]`; empty if none has.
pub(super) fn tables_with(key: &str) -> String {
    let with = all().iter().filter(|one| one.key == key).take(3);
    let headers = with.map(|one| match &*one.table {
        "" => "the top level".to_owned(),
        table => format!("[{table}]"),
    });
    headers.collect::<Vec<_>>().join(" and ")
}

/// The name of a table without the index of the one that was read: `listeners.tls` for `listeners[0].tls`.
pub(super) fn table(path: &str) -> String {
    path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_every_table_are_there() {
        let find = |table: &str, key: &str| keys().find(|one| one.table == table && one.key == key).unwrap();
        assert_eq!(find("", "workers").range.as_deref(), Some("1 to 1024"));
        assert_eq!(find("listeners", "listen").default, REQUIRED);
        assert_eq!(find("log", "level").default, "\"info\"");
        for (table, key) in [
            ("listeners.tls.certificates", "key_file"),
            ("listeners.websocket", "ping_interval"),
            ("listeners.websocket.headers", "…"),
            ("listeners.passthrough", "handshake_first"),
            ("cluster.system", "password"),
            ("accounts.NAME", "max_handshakes"),
            ("names.PATTERN", "warn_only"),
        ] {
            find(table, key);
        }
        assert_eq!(tables_with("servers"), "[cluster]");
        assert_eq!(tables_with("system"), "[cluster]");
        assert_eq!(tables_with("nonsense"), "");
    }
}
