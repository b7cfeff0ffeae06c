//! The keys of the file, table by table, each with its range, its default and the reason for the default.
//!
//! A key that is not read here is refused, so this is the list of what this build can do.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use crate::{
    admission,
    config::{
        ListenerConfig, LogConfig, LogFormat, LogLevel,
        address::{Address, MonitorUrl, Network},
        effective::Line,
        error::Wrong,
        leaf::{Leaf, Name, Percent, any, misfit, within, word},
        node::Node,
        quota::{self, Accounts},
        section::Section,
        system::SystemKeys,
        tls,
        websocket::websocket,
    },
    tls::ServersTls,
    upstream,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The longest that any client waits for its connection: JavaScript, 20 s. Holding for longer admits only ghosts.
const LONGEST_PATIENCE: Duration = Duration::from_secs(20);

/// More clients than one process can have; catches a slipped digit.
const MOST_CLIENTS: u32 = 10_000_000;

/// The whole file as read; each value good by itself, not yet compared with the others.
pub(super) struct Raw {
    pub(super) workers: Option<NonZeroUsize>,
    pub(super) lame_duck_grace_period: Duration,
    pub(super) lame_duck_duration: Duration,
    pub(super) ports_file: Option<PathBuf>,
    pub(super) proxy_nkey_seed_file: Option<PathBuf>,
    pub(super) servers_tls: Option<ServersTls>,
    pub(super) system: Option<SystemKeys>,
    pub(super) listeners: Vec<ListenerConfig>,
    pub(super) monitor: Option<SocketAddr>,
    pub(super) upstream: upstream::Params,
    pub(super) admission: admission::Params,
    pub(super) log: LogConfig,
}

/// Reads the top of the file and everything under it.
pub(super) fn read(s: &mut Section<'_>) -> Raw {
    // One worker per core: sessions never move between cores, so each core needs one.
    let workers = s.optional("workers", "one per core", within(1usize..=1024));
    // nats-server waits 10 s before its first close; half of that, since Kubernetes kills after 30 s in all.
    let lame_duck_grace_period = s.value("lame_duck_grace_period", 5 * SECOND, within(Duration::ZERO..=HOUR));
    // Grace included. nats-server takes 2 min; 25 s ends inside the 30 s that Kubernetes gives by default.
    let lame_duck_duration = s.value("lame_duck_duration", 25 * SECOND, within(MS..=24 * HOUR));
    let ports_file = s.optional("ports_file", "not written", any);
    let log = s.table("log", log);
    let listeners = s.tables("listeners", listener);
    let listeners = listeners.unwrap_or_else(|| vec![default_listener(s)]);
    let monitor = s.optional_table("monitor", "absent, no endpoints", monitor);
    let (upstream, ClusterFiles { proxy_nkey_seed_file, servers_tls, system }) = s.table("cluster", cluster);
    let mut admission = s.table("admission", admission);
    let Accounts { default, limits, rules } = quota::accounts(s);
    admission.max_clients = listeners.iter().fold(0, |sum, l| sum.saturating_add(l.max_clients));
    admission.default_account = default;
    admission.accounts = limits;
    admission.rules = rules;
    admission.patterns.users = quota::patterns(s, "users");
    admission.patterns.names = quota::patterns(s, "names");
    Raw {
        workers: workers.and_then(NonZeroUsize::new),
        lame_duck_grace_period,
        lame_duck_duration,
        ports_file,
        proxy_nkey_seed_file,
        servers_tls,
        system,
        listeners,
        monitor: monitor.map(|listen| listen.unwrap_or(default_monitor())),
        upstream,
        admission,
        log,
    }
}

fn log(s: &mut Section<'_>) -> LogConfig {
    LogConfig {
        format: s.value("format", LogFormat::Text, any),
        // One line per start, stop, drain, ejected server and second of refusing; sessions are at debug.
        level: s.value("level", LogLevel::Info, any),
    }
}

/// NATS's own port on every interface: what a client expects of an address that stands in for a nats-server.
fn default_listener(s: &mut Section<'_>) -> ListenerConfig {
    s.sink.lines.push(Line::Header { text: "[[listeners]]".into(), given: false });
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 4222));
    let path = "listeners[0]".to_owned();
    Section::read(s.sink, path, Vec::new(), |s| {
        s.in_force("listen", &listen, false);
        listener_at(s, listen)
    })
}

