//! What clients and servers say, as `benches/protocol.rs` and `examples/bench_instructions.rs` measure it.

use weir::internals::protocol::info::{Rewrite, Urls};

/// A client library's CONNECT.
pub(crate) const CONNECT: &[u8] = br#"{"verbose":false,"pedantic":false,"jwt":null,"nkey":null,"sig":null,"name":"orders","echo":true,"lang":"rust","version":"0.51.0","protocol":1,"tls_required":false,"user":"alice","pass":"wonderland","auth_token":null,"headers":true,"no_responders":true}"#;

/// The INFO of a server in a cluster.
pub(crate) const INFO: &[u8] = br#"{"server_id":"NBZ7GXNHHT4DHTO5HB6LZ5T2NOBVTYYHB2XVS3DBWBBZ","server_name":"n1","version":"2.15.1","proto":1,"git_commit":"abcdef0","go":"go1.26.8","host":"0.0.0.0","port":4222,"headers":true,"auth_required":true,"max_payload":1048576,"jetstream":true,"client_id":5,"client_ip":"127.0.0.1","cluster":"c1","connect_urls":["10.0.0.1:4222","10.0.0.2:4222"],"api_lvl":3,"xkey":"XAB"}"#;

/// What a listener without TLS makes of it.
pub(crate) fn rewrite() -> Rewrite<'static> {
    Rewrite {
        advertise: &[],
        urls: Urls::Clients,
        host: "weir",
        port: 4222,
        version: "2.10.0",
        client_ip: Some(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1))),
        tls_required: false,
        tls_available: false,
        tls_verify: false,
        keep_nonce: false,
        compression: None,
    }
}
