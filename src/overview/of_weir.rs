//! Reads the overview off a running weir. It costs what a scrape of `/metrics` costs, and touches no session.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    events::{
        Thing,
        fullness::Level,
        watch::{Limit, Row, Sample},
    },
    outcome::{BadLogin, MoveCause, MoveResult, Refusal},
    overview::{
        Account, Clients, Count, FORM, Health, History, LargeSource, Leaks, Listener, MoveTotal, Moves, Overview,
        Process, Refusals, Server, Source, Storm, StormCurve, Storms, Traffic, Warning, history::tenths, of_fleet,
    },
    rebalance::under_way::UnderWay,
    reports::{
        answer::{Growing, RefusedClient},
        counted::{self, Only},
        headroom::{full, rate},
    },
    session::Shared,
    tally::shown,
    telemetry::{
        process::{LOG_LINES_UNQUEUED, LOG_LINES_UNWRITTEN, PANICS, STARTED},
        process_use::ProcessUse,
        storms::{self, Group, Recent},
    },
    upstream,
};

/// The accounts and the sources that are shown, of each.
const SHOWN: usize = 50;

/// The warnings that are shown.
const WARNINGS: usize = 20;

/// The groups that only grow that are shown.
const LEAKS: usize = 20;

/// The refused clients that are shown, and the minutes in which they were.
const REFUSED_CLIENTS: usize = 20;
const LATELY_MINUTES: u64 = 10;

/// The seconds of a minute.
const MINUTE: usize = 60;

/// What is to be seen of this weir at `now`. Of the past it has the seconds after `since`
/// ([`History::second`]), and the storms that were not over by then.
pub fn of(shared: &Shared, error: Option<&str>, since: u64, now: Instant) -> Overview {
    let counters = &shared.counters;
    let (history, refusals, newest) = of_recent(shared, since);
    let waiting = shared.admission.waiting();
    let totals = counters.totals();
    let usage = shared.usage.load();
    let rows: Rows<'_> = usage.iter().map(|row| ((row.of, &*row.name), row)).collect();
    let of_server = |one: &upstream::Server| usage.iter().find(|row| row.id == Some(one.id()));
    let (accounts, accounts_in_use) = accounts(shared, &rows);
    let servers = shared.servers.list();
    let has_limits = servers.iter().all(|server| server.load().shown_capacity().is_some_and(|(n, _)| n.is_finite()));
    Overview {
        form: FORM,
        now_unix_ms: unix_ms(SystemTime::now()),
        weir: process(),
        health: Health {
            status: if error.is_none() { "ok" } else { "unavailable" }.to_owned(),
            error: error.map(str::to_owned),
        },
        clients: Clients {
            sessions: shared.sessions.len() as u64,
            leafnodes: shared.sessions.leafnodes() as u64,
            waiting: waiting.held() as u64,
            waiting_for_rate: waiting.reserved as u64,
            being_refused: waiting.answered_later as u64 + u64::from(shared.descriptors.refusing.in_use()),
            paused: shared.admission.is_paused(),
            max_waiting: shared.admission.max_held() as u64,
            pace: shared.admission.pace(now).map(tenths),
            headroom: has_limits.then(|| shared.servers.headroom(now).into()),
            // The first session has id 1.
            arrived: shared.next_id.load(Relaxed) - 1,
            admitted: counters.admitted.load(Relaxed),
            refused: Refusal::ALL.into_iter().map(|reason| counters.refused(reason)).sum(),
            held: counters.held.load(Relaxed),
            probes: counters.probes.load(Relaxed),
        },
        listeners: shared
            .listeners
            .load()
            .iter()
            .map(|(address, limit)| Listener {
                address: address.to_string(),
                clients: limit.in_use(),
                max_clients: limit.most(),
            })
            .collect(),
        servers: servers.iter().map(|one| server(one, of_server(one), now)).collect(),
        warnings: warnings(&usage),
        refusals,
        bad_logins: bad_logins(shared),
        accounts,
        accounts_in_use,
        sources: sources(shared),
        largest_sources: largest_sources(shared),
        leaks: leaks(shared),
        refused_clients: refused_clients(shared, now),
        traffic: Traffic {
            bytes_up: totals.bytes_up,
            bytes_down: totals.bytes_down,
            messages_up: totals.messages_up,
            messages_down: totals.messages_down,
        },
        moves: moves(shared),
        fleet: of_fleet::in_short(shared, now),
        history,
        storms: of_storms(shared, since.min(newest)),
    }
}

pub(super) fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn process() -> Process {
    let taken = ProcessUse::now();
    Process {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("WEIR_COMMIT").map(str::to_owned),
        started_unix_ms: unix_ms(*STARTED),
        uptime_seconds: STARTED.elapsed().unwrap_or_default().as_secs_f64().round(),
        cpu_seconds: taken.cpu_seconds,
        cores: thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: taken.resident_bytes,
        open_files: taken.open_files,
        max_open_files: taken.max_open_files,
        panics: PANICS.get(),
        log_lines_dropped: LOG_LINES_UNQUEUED.get() + LOG_LINES_UNWRITTEN.get(),
    }
}

