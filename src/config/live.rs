//! Which keys a reload changes while weir runs, and why the others need a restart. The reference shows it for every key
//! ([`crate::config::keys`]), and a test compares both.

/// Whether a key can change while weir runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// A reload changes it.
    Yes,
    /// It needs a restart, for this reason.
    Restart(&'static str),
}

impl Live {
    /// The word of the reference.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yes => "live",
            Self::Restart(_) => "restart",
        }
    }
}

/// What a reload does not change, by table and key; an empty key is the whole table. What is new in the configuration
/// stands here unless it is among [`LIVE_TABLES`] or [`LIVE_KEYS`].
const RESTART: [(&str, &str, &str); 8] = [
    ("", "server_name", "clients and tools know weir by the name that it started with"),
    ("", "workers", "the threads are started with weir"),
    ("log", "format", "the format is chosen with the first line"),
    ("cluster.system", "", "weir logs in to the system account when it starts"),
    ("cluster.servers", "websocket", "a server keeps the port that it was added with"),
    ("cluster.servers", "leafnode", "a server keeps the port that it was added with"),
    ("fleet", "", "weir joins its fleet when it starts"),
    ("cluster", "", "the part of weir that watches the servers reads it when it starts"),
];

/// The tables whose keys a reload changes, each with the tables below it.
const LIVE_TABLES: [&str; 9] =
    ["listeners", "monitor", "admission", "accounts", "users", "names", "policies", "rebalance", "warnings"];

/// Single keys that a reload changes.
const LIVE_KEYS: [(&str, &str); 13] = [
    ("", "lame_duck_new_clients"),
    ("", "lame_duck_grace_period"),
    ("", "lame_duck_duration"),
    ("", "ports_file"),
    ("", "reload_on_change"),
    ("log", "level"),
    ("fleet", "quota"),
    ("cluster", "warn_at"),
    ("cluster.servers", ""),
    ("cluster.servers", "address"),
    ("cluster.servers", "name"),
    ("cluster.servers", "monitor"),
    ("cluster.servers", "max_connections"),
];

/// Whether a key of this table can change while weir runs; an empty key stands for the table itself. Tables are named
/// as in [`crate::config::keys`].
pub fn live(table: &str, key: &str) -> Live {
    let is_in = |whole: &str| table.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    if LIVE_KEYS.contains(&(table, key)) || LIVE_TABLES.iter().any(|whole| is_in(whole)) {
        return Live::Yes;
    }
    let why = RESTART.iter().find(|(in_table, name, _)| match name.is_empty() {
        true => is_in(in_table) && !in_table.is_empty(),
        false => (*in_table, *name) == (table, key),
    });
    Live::Restart(why.map_or("weir reads it when it starts", |(.., why)| why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    #[test]
    fn every_name_here_is_one_of_the_configuration() {
        let has = |table: &str, key: &str| {
            keys().any(|one| {
                let is_in = one.table == table || one.table.starts_with(&format!("{table}."));
                if key.is_empty() { is_in } else { (&*one.table, &*one.key) == (table, key) }
            })
        };
        let all = RESTART.iter().map(|(table, key, _)| (*table, *key));
        let all = all.chain(LIVE_KEYS).chain(LIVE_TABLES.map(|table| (table, "")));
        for (table, key) in all {
            assert!(has(table, key), "[{table}] {key}");
        }
        assert_eq!(live("accounts.NAME", "rate"), Live::Yes);
        assert_eq!(live("admission.max_hold_by_lang", "…"), Live::Yes);
        assert_eq!(live("log", "level"), Live::Yes);
        assert_eq!(live("", "workers"), Live::Restart("the threads are started with weir"));
        assert_eq!(live("no", "key"), Live::Restart("weir reads it when it starts"));
        assert_eq!(live("cluster.system", "user").name(), "restart");
    }
}
