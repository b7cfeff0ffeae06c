//! Draining: weir refuses new clients, gives the present sessions a grace period, and then ends them spread over time.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::{session::Shared, worker};

/// Refuses new clients, leaves the present sessions alone for `grace`, then ends them evenly until `duration` is over.
/// Returns when no session is left. The caller drops this on a second signal.
pub async fn drain(shared: &Arc<Shared>, grace: Duration, duration: Duration) {
    let began = Instant::now();
    shared.admission.begin_drain();
    info!(sessions = shared.sessions.len(), ?grace, ?duration, "draining: no new clients");
    while !shared.sessions.is_empty() && began.elapsed() < grace {
        sleep_until(Instant::now() + Duration::from_millis(50)).await;
    }
    let mut handles = shared.sessions.handles();
    worker::with_rng(|rng| rng.shuffle(&mut handles));
    let (first, spread) = (Instant::now(), duration.saturating_sub(grace));
    let count = handles.len().max(1) as f64;
    for (n, handle) in handles.into_iter().enumerate() {
        sleep_until(first + spread.mul_f64(n as f64 / count)).await;
        handle.end();
    }
    while !shared.sessions.is_empty() {
        // A session that began just as the drain did is not among the handles.
        shared.sessions.handles().iter().for_each(|handle| handle.end());
        sleep_until(Instant::now() + Duration::from_millis(10)).await;
    }
    info!(took = ?began.elapsed(), "drained");
}
