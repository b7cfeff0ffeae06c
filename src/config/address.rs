//! Addresses to listen on, to dial, to advertise and to poll.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::{
    config::{
        effective::toml_string,
        finding::{Problem, quote},
        leaf::{Leaf, wrong_type},
        node::Node,
    },
    upstream::WebSocketAddress,
};

/// An address to bind. It is a literal IP address: a name might resolve to another interface tomorrow.
impl Leaf for SocketAddr {
    fn kind() -> String {
        "IP address and port".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write an IP address with a port, such as \"0.0.0.0:4222\"";
        let Node::String(text) = node else {
            return Err(wrong_type(node, REMEDY));
        };
        text.parse().map_err(|_| {
            let remedy =
                suggest_listen(text).map_or_else(|| REMEDY.to_owned(), |address| format!("write \"{address}\""));
            Problem::new(format!("{} is not an IP address with a port", quote(text)), remedy)
        })
    }
    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

/// The address that was probably meant by `:4222`, `4222`, `*:4222`, `localhost:4222` or `10.0.0.1`.
fn suggest_listen(text: &str) -> Option<String> {
    if let Some(meant) = suggest_brackets(text, 4222) {
        return Some(meant);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, 4222).to_string());
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port: u16 = port.parse().ok()?;
    match host {
        "" | "*" => Some(format!("0.0.0.0:{port}")),
        "localhost" => Some(format!("127.0.0.1:{port}")),
        _ => None,
    }
}

/// The address that was probably meant by an IPv6 address without brackets: `::1:4226` is an address too, but a last
/// part of four or five decimal digits is mostly a port.
fn suggest_brackets(text: &str, usual_port: u16) -> Option<String> {
    let whole = text.parse::<Ipv6Addr>().ok()?;
    let meant = text.rsplit_once(':').and_then(|(host, port)| {
        let ip: Ipv6Addr = host.parse().ok()?;
        Some(SocketAddr::from((ip, port.parse::<u16>().ok().filter(|&port| port >= 1000)?)))
    });
    Some(meant.unwrap_or_else(|| SocketAddr::from((whole, usual_port))).to_string())
}

/// `host:port` to dial or to advertise: an IP address (IPv6 in brackets) or a DNS name, and a port that is not 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address(pub(super) String);

impl Leaf for Address {
    fn kind() -> String {
        "host and port".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        let Node::String(text) = node else {
            return Err(wrong_type(node, "write host and port, such as \"10.0.0.1:4222\""));
        };
        check_host_port(text, 4222).map(|()| Self(text.clone()))
    }
    fn show(&self) -> String {
        toml_string(&self.0)
    }
}

/// The word for the addresses of all weirs of the fleet.
pub(super) const FLEET: &str = "fleet";

/// What a listener advertises: an address, or those of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Advertised {
    Fleet,
    Address(Address),
}

impl Advertised {
    pub(super) fn address(self) -> Option<String> {
        match self {
            Self::Fleet => None,
            Self::Address(Address(address)) => Some(address),
        }
    }
}

impl Leaf for Advertised {
    fn kind() -> String {
        format!("{}, or \"{FLEET}\"", Address::kind())
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        match node {
            Node::String(text) if text == FLEET => Ok(Self::Fleet),
            node => Address::read(node).map(Self::Address),
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Fleet => toml_string(FLEET),
            Self::Address(address) => address.show(),
        }
    }
}

/// Checks the host and port behind the scheme of a URL.
fn check_behind_scheme(scheme: &str, address: &str, usual_port: u16) -> Result<(), Problem> {
    check_host_port(address, usual_port).map_err(|problem| {
        // That remedy shows host:port; here a scheme stands in front.
        let remedy = match problem.remedy.strip_prefix("write \"") {
            Some(rest) => format!("write \"{scheme}{rest}"),
            None => problem.remedy,
        };
        Problem::new(problem.what, remedy)
    })
}

/// What a nats-server answers at its monitoring port, by name.
const ENDPOINTS_OF_SERVERS: [&str; 14] = [
    "varz",
    "connz",
    "routez",
    "gatewayz",
    "leafz",
    "subsz",
    "stacksz",
    "accountz",
    "accstatz",
    "jsz",
    "healthz",
    "ipqueuesz",
    "raftz",
    "expvarz",
];

