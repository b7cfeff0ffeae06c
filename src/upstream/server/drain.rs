//! What an operator changes of a server while weir runs.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use crate::upstream::{
    endpoint::Monitor,
    load::UNLIMITED,
    params::ServerParams,
    server::{NO_CAP, Server},
};

/// Whether a server is drained by its operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Drain {
    #[default]
    Off,
    /// It gets no clients, and its sessions end, until it is undrained.
    Drained,
    /// The same, for good: it has been removed, and is forgotten once its last session has ended.
    Leaves,
}

/// What an operator changes of it.
impl Server {
    /// Its operator drains it, or takes that back. Returns whether that changes anything: one that leaves does so for
    /// good.
    pub(in crate::upstream) fn set_drain(&self, drain: Drain) -> bool {
        self.change(|state| {
            let is_final = state.drain == Drain::Leaves;
            !is_final && std::mem::replace(&mut state.drain, drain) != drain
        })
    }

    /// Whether it is drained.
    pub fn drain(&self) -> Drain {
        self.state().drain
    }

    /// Whether it gets no clients for that reason. Cheap: without a lock.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Relaxed)
    }

    /// Takes over what can change without another connection to it: its name, its monitoring URL and its cap. Returns
    /// whether the URL has changed, so that whoever reads it begins anew.
    pub(in crate::upstream) fn take_over(&self, params: &ServerParams) -> bool {
        if let Some(name) = &params.name {
            self.names.push(name.clone());
        }
        let cap = params.max_connections.unwrap_or(NO_CAP);
        if self.max_connections.swap(cap, Relaxed) != cap {
            self.apply_cap();
        }
        let url = self.monitor().map(|monitor| monitor.url.clone());
        if url == params.monitor {
            return false;
        }
        self.monitor.store(params.monitor.clone().map(|url| Arc::new(Monitor::new(url))));
        // How it is read decides whether it counts as one without a reading.
        self.change(|_| ());
        true
    }

    /// The configured cap.
    pub(super) fn cap(&self) -> Option<u32> {
        Some(self.max_connections.load(Relaxed)).filter(|cap| *cap != NO_CAP)
    }

    /// A new cap applies to what the last reading has said.
    fn apply_cap(&self) {
        let own = self.state().last_reading.as_ref().map(|last| last.max_connections.unwrap_or(UNLIMITED));
        match (self.cap(), own) {
            (cap, Some(own)) => {
                let capacity = cap.map_or(own, |cap| cap.min(own));
                self.load.set_capacity(capacity, self.reserve.ceiling(capacity));
            }
            (_, None) => self.forget_capacity(),
        }
    }
}
