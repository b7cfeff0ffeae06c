//! Addresses: to listen on, to dial, to advertise, to poll.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::config::{
    effective::toml_string,
    error::{Wrong, quote},
    leaf::{Leaf, misfit},
    node::Node,
};

/// An address to bind: a literal IP address, so that a name that resolves differently tomorrow cannot open another port.
impl Leaf for SocketAddr {
    fn read(node: &Node) -> Result<Self, Wrong> {
        const RIGHT: &str = "write an IP address with a port, such as \"0.0.0.0:4222\"";
        let Node::String(text) = node else {
            return Err(misfit(node, RIGHT));
        };
        text.parse().map_err(|_| {
            let right = suggest_listen(text).map_or_else(|| RIGHT.to_owned(), |address| format!("write \"{address}\""));
            Wrong::new(format!("{} is not an IP address with a port", quote(text)), right)
        })
    }
    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

/// What was probably meant: `:4222`, `4222`, `*:4222`, `localhost:4222`, `10.0.0.1`.
fn suggest_listen(text: &str) -> Option<String> {
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

/// `host:port` to dial or to tell clients: an IP address (IPv6 in brackets) or a DNS name, and a port that is not 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address(pub(super) String);

impl Leaf for Address {
    fn read(node: &Node) -> Result<Self, Wrong> {
        let Node::String(text) = node else {
            return Err(misfit(node, "write host and port, such as \"10.0.0.1:4222\""));
        };
        check_host_port(text, 4222).map(|()| Self(text.clone()))
    }
    fn show(&self) -> String {
        toml_string(&self.0)
    }
}

/// `http://host:port` (or `https://`) of a server's monitoring port, kept without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MonitorUrl(pub(super) String);

impl Leaf for MonitorUrl {
    fn read(node: &Node) -> Result<Self, Wrong> {
        const RIGHT: &str = "write \"http://host:port\", such as \"http://10.0.0.1:8222\"";
        let Node::String(text) = node else {
            return Err(misfit(node, RIGHT));
        };
        let scheme = if text.starts_with("https://") { "https://" } else { "http://" };
        let Some(rest) = text.strip_prefix(scheme) else {
            let right = match check_host_port(text, 8222) {
                Ok(()) => format!("write \"http://{text}\""),
                Err(_) => RIGHT.to_owned(),
            };
            let what = format!("{} does not begin with http://", quote(text));
            return Err(Wrong::new(what, right));
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if let Some((host, _)) = authority.split_once(['/', '?', '#'])
            && !authority.contains('@')
        {
            let what = format!("{} has a path, and weir asks for /varz itself", quote(text));
            return Err(Wrong::new(what, format!("write \"{scheme}{host}\"")));
        }
        check_host_port(authority, 8222).map_err(|wrong| {
            // The cure speaks of host:port; here it needs its scheme.
            let right = match wrong.right.strip_prefix("write \"") {
                Some(rest) => format!("write \"{scheme}{rest}"),
                None => wrong.right,
            };
            Wrong::new(wrong.what, right)
        })?;
        Ok(Self(format!("{scheme}{authority}")))
    }
    fn show(&self) -> String {
        toml_string(&self.0)
    }
}

/// A network, `10.0.0.0/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network(pub(super) IpNet);

impl Leaf for Network {
    fn read(node: &Node) -> Result<Self, Wrong> {
        const RIGHT: &str = "write a network such as \"10.0.0.0/8\", or an address";
        let Node::String(text) = node else {
            return Err(misfit(node, RIGHT));
        };
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network
            .map(|network| Self(network.trunc()))
            .map_err(|_| Wrong::new(format!("{} is no network", quote(text)), RIGHT))
    }
    fn show(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

/// An address of this machine, without a port.
impl Leaf for IpAddr {
    fn read(node: &Node) -> Result<Self, Wrong> {
        const RIGHT: &str = "write an address of this machine such as \"10.0.0.1\", without a port";
        let Node::String(text) = node else { return Err(misfit(node, RIGHT)) };
        let address = text.parse::<Self>().ok().filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        address.ok_or_else(|| Wrong::new(format!("{} is no address to connect from", quote(text)), RIGHT))
    }
    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

fn check_host_port(text: &str, usual_port: u16) -> Result<(), Wrong> {
    let general = format!("write \"host:{usual_port}\"");
    if let Some((_, rest)) = text.split_once("://") {
        let bare = rest.trim_end_matches('/');
        let right = match check_host_port(bare, usual_port) {
            Ok(()) => format!("write \"{bare}\""),
            Err(_) => general,
        };
        return Err(Wrong::new(format!("{} is a URL, not host:port", quote(text)), right));
    }
    if text.contains('@') {
        return Err(Wrong::new(format!("{} holds credentials, which clients bring themselves", quote(text)), general));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(Wrong::new(format!("{} has no port", quote(text)), format!("write \"[{text}]:{usual_port}\"")));
    }
    let bracketed_without_port = text.starts_with('[') && text.ends_with(']');
    let Some((host, port)) = text.rsplit_once(':').filter(|_| !bracketed_without_port) else {
        return Err(if text.is_empty() {
            Wrong::new("it is empty", general)
        } else {
            Wrong::new(format!("{} has no port", quote(text)), format!("write \"{text}:{usual_port}\""))
        });
    };
    if !is_host(host) {
        return Err(Wrong::new(format!("{} does not begin with a host", quote(text)), general));
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(()),
        _ => Err(Wrong::new(
            format!("{} has no port from 1 to 65535", quote(text)),
            format!("write \"{host}:{usual_port}\""),
        )),
    }
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

    fn wrong<T: Leaf + std::fmt::Debug>(text: &str) -> String {
        let wrong = T::read(&Node::String(text.into())).unwrap_err();
        format!("{}; {}", wrong.what, wrong.right)
    }

    #[test]
    fn what_was_probably_meant_is_suggested() {
        for (text, meant) in [
            (":4222", "0.0.0.0:4222"),
            ("4222", "0.0.0.0:4222"),
            ("localhost:1", "127.0.0.1:1"),
            ("10.0.0.1", "10.0.0.1:4222"),
            ("::1", "[::1]:4222"),
        ] {
            let said = wrong::<SocketAddr>(text);
            assert!(said.ends_with(&format!("; write \"{meant}\"")), "{said}");
        }
        for (text, said) in [
            ("10.0.0.2", "\"10.0.0.2\" has no port; write \"10.0.0.2:4222\""),
            ("n1:", "\"n1:\" has no port from 1 to 65535; write \"n1:4222\""),
            ("::1", "\"::1\" has no port; write \"[::1]:4222\""),
            ("[::1]", "\"[::1]\" has no port; write \"[::1]:4222\""),
            ("nats://n1:4222", "\"nats://n1:4222\" is a URL, not host:port; write \"n1:4222\""),
            ("", "it is empty; write \"host:4222\""),
        ] {
            assert_eq!(wrong::<Address>(text), said);
        }
    }

    #[test]
    fn monitor_urls_are_http_and_lose_their_slash() {
        let read = |text: &str| MonitorUrl::read(&Node::String(text.into()));
        assert_eq!(read("http://n1:8222/").unwrap().0, "http://n1:8222");
        assert_eq!(read("http://[::1]:8222").unwrap().0, "http://[::1]:8222");
        for (text, said) in [
            ("n1:8222", "\"n1:8222\" does not begin with http://; write \"http://n1:8222\""),
            ("http://n1", "\"n1\" has no port; write \"http://n1:8222\""),
            (
                "http://n1:8222/varz",
                "\"http://n1:8222/varz\" has a path, and weir asks for /varz itself; write \"http://n1:8222\"",
            ),
        ] {
            assert_eq!(wrong::<MonitorUrl>(text), said);
        }
        for text in [
            "http://joe:hunter2@n1:8222/",
            "https://joe:hunter2@n1:8222",
            "joe:hunter2@n1:8222",
            "http://a/joe:hunter2@n1:8",
        ] {
            let said = wrong::<MonitorUrl>(text);
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
