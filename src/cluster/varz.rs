//! `VARZ`, what a server says of itself: `/varz` at its monitoring port, or over the system account.

use std::time::Duration;

use semver::Version;
use serde::{Deserialize, de::IgnoredAny};

use crate::{cluster::error::PollError, upstream::Reading};

/// The part that weir reads. Every nats-server since 2.0 sends the fields without a default.
#[derive(Debug, Deserialize)]
pub(super) struct Varz {
    server_id: String,
    server_name: String,
    version: String,
    connections: u32,
    max_connections: i64,
    #[serde(default)]
    max_control_line: usize,
    /// In seconds, with a fraction.
    #[serde(default)]
    auth_timeout: f64,
    #[serde(default)]
    websocket: WebSocketVarz,
    #[serde(default)]
    leafnodes: u32,
    #[serde(default)]
    leaf: LeafnodeVarz,
    uptime: String,
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    system_account: String,
    /// Of every operator that it trusts; absent where it trusts none.
    #[serde(default)]
    trusted_operators_jwt: Vec<IgnoredAny>,
    #[serde(default)]
    trusted_operators_claim: Vec<IgnoredAny>,
    /// Of its configuration file; since 2.11.
    #[serde(default)]
    config_digest: String,
    /// When it last read that.
    #[serde(default)]
    config_load_time: String,
    /// Per cent of one core, over the last second.
    #[serde(default)]
    cpu: f64,
    #[serde(default)]
    cores: u32,
    /// How many of the cores it may use; 0 where it does not say.
    #[serde(default)]
    gomaxprocs: u32,
}

/// Of the WebSocket port.
#[derive(Debug, Default, Deserialize)]
struct WebSocketVarz {
    /// In seconds, with a fraction.
    #[serde(default)]
    auth_timeout: f64,
}

/// Of the leafnode port; empty where it has none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LeafnodeVarz {
    port: i64,
    /// In seconds, with a fraction.
    auth_timeout: f64,
}

/// A timeout in seconds; 0 is none of its own.
fn timeout(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|timeout| !timeout.is_zero())
}

/// No server has more clients than this: a process cannot have as many files open.
const MOST_CONNECTIONS: u32 = 10_000_000;

impl Varz {
    /// Its `max_connections`; `None` is no limit. A server without the setting says 65,536, nats-server's default. A
    /// negative value lets nobody in since 2.14.0, and since 2.12.5 of 2.12 (nats-server: server.go, `createClient`);
    /// before that it is no limit.
    fn limit(&self) -> Option<u32> {
        let refuses_all = || {
            let version = Version::parse(&self.version).ok()?;
            let since = if version.minor == 12 { Version::new(2, 12, 5) } else { Version::new(2, 14, 0) };
            Some(version >= since)
        };
        match self.max_connections {
            0 => None,
            ..0 => refuses_all().unwrap_or_default().then_some(0),
            n => Some(u32::try_from(n).unwrap_or(u32::MAX)),
        }
    }
}

impl TryFrom<Varz> for Reading {
    type Error = PollError;