fn listener(s: &mut Section<'_>) -> ListenerConfig {
    let listen = s.required("listen", "write listen = \"0.0.0.0:4222\"");
    // A stand-in while errors are collected; it cannot collide with an address that was given.
    listener_at(s, listen.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
}

fn listener_at(s: &mut Section<'_>, listen: SocketAddr) -> ListenerConfig {
    let kind = s.value("kind", Kind::Client, any);
    // None: a client that knows no other address comes back through this one.
    let advertise = list::<Address>(s, "advertise");
    // None: a header says who the client is, and anybody who is believed could say anything.
    let believed = list::<Network>(s, "accept_proxy_protocol_from");
    // nats-server's own default for max_connections.
    let max_clients = s.value("max_clients", 65_536, within(1..=MOST_CLIENTS));
    // Go, Java and C give up 2 s after they connected; who sent no CONNECT by then never will.
    let handshake_timeout = s.value("handshake_timeout", 2 * SECOND, within(10 * MS..=60 * SECOND));
    let mut table = |of: Kind, key: &'static str, wrong: Wrong| {
        let is_given = kind != of && s.take(key).is_some();
        if is_given {
            s.wrong(key, wrong);
        }
        kind == of
    };
    let right = "write kind = \"websocket\", or remove it";
    let is_websocket = table(Kind::Websocket, "websocket", Wrong::new("this listener speaks no WebSocket", right));
    let right = "write kind = \"passthrough\", or remove it";
    let passes = table(Kind::Passthrough, "passthrough", Wrong::new("this listener does not pass TLS through", right));
    let websocket = is_websocket.then(|| s.table("websocket", websocket));
    let passes_through = passes.then(|| s.table("passthrough", tls::passthrough));
    if passes && s.take("tls").is_some() {
        let wrong = Wrong::new("TLS ends at the servers here", "remove it, or write kind = \"client\"");
        s.wrong("tls", wrong);
    }
    let tls = match passes {
        true => None,
        false => s.optional_table("tls", "absent, clients speak plainly", tls::listener),
    };
    ListenerConfig {
        listen,
        advertise: advertise.into_iter().map(|a| a.0).collect(),
        accept_proxy_protocol_from: believed.into_iter().map(|n| n.0).collect(),
        max_clients,
        handshake_timeout,
        tls,
        websocket,
        passes_through,
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Client,
    Websocket,
    Passthrough,
}

impl Kind {
    const ALL: [(&str, Self); 3] =
        [("client", Self::Client), ("websocket", Self::Websocket), ("passthrough", Self::Passthrough)];
}

impl Leaf for Kind {
    fn read(node: &Node) -> Result<Self, Wrong> {
        word(node, &Self::ALL)
    }
    fn show(&self) -> String {
        format!("{:?}", Self::ALL[*self as usize].0)
    }
}

/// A list whose absence is an empty list.
pub(super) fn list<T: Leaf>(s: &mut Section<'_>, key: &'static str) -> Vec<T> {
    let entries = s.list::<T>(key);
    let given = entries.is_some();
    let entries = List(entries.unwrap_or_default().into_iter().map(|(_, entry)| entry).collect());
    s.in_force(key, &entries, given);
    entries.0
}

#[derive(PartialEq)]
struct List<T>(Vec<T>);

impl<T: Leaf> Leaf for List<T> {
    fn read(node: &Node) -> Result<Self, Wrong> {
        Err(misfit(node, "write a list"))
    }
    fn show(&self) -> String {
        let shown: Vec<String> = self.0.iter().map(Leaf::show).collect();
        format!("[{}]", shown.join(", "))
    }
}

/// nats-server's monitoring port, on loopback only: counts and account names are nobody else's business by default.
fn default_monitor() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 8222))
}

fn monitor(s: &mut Section<'_>) -> Option<SocketAddr> {
    Some(s.value("listen", default_monitor(), any))
}

/// What `[cluster]` names beside the servers.
struct ClusterFiles {
    proxy_nkey_seed_file: Option<PathBuf>,
    servers_tls: Option<ServersTls>,
    system: Option<SystemKeys>,
}

