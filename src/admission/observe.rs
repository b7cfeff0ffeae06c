//! Observe mode: clients are placed and relayed, and nobody is held or refused beyond what the servers themselves do.
//! What enforce mode would have done with each client is counted, so that weir can be tried in production.
//!
//! The checks are those of enforce mode, in the same order, on the same counts. A client that enforce mode would have
//! refused is *extra*: it counts in no quota and takes no token, since in enforce mode it would not be there; so the
//! verdicts on all other clients are those of enforce mode. A client that enforce mode would have held takes the token
//! that it would have waited for. Where servers, and not quotas, are what clients would have waited for, both modes
//! part at the first such client: in observe mode it is under way at once, and counts as what it is, a login on its
//! server.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use strum::{IntoStaticStr, VariantArray};

use crate::{
    admission::{
        client::{Client, Pass, Proof},
        connect_check::{Blocked, Verdict},
        controller::Admission,
        queue::waiting::Waiter,
        quota::{account::AccountSlot, limit::Permit},
        reputation::sources::BeforeConnect,
    },
    outcome::Refusal,
    upstream::{ServerId, Slot},
};

/// What weir does with clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Mode {
    /// It holds and refuses them.
    #[default]
    Enforce,
    /// It lets them in, and counts whom it would have held or refused.
    Observe,
}

/// What enforce mode would have done with a client that is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Would {
    /// Held it; the reason is the one for which it would have been refused if its turn had not come in time.
    Hold(Refusal),
    Refuse(Refusal),
}

/// What a client would have been held or refused for, for as long as that counts.
#[derive(Debug)]
pub(super) struct Observed {
    would: Would,
    /// One of those that would wait, until its login is over.
    waits: Option<Permit>,
    /// While its login is under way: who is in by then would have been in in time.
    answer_by: Option<Instant>,
}

impl Observed {
    pub(super) fn would(&self) -> Would {
        self.would
    }

    /// Whether it counts beyond the quotas.
    pub(super) fn is_extra(&self) -> bool {
        matches!(self.would, Would::Refuse(_))
    }

    /// Its client waits no longer. Returns when it would have had to be in, once.
    pub(super) fn waits_no_longer(&mut self) -> Option<Instant> {
        self.waits = None;
        self.answer_by.take()
    }

    pub(super) fn refuse(reason: Refusal) -> Self {
        Self { would: Would::Refuse(reason), waits: None, answer_by: None }
    }
}

/// Counts the clients that would have been held, by the reason for which they would have been refused in the end.
#[derive(Default)]
pub struct WouldHold {
    by_reason: [AtomicU64; Refusal::ALL.len()],
}

impl fmt::Debug for WouldHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(Refusal::ALL.into_iter().filter(|&reason| self.of(reason) > 0)).finish()
    }
}

impl WouldHold {
    /// The reasons that there are.
    pub const REASONS: [Refusal; 5] =
        [Refusal::ServerCapacity, Refusal::HoldExpired, Refusal::AccountRate, Refusal::UserRate, Refusal::NameRate];

    /// How many clients would have been held for this reason.
    pub fn of(&self, reason: Refusal) -> u64 {
        self.by_reason[reason as usize].load(Relaxed)
    }
}

impl<W: Waiter> Admission<W> {
    /// Whether it lets in whom it would hold or refuse.
    pub fn is_observing(&self) -> bool {
        self.observing.load(Relaxed)
    }

    /// The clients that would have been held.
    pub fn would_hold(&self) -> &WouldHold {
        &self.would_hold
    }

    fn note(&self, would: Would) {
        match would {
            Would::Hold(reason) => _ = self.would_hold.by_reason[reason as usize].fetch_add(1, Relaxed),
            Would::Refuse(reason) => self.warned.note(reason),
        }
    }

    /// A refusal of enforce mode is a note in observe mode: the client may go on, and is extra. A drain refuses in
    /// both.
    ///
    /// # Errors
    /// The reason, in enforce mode.
    pub fn unless_observing(&self, reason: Refusal) -> Result<Refusal, Refusal> {
        if !self.is_observing() || reason == Refusal::Draining {
            return Err(reason);
        }
        self.note(Would::Refuse(reason));
        Ok(reason)
    }

    /// Whether a server may be dialled for a client of this source that has not said who it is.
    pub fn before_connect_from(&self, source: IpAddr, now: Instant) -> BeforeConnect {
        match self.source_reputation().before_connect(source, now) {
            BeforeConnect::Damped | BeforeConnect::Paced if self.is_observing() => BeforeConnect::Free,
            verdict => verdict,
        }
    }

    /// A slot in the account that a server has named, for a client that holds one in the account that it claimed. Where
    /// the fleet shares the quota it may [wait for its place](AccountSlot::waits_for).
    ///
    /// # Errors
    /// [`Refusal::AccountQuota`] or [`Refusal::AccountLeafnodeQuota`], in enforce mode; nothing is taken then.
    pub fn enter_named(&self, named: &Arc<str>, before: &AccountSlot, now: Instant) -> Result<AccountSlot, Refusal> {
        if let Some(Would::Refuse(reason)) = before.would() {
            return Ok(self.extra(named, reason, now));
        }
        let is_leafnode = before.is_of_leafnode();
        let entered = self.enter_connection((named, is_leafnode), Proof::Known, !self.is_observing(), now);
        let entered = entered.and_then(|slot| match is_leafnode {
            true => self.with_leafnode(slot, Proof::Known, now),
            false => Ok(slot),
        });
        entered.or_else(|reason| self.unless_observing(reason).map(|reason| self.extra(named, reason, now)))
    }

