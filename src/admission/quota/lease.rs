//! A client's part in what this weir may have of a quota that the fleet shares.

use std::{sync::Arc, time::Instant};

use crate::{
    admission::params::Quota,
    fleet::{
        key::Kind,
        lease::{
            allowance::{Allowance, LeasePlace, LeaseWait},
            book::LeaseBook,
        },
    },
};

/// A place, or the wish for one.
#[derive(Debug)]
pub enum Lease {
    Held(LeasePlace),
    /// Its client counts in nothing yet.
    Waits(LeaseWait),
}

impl Lease {
    /// Whether its client waits for a place.
    pub fn waits(&self) -> bool {
        matches!(self, Self::Waits(_))
    }

    /// Whether it waits for a place that will not come.
    pub fn waits_in_vain(&self) -> bool {
        matches!(self, Self::Waits(wait) if wait.is_in_vain())
    }

    /// Whether it is a place, or there is one to take.
    pub fn has_place_or_room(&self, now: Instant) -> bool {
        match self {
            Self::Held(_) => true,
            Self::Waits(wait) => wait.allowance().has_room(now),
        }
    }

    /// Whether there is a quota.
    pub fn is_shared(&self) -> bool {
        match self {
            Self::Held(place) => place.allowance().quota().is_some(),
            Self::Waits(_) => true,
        }
    }

    /// See [`Allowance::may_go_on`].
    pub fn may_go_on(&self, now: Instant) -> bool {
        match self {
            Self::Held(place) => place.may_go_on(now),
            Self::Waits(_) => false,
        }
    }

    /// The server has let its client in.
    pub fn opened(&mut self) {
        if let Self::Held(place) = self {
            place.opened();
        }
    }

    /// Takes the place that it waits for, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        if let Self::Waits(wait) = self {
            let Some(place) = wait.allowance().take(now) else { return false };
            *self = Self::Held(place);
        }
        true
    }

    /// Takes the place that it waits for if `other` has, or takes, its own: both, or none and `false`.
    pub fn take_with(&mut self, other: &mut Self, now: Instant) -> bool {
        let Self::Waits(wait) = self else { return other.take(now) };
        let Some(place) = wait.allowance().take(now) else { return false };
        let has_both = other.take(now);
        if has_both {
            *self = Self::Held(place);
        }
        has_both
    }
}

/// How the fleet shares the quota of one user or pattern of names.
#[derive(Debug, Clone, Copy)]
pub struct Share<'a> {
    pub book: &'a LeaseBook,
    pub kind: Kind,
    /// The user, or the pattern.
    pub name: &'a str,
    /// Whether its client can wait for a place.
    pub may_wait: bool,
}

impl Share<'_> {
    /// What this weir may have of the quota.
    pub fn allowance(self, quota: Quota) -> Arc<Allowance> {
        self.book.allowance(self.kind, self.name, shared(quota))
    }
}

/// The connections that the fleet shares: of a quota that does more than warn.
pub fn shared(quota: Quota) -> Option<u32> {
    quota.max_connections.filter(|_| !quota.warn_only)
}
