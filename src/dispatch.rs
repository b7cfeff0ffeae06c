//! Giving those who wait their turns.

use std::sync::Arc;

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, Pass, Wait, Waiter};

/// A client's wait, and its next step.
pub type SessionWait = Wait<TurnSender>;

/// The far end of a hold.
#[derive(Debug)]
pub struct TurnSender(pub oneshot::Sender<Pass>);

impl Waiter for TurnSender {
    fn has_left(&self) -> bool {
        self.0.is_closed()
    }
}

/// The doors as sessions use them.
pub type SessionAdmission = Admission<TurnSender>;

/// Hands out the turns that there are now. Whoever makes room for one does so itself where others wait: that saves waking
/// another thread.
pub fn run_now(admission: &SessionAdmission) {
    if admission.queued() == 0 {
        return;
    }
    let mut turns = Vec::new();
    admission.next_turns(Instant::now().into_std(), &mut fastrand::Rng::new(), &mut turns);
    hand_over(&mut turns);
}

fn hand_over(turns: &mut Vec<(TurnSender, Pass)>) {
    for (turn, pass) in turns.drain(..) {
        // A client that left meanwhile drops its pass, which gives everything back.
        let _ = turn.0.send(pass);
    }
}

/// Hands out turns until `stop`. `arrived` is notified when somebody begins to wait.
pub async fn run(admission: Arc<SessionAdmission>, arrived: Arc<Notify>, stop: CancellationToken) {
    let mut rng = fastrand::Rng::new();
    let mut turns = Vec::new();
    loop {
        let again = admission.next_turns(Instant::now().into_std(), &mut rng, &mut turns);
        hand_over(&mut turns);
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
