//! The path of a client, in stages. Each stage owns what the next one needs, and returns it.
//!
//! ```text
//! accept → arrive → accept check → preface → identify → wait → connect upstream → welcome → relay → close
//!                                      ╎                  ╎            ╎
//!                                      ╰╌╌ dial first     ╰╌╌╌╌╌╌╌╌╌╌╌╌┴╌╌ refuse
//! ```
//!
//! Where the servers send a nonce the dial comes before the preface (`dial_first.rs`): the client signs the nonce of
//! the very server that it gets. A client that gets a no goes to `refuse.rs`, from whichever stage. `passthrough/` is
//! the path of a client whose TLS ends at its server: weir cannot read its preface.

mod account;
mod arrive;
mod await_turn;
mod client_tls;
mod connect_upstream;
mod connection_permit;
mod context;
pub mod damped_dials;
mod descriptors;
mod dial_first;
mod downstream;
mod established;
mod failover;
mod finish;
pub mod ghosts;
mod identify;
mod leafnode;
mod leafnode_compression;
mod listener;
mod log_in;
mod login_evidence;
pub mod move_orders;
mod passthrough;
mod planned_move;
mod preface;
mod proxy_header;
pub mod read_ahead;
mod refuse;
mod rehome;
pub mod remembered;
mod shared;
pub mod takeover;
#[cfg(test)]
mod tests;
mod unanswered;
pub mod upstream_pool;
mod wait;
mod websocket_upgrade;
mod welcome;

use std::{io, net::SocketAddr, os::fd::OwnedFd, pin::Pin, sync::Arc};

use tokio::{net::TcpStream, time::Instant};

use crate::session::{
    arrive::arrive,
    context::{Context, End},
    established::Established,
    leafnode::LeafnodeSession,
    preface::Greeted,
    rehome::Rehomable,
    takeover::{ClientState, TakenClient},
};

pub use self::{
    connection_permit::ConnectionPermit,
    descriptors::Descriptors,
    listener::{Listener, PassthroughListener, WebSocketListener},
    passthrough::serve_passthrough,
    shared::Shared,
};

/// Serves one client, from accept to close.
pub fn serve(
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    client: TcpStream,
    peer: SocketAddr,
    permit: ConnectionPermit,
) -> impl Future<Output = ()> + Send {
    let mut cx = Context::new(shared, listener, peer);
    // Until the client is in, its state is on the heap: an idle session is small.
    let establishing = Box::pin(async move {
        let established = establish(&mut cx, client, permit).await;
        or_end(cx, established)
    });
    relay(establishing)
}

/// Serves a client that another process has accepted, from where that has stopped. The client has to be given to this
/// process before.
///
/// # Errors
/// The runtime cannot have its connection.
pub fn serve_taken(
    shared: &Arc<Shared>,
    listener: Arc<Listener>,
    state: ClientState,
    connection: OwnedFd,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let (mut cx, taken) = TakenClient::new(Arc::clone(shared), listener, state, connection)?;
    let establishing = Box::pin(async move {
        let established = match taken.exchange_preface(&mut cx).await {
            Ok(greeted) => let_in(&mut cx, greeted).await,
            Err(end) => Err(end),
        };
        or_end(cx, established)
    });
    Ok(relay(establishing))
}

fn or_end(cx: Context, established: Result<Session, End>) -> Option<Session> {
    established.map_err(|end| cx.finish(end)).ok()
}

#[expect(clippy::manual_async_fn, reason = "the future of an async fn would hold its argument twice")]
fn relay(establishing: Pin<Box<impl Future<Output = Option<Session>> + Send>>) -> impl Future<Output = ()> + Send {
    async move {
        match establishing.await {
            Some(Session::Plain(session)) => session.relay(Instant::now()).await,
            Some(Session::Rehomable(session)) => session.relay(Instant::now()).await,
            // There are few: their state is not in the session of every client.
            Some(Session::Leafnode(session)) => Box::pin(session.relay(Instant::now())).await,
            None => {}
        }
    }
}

/// A client that is in.
enum Session {
    Plain(Box<Established>),
    /// It goes on with another server when its own is lost.
    Rehomable(Box<Rehomable>),
    Leafnode(Box<LeafnodeSession>),
}

/// Everything up to the relay. The error is how the client's path ended before that.
async fn establish(cx: &mut Context, client: TcpStream, permit: ConnectionPermit) -> Result<Session, End> {
    let arrived = arrive(cx, client, permit).await?;
    let accepted = arrived.accept_check(cx)?;
    let greeted = accepted.exchange_preface(cx).await?;
    let_in(cx, greeted).await
}

/// From its CONNECT on.
async fn let_in(cx: &mut Context, greeted: Greeted) -> Result<Session, End> {
    let identified = greeted.identify(cx).await?;
    let admitted = identified.wait_for_turn(cx).await?;
    let connected = admitted.connect_upstream(cx).await?;
    connected.welcome(cx).await
}