/// Whether a path may hold it as it is.
fn is_of_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~/".contains(c)
}

/// `http://host:port` or `https://host:port` of a server's monitoring port, with its `http_base_path` behind it where
/// it has one; stored without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MonitorUrl(pub(super) String);

impl Leaf for MonitorUrl {
    fn kind() -> String {
        "http:// or https:// URL".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write \"http://host:port\", such as \"http://10.0.0.1:8222\"";
        let Node::String(text) = node else {
            return Err(wrong_type(node, REMEDY));
        };
        let scheme = if text.starts_with("https://") { "https://" } else { "http://" };
        let Some(rest) = text.strip_prefix(scheme) else {
            let remedy = match check_host_port(text, 8222) {
                Ok(()) => format!("write \"http://{text}\""),
                Err(_) => REMEDY.to_owned(),
            };
            let what = format!("{} does not begin with http://", quote(text));
            return Err(Problem::new(what, remedy));
        };
        // What stands before an @ may be a password, and is not shown.
        if rest.contains('@') {
            check_behind_scheme(scheme, rest, 8222)?;
        }
        let rest = rest.trim_end_matches('/');
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        check_behind_scheme(scheme, authority, 8222)?;
        let is_endpoint = |name: &str| ENDPOINTS_OF_SERVERS.contains(&name);
        if let Some(name) = path.rsplit('/').next().filter(|name| is_endpoint(name)) {
            let what = format!("{} ends in /{name}, and weir asks for /varz itself", quote(text));
            let base = rest.strip_suffix(name).unwrap_or(rest).trim_end_matches('/');
            return Err(Problem::new(what, format!("write \"{scheme}{base}\"")));
        }
        if !path.chars().all(is_of_path) {
            let what = format!("{} has more than a path behind the port", quote(text));
            return Err(Problem::new(what, "write \"http://host:port/path\", with the http_base_path of the server"));
        }
        Ok(Self(format!("{scheme}{rest}")))
    }
    fn show(&self) -> String {
        toml_string(&self.0)
    }
}

/// A path in front of other paths, as nats-server's `http_base_path`; stored as `/path`, and empty for `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BasePath(pub(super) String);

impl Leaf for BasePath {
    fn kind() -> String {
        "path of a URL".into()
    }

    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write a path such as \"/weir\"";
        let Node::String(text) = node else { return Err(wrong_type(node, REMEDY)) };
        let path = text.trim_matches('/');
        if !path.chars().all(is_of_path) || path.split('/').any(|part| part.is_empty() && !path.is_empty()) {
            return Err(Problem::new(format!("{} is no path", quote(text)), REMEDY));
        }
        Ok(Self(if path.is_empty() { String::new() } else { format!("/{path}") }))
    }
    fn show(&self) -> String {
        toml_string(&self.0)
    }
}

/// `ws://host:port` or `wss://host:port` of a server's WebSocket port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WebSocketUrl(pub(super) WebSocketAddress);

impl Leaf for WebSocketUrl {
    fn kind() -> String {
        "ws:// or wss:// URL".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write \"ws://host:port\" or \"wss://host:port\", such as \"ws://10.0.0.1:8080\"";
        let Node::String(text) = node else {
            return Err(wrong_type(node, REMEDY));
        };
        let (secure, rest) = match (text.strip_prefix("ws://"), text.strip_prefix("wss://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => {
                let remedy = match check_host_port(text, 8080) {
                    Ok(()) => format!("write \"ws://{text}\""),
                    Err(_) => REMEDY.to_owned(),
                };
                // What stands before an @ may be a password.
                let what = match text.contains('@') {
                    true => "it holds credentials, which clients bring themselves".to_owned(),
                    false => format!("{} begins with neither ws:// nor wss://", quote(text)),
                };
                return Err(Problem::new(what, remedy));
            }
        };
        let address = rest.strip_suffix('/').unwrap_or(rest);
        check_behind_scheme(if secure { "wss://" } else { "ws://" }, address, 8080)?;
        Ok(Self(WebSocketAddress { address: address.to_owned(), secure }))
    }
    fn show(&self) -> String {
        let WebSocketAddress { address, secure } = &self.0;
        toml_string(&format!("{}://{address}", if *secure { "wss" } else { "ws" }))
    }
}

/// A network, `10.0.0.0/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network(pub(super) IpNet);

