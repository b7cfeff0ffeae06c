//! Looks once a second how full servers, accounts and listeners are, which servers are down, and which certificates
//! expire, and tells of what has changed.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tracing::info;

use crate::{
    admin::prometheus::by_name,
    events::{
        Event, Thing,
        fullness::{Outage, OutageChange},
        watch::{Limit, Sample, Watch},
    },
    net::timer,
    outcome::Refusal,
    overview::server_sample,
    session::Shared,
    upstream::{Server, ServerId},
};

/// The most levels that are told in one second, so that many small accounts that are full by design fill no log.
const MOST_TOLD: usize = 10;
/// Certificates are looked at every so many seconds.
const CERTIFICATES_EVERY: u64 = 60;
/// An operator is told when a certificate has fewer days left than each of these, once each.
const DAYS_LEFT: [f64; 3] = [14.0, 3.0, 0.0];

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    watch: Watch,
    /// With the name by which the beginning of the outage was told, and so is its end: the first name that a server has
    /// may be its address.
    outages: HashMap<ServerId, (Outage, String)>,
    full: Outage,
    /// Clients that had been refused for want of room before it was full.
    refused_before: u64,
    /// By listener, subject and time of expiry: how many of [`DAYS_LEFT`] were told.
    certificates: HashMap<(SocketAddr, String, i64), usize>,
    looks: u64,
}

impl Lookout {
    /// To be called once a second. `warn_at` is the part of a limit (0.0 to 1.0) from which on it is told.
    pub(super) fn look(&mut self, shared: &Shared, warn_at: f64) {
        self.look_at_usage(shared, warn_at);
        self.look_at_outages(shared);
        self.look_at_room(shared);
        if self.looks.is_multiple_of(CERTIFICATES_EVERY) {
            self.look_at_certificates(shared);
        }
        self.looks += 1;
    }

    fn look_at_usage(&mut self, shared: &Shared, warn_at: f64) {
        let servers = by_name(shared.servers.iter())
            .into_iter()
            .filter(|(_, server)| is_its_own_count(shared, server))
            .map(|(name, server)| server_sample(&name, &server));
        let same = |most| Limit { max_connections: most, fillable: most };
        let accounts = shared.admission.accounts().rooms().into_iter();
        let accounts = accounts.map(|(name, connections, most)| Sample {
            of: Thing::Account,
            id: None,
            name,
            connections,
            limit: most.map(same),
        });
        let listeners = shared.listeners.load_full();
        let listeners = listeners.iter().map(|(address, clients)| Sample {
            of: Thing::Listener,
            id: None,
            name: address.to_string().into(),
            connections: clients.in_use(),
            limit: Some(same(clients.most())),
        });
        let samples: Vec<_> = servers.chain(self.watch.largest(accounts.collect())).chain(listeners).collect();
        let look = self.watch.look(timer::now(), warn_at, samples, |ago| {
            let then = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
            humantime::format_rfc3339_seconds(then).to_string()
        });
        let left_out = look.told.len().saturating_sub(MOST_TOLD);
        for (n, usage) in look.told.into_iter().enumerate() {
            match n < MOST_TOLD {
                true => shared.notifier.tell(&Event::Usage(usage)),
                false => shared.notifier.count_only(Event::Usage(usage).kind()),
            }
        }
        if left_out > 0 {
            info!(left_out, "more levels of fullness have changed than have a line of their own");
        }
        shared.usage.store(Arc::new(look.rows));
    }

    fn look_at_outages(&mut self, shared: &Shared) {
        let now = timer::now();
        let mut before = std::mem::take(&mut self.outages);
        let named = by_name(shared.servers.iter()).into_iter();
        for (name, server) in named.filter(|(_, server)| !server.is_stranger() && !server.is_draining()) {
            let (mut outage, mut told_as) = before.remove(&server.id()).unwrap_or_default();
            match outage.look(now, !server.is_reachable(now)) {
                Some(OutageChange::Began) => {
                    told_as = name;
                    let is_lame_duck = server.is_lame_duck(now);
                    shared.notifier.tell(&Event::ServerDown { server: told_as.clone(), is_lame_duck });
                }
                Some(OutageChange::Over(lasted)) => {
                    let server = std::mem::take(&mut told_as);
                    shared.notifier.tell(&Event::ServerUp { server, lasted: in_ms(lasted) });
                }
                None => {}
            }
            self.outages.insert(server.id(), (outage, told_as));
        }
    }

    fn look_at_room(&mut self, shared: &Shared) {
        let (now, refused) = (timer::now(), shared.counters.refused(Refusal::ServerCapacity));
        let is_full = !shared.servers.has_headroom(now) && shared.servers.any_reachable(now);
        if !is_full && !self.full.is_on() {
            self.refused_before = refused;
        }
        match self.full.look(now, is_full) {
            Some(OutageChange::Began) => shared.notifier.tell(&Event::ClusterFull { servers: shared.servers.len() }),
            Some(OutageChange::Over(lasted)) => shared
                .notifier
                .tell(&Event::ClusterRoomAgain { lasted: in_ms(lasted), refused: refused - self.refused_before }),
            None => {}
        }
    }

    fn look_at_certificates(&mut self, shared: &Shared) {
        let mut told_before = std::mem::take(&mut self.certificates);
        for (listener, tls) in shared.terminators.load().iter() {
            for one in tls.in_use() {
                let days = one.days_left();
                let due = DAYS_LEFT.iter().filter(|&&left| days < left).count();
                let key = (*listener, one.subject, one.expires);
                if due > told_before.remove(&key).unwrap_or(0) {
                    shared.notifier.tell(&Event::CertificateExpires {
                        of: listener.to_string(),
                        subject: key.1.clone(),
                        days: days.floor() as i64,
                    });
                }
                self.certificates.insert(key, due);
            }
        }
    }
}

/// Whether the count of a server is its own: until INFO has told who it is, a reading may be another server's.
fn is_its_own_count(shared: &Shared, server: &Server) -> bool {
    let is_read = || shared.advertised_info.server_id(server).is_some_and(|id| server.was_read_as(&id));
    !server.has_readings() || is_read()
}

/// Nobody reads nanoseconds.
fn in_ms(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
