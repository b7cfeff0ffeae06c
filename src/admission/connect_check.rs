//! The connect door: it is known who asks. Account quota, account rate, a server's slot, the pace: narrowest first, the
//! shared budget last, so that a refusal never spends what belongs to others.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use crate::{
    admission::{
        AccountSlot, Admission, QuotaIdentity, Return, deadlines,
        queue::{Ticket, Waiter, WaitingClient},
        quota::sources::Source,
    },
    identity::ClientKey,
    outcome::Refusal,
    upstream::{Placement, Slot, Urgency},
};

/// Who asks.
#[derive(Debug)]
pub struct Client {
    /// The account it belongs to, as far as known.
    pub account: Arc<str>,
    /// Who it is across reconnects.
    pub key: ClientKey,
    /// Who it is to quotas by user and name.
    pub quota_identity: QuotaIdentity,
    /// How long it may wait.
    pub hold_until: Instant,
    /// When it must have its PONG.
    pub answer_by: Instant,
    /// What it does when it is refused.
    pub returns: Return,
}

impl Client {
    /// Its last moment for a turn, by what logins of its account take now.
    fn last_turn(&self, account: &AccountSlot) -> Instant {
        deadlines::last_turn(self.hold_until, self.answer_by, account.account().login_time())
    }
}

/// What an admitted client holds; everything is given back on drop.
#[derive(Debug)]
pub struct Pass {
    /// A slot on the server to dial.
    pub server: Slot,
    /// A slot in its account's quota.
    pub account: AccountSlot,
}

/// The verdict.
#[derive(Debug)]
pub enum Verdict {
    /// Dial.
    Admit(Pass),
    /// Wait: the waiter is told when the turn comes.
    Hold {
        /// The place in the queue.
        ticket: Ticket,
        /// When to ask [`Admission::look_again`] whether there is still hope.
        look_again: Instant,
    },
    /// Say no, at the time given.
    Refuse {
        /// Why.
        reason: Refusal,
        /// When: refusals are spread, so that clients that retry in step come back spread out.
        at: Instant,
        /// Counts the client among those who wait; `None` when it is refused at once.
        delay: Option<Delay>,
    },
}

/// A client that waits for the token it was promised.
#[derive(Debug)]
pub struct Reservation<W> {
    /// When it comes.
    pub at: Instant,
    client: Client,
    account: AccountSlot,
    waiter: W,
    _counted: Delay,
}

/// One client that waits for its moment outside the queue, given back on drop.
#[derive(Debug)]
pub struct Delay {
    count: Arc<AtomicUsize>,
}

impl Delay {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self { count: Arc::clone(count) }
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
    }
}

/// Why a client cannot go in this moment.
pub enum Blocked {
    /// Its account opens connections too fast.
    AccountRate,
    /// There is room, but the pace, a busy server or those who came before do not allow it yet.
    NotYet,
    /// There is no room, or none but for those who came before.
    Full,
}

