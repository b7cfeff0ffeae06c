//! Relays TLS between a client and its server without reading it.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    outcome::Cause,
    protocol::tls_records::TlsRecords,
    relay::direction::{Outlet, Side},
};

/// Passes everything.
#[derive(Debug, Default)]
pub struct Passthrough {
    /// Counts the whole TLS records that have passed, as long as somebody asks for them.
    records: Option<Box<(TlsRecords, Weak<AtomicU64>)>>,
}

impl Passthrough {
    /// `ended` counts the TLS records that have passed whole; `records` follows them up to here. They are not followed
    /// any longer once `ended` is dropped.
    pub fn from_client(records: TlsRecords, ended: &Arc<AtomicU64>) -> Self {
        Self { records: Some(Box::new((records, Arc::downgrade(ended)))) }
    }

    /// Whether somebody still asks for the records, as during a login.
    pub(super) fn logs_in(&self) -> bool {
        self.records.as_ref().is_some_and(|following| following.1.strong_count() > 0)
    }
}

impl Side for Passthrough {
    fn pass(&mut self, chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
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

    fn payload(&self) -> u64 {
        0
    }

    /// Every byte is activity: what it says is not known.
    fn activity(&self, bytes: u64) -> u64 {
        bytes
    }
}
