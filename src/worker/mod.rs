//! What the sessions of one worker share without a lock: one [`Local`] per thread.
//!
//! A worker is one thread with one current-thread runtime, and a session lives and ends on the worker that accepted it.
//! The `Local` of a worker is built at its first use and dropped when its thread ends, after the runtime and all its
//! tasks. Any other thread that uses one, such as the thread of a test, gets its own.

mod heartbeats;
mod lag;
mod one_task;
mod scratch;

use std::{
    any::Any,
    cell::OnceCell,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use fastrand::Rng;

pub use self::{
    heartbeats::{BEAT_EVERY, Heartbeats, Stuck},
    lag::{Lag, TICK},
    one_task::OneTask,
    scratch::Scratch,
};

/// What a worker has: each of these is the state of one module, which alone knows its type.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// Waits for a deadline (`net::timer`).
    Timer,
    /// Sockets of refused clients that have not closed yet (`net::linger`).
    Lingering,
    /// `net::websocket`.
    WebSocketBuffers,
    /// `net::s2`.
    S2Buffers,
    /// Sessions that do not have keepalive yet (`relay::late_keepalive`).
    LateKeepalive,
    /// `relay::direction`.
    RelayBuffer,
    /// Which TLS handshake may compute (`tls::budget`).
    TlsBudget,
    /// Dialled connections to servers whose client left (`session::upstream_pool`).
    UpstreamPool,
}

/// How many places there are.
const PLACES: usize = Place::UpstreamPool as usize + 1;

/// The state of one module on one worker. One type for each place.
pub trait State: Default + 'static {
    const PLACE: Place;
}

/// The state of one worker. Everything in it is used by closures that do not wait, so no borrow outlives a poll.
#[derive(Default)]
struct Local {
    places: [OnceCell<Box<dyn Any>>; PLACES],
    lag: Lag,
    number: Number,
    rng: Scratch<Rng>,
}

thread_local! {
    static LOCAL: Local = Local::default();
}

/// Runs `work` with the state that a module has on this worker.
#[inline]
pub fn with<S: State, T>(work: impl FnOnce(&S) -> T) -> T {
    LOCAL.with(|local| {
        let state = local.places[S::PLACE as usize].get_or_init(|| Box::new(S::default()));
        match state.downcast_ref() {
            Some(state) => work(state),
            None => unreachable!("{:?} is the place of another type", S::PLACE),
        }
    })
}

/// How late this worker notices what it waits for.
pub fn with_lag<T>(work: impl FnOnce(&Lag) -> T) -> T {
    LOCAL.with(|local| work(&local.lag))
}

/// Runs `work` with the random numbers of this worker.
pub fn with_rng<T>(work: impl FnOnce(&mut Rng) -> T) -> T {
    LOCAL.with(|local| local.rng.with(work))
}

/// Makes the random numbers of this thread those of `seed`, for a test that is to repeat itself.
#[cfg(test)]
pub fn seed(seed: u64) {
    fastrand::seed(seed);
    with_rng(|rng| rng.seed(seed));
}

/// How late this worker notices what it waits for; see [`Lag`].
pub fn lag() -> Duration {
    with_lag(Lag::get)
}

/// Which worker this is: 0, 1, 2 and so on in the order of their first use.
pub fn number() -> usize {
    LOCAL.with(|local| local.number.0)
}

struct Number(usize);

impl Default for Number {
    fn default() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn every_thread_has_a_number_of_its_own() {
        let (first, again) = (number(), number());
        let other = thread::spawn(number).join().unwrap();
        assert!(first == again && first != other, "{first}, {again}, {other}");
    }

    #[test]
    fn the_same_seed_gives_the_same_random_numbers() {
        let draw = || {
            seed(7);
            [(); 4].map(|()| with_rng(|rng| rng.u64(..)))
        };
        let first = draw();
        assert_eq!(first, draw());
        assert_ne!(first[0], first[1]);
    }
}
