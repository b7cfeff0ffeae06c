//! Hands out turns to the sessions that wait for them.

use std::sync::Arc;

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{Admission, Pass, Wait, Waiter},
    net::timer,
    worker::with_rng,
};

/// Admission as sessions use it.
pub type SessionAdmission = Admission<TurnSender>;

/// The wait of a session's client.
pub type SessionWait = Wait<TurnSender>;

/// The far end of a client in the queue: its session gets the pass when the client's turn comes.
#[derive(Debug)]
pub struct TurnSender(pub oneshot::Sender<Pass>);

impl Waiter for TurnSender {
    fn has_left(&self) -> bool {
        self.0.is_closed()
    }
}

/// Hands out the turns that there are now. A session that makes room for a turn calls this itself: that saves waking
/// another thread.
pub fn run_now(admission: &SessionAdmission) {
    if admission.queued() == 0 {
        admission.look_at_pace(timer::now());
        return;
    }
    let mut turns = Vec::new();
    with_rng(|rng| admission.next_turns(timer::now(), rng, &mut turns));
    send(&mut turns);
}

fn send(turns: &mut Vec<(TurnSender, Pass)>) {
    for (turn, pass) in turns.drain(..) {
        // A client that left meanwhile drops its pass, which gives everything back.
        let _ = turn.0.send(pass);
    }
}

/// Hands out turns until `stop`. `arrived` is notified when a client joins the queue.
pub async fn run(admission: Arc<SessionAdmission>, arrived: Arc<Notify>, stop: CancellationToken) {
    let mut turns = Vec::new();
    loop {
        let again = with_rng(|rng| admission.next_turns(timer::now(), rng, &mut turns));
        send(&mut turns);
        let wait = async {
            match again {
                Some(at) => sleep_until(Instant::from_std(at)).await,
                None => arrived.notified().await,
            }
        };
        tokio::select! {
            () = wait => {}
            () = stop.cancelled() => return,
        }
    }
}
