//! `tcp_keepalive` and `tcp_user_timeout`, of a listener and of `[cluster]`. HAProxy's `clitcpka-idle` and
//! `srvtcpka-idle`, and its `tcp-ut`, are the same.

use std::time::Duration;

use crate::{
    config::{
        effective::toml_string,
        finding::{Problem, quote},
        leaf::{Leaf, Rule, wrong_type},
        node::Node,
        section::Section,
    },
    net::socket::TcpTimeouts,
};

/// Off, as at nats-server, which sets neither on the connections that it accepts (2.15.1, seen in /proc/net/tcp). Its
/// PINGs pass through weir, so it finds a client that has vanished as soon as it would without weir; and a client that
/// sleeps, or reads nothing for minutes, lives for as long as the server lets it.
pub(super) const OF_CLIENTS: TcpTimeouts = TcpTimeouts::of_seconds(0, 0);

/// A server whose machine is gone is noticed after 150 s: as soon as a Go client without weir notices it on an idle
/// connection, by Go's own keepalive (15 s of silence and nine probes 15 s apart). The first probe comes after a
/// minute, since probes for every idle session are traffic. A server that stands still for two minutes keeps its
/// sessions.
pub(super) const OF_SERVERS: TcpTimeouts = TcpTimeouts::of_seconds(60, 150);

/// Linux takes up to 32,767 s for keepalive.
const LONGEST: u32 = 9 * 3600;

pub(super) fn timeouts(s: &mut Section<'_>, default: TcpTimeouts) -> TcpTimeouts {
    let mut seconds = |key, default: Duration| {
        let default = OffOrSeconds(u32::try_from(default.as_secs()).unwrap_or(LONGEST));
        s.value(key, default, UpToLongest).0
    };
    let keepalive = seconds("tcp_keepalive", default.keepalive());
    let user_timeout = seconds("tcp_user_timeout", default.user_timeout());
    TcpTimeouts::of_seconds(keepalive, user_timeout)
}

/// `"off"`, or whole seconds; 0 is off as well.
#[derive(PartialEq)]
struct OffOrSeconds(u32);

const REMEDY: &str = "write \"off\", or \"1s\" to \"9h\" in whole seconds";

/// Accepts up to [`LONGEST`].
struct UpToLongest;

impl Rule<OffOrSeconds> for UpToLongest {
    fn read(&self, node: &Node) -> Result<OffOrSeconds, Problem> {
        let value = OffOrSeconds::read(node)?;
        match value.0 > LONGEST {
            true => Err(Problem::new(format!("{} is too large", value.show()), REMEDY)),
            false => Ok(value),
        }
    }

    fn range(&self) -> Option<String> {
        let second = Duration::from_secs(1);
        Some(format!("{} to {}", second.show(), (second * LONGEST).show()))
    }
}

impl Leaf for OffOrSeconds {
    fn kind() -> String {
        "\"off\" or duration in whole seconds".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        match node {
            Node::Integer(0) => Ok(Self(0)),
            Node::String(text) if text == "off" => Ok(Self(0)),
            Node::String(text) => {
                let Ok(time) = humantime::parse_duration(text) else {
                    return Err(Problem::new(format!("{} is not a duration", quote(text)), REMEDY));
                };
                let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
                match time.subsec_nanos() {
                    0 => Ok(Self(seconds)),
                    _ => Err(Problem::new(format!("{} is no whole number of seconds", toml_string(text)), REMEDY)),
                }
            }
            Node::Integer(n) => Err(Problem::new(format!("{n} has no unit"), REMEDY)),
            other => Err(wrong_type(other, REMEDY)),
        }
    }
    fn show(&self) -> String {
        match self.0 {
            0 => toml_string("off"),
            seconds => Duration::from_secs(seconds.into()).show(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const SERVER: &str = "[[cluster.servers]]\naddress = \"10.0.0.1:4222\"\n";

    #[test]
    fn each_listener_and_the_cluster_have_their_own() {
        let off = TcpTimeouts::default();
        let least = Config::parse("weir.toml", SERVER).unwrap();
        assert_eq!((least.listeners[0].tcp, least.servers_tcp), (off, TcpTimeouts::of_seconds(60, 150)));
        let listener = |port, keys| format!("[[listeners]]\nlisten = \"127.0.0.1:{port}\"\n{keys}\n");
        let file = [
            listener(1, "tcp_keepalive = \"5m\"\ntcp_user_timeout = \"90s\""),
            listener(2, "tcp_keepalive = 0\ntcp_user_timeout = \"0s\"\nkind = \"websocket\""),
            listener(3, "tcp_user_timeout = \"6m\"\nkind = \"passthrough\""),
            format!("[cluster]\ntcp_keepalive = \"off\"\ntcp_user_timeout = \"9h\"\n{SERVER}"),
        ];
        let config = Config::parse("weir.toml", &file.concat()).unwrap();
        let all: Vec<_> = config.listeners.iter().map(|listener| listener.tcp).collect();
        assert_eq!(all, [TcpTimeouts::of_seconds(300, 90), off, TcpTimeouts::of_seconds(0, 360)]);
        assert_eq!(config.servers_tcp, TcpTimeouts::of_seconds(0, 9 * 3600));
        // What is shown is read as the same.
        let shown = Config::parse("shown", &config.effective().to_string()).unwrap();
        assert_eq!((shown.servers_tcp, shown.listeners), (config.servers_tcp, config.listeners));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for (value, what) in [
            ("\"10h\"", "\"10h\" is too large"),
            ("\"1500ms\"", "\"1500ms\" is no whole number of seconds"),
            ("\"never\"", "\"never\" is not a duration"),
            ("5", "5 has no unit"),
            ("true", "true is not text or a number"),
        ] {
            let errors = Config::parse("f", &format!("[cluster]\ntcp_keepalive = {value}\n{SERVER}")).unwrap_err();
            let expected = format!("f:2: cluster.tcp_keepalive: {what}; {REMEDY}");
            assert_eq!(errors.to_string().trim(), expected);
        }
    }
}
