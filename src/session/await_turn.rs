//! Follows the steps of a wait with a clock: what `weir plan` does in virtual time.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    admission::{Pass, Step},
    dispatch::SessionWait,
    net::timer::{now, sleep_until},
    outcome::Refusal,
    relay::registry::AtServer,
    session::{context::Context, shared::Shared},
    worker::with_rng,
};

/// How a wait ends.
pub(super) enum Waited<L> {
    Turn(Pass),
    Left(L),
    Refused(Refusal),
}

/// Follows the steps of a wait to its end, or until `left` says that the client is not there any more.
pub(super) async fn await_turn<L>(
    cx: &mut Context,
    begun: (SessionWait, Step),
    turn_comes: oneshot::Receiver<Pass>,
    left: impl Future<Output = L>,
) -> Waited<L> {
    let shared = Arc::clone(&cx.shared);
    let (mut held_since, mut shown) = (None, None);
    if let Some(reason) = begun.0.lacks() {
        cx.lacks_place(reason);
    }
    let note = |wait: &SessionWait| {
        if wait.is_queued() && held_since.is_none() {
            held_since = Some(Instant::now());
            if !std::mem::replace(&mut cx.waited, true) {
                shared.counters.held.fetch_add(1, Relaxed);
            }
            shared.arrived.notify_one();
        }
        if wait.is_held() && shown.is_none() {
            // The queue knows no names. Who need not wait is entered once, as a session.
            shown = Some(shared.held.register(cx.facts_so_far(), cx.log.account.clone(), AtServer::default()));
        }
    };
    let waited = follow(&shared, begun, turn_comes, left, note).await;
    drop(shown);
    if let Some(since) = held_since {
        shared.counters.hold_seconds.observe(since.elapsed().as_secs_f64());
    }
    waited
}

/// A wait that leaves the queue where its session ends before its turn comes, so that nobody is counted as waiting who
/// is gone.
struct WhileItLasts<'s> {
    shared: &'s Shared,
    wait: SessionWait,
}

impl Drop for WhileItLasts<'_> {
    fn drop(&mut self) {
        self.wait.leave(&self.shared.admission, now());
    }
}

/// The same for whoever is a client already. `note` is shown the wait before each step. Whoever drops this leaves the
/// queue.
pub(super) async fn follow<L>(
    shared: &Shared,
    (wait, mut step): (SessionWait, Step),
    mut turn_comes: oneshot::Receiver<Pass>,
    left: impl Future<Output = L>,
    mut note: impl FnMut(&SessionWait),
) -> Waited<L> {
    let mut lasting = WhileItLasts { shared, wait };
    let wait = &mut lasting.wait;
    let mut left = pin!(left);
    loop {
        note(wait);
        let until = match step {
            Step::Dial(pass) => break Waited::Turn(pass),
            Step::Refuse(reason) => break Waited::Refused(reason),
            Step::Gone => match (&mut turn_comes).await {
                Ok(pass) => {
                    wait.turn_has_come();
                    break Waited::Turn(pass);
                }
                Err(_) => {
                    step = with_rng(|rng| wait.dropped(&shared.admission, now(), rng));
                    continue;
                }
            },
            Step::Wait(until) => Instant::from_std(until),
        };
        tokio::select! {
            biased;
            turn = &mut turn_comes, if wait.is_queued() => match turn {
                Ok(pass) => {
                    wait.turn_has_come();
                    break Waited::Turn(pass);
                }
                Err(_) => {
                    step = with_rng(|rng| wait.dropped(&shared.admission, now(), rng));
                    continue;
                }
            },
            left = &mut left => break Waited::Left(left),
            () = sleep_until(until) => {}
        }
        step = with_rng(|rng| wait.go_on(&shared.admission, now(), rng));
    }
}
