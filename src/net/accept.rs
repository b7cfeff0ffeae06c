//! The accept loop. It does nothing else: everything that takes time happens in the task of the session.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::net::listening_socket::{ListeningSocket, concerns_one_connection};

/// After an accept error, mostly because no descriptors are left, the loop waits, twice as long each time, as
/// nats-server does (`ACCEPT_MIN_SLEEP` and `ACCEPT_MAX_SLEEP`, const.go).
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// While there is no permit for one more connection, the loop asks for one this often.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How often weir says that it cannot accept.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// What connections are accepted for.
pub trait Serve {
    /// What a connection takes from its accept on.
    type Permit;

    /// The permit of one more connection, if there is one.
    fn permit(&self) -> Option<Self::Permit>;

    /// Whether those who are in the kernel's queue when the listener is closed are served still.
    fn serves_the_last(&self) -> bool;

    /// The permit of a connection that still waits for one when nobody is accepted any more, if it is served.
    fn permit_of_last(&self) -> Option<Self::Permit>;

    /// Begins to serve a connection. Must not block.
    fn serve(&self, stream: TcpStream, peer: SocketAddr, permit: Self::Permit);
}

/// The accept loops that cannot accept now: they wait for a permit or a descriptor.
#[derive(Debug, Default)]
pub struct Pauses {
    now: AtomicU32,
    told: Mutex<Option<Instant>>,
}

/// Counts one of them, until dropped.
#[derive(Debug)]
struct Pause<'a>(&'a Pauses);

impl Pauses {
    /// Whether any accept loop cannot accept.
    pub fn any(&self) -> bool {
        self.now.load(Relaxed) > 0
    }

    fn begin(&self, why: &dyn std::fmt::Display) -> Pause<'_> {
        self.now.fetch_add(1, Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            *told = Some(Instant::now());
            warn!(err = %why, "cannot accept: clients wait in the kernel's queue");
        }
        Pause(self)
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Relaxed);
    }
}

/// Accepts until `stop`, and has each connection served. A connection without a permit is kept until there is one, and
/// those behind it wait in the kernel's queue.
pub async fn accept(listener: Arc<ListeningSocket>, stop: CancellationToken, pauses: Arc<Pauses>, to: impl Serve) {
    accept_until(&listener, &stop, &pauses, &to).await;
    // The kernel would reset them with the listener.
    if stop.is_cancelled() && to.serves_the_last() {
        for (stream, peer) in listener.backlog() {
            let Some(permit) = to.permit() else { return };
            to.serve(stream, peer, permit);
        }
    }
}

async fn accept_until(listener: &ListeningSocket, stop: &CancellationToken, pauses: &Pauses, to: &impl Serve) {
    let (mut wait, mut failing) = (FIRST_PAUSE, None);
    loop {
        let Some(accepted) = until(stop, listener.accept()).await else { return };
        match accepted {
            Ok((stream, peer)) => {
                (wait, failing) = (FIRST_PAUSE, None);
                let permit = match to.permit() {
                    Some(permit) => permit,
                    None => match until(stop, free_permit(pauses, to)).await.or_else(|| to.permit_of_last()) {
                        Some(permit) => permit,
                        None => return,
                    },
                };
                to.serve(stream, peer, permit);
            }
            Err(err) if concerns_one_connection(&err) => {}
            Err(err) => {
                failing.get_or_insert_with(|| pauses.begin(&err));
                if until(stop, sleep(wait)).await.is_none() {
                    return;
                }
                wait = (wait * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn free_permit<S: Serve>(pauses: &Pauses, to: &S) -> S::Permit {
    let _pause = pauses.begin(&"as many connections as the limit of open files carries");
    loop {
        sleep(LOOK_AGAIN).await;
        if let Some(permit) = to.permit() {
            return permit;
        }
    }
}

async fn until<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        done = work => Some(done),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::net::socket::{TcpTimeouts, listeners};

    /// Has no permit left, but the last one.
    struct Full(mpsc::UnboundedSender<SocketAddr>);

    impl Serve for Full {
        type Permit = ();

        fn permit(&self) -> Option<()> {
            None
        }

        fn serves_the_last(&self) -> bool {
            false
        }

        fn permit_of_last(&self) -> Option<()> {
            Some(())
        }

        fn serve(&self, _: TcpStream, peer: SocketAddr, (): ()) {
            let _ = self.0.send(peer);
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_permit_is_served_when_the_listener_closes() {
        let all = listeners("127.0.0.1:0".parse().unwrap(), 1, TcpTimeouts::default()).unwrap();
        let client = TcpStream::connect(all[0].local_addr().unwrap()).await.unwrap();
        let listener = Arc::new(ListeningSocket::on_this_runtime(all.into_iter().next().unwrap()).unwrap());
        let (stop, pauses) = (CancellationToken::new(), Arc::<Pauses>::default());
        let (served, mut peers) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(accept(listener, stop.clone(), Arc::clone(&pauses), Full(served)));
        while !pauses.any() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        accepting.await.unwrap();
        assert_eq!(peers.recv().await, Some(client.local_addr().unwrap()));
    }
}
