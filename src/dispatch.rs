//! Hands out turns to the sessions that wait for them.

use std::sync::Arc;

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{Admission, Pass, Wait, Waiter},
    identity::{CredentialKey, Directory},
    net::timer,
    worker::with_rng,
};

/// Admission as sessions use it.
pub type SessionAdmission = Admission<TurnSender>;

/// The wait of a session's client.
pub type SessionWait = Wait<TurnSender>;

/// The far end of a client in the queue: its session gets the pass when the client's turn comes.
#[derive(Debug)]
pub struct TurnSender {
    turn: oneshot::Sender<Pass>,
    /// Its credential, where no server had named the account of that before the client began to wait, and the directory
    /// that learns it from the first login.
    login: Option<(Arc<Directory>, CredentialKey)>,
}

impl TurnSender {
    /// For a client that waits in the lane of its account, or whose account nothing is known of.
    pub fn new(turn: oneshot::Sender<Pass>) -> Self {
        Self { turn, login: None }
    }

    /// For a client that will log in with this credential.
    pub fn of_login(turn: oneshot::Sender<Pass>, directory: &Arc<Directory>, credential: CredentialKey) -> Self {
        let is_to_learn = !directory.has_learned(credential);
        Self { turn, login: is_to_learn.then(|| (Arc::clone(directory), credential)) }
    }
}

impl Waiter for TurnSender {
    fn has_left(&self) -> bool {
        self.turn.is_closed()
    }

    fn credential(&self) -> Option<CredentialKey> {
        self.login.as_ref().map(|(_, credential)| *credential)
    }

    fn account_by_now(&self) -> Option<Arc<str>> {
        self.login.as_ref().and_then(|(directory, credential)| directory.learned(*credential))
    }
}

/// A server has named this account for a credential. Clients that wait with it take turns from now on with those that
/// are known.
pub fn learn(admission: &SessionAdmission, directory: &Directory, credential: CredentialKey, account: &Arc<str>) {
    if directory.learn(credential, account, timer::now()) {
        admission.account_is_named(credential);
    }
}

/// The same where the account may be what was assumed: it is noted only where a server has named one before.
pub fn named(admission: &SessionAdmission, directory: &Directory, credential: CredentialKey, account: &Arc<str>) {
    if directory.named(credential, account, timer::now()) == Some(true) {
        admission.account_is_named(credential);
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
    for (waiter, pass) in turns.drain(..) {
        // A client that left meanwhile drops its pass, which gives everything back.
        let _ = waiter.turn.send(pass);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Credential, Keys};

    #[test]
    fn the_account_of_one_who_waits_is_found_once_a_server_has_named_it() {
        let credential = Keys::default().credential(Credential::User("u"));
        let directory = Arc::new(Directory::new(&[]).unwrap());
        let waiter = || TurnSender::of_login(oneshot::channel().0, &directory, credential);
        let waits = waiter();
        assert_eq!(waits.account_by_now(), None);
        directory.learn(credential, &"A".into(), timer::now());
        assert_eq!(waits.account_by_now().as_deref(), Some("A"));
        assert_eq!(waiter().account_by_now(), None, "it waits in the lane of A anyway");
    }
}
