//! `--server HOST:PORT[,monitor=URL][,name=N][,max_connections=N]`: a cluster without a file.

use std::{convert::Infallible, str::FromStr};

use crate::config::{
    error::{ConfigError, Wrong, quote},
    node::{Entries, Node},
};

/// One `--server` argument as it was written. Reading it is [`super::Config::from_servers`]'s work, so that all of them
/// are checked at once, by the same rules as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerArg(pub String);

impl FromStr for ServerArg {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// The same as a document.
pub(super) fn document(args: &[ServerArg]) -> (Entries, Vec<ConfigError>) {
    let mut errors = Vec::new();
    let servers = args.iter().enumerate().map(|(i, arg)| Node::Table(server(i, &arg.0, &mut errors))).collect();
    let cluster = vec![("servers".to_owned(), Node::List(servers))];
    (vec![("cluster".to_owned(), Node::Table(cluster))], errors)
}

fn server(i: usize, text: &str, errors: &mut Vec<ConfigError>) -> Entries {
    let mut parts = text.split(',');
    let address = parts.next().unwrap_or_default();
    let mut entries = vec![("address".to_owned(), Node::String(address.to_owned()))];
    for part in parts {
        let known = part.split_once('=').and_then(|(key, value)| match key {
            "monitor" | "name" => Some((key, Node::String(value.to_owned()))),
            // What is no number stays text, and the key's own rule says what is wrong with it.
            "max_connections" => {
                Some((key, value.parse().map_or_else(|_| Node::String(value.to_owned()), Node::Integer)))
            }
            _ => None,
        });
        match known {
            Some((key, _)) if entries.iter().any(|(name, _)| name == key) => {
                errors.push(wrong(i, format!("{key} is given twice"), "write it once"))
            }
            Some((key, node)) => entries.push((key.to_owned(), node)),
            None => errors.push(wrong(
                i,
                format!("{} is not understood", quote(part)),
                "write HOST:PORT, then any of ,monitor=URL ,name=NAME ,max_connections=NUMBER",
            )),
        }
    }
    entries
}

fn wrong(i: usize, what: String, right: &str) -> ConfigError {
    ConfigError { file: "--server".to_owned(), key: format!("cluster.servers[{i}]"), wrong: Wrong::new(what, right) }
}
