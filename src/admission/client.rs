//! A client as admission knows it, and what it holds once it is admitted.

use std::{net::IpAddr, sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};

use crate::{
    admission::{
        deadlines,
        quota::{account::AccountSlot, sources::Source, users_and_names::QuotaIdentity},
    },
    client_library::returns::Return,
    identity::{ClientKey, CredentialKey},
    outcome::Refusal,
    upstream::Slot,
};

/// What a client shows of itself: where it comes from, and its credential with the secret that it sends, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// Where it comes from.
    pub source: Source,
    /// What it logs in with.
    pub credential: CredentialKey,
}

/// Whether what a client claims has been good before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A server has let in this credential from this source lately.
    Known,
    /// None yet.
    Missing(Claim),
}

impl Proof {
    /// The claim, where there is no proof.
    pub fn missing(self) -> Option<Claim> {
        match self {
            Self::Known => None,
            Self::Missing(claim) => Some(claim),
        }
    }
}

/// A client that asks to be admitted.
#[derive(Debug)]
pub struct Client {
    /// The account that it counts for, as far as weir can tell before a server does.
    pub account: Arc<str>,
    /// Whether only its JWT says so, and no server has let that in from its source. Anybody can write such a JWT, so
    /// that it opens no lane and has no priority: the client waits in the lane of its source.
    pub names_its_account: bool,
    /// Whether it is a leafnode.
    pub is_leafnode: bool,
    /// Where it comes from.
    pub source: Source,
    /// The same client has the same key when it comes back.
    pub key: ClientKey,
    /// Whether it is known. What others may only claim it need not share with them.
    pub proof: Proof,
    /// Whether the slots that are kept for operators are for it too.
    pub may_use_reserve: bool,
    /// In observe mode, why it would have been refused before this: it counts in no quota.
    pub would_refuse: Option<Refusal>,
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
    /// The last moment at which a turn is of use to it, by what logins of its account take now. It came at `came`.
    pub(super) fn last_turn(&self, came: Instant, account: &AccountSlot) -> Instant {
        deadlines::last_turn(came, self.hold_until, self.answer_by, account.account().login_time())
    }

    /// Whether it goes before clients of other accounts.
    pub(super) fn has_priority(&self, account: &AccountSlot) -> bool {
        account.account().has_priority() && !self.names_its_account
    }

    /// Whether it waits in the lane of its source and not in that of its account: nobody but itself names the account,
    /// or nobody does, and logins of such clients hang. In one lane those that hang would be ahead of all others.
    pub(super) fn waits_by_source(&self, account: &AccountSlot, now: Instant) -> bool {
        let account = account.account();
        self.names_its_account || account.counts_sources() && account.logins_hang(now)
    }
}

/// A client that has said nothing yet, in front of servers that are dialled before CONNECT.
#[derive(Debug, Clone, Copy)]
pub struct SilentClient {
    /// Where it comes from.
    pub source: IpAddr,
    /// The same for all clients from there.
    pub key: ClientKey,
    /// It may wait for its turn until then.
    pub hold_until: Instant,
    /// Whether the slots that are kept for operators are for it too.
    pub may_use_reserve: bool,
    /// Whether it has come where leafnodes do.
    pub is_leafnode: bool,
}

/// What an admitted client holds; both slots are given back on drop.
#[derive(Debug)]
pub struct Pass {
    /// A slot on the server to dial.
    pub server: Slot,
    /// A slot in its account's quota.
    pub account: AccountSlot,
}

impl Pass {
    /// Its login, if it has begun, is one on that server from now on.
    pub fn new(server: Slot, mut account: AccountSlot) -> Self {
        account.logs_in_at(server.server().id());
        Self { server, account }
    }

    /// Its login takes longer than others on its server do: it counts in its account's own limit there from now on.
    pub fn login_is_overdue(&mut self) {
        self.server.overdue();
        self.account.login_is_overdue();
    }
}
