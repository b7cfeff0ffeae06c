//! Serves the endpoints and the admin socket over HTTP/1.1, with few connections and little time for each, so that
//! nobody there takes descriptors that clients need or keeps weir from ending.

use std::{collections::VecDeque, future::Future, io, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long a request's head may take, and how long a connection may be idle. Longer than the usual scrape interval of
/// 15 s.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How old a connection may become: an answer that nobody reads ends with it.
const MAX_AGE: Duration = Duration::from_secs(300);
/// After a drain, answers that are under way have this long.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// The pause after an accept error, mostly because no descriptors are left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket, and what its clients may ask.
pub trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What the log calls it.
    const NAME: &'static str;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Router)>> + Send;
}

/// A TCP port where everybody may ask the same.
pub struct Port {
    pub listener: TcpListener,
    pub routes: Router,
}

impl Accept for Port {
    type Stream = TcpStream;
    const NAME: &'static str = "the monitor port";

    async fn accept(&self) -> io::Result<(TcpStream, Router)> {
        let (stream, _) = self.listener.accept().await?;
        Ok((stream, self.routes.clone()))
    }
}

/// Serves until `stop`, `most` connections at a time. One beyond them ends the oldest: a monitoring system that kept it
/// idle connects again, and an idle connection keeps no scrape out. `BASE` in `server/file_limit.rs` counts their
/// descriptors.
pub async fn serve<A: Accept>(socket: A, most: usize, stop: CancellationToken) {
    let mut connections = Connections::default();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, routes)) => connections.start(stream, routes, most, stop.clone()),
            Err(err) => {
                warn!(of = A::NAME, %err, "the admin port cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The port is free from now on.
    drop(socket);
    // What is not answered by then is dropped with `connections`.
    let _ = timeout(LAST_ANSWERS, connections.ended()).await;
}

#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// The oldest first.
    by_age: VecDeque<AbortHandle>,
}

impl Connections {
    fn start(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        routes: Router,
        most: usize,
        stop: CancellationToken,
    ) {
        while self.tasks.try_join_next().is_some() {}
        self.by_age.retain(|connection| !connection.is_finished());
        if self.by_age.len() >= most
            && let Some(oldest) = self.by_age.pop_front()
        {
            oldest.abort();
        }
        self.by_age.push_back(self.tasks.spawn(answer(stream, routes, stop)));
    }

    async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Answers the requests of one connection.
async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Router, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let service = TowerToHyperService::new(routes);
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let answered = async {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = stop.cancelled() => {}
        }
        // The answer that is under way is the last one; a request that has not come whole is not waited for.
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    match timeout(MAX_AGE, answered).await {
        Ok(Ok(())) => {}
        Ok(Err(err)) => debug!(%err, "a connection of the admin port has ended"),
        Err(_) => debug!("a connection of the admin port is closed for its age"),
    }
}
