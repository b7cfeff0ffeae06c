//! What must hold between keys: no duplicates, and no two keys that contradict each other. It must hold in a file, and
//! in what a reload would have in force, where some keys are those of the file and others those of weir's start.

use std::{net::SocketAddr, time::Duration};

use crate::{
    config::{
        Config, ListenerConfig,
        addresses::{self, Target, collide},
        discover::DiscoverConfig,
        finding::Problem,
        notify,
        raw::Raw,
        section::Sink,
    },
    upstream::{Reserve, ServerParams},
};

/// The values that are compared.
struct Together<'a> {
    lame_duck_grace_period: Duration,
    lame_duck_duration: Duration,
    listeners: &'a [ListenerConfig],
    monitor: Option<SocketAddr>,
    servers: &'a [ServerParams],
    reserve: Reserve,
    discover: Option<&'a DiscoverConfig>,
    has_servers_tls: bool,
    has_websocket_tls: bool,
    is_of_a_fleet: bool,
}

/// Compares the keys of one file.
pub(super) fn check(raw: &Raw, sink: &mut Sink) {
    let all = Together {
        lame_duck_grace_period: raw.lame_duck_grace_period,
        lame_duck_duration: raw.lame_duck_duration,
        listeners: &raw.listeners,
        monitor: raw.monitor,
        servers: &raw.upstream.servers,
        reserve: raw.upstream.reserve,
        discover: raw.discover.as_ref(),
        has_servers_tls: raw.servers_tls.is_some(),
        has_websocket_tls: raw.websocket_tls.is_some(),
        is_of_a_fleet: raw.fleet.is_some(),
    };
    all.check(sink);
    notify::check(raw, sink);
}

/// Compares what would be in force together.
pub(super) fn check_in_force(config: &Config, sink: &mut Sink) {
    let all = Together {
        lame_duck_grace_period: config.lame_duck_grace_period,
        lame_duck_duration: config.lame_duck_duration,
        listeners: &config.listeners,
        monitor: config.monitor,
        servers: &config.upstream.servers,
        reserve: config.upstream.reserve,
        discover: config.discover.as_ref(),
        has_servers_tls: config.servers_tls.is_some(),
        has_websocket_tls: config.websocket_tls.is_some(),
        is_of_a_fleet: config.fleet.is_some(),
    };
    all.check(sink);
}

impl Together<'_> {
    fn check(&self, sink: &mut Sink) {
        lame_duck(self, sink);
        listen_addresses(self, sink);
        advertised_fleet(self, sink);
        servers(self, sink);
        one_address_for_each_port(self, sink);
        no_server_is_weir(self, sink);
        websockets_of_discovered(self, sink);
        whom_to_trust(self, sink);
    }
}

fn lame_duck(all: &Together<'_>, sink: &mut Sink) {
    if all.lame_duck_grace_period > all.lame_duck_duration {
        let problem = Problem::new(
            "it is longer than lame_duck_duration, which includes it",
            "write a shorter one, or a longer lame_duck_duration",
        );
        sink.report("lame_duck_grace_period", problem);
    }
}

/// Every address that weir binds, with its key.
fn bound(all: &Together<'_>) -> impl Iterator<Item = (String, SocketAddr)> {
    let listeners = all.listeners.iter().enumerate();
    let listeners = listeners.map(|(i, listener)| (format!("listeners[{i}].listen"), listener.listen));
    listeners.chain(all.monitor.map(|listen| ("monitor.listen".to_owned(), listen)))
}

fn listen_addresses(all: &Together<'_>, sink: &mut Sink) {
    let bound: Vec<_> = bound(all).collect();
    for (i, (key, address)) in bound.iter().enumerate() {
        if let Some((first, other)) = bound[..i].iter().find(|(_, other)| collide(*other, *address)) {
            let what = match address == other {
                true => format!("\"{address}\" is {first} already"),
                false => format!("\"{address}\" and \"{other}\" of {first} cannot both be bound"),
            };
            sink.report(key, Problem::new(what, "write another port, or remove one"));
        }
    }
}