impl<W: Waiter> Admission<W> {
    /// The verdict on a client whose CONNECT has been read. `waiter` is called only for one that has to wait.
    ///
    /// # Errors
    /// There is no verdict yet: a rate by user or name has a token for it later. [`Admission::at_its_time`] is to be asked then.
    pub fn at_connect(
        &self,
        client: Client,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> Result<Verdict, Box<Reservation<W>>> {
        if self.is_draining() {
            return Ok(Verdict::Refuse { reason: Refusal::Draining, at: now, delay: None });
        }
        let account = match self.enter_quotas(&client, now, client.hold_until) {
            Ok(account) => account,
            Err(reason) => return Ok(self.refuse_later(reason, &client, now, rng)),
        };
        match account.other_quotas().ready_at() {
            None => {}
            Some(_) if !self.may_wait(account.account().has_priority()) => {
                return Ok(self.refuse_now(Refusal::QueueFull, &client, now));
            }
            Some(at) => {
                let _counted = Delay::new(&self.reserved);
                return Err(Box::new(Reservation { at, client, account, waiter: waiter(), _counted }));
            }
        }
        let may_use_reserve = || self.servers.is_system_account(&client.account);
        Ok(self.ask(account, &client, may_use_reserve, now, rng, waiter))
    }

    /// The verdict on a client that has waited for its token.
    pub fn at_its_time(&self, reservation: Reservation<W>, now: Instant, rng: &mut fastrand::Rng) -> Verdict {
        let Reservation { client, account, waiter, _counted, .. } = reservation;
        if self.is_draining() {
            return Verdict::Refuse { reason: Refusal::Draining, at: now, delay: None };
        }
        account.other_quotas().redeem(now);
        let may_use_reserve = || self.servers.is_system_account(&client.account);
        self.ask(account, &client, may_use_reserve, now, rng, || waiter)
    }

    /// The verdict on a client that has said nothing yet, in front of servers that are dialled before it does. Where it may
    /// wait until `hold_until`, it waits in the lane of its source. The account of its pass is nobody's: what its account
    /// allows is asked by [`Admission::enter_account`] once that is known.
    pub fn at_accept_turn(
        &self,
        source: IpAddr,
        client: ClientKey,
        hold_until: Instant,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> Verdict {
        let lane = Source::from(source).lane_name();
        // What its login takes is not known before its account is; patience has left time for it.
        let answer_by = hold_until + deadlines::UNKNOWN_LOGIN;
        let (account, quota_identity) = (Arc::clone(&lane), QuotaIdentity::default());
        let client = Client { account, key: client, quota_identity, hold_until, answer_by, returns: Return::Unknown };
        if self.is_draining() {
            return Verdict::Refuse { reason: Refusal::Draining, at: now, delay: None };
        }
        let may_use_reserve = || self.operators.is_likely(source, now);
        self.ask(AccountSlot::of_nobody(lane), &client, may_use_reserve, now, rng, waiter)
    }

    /// The connect door for a client that holds a server's slot already: quota and rate of its account.
    ///
    /// # Errors
    /// The reason to refuse with; nothing is taken then.
    pub fn enter_account(&self, client: &Client, now: Instant) -> Result<AccountSlot, Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        let account = self.enter_quotas(client, now, now)?;
        if !account.account().take_token(now) {
            return Err(Refusal::AccountRate);
        }
        self.client_history.admitted(client.key);
        Ok(account)
    }

    /// Slots in every quota that a client falls under; its token of a rate by user or name may come until `latest`.
    fn enter_quotas(&self, client: &Client, now: Instant, latest: Instant) -> Result<AccountSlot, Refusal> {
        let account = self.accounts.enter(&client.account, now).map_err(|_| Refusal::AccountQuota)?;
        let latest = latest.min(client.last_turn(&account)).max(now);
        let other_quotas = self.users_and_names.enter(&client.quota_identity, now, latest, &self.warned)?;
        Ok(account.with_other_quotas(other_quotas))
    }

    /// What both doors do once there is a lane to wait in. `may_use_reserve` is asked only of a client that cannot go in at once.
    fn ask(
        &self,
        mut account: AccountSlot,
        client: &Client,
        may_use_reserve: impl FnOnce() -> bool,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> Verdict {
        let mut account_paid = false;
        // Whoever waits already goes first; so the direct way is open only while nobody does.
        let blocked = if self.queued() == 0 {
            match self.try_admit(&mut account, &mut account_paid, now, rng) {
                Ok(server) => {
                    self.client_history.admitted(client.key);
                    return Verdict::Admit(Pass { server, account });
                }
                Err(blocked) => blocked,
            }
        } else {
            self.blocked_behind_the_queue(now)
        };
        if may_use_reserve()
            && let Some(server) = self.servers.place_in_reserve(now, rng)
        {
            return Verdict::Admit(Pass { server, account });
        }
        let last_turn = client.last_turn(&account);
        if now >= last_turn {
            return self.refuse_now(self.reason(&blocked, now), client, now);
        }
        if !self.may_wait(account.account().has_priority()) {
            return self.refuse_now(Refusal::QueueFull, client, now);
        }
        let seniority = self.client_history.seniority(client.key, now);
        let waiter = waiter();
        let &Client { key, hold_until, answer_by, returns, .. } = client;
        let held = WaitingClient {
            waiter,
            account,
            account_paid,
            hold_until,
            answer_by,
            client: key,
            returns,
            scheduled_retry: None,
        };
        let mut waiting = self.waiting();
        let ticket = waiting.queue.push(held, seniority);
        self.queued.store(waiting.queue.len(), Relaxed);
        drop(waiting);
        Verdict::Hold { ticket, look_again: self.first_look(&blocked, client.returns, last_turn, now, rng) }
    }

    fn try_admit(
        &self,
        account: &mut AccountSlot,
        account_paid: &mut bool,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Result<Slot, Blocked> {
        if !account.account().take_token(now) {
            return Err(Blocked::AccountRate);
        }
        *account_paid = true;
        if !account.begin_handshake() {
            return Err(Blocked::NotYet);
        }
        let placed = match self.servers.place(now, &[], Urgency::CanWait(1), rng) {
            Placement::Placed(slot) => Ok(slot),
            Placement::Busy => Err(Blocked::NotYet),
            Placement::Full => Err(Blocked::Full),
        };
        let placed = placed.and_then(|slot| match &self.pace {
            Some(pace) => pace.take(now).map(|()| slot).map_err(|_| Blocked::NotYet),
            None => Ok(slot),
        });
        placed.inspect_err(|_| account.end_handshake())
    }

    /// What keeps a client waiting that comes to a queue: no room even for those before it, or only their number.
    fn blocked_behind_the_queue(&self, now: Instant) -> Blocked {
        if self.queued() >= self.servers.headroom(now) as usize { Blocked::Full } else { Blocked::NotYet }
    }

    /// The reason that a client is told when `blocked` keeps it out.
    pub fn reason(&self, blocked: &Blocked, now: Instant) -> Refusal {
        match blocked {
            Blocked::AccountRate => Refusal::AccountRate,
            _ if !self.servers.has_headroom(now) => Refusal::ServerCapacity,
            // There is room, but those who came before take it, or the pace does not allow it in time.
            Blocked::Full | Blocked::NotYet => Refusal::HoldExpired,
        }
    }

    fn refuse_now(&self, reason: Refusal, client: &Client, now: Instant) -> Verdict {
        self.client_history.refused(client.key, now);
        Verdict::Refuse { reason, at: now, delay: None }
    }

    fn refuse_later(&self, reason: Refusal, client: &Client, now: Instant, rng: &mut fastrand::Rng) -> Verdict {
        let (at, delay) = self.turn_away(reason, client, now, rng);
        Verdict::Refuse { reason, at, delay }
    }

    /// When to tell a client that it is refused: at a random moment where there is room to wait, else at once.
    pub fn turn_away(
        &self,
        reason: Refusal,
        client: &Client,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> (Instant, Option<Delay>) {
        self.client_history.refused(client.key, now);
        if reason == Refusal::Draining || !self.may_wait(false) {
            return (now, None);
        }
        let at = self.moment_to_refuse(reason, client.hold_until, now, rng);
        (at, Some(Delay::new(&self.answered_later)))
    }

    /// A random moment within `refusal_spread`, and before `until`: clients that retry in step come back spread out. Whoever is
    /// refused at the accept door is told then too; it counts for nothing else, since a descriptor is all that it takes, of which
    /// there are only so many for it, and since nobody before it in the queue was the reason.
    pub fn moment_to_refuse(&self, reason: Refusal, until: Instant, now: Instant, rng: &mut fastrand::Rng) -> Instant {
        match reason {
            Refusal::Draining => now,
            _ => now + until.saturating_duration_since(now).min(self.refusal_spread).mul_f64(rng.f64()),
        }
    }
}
