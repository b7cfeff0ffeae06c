//! Sockets and time: accepting, connecting, streams over TLS and WebSocket, lingering closes, and the coarse timer.

pub mod accept;
pub mod inherited;
pub mod linger;
pub mod listening_socket;
pub mod passing;
pub mod s2;
pub mod socket;
pub mod stream;
pub mod timer;
mod tls_in_use;
pub mod websocket;
