//! Looks after the connections that wait on a worker (`spare.rs`), and dials those that are wanted ahead of their clients.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;

use crate::{
    net::timer::sleep_until,
    session::{Shared, connect_upstream::open, dial_first::Opened, spare},
    upstream::{Server, preconnect::life},
};

/// How soon an end is noticed, at most, while nobody asks for the connection: a drain, a lame duck, a server that fills up.
const LOOK: Duration = Duration::from_millis(20);

/// A runtime that stops drops the task that has it, and closes what waits.
struct Clear;

impl Drop for Clear {
    fn drop(&mut self) {
        spare::clear();
    }
}

/// Does so for the worker on which it runs, for ever.
pub async fn keep_spares(shared: Arc<Shared>) {
    let _clear = Clear;
    let changed = spare::changed();
    let mut dials = FuturesUnordered::new();
    loop {
        for over in spare::sort_out(&shared) {
            tokio::spawn(over.let_go());
        }
        dials.extend(spare::missing(&shared).into_iter().map(|server| dial(&shared, server)));
        let look = Instant::now() + LOOK;
        tokio::select! {
            Some((server, opened)) = dials.next() => spare::dialled_ahead(&shared, server, opened),
            () = changed.notified() => {}
            () = sleep_until(look), if !spare::is_quiet() => {}
        }
    }
}

/// Dials one, if there is still room for it.
async fn dial(shared: &Shared, index: usize) -> (usize, Option<Opened>) {
    let began = Instant::now();
    let opened = async {
        let server = shared.servers.iter().nth(index)?;
        let mut slot = Server::reserve_ahead(server, began.into_std())?;
        let expires = began + life(server.auth_timeout());
        let dialled = open(shared, &mut slot, b"", expires).await.ok()?;
        // It asks for signatures now: those of a client whose it is.
        dialled.info().nonce().is_none().then(|| Opened { dialled, slot, expires })
    };
    (index, opened.await)
}
