//! Those who wait: whose turn it is, and for whom there is no hope left.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{
    admission::{Admission, Pass, Return, Ticket, Waiter, connect_check::Blocked},
    outcome::Refusal,
    upstream::{Placement, Slot, Urgency},
};

/// While a client has less time left than this it takes any server with room.
const URGENT: Duration = Duration::from_millis(250);
/// How soon to look again when servers are busy or full: they have no timer to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// A client with less time left than this is not made to look at its hopes again.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// A turn must be foretold for this part of the time that is left: the pace is never known better than that, whoever is told too late
/// that it upper_rate in vain comes back later by as much, and with an scheduled_retry those at the edge of hope are many, since those who leave
/// are not ahead of each other.
const ENOUGH: f64 = 0.9;
/// A client of which it is known when it comes back looks at its hopes at once where the pace is known; else within this, and it is
/// known by then, or it looks again as soon.
const FIRST_LOOK: Duration = Duration::from_millis(400);
/// A client whose turn comes in time only if more are served than so far looks at its hopes again within this.
const IN_DOUBT: Duration = Duration::from_millis(200);

/// Turns are given out this long after they come up at most, at random: neighbours in the queue reach the servers apart.
const JITTER: Duration = Duration::from_millis(4);

/// What a client that waits is told when it looks again.
#[derive(Debug)]
pub enum WaitEstimate {
    /// Wait on, and look again then.
    Hope(Instant),
    /// No: refuse, for this reason.
    None(Refusal),
    /// It is not in the queue any more: its turn has come, or the queue has dropped it.
    Gone,
}

/// What becomes of a client whose server has failed it.
#[derive(Debug)]
pub enum Failover {
    /// It is dialled again.
    Placed(Slot),
    /// There is room, but not this moment: ask again then.
    Busy(Instant),
    /// It is refused.
    Refuse(Refusal),
}

