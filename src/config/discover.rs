//! Where servers come from that the configuration does not name one by one: `[cluster] discover`.

use std::marker::PhantomData;

use crate::{
    cluster::discover::Discover,
    config::{
        address::{Address, MonitorUrl, WebSocketUrl},
        effective::toml_string,
        finding::{Problem, quote},
        leaf::{Any, Leaf, wrong_type},
        node::Node,
        section::Section,
    },
    upstream::{ServerParams, WebSocketAddress},
};

/// What stands for the host of a server in a URL for all of them.
const HOST: &str = "{host}";

/// Where servers come from, and how each is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoverConfig {
    /// `None` where only the servers themselves are asked.
    pub from: Option<Discover>,
    /// Whether the servers are asked for the addresses of the others (`connect_urls`).
    pub connect_urls: bool,
    /// The monitoring URL of each server, with `{host}` for its host.
    monitor: Option<String>,
    /// The same of the WebSocket port.
    websocket: Option<String>,
}

impl DiscoverConfig {
    /// The server at this address, `host:port`.
    pub fn server_at(&self, address: &str) -> ServerParams {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        ServerParams {
            name: None,
            address: address.to_owned(),
            websocket: self.websocket.as_ref().map(|url| WebSocketAddress {
                secure: url.starts_with("wss://"),
                address: url.split_once("://").map_or(&**url, |(_, rest)| rest).replace(HOST, host),
            }),
            leafnode: None,
            monitor: self.monitor.as_ref().map(|url| url.replace(HOST, host)),
            max_connections: None,
        }
    }

    /// The name by which the certificates of the servers are checked, where it is one for all of them.
    pub fn host(&self) -> Option<&str> {
        match &self.from {
            Some(Discover::Host(address)) => address.rsplit_once(':').map(|(host, _)| host),
            Some(Discover::Srv(_)) | None => None,
        }
    }

    /// `host:port`, where that is what servers are discovered by.
    pub fn address(&self) -> Option<&str> {
        match &self.from {
            Some(Discover::Host(address)) => Some(address),
            Some(Discover::Srv(_)) | None => None,
        }
    }

    /// Whether clients of WebSocket listeners go to WebSocket ports.
    pub fn has_websockets(&self) -> bool {
        self.websocket.is_some()
    }

    /// Whether those speak TLS.
    pub(super) fn has_secure_websockets(&self) -> bool {
        self.websocket.as_ref().is_some_and(|url| url.starts_with("wss://"))
    }

    /// Whether the servers are read at `https://` URLs.
    pub(super) fn is_read_over_tls(&self) -> bool {
        self.monitor.as_ref().is_some_and(|url| url.starts_with("https://"))
    }
}

/// Reads the keys of `[cluster]` about it.
pub(super) fn discover(s: &mut Section<'_>) -> Option<DiscoverConfig> {
    // None: each server is named.
    let from = s.optional::<From>("discover", "none, each server has a table", Any);
    // Off: their addresses are those that clients may use, which weir may not reach.
    let connect_urls = s.value("discover_connect_urls", false, Any);
    let monitor = s.optional::<OfEach<MonitorUrl>>("discover_monitor", "none, weir counts what it opened", Any);
    let absence = "none, all clients use the client port";
    let websocket = s.optional::<OfEach<WebSocketUrl>>("discover_websocket", absence, Any);
    for (key, is_given) in [("discover_monitor", monitor.is_some()), ("discover_websocket", websocket.is_some())] {
        if from.is_none() && !connect_urls && is_given {
            let problem = Problem::new("no server is discovered", "write discover = \"host:port\" too, or remove it");
            s.report(key, problem);
        }
    }
    let (monitor, websocket) = (monitor.map(|of| of.url), websocket.map(|of| of.url));
    let from = from.map(|from| from.0);
    (from.is_some() || connect_urls).then_some(DiscoverConfig { from, connect_urls, monitor, websocket })
}

#[derive(PartialEq)]
struct From(Discover);

