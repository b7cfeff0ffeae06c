//! What placement sees without the lock is what the state under the lock says.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::upstream::{
    Placement, Servers, Slot, WebSocketAddress,
    placement::{Tier, Urgency},
};
use crate::upstream::{concurrency::login_speed::ComparedLogin, login_health::LoginStatus};

/// Something that happens to a server, and after how many milliseconds.
#[derive(Debug, Clone)]
enum Event {
    Read { start: u8, uptime_ms: u32 },
    SaidFull,
    SaidLameDuck,
    Answered,
    Failed,
    LoginFailed,
    LoginSucceeded,
    Reserved,
    Finished { took_ms: u16 },
    TimedOut,
}

fn event() -> impl Strategy<Value = (u16, Event)> {
    let event = prop_oneof![
        (0u8..2, 0u32..40_000).prop_map(|(start, uptime_ms)| Event::Read { start, uptime_ms }),
        Just(Event::SaidFull),
        Just(Event::SaidLameDuck),
        Just(Event::Answered),
        Just(Event::Failed),
        Just(Event::LoginFailed),
        Just(Event::LoginSucceeded),
        Just(Event::Reserved),
        (1u16..500).prop_map(|took_ms| Event::Finished { took_ms }),
        Just(Event::TimedOut),
    ];
    (0u16..3000, event)
}

fn cluster(system: bool, slow_start: Duration) -> Params {
    Params { system, slow_start, warn_at: 0.8, ..Params::bare(Vec::new()) }
}

fn n1(monitor: Option<&str>, max_connections: Option<u32>) -> ServerParams {
    ServerParams { monitor: monitor.map(Into::into), max_connections, ..ServerParams::bare("n1:4222") }
}

/// A server that has a monitor, and no limit in the configuration.
fn monitored() -> Server {
    Server::new(
        ServerId::from_raw(0),
        n1(Some("http://n"), None),
        &cluster(false, Duration::ZERO),
        TimeOrigin::default(),
        Default::default(),
    )
}

/// What [`Server::view`] should say, computed in another way: from the state under the lock.
fn by_state(server: &Server, now: Instant) -> (Tier, u32, bool) {
    let state = server.state();
    let full = state.full_until.is_some_and(|until| now < until);
    let fresh = !server.has_readings()
        || state.is_several
        || state.read_at.is_some_and(|at| now.saturating_duration_since(at) <= server.stale_after);
    let tier = match state.health.status(now) {
        _ if full || state.lame_duck_until.is_some_and(|until| now < until) => Tier::Excluded,
        HealthStatus::Ejected => Tier::Ejected,
        _ if state.login_health.status(now) == LoginStatus::Failing => Tier::LoginsFailing,
        _ if !fresh => Tier::Stale,
        HealthStatus::Up | HealthStatus::TrialDue => Tier::Eligible,
    };
    let frees_up_soon = state.concurrency_limit.frees_up_soon_until().is_some_and(|until| now < until);
    (tier, server.handshake_limit(&state, now), frees_up_soon)
}

