//! One budget for what weir reads of clients that have sent CONNECT and are not in yet.

use std::sync::Arc;

use crate::{
    admission::{Limit, Permit},
    net::stream::Stream,
};

/// The most clients of which weir reads ahead at once: 64 MiB at [`crate::protocol::MAX_READ_AHEAD`] each.
const MOST_PLAIN: u32 = 16 * 1024;

/// The most over TLS or WebSocket, whose own buffers come on top: 16 KiB of a record twice, 43 KiB of a decompressor.
const MOST_LAYERED: u32 = 1024;

/// Who may be read from. Of other clients weir has what came with CONNECT, and the kernel keeps the rest. Over S2 that
/// is at most the block that CONNECT is in, of 64 KiB, and 32 KiB of the stream behind it.
#[derive(Debug)]
pub struct ReadAhead {
    plain: Arc<Limit>,
    layered: Arc<Limit>,
}

impl Default for ReadAhead {
    fn default() -> Self {
        Self { plain: Limit::new(MOST_PLAIN), layered: Limit::new(MOST_LAYERED) }
    }
}

impl ReadAhead {
    /// Allows to read from this client while it waits.
    pub fn permit(&self, stream: &Stream) -> Option<Permit> {
        match stream {
            Stream::Plain(_) => self.plain.try_acquire(),
            Stream::Tls(_) | Stream::WebSocket(_) | Stream::S2(_) => self.layered.try_acquire(),
        }
    }
}
