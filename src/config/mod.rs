//! From a file, or from `--server` arguments, to a [`Config`] that cannot be wrong: every value in range, no two
//! addresses the same, at least one server. What is wrong is reported all at once, before any port is bound.
//!
//! It owns no meaning: each module below says in its `Params` what it needs to know, and this module fills them in.

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
mod system;
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

use crate::{
    admission,
    cluster::system_account::Login,
    config::{
        node::Source,
        section::{Section, Sink},
        system::SystemKeys,
    },
    identity::trusted_proxy::ProxyKey,
    tls::{BadFile, Connector, HandshakeFirst, ListenerTls, ServersTls, Terminator},
    upstream,
};

pub use args::ServerArg;
pub use effective::Effective;
pub use error::Errors;
use error::Wrong;
pub use websocket::WebsocketConfig;

/// One bound address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Where to listen; port 0 takes any free port.
    pub listen: SocketAddr,
    /// What clients are told in `connect_urls` (those of a WebSocket listener too), as `host:port`; empty tells them nothing.
    pub advertise: Vec<String>,
    /// The load balancers whose PROXY headers are believed, and expected.
    pub accept_proxy_protocol_from: Vec<IpNet>,
    /// The most clients at once, 1 to 10 million.
    pub max_clients: u32,
    /// From accept to a complete CONNECT, 10 ms to 60 s.
    pub handshake_timeout: Duration,
    /// TLS towards its clients; `None` speaks plainly.
    pub tls: Option<ListenerTls>,
    /// It speaks WebSocket, and so.
    pub websocket: Option<WebsocketConfig>,
    /// It passes TLS through to servers that expect TLS then.
    pub passes_through: Option<HandshakeFirst>,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// The least severe line that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// weir failed its duty.
    Error,
    /// Degraded, still serving.
    Warn,
    /// Start, stop, drain, ejected servers, a summary per second while refusing.
    Info,
    /// One line per session.
    Debug,
    /// Every step.
    Trace,
}

impl LogLevel {
    /// Every level, most severe first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How to log; always to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// The form of a line.
    pub format: LogFormat,
    /// The least severe line that is written.
    pub level: LogLevel,
}

/// Everything weir was told, checked.
#[derive(Clone)]
pub struct Config {
    /// The addresses for clients, at least one, no two the same (but for port 0).
    pub listeners: Vec<ListenerConfig>,
    /// Where `/metrics` and the other endpoints are served; `None` serves none.
    pub monitor: Option<SocketAddr>,
    /// The servers, at least one.
    pub upstream: upstream::Params,
    /// The doors; its `max_clients` is the sum of the listeners'.
    pub admission: admission::Params,
    /// Worker threads, 1 to 1024; `None` is one per core.
    pub workers: Option<NonZeroUsize>,
    /// From the signal to the first close while draining.
    pub lame_duck_grace_period: Duration,
    /// From the signal to the last close while draining; at least the grace period.
    pub lame_duck_duration: Duration,
    /// How to log.
    pub log: LogConfig,
    /// A file for the addresses that were bound, once they are.
    pub ports_file: Option<PathBuf>,
    /// Where the seed of the trusted proxy's key is.
    pub proxy_nkey_seed_file: Option<PathBuf>,
    /// TLS towards the servers; `None` speaks plainly.
    pub servers_tls: Option<ServersTls>,
    /// That key, once [`Config::read_secrets`] has read it.
    pub proxy_key: Option<ProxyKey>,
    /// How to log in to the cluster's system account, once [`Config::read_secrets`] has read it; `None` does not.
    pub system_login: Option<Login>,
    system: Option<SystemKeys>,
    source: Source,
    effective: Effective,
}

impl Config {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// All that is wrong with it, at once: the file cannot be read, is not TOML, or holds keys and values that are not
    /// right.
    pub fn load(path: &Path) -> Result<Self, Errors> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let wrong = Wrong::new(
                format!("it cannot be read ({error})"),
                "name a configuration with -c, or servers with --server",
            );
            Errors(vec![Source::without_lines(&file).error(String::new(), wrong)])
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
    /// All that is wrong with the arguments, at once; no server at all is wrong too.
    pub fn from_servers(servers: &[ServerArg]) -> Result<Self, Errors> {
        let mut sink = Sink::new(Source::without_lines("--server"));
        let entries = args::document(servers, &mut sink);
        Self::assemble(sink, entries)
    }

    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// All that is wrong with them, at once.
    pub fn read_secrets(&mut self) -> Result<(), Errors> {
        let mut errors = Vec::new();
        let mut bad = |key: String, wrong: Wrong| errors.push(self.source.error(key, wrong));
        match self.proxy_nkey_seed_file.as_deref().map(|path| (path, ProxyKey::read(path))) {
            None => {}
            Some((_, Ok(key))) => self.proxy_key = Some(key),
            Some((path, Err(error))) => {
                let what = format!("{}: {error}", path.display());
                let right = "write the path of a seed file, such as `weir nkey FILE` makes";
                bad("cluster.proxy_nkey_seed_file".to_owned(), Wrong::new(what, right));
            }
        }
        for (i, listener) in self.listeners.iter().enumerate() {
            // Only tried: they are read again where they are used, and whenever they change.
            if let Some(Err(files)) = listener.tls.clone().map(Terminator::load) {
                for BadFile { key, what, right } in files {
                    bad(format!("listeners[{i}].tls.{key}"), Wrong::new(what, right));
                }
            }
        }
        if let Some(Err(files)) = self.servers_tls.clone().map(Connector::load) {
            for BadFile { key, what, right } in files {
                bad(format!("cluster.tls.{key}"), Wrong::new(what, right));
            }
        }
        match self.system.as_ref().map(SystemKeys::read).transpose() {
            Ok(login) => self.system_login = login,
            Err((key, wrong)) => bad(key, wrong),
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
            lame_duck_grace_period: raw.lame_duck_grace_period,
            lame_duck_duration: raw.lame_duck_duration,
            log: raw.log,
            ports_file: raw.ports_file,
            proxy_nkey_seed_file: raw.proxy_nkey_seed_file,
            servers_tls: raw.servers_tls,
            proxy_key: None,
            system_login: None,
            system: raw.system,
            source: sink.source,
            effective: Effective { lines: sink.lines },
        })
    }

    /// The configuration in force, as TOML with `# default` marks.
    pub fn effective(&self) -> &Effective {
        &self.effective
    }
}

/// Without `users`, which may hold tokens: a stray `{:?}` must not write them to a log.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Config {{ {} }}", self.effective)
    }
}
