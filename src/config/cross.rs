//! What must hold between keys: no two of a kind the same, nothing that contradicts another.

use std::{collections::HashMap, net::SocketAddr};

use crate::{
    config::{error::Wrong, raw::Raw, section::Sink},
    upstream::Reserve,
};

/// Reports every contradiction.
pub(super) fn check(raw: &Raw, sink: &mut Sink) {
    lame_duck(raw, sink);
    listen_addresses(raw, sink);
    servers(raw, sink);
    secure_monitors(raw, sink);
}

fn lame_duck(raw: &Raw, sink: &mut Sink) {
    if raw.lame_duck_grace_period > raw.lame_duck_duration {
        let wrong = Wrong::new(
            "it is longer than lame_duck_duration, which includes it",
            "write a shorter one, or a longer lame_duck_duration",
        );
        sink.wrong("lame_duck_grace_period", wrong);
    }
}

fn listen_addresses(raw: &Raw, sink: &mut Sink) {
    // Port 0 is "any free port": two of them are two ports.
    let mut seen: HashMap<SocketAddr, String> = HashMap::new();
    let listeners = raw.listeners.iter().enumerate();
    let all = listeners
        .map(|(i, l)| (format!("listeners[{i}].listen"), l.listen))
        .chain(raw.monitor.map(|m| ("monitor.listen".to_owned(), m)));
    for (key, address) in all.filter(|(_, address)| address.port() != 0) {
        if let Some(first) = seen.get(&address) {
            let wrong = Wrong::new(format!("\"{address}\" is {first} already"), "write another port, or remove one");
            sink.wrong(key, wrong);
        } else {
            seen.insert(address, key);
        }
    }
}

fn servers(raw: &Raw, sink: &mut Sink) {
    let mut addresses: HashMap<String, usize> = HashMap::new();
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (i, server) in raw.upstream.servers.iter().enumerate() {
        let key = |key: &str| format!("cluster.servers[{i}].{key}");
        if !server.address.is_empty() {
            // Host names are the same in any case.
            let same = addresses.entry(server.address.to_ascii_lowercase()).or_insert(i);
            if *same != i {
                let wrong = Wrong::new(
                    format!("{:?} is the address of cluster.servers[{same}] already", server.address),
                    "write each server once",
                );
                sink.wrong(key("address"), wrong);
            }
        }
        if let Some(name) = &server.name {
            let same = names.entry(name).or_insert(i);
            if *same != i {
                let wrong = Wrong::new(
                    format!("{name:?} is the name of cluster.servers[{same}] already"),
                    "write a name of its own, or leave it out for the server's own",
                );
                sink.wrong(key("name"), wrong);
            }
        }
        if raw.listeners.iter().any(|l| reaches(&server.address, l.listen)) {
            let wrong = Wrong::new(
                format!("{:?} is where weir itself listens", server.address),
                "write the address of the nats-server, or another listen address",
            );
            sink.wrong(key("address"), wrong);
        }
        if let (Reserve::Slots(reserve), Some(max)) = (raw.upstream.reserve, server.max_connections)
            && reserve >= max
        {
            let wrong = Wrong::new(
                format!("{max} is not more than the reserve of {reserve} slots"),
                "write more, or a smaller cluster.reserve",
            );
            sink.wrong(key("max_connections"), wrong);
        }
    }
}

fn secure_monitors(raw: &Raw, sink: &mut Sink) {
    let https = |monitor: &Option<String>| monitor.as_deref().is_some_and(|url| url.starts_with("https://"));
    for (i, server) in raw.upstream.servers.iter().enumerate() {
        if raw.servers_tls.is_none() && https(&server.monitor) {
            let wrong =
                Wrong::new("HTTPS needs to know whom to trust", "write [cluster.tls] too, with a ca_file or empty");
            sink.wrong(format!("cluster.servers[{i}].monitor"), wrong);
        }
    }
}

/// Whether dialling `address` on this machine reaches what is bound at `listen`. Names are not resolved.
fn reaches(address: &str, listen: SocketAddr) -> bool {
    let Ok(address) = address.parse::<SocketAddr>() else {
        return false;
    };
    let here = address.ip().is_loopback() || address.ip().is_unspecified();
    address == listen || (address.port() == listen.port() && listen.ip().is_unspecified() && here)
}
