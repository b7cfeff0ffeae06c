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
mod dial_first;
mod downstream;
mod established;
mod failover;
mod finish;
pub mod ghosts;
mod identify;
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
#[cfg_attr(not(test), expect(dead_code, reason = "for a process that takes over"))]
pub mod remembered;
mod shared;
#[cfg(test)]
mod tests;
mod unanswered;
pub mod upstream_pool;
mod wait;
mod websocket_upgrade;
mod welcome;

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use crate::session::{
    arrive::arrive,
    context::{Context, End},
    established::Established,
    rehome::Rehomable,
};

pub use self::{
    connection_permit::{ConnectionPermit, Descriptors},
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
        match establish(&mut cx, client, permit).await {
            Ok(session) => Some(session),
            Err(end) => {
                cx.finish(end);
                None
            }
        }
    });
    async move {
        match establishing.await {
            Some(Session::Plain(session)) => session.relay().await,
            Some(Session::Rehomable(session)) => session.relay().await,
            None => {}
        }
    }
}

/// A client that is in.
enum Session {
    Plain(Box<Established>),
    /// It goes on with another server when its own is lost.
    Rehomable(Box<Rehomable>),
}

/// Everything up to the relay. The error is how the client's path ended before that.
async fn establish(cx: &mut Context, client: TcpStream, permit: ConnectionPermit) -> Result<Session, End> {
    let arrived = arrive(cx, client, permit).await?;
    let accepted = arrived.accept_check(cx)?;
    let greeted = accepted.exchange_preface(cx).await?;
    let identified = greeted.identify(cx).await?;
    let admitted = identified.wait_for_turn(cx).await?;
    let connected = admitted.connect_upstream(cx).await?;
    connected.welcome(cx).await
}
