//! One cluster, with weir in front of it or without, and its clients.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::Failed;
use crate::screen::Screen;
use weir_testkit::{Cluster, Crowd, Habit, Login, NatsServer, Weir, WeirConfig, http, metrics};

/// `max_connections` of each server.
pub(crate) const MAX: u64 = 120;
/// How many of them weir leaves free on each server.
pub(crate) const RESERVE: u64 = 5;
/// weir's `max_connections` of the account BATCH.
pub(crate) const QUOTA: usize = 40;
/// How long an act may take, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// What there is to see at one moment.
#[derive(Clone, Default)]
pub(crate) struct Now {
    /// What each server says it has; `None`: it does not answer.
    pub(crate) servers: Vec<Option<u64>>,
    /// What weir says it has on each server; empty without weir.
    sessions: Vec<f64>,
    /// How many servers weir can use.
    pub(crate) up: f64,
    /// How many clients wait inside weir.
    pub(crate) held: f64,
    refused: BTreeMap<String, f64>,
    /// How many of the demo's own clients are connected.
    pub(crate) connected: usize,
    /// How many there are.
    pub(crate) clients: usize,
}

impl Now {
    /// Whether weir's counts are the servers' own.
    pub(crate) fn agrees(&self) -> bool {
        self.servers.iter().zip(&self.sessions).all(|(theirs, ours)| theirs.unwrap_or(0) as f64 == *ours)
    }

    /// How many attempts weir has refused for this reason.
    pub(crate) fn refused(&self, reason: &str) -> f64 {
        self.refused.get(reason).copied().unwrap_or(0.0)
    }

    /// How many attempts weir has refused because the servers had no room.
    pub(crate) fn refused_for_room(&self) -> f64 {
        ["server_capacity", "no_server", "hold_expired", "queue_full"].iter().map(|reason| self.refused(reason)).sum()
    }

    /// `60 / 61 / down`.
    pub(crate) fn spread(&self) -> String {
        let each = |share: &Option<u64>| share.map_or_else(|| "down".into(), |n| n.to_string());
        self.servers.iter().map(each).collect::<Vec<_>>().join(" / ")
    }

    /// All refusals by reason, each on a line of its own in the live view.
    pub(crate) fn refusals(&self) -> Vec<String> {
        self.refused.iter().filter(|(_, n)| **n > 0.0).map(|(reason, n)| format!("{reason} {n}")).collect()
    }
}

/// A cluster of three servers and the clients that are started for it.
pub(crate) struct Side {
    crowds: BTreeMap<String, Crowd>, // first, so that clients end before what they are connected to
    pub(crate) weir: Option<Weir>,
    pub(crate) cluster: Cluster,
    pub(crate) now: Now,
}

impl Side {
    /// Starts a cluster without weir.
    pub(crate) async fn direct(config: &str) -> Self {
        let start = |server: weir_testkit::ServerOptions| server.max_connections(MAX).jetstream().with(config);
        let cluster = Cluster::start(3, start).await;
        Self { crowds: BTreeMap::new(), weir: None, cluster, now: Now::default() }
    }

    /// Starts a cluster like that of [`Side::direct`], and weir in front of it.
    pub(crate) async fn behind_weir(config: &str) -> Self {
        let mut side = Self::direct(config).await;
        let weir = WeirConfig::of(&side.cluster)
            .log_level("info")
            .listener("")
            .cluster(&format!("reserve = {RESERVE}"))
            .admission("rate = 150\nburst = 20")
            .account("BATCH", &format!("users = [\"batch\"]\nmax_connections = {QUOTA}"))
            .account("SHOP", "users = [\"shop\"]");
        side.weir = Some(weir.start().await);
        side
    }

