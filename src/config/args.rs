//! `--server HOST:PORT[,websocket=URL][,monitor=URL][,name=N][,max_connections=N]`: a cluster without a file.

use std::{convert::Infallible, str::FromStr};

use crate::config::{
    finding::{Problem, quote},
    node::{Entries, Node},
    section::Sink,
};

/// One `--server` argument as it was written. [`super::Config::from_servers`] reads all of them at once, by the same
/// rules as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerArg(pub String);

impl FromStr for ServerArg {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// The arguments as a document.
pub(super) fn document(args: &[ServerArg], sink: &mut Sink) -> Entries {
    let servers = args.iter().enumerate().map(|(i, arg)| Node::Table(server(i, &arg.0, sink))).collect();
    let cluster = vec![("servers".to_owned(), Node::List(servers))];
    vec![("cluster".to_owned(), Node::Table(cluster))]
}

fn server(i: usize, text: &str, sink: &mut Sink) -> Entries {
    let mut report =
        |what: String, remedy: &str| sink.report(format!("cluster.servers[{i}]"), Problem::new(what, remedy));
    let mut parts = text.split(',');
    let address = parts.next().unwrap_or_default();
    let mut entries = vec![("address".to_owned(), Node::String(address.to_owned()))];
    for part in parts {
        let known = part.split_once('=').and_then(|(key, value)| match key {
            "websocket" | "monitor" | "name" => Some((key, Node::String(value.to_owned()))),
            // If it is not a number it stays text, and the rule for the key reports that.
            "max_connections" => {
                Some((key, value.parse().map_or_else(|_| Node::String(value.to_owned()), Node::Integer)))
            }
            _ => None,
        });
        match known {
            Some((key, _)) if entries.iter().any(|(name, _)| name == key) => {
                report(format!("{key} is given twice"), "write it once")
            }
            Some((key, node)) => entries.push((key.to_owned(), node)),
            None => report(
                format!("{} is not understood", quote(part)),
                "write HOST:PORT, then any of ,websocket=URL ,monitor=URL ,name=NAME ,max_connections=NUMBER",
            ),
        }
    }
    entries
}
