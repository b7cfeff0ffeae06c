//! Relays TLS between a client and its server without reading it.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    dial::{self, Busy},
    net::timer,
    outcome::Cause,
    protocol::tls_records::TlsRecords,
    relay::direction::{Outlet, Side},
    upstream::Server,
};

/// Passes everything.
#[derive(Debug, Default)]
pub struct Passthrough {
    /// The server that sends these bytes, until it has sent the first: they may be its plain-text `maximum connections
    /// exceeded`.
    silent_server: Option<Arc<Server>>,
    /// Counts the whole TLS records that have passed, as long as somebody asks for them.
    records: Option<Box<(TlsRecords, Weak<AtomicU64>)>>,
}

impl Passthrough {
    /// `records` counts the TLS records that have passed whole. They are not followed any longer once it is dropped.
    pub fn from_client(records: &Arc<AtomicU64>) -> Self {
        Self { silent_server: None, records: Some(Box::new((TlsRecords::default(), Arc::downgrade(records)))) }
    }

    /// A server that is full says so in plain text, where TLS should begin.
    pub fn from_server(server: Arc<Server>) -> Self {
        Self { silent_server: Some(server), records: None }
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
        if let Some(following) = &mut self.records {
            let (records, ended) = &mut **following;
            match ended.upgrade() {
                Some(ended) => _ = ended.fetch_add(records.advance(chunk), Relaxed),
                None => self.records = None,
            }
        }
        out.put(chunk);
        Ok(())
    }

    fn messages(&self) -> u64 {
        0
    }
}
