//! What a client does next, by its library: pure, with the time as an argument.
//!
//! With several servers in its list a client is modelled as going through them in order. What that leaves out: Python and
//! JavaScript count their wait per server, here it counts from the last attempt on any.

use std::time::Duration;

use crate::client_library::table::{Established, Library, Rhythm, Stall, Strikes};

/// How an attempt ended on the wire, short of a PONG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// No INFO: connection refused, or closed, or `-ERR` first.
    BeforeInfo,
    /// `-ERR` behind INFO; which authorization error it is for the library ([`Library::strike`]), 0 for none.
    Refused(u8),
    /// A plain end of stream behind INFO and CONNECT, without a word.
    Ended,
    /// A reset behind INFO.
    Reset,
    /// Something that the library cannot make sense of.
    Broken,
    /// The library's own deadline passed.
    TimedOut,
}

/// What a client does after a failed attempt. Times count from the end of the attempt on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It tries again after this.
    TryAfter(Duration),
    /// It gives up for good after this.
    GivesUpAfter(Duration),
}

/// What a client keeps between attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Attempts that failed since its last PONG.
    pub failed: u16,
    strike: u8,
}

/// What an `-ERR` does to an established client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// It waits for the end of the stream.
    Waits,
    /// It closes and reconnects.
    Reconnects,
    /// It is closed for good.
    Closes,
}

impl Library {
    /// How long a client sleeps before its next attempt. `failed` attempts came before it; the last one began and ended so
    /// long ago. `pool` is the number of servers in its list.
    fn pause(
        &self,
        failed: u16,
        pool: u16,
        since_start: Duration,
        since_end: Duration,
        rng: &mut fastrand::Rng,
    ) -> Duration {
        let mut with = |wait: Duration, jitter: Duration| {
            if jitter.is_zero() { wait } else { wait + Duration::from_nanos(rng.u64(0..=jitter.as_nanos() as u64)) }
        };
        match self.rhythm {
            Rhythm::SleepsBeforeLast { wait, jitter } if failed % pool == pool - 1 => with(wait, jitter),
            Rhythm::SleepsBetweenRounds { wait, jitter } if failed > 0 && failed.is_multiple_of(pool) => {
                with(wait, jitter)
            }
            Rhythm::SinceStart { wait, jitter } if failed.is_multiple_of(pool) => {
                with(wait, jitter).saturating_sub(since_start)
            }
            Rhythm::SinceEnd { wait } if failed.is_multiple_of(pool) && since_end < wait => wait,
            Rhythm::Doubling { first, cap, jitter } if failed > 0 => {
                let doubled = first.saturating_mul(1u32.checked_shl(u32::from(failed) - 1).unwrap_or(u32::MAX));
                with(doubled.min(cap), jitter)
            }
            _ => Duration::ZERO,
        }
    }

    /// A connection that began to be made `lived` ago has ended: how long until the next attempt.
    pub fn dropped(&self, memory: &mut Memory, pool: u16, lived: Duration, rng: &mut fastrand::Rng) -> Duration {
        memory.failed = 0;
        self.pause(0, pool, lived, lived, rng)
    }

    /// PONG came.
    pub fn connected(&self, memory: &mut Memory) {
        memory.failed = 0;
        // JavaScript compares with the last error it ever saw.
        if self.strikes != Strikes::AnyInARow {
            memory.strike = 0;
        }
    }

    /// An attempt failed, `took` after it began.
    pub fn failed(
        &self,
        memory: &mut Memory,
        pool: u16,
        ending: Ending,
        took: Duration,
        rng: &mut fastrand::Rng,
    ) -> Next {
        let stalls = match (self.stalls, ending) {
            (Stall::Never, _) | (_, Ending::BeforeInfo | Ending::Broken | Ending::TimedOut) => false,
            (Stall::UnlessAuthorization, Ending::Refused(strike)) => strike == 0,
            _ => true,
        };
        let stall = if stalls { self.deadline.step().saturating_sub(took) } else { Duration::ZERO };
        if ending == Ending::Ended && self.end_is_success {
            return Next::TryAfter(stall + self.dropped(memory, pool, took, rng));
        }
        memory.failed += 1;
        let last_strike = memory.strike;
        match ending {
            Ending::Refused(strike) if strike > 0 => {
                memory.strike = strike;
                let out = match self.strikes {
                    Strikes::Harmless => false,
                    Strikes::SameTwice | Strikes::SameInARow => strike == last_strike,
                    Strikes::AnyInARow => last_strike > 0,
                };
                if out {
                    return Next::GivesUpAfter(stall);
                }
            }
            _ if self.strikes != Strikes::SameTwice => memory.strike = 0,
            _ => {}
        }
        if self.tries.is_some_and(|most| memory.failed >= most.saturating_mul(pool)) {
            return Next::GivesUpAfter(stall);
        }
        Next::TryAfter(stall + self.pause(memory.failed, pool, took + stall, Duration::ZERO, rng))
    }

    /// What an `-ERR` does to a client that has its PONG.
    pub fn told(&self, memory: &mut Memory, text: &str) -> Reaction {
        let text = text.to_ascii_lowercase();
        let strike = self.strike(&text);
        match self.established {
            Established::WaitsForEnd => {}
            Established::ReconnectsOnAuthorization if strike > 0 => {
                memory.strike = strike;
                return Reaction::Reconnects;
            }
            Established::ReconnectsOnAuthorization => {}
            Established::ClosesUnless { reconnects, .. } if reconnects.contains(&text.as_str()) => {
                return Reaction::Reconnects;
            }
            Established::ClosesUnless { authorization_is_told: true, .. } if strike > 0 => memory.strike = strike,
            Established::ClosesUnless { .. } if text.starts_with("permissions violation") => {}
            Established::ClosesUnless { .. } => return Reaction::Closes,
        }
        Reaction::Waits
    }
}

#[cfg(test)]
mod tests;
