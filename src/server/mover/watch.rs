//! Twice a second: clients of servers that shut down are moved, sessions of servers that are silent or have been
//! restarted find out whether theirs is there, servers that are back get their share again, and where an operator wants
//! it uneven servers are made even and old connections end.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Asked, Census, Mover, evacuate::Evacuation, lost::Told, role};
use crate::{
    config::RebalanceConfig,
    outcome::MoveCause,
    rebalance::plan::{Role, ratio},
    upstream::Standing,
};

const EVERY: Duration = Duration::from_millis(500);

/// The clients of a server that shuts down are moved within this time. By default nats-server begins to close them 10 s
/// after it has announced that, and has closed all after 2 minutes.
const LAME_DUCK_WITHIN: Duration = Duration::from_secs(60);

/// A server that is back gets its share by moves while the servers are less even than this.
const RETURN_TO: f64 = 1.05;

/// A server with so many times the mean is made even at once.
const FAR_OFF: f64 = 2.0;
/// The highest share over the lowest one that is made even where it lasts for [`LASTS`].
const UNEVEN: f64 = 1.3;
const LASTS: Duration = Duration::from_secs(60);
/// Between two rebalances that begin by themselves.
const BETWEEN: Duration = Duration::from_secs(60);

impl Mover {
    /// Watches until `stop`. `config` says what is done without being asked.
    pub async fn watch(self, config: impl Fn() -> RebalanceConfig, stop: CancellationToken) {
        let (mut told, mut restarts) = (Told::default(), HashMap::new());
        let servers = async {
            loop {
                sleep(EVERY).await;
                self.look_for_lame_ducks();
                self.look_for_clients_to_go();
                self.look_for_silent_servers().await;
                self.look_for_restarts(&mut restarts).await;
                self.look_for_returns().await;
                self.look_for_unevenness(config().auto).await;
                self.state().history.sweep(Instant::now());
                told.look(&self.shared().counters, Instant::now());
                self.show(Instant::now());
            }
        };
        tokio::select! {
            () = servers => {}
            () = self.close_by_age(|| config().max_connection_age) => {}
            () = stop.cancelled() => {}
        }
    }

    fn look_for_lame_ducks(&self) {
        let now = Instant::now();
        for server in self.shared().servers.iter().filter(|server| server.is_lame_duck(now) && !server.is_draining()) {
            if server.load().sessions() == 0 {
                continue;
            }
            let Some(evacuation) = Evacuation::begin(&self.0.state, server.id(), now) else { continue };
            info!(server = server.name(), sessions = server.load().sessions(), "clients are moved away: it shuts down");
            let mover = self.clone();
            let work = async move { mover.evacuate(&server, MoveCause::LameDuck, LAME_DUCK_WITHIN).await };
            tokio::spawn(evacuation.lasts(work));
        }
    }

    /// Clients that a server has told to go, and that stays itself.
    fn look_for_clients_to_go(&self) {
        for server in self.shared().servers.iter() {
            let clients = server.take_clients_to_go();
            if !clients.is_empty() {
                let mover = self.clone();
                tokio::spawn(async move { mover.move_away(&server, &clients, LAME_DUCK_WITHIN).await });
            }
        }
    }

    /// A server that weir has emptied when it shut down gets its share again once it is back: that only undoes what
    /// weir has done.
    async fn look_for_returns(&self) {
        let now = Instant::now();
        let emptied = {
            let mut state = self.state();
            state.emptied.retain(|id| self.shared().servers.get(*id).is_some());
            if state.emptied.is_empty() || state.current.is_some() || !state.evacuated.is_empty() {
                return;
            }
            state.emptied.clone()
        };
        let is_back = |id: &_| {
            let standing = self.shared().servers.get(*id).map(|server| server.standing(now).0);
            matches!(standing, Some(Standing::Up | Standing::SlowStart))
        };
        let back: Vec<_> = emptied.iter().copied().filter(is_back).collect();
        let Some(server) = back.first().and_then(|id| self.shared().servers.get(*id)) else { return };
        let asked = Asked {
            rate: None,
            to: RETURN_TO,
            is_meant: Box::new(|_| true),
            by: format!("the return of {}", server.name()),
            returned: back.clone(),
        };
        // Those that are back are even by then. Where it cannot begin now it is tried again.
        if let Ok(preview) = self.rebalance(asked).await
            && preview.plan.clients() == 0
        {
            self.state().forget_emptied(&back);
        }
    }

    async fn look_for_unevenness(&self, is_auto: bool) {
        if !is_auto {
            self.state().uneven_since = None;
            return;
        }
        let now = Instant::now();
        {
            let state = self.state();
            let is_soon = state.last_ended.is_some_and(|at| now.saturating_duration_since(at) < BETWEEN);
            if state.current.is_some() || is_soon || !state.evacuated.is_empty() {
                return;
            }
        }
        let census = Census::take(self.shared(), |server| role(server, now), |_| false).await;
        let shares: Vec<_> = census.now.iter().filter(|one| one.role == Role::Shares).collect();
        let mean = shares.iter().map(|one| one.sessions).sum::<u32>() as f64 / shares.len().max(1) as f64;
        let is_far_off = shares.len() > 1 && shares.iter().any(|one| f64::from(one.sessions) > FAR_OFF * mean.max(1.0));
        let is_uneven = ratio(&census.now) > UNEVEN;
        let since = {
            let mut state = self.state();
            state.uneven_since = state.uneven_since.filter(|_| is_uneven).or(is_uneven.then_some(now));
            state.uneven_since
        };
        if !is_far_off && since.is_none_or(|since| now.saturating_duration_since(since) < LASTS) {
            return;
        }
        let by = "[rebalance] auto".to_owned();
        let asked = Asked { rate: None, to: 1.1, is_meant: Box::new(|_| true), by, returned: Vec::new() };
        if self.rebalance(asked).await.is_ok() {
            let mut state = self.state();
            // Those who may not be moved yet make it no emergency each second.
            state.last_ended = Some(now);
            state.uneven_since = None;
        }
    }
}
