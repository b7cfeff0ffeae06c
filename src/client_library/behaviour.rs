//! What a client does next, by its library. Pure: the time is an argument.
//!
//! A client with several servers in its list goes through them in order. The model leaves one thing out: Python and
//! JavaScript count their wait separately for each server; here it counts from the last attempt on any server.

use std::time::Duration;

use crate::client_library::library::{AuthError, AuthErrorLimit, Library, NoticesRefusal, OnError, ReconnectWait};

/// How a failed attempt ended on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Before INFO: the connection was refused or closed, or `-ERR` came first.
    BeforeInfo,
    /// `-ERR` after INFO, with a text that the library does not take for an authorization error.
    Refused,
    /// `-ERR` after INFO, with an authorization error.
    AuthError(AuthError),
    /// A plain end of stream after INFO and CONNECT, without `-ERR`.
    Eof,
    /// A reset after INFO.
    Reset,
    /// Bytes that the library cannot make sense of.
    Malformed,
    /// The library's own deadline passed.
    TimedOut,
}

/// What a client does after a failed attempt. Times count from the end of the attempt on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It tries again after this time.
    TryAfter(Duration),
    /// It gives up for good after this time.
    GivesUpAfter(Duration),
}

/// What a client remembers from one attempt to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Failed attempts since its last PONG.
    failed: u16,
    last_auth_error: Option<AuthError>,
}

/// What an `-ERR` does to a connected client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// It waits for the end of the stream.
    Waits,
    /// It closes the connection and reconnects.
    Reconnects,
    /// It closes for good.
    Closes,
}

impl Library {
    /// How long a client sleeps before its next attempt. `failed` is the number of failed attempts since its last PONG;
    /// `since_start` and `since_end` are the times since the last attempt began and ended; `pool` is the number of
    /// servers in its list.
    fn wait(
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
        match self.reconnect_wait {
            ReconnectWait::BeforeLastServer { wait, jitter } if failed % pool == pool - 1 => with(wait, jitter),
            ReconnectWait::BetweenRounds { wait, jitter } if failed > 0 && failed.is_multiple_of(pool) => {
                with(wait, jitter)
            }
            ReconnectWait::SinceAttemptBegan { wait, jitter } if failed.is_multiple_of(pool) => {
                with(wait, jitter).saturating_sub(since_start)
            }
            ReconnectWait::SinceAttemptEnded { wait } if failed.is_multiple_of(pool) && since_end < wait => wait,
            ReconnectWait::Exponential { first, cap, jitter } if failed > 0 => {
                let doubled = first.saturating_mul(1u32.checked_shl(u32::from(failed) - 1).unwrap_or(u32::MAX));
                with(doubled.min(cap), jitter)
            }
            _ => Duration::ZERO,
        }
    }

    /// A client's connection has ended, `lived` after its attempt began. Returns the time until the next attempt.
    pub fn dropped(&self, memory: &mut Memory, pool: u16, lived: Duration, rng: &mut fastrand::Rng) -> Duration {
        memory.failed = 0;
        self.wait(0, pool, lived, lived, rng)
    }

    /// PONG has come.
    pub fn connected(&self, memory: &mut Memory) {
        memory.failed = 0;
        // JavaScript compares with the last error that it ever saw.
        if self.auth_error_limit != AuthErrorLimit::AnyInARow {
            memory.last_auth_error = None;
        }
    }

    /// How an attempt ends that gets an `-ERR` with this text in place of PONG.
    pub fn refused_with(&self, text: &str) -> Ending {
        self.auth_error(text).map_or(Ending::Refused, Ending::AuthError)
    }

    /// An attempt has failed, `took` after it began.
    pub fn failed(
        &self,
        memory: &mut Memory,
        pool: u16,
        ending: Ending,
        took: Duration,
        rng: &mut fastrand::Rng,
    ) -> Next {
        let unnoticed = self.unnoticed_for(ending, took);
        if ending == Ending::Eof && self.takes_eof_for_pong {
            return Next::TryAfter(unnoticed + self.dropped(memory, pool, took, rng));
        }
        memory.failed += 1;
        if self.closes_on_auth_error(memory, ending)
            || self.max_attempts.is_some_and(|most| memory.failed >= most.saturating_mul(pool))
        {
            return Next::GivesUpAfter(unnoticed);
        }
        Next::TryAfter(unnoticed + self.wait(memory.failed, pool, took + unnoticed, Duration::ZERO, rng))
    }

    /// How long after the end of an attempt on the wire the library notices it.
    fn unnoticed_for(&self, ending: Ending, took: Duration) -> Duration {
        match (self.notices_refusal, ending) {
            (NoticesRefusal::Immediately, _)
            | (NoticesRefusal::OnlyAuthErrors, Ending::AuthError(_))
            | (_, Ending::BeforeInfo | Ending::Malformed | Ending::TimedOut) => Duration::ZERO,
            _ => self.deadline.step().saturating_sub(took),
        }
    }

    /// Remembers how an attempt ended. Returns whether the authorization errors so far close the client for good.
    fn closes_on_auth_error(&self, memory: &mut Memory, ending: Ending) -> bool {
        let last = memory.last_auth_error;
        match ending {
            Ending::AuthError(error) => {
                memory.last_auth_error = Some(error);
                match self.auth_error_limit {
                    AuthErrorLimit::Unlimited => false,
                    AuthErrorLimit::SameTwice | AuthErrorLimit::SameInARow => last == Some(error),
                    AuthErrorLimit::AnyInARow => last.is_some(),
                }
            }
            _ => {
                if self.auth_error_limit != AuthErrorLimit::SameTwice {
                    memory.last_auth_error = None;
                }
                false
            }
        }
    }

    /// What an `-ERR` with this text does to a client that has had its PONG.
    pub fn reaction_to(&self, memory: &mut Memory, text: &str) -> Reaction {
        let text = text.to_ascii_lowercase();
        let auth_error = self.auth_error(&text);
        match self.on_error {
            OnError::KeepsConnection => {}
            OnError::ReconnectsOnAuthError if auth_error.is_some() => {
                memory.last_auth_error = auth_error;
                return Reaction::Reconnects;
            }
            OnError::ReconnectsOnAuthError => {}
            OnError::ClosesUnless { reconnects_on, .. } if reconnects_on.contains(&text.as_str()) => {
                return Reaction::Reconnects;
            }
            OnError::ClosesUnless { keeps_on_auth_error: true, .. } if auth_error.is_some() => {
                memory.last_auth_error = auth_error;
            }
            OnError::ClosesUnless { .. } if text.starts_with("permissions violation") => {}
            OnError::ClosesUnless { .. } => return Reaction::Closes,
        }
        Reaction::Waits
    }
}

#[cfg(test)]
mod tests;
