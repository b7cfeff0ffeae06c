//! What happens next to a client at the connect check: the one order of steps, whatever brings the time. Sessions go through it by
//! the clock, `weir plan` in virtual time.

use std::time::Instant;

use crate::{
    admission::{Admission, Client, Pass, Reservation, Ticket, Verdict, WaitEstimate, Waiter, connect_check::Delay},
    outcome::Refusal,
};

/// What a client is to do now.
#[derive(Debug)]
pub enum Step {
    /// Dial.
    Dial(Pass),
    /// Wait until then, and ask [`Wait::go_on`]. Where it [is held](Wait::is_queued) its turn may come before.
    Wait(Instant),
    /// It is not in the queue any more: its turn has come, or the queue has dropped it, and [`Wait::dropped`] says why.
    Gone,
    /// Be refused, now.
    Refuse(Refusal),
}

/// How far a client has come. It holds what counts it among those who wait.
#[derive(Debug)]
pub struct Wait<W>(Stage<W>);

#[derive(Debug)]
enum Stage<W> {
    /// Promised a token of a rate by user or name.
    Reserved(Box<Reservation<W>>),
    /// In the queue.
    Queued(Ticket),
    /// To be refused, when it is time.
    Refused { reason: Refusal, _counted: Option<Delay> },
    /// There is nothing left to ask.
    Over,
}