/// At a random moment of what is left. So those that cannot be served are told at different times, and come back spread out
/// instead of in step; and each is judged by what is known of the storm at that time, not when it began.
fn next_look(until: Instant, now: Instant, rng: &mut fastrand::Rng) -> Instant {
    let left = until.saturating_duration_since(now);
    if left <= LAST_LOOK { until } else { now + left.mul_f64(rng.f64()) }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

impl<W: Waiter> Admission<W> {
    /// When a client that must wait looks at its hopes for the first time.
    pub fn first_look(
        &self,
        blocked: &Blocked,
        returns: Return,
        last_turn: Instant,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Instant {
        match (blocked, returns) {
            (Blocked::Full, _) => next_look(last_turn.min(now + self.refusal_spread), now, rng),
            // It gains nothing from being told early.
            (_, Return::Regardless) => last_turn,
            // The sooner it is known that its turn comes only after it could be back, the sooner it is back.
            (_, Return::After(_) | Return::Doubling { .. }) if self.pace(now).is_some() => now,
            (_, Return::After(_) | Return::Doubling { .. }) => next_look(last_turn.min(now + FIRST_LOOK), now, rng),
            _ => next_look(last_turn, now, rng),
        }
    }

    /// Whether a client that waits can still hope for its turn.
    pub fn look_again(&self, ticket: &Ticket, now: Instant, rng: &mut fastrand::Rng) -> WaitEstimate {
        let hope = {
            let waiting = &mut *self.waiting();
            let known = self.pace_seeing(waiting.throughput.rate(now));
            let pace = known.unwrap_or(f64::INFINITY);
            let upper_rate = self.pace_seeing(waiting.throughput.upper_rate(now)).unwrap_or(f64::INFINITY);
            let Some((held, ahead)) = waiting.queue.find(ticket) else { return WaitEstimate::Gone };
            let last_turn = held.last_turn();
            let left = last_turn.saturating_duration_since(now);
            // Whoever is next may hope as long as there is time, whatever the pace was.
            let turn_at = |pace: f64| if ahead == 0 { Duration::ZERO } else { seconds(ahead as f64 / pace) };
            let enough = left.mul_f64(ENOUGH);
            if left.is_zero() {
                None
            } else if turn_at(upper_rate) < enough {
                if let Some(scheduled_retry) = waiting.queue.set_scheduled_retry(ticket, None) {
                    waiting.retry_schedule.cancel(scheduled_retry);
                }
                let soon = match known {
                    None => now + FIRST_LOOK,
                    Some(pace) if turn_at(pace) >= enough => now + IN_DOUBT,
                    Some(_) => last_turn,
                };
                Some(next_look(last_turn.min(soon), now, rng))
            } else {
                // Its turn does not come in time: it is refused when it should come back for another try.
                let keep = match held.returns.after_refusals(self.client_history.refusals(held.client)) {
                    _ if held.scheduled_retry.is_some() => Duration::ZERO,
                    Return::After(wait) => {
                        let (keep, scheduled_retry) = waiting.retry_schedule.schedule(now, wait, left, pace, rng);
                        waiting.queue.set_scheduled_retry(ticket, Some(scheduled_retry));
                        keep
                    }
                    Return::Regardless => left,
                    Return::Unknown | Return::Doubling { .. } => Duration::ZERO,
                };
                (keep > LAST_LOOK).then_some(now + keep)
            }
        };
        match hope {
            Some(look) if self.servers.has_headroom(now) => WaitEstimate::Hope(look),
            _ => self.leave(ticket, now).map_or(WaitEstimate::Gone, WaitEstimate::None),
        }
    }

    /// Gives up a place in the queue. Returns the reason to refuse with; `None` when the client is not in the queue any more:
    /// its turn has come, or the queue has dropped it.
    pub fn leave(&self, ticket: &Ticket, now: Instant) -> Option<Refusal> {
        let held = {
            let mut waiting = self.waiting();
            let held = waiting.queue.remove(ticket);
            self.queued.store(waiting.queue.len(), Relaxed);
            if waiting.queue.is_empty() {
                waiting.throughput.rest();
            }
            held?
        };
        self.client_history.refused(held.client, now);
        Some(self.why_waited(!held.account_paid && held.account.account().has_rate(), now))
    }

    /// Why a client was dropped from the queue by the queue itself: it is told as one that left in vain.
    pub fn why_no_turn(&self, ticket: &Ticket, now: Instant) -> Refusal {
        if self.is_draining() {
            return Refusal::Draining;
        }
        self.client_history.refused(ticket.client, now);
        self.why_waited(ticket.unpaid, now)
    }

    fn why_waited(&self, by_account: bool, now: Instant) -> Refusal {
        self.reason(if by_account { &Blocked::AccountRate } else { &Blocked::NotYet }, now)
    }

    /// Gives turns to those who wait, as many as the pace and the servers allow now. Returns when to call again: `None`
    /// while nobody waits.
    pub fn next_turns(&self, now: Instant, rng: &mut fastrand::Rng, turns: &mut Vec<(W, Pass)>) -> Option<Instant> {
        if self.queued() == 0 {
            return None;
        }
        let mut waiting = self.waiting();
        let waiting = &mut *waiting;
        waiting.throughput.look(now, self.finished.load(Relaxed), waiting.queue.arrivals());
        let again = loop {
            if let Some(at) = waiting.pace_ready_at.filter(|&at| now < at) {
                break Some(at);
            }
            let next = waiting.queue.peek(now, |held| {
                let account = held.account.account();
                held.account_paid = held.account_paid || account.take_token(now);
                held.account_paid && account.has_room_for_handshake()
            });
            let Some((ticket, held)) = next else {
                break (!waiting.queue.is_empty()).then(|| now + LOOK_AGAIN);
            };
            let is_urgent = held.last_turn().saturating_duration_since(now) < URGENT;
            let account = Arc::clone(held.account.account());
            let haste = if is_urgent { Urgency::Urgent } else { Urgency::CanWait(waiting.queue.len()) };
            let Placement::Placed(server) = self.servers.place(now, &[], haste, rng) else {
                break Some(now + LOOK_AGAIN);
            };
            if let Some(Err(wait)) = self.pace.as_ref().map(|pace| pace.take(now)) {
                waiting.pace_ready_at = Some(now + wait);
                break waiting.pace_ready_at;
            }
            // Another worker may have begun the last one since the look above.
            if !account.begin_handshake() {
                break Some(now + LOOK_AGAIN);
            }
            let Some(mut held) = waiting.queue.take(&ticket) else {
                account.end_handshake();
                break Some(now + LOOK_AGAIN);
            };
            held.account.handshake_begun();
            self.client_history.admitted(held.client);
            if let Some(scheduled_retry) = held.scheduled_retry {
                waiting.retry_schedule.cancel(scheduled_retry);
            }
            turns.push((held.waiter, Pass { server, account: held.account }));
        };
        if waiting.queue.is_empty() {
            waiting.throughput.rest();
        }
        self.queued.store(waiting.queue.len(), Relaxed);
        again.map(|at| at + JITTER.mul_f64(rng.f64()))
    }

    /// Another server for a client whose dial went wrong, and that must have its answer by `answer_by`; `tried` is not tried again.
    /// The pace was paid once already.
    pub fn place_again(&self, tried: &[usize], answer_by: Instant, now: Instant, rng: &mut fastrand::Rng) -> Failover {
        if now >= answer_by {
            return Failover::Refuse(Refusal::HoldExpired);
        }
        match self.servers.place(now, tried, Urgency::Urgent, rng) {
            Placement::Placed(slot) => Failover::Placed(slot),
            Placement::Busy => Failover::Busy(now + LOOK_AGAIN),
            Placement::Full => Failover::Refuse(Refusal::ServerCapacity),
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::{
        admission::{
            Client, QuotaIdentity, Verdict,
            fairness::{unknown_servers, wide_open},
        },
        identity::ClientKey,
        upstream::concurrency::baseline::MeasuredFrom,
    };

    #[derive(Debug)]
    struct StayingClient;

    impl Waiter for StayingClient {
        fn has_left(&self) -> bool {
            false
        }
    }

    /// In the first 0.3 s of a storm 2,400 clients come, every third of them is let in, and how many could be is not known: when the last
    /// that came looks at its hopes again, if it may wait for so many seconds more.
    fn second_look(left: f64) -> Duration {
        let admission = Admission::new(&wide_open(), unknown_servers(1));
        let (mut rng, mut now) = (fastrand::Rng::with_seed(7), Instant::now());
        let (mut under_way, mut turns, mut last) = (Vec::new(), Vec::new(), None);
        for n in 0..2400 {
            let hold_until = now + seconds(if n == 2399 { left } else { 5.0 });
            let client = Client {
                account: "A".into(),
                key: ClientKey::from_raw(n),
                quota_identity: QuotaIdentity::default(),
                hold_until,
                answer_by: hold_until + Duration::from_secs(1),
                returns: Return::Regardless,
            };
            match admission.at_connect(client, now, &mut rng, || StayingClient).expect("no rate is set") {
                Verdict::Admit(pass) => under_way.push(pass),
                Verdict::Hold { ticket, .. } => last = Some(ticket),
                Verdict::Refuse { reason, .. } => panic!("{reason:?}"),
            }
            if n % 3 == 0
                && let Some(mut pass) = under_way.pop()
            {
                admission.handshake_finished(
                    &mut pass,
                    Duration::from_millis(1),
                    MeasuredFrom::Dial,
                    Duration::ZERO,
                    now,
                );
                admission.next_turns(now, &mut rng, &mut turns);
                under_way.extend(turns.drain(..).map(|(_, pass)| pass));
            }
            now += Duration::from_micros(125);
        }
        let (held, pace) = (admission.queued() as f64, admission.pace(now).expect("it has been seen"));
        assert!((0.45..0.6).contains(&(held / pace)), "{held} wait, {pace} a second");
        match admission.look_again(&last.expect("somebody waits"), now, &mut rng) {
            WaitEstimate::Hope(at) => at - now,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_hopes_for_more_than_was_served_so_far_looks_again_soon() {
        assert!(second_look(0.45) <= IN_DOUBT);
        assert!(second_look(2.0) > IN_DOUBT);
    }
}
