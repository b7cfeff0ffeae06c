//! A worker: one thread, one runtime, its own listening sockets, its own sessions.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{net::TcpStream, runtime, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    net::{accept, linger, socket, timer},
    relay,
    server::supervisor::Supervisor,
    session::{self, ConnectionPermit, Listener, Shared},
    worker::BEAT_EVERY,
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
    // Here, so that weir does not run where a worker cannot listen: the kernel would give it a share of the clients.
    let sockets = {
        let _on_it = runtime.enter();
        let registered = sockets.into_iter().map(|(socket, listener)| Ok((socket::on_this_runtime(socket)?, listener)));
        registered.collect::<io::Result<Vec<_>>>()?
    };
    thread::Builder::new().name(format!("worker-{n}")).spawn(move || runtime.block_on(work(n, sockets, shared, stop)))
}

/// The sessions of one listener on one worker.
#[derive(Clone)]
struct Sessions {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    tracker: TaskTracker,
}

impl accept::Serve for Sessions {
    type Permit = ConnectionPermit;

    fn permit(&self) -> Option<ConnectionPermit> {
        self.listener.permit(&self.shared)
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, permit: ConnectionPermit) {
        let (shared, listener) = (Arc::clone(&self.shared), Arc::clone(&self.listener));
        match listener.passthrough {
            None => self.tracker.spawn(session::serve(shared, listener, stream, peer, permit)),
            Some(_) => self.tracker.spawn(session::serve_passthrough(shared, listener, stream, peer, permit)),
        };
    }
}

/// Shows that this worker makes progress, until `stop`.
async fn beat(n: usize, shared: Arc<Shared>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        shared.heartbeats.beat_of_worker(n, timer::now());
        let _ = timeout(BEAT_EVERY, stop.cancelled()).await;
    }
}

async fn work(
    n: usize,
    sockets: Vec<(tokio::net::TcpListener, Arc<Listener>)>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let (sessions, tasks) = (TaskTracker::new(), Supervisor::new(stop.clone()));
    relay::set_timeouts_of_servers(shared.servers_tcp);
    let all = Arc::clone(&shared);
    tasks.spawn("heartbeat", move |stop| beat(n, Arc::clone(&all), stop));
    tasks.spawn("late keepalive", |stop| async move {
        tokio::select! {
            () = relay::request_keepalive() => {}
            () = stop.cancelled() => {}
        }
    });
    let all = Arc::clone(&shared);
    tasks.spawn("upstream pool", move |stop| session::upstream_pool::maintain(Arc::clone(&all), stop));
    for (socket, listener) in sockets {
        let socket = Arc::new(socket);
        let sessions = Sessions { shared: Arc::clone(&shared), listener, tracker: sessions.clone() };
        tasks.spawn("accept", move |stop| {
            let pauses = Arc::clone(&sessions.shared.descriptors.pauses);
            accept::accept(Arc::clone(&socket), stop, pauses, sessions.clone())
        });
    }
    stop.cancelled().await;
    sessions.close();
    let _ = timeout(LAST_SESSIONS, async {
        tasks.ended().await;
        sessions.wait().await;
        linger::all_closed().await;
    })
    .await;
}
