//! Relays TLS between a client and its server without reading it.

use std::sync::Arc;

use crate::{
    dial::{self, Busy},
    net::timer,
    outcome::Cause,
    relay::direction::{Outlet, Side},
    upstream::Server,
};

/// Passes everything.
#[derive(Debug, Default)]
pub struct Passthrough {
    /// The server that sends these bytes, until it has sent the first: they may be its plain-text `maximum connections
    /// exceeded`.
    silent_server: Option<Arc<Server>>,
}

impl Passthrough {
    pub fn from_client() -> Self {
        Self::default()
    }

    /// A server that is full says so in plain text, where TLS should begin.
    pub fn from_server(server: Arc<Server>) -> Self {
        Self { silent_server: Some(server) }
    }
}

impl Side for Passthrough {
    fn pass(&mut self, chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        if let Some(server) = self.silent_server.take()
            && let Some(busy) = dial::busy(chunk)
        {
            match busy {
                Busy::Full => server.said_full(timer::now()),
                Busy::Throttled => server.said_throttled(timer::now()),
            }
        }
        out.put(chunk);
        Ok(())
    }

    fn messages(&self) -> u64 {
        0
    }
}
