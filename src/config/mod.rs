//! Reads a file, or `--server` arguments, into a [`Config`] that cannot be wrong: every value is in range, no two
//! addresses are the same, and there is at least one server. All errors are reported at once, before any port is bound
//! (docs/contract.md, towards operators 3).
//!
//! It gives the values no meaning: each module says in its `Params` what it needs, and this one fills them in.
//!
//! - [`node`]: TOML as a tree in the order of the file, with the line of each key.
//! - [`section`]: reads one table key by key; collects errors, and what `weir check` prints ([`effective`]).
//! - [`leaf`], [`address`]: kinds of values. [`raw`]: the tables and keys, with [`quota`], [`tcp`], [`tls`],
//!   [`websocket`] and [`system`]. [`cross`]: what must hold between keys. [`args`]: `--server`.

mod address;
mod args;
mod cross;
mod effective;
mod error;
mod leaf;
mod node;
mod quota;
mod raw;
mod section;
mod seed_file;
mod system;
mod tcp;
mod tls;
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
    admission,
    cluster::system_account::Login,
    config::{
        error::Problem,
        node::Source,
        section::{Section, Sink},
        system::SystemKeys,
    },
    identity::trusted_proxy::ProxyKey,
    net::socket::TcpTimeouts,
    tls::{BadFile, Connector, HandshakeFirst, ListenerTls, ServersTls, Terminator},
    upstream,
};

pub use args::ServerArg;
pub use effective::Effective;
pub use error::Errors;
pub use websocket::WebsocketConfig;

/// One bound address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The address to bind; port 0 takes any free port.
    pub listen: SocketAddr,
    /// The `connect_urls` that clients are told (also those of a WebSocket listener), each `host:port`.
    pub advertise: Vec<String>,
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

/// A checked configuration.
#[derive(Clone)]
pub struct Config {
    /// The addresses for clients: at least one, and no two the same, except for port 0.
    pub listeners: Vec<ListenerConfig>,
    /// The address of `/metrics` and the other endpoints.
    pub monitor: Option<SocketAddr>,
    /// At least one server.
    pub upstream: upstream::Params,
    /// Its `max_clients` is the sum of the listeners'.
    pub admission: admission::Params,
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
    /// The file with the seed of the trusted proxy's key.
    pub proxy_nkey_seed_file: Option<PathBuf>,
    /// When the kernel gives up connections to the servers.
    pub servers_tcp: TcpTimeouts,
    /// TLS towards the servers.
    pub servers_tls: Option<ServersTls>,
    /// TLS towards the servers' WebSocket ports, where it is another.
    pub websocket_tls: Option<ServersTls>,
    /// The trusted proxy's key, once [`Config::read_secrets`] has read it.
    pub proxy_key: Option<ProxyKey>,
    /// The login to the cluster's system account, once [`Config::read_secrets`] has read it.
    pub system_login: Option<Login>,
    system: Option<SystemKeys>,
    source: Source,
    effective: Effective,
}