/// What the last look at fullness has found, by what it is of and its name.
type Rows<'a> = HashMap<(Thing, &'a str), &'a Row>;

/// How full a server is now: all of its connections, and what weir fills of its limit. `name` is its own among all.
pub fn server_sample(name: &str, server: &upstream::Server) -> Sample {
    let load = server.load();
    let is_limited = load.shown_capacity().is_some_and(|(capacity, _)| capacity.is_finite());
    let limit = is_limited.then(|| Limit { max_connections: load.capacity(), fillable: load.ceiling() });
    let (id, connections) = (Some(server.id()), load.projected());
    Sample { of: Thing::Server, id, name: name.into(), connections, limit }
}

fn server(server: &upstream::Server, row: Option<&Row>, now: Instant) -> Server {
    let (load, counters) = (server.load(), server.counters());
    let (standing, why) = server.standing(now);
    let (connections, held, sessions) = (load.projected(), load.held(), load.sessions());
    let known = load.shown_capacity();
    let finite = |n: f64| n.is_finite().then_some(n as u32);
    Server {
        name: shown(server.name()),
        address: shown(server.address()),
        state: standing.name().to_owned(),
        why,
        sessions,
        opening: held.saturating_sub(sessions),
        others: connections.saturating_sub(held),
        connections,
        max_connections: known.and_then(|(capacity, _)| finite(capacity)),
        limit_known: known.is_some(),
        // A part of no limit is none.
        reserve: known
            .filter(|(capacity, _)| capacity.is_finite())
            .map_or(0, |_| load.capacity().saturating_sub(load.ceiling())),
        headroom: known.and_then(|(_, headroom)| finite(headroom)),
        handshakes: load.handshakes(),
        handshakes_overdue: load.overdue(),
        handshake_limit: server.whole_limit(now),
        reading_age_seconds: server.reading_age(now).map(|age| tenths(age.as_secs_f64())),
        admitted: counters.admitted.load(Relaxed),
        login_failures: counters.login_failures.iter().map(|count| count.load(Relaxed)).sum(),
        restarts: server.restarts(),
        growth: row.and_then(|row| rate(row.growth)),
        full: row.and_then(full),
    }
}

fn warnings(usage: &[Row]) -> Vec<Warning> {
    let mut rows: Vec<_> = usage.iter().filter_map(|row| Some((row.level?, row.limit?, row))).collect();
    rows.sort_by(|(a, _, a_row), (b, _, b_row)| b.cmp(a).then_with(|| a_row.name.cmp(&b_row.name)));
    let warning = |(level, limit, row): (Level, Limit, &Row)| Warning {
        of: <&str>::from(row.of).to_owned(),
        name: shown(&row.name),
        connections: row.connections,
        max_connections: limit.max_connections,
        level: <&str>::from(level).to_owned(),
        growth: rate(row.growth),
        full: full(row),
    };
    rows.into_iter().take(WARNINGS).map(warning).collect()
}

/// The seconds after `since`, the refusals of the last minutes by reason, and the number of the last second.
fn of_recent(shared: &Shared, since: u64) -> (History, Vec<Refusals>, u64) {
    let recent = shared.flight.recent();
    let history = History::since(&recent, since);
    let mut sums = [[0_u64; 2]; Refusal::ALL.len()];
    for (ago, second) in recent.seconds().rev().enumerate() {
        for (sums, &count) in sums.iter_mut().zip(&second.refused) {
            sums[1] += u64::from(count);
            if ago < MINUTE {
                sums[0] += u64::from(count);
            }
        }
    }
    let newest = recent.number();
    drop(recent);
    let reason = |(reason, [last_minute, last_ten_minutes]): (Refusal, [u64; 2])| Refusals {
        reason: reason.name().to_owned(),
        advice: reason.advice().to_owned(),
        last_minute,
        last_ten_minutes,
        total: shared.counters.refused(reason),
    };
    let mut refusals: Vec<_> = Refusal::ALL.into_iter().zip(sums).map(reason).filter(|one| one.total > 0).collect();
    refusals.sort_by_key(|one| Reverse((one.last_minute, one.last_ten_minutes, one.total)));
    (history, refusals, newest)
}

fn bad_logins(shared: &Shared) -> Vec<Count> {
    let count = |why: BadLogin| {
        let total = shared.counters.bad_logins.by_account(why).iter().map(|(_, n)| n).sum();
        Count { name: why.name().to_owned(), total }
    };
    BadLogin::ALL.into_iter().map(count).filter(|one| one.total > 0).collect()
}

