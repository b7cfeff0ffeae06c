//! Reads what is shown of the fleet off a running weir. It touches no session.

use std::{
    collections::HashMap,
    sync::atomic::Ordering::Relaxed,
    time::{Instant, SystemTime},
};

use crate::{
    fleet::{
        Fleet,
        beat::Beat,
        key::{Key, Kind},
        link::{Counted, LinkState},
        peers::Peer,
        view::{AtServer, FORM, FleetView, Messages, Mode, Quota, Server, Summary, Weir},
    },
    overview::{self, history::tenths, of_weir::unix_ms},
    reports::MOST_ROWS,
    session::Shared,
    tally::shown,
    telemetry::process::STARTED,
};

/// The weirs that the overview has.
const SHOWN: usize = 64;

/// What is to be seen of the fleet at `now`; `None` where this weir is in none.
pub fn fleet(shared: &Shared, now: Instant) -> Option<FleetView> {
    let fleet = shared.fleet.as_deref()?;
    let weirs = weirs(shared, fleet, now);
    let (quotas, quotas_in_use) = quotas(shared, fleet, MOST_ROWS);
    Some(FleetView {
        form: FORM,
        now_unix_ms: unix_ms(SystemTime::now()),
        summary: summary(fleet, &weirs, now),
        weirs,
        quotas,
        quotas_in_use,
        servers: servers(shared, fleet, now),
        messages: messages(fleet),
    })
}

/// The part of it that the overview has.
pub(super) fn in_short(shared: &Shared, now: Instant) -> Option<overview::Fleet> {
    let fleet = shared.fleet.as_deref()?;
    let mut weirs = weirs(shared, fleet, now);
    let summary = summary(fleet, &weirs, now);
    weirs.truncate(SHOWN);
    Some(overview::Fleet { summary, weirs })
}

/// How this weir comes to its part, and why not by leases where these are wanted.
pub fn mode(fleet: &Fleet) -> (Mode, Option<String>) {
    let bucket = fleet.link().bucket();
    if bucket.is_in_force {
        return (Mode::Lease, None);
    }
    let mode = if fleet.peers().is_empty() { Mode::Alone } else { Mode::Split };
    let unknown = || "the bucket has not been reached yet".to_owned();
    (mode, fleet.link().wants_leases().then(|| bucket.why_not.unwrap_or_else(unknown)))
}

fn summary(fleet: &Fleet, weirs: &[Weir], now: Instant) -> Summary {
    let (mode, why) = mode(fleet);
    let since = fleet.link().bucket().since;
    let live = || weirs.iter().filter(|one| !one.is_stranger);
    Summary {
        name: fleet.name().to_owned(),
        id: fleet.id().to_string(),
        mode: mode.name().to_owned(),
        why,
        mode_seconds: since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64().round()),
        connected: fleet.link().is_up(),
        live: live().count(),
        sessions: live().map(|one| one.sessions).sum(),
        waiting: live().map(|one| one.waiting).sum(),
        admitted: live().fold(0, |sum, one| sum.saturating_add(one.admitted)),
        missing: fleet.missing().list(now).len(),
    }
}

/// The weirs that live, this one first.
fn weirs(shared: &Shared, fleet: &Fleet, now: Instant) -> Vec<Weir> {
    let own = Weir {
        id: fleet.id().to_string(),
        is_this: true,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: STARTED.elapsed().unwrap_or_default().as_secs_f64().round(),
        sessions: shared.sessions.len() as u64,
        waiting: shared.admission.waiting().held() as u64,
        admitted: shared.counters.admitted.load(Relaxed),
        beat_age_seconds: 0.0,
        is_stranger: false,
        leases_in_force: fleet.link().has_bucket(),
        addresses: shared.advertised_info.own_addresses().iter().map(str::to_owned).collect(),
    };
    let mut weirs = vec![own];
    weirs.extend(fleet.peers().all().map(|peer| of_peer(peer, now)));
    let announcer = fleet.announcer();
    for one in weirs.iter_mut().filter(|one| !one.is_this) {
        let addresses = announcer.addresses_of(&one.id);
        one.addresses = addresses.into_iter().flat_map(|all| all.iter().map(shown)).collect();
    }
    weirs
}

