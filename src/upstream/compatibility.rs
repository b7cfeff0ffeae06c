//! What weir's configuration needs of the servers, and which of it a server cannot do by its version or configuration.

use semver::Version;

use crate::protocol::info::Info;

/// What weir needs of the servers beyond what every nats-server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compatibility {
    /// Accept weir's signature as that of a trusted proxy.
    pub proxy_signature: bool,
    /// Read a PROXY header in front of each connection.
    pub proxy_protocol: bool,
}

/// Something that a server cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingFeature {
    /// In words for the log.
    pub what: &'static str,
    /// Whether the server refuses every client for it.
    pub shuts_out: bool,
}

impl Compatibility {
    /// What the server that sent this `info` cannot do; empty if it can do all.
    pub fn missing_features(self, info: &Info) -> Vec<MissingFeature> {
        let version = info.semver();
        let before = |major, minor, patch| version.as_ref().is_some_and(|v| *v < Version::new(major, minor, patch));
        let mut missing = Vec::new();
        if self.proxy_signature && info.nonce().is_none() {
            let what = match before(2, 12, 0) {
                true => "it has no trusted proxies, which came with nats-server 2.12: weir does not send proxy_sig",
                false => "it sends no nonce to sign, so it trusts no proxy: its `proxies` block needs weir's key",
            };
            missing.push(MissingFeature { what, shuts_out: false });
        }
        if self.proxy_protocol {
            if before(2, 12, 2) {
                let what = "it has no PROXY protocol, which came with nats-server 2.12.2: it will refuse every client";
                missing.push(MissingFeature { what, shuts_out: true });
            } else if (info.tls_required() || info.tls_available())
                && (before(2, 12, 9) || before(2, 14, 1) && !before(2, 13, 0))
            {
                let what = "its PROXY protocol does not work with TLS before nats-server 2.12.9 and 2.14.1";
                missing.push(MissingFeature { what, shuts_out: true });
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(compatibility: Compatibility, version: &str, more: &str) -> usize {
        let info = format!(r#"{{"server_id":"x","version":"{version}"{more}}}"#);
        compatibility.missing_features(&Info::parse(info.as_bytes()).unwrap()).len()
    }

    #[test]
    fn old_servers_and_wrong_configurations_are_told_apart() {
        let signs = Compatibility { proxy_signature: true, ..Compatibility::default() };
        assert_eq!(missing(signs, "2.15.1", r#","nonce":"abc""#), 0);
        assert_eq!(missing(signs, "2.15.1", ""), 1);
        assert_eq!(missing(signs, "2.9.10", ""), 1);
        let header = Compatibility { proxy_protocol: true, ..Compatibility::default() };
        for (version, tls, n) in [
            ("2.12.1", false, 1),
            ("2.12.2", false, 0),
            ("2.12.2", true, 1),
            ("2.12.9", true, 0),
            ("2.14.0", true, 1),
            ("2.14.0", false, 0),
            ("2.14.1", true, 0),
            ("2.15.1", true, 0),
            ("nonsense", false, 0),
        ] {
            let tls = if tls { r#","tls_required":true"# } else { "" };
            assert_eq!(missing(header, version, tls), n, "{version}{tls}");
        }
        assert_eq!(missing(Compatibility::default(), "2.1.0", ""), 0);
    }
}
