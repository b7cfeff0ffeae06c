//! The keys of the file, table by table, each with its range, its default and the reason for the default.
//!
//! A key that is not read here is an error.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use strum::{IntoStaticStr, VariantArray};

use crate::{
    admission::{self, policies::Policies},
    client_library::lang,
    config::{
        AdminConfig, ListenerConfig, LogConfig, LogFormat, LogLevel, NewClients, RebalanceConfig,
        address::{Address, Advertised, BasePath, FLEET, MonitorUrl, Network, WebSocketUrl},
        discover::{DiscoverConfig, discover},
        effective::{Line, toml_key},
        finding::{Problem, quote},
        fleet::{self, FleetKeys},
        leaf::{Any, Checked, Leaf, Name, Percent, Words, within, wrong_type},
        node::Node,
        notify::{self, NotifyKeys},
        quota::{self, Accounts},
        section::{Section, Sink},
        system::SystemKeys,
        tcp, tls,
        websocket::websocket,
    },
    net::socket::TcpTimeouts,
    protocol::s2::Mode,
    relay::registry::DEFAULT_MAX_CLOSED,
    tls::ServersTls,
    upstream,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// No client waits for its connection longer than JavaScript's, which waits for 20 s. A client that is held longer has
/// given up.
const LONGEST_PATIENCE: Duration = Duration::from_secs(20);

/// More clients than one process can have. Catches an extra digit.
const MOST_CLIENTS: u32 = 10_000_000;

/// The whole file, with each value checked but not yet compared with others.
pub(super) struct Raw {
    pub(super) server_name: Option<String>,
    pub(super) workers: Option<NonZeroUsize>,
    pub(super) lame_duck_new_clients: NewClients,
    pub(super) lame_duck_grace_period: Duration,
    pub(super) lame_duck_duration: Duration,
    pub(super) ports_file: Option<PathBuf>,
    pub(super) reload_on_change: bool,
    pub(super) proxy_nkey_seed_file: Option<PathBuf>,
    pub(super) servers_tcp: TcpTimeouts,
    pub(super) servers_tls: Option<ServersTls>,
    pub(super) websocket_tls: Option<ServersTls>,
    pub(super) system: Option<SystemKeys>,
    pub(super) discover: Option<DiscoverConfig>,
    /// weir answers requests to the servers.
    pub(super) answer_requests: bool,
    pub(super) listeners: Vec<ListenerConfig>,
    pub(super) monitor: Option<SocketAddr>,
    pub(super) http_base_path: String,
    pub(super) max_closed_clients: usize,
    pub(super) admin: Option<AdminConfig>,
    pub(super) upstream: upstream::Params,
    pub(super) admission: admission::Params,
    pub(super) policies: Policies,
    pub(super) rebalance: RebalanceConfig,
    pub(super) log: LogConfig,
    pub(super) notify: NotifyKeys,
    pub(super) fleet: Option<FleetKeys>,
}

/// The longest name of a weir, in characters.
const LONGEST_NAME: usize = 128;

/// Reads the top level of the file and every table below it.
pub(super) fn read(s: &mut Section<'_>) -> Raw {
    // The machine's: two weirs with one name are one line too few in `nats server list`.
    let server_name = s.optional::<String>("server_name", "the machine's name", Checked(name_of_server));
    // One worker per core: sessions never move between cores, so each core needs one.
    let workers = s.optional("workers", "one per core", within(1usize..=1024));
    // Load balancers send clients until they have seen `/healthz`, and a client library at its defaults does not try
    // its first connection again.
    let lame_duck_new_clients = s.value("lame_duck_new_clients", NewClients::Serve, Any);
    // Half of nats-server's 10 s, since Kubernetes kills a process 30 s after the signal.
    let lame_duck_grace_period = s.value("lame_duck_grace_period", 5 * SECOND, within(Duration::ZERO..=HOUR));
    // It includes the grace period. nats-server takes 2 min, but Kubernetes allows 30 s by default.
    let lame_duck_duration = s.value("lame_duck_duration", 25 * SECOND, within(MS..=24 * HOUR));
    let ports_file = s.optional("ports_file", "not written", Any);
    // Off: whoever edits the file decides when it is whole.
    let reload_on_change = s.value("reload_on_change", false, Any);
    let log = s.table("log", log);
    let listeners = s.tables("listeners", listener);
    let listeners = listeners.unwrap_or_else(|| vec![default_listener(s)]);
    let monitoring = s.optional_table("monitor", "absent, no endpoints", monitor);
    let monitor = monitoring.as_ref().map(|(listen, ..)| *listen);
    let (http_base_path, max_closed_clients) =
        monitoring.map_or((String::new(), DEFAULT_MAX_CLOSED), |(_, path, most)| (path, most));
    let notify = s.optional_table("warnings", "absent, events go to the log and to metrics", notify::keys);
    let admin = s.optional_table("admin", "absent, no admin socket", super::admin::admin);
    let (upstream, files) = s.table("cluster", cluster);
    let ClusterConnections {
        proxy_nkey_seed_file,
        servers_tcp,
        servers_tls,
        websocket_tls,
        system,
        discover,
        answer_requests,
    } = files;
    let fleet = s.optional_table("fleet", "absent, this weir shares nothing with others", fleet::keys);
    let mut admission = s.table("admission", admission);
    let Accounts { default, limits, rules } = quota::accounts(s);
    admission.max_clients = listeners.iter().fold(0, |sum, l| sum.saturating_add(l.max_clients));
    admission.default_account = default;
    admission.accounts = limits;
    admission.rules = rules;
    admission.patterns.users = quota::patterns(s, "users");
    admission.patterns.names = quota::patterns(s, "names");
    let policies = s.table("policies", super::policies::policies);
    let rebalance = s.table("rebalance", super::rebalance::rebalance);
    Raw {
        server_name,
        workers: workers.and_then(NonZeroUsize::new),
        lame_duck_new_clients,
        lame_duck_grace_period,
        lame_duck_duration,
        ports_file,
        reload_on_change,
        proxy_nkey_seed_file,
        servers_tcp,
        servers_tls,
        websocket_tls,
        system,
        discover,
        answer_requests,
        listeners,
        monitor,
        http_base_path,
        max_closed_clients,
        admin,
        upstream,
        admission,
        policies,
        rebalance,
        log,
        notify: notify.unwrap_or_default(),
        fleet,
    }
}

/// nats-server takes no name with a space, and shows it in tables.
fn name_of_server(name: &String) -> Result<(), Problem> {
    let remedy = format!("write 1 to {LONGEST_NAME} characters without spaces, such as \"weir-1\"");
    let is_in_words = || name.chars().any(|character| character.is_whitespace() || character.is_control());
    match name.chars().count() {
        0 => Err(Problem::new("it is empty", remedy)),
        1..=LONGEST_NAME if is_in_words() => Err(Problem::new(format!("{name:?} has a space"), remedy)),
        1..=LONGEST_NAME => Ok(()),
        n => Err(Problem::new(format!("it has {n} characters"), remedy)),
    }
}

fn log(s: &mut Section<'_>) -> LogConfig {
    LogConfig {
        format: s.value("format", LogFormat::Text, Any),
        // Info: start, stop, drain, ejected servers, and one line per second while clients are refused. Sessions are
        // debug.
        level: s.value("level", LogLevel::Info, Any),
    }
}

/// NATS's own port on every interface, for IPv4 and IPv6: where clients expect a nats-server.
fn default_listener(s: &mut Section<'_>) -> ListenerConfig {
    s.sink.lines.push(Line::Header { text: "[[listeners]]".into(), given: false });
    let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 4222));
    let path = "listeners[0]".to_owned();
    Section::read(s.sink, path, Vec::new(), |s| {
        s.in_force("listen", &listen, false);
        listener_at(s, listen)
    })
}

