//! The accept loop. It does nothing else: everything that takes time happens in the task of the session.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// After an accept error, mostly because no descriptors are left, the loop waits, twice as long each time, as
/// nats-server does (`ACCEPT_MIN_SLEEP` and `ACCEPT_MAX_SLEEP`, const.go).
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Accepts until `stop`, and passes each connection to `serve`, which must not block.
pub async fn accept(listener: Arc<TcpListener>, stop: CancellationToken, mut serve: impl FnMut(TcpStream, SocketAddr)) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(accepted) = until(&stop, listener.accept()).await else { return };
        match accepted {
            Ok((stream, peer)) => {
                pause = FIRST_PAUSE;
                serve(stream, peer);
            }
            Err(err) if concerns_one_connection(&err) => {}
            Err(err) => {
                warn!(%err, ?pause, "cannot accept");
                if until(&stop, sleep(pause)).await.is_none() {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
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

/// Whether an accept error concerns one connection that ended in the backlog (accept(2)), and not the listener.
fn concerns_one_connection(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
