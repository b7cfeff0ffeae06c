//! What a valid configuration leaves to chance: findings of severity warning. weir starts all the same, and logs them.

use std::path::Path;

use crate::{
    admission::Mode,
    config::{ListenerConfig, addresses::Target, finding::Problem, raw::Raw, section::Sink, shadowed},
    operator_file,
    upstream::Reserve,
};

pub(super) fn look(raw: &Raw, sink: &mut Sink) {
    trust_in_everybody(raw, sink);
    websocket_clients_unjudged(raw, sink);
    leafnodes_without_port(raw, sink);
    advertised_past_weir(raw, sink);
    all_in_reserve(raw, sink);
    quotas_beyond_the_room(raw, sink);
    shadowed::look(raw, sink);
    only_observing(raw, sink);
}

/// A trial that is over, and still does not protect anybody.
fn only_observing(raw: &Raw, sink: &mut Sink) {
    if raw.admission.mode == Mode::Observe {
        let what = "weir holds and refuses nobody, and counts whom it would have held or refused";
        sink.warn("admission.mode", Problem::new(what, "write mode = \"enforce\" once the trial is over"));
    }
}

fn trust_in_everybody(raw: &Raw, sink: &mut Sink) {
    for (i, listener) in raw.listeners.iter().enumerate() {
        let forwarded = listener.websocket.as_ref().map(|websocket| &websocket.accept_forwarded_from);
        let trusted = [
            ("accept_proxy_protocol_from", "PROXY header", Some(&listener.accept_proxy_protocol_from)),
            ("websocket.accept_forwarded_from", "X-Forwarded-For", forwarded),
        ];
        for (key, what, networks) in trusted {
            if let Some(all) = networks.into_iter().flatten().find(|network| network.prefix_len() == 0) {
                let what = format!(
                    "it trusts {all}: anybody who can reach {} may claim any address by a {what}, for quotas by source \
                     and in the log",
                    listener.listen
                );
                sink.warn(format!("listeners[{i}].{key}"), Problem::new(what, "write the networks of the proxies"));
            }
        }
    }
}

fn websocket_clients_unjudged(raw: &Raw, sink: &mut Sink) {
    if raw.upstream.servers.iter().any(|server| server.websocket.is_some()) {
        return;
    }
    for (i, listener) in raw.listeners.iter().enumerate().filter(|(_, one)| one.websocket.is_some()) {
        let what = format!(
            "{} speaks WebSocket, and the servers take its clients for plain ones (STANDARD): their \
             allowed_connection_types and websocket {{ … }} logins are not asked",
            listener.listen
        );
        let remedy = "write websocket = \"ws://host:port\" for each server";
        sink.warn(format!("listeners[{i}].kind"), Problem::new(what, remedy));
    }
}

/// Whoever takes leafnodes has to know where each server does.
fn leafnodes_without_port(raw: &Raw, sink: &mut Sink) {
    let Some(listener) = raw.listeners.iter().position(ListenerConfig::takes_leafnodes) else { return };
    for (i, server) in raw.upstream.servers.iter().enumerate() {
        if server.leafnode.is_none() && server.monitor.is_none() && !raw.upstream.system {
            let what = format!("weir does not learn where it takes leafnodes, for which listeners[{listener}] is");
            let remedy = "write leafnode = \"host:7422\", or monitor";
            sink.warn(format!("cluster.servers[{i}].leafnode"), Problem::new(what, remedy));
        }
    }
}

/// Clients take what is advertised for further addresses, and go there when they reconnect.
fn advertised_past_weir(raw: &Raw, sink: &mut Sink) {
    let servers: Vec<_> = raw.upstream.servers.iter().filter_map(|server| Target::parse(&server.address)).collect();
    for (i, listener) in raw.listeners.iter().enumerate() {
        for (n, address) in listener.advertise.iter().enumerate() {
            let Some(target) = Target::parse(address) else { continue };
            // Where the list also has the word for the fleet, `n` need not be the place in the file.
            let place = if listener.advertises_fleet { String::new() } else { format!("[{n}]") };
            let key = format!("listeners[{i}].advertise{place}");
            if servers.iter().any(|server| server.is_same(&target)) {
                let what = format!("{address:?} is a server: clients go there past weir when they reconnect");
                sink.warn(key, Problem::new(what, "write an address of weir"));
            } else if matches!(target, Target::Ip(ip) if ip.ip().is_unspecified()) {
                let what = format!("{address:?} is no address that a client can connect to");
                sink.warn(key, Problem::new(what, "write the address by which clients reach weir"));
            }
        }
    }
}

/// A part of few connections, rounded up, may be all of them.
fn all_in_reserve(raw: &Raw, sink: &mut Sink) {
    let reserve @ Reserve::Share(share) = raw.upstream.reserve else { return };
    for (i, server) in raw.upstream.servers.iter().enumerate() {
        if let Some(most) = server.max_connections.filter(|&most| reserve.ceiling(most) == 0) {
            let what = format!("the reserve of {} % leaves no client one of {most}", share * 100.0);
            let problem = Problem::new(what, "write more, or a smaller cluster.reserve");
            sink.warn(format!("cluster.servers[{i}].max_connections"), problem);
        }
    }
}

/// A quota above what can be there at all limits nothing.
fn quotas_beyond_the_room(raw: &Raw, sink: &mut Sink) {
    // Servers whose limit stands in the configuration; the limits of others are known only once weir runs.
    let limits: Option<Vec<u32>> = raw.upstream.servers.iter().map(|server| server.max_connections).collect();
    let cluster = limits
        .filter(|limits| !limits.is_empty())
        .map(|limits| limits.iter().map(|&limit| u64::from(raw.upstream.reserve.ceiling(limit))).sum::<u64>());
    let listeners = u64::from(raw.admission.max_clients);
    let (room, whose) = match cluster {
        Some(cluster) if cluster < listeners => (cluster, "all servers together have room for"),
        _ => (listeners, "all listeners together take"),
    };
    let accounts = raw.admission.accounts.iter().map(|(name, limits)| (name.as_str(), limits.quota.max_connections));
    let default = std::iter::once(("default", raw.admission.default_account.quota.max_connections));
    let accounts = accounts.chain(default).map(|(name, most)| (format!("{}.max_connections", account(name)), most));
    let pattern = |table: &'static str| {
        let all = if table == "users" { &raw.admission.patterns.users } else { &raw.admission.patterns.names };
        all.iter().map(move |one| {
            (format!("{}.max_connections", super::node::key_path(table, &one.pattern)), one.quota.max_connections)
        })
    };
    for (key, most) in accounts.chain(pattern("users")).chain(pattern("names")) {
        if let Some(most) = most.filter(|&most| u64::from(most) > room) {
            let what = format!("{most} is more than the {room} clients that {whose}, so it limits nothing");
            sink.warn(key, Problem::new(what, format!("write less than {room}, or leave it out")));
        }
    }
}

fn account(name: &str) -> String {
    super::node::key_path("accounts", name)
}

/// A file with a secret that others on this machine may read.
pub(super) fn readable_by_others(key: String, path: &Path, sink: &mut Sink) {
    if let Some(mode) = operator_file::mode(path).filter(|mode| mode & 0o004 != 0) {
        let what =
            format!("{} holds a secret, and every user of this machine may read it (mode {mode:04o})", path.display());
        sink.warn(key, Problem::new(what, format!("`chmod o-rwx {}`", path.display())));
    }
}
