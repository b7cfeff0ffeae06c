//! The bytes of NATS: lines, CONNECT, INFO, `-ERR`, and where one operation ends and the next begins.
//!
//! Everything here is a function of bytes. The rule that shapes it: weir and the server must never disagree about who a
//! client is or where an operation begins, so what is not the server's own reading of the same bytes is stricter, never laxer.

pub mod client_hello;
pub mod client_preface;
pub mod connect;
pub mod control_line;
pub mod info;
mod json;
pub mod op;
pub mod proxy_header;
pub mod refusal;
pub mod websocket;

/// Most bytes that the argument of a client's control line may have: nats-server's default `max_control_line`
/// (`MAX_CONTROL_LINE_SIZE` in its const.go). CONNECT is such a line.
pub const MAX_CONTROL_LINE: usize = 4096;

/// Most bytes that weir reads of a server's line during the preface. INFO is unbounded in the protocol; it grows with
/// `connect_urls`, some 20 bytes for each server of the cluster.
pub const MAX_INFO_LINE: usize = 1024 * 1024;

/// Most bytes that weir keeps of what a client sent behind its CONNECT (PING, and with some clients SUB and PUB) before it has a server.
pub const MAX_PIPELINED: usize = 64 * 1024;

/// The PING line, as servers and clients send it.
pub const PING: &[u8] = b"PING\r\n";

/// The PONG line, as servers and clients send it.
pub const PONG: &[u8] = b"PONG\r\n";

/// The line with which a server confirms each operation of a verbose client.
pub const OK: &[u8] = b"+OK\r\n";