impl Leaf for Network {
    fn kind() -> String {
        "network or IP address".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write a network such as \"10.0.0.0/8\", or an address";
        let Node::String(text) = node else {
            return Err(wrong_type(node, REMEDY));
        };
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network
            .map(|network| Self(canonical(network.trunc())))
            .map_err(|_| Problem::new(format!("{} is no network", quote(text)), REMEDY))
    }
    fn show(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

/// The network as peers in it are named: an IPv4 client of a socket for both families is an IPv4 client.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let v4 = v6.prefix_len().checked_sub(96).zip(v6.addr().to_ipv4_mapped());
    v4.and_then(|(prefix, v4)| IpNet::new(v4.into(), prefix).ok()).unwrap_or(network)
}

/// An address of this machine without a port.
impl Leaf for IpAddr {
    fn kind() -> String {
        "IP address".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write an address of this machine such as \"10.0.0.1\", without a port";
        let Node::String(text) = node else { return Err(wrong_type(node, REMEDY)) };
        let address = text.parse::<Self>().ok().filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        address.ok_or_else(|| Problem::new(format!("{} is no address to connect from", quote(text)), REMEDY))
    }
    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

fn check_host_port(text: &str, usual_port: u16) -> Result<(), Problem> {
    let general = format!("write \"host:{usual_port}\"");
    if let Some((_, rest)) = text.split_once("://") {
        let bare = rest.trim_end_matches('/');
        let remedy = match check_host_port(bare, usual_port) {
            Ok(()) => format!("write \"{bare}\""),
            Err(_) => general,
        };
        return Err(Problem::new(format!("{} is a URL, not host:port", quote(text)), remedy));
    }
    if text.contains('@') {
        return Err(Problem::new(
            format!("{} holds credentials, which clients bring themselves", quote(text)),
            general,
        ));
    }
    if let Some(meant) = suggest_brackets(text, usual_port) {
        let what = format!("{} is an IPv6 address without a port", quote(text));
        return Err(Problem::new(what, format!("write \"{meant}\"")));
    }
    let bracketed_without_port = text.starts_with('[') && text.ends_with(']');
    let Some((host, port)) = text.rsplit_once(':').filter(|_| !bracketed_without_port) else {
        return Err(if text.is_empty() {
            Problem::new("it is empty", general)
        } else {
            Problem::new(format!("{} has no port", quote(text)), format!("write \"{text}:{usual_port}\""))
        });
    };
    if !is_host(host) {
        return Err(Problem::new(format!("{} does not begin with a host", quote(text)), general));
    }
    // "+4222" is a number to Rust, and no port to a resolver.
    match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => Ok(()),
        _ => Err(Problem::new(
            format!("{} has no port from 1 to 65535", quote(text)),
            format!("write \"{host}:{usual_port}\""),
        )),
    }
}

/// Whether this is the authority of a URL: a host, and maybe a port.
pub(super) fn is_host_with_or_without_port(authority: &str) -> bool {
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    if has_port { check_host_port(authority, 443).is_ok() } else { is_host(authority) }
}

fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !host.is_empty() && host.len() <= 253 && host.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem<T: Leaf + std::fmt::Debug>(text: &str) -> String {
        let problem = T::read(&Node::String(text.into())).unwrap_err();
        format!("{}; {}", problem.what, problem.remedy)
    }

    #[test]
    fn what_was_probably_meant_is_suggested() {
        for (text, meant) in [
            (":4222", "0.0.0.0:4222"),
            ("4222", "0.0.0.0:4222"),
            ("localhost:1", "127.0.0.1:1"),
            ("10.0.0.1", "10.0.0.1:4222"),
            ("::1", "[::1]:4222"),
            ("::1:4226", "[::1]:4226"),
            ("2001:db8::5", "[2001:db8::5]:4222"),
            ("2001:db8::4226", "[2001:db8::4226]:4222"),
        ] {
            let said = problem::<SocketAddr>(text);
            assert!(said.ends_with(&format!("; write \"{meant}\"")), "{said}");
        }
        for (text, said) in [
            ("10.0.0.2", "\"10.0.0.2\" has no port; write \"10.0.0.2:4222\""),
            ("n1:", "\"n1:\" has no port from 1 to 65535; write \"n1:4222\""),
            ("::1", "\"::1\" is an IPv6 address without a port; write \"[::1]:4222\""),
            ("::1:4226", "\"::1:4226\" is an IPv6 address without a port; write \"[::1]:4226\""),
            ("n1:+4222", "\"n1:+4222\" has no port from 1 to 65535; write \"n1:4222\""),
            ("[::1]", "\"[::1]\" has no port; write \"[::1]:4222\""),
            ("nats://n1:4222", "\"nats://n1:4222\" is a URL, not host:port; write \"n1:4222\""),
            ("", "it is empty; write \"host:4222\""),
        ] {
            assert_eq!(problem::<Address>(text), said);
        }
    }