proptest! {
    #[test]
    fn a_snapshot_shows_what_the_state_says(
        is_read in any::<bool>(),
        slow_start_s in prop::sample::select(vec![0u64, 30]),
        events in prop::collection::vec(event(), 0..40),
        looks in prop::collection::vec(0u64..40_000, 1..8),
        seed in any::<u64>(),
    ) {
        let cluster = cluster(is_read, Duration::from_secs(slow_start_s));
        let server = Arc::new(Server::new(ServerId::from_raw(0), n1(None, Some(100)), &cluster, TimeOrigin::default(), Default::default()));
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut now = Instant::now();
        let mut slots = Vec::new();
        for (later_ms, event) in events {
            now += Duration::from_millis(later_ms.into());
            match event {
                Event::Read { start, uptime_ms } => {
                    let reading = Reading {
                        server_name: "n1".into(),
                        version: "2.15.1".into(),
                        connections: 0,
                        max_connections: Some(100),
                        max_control_line: None,
                        auth_timeout: None,
                        websocket_auth_timeout: None,
                        leafnodes: 0,
                        leafnode_port: None,
                        leafnode_auth_timeout: None,
                        server_id: start.to_string(),
                        uptime: Duration::from_millis(uptime_ms.into()),
                        system_account: None,
                        requires_tls: false, trusts_operator: false, config: String::new(),
                        cpu: 0.0,
                        cores: 0,
                    };
                    server.read(now, server.load().begin_reading(now), reading);
                }
                Event::SaidFull => server.said_full(now),
                Event::SaidLameDuck => server.said_lame_duck(now, "0"),
                Event::Answered => server.dial_answered(),
                Event::Failed => drop(server.dial_failed(Port::Client, now, &mut rng)),
                Event::LoginFailed => drop(server.login_failed(now, &mut rng)),
                Event::LoginSucceeded => drop(server.login_succeeded()),
                Event::Reserved => slots.extend(Slot::reserve(&server, now)),
                Event::Finished { took_ms } => {
                    let took = ComparedLogin::uncompared(Duration::from_millis(took_ms.into()));
                    server.handshake_finished(now, took, Duration::from_millis(25));
                }
                Event::TimedOut => server.handshake_timed_out(),
            }
            // A mistake would show at the very times at which something changes, and a nanosecond beside them.
            let turning = {
                let state = server.state();
                let stale = state.read_at.map(|at| at + server.stale_after);
                let frees_up_soon_until = state.concurrency_limit.frees_up_soon_until();
                let ejected_until = state.health.ejected_until();
                let failing_until = state.login_health.failing_until();
                let (full, lame_duck, slow) = (state.full_until, state.lame_duck_until, server.slow_start_until(&state));
                [full, lame_duck, ejected_until, failing_until, stale, slow, frees_up_soon_until]
            };
            let nanosecond = Duration::from_nanos(1);
            let turning = turning.into_iter().flatten().flat_map(|at| [at - nanosecond, at, at + nanosecond]);
            let looks = looks.iter().map(|&ms| now + Duration::from_millis(ms));
            for at in looks.chain(turning).chain([now]) {
                let view = server.view(at);
                prop_assert_eq!((view.tier, view.handshake_limit, view.frees_up_soon), by_state(&server, at));
            }
        }
    }
}

fn reading(server_id: &str, connections: u32) -> Reading {
    Reading {
        server_name: "n1".into(),
        version: "2.15.1".into(),
        connections,
        max_connections: Some(10),
        max_control_line: Some(512),
        auth_timeout: None,
        websocket_auth_timeout: None,
        leafnodes: 0,
        leafnode_port: None,
        leafnode_auth_timeout: None,
        server_id: server_id.into(),
        uptime: Duration::MAX,
        system_account: Some("SYS".into()),
        requires_tls: false,
        trusts_operator: false,
        config: String::new(),
        cpu: 0.0,
        cores: 0,
    }
}