impl<W: Waiter> Wait<W> {
    /// Begins at the connect check, with a client whose CONNECT has been read. `waiter` is told of its turn if it has to wait.
    pub fn at_connect(
        admission: &Admission<W>,
        client: Client,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> (Self, Step) {
        match admission.at_connect(client, now, rng, waiter) {
            Ok(verdict) => Self::of(verdict, now),
            Err(reservation) => {
                let at = reservation.at;
                (Self(Stage::Reserved(reservation)), Step::Wait(at))
            }
        }
    }

    /// Begins with a verdict that was given `now`.
    pub fn of(verdict: Verdict, now: Instant) -> (Self, Step) {
        match verdict {
            Verdict::Admit(pass) => (Self(Stage::Over), Step::Dial(pass)),
            Verdict::Hold { ticket, look_again } => (Self(Stage::Queued(ticket)), Step::Wait(look_again)),
            Verdict::Refuse { reason, at, .. } if at <= now => (Self(Stage::Over), Step::Refuse(reason)),
            Verdict::Refuse { reason, at, delay } => (Self(Stage::Refused { reason, _counted: delay }), Step::Wait(at)),
        }
    }

    /// Whether it waits for its turn.
    pub fn is_queued(&self) -> bool {
        matches!(self.0, Stage::Queued(_))
    }

    /// The moment has come that it was to wait for.
    pub fn go_on(&mut self, admission: &Admission<W>, now: Instant, rng: &mut fastrand::Rng) -> Step {
        match std::mem::replace(&mut self.0, Stage::Over) {
            Stage::Reserved(reservation) => {
                let (wait, step) = Self::of(admission.at_its_time(*reservation, now, rng), now);
                *self = wait;
                step
            }
            Stage::Queued(ticket) => match admission.look_again(&ticket, now, rng) {
                WaitEstimate::Hope(until) => {
                    self.0 = Stage::Queued(ticket);
                    Step::Wait(until)
                }
                WaitEstimate::None(reason) => Step::Refuse(reason),
                WaitEstimate::Gone => {
                    self.0 = Stage::Queued(ticket);
                    Step::Gone
                }
            },
            Stage::Refused { reason, .. } => Step::Refuse(reason),
            Stage::Over => Step::Gone,
        }
    }

    /// The queue has dropped it, at a drain or since its time was up: why it is to be refused.
    pub fn dropped(self, admission: &Admission<W>, now: Instant) -> Refusal {
        match self.0 {
            Stage::Queued(ticket) => admission.why_no_turn(&ticket, now),
            Stage::Reserved(_) | Stage::Refused { .. } | Stage::Over => Refusal::HoldExpired,
        }
    }

    /// The client has left.
    pub fn leave(self, admission: &Admission<W>, now: Instant) {
        if let Stage::Queued(ticket) = self.0 {
            let _ = admission.leave(&ticket, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use super::{
        super::{
            Params, Quota, QuotaIdentity, Rate, Return,
            fairness::{unknown_servers, wide_open},
        },
        *,
    };
    use crate::admission::quota::users_and_names::{PatternQuota, PatternQuotas};
    use crate::identity::ClientKey;

    #[derive(Debug)]
    struct StayingClient;

    impl Waiter for StayingClient {
        fn has_left(&self) -> bool {
            false
        }
    }

    struct Test {
        admission: Admission<StayingClient>,
        rng: fastrand::Rng,
        now: Instant,
        clients: u64,
    }

    type Begun = (Wait<StayingClient>, Step);

    impl Test {
        fn new(params: &Params) -> Self {
            let admission = Admission::new(params, unknown_servers(1));
            Self { admission, rng: fastrand::Rng::with_seed(7), now: Instant::now(), clients: 0 }
        }

        fn comes(&mut self) -> Begun {
            self.clients += 1;
            let hold_until = self.now + Duration::from_secs(10);
            let client = Client {
                account: "A".into(),
                key: ClientKey::from_raw(self.clients),
                quota_identity: QuotaIdentity { user: None, name: Some("report".into()) },
                hold_until,
                answer_by: hold_until + Duration::from_secs(1),
                returns: Return::Regardless,
            };
            Wait::at_connect(&self.admission, client, self.now, &mut self.rng, || StayingClient)
        }

        /// Lets the time come that a step is to wait for.
        fn waits_for(&mut self, step: &Step) {
            let &Step::Wait(until) = step else { panic!("{step:?}") };
            assert!(until > self.now && until <= self.now + Duration::from_secs(10));
            self.now = until;
        }

        fn go_on(&mut self, wait: &mut Wait<StayingClient>) -> Step {
            wait.go_on(&self.admission, self.now, &mut self.rng)
        }
    }

    fn one_a_second() -> Option<Rate> {
        Some(Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::MIN })
    }

    #[test]
    fn who_is_refused_counts_as_one_that_waits_until_it_is_told() {
        let mut params = Params { refusal_spread: Duration::from_secs(1), ..wide_open() };
        params.default_account.quota = Quota { max_connections: Some(1), ..Quota::default() };
        let mut test = Test::new(&params);
        let (_, step) = test.comes();
        let Step::Dial(_pass) = step else { panic!("{step:?}") };
        let (mut wait, step) = test.comes();
        assert_eq!((wait.is_queued(), test.admission.answered_later()), (false, 1));
        test.waits_for(&step);
        let told = test.go_on(&mut wait);
        assert!(matches!(told, Step::Refuse(Refusal::AccountQuota)), "{told:?}");
        assert_eq!(test.admission.answered_later(), 0);
    }

    #[test]
    fn who_is_queued_goes_on_to_its_turn_or_is_dropped() {
        let mut test = Test::new(&Params { pace: one_a_second(), ..wide_open() });
        let (_, step) = test.comes();
        assert!(matches!(step, Step::Dial(_)), "{step:?}");
        drop(step);
        let (mut first, step) = test.comes();
        let (second, _) = test.comes();
        let (third, _) = test.comes();
        assert!(first.is_queued() && second.is_queued() && test.admission.queued() == 3);
        third.leave(&test.admission, test.now);
        assert_eq!(test.admission.queued(), 2);
        let mut turns = Vec::new();
        test.admission.next_turns(test.now + Duration::from_secs(1), &mut test.rng, &mut turns);
        assert_eq!(turns.len(), 1);
        test.waits_for(&step);
        let told = test.go_on(&mut first);
        assert!(matches!(told, Step::Gone), "its turn has come: {told:?}");
        test.admission.begin_drain();
        assert_eq!(second.dropped(&test.admission, test.now), Refusal::Draining);
    }

    #[test]
    fn a_promised_token_is_waited_for_once() {
        let quota = Quota { rate: one_a_second(), ..Quota::default() };
        let names = vec![PatternQuota { pattern: "report".into(), quota }];
        let mut test = Test::new(&Params { patterns: PatternQuotas { users: Vec::new(), names }, ..wide_open() });
        let (_, step) = test.comes();
        assert!(matches!(step, Step::Dial(_)), "{step:?}");
        drop(step);
        let (mut wait, step) = test.comes();
        assert_eq!((wait.is_queued(), test.admission.reserved()), (false, 1));
        test.waits_for(&step);
        let told = test.go_on(&mut wait);
        assert!(matches!(told, Step::Dial(_)), "{told:?}");
        assert_eq!(test.admission.reserved(), 0);
    }

    #[test]
    fn nobody_is_placed_again_once_its_time_is_up() {
        use crate::admission::Failover;
        let mut test = Test::new(&wide_open());
        let second = Duration::from_secs(1);
        let mut again = |tried: &[usize], by| test.admission.place_again(tried, test.now + by, test.now, &mut test.rng);
        assert!(matches!(again(&[], second), Failover::Placed(_)));
        assert!(matches!(again(&[0], second), Failover::Refuse(Refusal::ServerCapacity)), "there is no other");
        assert!(matches!(again(&[], Duration::ZERO), Failover::Refuse(Refusal::HoldExpired)));
        let slots: Vec<_> =
            (0..100).map_while(|_| Some(again(&[], second)).filter(|a| matches!(a, Failover::Placed(_)))).collect();
        let busy = again(&[], second);
        assert!(matches!(busy, Failover::Busy(until) if until > test.now), "{busy:?} after {}", slots.len());
    }
}
