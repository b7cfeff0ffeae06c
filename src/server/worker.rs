//! A worker: one thread, one runtime, its own listening sockets, its own sessions.

use std::{
    io,
    net::TcpListener,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{runtime, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    net::{accept, linger, socket},
    relay,
    session::{self, Listener, Shared},
};

/// How long the sessions of a worker may take to end after `stop`. Lingering closes take a second at most, and a client
/// that is cut off before it was admitted loses nothing.
const LAST_SESSIONS: Duration = Duration::from_secs(2);

/// Starts worker `n`, which accepts clients on `sockets` until `stop`.
pub fn start(
    n: usize,
    sockets: Vec<(TcpListener, Arc<Listener>)>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> io::Result<JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(format!("worker-{n}")).spawn(move || runtime.block_on(work(sockets, shared, stop)))
}

async fn work(sockets: Vec<(TcpListener, Arc<Listener>)>, shared: Arc<Shared>, stop: CancellationToken) {
    let sessions = TaskTracker::new();
    tokio::spawn(relay::request_keepalive());
    tokio::spawn(session::upstream_pool::maintain(Arc::clone(&shared)));
    for (socket, listener) in sockets {
        let socket = match socket::on_this_runtime(socket) {
            Ok(socket) => socket,
            Err(err) => return warn!(%err, "a worker cannot listen"),
        };
        let (shared, tracker) = (Arc::clone(&shared), sessions.clone());
        sessions.spawn(accept::accept(socket, stop.child_token(), move |stream, peer| {
            let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
            match listener.passthrough {
                None => tracker.spawn(session::serve(shared, listener, stream, peer)),
                Some(_) => tracker.spawn(session::serve_passthrough(shared, listener, stream, peer)),
            };
        }));
    }
    stop.cancelled().await;
    sessions.close();
    let _ = timeout(LAST_SESSIONS, async {
        sessions.wait().await;
        linger::all_closed().await;
    })
    .await;
}
