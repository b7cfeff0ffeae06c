//! Where the endpoints of `[monitor]` are served: opened, moved and closed while weir runs.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    admin,
    server::{ServerError, passed_sockets::PassedSockets, supervisor::Supervisor},
    session::Shared,
};

/// How long a port of which weir itself was the owner may take to be free again.
const UNTIL_FREE: Duration = Duration::from_secs(1);

/// The endpoints, if there are any.
pub struct Monitor {
    tasks: Supervisor,
    shared: Arc<Shared>,
    passed: Arc<PassedSockets>,
    stop: CancellationToken,
    open: Option<Open>,
}

struct Open {
    configured: SocketAddr,
    base_path: String,
    socket: TcpListener,
    stop: CancellationToken,
}

/// The socket of the endpoints: the one that was passed for this address, or a new one.
pub fn bind(address: SocketAddr, passed: &PassedSockets) -> Result<TcpListener, ServerError> {
    match passed.of_monitor(address).map_err(|err| ServerError::Bind { address, err })? {
        Some(passed) => Ok(passed),
        None => bind_new(address),
    }
}

fn bind_new(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let listener = TcpListener::bind(address).map_err(|err| ServerError::Bind { address, err })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Monitor {
    /// Serves nothing yet. Its tasks end at the latest with `stop`.
    pub fn new(tasks: Supervisor, shared: Arc<Shared>, passed: Arc<PassedSockets>, stop: CancellationToken) -> Self {
        Self { tasks, shared, passed, stop, open: None }
    }

    /// Where the endpoints are served.
    pub fn address(&self) -> Option<SocketAddr> {
        self.open.as_ref().and_then(|open| open.socket.local_addr().ok())
    }

    /// A copy of the socket, with its address in the configuration.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn socket(&self) -> io::Result<Option<(SocketAddr, TcpListener)>> {
        self.open.as_ref().map(|open| Ok((open.configured, open.socket.try_clone()?))).transpose()
    }

    /// Serves nothing any more.
    pub fn close(&mut self) {
        if let Some(before) = self.open.take() {
            before.stop.cancel();
        }
    }

    /// Serves the endpoints on a bound socket, with `base_path` in front of their paths.
    pub fn serve(&mut self, configured: SocketAddr, socket: TcpListener, base_path: &str) -> io::Result<()> {
        let stop = self.stop.child_token();
        let (shared, own, base) = (Arc::clone(&self.shared), socket.try_clone()?, base_path.to_owned());
        self.tasks.until(stop.clone()).spawn("admin", move |stop| {
            let (socket, shared, base_path) = (own.try_clone(), Arc::clone(&shared), base.clone());
            async move {
                match socket.and_then(tokio::net::TcpListener::from_std) {
                    Ok(socket) => admin::serve(socket, shared, base_path, stop).await,
                    Err(err) => warn!(%err, "no admin endpoints"),
                }
            }
        });
        if let Some(before) = self.open.replace(Open { configured, base_path: base_path.to_owned(), socket, stop }) {
            before.stop.cancel();
        }
        if let Some(address) = self.address() {
            info!(%address, "monitoring");
        }
        Ok(())
    }

    /// Serves the endpoints as configured by now: elsewhere, with another path, or not at all. Where that fails they
    /// are served as before.
    ///
    /// # Errors
    /// The new address cannot be bound.
    pub async fn change(&mut self, to: Option<SocketAddr>, base_path: &str) -> Result<(), ServerError> {
        let Some(to) = to else {
            self.close();
            return Ok(());
        };
        let is_same = |open: &Open| open.configured == to;
        let socket = match &self.open {
            Some(open) if is_same(open) && open.base_path == base_path => return Ok(()),
            Some(open) if is_same(open) => open.socket.try_clone()?,
            _ => self.bind(to).await?,
        };
        Ok(self.serve(to, socket, base_path)?)
    }

    async fn bind(&mut self, to: SocketAddr) -> Result<TcpListener, ServerError> {
        let failed = match bind(to, &self.passed) {
            Err(ServerError::Bind { err, .. }) if err.kind() == io::ErrorKind::AddrInUse => err,
            done => return done,
        };
        // Another address of the same port: weir may be in its own way.
        let Some(before) = self.open.take_if(|open| open.configured.port() == to.port()) else {
            return Err(ServerError::Bind { address: to, err: failed });
        };
        let Open { configured, base_path, socket, stop } = before;
        let was = socket.local_addr()?;
        stop.cancel();
        drop(socket);
        let moved = bind_once_free(to).await;
        if moved.is_err() {
            let socket = bind_once_free(was).await?;
            self.serve(configured, socket, &base_path)?;
        }
        moved
    }
}

async fn bind_once_free(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let until = Instant::now() + UNTIL_FREE;
    loop {
        match bind_new(address) {
            Err(_) if Instant::now() < until => sleep(Duration::from_millis(5)).await,
            done => return done,
        }
    }
}
