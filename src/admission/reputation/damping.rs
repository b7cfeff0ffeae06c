//! Damping: a source whose logins the servers keep refusing has to wait. The rule for one source, without the table.
//!
//! Each refused login is forgiven in 0.2 s. A source of which 100 are not forgiven is damped, until all of them are.
//! While it is damped, a client that is not known takes a *try* before its login. A try comes every 0.2 s, there are
//! none when the damping begins, and no more than 100 are kept. A client that a server lets in gives its try back, and
//! so does one of which no server has said anything ([`LoginTry`](super::sources::LoginTry) lists the cases).
//!
//! What follows from this:
//!
//! - Whoever guesses passwords has 5 guesses a second. All of them count as refused logins, so that the damping does
//!   not end before a time without guesses that pays for all of them: no burst comes at the end of it.
//! - Logins that were under way before the damping began may all fail, thousands in an incident. As refused logins they
//!   all count, and the damping lasts long; but of the tries they take what there is and no more. So the next try
//!   always comes within 0.2 s, whatever has happened.
//! - Good clients are not held to 5 a second: each takes a try only for the time of its login. A second after the last
//!   failure 5 of their logins may be under way, after 20 s 100.
//! - While the source is not damped nobody takes a try: a hundred good clients at once, or ten thousand, find no limit
//!   here.

use std::time::{Duration, Instant};

use crate::upstream::leaky_bucket::LeakyBucket;

/// So many refused logins in short order are taken for mistakes: of a misconfigured fleet behind one address, say.
pub const TOLERATED: u32 = 100;
/// One refused login is forgiven in this time: a damped source goes on trying at this rate.
pub const FORGIVEN_IN: Duration = Duration::from_millis(200);

/// All that is tolerated, as the time in which it is forgiven.
fn most() -> Duration {
    FORGIVEN_IN * TOLERATED
}

/// What is known of a source whose logins have been refused. By default none has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Damping {
    /// Refused logins that are not forgiven yet, however many.
    refused: LeakyBucket,
    tries: Option<Tries>,
}

/// The tries of a source that is damped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tries {
    /// Those that are used, each for the time until the next one comes; never more than there are.
    used: LeakyBucket,
    /// Since when some of them have been used without a break.
    since: Instant,
}

impl Tries {
    fn none_left(now: Instant) -> Self {
        Self::with_used(most(), now)
    }

    fn with_used(used: Duration, now: Instant) -> Self {
        Self { used: LeakyBucket::until(now + used.min(most())), since: now }
    }

    fn is_there_one(self, now: Instant) -> bool {
        self.used.level(now) + FORGIVEN_IN <= most()
    }

    /// Uses one, or what there is of one.
    fn use_up(&mut self, now: Instant) {
        if self.used.empty_at(now).is_none() {
            self.since = now;
        }
        let left = most().saturating_sub(self.used.level(now));
        self.used = self.used.add(now, left.min(FORGIVEN_IN));
    }
}

impl Damping {
    /// A source of which refused logins are to be forgiven for so long yet. A damped one has used so many `tries`.
    pub fn recalled(refused: Duration, tries: Option<Duration>, now: Instant) -> Self {
        let tries = tries.or_else(|| (refused >= most()).then(most));
        Self { refused: LeakyBucket::until(now + refused), tries: tries.map(|used| Tries::with_used(used, now)) }
    }

    fn tries(&self, now: Instant) -> Option<&Tries> {
        self.tries.as_ref().filter(|_| !self.is_forgiven(now))
    }

    /// A server has refused a login, of which `took_try` says whether it has taken a try.
    pub fn refused(&mut self, took_try: bool, now: Instant) {
        if self.is_forgiven(now) {
            self.tries = None;
        }
        self.refused = self.refused.add(now, FORGIVEN_IN);
        match &mut self.tries {
            Some(tries) if !took_try => tries.use_up(now),
            Some(_) => {}
            None if self.refused.level(now) >= most() => self.tries = Some(Tries::none_left(now)),
            None => {}
        }
    }

    /// Whether there is no try for a client that needs one.
    pub fn has_no_try(&self, now: Instant) -> bool {
        self.tries(now).is_some_and(|tries| !tries.is_there_one(now))
    }

    /// Whether clients that are not known need a try.
    pub fn takes_tries(&self, now: Instant) -> bool {
        self.tries(now).is_some()
    }

    /// Whether a client that is not known may log in, and whether it has taken a try for that; `None` where it may not.
    pub fn may_try(&mut self, now: Instant) -> Option<bool> {
        if !self.takes_tries(now) {
            return Some(false);
        }
        let tries = self.tries.as_mut().filter(|tries| tries.is_there_one(now))?;
        tries.use_up(now);
        Some(true)
    }

    /// Gives back a try that was taken `at`. If all were back meanwhile, it was among them.
    pub fn give_back(&mut self, at: Instant) {
        if let Some(tries) = self.tries.as_mut().filter(|tries| tries.since <= at) {
            tries.used = tries.used.without(FORGIVEN_IN);
        }
    }

    /// Whether no refused login counts any more.
    pub fn is_forgiven(&self, now: Instant) -> bool {
        self.refused.empty_at(now).is_none()
    }

    /// How long it takes until all is forgiven.
    pub fn forgiven_in(&self, now: Instant) -> Duration {
        self.refused.level(now)
    }

    /// The tries that are used, as the time until they are back; `None` where none is needed.
    pub fn used_tries(&self, now: Instant) -> Option<Duration> {
        self.tries(now).map(|tries| tries.used.level(now))
    }
}

#[cfg(test)]
mod simulation;
