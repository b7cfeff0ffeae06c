//! Servers' connections whose clients have not answered yet: one source has a part of what is free, so that silent
//! connections of one address cannot fill the servers.
//!
//! Where a server is dialled before CONNECT, a client takes a slot before it has said anything, and a silent one keeps
//! it until the server's patience ends. A client that answers soon does not notice the bound: with it as many
//! connections of its source wait at a time as the servers begin handshakes, and the next is dialled when one of them
//! has answered.

use std::pin::pin;

use tokio::time::Instant;

use crate::{
    admission::SourcePermit,
    net::timer::{TICK, now, sleep_until},
    session::context::Context,
};

/// A source may take this part of the free slots with connections that are unanswered.
const PART: u32 = 4;
/// So many it may take however little is free.
const FEW: u32 = 4;

/// Waits until the source of a client may have one more unanswered connection; `None` when that is not in time. The
/// error is how it `left` meanwhile.
pub(super) async fn begin<L>(cx: &Context, left: impl Future<Output = L>) -> Result<Option<SourcePermit>, L> {
    let shared = &cx.shared;
    let until = cx.wait_before_info_until();
    let mut left = pin!(left);
    // A source that has few need not be compared with what is free, which takes a look at every server.
    let is_observing = shared.admission.is_observing();
    let most = |has: u32| match has < FEW {
        true => FEW,
        false if is_observing => u32::MAX,
        false => (shared.servers.headroom(now()).saturating_add(has) / PART).max(FEW),
    };
    loop {
        if let Some(permit) = shared.unanswered.try_acquire(cx.source().into(), most) {
            return Ok(Some(permit));
        }
        let next = Instant::now() + TICK;
        if next >= until {
            return Ok(None);
        }
        tokio::select! {
            () = sleep_until(next) => {}
            left = &mut left => return Err(left),
        }
    }
}