/// Who tells clients the fleet's addresses has a fleet, and tells the fleet its own.
fn advertised_fleet(all: &Together<'_>, sink: &mut Sink) {
    for (i, listener) in all.listeners.iter().enumerate().filter(|(_, listener)| listener.advertises_fleet) {
        let key = format!("listeners[{i}].advertise");
        if listener.is_for_leafnodes {
            let problem =
                Problem::new("weirs tell each other no addresses for leafnodes", "write the addresses themselves");
            sink.report(key, problem);
        } else if !all.is_of_a_fleet {
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

fn servers(all: &Together<'_>, sink: &mut Sink) {
    for (i, server) in all.servers.iter().enumerate() {
        let key = |key: &str| format!("cluster.servers[{i}].{key}");
        let earlier = &all.servers[..i];
        if let Some(name) = &server.name
            && let Some(same) = earlier.iter().position(|other| other.name.as_ref() == Some(name))
        {
            let problem = Problem::new(
                format!("{name:?} is the name of cluster.servers[{same}] already"),
                "write a name of its own, or leave it out for the server's own",
            );
            sink.report(key("name"), problem);
        }
        if let (Reserve::Slots(reserve), Some(max)) = (all.reserve, server.max_connections)
            && reserve >= max
        {
            let problem = Problem::new(
                format!("{max} is not more than the reserve of {reserve} slots"),
                "write more, or a smaller cluster.reserve",
            );
            sink.report(key("max_connections"), problem);
        }
    }
    let websockets = || all.servers.iter().map(|server| &server.websocket);
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
fn ports<'a>(all: &Together<'a>) -> impl Iterator<Item = (usize, usize, &'a str, Target)> {
    all.servers.iter().enumerate().flat_map(|(i, server)| {
        let monitor = server.monitor.as_deref().and_then(|url| url.split_once("://")).map(|(_, address)| address);
        let websocket = server.websocket.as_ref().map(|websocket| &*websocket.address);
        let leafnode = server.leafnode.as_deref();
        let written = [Some(&*server.address), websocket, leafnode, monitor].into_iter().enumerate();
        written.filter_map(move |(port, address)| Some((i, port, address?, Target::parse(address?)?)))
    })
}

/// Every port of every server has an address of its own, however it is spelled.
fn one_address_for_each_port(all: &Together<'_>, sink: &mut Sink) {
    let ports: Vec<_> = ports(all).collect();
    for (n, (i, port, address, target)) in ports.iter().enumerate() {
        let Some((j, other, written, _)) = ports[..n].iter().find(|(.., other)| other.is_same(target)) else {
            continue;
        };
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

fn no_server_is_weir(all: &Together<'_>, sink: &mut Sink) {
    let own = addresses::own();
    for (i, port, address, target) in ports(all) {
        let (key, kind) = PORTS[port];
        if let Some((at, _)) = bound(all).find(|(_, listen)| listen.port() != 0 && target.reaches(*listen, &own)) {
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
fn websockets_of_discovered(all: &Together<'_>, sink: &mut Sink) {
    let Some(discover) = all.discover else { return };
    let named = all.servers;
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
fn whom_to_trust(all: &Together<'_>, sink: &mut Sink) {
    if !all.has_servers_tls && all.discover.is_some_and(DiscoverConfig::is_read_over_tls) {
        let problem =
            Problem::new("HTTPS needs to know whom to trust", "write [cluster.tls] too, with a ca_file or empty");
        sink.report("cluster.discover_monitor", problem);
    }
    if !all.has_servers_tls && !all.has_websocket_tls && all.discover.is_some_and(DiscoverConfig::has_secure_websockets)
    {
        let remedy = "write [cluster.websocket_tls] or [cluster.tls] too, with a ca_file or empty";
        sink.report("cluster.discover_websocket", Problem::new("TLS needs to know whom to trust", remedy));
    }
    for (i, server) in all.servers.iter().enumerate() {
        if all.has_servers_tls {
            break;
        }
        if server.monitor.as_deref().is_some_and(|url| url.starts_with("https://")) {
            let problem =
                Problem::new("HTTPS needs to know whom to trust", "write [cluster.tls] too, with a ca_file or empty");
            sink.report(format!("cluster.servers[{i}].monitor"), problem);
        }
        if !all.has_websocket_tls && server.websocket.as_ref().is_some_and(|websocket| websocket.secure) {
            let remedy = "write [cluster.websocket_tls] or [cluster.tls] too, with a ca_file or empty";
            let problem = Problem::new("TLS needs to know whom to trust", remedy);
            sink.report(format!("cluster.servers[{i}].websocket"), problem);
        }
    }
}
