//! The connect door: it is known who asks. Account quota, account rate, a server's slot, the pace: narrowest first, the
//! shared budget last, so that a refusal never spends what belongs to others.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use governor::clock::Clock;

use super::{
    AccountSlot, Admission,
    hold::{Held, Ticket, Waiter},
    sources::Source,
};
use crate::{
    close::Refusal,
    identity::ClientKey,
    upstream::{Placement, Slot},
};

/// While a client has less time left than this it takes any server with room.
const URGENT: Duration = Duration::from_millis(250);
/// How soon to look again when servers are busy or full: they have no timer to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Who asks.
#[derive(Debug)]
pub struct Applicant {
    /// The account it belongs to, as far as known.
    pub account: Arc<str>,
    /// Who it is across reconnects.
    pub client: ClientKey,
    /// How long it may wait.
    pub hold_until: Instant,
}

/// What an admitted client holds; everything is given back on drop.
#[derive(Debug)]
pub struct Pass<C: Clock> {
    /// A slot on the server to dial.
    pub server: Slot,
    /// A slot in its account's quota.
    pub account: AccountSlot<C>,
}

/// The verdict.
#[derive(Debug)]
pub enum Verdict<C: Clock> {
    /// Dial.
    Admit(Pass<C>),
    /// Wait: the waiter is told when the turn comes. At `give_up` it must [`Admission::leave`].
    Hold {
        /// The place in the queue.
        ticket: Ticket,
        /// When to give up: the client's deadline, or earlier at random when its turn cannot come in time.
        give_up: Instant,
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

/// One refusal that waits for its moment, given back on drop.
#[derive(Debug)]
pub struct Delay {
    count: Arc<AtomicUsize>,
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
    }
}

/// Why a client cannot go in this moment.
enum Blocked {
    AccountRate(Duration),
    Pace(Duration),
    Busy,
    Full,
}

impl<W: Waiter, C: Clock + Clone> Admission<W, C> {
    /// The verdict on a client whose CONNECT has been read. `waiter` is called only for a hold.
    pub fn at_connect(
        &self,
        applicant: Applicant,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> Verdict<C> {
        if self.is_draining() {
            return Verdict::Refuse { reason: Refusal::Draining, at: now, delay: None };
        }
        let Ok(account) = self.accounts.enter(&applicant.account, now) else {
            return self.refuse_later(Refusal::AccountQuota, &applicant, now, rng);
        };
        self.ask(account, &applicant, now, rng, waiter)
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
    ) -> Verdict<C> {
        let lane = Source::from(source).lane();
        let applicant = Applicant { account: Arc::clone(&lane), client, hold_until };
        if self.is_draining() {
            return Verdict::Refuse { reason: Refusal::Draining, at: now, delay: None };
        }
        self.ask(AccountSlot::of_nobody(lane), &applicant, now, rng, waiter)
    }

    /// The connect door for a client that holds a server's slot already: quota and rate of its account.
    ///
    /// # Errors
    /// The reason to refuse with; nothing is taken then.
    pub fn enter_account(&self, applicant: &Applicant, now: Instant) -> Result<AccountSlot<C>, Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        let account = self.accounts.enter(&applicant.account, now).map_err(|_| Refusal::AccountQuota)?;
        if let Some(tokens) = account.account().tokens() {
            tokens.take().map_err(|_| Refusal::AccountRate)?;
        }
        self.seniority.admitted(applicant.client);
        Ok(account)
    }