fn info(server_id: &str) -> String {
    format!(r#"{{"server_id":"{server_id}","version":"2.15.1","max_payload":1048576}}"#)
}

#[test]
fn a_lame_duck_is_one_until_another_process_answers_or_for_two_minutes() {
    let server = Server::new(
        ServerId::from_raw(0),
        n1(None, None),
        &cluster(false, Duration::ZERO),
        TimeOrigin::default(),
        Default::default(),
    );
    let now = Instant::now();
    let sees = |id: &str| {
        server
            .parse_info(now, info(id).as_bytes(), InfoKind { port: Port::Client, when: InfoWhen::Opens })
            .map(drop)
            .unwrap()
    };
    let tier = |after: Duration| server.view(now + after).tier;
    sees("a");
    server.said_lame_duck(now, "a");
    sees("a");
    assert_eq!(tier(Duration::ZERO), Tier::Excluded, "the connection may have been accepted before");
    sees("b");
    assert_eq!((tier(Duration::ZERO), server.restarts()), (Tier::Eligible, 1));
    server.said_lame_duck(now, "a");
    assert_eq!(tier(Duration::ZERO), Tier::Eligible, "a session of the process that goes");
    server.said_lame_duck(now, "b");
    assert_eq!(tier(LAME_DUCK_FOR - Duration::from_nanos(1)), Tier::Excluded);
    assert_eq!(tier(LAME_DUCK_FOR), Tier::Eligible, "a client tries it");
}

#[test]
fn readings_of_several_servers_are_those_of_none() {
    let server = monitored();
    let now = Instant::now();
    let read = |id: &str| server.read(now, server.load().begin_reading(now), reading(id, 10));
    read("a");
    assert_eq!(server.load().capacity(), 10);
    ["b", "a", "b", "a"].into_iter().for_each(read);
    assert_eq!((server.restarts(), server.is_several()), (1, true), "once it looked like one");
    assert_eq!((server.load().capacity(), server.load().projected()), (DEFAULT_MAX_CONNECTIONS, 0));
    assert_eq!(server.view(now + Duration::from_secs(50)).tier, Tier::Eligible, "it counts as one without readings");
    server.forget_old(now + Duration::from_secs(61));
    assert!(!server.is_several());
}

#[test]
fn what_an_old_reading_said_is_forgotten() {
    let server = monitored();
    let now = Instant::now();
    server.read(now, server.load().begin_reading(now), reading("a", 10));
    server.forget_old(now + Duration::from_secs(60));
    assert!(server.load().projected() >= server.load().ceiling() && server.max_control_line() == 512);
    server.forget_old(now + Duration::from_secs(65));
    assert_eq!((server.load().projected(), server.max_control_line()), (0, usize::MAX));
    let another = Reading { system_account: Some("OPS".into()), ..reading("a", 10) };
    server.read(now, server.load().begin_reading(now), another);
    assert!(server.is_system_account("OPS") && !server.is_system_account("SYS"));
}

#[test]
fn a_server_is_waited_for_until_it_has_been_asked_once() {
    let server = |monitor: Option<&str>| {
        let address = "n1:4222".to_owned();
        let one = ServerParams { monitor: monitor.map(Into::into), ..ServerParams::bare(address) };
        Server::new(
            ServerId::from_raw(0),
            one,
            &cluster(false, Duration::ZERO),
            TimeOrigin::default(),
            Default::default(),
        )
    };
    assert!(!server(None).awaits_first_reading(), "weir has no way to read it");
    let server = server(Some("http://n1:8222"));
    assert!(server.awaits_first_reading());
    server.reading_failed();
    assert!(!server.awaits_first_reading());
}

#[test]
fn a_server_with_its_first_handshake_is_waited_for_as_one_that_has_finished_some() {
    let servers = Servers::new(&Params { servers: vec![n1(None, None); 3], ..cluster(false, Duration::ZERO) });
    let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
    let mut place = |after| match servers.place(now + after, &[], Urgency::CanWait(1), &mut rng) {
        Placement::Placed(slot) => Some(slot),
        _ => None,
    };
    let mut first: Vec<_> = (0..3).map_while(|_| place(Duration::ZERO)).collect();
    assert_eq!(first.len(), 3, "each server takes one");
    let quick = first[0].server().id().number();
    let ends = |slot: &mut Slot| {
        slot.session_began();
        let took = Duration::from_millis(1);
        slot.server().handshake_finished(now, ComparedLogin::uncompared(took), took);
    };
    ends(&mut first[0]);
    let mut second = place(Duration::ZERO).expect("all have one, and one of them is free");
    assert_eq!(second.server().id().number(), quick);
    ends(&mut second);
    assert!(place(Duration::ZERO).is_none(), "the others have one less, and are about to finish");
    let third = place(Duration::from_millis(100)).expect("they are slow");
    assert_eq!(third.server().id().number(), quick);
}

#[test]
fn one_client_tries_a_server_whose_logins_fail_although_hung_logins_have_used_its_handshake_limit() {
    let servers = Servers::new(&Params { servers: vec![n1(None, None); 2], ..cluster(false, Duration::ZERO) });
    let (mut now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
    let all = servers.list();
    let [bad, good] = [0, 1].map(|n| &all[n]);
    let hung = Slot::reserve(bad, now).expect("it is idle");
    let has: Vec<_> = (0..9)
        .map(|_| {
            let mut slot = Slot::reserve(good, now).expect("one at a time");
            slot.session_began();
            slot
        })
        .collect();
    let place = |now: Instant, rng: &mut fastrand::Rng| match servers.place(now, &[], Urgency::CanWait(1), rng) {
        Placement::Placed(slot) => slot,
        other => panic!("{other:?}"),
    };
    let pause = bad.login_failed(now, &mut rng).expect("told");
    assert_eq!(place(now, &mut rng).server().id().number(), 1, "however empty the other is");
    now += pause;
    let trial = place(now, &mut rng);
    assert_eq!(trial.server().id().number(), 0, "its trial is due");
    assert_eq!(place(now, &mut rng).server().id().number(), 1, "one client at a time");
    assert!(bad.logins_fail() && bad.login_succeeded() && !bad.logins_fail());
    drop((hung, trial, has));
    assert_eq!(place(now, &mut rng).server().id().number(), 0, "the emptiest again");
}

#[test]
fn another_process_at_the_address_is_not_blamed_for_the_logins_of_the_one_before() {
    let server = Server::new(
        ServerId::from_raw(0),
        n1(None, None),
        &cluster(false, Duration::ZERO),
        TimeOrigin::default(),
        Default::default(),
    );
    let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
    const FIRST: InfoKind = InfoKind { port: Port::Client, when: InfoWhen::Opens };
    server.parse_info(now, info("A").as_bytes(), FIRST).unwrap();
    let _ = server.login_failed(now, &mut rng);
    server.parse_info(now, info("A").as_bytes(), FIRST).unwrap();
    assert_eq!(server.view(now).tier, Tier::LoginsFailing);
    server.parse_info(now, info("B").as_bytes(), FIRST).unwrap();
    assert_eq!(server.view(now).tier, Tier::Eligible, "one client tries it at once");
    assert!(server.login_succeeded(), "the log is told that it has ended");
}

#[test]
fn a_websocket_port_has_a_health_of_its_own_where_others_use_the_client_port() {
    let mut rng = fastrand::Rng::with_seed(1);
    let port = WebSocketAddress { address: "n1:8080".into(), secure: false };
    let server = |only_websocket| {
        let cluster = Params { only_websocket, ..cluster(false, Duration::ZERO) };
        let one = ServerParams { websocket: Some(port.clone()), ..n1(None, None) };
        Server::new(ServerId::from_raw(0), one, &cluster, TimeOrigin::default(), Default::default())
    };
    let now = Instant::now();
    let alone = server(true);
    assert!(alone.dial_failed(Port::WebSocket, now, &mut rng).is_some());
    assert!(!alone.is_up(now), "nobody uses another port");

    let server = server(false);
    assert!(server.may_dial(Port::WebSocket, now));
    assert!(server.dial_failed(Port::WebSocket, now, &mut rng).is_some());
    assert!(server.is_up(now), "for plain clients");
    assert!(!server.may_dial(Port::WebSocket, now), "it is left alone");
    let later = now + Duration::from_secs(1);
    assert!(server.may_dial(Port::WebSocket, later), "the trial");
    assert!(!server.may_dial(Port::WebSocket, later), "one at a time");
    server.dial_answered_in(Port::WebSocket, Duration::ZERO);
    assert!(server.may_dial(Port::WebSocket, later));

    // The other way round: a client over WebSocket that gets the turn for a trial of the client port leaves the trial
    // to the next one.
    assert!(server.dial_failed(Port::Client, later, &mut rng).is_some());
    let due = later + Duration::from_secs(1);
    let tries = || server.view(due).tier != Tier::Excluded && server.begin_handshake(due);
    assert!(tries());
    assert!(!server.is_up(due) && !tries(), "one at a time");
    assert!(server.may_dial(Port::WebSocket, due));
    assert!(tries(), "another one may");
}

#[test]
fn a_server_of_another_cluster_is_left_out_while_others_are_there() {
    let now = Instant::now();
    let servers = Servers::new(&Params { servers: vec![n1(None, None); 2], ..cluster(false, Duration::ZERO) });
    let [one, other] = [0, 1].map(|n| servers.iter().nth(n).unwrap());
    let says = |server: &Server, id: &str, cluster: &str| {
        let info = format!(r#"{{"server_id":"{id}","version":"2.15.1","cluster":"{cluster}"}}"#);
        server.parse_info(now, info.as_bytes(), InfoKind { port: Port::Client, when: InfoWhen::Opens }).unwrap();
        servers.judge_cluster_names(now);
    };
    says(&one, "a", "c");
    says(&other, "b", "d");
    assert_eq!(servers.several_clusters().unwrap(), "c (n1:4222), d (n1:4222)");
    assert!(!one.is_stranger() && !other.is_stranger(), "they may be joined by gateways");
    says(&other, "b", "c");
    assert_eq!(servers.several_clusters(), None);
    says(&other, "x", "strangers");
    assert!(other.is_stranger() && !other.is_up(now) && !other.is_reachable(now));
    assert_eq!(other.view(now).tier, Tier::Excluded);
    assert!(servers.any_reachable(now));
    let mut rng = fastrand::Rng::with_seed(1);
    let _ = one.dial_failed(Port::Client, now, &mut rng);
    servers.judge_cluster_names(now);
    assert!(!other.is_stranger(), "nobody else is there");
    one.dial_answered();
    servers.judge_cluster_names(now);
    assert!(other.is_stranger());
    says(&other, "b2", "c");
    assert!(!other.is_stranger());
}

#[test]
fn what_another_servers_monitor_has_said_before_info_came_is_forgotten() {
    let now = Instant::now();
    let servers = Servers::new(&Params { servers: vec![n1(None, None)], ..cluster(false, Duration::ZERO) });
    let server = servers.iter().next().unwrap();
    let unknown = server.view(now);
    let said = Reading { max_connections: Some(20), ..reading("other", 20) };
    server.read(now, server.load().begin_reading(now), said);
    assert_eq!(servers.headroom(now), 0, "it is believed");
    let info = InfoKind { port: Port::Client, when: InfoWhen::Opens };
    server.parse_info(now, br#"{"server_id":"own","version":"2.15.1"}"#, info).unwrap();
    server.forget_reading_of("a third one");
    assert_eq!(server.view(now).ceiling, 20);
    server.forget_reading_of("other");
    assert_eq!((server.view(now).ceiling, server.view(now).projected), (unknown.ceiling, unknown.projected));
}

#[test]
fn another_configuration_is_noticed_also_after_a_time_without_readings() {
    let server = monitored();
    let start = Instant::now();
    let read = |config: &str, seconds| {
        let now = start + Duration::from_secs(seconds);
        server.read(now, server.load().begin_reading(now), Reading { config: config.into(), ..reading("a", 1) });
        server.reconfigured_at().map(|at| at - start)
    };
    assert_eq!([read("one", 0), read("one", 1)], [None, None]);
    server.forget_reading_of("a");
    assert_eq!([read("two", 2), read("two", 3)], [Some(Duration::from_secs(2)); 2]);
}
