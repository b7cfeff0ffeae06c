//! Dials for clients of damped sources from which somebody has logged in well: weir cannot tell the good from the bad
//! before CONNECT, so all are dialled, at a small rate, in the order of their arrival.
//!
//! A client that leaves while it waits takes no turn. So clients that fail again and again, each waiting for its turn,
//! keep the others of their source waiting by their number divided by the rate, and no longer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use crate::{
    admission::{BeforeConnect, Source},
    net::timer::{now, sleep_until, timeout_at},
    session::context::Context,
};

/// The time from one dial for a damped source to the next. A nats-server takes some 0.1 ms of a core for a connection
/// that it greets and that ends before CONNECT: a source takes 2 % of a core.
const INTERVAL: Duration = Duration::from_millis(5);
/// Dials that were not used lately may follow each other at once, as many as come in this time: the timer of a worker
/// is no finer than this.
const CATCH_UP: Duration = Duration::from_millis(20);

/// Of which clients a source's dials are counted together. Failures of one kind take nothing from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// weir reads the CONNECT.
    Read,
    /// TLS ends at the server.
    Passthrough,
}

/// The gates of sources. One that nobody uses is forgotten once its time has come.
#[derive(Debug, Default)]
pub struct DampedDials {
    gates: Mutex<Gates>,
}

#[derive(Debug, Default)]
struct Gates {
    by_source: HashMap<(Source, Kind), Arc<Gate>>,
    /// With more gates than this, those are looked for that can be forgotten.
    most: usize,
}

/// So few gates are not worth looking through.
const FEW: usize = 64;

#[derive(Debug)]
struct Gate {
    /// One client waits for the time of its dial; the others wait for it, the first comer first.
    next: Semaphore,
    /// The next dial may begin then.
    at: Mutex<Instant>,
}

impl DampedDials {
    fn gate(&self, key: (Source, Kind)) -> Arc<Gate> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let Gates { by_source, most } = &mut *gates;
        if by_source.len() > *most {
            let now = Instant::now();
            by_source.retain(|_, gate| Arc::strong_count(gate) > 1 || *gate.at() > now);
            *most = FEW.max(by_source.len() * 2);
        }
        let new = || Arc::new(Gate { next: Semaphore::new(1), at: Mutex::new(Instant::now()) });
        Arc::clone(by_source.entry(key).or_insert_with(new))
    }

    /// Waits until a client of this source may be dialled; `false` when that is not before `until`.
    pub async fn turn(&self, source: Source, kind: Kind, until: Instant) -> bool {
        let gate = self.gate((source, kind));
        let waits = Box::pin(async {
            let Ok(_first) = gate.next.acquire().await else { return };
            let at = *gate.at();
            sleep_until(at).await;
            let earliest = Instant::now().checked_sub(CATCH_UP).map_or(at, |earliest| at.max(earliest));
            *gate.at() = earliest + INTERVAL;
        });
        timeout_at(until, waits).await.is_ok()
    }
}

/// Whether a server may be dialled for a client that has not said who it is. A client of a damped source from which
/// somebody is known waits for its dial. The error is how it `left` meanwhile.
pub(super) async fn may_dial<L>(cx: &Context, kind: Kind, left: impl Future<Output = L>) -> Result<bool, L> {
    let shared = &cx.shared;
    match shared.admission.before_connect_from(cx.source(), now()) {
        BeforeConnect::Free => Ok(true),
        BeforeConnect::Damped => Ok(false),
        BeforeConnect::Paced => {
            let until = cx.wait_before_info_until();
            tokio::select! {
                may = shared.damped_dials.turn(cx.source().into(), kind, until) => Ok(may),
                left = left => Err(left),
            }
        }
    }
}

impl Gate {
    fn at(&self) -> MutexGuard<'_, Instant> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn source(n: u8) -> Source {
        IpAddr::from([192, 0, 2, n]).into()
    }

    #[tokio::test(start_paused = true)]
    async fn dials_of_a_source_come_at_a_rate_and_in_order() {
        let (dials, began) = (Arc::new(DampedDials::default()), Instant::now());
        let patience = began + Duration::from_secs(60);
        let mut clients = Vec::new();
        for n in 0..400 {
            let dials = Arc::clone(&dials);
            clients.push(tokio::spawn(async move {
                assert!(dials.turn(source(1), Kind::Read, patience).await);
                (n, began.elapsed())
            }));
            tokio::task::yield_now().await;
        }
        let turns: Vec<_> = futures_util::future::join_all(clients).await.into_iter().map(Result::unwrap).collect();
        assert!(turns.is_sorted_by_key(|(_, at)| *at), "first come, first served");
        let last = turns[399].1;
        assert!((Duration::from_millis(1900)..Duration::from_millis(2200)).contains(&last), "{last:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_takes_no_turn_and_other_sources_do_not_wait() {
        let (dials, began) = (DampedDials::default(), Instant::now());
        let soon = began + Duration::from_millis(100);
        for _ in 0..1000 {
            let mut left = Box::pin(dials.turn(source(1), Kind::Read, soon));
            let _ = futures_util::poll!(&mut left);
        }
        assert!(dials.turn(source(1), Kind::Read, soon).await && dials.turn(source(2), Kind::Read, soon).await);
        assert!(began.elapsed() < Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn whose_turn_comes_too_late_is_told() {
        let (dials, began) = (DampedDials::default(), Instant::now());
        let soon = began + Duration::from_millis(200);
        let turns = futures_util::future::join_all((0..100).map(|_| dials.turn(source(1), Kind::Read, soon))).await;
        let given = turns.into_iter().filter(|given| *given).count();
        assert!((38..=46).contains(&given), "{given}");
        assert!(dials.turn(source(1), Kind::Passthrough, Instant::now() + INTERVAL).await);
    }

    #[tokio::test(start_paused = true)]
    async fn sources_of_long_ago_are_forgotten() {
        let dials = DampedDials::default();
        let patience = Instant::now() + Duration::from_secs(60);
        for n in 0..20_000_u32 {
            assert!(dials.turn(IpAddr::from(n.to_be_bytes()).into(), Kind::Read, patience).await);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let gates = dials.gates.lock().unwrap().by_source.len();
        assert!(gates <= 2 * FEW, "{gates}");
    }
}
