//! The bytes of NATS: lines, CONNECT, INFO, `-ERR`, and where one operation ends and the next begins.
//!
//! Everything here is a function of bytes. One rule shapes it: weir and the server must never disagree about who a
//! client is or where an operation begins (docs/contract.md, towards servers 4 and 5). Where weir does not read the
//! same bytes exactly as nats-server does, it is stricter, never more lenient.
//!
//! These bytes come from strangers, so the lints below ask for a reason wherever an index, a cast or a sum could fail.

#![warn(clippy::arithmetic_side_effects, clippy::cast_possible_truncation, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation, clippy::indexing_slicing))]

pub mod client_hello;
pub mod client_preface;
pub mod connect;
pub mod control_line;
pub mod info;
mod json;
pub mod op;
pub mod proxy_header;
pub mod refusal;
pub mod s2;
pub mod subscriptions;
pub mod tls_cursor;
pub mod tls_records;
pub mod websocket;

/// The most bytes of the argument of a client's control line, CONNECT included: nats-server's default
/// `max_control_line` (`MAX_CONTROL_LINE_SIZE` in its const.go).
pub const MAX_CONTROL_LINE: usize = 4096;

/// The most bytes of a server's line during the preface. The protocol does not bound INFO, which grows with
/// `connect_urls` by some 20 bytes for each server of the cluster.
pub const MAX_INFO_LINE: usize = 1024 * 1024;

/// Once weir has read this many bytes behind a client's CONNECT (PING, and with some clients SUB and PUB), it reads no
/// more until the client is in: the rest stays in the kernel, and the client finds that it cannot write on. Enough for
/// the PING and the first operations, which then go to the server together.
pub const MAX_READ_AHEAD: usize = 4 * 1024;

pub const PING: &[u8] = b"PING\r\n";

pub const PONG: &[u8] = b"PONG\r\n";

/// A server's answer to each operation of a verbose client.
pub const OK: &[u8] = b"+OK\r\n";