fn of_peer(peer: &Peer, now: Instant) -> Weir {
    let Beat { version, up_ms, sessions, waiting, admitted, leases_ok, .. } = &**peer.last();
    let age = peer.silent_for(now);
    Weir {
        id: peer.id().to_string(),
        is_this: false,
        version: shown(version),
        uptime_seconds: (*up_ms as f64 / 1000.0 + age.as_secs_f64()).round(),
        sessions: (*sessions).into(),
        waiting: (*waiting).into(),
        admitted: *admitted,
        beat_age_seconds: (age.as_secs_f64() * 1000.0).round() / 1000.0,
        is_stranger: !peer.counts(),
        leases_in_force: *leases_ok,
        addresses: Vec::new(),
    }
}

/// What things are called whose keys stand in the bucket.
fn names(shared: &Shared, fleet: &Fleet) -> HashMap<Key, String> {
    let keys = fleet.keys();
    let mut names = HashMap::new();
    // Also those of which no client is here now: a quota is shown for as long as weirs hold leases of it.
    for name in shared.admission.accounts().names() {
        names.insert(keys.of(Kind::Account, &name), shown(&name));
        names.insert(keys.of(Kind::Leafnodes, &name), shown(&name));
    }
    for server in shared.servers.list().iter() {
        names.insert(server.fleet_key(keys), shown(server.name()));
    }
    for (kind, pattern) in shared.admission.user_and_name_patterns() {
        names.insert(keys.of(kind, &pattern), shown(&pattern));
    }
    names
}

/// The quotas that weirs share by leases, with the names that this weir knows: `most` of them, the fullest first, and
/// how many there are.
pub fn quotas(shared: &Shared, fleet: &Fleet, most: usize) -> (Vec<Quota>, usize) {
    let seen = fleet.quotas();
    let (mut quotas, count) = (seen.iter().take(most).cloned().collect::<Vec<_>>(), seen.len());
    if !quotas.is_empty() {
        let names = names(shared, fleet);
        for quota in &mut quotas {
            quota.name = Key::parse(&quota.key).and_then(|key| names.get(&key).cloned());
        }
    }
    (quotas, count)
}

/// In the order of the configuration.
fn servers(shared: &Shared, fleet: &Fleet, now: Instant) -> Vec<Server> {
    let peers: Vec<_> = fleet.peers().iter().map(|peer| std::sync::Arc::clone(peer.last())).collect();
    let list = shared.servers.list();
    let of = |server: &std::sync::Arc<crate::upstream::Server>| {
        let load = server.load();
        let key = server.fleet_key(fleet.keys());
        let own = AtServer {
            id: fleet.id().to_string(),
            held: load.connections().held(),
            handshakes: load.handshakes().saturating_add(load.overdue()),
            waiting: 0,
            handshake_limit: server.whole_limit(now),
        };
        let of_peer = |beat: &std::sync::Arc<Beat>| {
            let one = beat.servers.get(&key)?;
            Some(AtServer {
                id: beat.id.to_string(),
                held: one.held,
                handshakes: one.handshakes,
                waiting: one.waiting,
                handshake_limit: one.limit,
            })
        };
        let mut weirs = vec![own];
        weirs.extend(peers.iter().filter_map(of_peer));
        Server {
            name: shown(server.name()),
            key: key.to_string(),
            max_connections: load.shown_capacity().and_then(|(most, _)| most.is_finite().then_some(most as u32)),
            held: weirs.iter().map(|one| u64::from(one.held)).sum(),
            handshakes: weirs.iter().map(|one| u64::from(one.handshakes)).sum(),
            handshake_limit: server.whole_limit(now),
            share: tenths(server.pace_share().unwrap_or_else(|| server.whole_limit(now).into())),
            weirs,
        }
    };
    list.iter().map(of).collect()
}

fn messages(fleet: &Fleet) -> Messages {
    let link: &LinkState = fleet.link();
    let count = |what: Counted| link.counts().find(|(one, _)| *one == what).map_or(0, |(_, n)| n);
    let written = [Counted::Written, Counted::Conflict, Counted::Unknown, Counted::Rejected].map(count);
    Messages {
        beats_sent: count(Counted::BeatSent),
        beats_received: count(Counted::BeatHeard),
        beats_rejected: count(Counted::Invalid),
        beats_lost: fleet.peers().lost_beats(),
        writes: written.iter().sum(),
        conflicts: written[1],
        unanswered: written[2],
        rejected: written[3],
    }
}
