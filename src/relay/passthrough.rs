//! What is not looked into: TLS between a client and its server.

use std::sync::Arc;

use crate::{
    dial,
    net::timer,
    outcome::Cause,
    relay::direction::{Outlet, Side},
    upstream::Server,
};

/// Passes everything.
#[derive(Debug, Default)]
pub struct Opaque {
    /// Whose words these are, before the first of them.
    of: Option<Arc<Server>>,
}

impl Opaque {
    /// What this server says. A full one says so in plain words where TLS should be.
    pub fn of(server: Arc<Server>) -> Self {
        Self { of: Some(server) }
    }
}

impl Side for Opaque {
    fn pass(&mut self, chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        if let Some(server) = self.of.take()
            && dial::says_full(chunk)
        {
            server.said_full(timer::now());
        }
        out.put(chunk);
        Ok(())
    }

    fn messages(&self) -> u64 {
        0
    }
}