    /// What both doors do once there is a lane to wait in.
    fn ask(
        &self,
        account: AccountSlot<C>,
        applicant: &Applicant,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> Verdict<C> {
        let mut account_paid = false;
        // Whoever waits already goes first; so the direct way is open only while nobody does.
        let blocked = if self.held() == 0 {
            match self.try_admit(&account, &mut account_paid, now, rng) {
                Ok(server) => {
                    self.seniority.admitted(applicant.client);
                    return Verdict::Admit(Pass { server, account });
                }
                Err(blocked) => blocked,
            }
        } else {
            self.blocked_behind_the_queue(now)
        };
        if now >= applicant.hold_until {
            return self.refuse_now(self.reason(&blocked, now), applicant, now);
        }
        if self.held() + self.delayed() >= self.max_held {
            return self.refuse_now(Refusal::QueueFull, applicant, now);
        }
        let give_up = self.give_up(&blocked, applicant, now, rng);
        let standing = self.seniority.standing(applicant.client, now);
        let held = Held {
            waiter: waiter(),
            account,
            account_paid,
            hold_until: applicant.hold_until,
            client: applicant.client,
        };
        let mut waiting = self.waiting();
        let ticket = waiting.queue.push(held, standing);
        self.held.store(waiting.queue.len(), Relaxed);
        Verdict::Hold { ticket, give_up }
    }

    fn try_admit(
        &self,
        account: &AccountSlot<C>,
        account_paid: &mut bool,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Result<Slot, Blocked> {
        if let Some(tokens) = account.account().tokens() {
            tokens.take().map_err(Blocked::AccountRate)?;
            *account_paid = true;
        }
        let server = match self.servers.place(now, &[], false, rng) {
            Placement::Placed(slot) => slot,
            Placement::Busy => return Err(Blocked::Busy),
            Placement::Full => return Err(Blocked::Full),
        };
        if let Some(pace) = &self.pace {
            pace.take().map_err(Blocked::Pace)?;
        }
        Ok(server)
    }

    /// What keeps a client waiting that comes to a queue: no room even for those before it, or only their number.
    fn blocked_behind_the_queue(&self, now: Instant) -> Blocked {
        if self.held() >= self.servers.headroom(now) as usize {
            return Blocked::Full;
        }
        match &self.pace {
            Some(pace) => Blocked::Pace(Duration::from_secs(1) / pace.per_second().get()),
            None => Blocked::Busy,
        }
    }

    /// When a client that must wait gives up. One whose turn is sure not to come in time does so at a random moment: the
    /// sooner half of a storm is told early, and comes back spread out instead of in step.
    fn give_up(&self, blocked: &Blocked, applicant: &Applicant, now: Instant, rng: &mut fastrand::Rng) -> Instant {
        let left = applicant.hold_until.saturating_duration_since(now);
        let turn_in = match *blocked {
            Blocked::AccountRate(wait) => wait,
            Blocked::Pace(wait) => {
                let per_second = self.pace().map_or(f64::INFINITY, f64::from);
                wait.max(Duration::from_secs_f64(self.held() as f64 / per_second))
            }
            Blocked::Busy => Duration::ZERO,
            Blocked::Full => return now + left.min(self.refusal_spread).mul_f64(rng.f64()),
        };
        if turn_in < left { applicant.hold_until } else { now + left.mul_f64(rng.f64()) }
    }

    fn reason(&self, blocked: &Blocked, now: Instant) -> Refusal {
        match blocked {
            Blocked::AccountRate(_) => Refusal::AccountRate,
            _ if !self.servers.has_headroom(now) => Refusal::ServerCapacity,
            // There is room, but those who came before take it, or the pace does not allow it in time.
            Blocked::Full | Blocked::Pace(_) | Blocked::Busy => Refusal::HoldExpired,
        }
    }

    fn refuse_now(&self, reason: Refusal, applicant: &Applicant, now: Instant) -> Verdict<C> {
        self.seniority.refused(applicant.client, now);
        Verdict::Refuse { reason, at: now, delay: None }
    }

    fn refuse_later(
        &self,
        reason: Refusal,
        applicant: &Applicant,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Verdict<C> {
        let (at, delay) = self.turn_away(reason, applicant, now, rng);
        Verdict::Refuse { reason, at, delay }
    }

    /// When to tell a client that it is refused: at a random moment where there is room to wait, else at once.
    pub fn turn_away(
        &self,
        reason: Refusal,
        applicant: &Applicant,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> (Instant, Option<Delay>) {
        self.seniority.refused(applicant.client, now);
        if reason == Refusal::Draining || self.held() + self.delayed() >= self.max_held {
            return (now, None);
        }
        self.delayed.fetch_add(1, Relaxed);
        let left = applicant.hold_until.saturating_duration_since(now).min(self.refusal_spread);
        (now + left.mul_f64(rng.f64()), Some(Delay { count: Arc::clone(&self.delayed) }))
    }

    /// Gives up a place in the queue. Returns the reason to refuse with; `None` when the client is not in the queue any more:
    /// its turn has come, or the queue has dropped it.
    pub fn leave(&self, ticket: &Ticket, now: Instant) -> Option<Refusal> {
        let held = {
            let mut waiting = self.waiting();
            let held = waiting.queue.remove(ticket);
            self.held.store(waiting.queue.len(), Relaxed);
            held?
        };
        self.seniority.refused(held.client, now);
        let by_account = !held.account_paid && held.account.account().tokens().is_some();
        let blocked = if by_account { Blocked::AccountRate(Duration::ZERO) } else { Blocked::Busy };
        Some(self.reason(&blocked, now))
    }

    /// Why a client was dropped from the queue by the queue itself.
    pub fn why_no_turn(&self, now: Instant) -> Refusal {
        if self.is_draining() { Refusal::Draining } else { self.reason(&Blocked::Busy, now) }
    }

    /// Gives turns to those who wait, as many as the pace and the servers allow now. Returns when to call again: `None`
    /// while nobody waits.
    pub fn release(&self, now: Instant, rng: &mut fastrand::Rng, turns: &mut Vec<(W, Pass<C>)>) -> Option<Instant> {
        if self.held() == 0 {
            return None;
        }
        let mut waiting = self.waiting();
        let waiting = &mut *waiting;
        let again = loop {
            if let Some(at) = waiting.pace_ready_at.filter(|&at| now < at) {
                break Some(at);
            }
            let next = waiting.queue.peek(now, |held| {
                held.account_paid =
                    held.account_paid || held.account.account().tokens().is_none_or(|t| t.take().is_ok());
                held.account_paid
            });
            let Some((ticket, held)) = next else {
                break (!waiting.queue.is_empty()).then(|| now + LOOK_AGAIN);
            };
            let urgent = held.hold_until.saturating_duration_since(now) < URGENT;
            let Placement::Placed(server) = self.servers.place(now, &[], urgent, rng) else {
                break Some(now + LOOK_AGAIN);
            };
            if let Some(Err(wait)) = self.pace.as_ref().map(super::rate::Tokens::take) {
                waiting.pace_ready_at = Some(now + wait);
                break waiting.pace_ready_at;
            }
            let Some(held) = waiting.queue.take(&ticket) else { break Some(now + LOOK_AGAIN) };
            self.seniority.admitted(held.client);
            turns.push((held.waiter, Pass { server, account: held.account }));
        };
        self.held.store(waiting.queue.len(), Relaxed);
        again
    }

    /// Another server for a client whose dial went wrong; `tried` is not tried again. The pace was paid once already.
    pub fn place_again(&self, tried: &[usize], now: Instant, rng: &mut fastrand::Rng) -> Placement {
        self.servers.place(now, tried, true, rng)
    }
}
