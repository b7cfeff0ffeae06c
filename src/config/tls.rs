//! The keys of `[listeners.tls]`, `[listeners.passthrough]` and `[cluster.tls]`.

use std::{path::PathBuf, time::Duration};

use rustls::pki_types::ServerName;

use crate::{
    config::{
        effective::toml_string,
        finding::{Problem, quote},
        leaf::{Any, Checked, Leaf, word, wrong_type},
        node::Node,
        section::Section,
    },
    tls::{ClientCertificates, HandshakeFirst, ListenerTls, MinVersion, Pair, ServersTls},
};

/// nats-server's own wait for a ClientHello before it sends INFO (`DEFAULT_TLS_HANDSHAKE_FIRST_FALLBACK_DELAY`,
/// const.go).
const AUTO: Duration = Duration::from_millis(50);

/// Reads `[listeners.tls]`.
pub(super) fn listener(s: &mut Section<'_>) -> ListenerTls {
    let mut pairs = vec![pair(s)];
    // Never: "auto" delays clients that wait for INFO by 50 ms, and saves a round trip for clients that begin with TLS.
    let handshake_first = s.value("handshake_first", HandshakeFirst::Never, Any);
    // 1.2: Go, Java and .NET have had it for ten years, and rustls leaves out its weak parts.
    let min_version = s.value("min_version", MinVersion::Tls12, Any);
    let ticket_keys_file = s.optional("ticket_keys_file", "none, tickets are good for this process", Any);
    let verify = s.value("verify", false, Any);
    let ca_file = s.optional::<PathBuf>("ca_file", "none", Any);
    let crl_file = s.optional::<PathBuf>("crl_file", "none, nothing is revoked", Any);
    if verify && ca_file.is_none() {
        let problem = Problem::new("true needs authorities to verify by", "write ca_file = \"ca.pem\" beside it");
        s.report("verify", problem);
    }
    for (key, file) in [("ca_file", &ca_file), ("crl_file", &crl_file)] {
        if !verify && file.is_some() {
            let problem = Problem::new("it does nothing without verify", "write verify = true beside it, or remove it");
            s.report(key, problem);
        }
    }
    pairs.extend(s.tables("certificates", pair).unwrap_or_default());
    let clients = ca_file.filter(|_| verify).map(|ca_file| ClientCertificates { ca_file, crl_file });
    ListenerTls { pairs, clients, handshake_first, min_version, ticket_keys_file }
}

/// Reads `[listeners.passthrough]`.
pub(super) fn passthrough(s: &mut Section<'_>) -> HandshakeFirst {
    // As nats-server's own default.
    s.value("handshake_first", HandshakeFirst::Never, Any)
}

/// Reads `[cluster.tls]`.
pub(super) fn cluster(s: &mut Section<'_>) -> ServersTls {
    let tls = websocket(s);
    let handshake_first = s.value("handshake_first", false, Any);
    ServersTls { handshake_first, ..tls }
}

/// Reads `[cluster.websocket_tls]`. HTTPS always begins with TLS.
pub(super) fn websocket(s: &mut Section<'_>) -> ServersTls {
    let ca_file = s.optional("ca_file", "the system's authorities", Any);
    let cert_file = s.optional::<PathBuf>("cert_file", "none, weir shows no certificate", Any);
    let key_file = s.optional::<PathBuf>("key_file", "none", Any);
    for (key, file, other) in [("cert_file", &cert_file, &key_file), ("key_file", &key_file, &cert_file)] {
        if file.is_some() && other.is_none() {
            let problem = Problem::new("a certificate and its key go together", "write both cert_file and key_file");
            s.report(key, problem);
        }
    }
    let server_name = s.optional::<String>("server_name", "the host of each server's address", Checked(host));
    let own = cert_file.zip(key_file).map(|(cert_file, key_file)| Pair { cert_file, key_file });
    ServersTls { ca_file, own, server_name, handshake_first: true }
}

fn host(name: &String) -> Result<(), Problem> {
    match ServerName::try_from(name.as_str()) {
        Ok(_) => Ok(()),
        Err(_) => Err(Problem::new(format!("{name:?} is no host"), "write the name that the certificates are for")),
    }
}

impl Leaf for String {
    fn kind() -> String {
        "text".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        match node {
            Node::String(text) => Ok(text.clone()),
            other => Err(wrong_type(other, "write text in quotes")),
        }
    }
    fn show(&self) -> String {
        toml_string(self)
    }
}

fn pair(s: &mut Section<'_>) -> Pair {
    let cert_file = s.required("cert_file", "write cert_file = \"server.pem\"").unwrap_or_default();
    let key_file = s.required("key_file", "write key_file = \"server.key\"").unwrap_or_default();
    Pair { cert_file, key_file }
}

impl Leaf for HandshakeFirst {
    fn kind() -> String {
        "true, false, \"auto\", or duration of 0s to 1s".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write true, false, \"auto\", or a duration of \"0s\" to \"1s\"";
        match node {
            Node::Bool(true) => Ok(Self::Always),
            Node::Bool(false) => Ok(Self::Never),
            Node::String(text) if text == "auto" => Ok(Self::Within(AUTO)),
            Node::String(text) => match Duration::read(node) {
                Ok(pause) if pause <= Duration::from_secs(1) => Ok(Self::Within(pause)),
                Ok(_) => Err(Problem::new(format!("{} is too large", quote(text)), REMEDY)),
                Err(_) => Err(Problem::new(format!("{} is none of the choices", quote(text)), REMEDY)),
            },
            other => Err(wrong_type(other, REMEDY)),
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Always => "true".into(),
            Self::Never => "false".into(),
            Self::Within(AUTO) => "\"auto\"".into(),
            Self::Within(pause) => pause.show(),
        }
    }
}

impl Leaf for MinVersion {
    fn kind() -> String {
        "\"1.2\" or \"1.3\"".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        word(node, &[("1.2", Self::Tls12), ("1.3", Self::Tls13)])
    }
    fn show(&self) -> String {
        match self {
            Self::Tls12 => "\"1.2\"".into(),
            Self::Tls13 => "\"1.3\"".into(),
        }
    }
}