fn cluster(s: &mut Section<'_>) -> (upstream::Params, ClusterFiles) {
    // A reading costs a server 1 to 2 ms of CPU; between readings weir's own counts carry it.
    let poll_interval = s.value("poll_interval", SECOND, within(50 * MS..=HOUR));
    // Room for the operator's own CLI, and for clients that reach the server past weir between two readings.
    let reserve = s.value("reserve", Reserve(upstream::Reserve::Share(0.02)), any);
    let warn_at = s.value("warn_at", Percent(0.8), within(Percent(0.01)..=Percent(1.0)));
    // A server that has just started is busy with routes, JetStream and caches; ten seconds spread the newcomers.
    let slow_start = s.value("slow_start", 10 * SECOND, within(Duration::ZERO..=HOUR));
    let close_spread = s.value("close_spread", 2 * SECOND, within(Duration::ZERO..=20 * SECOND));
    // Off: a server that does not expect the header takes it for a broken client.
    let proxy_protocol = s.value("proxy_protocol", false, any);
    // None: the kernel chooses, as for everybody; its ports bound the sessions to each server.
    let source_addresses = list::<IpAddr>(s, "source_addresses");
    // 0: what it saves a client is a few tenths of a millisecond in the same rack, and it costs the servers a few idle connections.
    // None: a server that trusts no proxy ignores the signature, but then nobody asked for one.
    let seed_file = s.optional::<PathBuf>("proxy_nkey_seed_file", "none, weir is no trusted proxy", any);
    let servers_tls = s.optional_table("tls", "absent, weir speaks plainly to the servers", tls::cluster);
    let absence = "absent, servers are read over their monitoring ports";
    let system = s.optional_table("system", absence, super::system::keys).flatten();
    let servers = s.tables("servers", server);
    if servers.as_ref().is_none_or(Vec::is_empty) {
        s.wrong(
            "servers",
            Wrong::new("there is no server", "write [[cluster.servers]] with address = \"host:4222\" for each"),
        );
    }
    let params = upstream::Params {
        poll_interval,
        system: system.is_some(),
        reserve: reserve.0,
        warn_at: warn_at.0,
        slow_start,
        close_spread,
        compatibility: upstream::Compatibility { proxy_signature: seed_file.is_some(), proxy_protocol },
        source_addresses,
        servers: servers.unwrap_or_default(),
    };
    (params, ClusterFiles { proxy_nkey_seed_file: seed_file, servers_tls, system })
}

#[derive(PartialEq)]
struct Reserve(upstream::Reserve);

impl Leaf for Reserve {
    fn read(node: &Node) -> Result<Self, Wrong> {
        const RIGHT: &str = "write a percentage below \"100%\", or a number of slots";
        match node {
            Node::Integer(_) => u32::read(node).map(|n| Self(upstream::Reserve::Slots(n))),
            Node::String(text) => match Percent::parse(text) {
                Some(Percent(share)) if share < 1.0 => Ok(Self(upstream::Reserve::Share(share))),
                Some(_) => Err(Wrong::new(
                    "\"100%\" leaves no slot for anybody",
                    "write a percentage below it, such as \"2%\"",
                )),
                None => Err(misfit(node, RIGHT)),
            },
            other => Err(misfit(other, RIGHT)),
        }
    }
    fn show(&self) -> String {
        match self.0 {
            upstream::Reserve::Slots(n) => n.to_string(),
            upstream::Reserve::Share(share) => Percent(share).show(),
        }
    }
}

fn server(s: &mut Section<'_>) -> upstream::ServerParams {
    let name = s.optional::<Name>("name", "the server's own", any);
    let address = s.required::<Address>("address", "write address = \"host:4222\"");
    let monitor = s.optional::<MonitorUrl>("monitor", "none, weir counts what it opened", any);
    let max_connections = s.optional("max_connections", "the server's own", within(1..=MOST_CLIENTS));
    upstream::ServerParams {
        name: name.map(|n| n.0),
        address: address.map(|a| a.0).unwrap_or_default(),
        monitor: monitor.map(|m| m.0),
        max_connections,
    }
}

fn admission(s: &mut Section<'_>) -> admission::Params {
    let patience = || within(Duration::ZERO..=LONGEST_PATIENCE);
    // No limit: a number set too high fails like none, and one set too low refuses who could be served.
    let pace = quota::rate::<quota::Pace>(s, "\"adaptive\"");
    // Go, Java and C wait 2 s in all; half a second is left for the dial, the login and the way back.
    let max_hold = s.value("max_hold", 1500 * MS, patience());
    // One hold costs a few KiB; 100,000 are a few hundred MiB, and more than a cluster can take in 20 s.
    let max_held = s.value("max_held", 100_000usize, within(0..=10_000_000));
    // As long as max_hold, so that a refused client's next try falls anywhere in the window and not in step.
    let refusal_spread = s.value("refusal_spread", 1500 * MS, patience());
    let by_lang = s.table("max_hold_by_lang", |s| s.rest(patience()));
    // Off: offices, clusters and carriers put thousands of honest clients behind one address.
    let per_source = s.table("per_source", quota::quota);
    admission::Params {
        pace,
        max_held,
        max_hold,
        max_hold_by_lang: by_lang.into_iter().collect(),
        refusal_spread,
        per_source,
        // These come from other tables; `read` fills them in.
        max_clients: 0,
        default_account: Default::default(),
        accounts: Default::default(),
        rules: Vec::new(),
        patterns: Default::default(),
    }
}

impl Leaf for LogFormat {
    fn read(node: &Node) -> Result<Self, Wrong> {
        word(node, &Self::ALL.map(|format| (format.name(), format)))
    }
    fn show(&self) -> String {
        format!("\"{}\"", self.name())
    }
}

impl Leaf for LogLevel {
    fn read(node: &Node) -> Result<Self, Wrong> {
        word(node, &Self::ALL.map(|level| (level.name(), level)))
    }
    fn show(&self) -> String {
        format!("\"{}\"", self.name())
    }
}
