//! Draining: weir says that it is leaving and serves on, then refuses new clients and ends the present sessions, spread
//! over time.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::{config::NewClients, outcome::Cause, session::Shared, worker};

/// A session that has been told to end has closed its connections within this time: it waits a second for its client
/// and its server to close theirs.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

/// How long a drain takes, and what becomes of clients that come during its grace period.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// From the signal on the present sessions are left alone for so long, and the ports are open.
    pub grace: Duration,
    /// From the signal to the end of the last session.
    pub duration: Duration,
    /// Clients that come within the grace period.
    pub new_clients: NewClients,
}

impl Drain {
    /// Drains, and returns when no session is left, or all have had the time to close, but not before the grace period
    /// is over: load balancers send clients until they have seen `/healthz`, whether or not anybody is there. The
    /// caller drops this on a second signal.
    pub async fn run(self, shared: &Arc<Shared>) {
        let Self { grace, duration, new_clients } = self;
        let (admission, sessions) = (&shared.admission, &shared.sessions);
        let began = Instant::now();
        admission.begin_lame_duck();
        if new_clients == NewClients::Refuse {
            admission.begin_drain(duration);
        }
        info!(
            sessions = sessions.len(),
            new_clients = <&str>::from(new_clients),
            ?grace,
            ?duration,
            "lame duck mode: a second signal stops at once"
        );
        sleep_until(began + grace).await;
        let spread = duration.saturating_sub(grace);
        admission.begin_drain(spread);
        if let Some(fleet) = &shared.fleet {
            // What its sessions hold goes to the other weirs as they end.
            fleet.ledger().leave();
            fleet.link().leases().wake();
        }
        info!(sessions = sessions.len(), "draining: no new clients");
        let mut handles = sessions.handles();
        worker::with_rng(|rng| rng.shuffle(&mut handles));
        let first = Instant::now();
        let count = handles.len().max(1) as f64;
        for (n, handle) in handles.into_iter().enumerate() {
            // The last ones may have left by themselves.
            if sessions.is_empty() {
                break;
            }
            sleep_until(first + spread.mul_f64(n as f64 / count)).await;
            handle.end(Cause::Draining);
        }
        let all_close_by = Instant::now().max(first + spread) + CLOSES_WITHIN;
        while !sessions.is_empty() && Instant::now() < all_close_by {
            // A session that began just as the drain did is not among the handles.
            for handle in sessions.handles() {
                handle.end(Cause::Draining);
            }
            sleep_until(Instant::now() + Duration::from_millis(10)).await;
        }
        // Those who waited for their turn are told one by one.
        while admission.waiting().answered_later > 0 && first.elapsed() < spread {
            sleep_until(Instant::now() + Duration::from_millis(10)).await;
        }
        info!(took = ?began.elapsed(), "drained");
    }
}
