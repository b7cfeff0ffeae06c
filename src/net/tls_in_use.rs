//! Which TLS a connection has, by the names that nats-server has for it.

use rustls::{CipherSuite, ProtocolVersion};

/// TLS of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsInUse {
    pub version: ProtocolVersion,
    pub cipher: CipherSuite,
}

impl TlsInUse {
    /// The version as nats-server writes it.
    pub fn version(self) -> String {
        match self.version {
            ProtocolVersion::TLSv1_2 => "1.2".to_owned(),
            ProtocolVersion::TLSv1_3 => "1.3".to_owned(),
            other => format!("Unknown [0x{:x}]", u16::from(other)),
        }
    }

    /// The cipher suite by its name in the registry of IANA, as nats-server writes it.
    pub fn cipher(self) -> String {
        let name = format!("{:?}", self.cipher);
        name.strip_prefix("TLS13_").map_or_else(|| name.clone(), |rest| format!("TLS_{rest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_named_as_nats_server_names_it() {
        let tls = |version, cipher| TlsInUse { version, cipher };
        let newest = tls(ProtocolVersion::TLSv1_3, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!((newest.version().as_str(), newest.cipher().as_str()), ("1.3", "TLS_AES_128_GCM_SHA256"));
        let older = tls(ProtocolVersion::TLSv1_2, CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256);
        let shown = (older.version(), older.cipher());
        assert_eq!(shown, ("1.2".to_owned(), "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned()));
    }
}
