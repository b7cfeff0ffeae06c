//! What the sessions of one worker share without a lock: one [`Local`] per thread.
//!
//! A worker is one thread with one current-thread runtime, and a session lives and ends on the worker that accepted it.
//! The `Local` of a worker is built at its first use and dropped when its thread ends, after the runtime and all its
//! tasks. Any other thread that uses one, such as the thread of a test, gets its own.

mod lag;
mod one_task;
mod scratch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use fastrand::Rng;

use crate::{
    net::{linger::Lingering, timer::Timer, websocket::Buffers},
    relay::{Buffer, LateKeepalive},
    session::upstream_pool::Pool,
    tls::Budget,
};

pub use self::{lag::Lag, one_task::OneTask, scratch::Scratch};
/// The state of one worker. Everything in it is used by closures that do not wait, so no borrow outlives a poll.
#[derive(Default)]
pub struct Local {
    pub timer: Timer,
    pub lag: Lag,
    /// Refused clients whose sockets have not been closed by the client yet.
    pub lingering: Lingering,
    /// Sessions that do not have keepalive yet.
    pub late_keepalive: LateKeepalive,
    pub relay_buffer: Scratch<Buffer>,
    pub websocket_buffers: Scratch<Buffers>,
    pub tls_budget: Arc<Budget>,
    /// Dialled connections to servers whose client left.
    pub upstream_pool: Pool,
    number: Number,
    rng: Scratch<Rng>,
}

thread_local! {
    static LOCAL: Local = Local::default();
}

/// Runs `work` with the state of this worker.
#[inline]
pub fn with<T>(work: impl FnOnce(&Local) -> T) -> T {
    LOCAL.with(work)
}

/// Runs `work` with the random numbers of this worker.
pub fn with_rng<T>(work: impl FnOnce(&mut Rng) -> T) -> T {
    with(|local| local.rng.with(work))
}

/// Makes the random numbers of this thread those of `seed`, for a test that is to repeat itself.
#[cfg(test)]
pub fn seed(seed: u64) {
    fastrand::seed(seed);
    with_rng(|rng| rng.seed(seed));
}

/// How late this worker notices what it waits for; see [`Lag`].
pub fn lag() -> Duration {
    with(|local| local.lag.get())
}

/// Which worker this is: 0, 1, 2 and so on in the order of their first use.
pub fn number() -> usize {
    with(|local| local.number.0)
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
