//! The connect check. It knows who asks: account quota, account rate, a server's slot, the pace. The narrowest limit
//! comes first and the shared one last, so that a refusal never spends what belongs to others.
//!
//! Sessions and `weir plan` come here by [`Wait`](super::Wait) only, so that both ask the same in the same order.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use crate::{
    admission::{
        client::{Client, Pass, Proof, SilentClient},
        controller::Admission,
        deadlines,
        queue::waiting::{Ticket, Waiter, WaitingClient},
        quota::{
            account::{Account, AccountSlot},
            limit::Permit,
            sources::Source,
            users_and_names::QuotaIdentity,
        },
        retry_schedule::{Situation, answer_at, lease_check},
    },
    client_library::returns::Return,
    identity::{ClientKey, UNKNOWN_ACCOUNT},
    outcome::Refusal,
    upstream::{Placement, Slot, Urgency},
};

/// What becomes of a client at the connect check.
#[derive(Debug)]
pub(super) enum Verdict<W> {
    /// It is dialled.
    Admit(Pass),
    /// It waits for a token that it was promised, and is checked [again](Admission::at_reserved_time) then.
    Reserve(Box<Reservation<W>>),
    /// It waits in the queue; its turn is [estimated](Admission::estimate_turn) at `check_at`. `lacks` is the reason
    /// for which it would be refused now, where that is a place.
    Hold { ticket: Ticket, check_at: Instant, lacks: Option<Refusal> },
    /// It is refused at `at`. The permit counts it among the clients that wait; `None` where it is told at once.
    Refuse { reason: Refusal, at: Instant, permit: Option<Permit> },
}

/// A client that waits for a token of a rate by user or name.
#[derive(Debug)]
pub(super) struct Reservation<W> {
    /// When the token comes.
    pub(super) at: Instant,
    client: Client,
    account: AccountSlot,
    waiter: W,
    _permit: Option<Permit>,
}

/// Why a client cannot be admitted this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocked {
    /// Nobody gets a turn.
    Paused,
    /// Its account opens connections too fast.
    AccountRate,
    /// This weir's lease of this quota has no place, and other weirs of the fleet may give one back.
    Lease(Refusal),
    /// There is room, but the pace, a busy server or the clients before it do not allow it yet.
    NotYet,
    /// There is no room, or none but for the clients before it.
    Full,
}