impl Leaf for From {
    fn kind() -> String {
        "host and port, or SRV name".into()
    }

    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write host and port, such as \"nats.example.svc:4222\", or an SRV name, such as \
                              \"_nats._tcp.example.com\"";
        let Node::String(text) = node else { return Err(wrong_type(node, REMEDY)) };
        let explicit = text.strip_prefix("srv://");
        let Some(name) = explicit.or_else(|| text.starts_with('_').then_some(text)) else {
            return Address::read(node).map(|address| Self(Discover::Host(address.0)));
        };
        let is_label = |label: &str| {
            let of_label = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            !label.is_empty() && label.len() <= 63 && label.chars().all(of_label)
        };
        if name.len() > 253 || !name.trim_end_matches('.').split('.').all(is_label) {
            let remedy = "write it without a port, such as \"_nats._tcp.example.com\": the records have the ports";
            return Err(Problem::new(format!("{} is no SRV name", quote(text)), remedy));
        }
        Ok(Self(Discover::Srv(name.to_owned())))
    }

    fn show(&self) -> String {
        match &self.0 {
            Discover::Srv(name) if !name.starts_with('_') => toml_string(&format!("srv://{name}")),
            from => toml_string(from.name()),
        }
    }
}

/// A URL of each server, with `{host}` for its host: what is allowed is what `T` allows of a URL with a host.
struct OfEach<T> {
    url: String,
    kind: PhantomData<T>,
}

impl<T> PartialEq for OfEach<T> {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url
    }
}

impl<T: Leaf> Leaf for OfEach<T> {
    fn kind() -> String {
        format!("{} with {HOST}", T::kind())
    }

    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str =
            "write {host} in the place of the host, as in \"http://{host}:8222\" or \"ws://{host}:8080\"";
        let Node::String(text) = node else { return Err(wrong_type(node, REMEDY)) };
        let authority = text.split_once("://").map_or(&**text, |(_, rest)| rest);
        if !authority.starts_with(&format!("{HOST}:")) || text.matches(HOST).count() != 1 {
            return Err(Problem::new(format!("{} does not say where {HOST} stands", quote(text)), REMEDY));
        }
        // Any host in its place shows whether it is such a URL.
        T::read(&Node::String(text.replace(HOST, "host"))).map_err(|problem| {
            Problem::new(problem.what.replace("host", HOST), problem.remedy.replace("host", HOST))
        })?;
        Ok(Self { url: text.trim_end_matches('/').to_owned(), kind: PhantomData })
    }

    fn show(&self) -> String {
        toml_string(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn read(text: &str) -> DiscoverConfig {
        Config::parse("weir.toml", &format!("[cluster]\n{text}")).unwrap().discover.unwrap()
    }

    #[test]
    fn a_host_with_a_port_or_an_srv_name() {
        let host = read("discover = \"nats.svc:4222\"\ndiscover_monitor = \"http://{host}:8222/base\"");
        assert_eq!((host.host(), &host.from), (Some("nats.svc"), &Some(Discover::Host("nats.svc:4222".into()))));
        assert_eq!(host.server_at("10.0.0.1:4222").monitor.unwrap(), "http://10.0.0.1:8222/base");
        assert_eq!(host.server_at("[::1]:4222").monitor.unwrap(), "http://[::1]:8222/base");
        let srv = Some(Discover::Srv("_nats._tcp.example.com".into()));
        assert_eq!(read("discover = \"_nats._tcp.example.com\"").from, srv);
        assert_eq!(read("discover = \"srv://_nats._tcp.example.com\"").from, srv);
        assert_eq!(read("discover = \"srv://nats.example.com\"").from, Some(Discover::Srv("nats.example.com".into())));
        let websocket =
            read("discover = \"n:1\"\ndiscover_websocket = \"ws://{host}:8080/\"").server_at("n1:4222").websocket;
        assert_eq!(websocket.unwrap(), WebSocketAddress { address: "n1:8080".into(), secure: false });
        assert_eq!(read("discover = \"_nats._tcp.example.com\"").server_at("n1:4222").monitor, None);
    }
}
