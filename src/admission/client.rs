//! A client as admission knows it, and what it holds once it is admitted.

use std::{sync::Arc, time::Instant};

use crate::{
    admission::{
        deadlines,
        quota::{account::AccountSlot, users_and_names::QuotaIdentity},
    },
    client_library::returns::Return,
    identity::ClientKey,
    upstream::Slot,
};

/// A client that asks to be admitted.
#[derive(Debug)]
pub struct Client {
    /// The account that it counts for, as far as weir can tell before a server does.
    pub account: Arc<str>,
    /// The same client has the same key when it comes back.
    pub key: ClientKey,
    /// The user and the name that it counts for.
    pub quota_identity: QuotaIdentity,
    /// It may wait for its turn until then.
    pub hold_until: Instant,
    /// It must have its PONG by then.
    pub answer_by: Instant,
    /// When it comes back once it is refused.
    pub returns: Return,
}

impl Client {
    /// The last moment at which a turn is of use to it, by what logins of its account take now.
    pub(super) fn last_turn(&self, account: &AccountSlot) -> Instant {
        deadlines::last_turn(self.hold_until, self.answer_by, account.account().login_time())
    }
}

/// What an admitted client holds; both slots are given back on drop.
#[derive(Debug)]
pub struct Pass {
    /// A slot on the server to dial.
    pub server: Slot,
    /// A slot in its account's quota.
    pub account: AccountSlot,
}