fn listener(s: &mut Section<'_>) -> ListenerConfig {
    let listen = s.required("listen", "write listen = \"0.0.0.0:4222\"");
    // A placeholder while errors are collected: port 0 is never a duplicate.
    listener_at(s, listen.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
}

fn listener_at(s: &mut Section<'_>, listen: SocketAddr) -> ListenerConfig {
    let kind = s.value("kind", Kind::Client, Any);
    // None: a client that knows no other address reconnects to this one.
    let advertise = list::<Advertised>(s.word_as_list("advertise", FLEET), "advertise");
    // None: whoever may send a header may claim any source address.
    let believed = list::<Network>(s, "accept_proxy_protocol_from");
    // Envoy's allow_requests_without_proxy_protocol. Off: such a connection waits for INFO a little longer.
    let allow_without_proxy_protocol = s.value("allow_without_proxy_protocol", false, Any);
    if allow_without_proxy_protocol && believed.is_empty() {
        let remedy = "name the balancers in accept_proxy_protocol_from, or remove it";
        s.report("allow_without_proxy_protocol", Problem::new("nobody's PROXY header is believed", remedy));
    }
    // nats-server's own default for max_connections.
    let max_clients = s.value("max_clients", 65_536, within(1..=MOST_CLIENTS));
    // nats-server's own timers: whoever is in time for a server is in time for weir.
    let absence = "as nats-server, 2s for TLS and then the servers' auth_timeout";
    let handshake_timeout = s.optional("handshake_timeout", absence, within(10 * MS..=60 * SECOND));
    let tcp = tcp::timeouts(s, tcp::OF_CLIENTS);
    let mut table = |of: Kind, key: &'static str, problem: Problem| {
        let is_given = kind != of && s.take(key).is_some();
        if is_given {
            s.report(key, problem);
        }
        kind == of
    };
    let remedy = "write kind = \"leafnode\", or remove it";
    let problem = Problem::new("only leafnodes speak S2, and this listener is for others", remedy);
    let is_for_leafnodes = table(Kind::Leafnode, "compression", problem);
    let remedy = "write kind = \"websocket\", or remove it";
    let is_websocket = table(Kind::Websocket, "websocket", Problem::new("this listener speaks no WebSocket", remedy));
    let remedy = "write kind = \"passthrough\", or remove it";
    let passes =
        table(Kind::Passthrough, "passthrough", Problem::new("this listener does not pass TLS through", remedy));
    // nats-server's own default for leafnodes: where the line is short nothing is compressed.
    let compression = match is_for_leafnodes {
        true => s.value("compression", Mode::S2Auto, Any),
        false => Mode::Off,
    };
    let websocket = is_websocket.then(|| s.table("websocket", websocket));
    let passes_through = passes.then(|| s.table("passthrough", tls::passthrough));
    if passes && s.take("tls").is_some() {
        let problem = Problem::new("TLS ends at the servers here", "remove it, or write kind = \"client\"");
        s.report("tls", problem);
    }
    let tls = match passes {
        true => None,
        false => s.optional_table("tls", "absent, clients speak plainly", tls::listener),
    };
    ListenerConfig {
        listen,
        advertises_fleet: advertise.contains(&Advertised::Fleet),
        advertise: advertise.into_iter().filter_map(Advertised::address).collect(),
        accept_proxy_protocol_from: believed.into_iter().map(|n| n.0).collect(),
        allow_without_proxy_protocol,
        max_clients,
        handshake_timeout,
        tcp,
        tls,
        websocket,
        passes_through,
        is_for_leafnodes,
        compression,
    }
}

