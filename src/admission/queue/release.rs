//! Whose turn is next, and for which clients in the queue it comes too late.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{
    admission::{
        client::Pass,
        connect_check::{Blocked, Verdict},
        controller::Admission,
        queue::waiting::{Ticket, Waiter},
        quota::{account::LoginOf, logins::Avoided},
        retry_schedule::{Estimate, Situation, answer_at, lease_check},
    },
    client_library::returns::Return,
    identity::CredentialKey,
    outcome::Refusal,
    upstream::{Placement, ServerId, Slot, Urgency},
};

/// A client with less time left than this is placed on any server with room.
const URGENT: Duration = Duration::from_millis(250);
/// How soon to try again when servers are busy or full: nothing tells when they no longer are.
const RETRY: Duration = Duration::from_millis(5);

/// Safety factor on the wait estimate. A client stays queued only if its estimated wait is below 90 % of the time it
/// has left. The service rate is not known more precisely than that, and a client that is told too late loses a whole
/// retry interval (2 s for Go). With scheduled retries many clients are near that limit, since clients that are to
/// leave do not count as being ahead of each other.
const SAFETY_FACTOR: f64 = 0.9;

/// A turn is given at a random moment up to this long after it comes up, so that neighbours in the queue reach the
/// servers apart.
const JITTER: Duration = Duration::from_millis(4);

/// What is known of a queued client's turn.
#[derive(Debug)]
pub(in crate::admission) enum WaitEstimate {
    /// It may come in time; it is to be estimated again then.
    CheckAt(Instant),
    /// It does not come in time: the client has left the queue, and is to be refused for this reason.
    TooLate(Refusal),
    /// The client is not in the queue any more: its turn has come, or the queue has dropped it.
    Gone,
}

/// What becomes of a client whose server has failed it.
#[derive(Debug)]
pub enum Failover {
    /// It is dialled again, on this server.
    Placed(Slot),
    /// There is room, but every server with room is busy this moment: ask again then.
    Busy(Instant),
    /// It is refused.
    Refuse(Refusal),
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// How far the logins of an account that are under way keep the next one out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeptOut {
    /// Clients of other accounts may go to some servers to which this one may not.
    OfSome,
    /// It may go nowhere, so that no place is to be kept for it.
    OfAll,
}

