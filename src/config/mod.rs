//! Reads a file, or `--server` arguments, into a [`Config`] that cannot be wrong: every value is in range, no two
//! addresses are the same, and there is at least one server. All errors are reported at once, before any port is bound
//! (docs/contract.md, towards operators 3).
//!
//! It gives the values no meaning: each module says in its `Params` what it needs, and this one fills them in.
//!
//! - [`text`]: reads the file. [`node`]: TOML as a tree in the order of the file, with the place of each key.
//! - [`section`]: reads one table key by key; collects findings, and what `weir check` prints ([`effective`]).
//! - [`leaf`], [`address`]: kinds of values and their ranges. [`raw`]: the tables and keys, with [`admin`], [`quota`],
//!   [`policies`], [`tcp`], [`tls`], [`websocket`], [`system`], [`fleet`], [`notify`] and [`secret`]. [`origin`],
//!   [`args`]: the arguments that stand for keys. [`variables`]: those of the environment, in values.
//! - [`discover`]: servers that a name stands for.
//! - [`cross`]: what must hold between keys. [`in_force`]: what a reload has in force until a restart. [`files`]: the
//!   files that keys name. [`warnings`]: what is valid, and may not be meant, with [`shadowed`]: patterns behind others
//!   that match all of theirs.
//! - [`origin`]: where a configuration is read from. [`diff`](diff()): what changes from one to another. [`live`]:
//!   which of it needs a restart.
//! - [`finding`]: an error or a warning. [`suggest`]: "did you mean". [`schema`]: every key, for the reference.

mod address;
mod addresses;
mod admin;
mod args;
mod cross;
mod diff;
mod discover;
mod effective;
mod files;
mod finding;
mod fleet;
mod in_force;
mod leaf;
mod live;
mod node;
mod notify;
mod origin;
mod policies;
mod quota;
mod raw;
mod rebalance;
mod schema;
mod secret;
mod section;
mod seed_file;
mod shadowed;
mod suggest;
mod system;
mod tcp;
mod text;
mod tls;
mod variables;
mod warnings;
mod websocket;

use std::{
    fmt,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use strum::{IntoStaticStr, VariantArray};

use crate::{
    admission::{self, policies::Policies},
    cluster::system_account::Login,
    config::{
        finding::Problem,
        node::{Node, Source},
        section::{Reads, Section, Sink},
    },
    identity::trusted_proxy::ProxyKey,
    net::socket::TcpTimeouts,
    notify::webhook::Webhook,
    protocol::s2::Mode,
    tls::{HandshakeFirst, ListenerTls, ServersTls},
    upstream,
};

pub use admin::AdminConfig;
pub use args::ServerArg;
pub use diff::{Change, diff};
pub use discover::DiscoverConfig;
pub use effective::Effective;
pub use finding::{Finding, Findings, Severity};
pub use fleet::{FleetConfig, SharedBy};
pub use origin::Origin;
pub use rebalance::RebalanceConfig;
pub use schema::{Key, keys};
pub use text::LONGEST as LONGEST_TEXT;
pub use websocket::WebsocketConfig;

/// One bound address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The address to bind; port 0 takes any free port.
    pub listen: SocketAddr,
    /// The `connect_urls` that clients are told (also those of a WebSocket listener), each `host:port`.
    pub advertise: Vec<String>,
    /// Whether clients are also told the addresses of the fleet's other weirs, and the others this one's: `advertise`,
    /// or the address to bind where that is empty.
    pub advertises_fleet: bool,
    /// The load balancers that send PROXY headers, which weir requires and believes.
    pub accept_proxy_protocol_from: Vec<IpNet>,
    /// Whether connections from there may come without a header.
    pub allow_without_proxy_protocol: bool,
    /// The most clients at once, 1 to 10 million.
    pub max_clients: u32,
    /// From accept to a complete CONNECT in all, 10 ms to 60 s; `None` gives each step what nats-server gives it.
    pub handshake_timeout: Option<Duration>,
    /// When the kernel gives up connections of clients.
    pub tcp: TcpTimeouts,
    /// TLS towards clients.
    pub tls: Option<ListenerTls>,
    /// WebSocket towards clients.
    pub websocket: Option<WebsocketConfig>,
    /// Passes TLS through to the servers, which expect it at this time.
    pub passes_through: Option<HandshakeFirst>,
    /// Its clients are nats-servers that connect as leafnodes.
    pub is_for_leafnodes: bool,
    /// Whether and how weir compresses what it sends to them.
    pub compression: Mode,
}

impl ListenerConfig {
    /// Whether leafnodes come through it, plainly or over WebSocket.
    pub fn takes_leafnodes(&self) -> bool {
        self.is_for_leafnodes || self.websocket.as_ref().is_some_and(|websocket| websocket.rules.leafnodes)
    }
}