impl Config {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// All errors at once: the file cannot be read, is not TOML, or has keys or values that weir does not accept.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let problem = Problem::new(
                format!("it cannot be read ({error})"),
                "name a configuration with -c, or servers with --server",
            );
            Errors(vec![Source::without_lines(&file).error(String::new(), problem)])
        })?;
        Self::parse(&file, &text)
    }

    /// Reads TOML text; `file` is the name that errors carry.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(file: &str, text: &str) -> Result<Self, Errors> {
        let (entries, source) = node::parse(file, text).map_err(Errors)?;
        Self::assemble(Sink::new(source), entries)
    }

    /// The configuration of `weir run --server …`: these servers, and defaults for the rest.
    ///
    /// # Errors
    /// All errors in the arguments at once; having no server is one.
    pub fn from_servers(servers: &[ServerArg]) -> Result<Self, Errors> {
        let mut sink = Sink::new(Source::without_lines("--server"));
        let entries = args::document(servers, &mut sink);
        Self::assemble(sink, entries)
    }

    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// All errors in these files at once.
    pub fn read_secrets(&mut self) -> Result<(), Errors> {
        let mut errors = Vec::new();
        let mut bad = |key: String, problem: Problem| errors.push(self.source.error(key, problem));
        match self.proxy_nkey_seed_file.as_deref().map(|path| (path, seed_file::read(path))) {
            None => {}
            Some((_, Ok(key))) => self.proxy_key = Some(key),
            Some((path, Err(error))) => {
                let what = format!("{}: {error}", path.display());
                let remedy = "write the path of a seed file, such as `weir nkey FILE` makes";
                bad("cluster.proxy_nkey_seed_file".to_owned(), Problem::new(what, remedy));
            }
        }
        for (i, listener) in self.listeners.iter().enumerate() {
            // The result is dropped: the listener reads the files again, now and whenever they change.
            if let Some(Err(files)) = listener.tls.clone().map(Terminator::load) {
                for BadFile { key, what, right } in files {
                    bad(format!("listeners[{i}].tls.{key}"), Problem::new(what, right));
                }
            }
        }
        for (table, tls) in [("tls", &self.servers_tls), ("websocket_tls", &self.websocket_tls)] {
            if let Some(Err(files)) = tls.clone().map(Connector::load) {
                for BadFile { key, what, right } in files {
                    bad(format!("cluster.{table}.{key}"), Problem::new(what, right));
                }
            }
        }
        match self.system.as_ref().map(SystemKeys::read).transpose() {
            Ok(login) => self.system_login = login,
            Err((key, problem)) => bad(key, problem),
        }
        if errors.is_empty() { Ok(()) } else { Err(Errors(errors)) }
    }

    fn assemble(mut sink: Sink, entries: node::Entries) -> Result<Self, Errors> {
        let raw = Section::read(&mut sink, String::new(), entries, raw::read);
        cross::check(&raw, &mut sink);
        if !sink.errors.is_empty() {
            return Err(Errors(sink.errors));
        }
        Ok(Self {
            listeners: raw.listeners,
            monitor: raw.monitor,
            upstream: raw.upstream,
            admission: raw.admission,
            workers: raw.workers,
            lame_duck_new_clients: raw.lame_duck_new_clients,
            lame_duck_grace_period: raw.lame_duck_grace_period,
            lame_duck_duration: raw.lame_duck_duration,
            log: raw.log,
            ports_file: raw.ports_file,
            proxy_nkey_seed_file: raw.proxy_nkey_seed_file,
            servers_tcp: raw.servers_tcp,
            servers_tls: raw.servers_tls,
            websocket_tls: raw.websocket_tls,
            proxy_key: None,
            system_login: None,
            system: raw.system,
            source: sink.source,
            effective: Effective { lines: sink.lines },
        })
    }

    /// What this configuration leaves to chance, in sentences: it is valid all the same.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for (i, listener) in self.listeners.iter().enumerate() {
            let forwarded = listener.websocket.as_ref().map(|websocket| &websocket.accept_forwarded_from);
            let trusted = [
                ("accept_proxy_protocol_from", "PROXY header", Some(&listener.accept_proxy_protocol_from)),
                ("websocket.accept_forwarded_from", "X-Forwarded-For", forwarded),
            ];
            for (key, what, networks) in trusted {
                if let Some(all) = networks.into_iter().flatten().find(|network| network.prefix_len() == 0) {
                    remarks.push(format!(
                        "listeners[{i}].{key} trusts {all}: anybody who can reach {} may claim any address by a {what}, for \
                         quotas by source and in the log; write the networks of the proxies",
                        listener.listen
                    ));
                }
            }
        }
        if self.upstream.servers.iter().all(|server| server.websocket.is_none()) {
            let over_websocket = self.listeners.iter().enumerate().filter(|(_, one)| one.websocket.is_some());
            remarks.extend(over_websocket.map(|(i, listener)| {
                format!(
                    "listeners[{i}] ({}) speaks WebSocket, and the servers take its clients for plain ones (STANDARD): \
                     their allowed_connection_types and websocket {{ … }} logins are not asked; write websocket = \
                     \"ws://host:port\" for each server",
                    listener.listen
                )
            }));
        }
        remarks
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