impl<W: Waiter> Admission<W> {
    /// Whether the turn of a queued client is expected in time. A client whose turn is not leaves the queue, at the
    /// moment that suits its retry.
    pub(in crate::admission) fn estimate_turn(
        &self,
        ticket: &Ticket,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> WaitEstimate {
        let is_paused = self.is_paused();
        let check_at = {
            let state = &mut *self.queue_state();
            let rate = self.pace_with(state.throughput.rate(now));
            let upper_rate = self.pace_with(state.throughput.upper_rate(now)).unwrap_or(f64::INFINITY);
            let Some((client, ahead)) = state.queue.find(ticket) else { return WaitEstimate::Gone };
            let (last_turn, returns, scheduled_retry) = (client.last_turn(), client.returns, client.scheduled_retry);
            let left = last_turn.saturating_duration_since(now);
            let by_lease = client.account.waits_for().is_some().then(|| lease_check(now, rng));
            // The next client stays as long as there is time, whatever the rate was.
            let turn_after = |rate: f64| if ahead == 0 { Duration::ZERO } else { seconds(ahead as f64 / rate) };
            let longest = left.mul_f64(SAFETY_FACTOR);
            if left.is_zero() || client.account.waits_in_vain() {
                None
            } else if is_paused {
                if let Some(retry) = state.queue.set_scheduled_retry(ticket, None) {
                    state.retry_schedule.cancel(retry);
                }
                Some(answer_at(Situation::Paused, returns, last_turn, self.refusal_spread(), now, rng).0)
            } else if turn_after(upper_rate) < longest {
                if let Some(retry) = state.queue.set_scheduled_retry(ticket, None) {
                    state.retry_schedule.cancel(retry);
                }
                let estimate = match rate {
                    None => Estimate::Unknown,
                    Some(rate) if turn_after(rate) >= longest => Estimate::UpperBound,
                    Some(_) => Estimate::Rate,
                };
                let situation = Situation::InTime(estimate);
                let (at, _) = answer_at(situation, returns, last_turn, self.refusal_spread(), now, rng);
                Some(by_lease.map_or(at, |check| at.min(check)))
            } else if scheduled_retry.is_some() {
                None
            } else {
                let returns = returns.after_refusals(self.client_history.refusals(ticket.client));
                let rate = rate.unwrap_or(f64::INFINITY);
                let situation = Situation::TooLate { schedule: &mut state.retry_schedule, rate };
                let (at, retry) = answer_at(situation, returns, last_turn, self.refusal_spread(), now, rng);
                if retry.is_some() {
                    state.queue.set_scheduled_retry(ticket, retry);
                }
                (at > now).then_some(at)
            }
        };
        match check_at {
            Some(at) if is_paused || self.servers.has_headroom(now) => WaitEstimate::CheckAt(at),
            _ => self.leave_queue(ticket, now).map_or(WaitEstimate::Gone, WaitEstimate::TooLate),
        }
    }

    /// Gives up a place in the queue. Returns the reason to refuse with; `None` when the client is not in the queue any
    /// more: its turn has come, or the queue has dropped it.
    pub(in crate::admission) fn leave_queue(&self, ticket: &Ticket, now: Instant) -> Option<Refusal> {
        let client = {
            let mut state = self.queue_state();
            let client = state.queue.remove(ticket);
            self.queued.store(state.queue.len(), Relaxed);
            if state.queue.is_empty() {
                state.throughput.rest();
            }
            client?
        };
        self.client_history.refused(client.client, now);
        let unpaid = !client.account_paid && client.account.account().has_rate();
        Some(self.why_waited(client.account.waits_for(), unpaid, now))
    }

    /// The queue itself has dropped this client.
    pub(in crate::admission) fn dropped(&self, ticket: &Ticket, now: Instant, rng: &mut fastrand::Rng) -> Verdict<W> {
        if self.is_draining() {
            let spread = self.refusal_spread().min(self.drain_spread());
            let (at, _) = answer_at(Situation::Drained, Return::Unknown, ticket.hold_until, spread, now, rng);
            return Verdict::Refuse { reason: Refusal::Draining, at, permit: self.answered_later.try_acquire() };
        }
        self.client_history.refused(ticket.client, now);
        Verdict::Refuse { reason: self.why_waited(ticket.waits_for, ticket.unpaid, now), at: now, permit: None }
    }

    fn why_waited(&self, for_lease: Option<Refusal>, by_account: bool, now: Instant) -> Refusal {
        let by_rate = if by_account { Blocked::AccountRate } else { Blocked::NotYet };
        self.reason(for_lease.map_or(by_rate, Blocked::Lease), now)
    }

    /// A server has named the account of a credential that nobody knew.
    pub fn account_is_named(&self, credential: CredentialKey) {
        if self.queued() > 0 {
            self.queue_state().queue.account_is_named(credential);
        }
    }

    /// Takes the clients out of the queue whose turn it is: as many as the pace and the servers allow now. They are
    /// appended to `turns`. Returns when to call again; `None` while the queue is empty, and in a pause.
    pub fn next_turns(&self, now: Instant, rng: &mut fastrand::Rng, turns: &mut Vec<(W, Pass)>) -> Option<Instant> {
        // Whoever waits leaves the queue by itself at the end of its time.
        if self.queued() == 0 || self.is_paused() {
            return None;
        }
        let mut state = self.queue_state();
        let state = &mut *state;
        self.share_pace(&state.queue, now);
        state.throughput.update(now, self.finished.load(Relaxed), state.queue.arrivals());
        // Lanes and accounts that may not have another login now where there is room.
        let mut passed_over: Vec<Arc<str>> = Vec::new();
        let mut keep_their_turn = Vec::new();
        let again = loop {
            if let Some(at) = state.pace_ready_at.filter(|&at| now < at) {
                break Some(at);
            }
            let next = state.queue.peek(now, |client| {
                // It takes them only when it goes: whoever comes before it meanwhile would wait for them in vain.
                let has_places = client.account.has_places_or_room(now);
                client.account_paid = client.account_paid || has_places && client.account.take_token(now);
                let account = client.account.account();
                let is_passed_over = passed_over.contains(client.lane()) || passed_over.contains(account.name());
                has_places && client.account_paid && account.has_room_for_handshake() && !is_passed_over
            });
            let Some((ticket, client)) = next else {
                break (!state.queue.is_empty()).then(|| now + RETRY);
            };
            let is_urgent = client.last_turn().saturating_duration_since(now) < URGENT;
            let (account, source) = (Arc::clone(client.account.account()), client.account.login().source);
            let haste = if is_urgent { Urgency::Urgent } else { Urgency::CanWait(state.queue.len()) };
            let login = LoginOf { account: &account, source };
            let Placement::Placed(server) = self.place(login, &[], now, haste, rng) else {
                let Some(kept_out) = self.kept_out(login, now) else { break Some(now + RETRY) };
                let all = account.is_kept_out_by_others(source);
                passed_over.push(if all { Arc::clone(account.name()) } else { Arc::clone(&ticket.lane) });
                if kept_out == KeptOut::OfSome {
                    keep_their_turn.push(ticket);
                }
                continue;
            };
            if let Err(wait) = self.pace.take(now) {
                state.pace_ready_at = Some(now + wait);
                break state.pace_ready_at;
            }
            // Another worker may have begun the last one since `peek`.
            if !account.begin_handshake() {
                break Some(now + RETRY);
            }
            let has_places = state.queue.get_mut(&ticket).map(|client| client.account.take_places(now));
            if has_places == Some(false) {
                // Another worker has taken the last one since.
                account.end_handshake();
                passed_over.push(ticket.lane);
                continue;
            }
            let Some(mut client) = state.queue.take(&ticket) else {
                account.end_handshake();
                break Some(now + RETRY);
            };
            client.account.handshake_begun();
            self.client_history.admitted(client.client);
            if let Some(retry) = client.scheduled_retry {
                state.retry_schedule.cancel(retry);
            }
            turns.push((client.waiter, Pass::new(server, client.account)));
            self.share_pace(&state.queue, now);
        };
        // The first of them is the first again.
        keep_their_turn.iter().rev().for_each(|ticket| state.queue.keeps_turn(ticket));
        self.tell_pace(&state.queue, now);
        if state.queue.is_empty() {
            state.throughput.rest();
        }
        self.queued.store(state.queue.len(), Relaxed);
        again.map(|at| at + JITTER.mul_f64(rng.f64()))
    }

    /// From how many servers logins of its own account keep a client; `None` where none do, and nobody else gets a
    /// place either.
    fn kept_out(&self, login: LoginOf<'_>, now: Instant) -> Option<KeptOut> {
        let Avoided { barred, disliked } = self.avoided(login, now)?;
        let is_barred_from_all = || self.servers.list().iter().all(|server| barred.contains(&server.id()));
        match (barred.is_empty() && disliked.is_empty(), is_barred_from_all()) {
            (true, _) => None,
            (false, true) => Some(KeptOut::OfAll),
            (false, false) => Some(KeptOut::OfSome),
        }
    }

    /// Where a client of this account is not sent. One that has not said yet who it is, and will sign the nonce of its
    /// server, cannot be sent elsewhere later: it goes where no login is overdue, whoever's that is,
    /// and not where clients of its source were refused shortly before.
    pub(in crate::admission) fn avoided(&self, login: LoginOf<'_>, now: Instant) -> Option<Avoided> {
        let LoginOf { account, source } = login;
        if !account.is_nobody() {
            return account.avoided(source, now, |server| self.least_of_account(account, server));
        }
        let list = self.servers.list();
        let overdue = list.iter().filter(|server| server.load().overdue() > 0);
        let refused_by = self.login_history.avoided_by(account.name(), now);
        let disliked: Vec<_> = overdue.map(|server| server.id()).chain(refused_by).collect();
        (!disliked.is_empty()).then(|| Avoided { barred: Vec::new(), disliked })
    }

    /// A server for a login of this account, other than those that were `tried`: not where the account has as many
    /// logins under way as it may have, and where its logins hang only if there is no other.
    pub(in crate::admission) fn place(
        &self,
        login: LoginOf<'_>,
        tried: &[ServerId],
        now: Instant,
        urgency: Urgency,
        rng: &mut fastrand::Rng,
    ) -> Placement {
        let Some(Avoided { mut barred, mut disliked }) = self.avoided(login, now) else {
            return self.servers.place(now, tried, urgency, rng);
        };
        barred.extend_from_slice(tried);
        if !disliked.is_empty() {
            disliked.extend_from_slice(&barred);
            match (self.servers.place_well(now, &disliked, urgency, rng), urgency) {
                (Placement::Full, _) | (Placement::Busy, Urgency::Urgent) => {}
                (placed, _) => return placed,
            }
        }
        match self.servers.place(now, &barred, urgency, rng) {
            Placement::Placed(slot) => Placement::Placed(slot),
            placed => {
                barred.truncate(barred.len() - tried.len());
                // The last login there may have been the client's own: nothing is to be waited for.
                barred.retain(|server| !tried.contains(server));
                login.account.want_place(&barred);
                if barred.is_empty() { placed } else { Placement::Busy }
            }
        }
    }

    /// Another server for a client (of this account, where it is known) whose dial has failed, and that must have its
    /// answer by `answer_by`; servers in `tried` are passed over. The client has paid for the pace already.
    pub fn place_again(
        &self,
        login: Option<LoginOf<'_>>,
        tried: &[ServerId],
        answer_by: Instant,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Failover {
        if now >= answer_by {
            let no_server = self.servers.can_use_none(now);
            return Failover::Refuse(if no_server { Refusal::NoServer } else { Refusal::HoldExpired });
        }
        let placed = match login {
            Some(login) => self.place(login, tried, now, Urgency::Urgent, rng),
            None => self.servers.place(now, tried, Urgency::Urgent, rng),
        };
        match placed {
            Placement::Placed(slot) => Failover::Placed(slot),
            Placement::Busy | Placement::Full if self.is_observing() => {
                let placed = self.servers.place_over(now, tried, rng);
                placed.map_or_else(|| Failover::Refuse(self.servers.no_room(now)), Failover::Placed)
            }
            Placement::Busy => Failover::Busy(now + RETRY),
            Placement::Full => Failover::Refuse(self.servers.no_room(now)),
        }
    }
}

#[cfg(test)]
mod tests {

    use std::sync::Arc;

    use super::*;
    use crate::{
        admission::{
            Client, Return,
            connect_check::Verdict,
            fairness::{client, unknown_servers, wide_open},
            retry_schedule::RATE_UNCERTAIN_CHECK,
        },
        upstream::concurrency::baseline::MeasuredFrom,
    };

    #[derive(Debug)]
    struct StayingClient;

    impl Waiter for StayingClient {
        fn has_left(&self) -> bool {
            false
        }
    }

    /// In the first 0.3 s of a storm 2,400 clients come and every third of them is admitted; how many could be is not
    /// known. How soon the turn of the last client is estimated again, if it may wait for so many seconds more.
    fn second_check(left: f64) -> Duration {
        let admission = Admission::new(&wide_open(), unknown_servers(1));
        let (mut rng, mut now) = (fastrand::Rng::with_seed(7), Instant::now());
        let (mut under_way, mut turns, mut last) = (Vec::new(), Vec::new(), None);
        for n in 0..2400 {
            let hold_until = now + seconds(if n == 2399 { left } else { 5.0 });
            let answer_by = hold_until + Duration::from_secs(1);
            let client = Client { hold_until, answer_by, returns: Return::Regardless, ..client("A", n, now) };
            match admission.at_connect(client, now, &mut rng, || StayingClient) {
                Verdict::Admit(pass) => under_way.push(pass),
                Verdict::Hold { ticket, .. } => last = Some(ticket),
                other => panic!("{other:?}"),
            }
            if n % 3 == 0
                && let Some(mut pass) = under_way.pop()
            {
                admission.handshake_finished(
                    &mut pass,
                    Duration::from_millis(1),
                    (MeasuredFrom::Dial, Duration::ZERO),
                    None,
                    now,
                );
                admission.next_turns(now, &mut rng, &mut turns);
                under_way.extend(turns.drain(..).map(|(_, pass)| pass));
            }
            now += Duration::from_micros(125);
        }
        let (held, pace) = (admission.queued() as f64, admission.pace(now).expect("it has been seen"));
        assert!((0.45..0.6).contains(&(held / pace)), "{held} wait, {pace} a second");
        match admission.estimate_turn(&last.expect("somebody waits"), now, &mut rng) {
            WaitEstimate::CheckAt(at) => at - now,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_turn_that_comes_only_at_the_upper_bound_of_the_rate_is_estimated_again_soon() {
        assert!(second_check(0.45) <= RATE_UNCERTAIN_CHECK);
        assert!(second_check(2.0) > RATE_UNCERTAIN_CHECK);
    }

    /// A login that the only server has refused, while the account has as many under way there as it may have.
    #[test]
    fn a_server_that_was_tried_is_not_waited_for() {
        let admission = Admission::new(&wide_open(), unknown_servers(1));
        let (mut rng, now) = (fastrand::Rng::with_seed(7), Instant::now());
        let until = now + seconds(5.0);
        let client = Client { hold_until: until, answer_by: until, returns: Return::Regardless, ..client("A", 1, now) };
        let Verdict::Admit(mut pass) = admission.at_connect(client, now, &mut rng, || StayingClient) else {
            panic!("it is the first")
        };
        // One login hangs, and others have: one at a time is what the account has left.
        pass.login_is_overdue();
        let server = Arc::clone(pass.server.server());
        for _ in 0..4 {
            admission.login_unanswered(pass.account.account(), &server, (now, true), None, now);
        }
        let login = pass.account.login();
        let mut again =
            |tried: &[ServerId]| admission.place_again(Some(login), tried, now + seconds(1.0), now, &mut rng);
        assert!(matches!(again(&[]), Failover::Busy(_)), "one more has to wait");
        assert!(matches!(again(&[ServerId::from_raw(0)]), Failover::Refuse(_)), "nothing is to be waited for");
    }
}