    fn try_from(varz: Varz) -> Result<Self, PollError> {
        if varz.connections > MOST_CONNECTIONS {
            return Err(PollError::Impossible { field: "connections", value: varz.connections.into() });
        }
        Ok(Self {
            max_connections: varz.limit(),
            server_name: varz.server_name,
            version: varz.version,
            connections: varz.connections,
            max_control_line: Some(varz.max_control_line).filter(|&n| n > 0),
            auth_timeout: timeout(varz.auth_timeout),
            websocket_auth_timeout: timeout(varz.websocket.auth_timeout),
            leafnodes: varz.leafnodes.min(MOST_CONNECTIONS),
            leafnode_port: u16::try_from(varz.leaf.port).ok().filter(|&port| port > 0),
            leafnode_auth_timeout: timeout(varz.leaf.auth_timeout),
            server_id: varz.server_id,
            // "1d2h3m4s", in whole seconds. A value that does not parse counts as a long time: no slow start.
            uptime: humantime::parse_duration(&varz.uptime).unwrap_or(Duration::MAX),
            system_account: Some(varz.system_account).filter(|name| !name.is_empty()),
            requires_tls: varz.tls_required,
            trusts_operator: !varz.trusted_operators_jwt.is_empty() || !varz.trusted_operators_claim.is_empty(),
            config: if varz.config_digest.is_empty() { varz.config_load_time } else { varz.config_digest },
            cpu: varz.cpu / 100.0,
            cores: if varz.gomaxprocs > 0 { varz.gomaxprocs.min(varz.cores) } else { varz.cores },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(max: &str, uptime: &str) -> Reading {
        let json = format!(
            r#"{{"server_name":"n1","version":"2.15.1","connections":3,"max_connections":{max},"server_id":"NA","uptime":"{uptime}","more":1}}"#
        );
        Reading::try_from(serde_json::from_str::<Varz>(&json).unwrap()).unwrap()
    }

    #[test]
    fn cores_are_those_that_it_may_use() {
        let cores = |more: &str| {
            let json = format!(
                r#"{{"server_name":"n1","version":"2.15.1","connections":3,"max_connections":1,"server_id":"NA","uptime":"1s"{more}}}"#
            );
            let reading = Reading::try_from(serde_json::from_str::<Varz>(&json).unwrap()).unwrap();
            (reading.cpu, reading.cores)
        };
        assert_eq!(cores(r#","cpu":150,"cores":8,"gomaxprocs":2"#), (1.5, 2));
        assert_eq!(cores(r#","cpu":0,"cores":8"#), (0.0, 8));
        assert_eq!(cores(""), (0.0, 0));
    }

    #[test]
    fn a_configuration_is_told_by_its_digest_else_by_when_it_was_read() {
        let config = |more: &str| {
            let json = format!(
                r#"{{"server_name":"n1","version":"2.15.1","connections":3,"max_connections":1,"server_id":"NA","uptime":"1s"{more}}}"#
            );
            Reading::try_from(serde_json::from_str::<Varz>(&json).unwrap()).unwrap().config
        };
        assert_eq!(config(r#","config_load_time":"now","config_digest":"sha256:1""#), "sha256:1");
        assert_eq!([config(r#","config_load_time":"now""#), config("")], ["now", ""]);
    }

    #[test]
    fn a_server_in_operator_mode_names_its_operators() {
        let trusts = |more: &str| {
            let json = format!(
                r#"{{"server_name":"n1","version":"2.15.1","connections":3,"max_connections":1,"server_id":"NA","uptime":"1s"{more}}}"#
            );
            Reading::try_from(serde_json::from_str::<Varz>(&json).unwrap()).unwrap().trusts_operator
        };
        assert!(!trusts(""));
        assert!(trusts(r#","trusted_operators_jwt":["e30"]"#) && trusts(r#","trusted_operators_claim":[{"iss":"O"}]"#));
    }

    #[test]
    fn varz_becomes_a_reading() {
        assert_eq!(reading("100", "3s").max_connections, Some(100));
        assert_eq!(reading("0", "3s").max_connections, None);
        assert_eq!(reading("-1", "3s").max_connections, Some(0));
        for (text, seconds) in [("0s", 0), ("59s", 59), ("1m2s", 62), ("2h3m4s", 7384), ("1d2h3m4s", 93_784)] {
            assert_eq!(reading("1", text).uptime, Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(reading("1", "nonsense").uptime, Duration::MAX);
    }

    #[test]
    fn what_cannot_be_is_no_reading_and_what_is_odd_means_what_it_means_to_the_server() {
        let varz = |connections: &str, max: &str, version: &str| {
            let json = format!(
                r#"{{"server_name":"n1","version":"{version}","connections":{connections},"max_connections":{max},"server_id":"NA","uptime":"1s"}}"#
            );
            Reading::try_from(serde_json::from_str::<Varz>(&json).unwrap())
        };
        let impossible = varz("4294967295", "100", "2.15.1").unwrap_err();
        assert_eq!(impossible.to_string(), "it says connections = 4294967295, which cannot be");
        assert_eq!(varz("200", "100", "2.15.1").unwrap().connections, 200, "the limit was lowered by a reload");
        for (version, limit) in [
            ("2.9.10", None),
            ("2.11.17", None),
            ("2.12.4", None),
            ("2.12.5", Some(0)),
            ("2.14.0", Some(0)),
            ("2.15.1", Some(0)),
            ("unknown", None),
        ] {
            assert_eq!(varz("1", "-1", version).unwrap().max_connections, limit, "{version}");
        }
        assert_eq!(varz("1", "9999999999", "2.15.1").unwrap().max_connections, Some(u32::MAX));
    }
}
