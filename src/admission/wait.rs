//! The state machine of a client that is not admitted yet. It is the only way to the connect check and the queue:
//! sessions drive it by the clock, `weir plan` in virtual time, and both take the same steps in the same order.
//!
//! | state | what it waits for | entered by | what ends it |
//! |---|---|---|---|
//! | `Reserved` | a promised token of a user's or name's rate | `at_connect` | its time: the check goes on |
//! | `Queued` | its turn | `at_connect`, `with_quotas`, `before_connect`, `Reserved` | its turn, or one too late |
//! | `Refused` | the moment of its refusal | `at_connect`, `refused`, `refused_at_accept`, `dropped` | that moment |
//! | `Over` | nothing: it is admitted or told | all | |

use std::{sync::Arc, time::Instant};

use crate::{
    admission::{
        client::{Client, Pass, SilentClient},
        connect_check::{Reservation, Verdict},
        controller::Admission,
        queue::{
            release::WaitEstimate,
            waiting::{Ticket, Waiter},
        },
        quota::{
            account::{Account, AccountSlot},
            limit::Permit,
        },
    },
    outcome::Refusal,
};

/// What a client is to do now.
#[derive(Debug)]
pub enum Step {
    /// Dial.
    Dial(Pass),
    /// Wait until then, and call [`Wait::go_on`]. Where it [is queued](Wait::is_queued) its turn may come before.
    Wait(Instant),
    /// The client is not in the queue any more: its turn has come, or the queue has dropped it and [`Wait::dropped`]
    /// says what is next.
    Gone,
    /// Be refused, now.
    Refuse(Refusal),
}

/// How far a client has come. It holds what counts the client among those that wait.
#[derive(Debug)]
pub struct Wait<W>(State<W>);

#[derive(Debug)]
enum State<W> {
    /// Waits for a token of a rate by user or name.
    Reserved(Box<Reservation<W>>),
    /// In the queue; `lacks` is why it could not be admitted at once, where that was for a place.
    Queued { ticket: Ticket, lacks: Option<Refusal> },
    /// To be refused, at its moment.
    Refused { reason: Refusal, _permit: Option<Permit> },
    /// There is nothing left to ask.
    Over,
}