/// What weir does with new clients in its own lame duck mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum NewClients {
    /// It lets them in like any other, until the grace period is over.
    Serve,
    /// It refuses them.
    Refuse,
}

/// The form of log lines: plain text, or one JSON object per line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

/// The least severe line that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum LogLevel {
    /// weir failed to do its work.
    Error,
    /// weir still serves, but not as configured.
    Warn,
    /// Start, stop, drain, ejected servers, and one summary per second while clients are refused.
    Info,
    /// One line per session.
    Debug,
    /// Every step.
    Trace,
}

impl LogLevel {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How to log; always to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    pub level: LogLevel,
}

/// Who hears of events beside the log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NotifyConfig {
    /// Where events are posted, with the authorities of its certificate; `None` where it is not `https`.
    pub webhook: Option<(Webhook, Option<ServersTls>)>,
    /// The subject below which they are published, if the files were read.
    pub publish: Option<PublishConfig>,
}

/// How events are published.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishConfig {
    pub subject: String,
    pub login: Login,
    /// The table that has the login.
    pub table: &'static str,
}

/// A checked configuration.
#[derive(Clone)]
pub struct Config {
    /// The addresses for clients: at least one, and no two the same, except for port 0.
    pub listeners: Vec<ListenerConfig>,
    /// The address of `/metrics` and the other endpoints.
    pub monitor: Option<SocketAddr>,
    /// What stands in front of their paths: empty, or from its slash on.
    pub http_base_path: String,
    /// How many ended connections are remembered for the endpoints.
    pub max_closed_clients: usize,
    /// The admin socket; `None` is none.
    pub admin: Option<AdminConfig>,
    /// At least one server, unless servers are discovered.
    pub upstream: upstream::Params,
    /// Its `max_clients` is the sum of the listeners'.
    pub admission: admission::Params,
    /// What clients have to be like.
    pub policies: Policies,
    /// When weir moves clients without being asked.
    pub rebalance: RebalanceConfig,
    /// The name by which weir calls itself; `None` is the machine's.
    pub server_name: Option<String>,
    /// Worker threads, 1 to 1024; `None` is one per core.
    pub workers: Option<NonZeroUsize>,
    /// What becomes of clients that come between the signal and the first close.
    pub lame_duck_new_clients: NewClients,
    /// From the signal to the first close of a drain.
    pub lame_duck_grace_period: Duration,
    /// From the signal to the last close of a drain; at least the grace period.
    pub lame_duck_duration: Duration,
    /// How to log.
    pub log: LogConfig,
    /// The file into which weir writes the addresses that it has bound.
    pub ports_file: Option<PathBuf>,
    /// Whether weir reads its file again when that has changed.
    pub reload_on_change: bool,
    /// The file with the seed of the trusted proxy's key.
    pub proxy_nkey_seed_file: Option<PathBuf>,
    /// When the kernel gives up connections to the servers.
    pub servers_tcp: TcpTimeouts,
    /// TLS towards the servers.
    pub servers_tls: Option<ServersTls>,
    /// TLS towards the servers' WebSocket ports, where it is another.
    pub websocket_tls: Option<ServersTls>,
    /// The trusted proxy's key, if the files were read.
    pub proxy_key: Option<ProxyKey>,
    /// Where servers come from beside those that are named.
    pub discover: Option<DiscoverConfig>,
    /// The login to the cluster's system account, if the files were read.
    pub system_login: Option<Login>,
    /// Requests to all servers over the system account are answered as a server answers them.
    pub answer_requests: bool,
    /// Who hears of events beside the log.
    pub notify: NotifyConfig,
    /// The fleet that this weir belongs to; `None` is none.
    pub fleet: Option<FleetConfig>,
    source: Source,
    warnings: Findings,
    /// Files that could not be read, and need not be.
    unread: Vec<Finding>,
    effective: Effective,
}

/// Where a running weir is asked.
#[derive(Debug)]
pub struct Endpoints {
    /// Where its monitor port listens, with its base path: empty, or from its slash on.
    pub monitor: Option<(SocketAddr, String)>,
    pub admin: Option<AdminConfig>,
}

/// Whether the files that a configuration names are read: certificates, keys, seeds, credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files<'a> {
    /// Yes; the configuration itself is this file, if it is one.
    Read(Option<&'a Path>),
    /// Those that hold secrets are, where that is possible.
    Compared,
    Ignored,
}

/// The keys of a TOML file as they are written.
fn entries_of(path: &Path) -> Result<(node::Entries, Source), Findings> {
    let text = text::read(path, text::NAME_ONE)?;
    node::parse(&text::name(path), &text).map_err(Findings::new)
}