    /// The addresses that clients are given: weir's, or those of all servers.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.weir.as_ref().map_or_else(|| self.cluster.addresses(), |weir| vec![weir.address.clone()])
    }

    /// Starts `n` clients with the timeouts and pauses of nats.go, divided evenly among the addresses.
    pub(crate) fn crowd(&mut self, screen: &mut Screen, name: &str, n: usize, login: &Login) {
        screen.started.clients += n;
        let addresses = self.addresses();
        for (i, address) in addresses.iter().enumerate() {
            let share = n / addresses.len() + usize::from(i < n % addresses.len());
            let crowd = Crowd::start(address, share, &login.clone().name(name), Habit::NATS_GO);
            self.crowds.insert(format!("{name} {i}"), crowd);
        }
    }

    /// Ends the clients of this name for good.
    pub(crate) async fn leaves(&mut self, name: &str) {
        let named = |key: &String| key.split(' ').next() == Some(name);
        let (gone, stay) = std::mem::take(&mut self.crowds).into_iter().partition(|(key, _)| named(key));
        self.crowds = stay;
        for crowd in BTreeMap::into_values(gone) {
            crowd.end().await;
        }
    }

    /// How many attempts the clients have made.
    pub(crate) fn attempts(&self) -> usize {
        self.crowds.values().map(Crowd::attempts).sum()
    }

    /// What became of the attempts that failed: a text that the client was told, or what happened instead.
    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (what, n) in self.crowds.values().flat_map(Crowd::ends) {
            *all.entry(what).or_default() += n;
        }
        all
    }

    /// Reads everything once, shows it, and pauses briefly.
    pub(crate) async fn watch(&mut self, screen: &mut Screen) -> Result<(), Failed> {
        self.now = self.look().await;
        if let Some(weir) = &mut self.weir
            && let Some(status) = weir.exited()
        {
            return Err(Failed(format!("weir has ended: {status}\n{}", weir.log())));
        }
        screen.show(self);
        tokio::time::sleep(screen.interval()).await;
        Ok(())
    }

    /// Watches until `come_true`; fails when that takes too long.
    pub(crate) async fn until(
        &mut self,
        screen: &mut Screen,
        what: &str,
        come_true: impl Fn(&Now) -> bool,
    ) -> Result<Duration, Failed> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            self.watch(screen).await?;
            if come_true(&self.now) {
                return Ok(began.elapsed());
            }
        }
        let (now, refusals) = (&self.now, self.now.refusals().join(", "));
        let seen = format!("servers {}, {} of {} connected", now.spread(), now.connected, now.clients);
        Err(Failed(format!("after {PATIENCE:?} still not true: {what}; {seen}, refused: {refusals}")))
    }

    /// Watches until a key is pressed, or for as long as the sentence before takes to read.
    pub(crate) async fn read_on(&mut self, screen: &mut Screen) -> Result<(), Failed> {
        let began = Instant::now();
        screen.ask_for_key();
        while began.elapsed() < screen.reading_time() && !screen.key_pressed() {
            self.watch(screen).await?;
        }
        screen.key_asked = false;
        Ok(())
    }

    async fn look(&self) -> Now {
        let count = |server| async move {
            NatsServer::monitoring(server, "/varz").await.and_then(|v| v["connections"].as_u64())
        };
        let servers = futures::future::join_all(self.cluster.servers.iter().map(count)).await;
        let connected = self.crowds.values().map(Crowd::connected).sum();
        let clients = self.crowds.values().map(Crowd::size).sum();
        let Some(weir) = &self.weir else { return Now { servers, connected, clients, ..Now::default() } };
        let text = http::get(&weir.monitor, "/metrics").await.map(|(_, text)| text).unwrap_or_default();
        let metrics = metrics::Metrics::parse(&text);
        let session = |server: &NatsServer| metrics.sum_where("weir_sessions_active", "server", &server.name);
        let reason = |sample: &str| sample.split('"').nth(1).unwrap_or("?").to_owned();
        Now {
            servers,
            sessions: self.cluster.servers.iter().map(session).collect(),
            up: metrics.sum("weir_server_up"),
            held: metrics.sum("weir_held"),
            refused: metrics.of("weir_refused_total").map(|(sample, n)| (reason(sample), n)).collect(),
            connected,
            clients,
        }
    }
}
