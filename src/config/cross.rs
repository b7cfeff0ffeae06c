//! What must hold between keys: no duplicates, and no two keys that contradict each other.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use crate::{
    config::{error::Problem, raw::Raw, section::Sink},
    upstream::Reserve,
};

pub(super) fn check(raw: &Raw, sink: &mut Sink) {
    lame_duck(raw, sink);
    listen_addresses(raw, sink);
    servers(raw, sink);
    secure_monitors(raw, sink);
    websockets(raw, sink);
}

fn lame_duck(raw: &Raw, sink: &mut Sink) {
    if raw.lame_duck_grace_period > raw.lame_duck_duration {
        let problem = Problem::new(
            "it is longer than lame_duck_duration, which includes it",
            "write a shorter one, or a longer lame_duck_duration",
        );
        sink.report("lame_duck_grace_period", problem);
    }
}

fn listen_addresses(raw: &Raw, sink: &mut Sink) {
    // Port 0 means any free port, so two of them are not the same.
    let mut seen: HashMap<SocketAddr, String> = HashMap::new();
    let listeners = raw.listeners.iter().enumerate();
    let all = listeners
        .map(|(i, l)| (format!("listeners[{i}].listen"), l.listen))
        .chain(raw.monitor.map(|m| ("monitor.listen".to_owned(), m)));
    for (key, address) in all.filter(|(_, address)| address.port() != 0) {
        // "[::]" takes what "0.0.0.0" takes too.
        let ip = if address.ip().is_unspecified() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { address.ip() };
        let bound = SocketAddr::new(ip.to_canonical(), address.port());
        if let Some(first) = seen.get(&bound) {
            let problem =
                Problem::new(format!("\"{address}\" is {first} already"), "write another port, or remove one");
            sink.report(key, problem);
        } else {
            seen.insert(bound, key);
        }
    }
}

fn servers(raw: &Raw, sink: &mut Sink) {
    let mut addresses: HashMap<String, usize> = HashMap::new();
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (i, server) in raw.upstream.servers.iter().enumerate() {
        let key = |key: &str| format!("cluster.servers[{i}].{key}");
        if !server.address.is_empty() {
            // The case of a host name does not matter.
            let same = addresses.entry(server.address.to_ascii_lowercase()).or_insert(i);
            if *same != i {
                let problem = Problem::new(
                    format!("{:?} is the address of cluster.servers[{same}] already", server.address),
                    "write each server once",
                );
                sink.report(key("address"), problem);
            }
        }
        if let Some(name) = &server.name {
            let same = names.entry(name).or_insert(i);
            if *same != i {
                let problem = Problem::new(
                    format!("{name:?} is the name of cluster.servers[{same}] already"),
                    "write a name of its own, or leave it out for the server's own",
                );
                sink.report(key("name"), problem);
            }
        }
        if raw.listeners.iter().any(|l| reaches(&server.address, l.listen)) {
            let problem = Problem::new(
                format!("{:?} is where weir itself listens", server.address),
                "write the address of the nats-server, or another listen address",
            );
            sink.report(key("address"), problem);
        }
        if let (Reserve::Slots(reserve), Some(max)) = (raw.upstream.reserve, server.max_connections)
            && reserve >= max
        {
            let problem = Problem::new(
                format!("{max} is not more than the reserve of {reserve} slots"),
                "write more, or a smaller cluster.reserve",
            );
            sink.report(key("max_connections"), problem);
        }
    }
}

fn secure_monitors(raw: &Raw, sink: &mut Sink) {
    let https = |monitor: &Option<String>| monitor.as_deref().is_some_and(|url| url.starts_with("https://"));
    for (i, server) in raw.upstream.servers.iter().enumerate() {
        if raw.servers_tls.is_none() && https(&server.monitor) {
            let problem =
                Problem::new("HTTPS needs to know whom to trust", "write [cluster.tls] too, with a ca_file or empty");
            sink.report(format!("cluster.servers[{i}].monitor"), problem);
        }
    }
}

fn websockets(raw: &Raw, sink: &mut Sink) {
    let servers = || raw.upstream.servers.iter().enumerate().map(|(i, server)| (i, &server.websocket));
    if servers().all(|(_, websocket)| websocket.is_none()) {
        return;
    }
    let mut addresses: HashMap<String, usize> = HashMap::new();
    for (i, websocket) in servers() {
        let mut report = |what: String, remedy: &str| {
            sink.report(format!("cluster.servers[{i}].websocket"), Problem::new(what, remedy));
        };
        let Some(websocket) = websocket else {
            // By its client port this server would let in whom the others refuse, and the other way round.
            report("it is absent, and other servers have one".to_owned(), "write it for every server, or for none");
            continue;
        };
        if websocket.secure && raw.servers_tls.is_none() && raw.websocket_tls.is_none() {
            report(
                "TLS needs to know whom to trust".to_owned(),
                "write [cluster.websocket_tls] or [cluster.tls] too, with a ca_file or empty",
            );
        }
        let address = websocket.address.to_ascii_lowercase();
        if raw.upstream.servers[i].address.eq_ignore_ascii_case(&address) {
            report(format!("{address:?} is the address of the client port"), "write that of the WebSocket port");
        }
        let same = *addresses.entry(address).or_insert(i);
        if same != i {
            report(format!("it is that of cluster.servers[{same}] already"), "write each server's own");
        }
        if raw.listeners.iter().any(|l| reaches(&websocket.address, l.listen)) {
            report("it is where weir itself listens".to_owned(), "write the address of the nats-server");
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