/// The protocol of a listener.
#[derive(Clone, Copy, PartialEq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
enum Kind {
    Client,
    Websocket,
    Passthrough,
    Leafnode,
}

impl Words for Kind {}

impl Words for Mode {}

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
    fn kind() -> String {
        format!("list: {}", T::kind())
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        Err(wrong_type(node, "write a list"))
    }
    fn show(&self) -> String {
        let shown: Vec<String> = self.0.iter().map(Leaf::show).collect();
        format!("[{}]", shown.join(", "))
    }
}

/// nats-server's monitoring port, but on loopback only: by default nobody else sees counts and names of accounts.
fn default_monitor() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 8222))
}

/// Its address, and what stands in front of its paths.
pub(super) fn monitor(s: &mut Section<'_>) -> (SocketAddr, String, usize) {
    let listen = s.value("listen", default_monitor(), Any);
    let http_base_path = s.optional::<BasePath>("http_base_path", "none", Any);
    // As many as a nats-server: 10,000 take about 4 MiB.
    let max_closed_clients = s.value("max_closed_clients", DEFAULT_MAX_CLOSED, within(0..=1_000_000));
    (listen, http_base_path.map(|path| path.0).unwrap_or_default(), max_closed_clients)
}

/// What of `[cluster]` is for the connections, and not for the choice of a server.
struct ClusterConnections {
    proxy_nkey_seed_file: Option<PathBuf>,
    servers_tcp: TcpTimeouts,
    servers_tls: Option<ServersTls>,
    websocket_tls: Option<ServersTls>,
    system: Option<SystemKeys>,
    discover: Option<DiscoverConfig>,
    answer_requests: bool,
}

