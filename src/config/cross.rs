//! What must hold between keys: no duplicates, and no two keys that contradict each other.

use crate::{
    config::{
        addresses::{self, Target, collide},
        discover::DiscoverConfig,
        finding::Problem,
        notify,
        raw::Raw,
        section::Sink,
    },
    upstream::Reserve,
};

pub(super) fn check(raw: &Raw, sink: &mut Sink) {
    lame_duck(raw, sink);
    listen_addresses(raw, sink);
    advertised_fleet(raw, sink);
    servers(raw, sink);
    one_address_for_each_port(raw, sink);
    no_server_is_weir(raw, sink);
    websockets_of_discovered(raw, sink);
    whom_to_trust(raw, sink);
    notify::check(raw, sink);
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

/// Every address that weir binds, with its key.
fn bound(raw: &Raw) -> impl Iterator<Item = (String, std::net::SocketAddr)> {
    let listeners = raw.listeners.iter().enumerate();
    let listeners = listeners.map(|(i, listener)| (format!("listeners[{i}].listen"), listener.listen));
    listeners.chain(raw.monitor.map(|listen| ("monitor.listen".to_owned(), listen)))
}

fn listen_addresses(raw: &Raw, sink: &mut Sink) {
    let all: Vec<_> = bound(raw).collect();
    for (i, (key, address)) in all.iter().enumerate() {
        if let Some((first, other)) = all[..i].iter().find(|(_, other)| collide(*other, *address)) {
            let what = match address == other {
                true => format!("\"{address}\" is {first} already"),
                false => format!("\"{address}\" and \"{other}\" of {first} cannot both be bound"),
            };
            sink.report(key, Problem::new(what, "write another port, or remove one"));
        }
    }
}

/// Who tells clients the fleet's addresses has a fleet, and tells the fleet its own.
fn advertised_fleet(raw: &Raw, sink: &mut Sink) {
    for (i, listener) in raw.listeners.iter().enumerate().filter(|(_, listener)| listener.advertises_fleet) {
        let key = format!("listeners[{i}].advertise");
        if listener.is_for_leafnodes {
            let problem =
                Problem::new("weirs tell each other no addresses for leafnodes", "write the addresses themselves");
            sink.report(key, problem);
        } else if raw.fleet.is_none() {
            let problem = Problem::new("this weir is in no fleet", "write [fleet] with its name, or remove \"fleet\"");
            sink.report(key, problem);
        } else if listener.advertise.is_empty() && listener.listen.ip().is_unspecified() {
            let port = listener.listen.port();
            let what = format!("clients of other weirs cannot be told \"{}\"", listener.listen);
            let remedy = format!(
                "write the address by which clients reach this weir, too: [\"fleet\", \"weir-1.example.com:{port}\"]"
            );
            sink.report(key, Problem::new(what, remedy));
        }
    }
}

fn servers(raw: &Raw, sink: &mut Sink) {
    for (i, server) in raw.upstream.servers.iter().enumerate() {
        let key = |key: &str| format!("cluster.servers[{i}].{key}");
        let earlier = &raw.upstream.servers[..i];
        if let Some(name) = &server.name
            && let Some(same) = earlier.iter().position(|other| other.name.as_ref() == Some(name))
        {
            let problem = Problem::new(
                format!("{name:?} is the name of cluster.servers[{same}] already"),
                "write a name of its own, or leave it out for the server's own",
            );
            sink.report(key("name"), problem);
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
    let websockets = || raw.upstream.servers.iter().map(|server| &server.websocket);
    if websockets().any(Option::is_some) {
        for (i, _) in websockets().enumerate().filter(|(_, websocket)| websocket.is_none()) {
            // By its client port this server would let in whom the others refuse, and the other way round.
            let problem =
                Problem::new("it is absent, and other servers have one", "write it for every server, or for none");
            sink.report(format!("cluster.servers[{i}].websocket"), problem);
        }
    }
}

/// The ports of a server, by the keys that name them.
const PORTS: [(&str, &str); 4] =
    [("address", "client"), ("websocket", "WebSocket"), ("leafnode", "leafnode"), ("monitor", "monitoring")];

/// Where each port of each server is: the server's index, the key's place in [`PORTS`], the address as it is written.
fn ports(raw: &Raw) -> impl Iterator<Item = (usize, usize, &str, Target)> {
    raw.upstream.servers.iter().enumerate().flat_map(|(i, server)| {
        let monitor = server.monitor.as_deref().and_then(|url| url.split_once("://")).map(|(_, address)| address);
        let websocket = server.websocket.as_ref().map(|websocket| &*websocket.address);
        let leafnode = server.leafnode.as_deref();
        let written = [Some(&*server.address), websocket, leafnode, monitor].into_iter().enumerate();
        written.filter_map(move |(port, address)| Some((i, port, address?, Target::parse(address?)?)))
    })
}

/// Every port of every server has an address of its own, however it is spelled.
fn one_address_for_each_port(raw: &Raw, sink: &mut Sink) {
    let all: Vec<_> = ports(raw).collect();
    for (n, (i, port, address, target)) in all.iter().enumerate() {
        let Some((j, other, written, _)) = all[..n].iter().find(|(.., other)| other.is_same(target)) else { continue };
        let ((key, kind), (other_key, other_kind)) = (PORTS[*port], PORTS[*other]);
        let problem = if i == j {
            Problem::new(
                format!("{address:?} is the address of the {other_kind} port"),
                format!("write that of the {kind} port"),
            )
        } else if key != other_key {
            let what = format!("{address:?} is cluster.servers[{j}].{other_key} already");
            Problem::new(what, format!("write the address of this server's own {kind} port"))
        } else {
            let spelled = if address == written { String::new() } else { format!(", which is {written:?},") };
            let what = format!("{address:?}{spelled} is the {key} of cluster.servers[{j}] already");
            let remedy = if key == "address" { "write each server once" } else { "write each server's own" };
            Problem::new(what, remedy)
        };
        sink.report(format!("cluster.servers[{i}].{key}"), problem);
    }
}

fn no_server_is_weir(raw: &Raw, sink: &mut Sink) {
    let own = addresses::own();
    for (i, port, address, target) in ports(raw) {
        let (key, kind) = PORTS[port];
        if let Some((at, _)) = bound(raw).find(|(_, listen)| listen.port() != 0 && target.reaches(*listen, &own)) {
            let what = format!("{address:?} is where weir itself listens ({at})");
            // A server on the usual port of the same machine, and weir with its defaults: somebody tries weir.
            let argument = match sink.source.argument("cluster.servers") {
                Some(_) if at == "monitor.listen" => " with --monitor",
                Some(_) => " with --listen",
                None => "",
            };
            let remedy =
                format!("write the address of the nats-server's {kind} port, or another address for weir{argument}");
            sink.report(format!("cluster.servers[{i}].{key}"), Problem::new(what, remedy));
        }
    }
}

/// Servers that a name stands for have WebSocket ports where those that are named have: clients would be let in at one
/// whom others refuse.
fn websockets_of_discovered(raw: &Raw, sink: &mut Sink) {
    let Some(discover) = &raw.discover else { return };
    let named = &raw.upstream.servers;
    let of_named = named.iter().any(|server| server.websocket.is_some());
    if !named.is_empty() && of_named != discover.has_websockets() {
        let problem = match of_named {
            true => {
                Problem::new("it is absent, and named servers have a WebSocket port", "write it, or none for those")
            }
            false => Problem::new("the named servers have no WebSocket port", "write those too, or remove it"),
        };
        sink.report("cluster.discover_websocket", problem);
    }
}

/// TLS needs to know whom to trust.
fn whom_to_trust(raw: &Raw, sink: &mut Sink) {
    if raw.servers_tls.is_none() && raw.discover.as_ref().is_some_and(DiscoverConfig::is_read_over_tls) {
        let problem =
            Problem::new("HTTPS needs to know whom to trust", "write [cluster.tls] too, with a ca_file or empty");
        sink.report("cluster.discover_monitor", problem);
    }
    if raw.servers_tls.is_none()
        && raw.websocket_tls.is_none()
        && raw.discover.as_ref().is_some_and(DiscoverConfig::has_secure_websockets)
    {
        let remedy = "write [cluster.websocket_tls] or [cluster.tls] too, with a ca_file or empty";
        sink.report("cluster.discover_websocket", Problem::new("TLS needs to know whom to trust", remedy));
    }
    for (i, server) in raw.upstream.servers.iter().enumerate() {
        if raw.servers_tls.is_some() {
            break;
        }
        if server.monitor.as_deref().is_some_and(|url| url.starts_with("https://")) {
            let problem =
                Problem::new("HTTPS needs to know whom to trust", "write [cluster.tls] too, with a ca_file or empty");
            sink.report(format!("cluster.servers[{i}].monitor"), problem);
        }
        if raw.websocket_tls.is_none() && server.websocket.as_ref().is_some_and(|websocket| websocket.secure) {
            let remedy = "write [cluster.websocket_tls] or [cluster.tls] too, with a ca_file or empty";
            let problem = Problem::new("TLS needs to know whom to trust", remedy);
            sink.report(format!("cluster.servers[{i}].websocket"), problem);
        }
    }
}