impl<W: Waiter> Admission<W> {
    /// The verdict on a client whose CONNECT has been read. `waiter` is called only for a client that has to wait.
    pub(super) fn at_connect(
        &self,
        client: Client,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> Verdict<W> {
        if self.is_draining() {
            return Verdict::Refuse { reason: Refusal::Draining, at: now, permit: None };
        }
        if self.kicked().is_kept_away(client.key, now) {
            return self.refuse_later(Refusal::Kicked, &client, now, rng);
        }
        if self.is_observing() && !self.is_paused() {
            return self.observe_at_connect(&client, now, rng);
        }
        let account = match self.enter_quotas(&client, now, client.hold_until) {
            Ok(account) => account,
            Err(reason) => return self.refuse_later(reason, &client, now, rng),
        };
        if let Some(at) = account.other_quotas().ready_at() {
            if !self.may_wait(client.has_priority(&account)) {
                return self.refuse_now(Refusal::QueueFull, &client, now);
            }
            let _permit = self.reserved.try_acquire();
            return Verdict::Reserve(Box::new(Reservation { at, client, account, waiter: waiter(), _permit }));
        }
        self.admit_or_queue(account, &client, now, rng, waiter)
    }

    /// The verdict on a client that has waited for its token.
    pub(super) fn at_reserved_time(
        &self,
        reservation: Reservation<W>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Verdict<W> {
        let Reservation { client, account, waiter, _permit, .. } = reservation;
        if self.is_draining() {
            return Verdict::Refuse { reason: Refusal::Draining, at: now, permit: None };
        }
        account.other_quotas().redeem(now);
        self.admit_or_queue(account, &client, now, rng, || waiter)
    }

    /// The verdict on a client that has said nothing yet, in front of servers that are dialled before CONNECT. Where it
    /// has to wait it waits in the lane of its source. The account of its pass is nobody's: the limits of its account
    /// apply in [`Admission::enter_account`], once the account is known.
    pub(super) fn before_connect(
        &self,
        client: SilentClient,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> Verdict<W> {
        if self.is_draining() {
            return Verdict::Refuse { reason: Refusal::Draining, at: now, permit: None };
        }
        let SilentClient { source, key, hold_until, may_use_reserve, is_leafnode } = client;
        let source = Source::from(source);
        let lane = source.lane_name();
        // What its login takes is not known before its account is; the deadlines have left time for it.
        let answer_by = hold_until + deadlines::UNKNOWN_LOGIN;
        let (account, quota_identity) = (Arc::clone(&lane), QuotaIdentity::default());
        let returns = Return::Unknown;
        let proof = Proof::Known;
        let client = Client {
            account,
            names_its_account: false,
            is_leafnode,
            source,
            key,
            proof,
            may_use_reserve,
            would_refuse: None,
            quota_identity,
            hold_until,
            answer_by,
            returns,
        };
        let nobody = AccountSlot::of_nobody(lane);
        match self.is_observing() && !self.is_paused() {
            true => self.observe_turn(nobody, &client, now, rng),
            false => self.admit_or_queue(nobody, &client, now, rng, waiter),
        }
    }

    /// The verdict on a session that goes to another server. It keeps what it has in its quotas; what it waits for is a
    /// server's slot, and its turn among those who log in.
    pub(super) fn at_move(
        &self,
        client: &Client,
        account: &Arc<Account>,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> Verdict<W> {
        if self.is_draining() {
            return Verdict::Refuse { reason: Refusal::Draining, at: now, permit: None };
        }
        let slot = self.account_slot_of_move(account, client.source);
        match self.is_observing() && !self.is_paused() {
            true => self.observe_turn(slot, client, now, rng),
            false => self.admit_or_queue(slot, client, now, rng, waiter),
        }
    }

    /// For the login of a session of this account that goes to another server.
    pub fn account_slot_of_move(&self, account: &Arc<Account>, source: Source) -> AccountSlot {
        AccountSlot::of_move(account).with_source(self.source_key(source))
    }

    /// The quotas of a client that holds a server's slot already, and the rates of its user and its name. Where the
    /// fleet shares a quota the slot may [wait for a place](AccountSlot::waits_for). Once it has all of them its
    /// account is to be [paid](Self::pay_account).
    ///
    /// # Errors
    /// The reason to refuse with. No slot is held then.
    pub fn enter_account(&self, client: &Client, now: Instant) -> Result<AccountSlot, Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        if self.kicked().is_kept_away(client.key, now) {
            return Err(Refusal::Kicked);
        }
        if self.is_observing() {
            return Ok(self.observe_account(client, now));
        }
        self.enter_quotas_by(client, (now, now), true)
    }

    /// The rate of the account of such a client, which has its places.
    ///
    /// # Errors
    /// [`Refusal::AccountRate`].
    pub fn pay_account(&self, account: &AccountSlot, client: &Client, now: Instant) -> Result<(), Refusal> {
        if self.is_observing() {
            return Ok(());
        }
        if !account.take_token(now) {
            return Err(Refusal::AccountRate);
        }
        self.client_history.admitted(client.key);
        Ok(())
    }

    /// The verdict on a client that [has entered](Self::enter_account) its quotas, and gives up the server that it had:
    /// it keeps what it has taken of them.
    pub(super) fn with_quotas(
        &self,
        client: &Client,
        account: AccountSlot,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> Verdict<W> {
        if self.is_draining() {
            return Verdict::Refuse { reason: Refusal::Draining, at: now, permit: None };
        }
        self.admit_or_queue(account, client, now, rng, waiter)
    }

    /// Takes a slot in every quota that a client falls under; its token of a rate by user or name may come until
    /// `latest`.
    pub(super) fn enter_quotas(&self, client: &Client, now: Instant, latest: Instant) -> Result<AccountSlot, Refusal> {
        self.enter_quotas_by(client, (now, latest), latest > now && !self.is_observing())
    }

    /// The same; `may_wait` says whether the slot may be one that waits for places.
    fn enter_quotas_by(
        &self,
        client: &Client,
        (now, latest): (Instant, Instant),
        may_wait: bool,
    ) -> Result<AccountSlot, Refusal> {
        if *client.account == *UNKNOWN_ACCOUNT {
            self.accounts.are_named(self.servers.tell_accounts(), now);
        }
        let account = self.enter_connection((&client.account, client.is_leafnode), client.proof, may_wait, now)?;
        let account = match client.is_leafnode {
            true => self.with_leafnode(account, client.proof, now)?,
            false => account,
        };
        let account = match account.account().is_known() {
            true => account,
            false => account.with_source(self.source_key(client.source)),
        };
        let latest = latest.min(client.last_turn(now, &account)).max(now);
        let other_quotas =
            self.users_and_names.enter(&client.quota_identity, client.proof, (now, latest), may_wait, &self.warned)?;
        Ok(account.with_other_quotas(other_quotas))
    }

    /// Takes a connection slot of an account; one that waits for a place of the lease only where it `may_wait`.
    ///
    /// # Errors
    /// [`Refusal::AccountQuota`]: there is none.
    pub(super) fn enter_connection(
        &self,
        (name, is_leafnode): (&Arc<str>, bool),
        proof: Proof,
        may_wait: bool,
        now: Instant,
    ) -> Result<AccountSlot, Refusal> {
        let accounts = &self.accounts;
        let entered = match (is_leafnode, may_wait) {
            (false, true) => accounts.enter_or_wait(name, proof, now),
            (false, false) => accounts.enter(name, proof, now),
            (true, _) => accounts
                .enter(name, proof, now)
                .or_else(|_| accounts.enter_leafnode(name, proof, now))
                .or_else(|full| if may_wait { accounts.enter_or_wait(name, proof, now) } else { Err(full) }),
        };
        entered.map_err(|_| Refusal::AccountQuota)
    }

    /// Takes a place among the leafnodes of its account for a slot.
    ///
    /// # Errors
    /// [`Refusal::AccountLeafnodeQuota`]: there is none.
    pub(super) fn with_leafnode(&self, slot: AccountSlot, proof: Proof, now: Instant) -> Result<AccountSlot, Refusal> {
        let leafnode = self.leafnodes.enter(slot.account(), proof, now, &self.warned)?;
        Ok(slot.with_leafnode(leafnode))
    }

    /// Admits a client that is within its quotas, or puts it into the queue.
    fn admit_or_queue(
        &self,
        mut account: AccountSlot,
        client: &Client,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> Verdict<W> {
        let mut account_paid = false;
        if let Some(server) = self.place_moved(&mut account, &mut account_paid, client.key, now) {
            self.client_history.admitted(client.key);
            return Verdict::Admit(Pass::new(server, account));
        }
        // Clients in the queue go first: nobody is admitted directly while there are any.
        let blocked = if self.is_paused() {
            Blocked::Paused
        } else if self.queued() == 0 {
            match self.try_admit(&mut account, &mut account_paid, now, rng) {
                Ok(server) => {
                    self.client_history.admitted(client.key);
                    return Verdict::Admit(Pass::new(server, account));
                }
                Err(blocked) => blocked,
            }
        } else {
            self.blocked_behind_the_queue(now)
        };
        if client.may_use_reserve
            && blocked != Blocked::Paused
            && account.waits_for().is_none()
            && let Some(server) = self.servers.place_in_reserve(now, rng)
        {
            return Verdict::Admit(Pass::new(server, account));
        }
        let last_turn = client.last_turn(now, &account);
        if now >= last_turn {
            let blocked = account.waits_for().map_or(blocked, Blocked::Lease);
            return self.refuse_now(self.reason(blocked, now), client, now);
        }
        if !self.may_wait(client.has_priority(&account)) {
            return self.refuse_now(Refusal::QueueFull, client, now);
        }
        let source_lane = client.waits_by_source(&account, now).then(|| client.source.lane_name());
        let has_priority = source_lane.is_none() && account.account().has_priority();
        let seniority = self.client_history.seniority(client.key, now);
        let &Client { key, hold_until, answer_by, returns, .. } = client;
        let waiting = WaitingClient {
            waiter: waiter(),
            account,
            source_lane,
            has_priority,
            is_leafnode: client.is_leafnode,
            account_paid,
            came: now,
            hold_until,
            answer_by,
            client: key,
            returns,
            scheduled_retry: None,
        };
        let mut state = self.queue_state();
        // A drain sets this before it empties the queue: nobody joins a queue that has been emptied.
        if self.is_draining() {
            return Verdict::Refuse { reason: Refusal::Draining, at: now, permit: None };
        }
        let lease = waiting.account.waits_for();
        let ticket = state.queue.push(waiting, seniority);
        self.queued.store(state.queue.len(), Relaxed);
        let rate_is_known = self.pace_with(state.throughput.rate(now)).is_some();
        drop(state);
        let situation = match blocked {
            Blocked::Paused => Situation::Paused,
            Blocked::Full => Situation::QueuedWithoutRoom,
            Blocked::AccountRate | Blocked::Lease(_) | Blocked::NotYet => Situation::Queued { rate_is_known },
        };
        let (mut check_at, _) = answer_at(situation, returns, last_turn, self.refusal_spread(), now, rng);
        if lease.is_some() {
            check_at = check_at.min(lease_check(now, rng));
        }
        let lacks = lease.or((blocked == Blocked::Full).then_some(Refusal::ServerCapacity));
        Verdict::Hold { ticket, check_at, lacks }
    }

    /// The slot of a client that weir has closed to move it, and that is back: nobody else may have the slot, so that
    /// the client waits for nobody either. Within the limits of its account.
    fn place_moved(
        &self,
        account: &mut AccountSlot,
        account_paid: &mut bool,
        client: ClientKey,
        now: Instant,
    ) -> Option<Slot> {
        if self.moving().is_empty() || account.is_of_move() || self.is_paused() || !self.moving().keeps_slot_for(client)
        {
            return None;
        }
        if !account.take_places(now) || !account.take_token(now) {
            return None;
        }
        *account_paid = true;
        if !account.begin_handshake() {
            return None;
        }
        let slot = self.moving().redeem(client, now);
        if slot.is_none() {
            account.end_handshake();
        }
        slot
    }

    /// Takes what an admission needs: a token of the account's rate unless the client has paid, a handshake of the
    /// account, a server's slot, a token of the pace.
    pub(super) fn try_admit(
        &self,
        account: &mut AccountSlot,
        account_paid: &mut bool,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Result<Slot, Blocked> {
        if !account.take_places(now) {
            return Err(Blocked::Lease(account.waits_for().unwrap_or(Refusal::AccountQuota)));
        }
        *account_paid = *account_paid || account.take_token(now);
        if !*account_paid {
            return Err(Blocked::AccountRate);
        }
        if !account.begin_handshake() {
            return Err(Blocked::NotYet);
        }
        self.share_pace_for(account, now);
        let placed = match self.place(account.login(), &[], now, Urgency::CanWait(1), rng) {
            Placement::Placed(slot) => Ok(slot),
            Placement::Busy => Err(Blocked::NotYet),
            Placement::Full => Err(Blocked::Full),
        };
        let placed = placed.and_then(|slot| self.pace.take(now).map(|()| slot).map_err(|_| Blocked::NotYet));
        match &placed {
            Ok(_) => self.look_at_pace(now),
            Err(_) => account.end_handshake(),
        }
        placed
    }

    /// What keeps a client waiting that comes to a queue: no room even for the clients before it, or only their number.
    fn blocked_behind_the_queue(&self, now: Instant) -> Blocked {
        if self.queued() >= self.servers.headroom(now) as usize { Blocked::Full } else { Blocked::NotYet }
    }

    /// The reason that a client is told when `blocked` keeps it out.
    pub(super) fn reason(&self, blocked: Blocked, now: Instant) -> Refusal {
        match blocked {
            // Whatever else would keep it out: nothing else has been asked.
            _ if self.is_paused() => Refusal::Paused,
            Blocked::AccountRate => Refusal::AccountRate,
            Blocked::Lease(reason) => reason,
            _ if self.servers.can_use_none(now) => Refusal::NoServer,
            _ if !self.servers.has_headroom(now) => Refusal::ServerCapacity,
            // There is room, but the clients before it take it, or the pace does not allow it in time.
            Blocked::Full | Blocked::NotYet | Blocked::Paused => Refusal::HoldExpired,
        }
    }

    pub(super) fn refuse_now(&self, reason: Refusal, client: &Client, now: Instant) -> Verdict<W> {
        self.client_history.refused(client.key, now);
        Verdict::Refuse { reason, at: now, permit: None }
    }

    /// Refuses a client that has said who it is: at its moment where there is room to wait, else at once.
    pub(super) fn refuse_later(
        &self,
        reason: Refusal,
        client: &Client,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Verdict<W> {
        if reason == Refusal::Draining || self.is_observing() || !self.may_wait(false) {
            return self.refuse_now(reason, client, now);
        }
        self.client_history.refused(client.key, now);
        let permit = self.answered_later.try_acquire();
        Verdict::Refuse { reason, at: self.refusal_at(reason, client.hold_until, now, rng), permit }
    }

    /// Refuses a connection at the accept check. It counts for nothing while it waits: all that it takes is a
    /// descriptor, of which there is a limited number for such connections, and no client in the queue was the reason.
    pub(super) fn refuse_at_accept(
        &self,
        reason: Refusal,
        until: Instant,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Verdict<W> {
        Verdict::Refuse { reason, at: self.refusal_at(reason, until, now, rng), permit: None }
    }

    fn refusal_at(&self, reason: Refusal, until: Instant, now: Instant, rng: &mut fastrand::Rng) -> Instant {
        if self.is_observing() {
            return now;
        }
        answer_at(Situation::Refused(reason), Return::Unknown, until, self.refusal_spread(), now, rng).0
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{
        admission::{
            AccountLimits, Params, PatternQuota, Quota, Rate,
            fairness::{client, unknown_servers, wide_open},
            params::PatternQuotas,
        },
        identity::CredentialKey,
    };

    #[derive(Debug)]
    struct StayingClient;

    impl Waiter for StayingClient {
        fn has_left(&self) -> bool {
            false
        }
    }

    /// Its account has a handshake under way already, and may have one.
    #[test]
    fn a_client_that_weir_moves_pays_once_also_where_it_has_to_wait() {
        let rate = Rate { per_second: NonZeroU32::MIN, burst: 3.try_into().unwrap() };
        let quota = Quota { rate: Some(rate), ..Quota::default() };
        let limits = AccountLimits { quota, max_handshakes: NonZeroU32::new(1), ..AccountLimits::default() };
        let servers = unknown_servers(1);
        let server = servers.iter().next().unwrap();
        let admission = Admission::new(&Params { default_account: limits, ..wide_open() }, servers);
        let (mut rng, now) = (fastrand::Rng::with_seed(7), Instant::now());
        let mut come = |n| admission.at_connect(client("A", n, now), now, &mut rng, || StayingClient);
        let first = come(1);
        assert!(matches!(first, Verdict::Admit(_)));
        let kept = admission.moving().expect(ClientKey::from_raw(2), Slot::promise(&server, now).unwrap());
        assert!(matches!(come(2), Verdict::Hold { .. }));
        let account = admission.accounts.find(&"A".into()).unwrap();
        assert!(account.take_token(true, now) && !account.take_token(true, now), "one of three is left");
        drop(kept);
    }

    /// It was dialled for before CONNECT; its account has no token, and its user had two.
    #[test]
    fn a_client_that_gives_up_its_server_and_waits_pays_for_its_user_once() {
        let rate = |burst: u32| Some(Rate { per_second: NonZeroU32::MIN, burst: burst.try_into().unwrap() });
        let of_account = Quota { rate: rate(1), ..Quota::default() };
        let default_account = AccountLimits { quota: of_account, ..AccountLimits::default() };
        let of_user = Quota { rate: rate(2), ..Quota::default() };
        let patterns = PatternQuotas {
            users: vec![PatternQuota { pattern: "batch".into(), quota: of_user }],
            ..PatternQuotas::default()
        };
        let admission = Admission::new(&Params { default_account, patterns, ..wide_open() }, unknown_servers(1));
        let (mut rng, now) = (fastrand::Rng::with_seed(7), Instant::now());
        let first = admission.at_connect(client("A", 1, now), now, &mut rng, || StayingClient);
        assert!(matches!(first, Verdict::Admit(_)));
        let quota_identity = QuotaIdentity { user: Some(("batch".into(), CredentialKey::from_raw(1))), name: None };
        let second = Client { quota_identity, ..client("A", 2, now) };
        let entered = admission.enter_account(&second, now).unwrap();
        assert_eq!(admission.pay_account(&entered, &second, now), Err(Refusal::AccountRate));
        let waits = admission.with_quotas(&second, entered, now, &mut rng, || StayingClient);
        assert!(matches!(waits, Verdict::Hold { .. }), "{waits:?}");
        let others: Vec<_> = (0..2).map(|_| admission.enter_account(&second, now).map(drop)).collect();
        assert_eq!(others, [Ok(()), Err(Refusal::UserRate)], "one of two is left");
    }
}