/// The accounts with the most connections, and how many have any.
fn accounts(shared: &Shared, rows: &Rows<'_>) -> (Vec<Account>, usize) {
    let mut connections = shared.admission.accounts().connections();
    let in_use = connections.len();
    let mut refused = HashMap::<_, u64>::new();
    for (name, _, count) in shared.counters.refused_by_account.counts() {
        if let Some(name) = name {
            *refused.entry(name).or_default() += count;
        }
    }
    let is_known: std::collections::HashSet<_> = connections.iter().map(|(name, _)| Arc::clone(name)).collect();
    connections.extend(refused.keys().filter(|name| !is_known.contains(*name)).map(|name| (Arc::clone(name), 0)));
    connections.sort_by(|(a_name, a), (b_name, b)| b.cmp(a).then_with(|| a_name.cmp(b_name)));
    connections.truncate(SHOWN);
    let row = |name: &str| rows.get(&(Thing::Account, name)).copied();
    let account = |(name, connections): (Arc<str>, u32)| Account {
        growth: row(&name).and_then(|row| rate(row.growth)),
        full: row(&name).and_then(full),
        max_connections: shared.admission.accounts().max_connections(&name),
        refused: refused.get(&name).copied().unwrap_or_default(),
        name: shown(&name),
        connections,
    };
    (connections.into_iter().map(account).collect(), in_use)
}

fn sources(shared: &Shared) -> Vec<Source> {
    let named = shared.counters.bad_logins.by_source().into_iter().filter_map(|(source, n)| Some((source?, n)));
    let mut sources: Vec<_> =
        named.map(|(source, bad_logins)| Source { source: source.to_string(), bad_logins }).collect();
    sources.sort_by(|a, b| b.bad_logins.cmp(&a.bad_logins).then_with(|| a.source.cmp(&b.source)));
    sources.truncate(SHOWN);
    sources
}

fn largest_sources(shared: &Shared) -> Vec<LargeSource> {
    let large =
        |(source, sessions): (crate::admission::Source, _)| LargeSource { source: source.to_string(), sessions };
    shared.reports.largest_sources().into_iter().map(large).collect()
}

fn leaks(shared: &Shared) -> Leaks {
    let found = shared.reports.growing(LEAKS);
    let growing = found.growing.into_iter();
    let readable = |one: Growing| Growing { account: shown(&one.account), group: shown(&one.group), ..one };
    Leaks {
        sessions: found.sessions,
        idle_sessions: found.idle_sessions,
        idle_after_seconds: found.idle_after_seconds,
        unnamed_sessions: found.unnamed_sessions,
        growing: growing.map(readable).collect(),
    }
}

fn refused_clients(shared: &Shared, now: Instant) -> Vec<RefusedClient> {
    let lately = shared.tallies.not_let_in.summary_of(LATELY_MINUTES, now);
    counted::refusals(&lately, &Only::default(), REFUSED_CLIENTS).clients
}

fn moves(shared: &Shared) -> Moves {
    let mut under_way = UnderWay::clone(&shared.moves_under_way.load());
    for one in &mut under_way.emptied {
        one.server = shown(&one.server);
    }
    let results = |cause| MoveResult::ALL.into_iter().map(move |result| (cause, result));
    let total = |(cause, result): (MoveCause, MoveResult)| MoveTotal {
        cause: cause.name().to_owned(),
        result: result.name().to_owned(),
        total: shared.counters.moves(cause, result),
    };
    let totals = MoveCause::ALL.into_iter().flat_map(results).map(total).filter(|one| one.total > 0).collect();
    Moves { under_way, totals }
}

fn of_storms(shared: &Shared, since: u64) -> Storms {
    let (running, over) = shared.flight.storms_since(since);
    Storms { running: running.as_ref().map(storm), over: over.iter().map(|one| storm(one)).collect() }
}

fn storm(storm: &storms::Storm) -> Storm {
    let groups = |groups: &[Group]| {
        let count = |one: &Group| Count { name: shown(&one.name), total: one.admitted + one.refused + one.left };
        groups.iter().map(count).collect()
    };
    Storm {
        began_unix_ms: storm.began_unix_ms,
        seconds: storm.seconds,
        goes_on: storm.goes_on,
        arrived: storm.arrived,
        peak_arrivals: storm.peak_arrivals,
        admitted: storm.admitted,
        admitted_after_wait: storm.admitted_after_wait,
        held: storm.held,
        left: storm.left,
        refused: storm.refused.iter().map(|one| one.count).sum(),
        most_waiting: storm.most_waiting,
        pace: storm.pace.map(tenths),
        sessions_before: storm.sessions_before,
        sessions_after: storm.sessions_after,
        reasons: storm.refused.iter().map(|one| Count { name: one.reason.to_owned(), total: one.count }).collect(),
        accounts: groups(&storm.accounts),
        languages: groups(&storm.languages),
        curve: StormCurve::of(&storm.series),
    }
}

const _: () = assert!(Recent::KEPT == 10 * MINUTE, "the last ten minutes are what is kept");
