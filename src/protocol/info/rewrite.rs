//! INFO as weir passes it on: the server's fields, with weir's own address and TLS in place of the server's.

use std::net::IpAddr;

use crate::protocol::{
    info::{Info, Template, reparse::PerConnection},
    json,
};

/// Keys that tell clients, and leafnodes, how to reach the server. weir replaces them with its own (docs/contract.md,
/// towards clients 10). Without `compression` a leafnode speaks plainly.
const OVERRIDDEN: [&str; 12] = [
    "host",
    "port",
    "version",
    "client_ip",
    "tls_required",
    "tls_available",
    "tls_verify",
    "connect_urls",
    "ws_connect_urls",
    "leafnode_urls",
    "ip",
    "compression",
];

/// The key of the addresses at which a client finds a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urls {
    /// `connect_urls`.
    Clients,
    /// `leafnode_urls`.
    Leafnodes,
    /// `ws_connect_urls`, from which a leafnode over WebSocket learns. It needs `leafnode_urls` all the same.
    LeafnodesOverWebSocket,
}

impl Urls {
    const fn key(self) -> &'static str {
        match self {
            Self::Clients => "connect_urls",
            Self::Leafnodes => "leafnode_urls",
            Self::LeafnodesOverWebSocket => "ws_connect_urls",
        }
    }

    /// Whether those who read them are leafnodes.
    pub const fn are_of_leafnodes(self) -> bool {
        !matches!(self, Self::Clients)
    }
}

/// The values with which weir replaces those of a server's INFO.
#[derive(Debug, Clone, Copy)]
pub struct Rewrite<'a> {
    /// The addresses of the listener, each `host:port`; if there are none, `connect_urls` are left out.
    pub advertise: &'a [String],
    /// The field in which these stand.
    pub urls: Urls,
    /// The listener's address.
    pub host: &'a str,
    /// The listener's port.
    pub port: u16,
    /// The lowest version of the servers.
    pub version: &'a str,
    /// The client's address as weir sees it.
    pub client_ip: Option<IpAddr>,
    /// Whether this listener requires TLS.
    pub tls_required: bool,
    /// Whether this listener offers TLS.
    pub tls_available: bool,
    /// Whether this listener requires client certificates.
    pub tls_verify: bool,
    /// Whether to keep the server's nonce: the client then signs it, and its CONNECT must go to this connection.
    pub keep_nonce: bool,
    /// The mode of compression that a leafnode is offered.
    pub compression: Option<&'a str>,
}

impl Info {
    /// Appends the line `INFO {…}\r\n` for a client: every field of the server's except those that `r` replaces. The
    /// server's URLs are never passed on, or clients would leave for them.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "the placeholders are in the order of `forwarded`, which ends in a comma unless it is empty"
    )]
    pub fn rewrite(&self, r: &Rewrite<'_>, out: &mut Vec<u8>) {
        let Template { forwarded, forwarded_placeholders, .. } = &*self.template;
        let mut object = ObjectWriter::start(out);
        let mut written = 0;
        if !forwarded.is_empty() {
            object.out.push(b'{');
            object.sep = b',';
            for &(at, which) in forwarded_placeholders {
                object.out.extend_from_slice(&forwarded[written..at]);
                object.out.extend_from_slice(self.value_of(which).as_bytes());
                written = at;
            }
            // Without the last comma: the next member brings its own.
            object.out.extend_from_slice(&forwarded[written..forwarded.len() - 1]);
        }
        if r.keep_nonce {
            object.text_unless_empty("nonce", self.value_of(PerConnection::Nonce));
        }
        object.string("version", r.version);
        object.place(r.host, r.port, (r.urls, r.advertise));
        object.flag("tls_required", r.tls_required);
        object.flag("tls_available", r.tls_available);
        object.flag("tls_verify", r.tls_verify);
        if let Some(ip) = r.client_ip {
            object.ip("client_ip", ip);
        }
        object.text_unless_empty("compression", r.compression.unwrap_or_default());
        out.extend_from_slice(b"}\r\n");
    }
}

impl Template {
    /// Fills in `forwarded`, once for all connections to the server.
    pub(super) fn prepare_forwarding(&mut self) {
        let mut forwarded = std::mem::take(&mut self.forwarded);
        for (name, value) in &self.fields {
            let name = self.slice(name);
            if OVERRIDDEN.contains(&name) || name == PerConnection::Nonce.key() {
                continue;
            }
            json::push_string(name, &mut forwarded);
            forwarded.push(b':');
            match PerConnection::of(name).filter(|&which| self.placeholders.iter().any(|place| place.which == which)) {
                Some(which) if which.is_text() => {
                    forwarded.push(b'"');
                    self.forwarded_placeholders.push((forwarded.len(), which));
                    forwarded.push(b'"');
                }
                Some(which) => self.forwarded_placeholders.push((forwarded.len(), which)),
                None => forwarded.extend_from_slice(self.text.as_bytes().get(value.clone()).unwrap_or_default()),
            }
            forwarded.push(b',');
        }
        self.forwarded = forwarded;
    }
}

/// Writes the members of an INFO. Like the server, it leaves out members that are false or empty.
pub(super) struct ObjectWriter<'a> {
    pub(super) out: &'a mut Vec<u8>,
    /// What to write before the next member: `{` or a comma.
    pub(super) sep: u8,
}

impl<'a> ObjectWriter<'a> {
    #[inline]
    pub(super) fn start(out: &'a mut Vec<u8>) -> Self {
        out.extend_from_slice(b"INFO ");
        Self { out, sep: b'{' }
    }

    #[inline]
    pub(super) fn key(&mut self, name: &str) -> &mut Vec<u8> {
        json::push_known_key(&mut self.sep, name, self.out);
        self.out
    }

    #[inline]
    pub(super) fn raw(&mut self, name: &str, value: &[u8]) {
        self.key(name).extend_from_slice(value);
    }

    #[inline]
    pub(super) fn string(&mut self, name: &str, value: &str) {
        json::push_string(value, self.key(name));
    }

    #[inline]
    pub(super) fn text_unless_empty(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.string(name, value);
        }
    }

    #[inline]
    pub(super) fn ip(&mut self, name: &str, value: IpAddr) {
        let out = self.key(name);
        out.push(b'"');
        json::push_ip(value, out);
        out.push(b'"');
    }

    #[inline]
    pub(super) fn number(&mut self, name: &str, value: u64) {
        json::push_number(value, self.key(name));
    }

    #[inline]
    pub(super) fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.raw(name, b"true");
        }
    }

    #[inline]
    pub(super) fn place(&mut self, host: &str, port: u16, (urls, advertise): (Urls, &[String])) {
        self.text_unless_empty("host", host);
        self.number("port", port.into());
        // Without the field a leafnode before 2.10 takes the port for another one.
        if urls == Urls::LeafnodesOverWebSocket {
            self.raw(Urls::Leafnodes.key(), b"[]");
        }
        if !advertise.is_empty() || urls == Urls::Leafnodes {
            let _ = serde_json::to_writer(self.key(urls.key()), advertise);
        }
    }
}
