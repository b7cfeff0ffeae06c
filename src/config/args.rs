//! The arguments that stand for keys: `--server HOST:PORT[,KEY=VALUE]…`, `--listen` and `--monitor`. They win over a
//! file, and without one there are the defaults.

use std::{convert::Infallible, str::FromStr};

use crate::config::{
    finding::{Problem, quote},
    node::{Entries, Node},
    origin::Origin,
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

/// Puts the arguments into the document of the file, in place of what it has there. What is no table where one should
/// be stays: reading it reports that.
pub(super) fn apply(origin: &Origin, entries: &mut Entries, sink: &mut Sink) {
    let Origin { servers, listen, monitor, .. } = origin;
    if !servers.is_empty() || origin.file.is_none() {
        sink.source.give("cluster.servers", "--server");
        let servers = servers.iter().enumerate().map(|(i, arg)| Node::Table(server(i, &arg.0, sink))).collect();
        if let Node::Table(cluster) = entry(entries, "cluster", Node::Table(Vec::new())) {
            // What stands for all servers that a name leads to.
            cluster.retain(|(key, _)| key != "discover");
            *entry(cluster, "servers", Node::Bool(false)) = Node::List(servers);
        }
    }
    if let Some(listen) = listen {
        sink.source.give("listeners[0].listen", "--listen");
        let none = Node::List(vec![Node::Table(Vec::new())]);
        if let Node::List(listeners) = entry(entries, "listeners", none)
            && let Some(Node::Table(first)) = listeners.first_mut()
        {
            *entry(first, "listen", Node::Bool(false)) = Node::String(listen.clone());
        }
    }
    if let Some(listen) = monitor {
        sink.source.give("monitor.listen", "--monitor");
        if let Node::Table(monitor) = entry(entries, "monitor", Node::Table(Vec::new())) {
            *entry(monitor, "listen", Node::Bool(false)) = Node::String(listen.clone());
        }
    }
}

/// The value of a key, which is `new` where there is none.
fn entry<'e>(entries: &'e mut Entries, key: &str, new: Node) -> &'e mut Node {
    let at = entries.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
        entries.push((key.to_owned(), new));
        entries.len() - 1
    });
    &mut entries[at].1
}

fn server(i: usize, text: &str, sink: &mut Sink) -> Entries {
    let mut report =
        |what: String, remedy: &str| sink.report(format!("cluster.servers[{i}]"), Problem::new(what, remedy));
    let mut parts = text.split(',');
    let address = parts.next().unwrap_or_default();
    let mut entries = vec![("address".to_owned(), Node::String(address.to_owned()))];
    for part in parts {
        let known = part.split_once('=').and_then(|(key, value)| match key {
            "websocket" | "leafnode" | "monitor" | "name" => Some((key, Node::String(value.to_owned()))),
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
                "write HOST:PORT, then any of ,websocket=URL ,leafnode=HOST:PORT ,monitor=URL ,name=NAME ,max_connections=NUMBER",
            ),
        }
    }
    entries
}