impl Config {
    /// Reads a TOML file, and every file that it names; `-` is standard input.
    ///
    /// # Errors
    /// All errors at once, and the warnings: a file cannot be read, or is not what it should be, or has keys or values
    /// that weir does not accept.
    pub fn load(path: &Path) -> Result<Self, Findings> {
        Self::load_from(&Origin::file(path))
    }

    /// Reads what these arguments say, and every file that is named.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_from(origin: &Origin) -> Result<Self, Findings> {
        Self::load_text(origin, origin.text()?.as_deref())
    }

    /// The same with the `text` of the file, which has been read.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_text(origin: &Origin, text: Option<&str>) -> Result<Self, Findings> {
        let file = origin.file.as_deref();
        let named = file.map(text::name);
        Self::read_as(origin, named.as_deref().zip(text), file)
    }

    /// The same with `text` in place of the file; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_instead(origin: &Origin, name: &str, text: &str) -> Result<Self, Findings> {
        Self::read_as(origin, Some((name, text)), None)
    }

    /// Reads a document, given as name and text, with the arguments; `itself` is the file that it came from.
    fn read_as(origin: &Origin, document: Option<(&str, &str)>, itself: Option<&Path>) -> Result<Self, Findings> {
        let (mut entries, source) = match document {
            Some((name, text)) => node::parse(name, text).map_err(Findings::new)?,
            None => (Vec::new(), Source::without_lines("--server")),
        };
        let mut sink = Sink::new(source);
        variables::replace(&mut entries, &mut sink, variables::of_environment);
        args::apply(origin, &mut entries, &mut sink);
        Self::assemble(sink, entries, Files::Read(itself))
    }

    /// Reads a TOML file, and none that it names, for a plan: without logins, the log and the endpoints, of which no
    /// client notices anything. Their variables may be set only where weir runs.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_to_plan(path: &Path) -> Result<Self, Findings> {
        let (mut entries, source) = entries_of(path)?;
        entries.retain(|(key, _)| !matches!(&**key, "monitor" | "admin" | "log" | "warnings"));
        for (table, node) in &mut entries {
            let Node::Table(keys) = node else { continue };
            match &**table {
                "cluster" => keys.retain(|(key, _)| key != "system"),
                "fleet" => keys.retain(|(key, _)| matches!(&**key, "name" | "id" | "replicas" | "quota")),
                _ => {}
            }
        }
        let mut sink = Sink::new(source);
        variables::replace(&mut entries, &mut sink, variables::of_environment);
        Self::assemble(sink, entries, Files::Ignored)
    }

    /// Reads a TOML file to compare another configuration with it. Of the files that it names it reads those whose
    /// content is compared; returns the keys of those that cannot be read, too.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_to_compare(path: &Path) -> Result<(Self, Vec<Finding>), Findings> {
        let (mut entries, source) = entries_of(path)?;
        let mut sink = Sink::new(source);
        variables::replace(&mut entries, &mut sink, variables::of_environment);
        let mut config = Self::assemble(sink, entries, Files::Compared)?;
        let unread = std::mem::take(&mut config.unread);
        Ok((config, unread))
    }

    /// Reads TOML text, and no file that it names; `file` is the name that errors carry.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(file: &str, text: &str) -> Result<Self, Findings> {
        let (mut entries, source) = node::parse(file, text).map_err(Findings::new)?;
        let mut sink = Sink::new(source);
        variables::replace(&mut entries, &mut sink, variables::of_environment);
        Self::assemble(sink, entries, Files::Ignored)
    }

    /// The configuration of `weir run --server …`: these servers, and defaults for the rest.
    ///
    /// # Errors
    /// All errors in the arguments at once; having no server is one.
    pub fn from_servers(servers: &[ServerArg]) -> Result<Self, Findings> {
        Self::load_from(&Origin { servers: servers.to_vec(), ..Origin::default() })
    }

    fn assemble(mut sink: Sink, entries: node::Entries, files: Files<'_>) -> Result<Self, Findings> {
        sink.reads = match files {
            Files::Read(_) => Reads::All,
            Files::Compared => Reads::IfThere,
            Files::Ignored => Reads::Nothing,
        };
        let raw = Section::read(&mut sink, String::new(), entries, raw::read);
        cross::check(&raw, &mut sink);
        let mut secrets = files::Secrets::default();
        if let Files::Read(itself) = files {
            secrets = files::read(&raw, &mut sink);
            files::of_itself(itself, &raw, &mut sink);
        }
        warnings::look(&raw, &mut sink);
        let findings = Findings::new(std::mem::take(&mut sink.findings));
        if findings.have_errors() {
            return Err(findings);
        }
        let mut config = Self {
            listeners: raw.listeners,
            monitor: raw.monitor,
            http_base_path: raw.http_base_path,
            max_closed_clients: raw.max_closed_clients,
            admin: raw.admin,
            upstream: raw.upstream,
            admission: raw.admission,
            policies: raw.policies,
            rebalance: raw.rebalance,
            server_name: raw.server_name,
            workers: raw.workers,
            lame_duck_new_clients: raw.lame_duck_new_clients,
            lame_duck_grace_period: raw.lame_duck_grace_period,
            lame_duck_duration: raw.lame_duck_duration,
            log: raw.log,
            ports_file: raw.ports_file,
            reload_on_change: raw.reload_on_change,
            proxy_nkey_seed_file: raw.proxy_nkey_seed_file,
            servers_tcp: raw.servers_tcp,
            servers_tls: raw.servers_tls,
            websocket_tls: raw.websocket_tls,
            discover: raw.discover,
            proxy_key: secrets.proxy_key,
            notify: notify::config(raw.notify, secrets.events_login, secrets.system_login.as_ref()),
            fleet: raw.fleet.map(|keys| keys.with(secrets.fleet_login)),
            system_login: secrets.system_login,
            answer_requests: raw.answer_requests,
            source: sink.source,
            warnings: findings,
            unread: sink.unread,
            effective: Effective { lines: sink.lines },
        };
        config.upstream.only_websocket = config.uses_only_websockets();
        Ok(config)
    }

    /// Where a file says that weir is asked, whatever else is wrong with the file.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or `[monitor]` or `[admin]` is wrong.
    pub fn endpoints(path: &Path) -> Result<Endpoints, Findings> {
        let (mut entries, source) = entries_of(path)?;
        let mut sink = Sink::new(source);
        entries.retain(|(key, _)| key == "monitor" || key == "admin");
        variables::replace(&mut entries, &mut sink, variables::of_environment);
        let endpoints = Section::read(&mut sink, String::new(), entries, |s| Endpoints {
            monitor: s.optional_table("monitor", "absent", raw::monitor).map(|(listen, path, _)| (listen, path)),
            admin: s.optional_table("admin", "absent", admin::admin),
        });
        if sink.findings.is_empty() { Ok(endpoints) } else { Err(Findings::new(sink.findings)) }
    }

    /// The path of the admin socket that a file names, whatever else is wrong with the file; `None` where it names
    /// none.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or `[admin]` is wrong.
    pub fn admin_socket(path: &Path) -> Result<Option<PathBuf>, Findings> {
        let (mut entries, source) = entries_of(path)?;
        let mut sink = Sink::new(source);
        entries.retain(|(key, _)| key == "admin");
        variables::replace(&mut entries, &mut sink, variables::of_environment);
        let Some((_, Node::Table(table))) = entries.pop() else { return Ok(None) };
        let admin = Section::read(&mut sink, "admin".to_owned(), table, admin::admin);
        if sink.findings.is_empty() { Ok(Some(admin.socket)) } else { Err(Findings::new(sink.findings)) }
    }

    /// Whether clients of WebSocket listeners are connected to the servers' WebSocket ports: those of all are known, or
    /// of none.
    pub fn dials_websockets(&self) -> bool {
        let named = self.upstream.servers.iter().all(|server| server.websocket.is_some());
        named && self.discover.as_ref().is_none_or(DiscoverConfig::has_websockets)
    }

    /// Whether all clients of weir are connected to WebSocket ports.
    fn uses_only_websockets(&self) -> bool {
        let are_discovered = self.discover.as_ref().is_some_and(DiscoverConfig::has_websockets);
        let has_websockets = are_discovered || self.upstream.servers.iter().any(|server| server.websocket.is_some());
        let of_websockets = |listener: &ListenerConfig| listener.websocket.is_some() && !listener.takes_leafnodes();
        has_websockets && self.listeners.iter().all(of_websockets)
    }

    /// How many servers there are, at most as far as anybody can say: those that are discovered are taken for a few.
    pub fn most_servers(&self) -> usize {
        const DISCOVERED: usize = 16;
        self.upstream.servers.len() + if self.discover.is_some() { DISCOVERED } else { 0 }
    }

    /// Whether the file says how many clients there may be. Without that the number is nobody's wish.
    pub fn chooses_max_clients(&self) -> bool {
        self.effective().gives("[[listeners]]", "max_clients")
    }

    /// What this configuration leaves to chance: it is valid all the same.
    pub fn warnings(&self) -> &Findings {
        &self.warnings
    }

    /// A finding at a key of this configuration, from whoever knows more than the configuration says.
    pub fn finding(&self, severity: Severity, key: &str, what: String, remedy: String) -> Finding {
        self.source.finding(severity, key.to_owned(), Problem::new(what, remedy))
    }

    /// The configuration in force, as TOML in which defaults are marked.
    pub fn effective(&self) -> &Effective {
        &self.effective
    }
}

/// Shows no `users`, since they may be tokens: a stray `{:?}` must not write them to a log.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Config {{ {} }}", self.effective)
    }
}