fn cluster(s: &mut Section<'_>) -> (upstream::Params, ClusterConnections) {
    // A reading costs a server 1 to 2 ms of CPU. Between readings weir adds what it opened and closed itself.
    let poll_interval = s.value("poll_interval", SECOND, within(50 * MS..=HOUR));
    // For the operator's own tools, and for clients that connect past weir between two readings.
    let reserve = s.value("reserve", Reserve(upstream::Reserve::Share(0.02)), Any);
    let warn_at = s.value("warn_at", Percent(0.8), within(Percent(0.01)..=Percent(1.0)));
    // A server that has just started is busy with routes, JetStream and caches. Clients reach it over ten seconds.
    let slow_start = s.value("slow_start", 10 * SECOND, within(Duration::ZERO..=HOUR));
    let close_spread = s.value("close_spread", 2 * SECOND, within(Duration::ZERO..=20 * SECOND));
    // Off: a server that does not expect the header refuses the client.
    let proxy_protocol = s.value("proxy_protocol", false, Any);
    // None: the kernel chooses the address, whose ports limit the sessions to each server.
    let source_addresses = list::<IpAddr>(s, "source_addresses");
    // None: a server that trusts no proxy ignores the signature.
    let seed_file = s.optional_file("proxy_nkey_seed_file", "none, weir is no trusted proxy");
    // None: the servers' first INFOs tell.
    let names = list::<Name>(s, "names");
    let discover = discover(s);
    let servers_tcp = tcp::timeouts(s, tcp::OF_SERVERS);
    let mut servers_tls = s.optional_table("tls", "absent, weir speaks plainly to the servers", tls::cluster);
    let absence = "absent, wss:// takes [cluster.tls]";
    let websocket_tls = s.optional_table("websocket_tls", absence, tls::websocket);
    let absence = "absent, servers are read over their monitoring ports";
    // Off: those who count servers by their answers would count one more.
    let system = |s: &mut Section<'_>| (super::system::keys(s), s.value("answer_requests", false, Any));
    let (system, answer_requests) = s.optional_table("system", absence, system).unwrap_or_default();
    let before = s.sink.findings.len();
    let servers = s.tables("servers", server);
    let names_none = servers.as_ref().is_none_or(Vec::is_empty);
    // The certificates of all servers that one name stands for are checked by it.
    if let (true, Some(host), Some(tls)) =
        (names_none, discover.as_ref().and_then(DiscoverConfig::host), &mut servers_tls)
    {
        tls.server_name.get_or_insert_with(|| host.to_owned());
    }
    // What is no list of tables has been reported.
    if s.sink.findings.len() == before {
        some_server(servers.as_deref().unwrap_or_default(), discover.as_ref(), s.sink);
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
        cluster_names: names.into_iter().map(|name| name.0.into()).collect(),
        // It depends on the listeners, and is filled in once all is read.
        only_websocket: false,
        servers: servers.unwrap_or_default(),
    };
    let proxy_nkey_seed_file = seed_file;
    let connections = ClusterConnections {
        proxy_nkey_seed_file,
        servers_tcp,
        servers_tls,
        websocket_tls,
        system,
        discover,
        answer_requests,
    };
    (params, connections)
}

/// There is a server, or a name that leads to some.
pub(super) fn some_server(servers: &[upstream::ServerParams], discover: Option<&DiscoverConfig>, sink: &mut Sink) {
    if servers.is_empty() && discover.is_none_or(|discover| discover.from.is_none()) {
        let remedy = "write [[cluster.servers]] with address = \"host:4222\" for each";
        sink.report("cluster.servers", Problem::new("there is no server", remedy));
    }
}

#[derive(PartialEq)]
struct Reserve(upstream::Reserve);

