//! Whether a server refuses the PROXY header in front of a connection.
//!
//! A nats-server that reads PROXY headers knows its client's address only after the header, so the INFO that it sends
//! before has no `client_ip`. Every other nats-server names it there, takes the header for an operation, says an `-ERR`
//! and closes; one with TLS takes it for a ClientHello, and closes. (nats-server: `createClientEx`, server.go, and
//! `parse`, parser.go, since 2.12.2.) A server behind a load balancer that has read the header names an address too, so
//! only its silence tells it apart.

use std::io;

use tokio::time::Instant;

use crate::{
    dial::{DialError, ServerConnection},
    net::stream::Stream,
    protocol::{
        control_line::{ServerLine, server_line},
        info::Info,
    },
};

/// What a nats-server says of bytes that are no operation: with users it wants CONNECT first, whatever comes.
const REFUSALS: [&[u8]; 2] = [b"Unknown Protocol Operation", b"Authorization Violation"];

/// Whether a server that has sent this INFO may refuse the header. What comes after TLS has been sent behind the header
/// by all.
pub(super) fn may_refuse(stream: &Stream, info: &Info) -> bool {
    matches!(stream, Stream::Plain(_)) && info.names_client_ip()
}

/// Whether the other side has ended the connection, and said nothing of TLS.
pub(super) fn is_end(err: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(err.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

impl ServerConnection {
    /// Waits for the server's word on the PROXY header with which weir began, and returns whether it refuses it. Only a
    /// server that may do so is waited for: until then. Nothing else may have been sent on the connection.
    pub async fn refuses_header(&mut self, until: Instant) -> bool {
        // Its TLS began after the header.
        if !self.may_refuse_header || !matches!(self.stream, Stream::Plain(_)) {
            return false;
        }
        match self.lines.next(&mut self.stream, until).await {
            Ok(line) => match server_line(self.lines.get(line)) {
                ServerLine::Err(text) => REFUSALS.iter().any(|refusal| text.eq_ignore_ascii_case(refusal)),
                _ => false,
            },
            Err(DialError::Closed) => self.info.does_tls(),
            Err(DialError::Io(err)) => self.info.does_tls() && is_end(&err),
            Err(_) => false,
        }
    }
}
