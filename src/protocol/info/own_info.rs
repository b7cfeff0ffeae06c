//! weir's own INFO, for clients whose server is not chosen yet.

use std::net::IpAddr;

use crate::protocol::info::{
    Info, NAMES_OF_ALL,
    rewrite::{ObjectWriter, Urls},
};

/// The version while no server is known. Every current client accepts it, and it supports headers.
const DEFAULT_VERSION: &str = "2.10.0";

/// nats-server's default `max_payload`.
const DEFAULT_MAX_PAYLOAD: u64 = 1024 * 1024;

/// weir's own INFO: it promises only what every server can keep, since any of them may serve the client.
///
/// It is rendered once. For each client only `client_ip` and, if needed, a nonce are added, without allocating. It has
/// no `client_id`, which is a number of the server's that is still to come: any other is another client's there, and
/// that one would be ended if somebody had the client kicked by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnInfo {
    /// The line up to where `client_ip` goes, from its `INFO {` on.
    head: Vec<u8>,
    version: String,
    auth_required: bool,
}

impl OwnInfo {
    /// The common denominator of `infos`: the lowest version, the smallest `max_payload`, the lowest `api_lvl`, headers
    /// if all servers support them, `auth_required` and `jetstream` if any server has it, `cluster` and `domain` if all
    /// have the same. `proto` is 1, and for leafnodes the lowest of the servers'. It has no nonce, no `ldm`, and no URL
    /// but those of `advertise`.
    ///
    /// While no server is known: version 2.10.0, 1 MiB, headers, no JetStream, and `auth_required`. Java and Python
    /// send their credentials only if `auth_required` is set, and a client without credentials connects in either case.
    ///
    /// A string that is not a version is ignored, since JavaScript fails on it. So is a `max_payload` of 0, with which
    /// Go and Rust refuse to publish.
    pub fn new(
        server_id: &str,
        server_name: &str,
        infos: &[&Info],
        host: &str,
        port: u16,
        (urls, advertise): (Urls, &[String]),
    ) -> Self {
        let versions = infos.iter().filter_map(|info| Some((info.semver()?, info.version())));
        let version = versions.min().map_or(DEFAULT_VERSION, |(_, text)| text);
        let payloads = infos.iter().filter_map(|info| info.max_payload().filter(|&bytes| bytes > 0));
        let any = |has: fn(&Info) -> bool| infos.iter().any(|info| has(info));

        let mut head = Vec::with_capacity(512);
        let mut object = ObjectWriter::start(&mut head);
        object.string("server_id", server_id);
        object.string("server_name", server_name);
        object.string("version", version);
        let proto = infos.iter().map(|info| info.proto().unwrap_or(1)).min().filter(|_| urls.are_of_leafnodes());
        object.number("proto", proto.unwrap_or(1));
        object.place(host, port, (urls, advertise));
        if urls.are_of_leafnodes() {
            // A leafnode takes the port for another one without these. The number is none of the server's.
            object.number("client_id", 1);
            object.flag("info_on_connect", true);
        }
        object.raw("headers", if infos.iter().all(|info| info.headers()) { b"true" } else { b"false" });
        let auth_required = infos.is_empty() || any(Info::auth_required);
        object.flag("auth_required", auth_required);
        object.number("max_payload", payloads.min().unwrap_or(DEFAULT_MAX_PAYLOAD));
        object.flag("jetstream", any(Info::jetstream));
        // A server without the field has level 0.
        let level = infos.iter().map(|info| info.api_lvl().unwrap_or(0)).min().unwrap_or(0);
        if level > 0 {
            object.number("api_lvl", level);
        }
        if let Some((first, others)) = infos.split_first() {
            for ((at, key), value) in NAMES_OF_ALL.iter().enumerate().zip(first.cluster_and_domain()) {
                let agrees = |info: &&Info| info.cluster_and_domain().get(at) == Some(&value);
                if let Some(value) = value.filter(|_| others.iter().all(agrees)) {
                    object.raw(key, value.as_bytes());
                }
            }
        }
        Self { head, version: version.to_owned(), auth_required }
    }

    /// Adds what this listener does about TLS.
    #[must_use]
    pub fn with_tls(mut self, required: bool, available: bool, verify: bool) -> Self {
        let mut object = ObjectWriter { out: &mut self.head, sep: b',' };
        object.flag("tls_required", required);
        object.flag("tls_available", available);
        object.flag("tls_verify", verify);
        self
    }

    /// Adds the mode of compression that a leafnode is offered.
    #[must_use]
    pub fn with_compression(mut self, mode: Option<&str>) -> Self {
        let mut object = ObjectWriter { out: &mut self.head, sep: b',' };
        object.text_unless_empty("compression", mode.unwrap_or_default());
        self
    }

    /// Appends the line for one client.
    pub fn write(&self, client_ip: IpAddr, out: &mut Vec<u8>) {
        self.write_with_nonce(client_ip, "", out);
    }

    /// As [`Self::write`], with a nonce of weir's, for a client that may want to sign but gets no server yet. An empty
    /// nonce is left out.
    pub fn write_with_nonce(&self, client_ip: IpAddr, nonce: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        let mut object = ObjectWriter { out: &mut *out, sep: b',' };
        object.ip("client_ip", client_ip);
        object.text_unless_empty("nonce", nonce);
        out.extend_from_slice(b"}\r\n");
    }

    /// Whether a server requires a login, or none is known.
    pub fn auth_required(&self) -> bool {
        self.auth_required
    }

    /// The lowest version of the servers.
    pub fn version(&self) -> &str {
        &self.version
    }
}