impl Leaf for Reserve {
    fn kind() -> String {
        "percentage below 100%, or whole number".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write a percentage from \"0%\" to below \"100%\", or a number of slots without quotes";
        match node {
            Node::Integer(_) => {
                u32::read(node).map(|n| Self(upstream::Reserve::Slots(n))).map_err(|err| Problem::new(err.what, REMEDY))
            }
            Node::String(text) => match Percent::parse(text) {
                Some(Percent(share)) if share < 1.0 => Ok(Self(upstream::Reserve::Share(share))),
                Some(_) => Err(Problem::new(
                    "\"100%\" leaves no slot for anybody",
                    "write a percentage below it, such as \"2%\"",
                )),
                None => Err(Problem::new(format!("{} is neither", quote(text)), REMEDY)),
            },
            other => Err(wrong_type(other, REMEDY)),
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
    let name = s.optional::<Name>("name", "the server's own", Any);
    let address = s.required::<Address>("address", "write address = \"host:4222\"");
    // None: the servers take everybody for a client of their client port.
    let websocket = s.optional::<WebSocketUrl>("websocket", "none, all clients use the client port", Any);
    // None: `/varz` names the port, and the host is that of the client port.
    let leafnode = s.optional::<Address>("leafnode", "the one that the server's readings name", Any);
    let monitor = s.optional::<MonitorUrl>("monitor", "none, weir counts what it opened", Any);
    let max_connections = s.optional("max_connections", "the server's own", within(1..=MOST_CLIENTS));
    upstream::ServerParams {
        name: name.map(|n| n.0),
        address: address.map(|a| a.0).unwrap_or_default(),
        websocket: websocket.map(|w| w.0),
        leafnode: leafnode.map(|address| address.0),
        monitor: monitor.map(|m| m.0),
        max_connections,
    }
}

fn admission(s: &mut Section<'_>) -> admission::Params {
    // Enforce: whoever runs weir wants its servers protected.
    let mode = s.value("mode", admission::Mode::Enforce, Any);
    let patience = || within(Duration::ZERO..=LONGEST_PATIENCE);
    // Adaptive: a number that is too high does not protect the servers, and one that is too low refuses clients
    // needlessly.
    let pace = quota::rate::<quota::Pace>(s, "\"adaptive\"");
    // Go, Java and C wait 2 s in all, of which half a second remains for the dial and the login.
    let max_hold = s.value("max_hold", 1500 * MS, patience());
    // A held client costs a few KiB. 100,000 cost a few hundred MiB, and are more than a cluster can admit in 20 s.
    let max_held = s.value("max_held", 100_000usize, within(0..=10_000_000));
    // As long as max_hold, so that the next tries of refused clients are spread over the whole window.
    let refusal_spread = s.value("refusal_spread", 1500 * MS, patience());
    let by_lang = s.table("max_hold_by_lang", |s| {
        let given = s.rest(patience());
        note_known_langs(s, &given);
        given
    });
    // Off: offices, clusters and mobile carriers have thousands of clients behind one address.
    let (per_source, max_leafnodes_per_source) = s.table("per_source", quota::per_source);
    admission::Params {
        mode,
        pace,
        max_held,
        max_hold,
        max_hold_by_lang: by_lang.into_iter().collect(),
        refusal_spread,
        per_source,
        max_leafnodes_per_source,
        // `read` fills these in from other tables.
        max_clients: 0,
        default_account: Default::default(),
        accounts: Default::default(),
        rules: Vec::new(),
        patterns: Default::default(),
    }
}

/// Records how long weir holds the clients of each library that the operator does not name.
fn note_known_langs(s: &mut Section<'_>, given: &[(String, Duration)]) {
    for lang in lang::known().filter(|lang| given.iter().all(|(name, _)| name != lang)) {
        let text = match admission::usual_hold(&lang) {
            Some((hold, true)) => format!("{} = {} from CONNECT", toml_key(&lang), hold.show()),
            Some((hold, false)) => format!("{} = {}", toml_key(&lang), hold.show()),
            None => format!("{} = max_hold", toml_key(&lang)),
        };
        s.sink.lines.push(Line::Comment { text });
    }
}

impl Words for NewClients {}

impl Words for admission::Mode {}

impl Words for LogFormat {}

impl Words for LogLevel {}
