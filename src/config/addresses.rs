//! Which addresses are the same: those that weir binds, and those that it dials.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::ifaddrs::getifaddrs;

/// Whether only one of two addresses can be bound. `[::]` takes every address of IPv6 and IPv4, and `0.0.0.0` every one
/// of IPv4. Port 0 is any free port.
pub(super) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.port() != 0 && (takes(a.ip(), b.ip()) || takes(b.ip(), a.ip()))
}

/// Whether a socket that is bound to `bound` takes connections to `ip`.
fn takes(bound: IpAddr, ip: IpAddr) -> bool {
    match bound {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => ip.to_canonical().is_ipv4(),
        _ => bound.to_canonical() == ip.to_canonical(),
    }
}

/// `host:port` of a server, in a form in which equal addresses are equal: an IP address in any spelling, a name without
/// regard to case and to a dot at its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Ip(SocketAddr),
    /// The machine itself, by a name that every machine has.
    Localhost(u16),
    Name(String, u16),
}

impl Target {
    /// `None` for what is no `host:port`; the error for that is another one.
    pub(super) fn parse(address: &str) -> Option<Self> {
        if let Ok(ip) = address.parse::<SocketAddr>() {
            return Some(Self::Ip(SocketAddr::new(ip.ip().to_canonical(), ip.port())));
        }
        let (host, port) = address.rsplit_once(':')?;
        let (host, port) = (host.trim_end_matches('.').to_ascii_lowercase(), port.parse().ok()?);
        Some(match &*host {
            "localhost" | "ip6-localhost" => Self::Localhost(port),
            _ => Self::Name(host, port),
        })
    }

    /// Whether both lead to the same place, as far as that shows without asking a resolver.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let is_localhost = |ip: &SocketAddr, port: u16| {
            ip.port() == port && [Ipv4Addr::LOCALHOST.into(), IpAddr::from(Ipv6Addr::LOCALHOST)].contains(&ip.ip())
        };
        match (self, other) {
            (Self::Ip(ip), Self::Localhost(port)) | (Self::Localhost(port), Self::Ip(ip)) => is_localhost(ip, *port),
            _ => self == other,
        }
    }

    /// Whether a connection to it comes to a socket that is bound to `listen`, on a machine with these addresses.
    pub(super) fn reaches(&self, listen: SocketAddr, own: &HashSet<IpAddr>) -> bool {
        let here = |ip: IpAddr| {
            // The kernel takes 0.0.0.0 for 127.0.0.1.
            let ip = match ip {
                ip if !ip.is_unspecified() => ip,
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            (takes(listen.ip(), ip) && (!listen.ip().is_unspecified() || ip.is_loopback() || own.contains(&ip)))
                || listen.ip().to_canonical() == ip.to_canonical()
        };
        match self {
            Self::Ip(ip) => ip.port() == listen.port() && here(ip.ip()),
            Self::Localhost(port) => {
                *port == listen.port() && (here(Ipv4Addr::LOCALHOST.into()) || here(Ipv6Addr::LOCALHOST.into()))
            }
            Self::Name(..) => false,
        }
    }
}

/// The addresses of this machine's interfaces; none where the system does not tell.
pub(super) fn own() -> HashSet<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    interfaces.filter_map(|interface| ip(interface.address?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_unspecified_address_takes_every_other() {
        for (a, b, same) in [
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("[::]:1", "[::1]:1", true),
            ("[::]:1", "10.0.0.1:1", true),
            ("[::]:1", "0.0.0.0:1", true),
            ("127.0.0.1:1", "[::ffff:127.0.0.1]:1", true),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("0.0.0.0:1", "127.0.0.1:2", false),
            ("0.0.0.0:0", "127.0.0.1:0", false),
        ] {
            assert_eq!((collide(at(a), at(b)), collide(at(b), at(a))), (same, same), "{a} {b}");
        }
    }

    #[test]
    fn one_server_has_many_spellings() {
        let same = |a: &str, b: &str| Target::parse(a).unwrap().is_same(&Target::parse(b).unwrap());
        for (a, b) in [
            ("N1:4222", "n1.:4222"),
            ("[::1]:1", "[0:0:0:0:0:0:0:1]:1"),
            ("10.0.0.1:1", "[::ffff:10.0.0.1]:1"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::1]:1", "LocalHost:1"),
            ("n1:04222", "n1:4222"),
        ] {
            assert!(same(a, b) && same(b, a), "{a} {b}");
        }
        for (a, b) in [("n1:1", "n1:2"), ("127.0.0.1:1", "127.0.0.2:1"), ("localhost:1", "127.0.0.1:2")] {
            assert!(!same(a, b), "{a} {b}");
        }
    }

    #[test]
    fn what_leads_to_this_machine_is_known() {
        let own: HashSet<IpAddr> = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()].into();
        for (target, listen, reaches) in [
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("127.0.0.9:1", "[::]:1", true),
            ("localhost:1", "127.0.0.1:1", true),
            ("localhost:1", "[::1]:1", true),
            ("192.0.2.7:1", "0.0.0.0:1", true),
            ("[2001:db8::7]:1", "[::]:1", true),
            ("[2001:db8::7]:1", "0.0.0.0:1", false),
            ("192.0.2.8:1", "0.0.0.0:1", false),
            ("192.0.2.8:1", "192.0.2.8:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("127.0.0.1:2", "0.0.0.0:1", false),
            ("n1:1", "0.0.0.0:1", false),
        ] {
            assert_eq!(Target::parse(target).unwrap().reaches(at(listen), &own), reaches, "{target} at {listen}");
        }
        assert!(super::own().iter().any(IpAddr::is_loopback), "a machine has a loopback interface");
    }
}
