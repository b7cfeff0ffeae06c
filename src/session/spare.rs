//! Servers' connections whose client left without a word go to the next client, whose signature will be the first for their nonce.
//! So a health check costs a server one connection now and then, and not one each time.

use std::{cell::RefCell, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::ahead::Opened;
use crate::clock::sleep_until;

/// A connection with less time left than this for its CONNECT is of no use to anybody.
const LEAST: Duration = Duration::from_millis(500);
/// Each worker keeps so many at most: probes come one by one.
const MOST: usize = 16;

/// Asks for a connection; the answer is the connection itself.
type Request = oneshot::Sender<oneshot::Sender<Box<Opened>>>;

thread_local! {
    /// One way to each connection of this worker, the youngest last.
    static SPARES: RefCell<Vec<Request>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a connection until somebody takes it, its server ends it, or its time is up. Gives it back when it is not worth it.
pub(super) fn keep(mut opened: Box<Opened>) -> Option<Box<Opened>> {
    if opened.slot.is_in_lane() || opened.expires < Instant::now() + 2 * LEAST {
        return Some(opened);
    }
    let (request, requested) = oneshot::channel();
    let has_room = SPARES.with_borrow_mut(|spares| {
        spares.retain(|spare| !spare.is_closed());
        let has_room = spares.len() < MOST;
        if has_room {
            spares.push(request);
        }
        has_room
    });
    if !has_room {
        return Some(opened);
    }
    opened.slot.waits();
    tokio::spawn(wait(opened, requested));
    None
}

async fn wait(mut opened: Box<Opened>, requested: oneshot::Receiver<oneshot::Sender<Box<Opened>>>) {
    let taker = tokio::select! {
        taker = requested => taker.ok(),
        _ = opened.dialled.lost() => None,
        () = sleep_until(opened.expires - LEAST) => None,
    };
    let left = match taker {
        Some(taker) => taker.send(opened).err(),
        None => Some(opened),
    };
    if let Some(opened) = left {
        opened.let_go().await;
    }
}

/// The connection with the most time left, if there is one whose server is still to be used.
pub(super) async fn take() -> Option<Box<Opened>> {
    loop {
        let request = SPARES.with_borrow_mut(Vec::pop)?;
        let (taker, taken) = oneshot::channel();
        if request.send(taker).is_ok()
            && let Ok(mut opened) = taken.await
        {
            if opened.slot.server().is_up(Instant::now().into_std()) {
                opened.slot.goes_on();
                return Some(opened);
            }
            opened.let_go().await;
        }
    }
}