    /// A server has let a client in: what it only claimed until now is its own.
    ///
    /// # Errors
    /// The quota that has no room for it, since known clients have come meanwhile.
    pub fn prove(&self, slot: &mut AccountSlot, now: Instant) -> Result<(), Refusal> {
        match slot.prove(now) {
            Ok(()) => Ok(()),
            Err(reason) => self.unless_observing(reason).map(|reason| slot.becomes_extra(Observed::refuse(reason))),
        }
    }

    fn extra(&self, account: &Arc<str>, reason: Refusal, now: Instant) -> AccountSlot {
        let mut slot = self.accounts.enter_anyway(account, now);
        slot.becomes_extra(Observed::refuse(reason));
        slot
    }

    /// What observe mode does with a client whose CONNECT has been read.
    pub(super) fn observe_at_connect(&self, client: &Client, now: Instant, rng: &mut fastrand::Rng) -> Verdict<W> {
        let account = match client.would_refuse {
            Some(reason) => self.extra(&client.account, reason, now),
            None => match self.enter_quotas(client, now, client.hold_until) {
                Ok(account) => return self.observe_turn(account, client, now, rng),
                Err(reason) => {
                    self.note(Would::Refuse(reason));
                    self.extra(&client.account, reason, now)
                }
            },
        };
        self.let_in(account, client, now, rng)
    }

    /// The same for a client that has its server already: the slot in its account.
    pub(super) fn observe_account(&self, client: &Client, now: Instant) -> AccountSlot {
        let entered = match client.would_refuse {
            Some(reason) => return self.extra(&client.account, reason, now),
            None => self.enter_quotas(client, now, now),
        };
        let entered = entered.and_then(|account| match account.take_token(now) {
            true => Ok(account),
            false => Err(Refusal::AccountRate),
        });
        self.client_history.admitted(client.key);
        let mut account = entered.unwrap_or_else(|reason| {
            self.note(Would::Refuse(reason));
            self.extra(&client.account, reason, now)
        });
        account.begin_handshake_over();
        account
    }

    /// The same for a client that is within its quotas: whether it would have had its turn at once.
    pub(super) fn observe_turn(
        &self,
        mut account: AccountSlot,
        client: &Client,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Verdict<W> {
        let last_turn = client.last_turn(now, &account);
        let promised = account.other_quotas().promised();
        if let Some((at, _)) = promised {
            account.other_quotas().redeem_at(at);
        }
        let mut account_paid = false;
        let would = match self.try_admit(&mut account, &mut account_paid, now, rng) {
            Ok(server) => {
                self.client_history.admitted(client.key);
                if let Some((_, reason)) = promised {
                    self.holds(&mut account, reason, client);
                }
                return Verdict::Admit(Pass::new(server, account));
            }
            Err(blocked) if now >= last_turn => Would::Refuse(self.reason(blocked, now)),
            Err(_) if !self.may_wait(client.has_priority(&account)) => Would::Refuse(Refusal::QueueFull),
            Err(Blocked::AccountRate) => match account.reserve_token(now, last_turn) {
                true => Would::Hold(Refusal::AccountRate),
                false => Would::Refuse(Refusal::AccountRate),
            },
            Err(Blocked::Lease(reason)) => Would::Hold(reason),
            Err(Blocked::Full) => Would::Hold(self.servers.no_room(now)),
            Err(Blocked::NotYet | Blocked::Paused) => match self.pace.reserve(now, last_turn) {
                true => Would::Hold(Refusal::HoldExpired),
                false => Would::Refuse(Refusal::HoldExpired),
            },
        };
        if client.may_use_reserve
            && let Some(server) = self.servers.place_in_reserve(now, rng)
        {
            return Verdict::Admit(Pass::new(server, account));
        }
        match (would, promised) {
            (Would::Refuse(reason), _) => {
                self.note(would);
                account.becomes_extra(Observed::refuse(reason));
            }
            (Would::Hold(_), Some((_, reason))) | (Would::Hold(reason), None) => {
                self.holds(&mut account, reason, client);
            }
        }
        self.let_in(account, client, now, rng)
    }

    /// The client would have been held.
    fn holds(&self, account: &mut AccountSlot, reason: Refusal, client: &Client) {
        self.note(Would::Hold(reason));
        let waits = self.would_wait.try_acquire();
        account.is_observed(Observed { would: Would::Hold(reason), waits, answer_by: Some(client.answer_by) });
    }

    /// Places a client whatever the limits are.
    fn let_in(&self, mut account: AccountSlot, client: &Client, now: Instant, rng: &mut fastrand::Rng) -> Verdict<W> {
        account.begin_handshake_over();
        match self.place_over(&account, &[], now, rng) {
            Some(server) => Verdict::Admit(Pass::new(server, account)),
            None => self.refuse_now(self.servers.no_room(now), client, now),
        }
    }

    /// A server for a client, whatever room it has.
    pub(super) fn place_over(
        &self,
        account: &AccountSlot,
        tried: &[ServerId],
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<Slot> {
        // Where its logins hang it is sent only if there is no other.
        let mut unliked = self.avoided(account.login(), now).map(|avoided| avoided.disliked).unwrap_or_default();
        unliked.extend_from_slice(tried);
        let servers = &self.servers;
        servers.place_over(now, &unliked, rng).or_else(|| servers.place_over(now, tried, rng))
    }

    /// The login of a client is over. One that would have been held, and that the servers have let in only after its
    /// time, would have been refused.
    pub(super) fn observed_login_ended(&self, account: &mut AccountSlot, now: Instant) {
        if let Some(answer_by) = account.waits_no_longer()
            && now > answer_by
        {
            self.note(Would::Refuse(Refusal::HoldExpired));
        }
    }
}