impl<W: Waiter> Wait<W> {
    /// Begins at the connect check, with a client whose CONNECT has been read. `waiter` gets the pass if the client has
    /// to wait for it.
    pub fn at_connect(
        admission: &Admission<W>,
        client: Client,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> (Self, Step) {
        Self::begin(admission.at_connect(client, now, rng, waiter), now)
    }

    /// Begins with a client that [has entered](Admission::enter_account) its quotas, and has no server any more.
    pub fn with_quotas(
        admission: &Admission<W>,
        client: &Client,
        account: AccountSlot,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> (Self, Step) {
        Self::begin(admission.with_quotas(client, account, now, rng, waiter), now)
    }

    /// Begins before CONNECT, in front of servers that are dialled first: it waits in the lane of its source. Once it
    /// is known who the client is, [`Admission::enter_account`] is to be asked.
    pub fn before_connect(
        admission: &Admission<W>,
        client: SilentClient,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> (Self, Step) {
        Self::begin(admission.before_connect(client, now, rng, waiter), now)
    }

    /// Begins with a session of this account that goes to another server.
    pub fn at_move(
        admission: &Admission<W>,
        client: &Client,
        account: &Arc<Account>,
        now: Instant,
        rng: &mut fastrand::Rng,
        waiter: impl FnOnce() -> W,
    ) -> (Self, Step) {
        Self::begin(admission.at_move(client, account, now, rng, waiter), now)
    }

    /// Begins with a client that is refused for this reason, whatever the connect check would say.
    pub fn refused(
        admission: &Admission<W>,
        reason: Refusal,
        client: &Client,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> (Self, Step) {
        Self::begin(admission.refuse_later(reason, client, now, rng), now)
    }

    /// Begins with a client that the accept check has refused, and that can be kept until `until`.
    pub fn refused_at_accept(
        admission: &Admission<W>,
        reason: Refusal,
        until: Instant,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> (Self, Step) {
        Self::begin(admission.refuse_at_accept(reason, until, now, rng), now)
    }

    fn begin(verdict: Verdict<W>, now: Instant) -> (Self, Step) {
        match verdict {
            Verdict::Admit(pass) => (Self(State::Over), Step::Dial(pass)),
            Verdict::Reserve(reservation) => {
                let at = reservation.at;
                (Self(State::Reserved(reservation)), Step::Wait(at))
            }
            Verdict::Hold { ticket, check_at, lacks } => (Self(State::Queued { ticket, lacks }), Step::Wait(check_at)),
            Verdict::Refuse { reason, at, .. } if at <= now => (Self(State::Over), Step::Refuse(reason)),
            Verdict::Refuse { reason, at, permit } => {
                (Self(State::Refused { reason, _permit: permit }), Step::Wait(at))
            }
        }
    }

    /// Whether it is in the queue, so that its turn may come.
    pub fn is_queued(&self) -> bool {
        matches!(self.0, State::Queued { .. })
    }

    /// Whether it waits to get in, in the queue or for a token of a rate, and not for its refusal.
    pub fn is_held(&self) -> bool {
        matches!(self.0, State::Queued { .. } | State::Reserved(_))
    }

    /// The place that it lacks, by the reason for which clients without one are refused.
    pub fn lacks(&self) -> Option<Refusal> {
        match self.0 {
            State::Queued { lacks, .. } => lacks,
            State::Refused { reason, .. } => Some(reason).filter(|reason| reason.is_for_a_place()),
            State::Reserved(_) | State::Over => None,
        }
    }

    /// The moment has come that [`Step::Wait`] named.
    pub fn go_on(&mut self, admission: &Admission<W>, now: Instant, rng: &mut fastrand::Rng) -> Step {
        match std::mem::replace(&mut self.0, State::Over) {
            State::Reserved(reservation) => {
                let (wait, step) = Self::begin(admission.at_reserved_time(*reservation, now, rng), now);
                *self = wait;
                step
            }
            State::Queued { ticket, lacks } => match admission.estimate_turn(&ticket, now, rng) {
                WaitEstimate::CheckAt(at) => {
                    self.0 = State::Queued { ticket, lacks };
                    Step::Wait(at)
                }
                WaitEstimate::TooLate(reason) => Step::Refuse(reason),
                WaitEstimate::Gone => {
                    self.0 = State::Queued { ticket, lacks };
                    Step::Gone
                }
            },
            State::Refused { reason, .. } => Step::Refuse(reason),
            State::Over => Step::Gone,
        }
    }

    /// The queue has dropped the client, at a drain or since its time was up: it is to be refused.
    pub fn dropped(&mut self, admission: &Admission<W>, now: Instant, rng: &mut fastrand::Rng) -> Step {
        let State::Queued { ticket, .. } = std::mem::replace(&mut self.0, State::Over) else {
            return Step::Refuse(Refusal::HoldExpired);
        };
        let (wait, step) = Self::begin(admission.dropped(&ticket, now, rng), now);
        *self = wait;
        step
    }

    /// Its waiter has got the pass: it is not in the queue any more.
    pub fn turn_has_come(&mut self) {
        self.0 = State::Over;
    }

    /// The client has left.
    pub fn leave(&mut self, admission: &Admission<W>, now: Instant) {
        if let State::Queued { ticket, .. } = std::mem::replace(&mut self.0, State::Over) {
            let _ = admission.leave_queue(&ticket, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use super::{
        super::{
            Params, PatternQuota, Quota, QuotaIdentity, Rate, Return,
            fairness::{client, unknown_servers, wide_open},
            params::PatternQuotas,
        },
        *,
    };
    use crate::upstream::concurrency::baseline::MeasuredFrom;

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
        returns: Return,
    }

    type Begun = (Wait<StayingClient>, Step);

    impl Test {
        fn new(params: &Params) -> Self {
            let admission = Admission::new(params, unknown_servers(1));
            let (rng, now) = (fastrand::Rng::with_seed(7), Instant::now());
            Self { admission, rng, now, clients: 0, returns: Return::Regardless }
        }

        fn comes(&mut self) -> Begun {
            self.comes_when(|_| {})
        }

        /// `begins` is what happens between the checks and the queue.
        fn comes_when(&mut self, begins: impl FnOnce(&Admission<StayingClient>)) -> Begun {
            self.clients += 1;
            let hold_until = self.now + Duration::from_secs(10);
            let client = Client {
                quota_identity: QuotaIdentity { user: None, name: Some("report".into()) },
                hold_until,
                answer_by: hold_until + Duration::from_secs(1),
                returns: self.returns,
                ..client("A", self.clients, self.now)
            };
            let waiter = || {
                begins(&self.admission);
                StayingClient
            };
            Wait::at_connect(&self.admission, client, self.now, &mut self.rng, waiter)
        }

        /// Lets the time come that a step is to wait for.
        fn waits_for(&mut self, step: &Step) {
            let &Step::Wait(until) = step else { panic!("{step:?}") };
            assert!(until > self.now && until <= self.now + Duration::from_secs(10));
            self.now = until;
        }

        fn turns(&mut self) -> Vec<Pass> {
            let mut turns = Vec::new();
            self.admission.next_turns(self.now, &mut self.rng, &mut turns);
            turns.into_iter().map(|(_, pass)| pass).collect()
        }

        /// Its server has let it in.
        fn is_in(&self, pass: &mut Pass) {
            let took = Duration::from_millis(1);
            self.admission.handshake_finished(pass, took, (MeasuredFrom::Dial, Duration::ZERO), None, self.now);
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
        assert_eq!((wait.is_queued(), test.admission.waiting().answered_later), (false, 1));
        test.waits_for(&step);
        let told = test.go_on(&mut wait);
        assert!(matches!(told, Step::Refuse(Refusal::AccountQuota)), "{told:?}");
        assert_eq!(test.admission.waiting().answered_later, 0);
    }

    #[test]
    fn who_is_queued_goes_on_to_its_turn_or_is_dropped() {
        let mut test = Test::new(&Params { pace: one_a_second(), ..wide_open() });
        let (_, step) = test.comes();
        assert!(matches!(step, Step::Dial(_)), "{step:?}");
        drop(step);
        let (mut first, step) = test.comes();
        let (mut second, _) = test.comes();
        let (mut third, _) = test.comes();
        assert!(first.is_queued() && second.is_queued() && test.admission.queued() == 3);
        third.leave(&test.admission, test.now);
        assert_eq!(test.admission.queued(), 2);
        let mut turns = Vec::new();
        test.admission.next_turns(test.now + Duration::from_secs(1), &mut test.rng, &mut turns);
        assert_eq!(turns.len(), 1);
        test.waits_for(&step);
        let told = test.go_on(&mut first);
        assert!(matches!(told, Step::Gone), "its turn has come: {told:?}");
        test.admission.begin_drain(Duration::ZERO);
        let told = second.dropped(&test.admission, test.now, &mut test.rng);
        assert!(matches!(told, Step::Refuse(Refusal::Draining)), "{told:?}");
    }

    #[test]
    fn a_drain_tells_those_who_wait_one_by_one() {
        const SPREAD: Duration = Duration::from_millis(1500);
        for (drain, longest) in
            [(Duration::from_secs(20), SPREAD), (Duration::from_millis(300), Duration::from_millis(300))]
        {
            let mut test = Test::new(&Params { pace: one_a_second(), refusal_spread: SPREAD, ..wide_open() });
            let mut waits: Vec<_> = (0..100).map(|_| test.comes().0).skip(1).collect();
            test.admission.begin_drain(drain);
            let mut told: Vec<_> = waits
                .iter_mut()
                .map(|wait| match wait.dropped(&test.admission, test.now, &mut test.rng) {
                    Step::Wait(at) => at - test.now,
                    step => panic!("{step:?}"),
                })
                .collect();
            assert_eq!(test.admission.waiting().answered_later, waits.len(), "the drain can wait for them");
            told.sort();
            let within = |part: f64| told.iter().filter(|at| **at < longest.mul_f64(part)).count();
            assert!(told[told.len() - 1] < longest && (30..70).contains(&within(0.5)), "{told:?}");
            // A client that comes now is told at once: those come one by one already.
            let (_, step) = test.comes();
            assert!(matches!(step, Step::Refuse(Refusal::Draining)), "{step:?}");
        }
    }

    /// A senior that waits for a place of a lease would else be the first, and wait for those that hold places behind
    /// it.
    #[test]
    fn who_has_its_places_goes_before_a_senior_that_waits_for_one() {
        use crate::fleet::{
            key::{Keys, Kind},
            lease::{allowance::Standing, book::LeaseBook},
        };
        let mut params = Params { pace: one_a_second(), ..wide_open() };
        params.default_account.quota = Quota { max_connections: Some(2), ..Quota::default() };
        let mut test = Test::new(&params);
        let book = LeaseBook::new(Keys::of_fleet("edge"), Standing::new(test.now));
        test.admission.share_quotas(&book);
        let (first, _) = test.comes();
        assert!(first.is_queued(), "there is no lease yet");
        book.grant(Kind::Account, "A", 2, test.now + Duration::from_secs(100));
        let mut turns = test.turns();
        assert_eq!(turns.len(), 1);
        turns.clear();
        let (mut senior, _) = test.comes();
        senior.leave(&test.admission, test.now);
        test.now += Duration::from_secs(5);
        let (_, step) = test.comes();
        let Step::Dial(mut inside) = step else { panic!("{step:?}") };
        test.is_in(&mut inside);
        let (mut with_place, _) = test.comes();
        test.clients = 1;
        let (mut senior, _) = test.comes();
        assert!(with_place.is_queued() && senior.is_queued());
        test.now += Duration::from_secs(1);
        let mut turns = test.turns();
        assert_eq!(turns.len(), 1, "the place that is taken is used");
        test.is_in(&mut turns[0]);
        assert!(matches!(test.go_on(&mut with_place), Step::Gone));
        assert!(matches!(test.go_on(&mut senior), Step::Wait(_)));
        // The senior takes the next place that comes free, and nobody who comes later.
        test.clients = 10;
        let (later, _) = test.comes();
        drop(inside);
        let (latest, _) = test.comes();
        test.now += Duration::from_secs(1);
        assert_eq!((test.turns().len(), later.is_queued() && latest.is_queued()), (1, true));
        assert!(matches!(test.go_on(&mut senior), Step::Gone));
    }

    #[test]
    fn what_a_client_lacks_is_known_while_it_waits() {
        let quota = Quota { max_connections: Some(1), ..Quota::default() };
        let names = vec![PatternQuota { pattern: "report".into(), quota }];
        let (patterns, refusal_spread) = (PatternQuotas { users: Vec::new(), names }, Duration::from_secs(1));
        let mut test = Test::new(&Params { patterns, refusal_spread, ..wide_open() });
        let (wait, _first) = test.comes();
        assert_eq!(wait.lacks(), None);
        assert_eq!(test.comes().0.lacks(), Some(Refusal::NameQuota));
        let mut test = Test::new(&Params { pace: one_a_second(), ..wide_open() });
        let (_, _first) = test.comes();
        let (wait, _) = test.comes();
        assert_eq!((wait.is_queued(), wait.lacks()), (true, None), "it lacks no place, but its turn");
    }

    #[test]
    fn nobody_joins_a_queue_that_a_drain_has_emptied() {
        let mut test = Test::new(&Params { pace: one_a_second(), ..wide_open() });
        let (_, step) = test.comes();
        assert!(matches!(step, Step::Dial(_)), "{step:?}");
        let (_, step) = test.comes_when(|admission| admission.begin_drain(Duration::ZERO));
        assert!(matches!(step, Step::Refuse(Refusal::Draining)), "{step:?}");
        assert_eq!(test.admission.queued(), 0);
    }

    /// What a client is told in the end that nobody gives a turn, and when.
    fn told_in_the_end(test: &mut Test, (mut wait, mut step): Begun) -> (Refusal, Instant) {
        loop {
            match step {
                Step::Wait(until) => {
                    let mut turns = Vec::new();
                    test.admission.next_turns(until, &mut test.rng, &mut turns);
                    assert!(turns.is_empty(), "a turn in a pause");
                    test.now = until;
                }
                Step::Refuse(reason) => return (reason, test.now),
                other => panic!("{other:?}"),
            }
            step = test.go_on(&mut wait);
        }
    }

    /// Whatever has been decided about it before: here the pace is so low that no turn would come in time.
    #[test]
    fn in_a_pause_everybody_is_held_for_as_long_as_it_may_be() {
        for pace in [None, one_a_second()] {
            let mut test = Test::new(&Params { pace, ..wide_open() });
            test.returns = Return::After(Duration::from_secs(2));
            let began = test.now;
            let (mut before, _in): (Vec<_>, Vec<_>) =
                (0..30).map(|_| test.comes()).partition(|(wait, _)| wait.is_queued());
            for (wait, step) in &mut before {
                // It is looked at: where the turn comes too late, the moment of its refusal has been chosen.
                *step = test.go_on(wait);
            }
            before.retain(|(_, step)| matches!(step, Step::Wait(_)));
            assert!(before.len() > 20, "{}", before.len());
            assert!(test.admission.pause() && !test.admission.pause(), "it is paused once");
            let in_pause = test.comes();
            assert!(in_pause.0.is_queued(), "{in_pause:?}");
            for begun in before.into_iter().chain([in_pause]) {
                test.now = began;
                let (reason, at) = told_in_the_end(&mut test, begun);
                assert_eq!((reason, at), (Refusal::Paused, began + Duration::from_secs(10)));
            }
            assert_eq!(test.admission.queued(), 0);
        }
    }

    #[test]
    fn who_waits_at_the_end_of_a_pause_gets_its_turn() {
        let mut test = Test::new(&wide_open());
        test.admission.pause();
        let waiting: Vec<_> = (0..5).map(|_| test.comes()).collect();
        assert!(waiting.iter().all(|(wait, _)| wait.is_queued()));
        assert!(test.admission.resume() && !test.admission.resume(), "it is resumed once");
        let mut turns = Vec::new();
        for had_turns in 1..=5 {
            // Each login makes room for the next one.
            test.admission.next_turns(test.now, &mut test.rng, &mut turns);
            assert_eq!(turns.drain(..).count(), 1, "turn {had_turns}");
        }
        assert_eq!(test.admission.queued(), 0);
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
        assert_eq!((wait.is_queued(), test.admission.waiting().reserved), (false, 1));
        test.waits_for(&step);
        let told = test.go_on(&mut wait);
        assert!(matches!(told, Step::Dial(_)), "{told:?}");
        assert_eq!(test.admission.waiting().reserved, 0);
    }

    #[test]
    fn nobody_is_placed_again_once_its_time_is_up() {
        use crate::admission::Failover;
        let mut test = Test::new(&wide_open());
        let second = Duration::from_secs(1);
        let mut again = |tried: &[crate::upstream::ServerId], by| {
            test.admission.place_again(None, tried, test.now + by, test.now, &mut test.rng)
        };
        assert!(matches!(again(&[], second), Failover::Placed(_)));
        assert!(
            matches!(
                again(&[crate::upstream::ServerId::from_raw(0)], second),
                Failover::Refuse(Refusal::ServerCapacity)
            ),
            "there is no other"
        );
        assert!(matches!(again(&[], Duration::ZERO), Failover::Refuse(Refusal::HoldExpired)));
        let slots: Vec<_> =
            (0..100).map_while(|_| Some(again(&[], second)).filter(|a| matches!(a, Failover::Placed(_)))).collect();
        let busy = again(&[], second);
        assert!(matches!(busy, Failover::Busy(until) if until > test.now), "{busy:?} after {}", slots.len());
    }
}