    #[test]
    fn websocket_urls_say_whether_there_is_tls() {
        let read = |text: &str| WebSocketUrl::read(&Node::String(text.into()));
        for (text, address, secure, shown) in [
            ("ws://10.0.0.1:8080", "10.0.0.1:8080", false, "\"ws://10.0.0.1:8080\""),
            ("wss://[::1]:443/", "[::1]:443", true, "\"wss://[::1]:443\""),
        ] {
            let url = read(text).unwrap();
            assert_eq!((&*url.0.address, url.0.secure, &*url.show()), (address, secure, shown));
        }
        for (text, said) in [
            ("n1:8080", "\"n1:8080\" begins with neither ws:// nor wss://; write \"ws://n1:8080\""),
            ("wss://n1", "\"n1\" has no port; write \"wss://n1:8080\""),
        ] {
            assert_eq!(problem::<WebSocketUrl>(text), said);
        }
        for text in ["ws://joe:hunter2@n1:8080", "joe:hunter2@n1:8080"] {
            let said = problem::<WebSocketUrl>(text);
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn base_paths_begin_with_a_slash_and_end_without() {
        let read = |text: &str| BasePath::read(&Node::String(text.into())).map(|path| path.0);
        for (text, path) in [("/weir", "/weir"), ("weir/a/", "/weir/a"), ("/", ""), ("", "")] {
            assert_eq!(read(text).unwrap(), path);
        }
        for text in ["/a//b", "/{a}", "/a?b", "http://a"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ipv4_networks_are_ipv4_in_whatever_form() {
        let read = |text: &str| Network::read(&Node::String(text.into())).unwrap().show();
        for (text, shown) in [
            ("::ffff:10.0.0.0/104", "\"10.0.0.0/8\""),
            ("::ffff:10.1.2.3", "\"10.1.2.3/32\""),
            ("10.1.2.3/8", "\"10.0.0.0/8\""),
            ("2001:db8::/32", "\"2001:db8::/32\""),
            ("::/0", "\"::/0\""),
        ] {
            assert_eq!(read(text), shown, "{text}");
        }
    }

    #[test]
    fn monitor_urls_are_http_and_lose_their_slash() {
        let read = |text: &str| MonitorUrl::read(&Node::String(text.into()));
        assert_eq!(read("http://n1:8222/").unwrap().0, "http://n1:8222");
        assert_eq!(read("http://[::1]:8222").unwrap().0, "http://[::1]:8222");
        assert_eq!(read("https://n1:8222/nats/n1/").unwrap().0, "https://n1:8222/nats/n1");
        for (text, said) in [
            ("n1:8222", "\"n1:8222\" does not begin with http://; write \"http://n1:8222\""),
            ("http://n1", "\"n1\" has no port; write \"http://n1:8222\""),
            (
                "http://n1:8222/varz",
                "\"http://n1:8222/varz\" ends in /varz, and weir asks for /varz itself; write \"http://n1:8222\"",
            ),
            (
                "http://n1:8222/nats/connz/",
                "\"http://n1:8222/nats/connz/\" ends in /connz, and weir asks for /varz itself; write \"http://n1:8222/nats\"",
            ),
            (
                "http://n1:8222/?subs=1",
                "\"http://n1:8222/?subs=1\" has more than a path behind the port; write \"http://host:port/path\", with the \
                 http_base_path of the server",
            ),
        ] {
            assert_eq!(problem::<MonitorUrl>(text), said);
        }
        for text in [
            "http://joe:hunter2@n1:8222/",
            "https://joe:hunter2@n1:8222",
            "joe:hunter2@n1:8222",
            "http://a/joe:hunter2@n1:8",
        ] {
            let said = problem::<MonitorUrl>(text);
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
