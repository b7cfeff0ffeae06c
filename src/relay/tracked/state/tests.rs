//! A session that can go to another server is moved to another process all the while, and does what it does without.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::{
    protocol::{PING, info::Info},
    relay::{
        InfoPolicy, NewServer,
        state::tests::{
            Event, Process, Whole, block_on, client_says, events, play, replacement, server_says, spoil, stream,
            timeless,
        },
    },
};

type Tracked = Relay<TrackedClient, TrackedServer>;

const MEMORY: usize = 64 * 1024;

fn begin(process: &Process, (memory, has_welcome): (usize, bool)) -> Tracked {
    let known = Known::new(memory);
    let client = TrackedClient::new(process.client_side(4096), known.clone());
    let server = TrackedServer::new(process.server_side(has_welcome, InfoPolicy::Rewrite), known);
    Relay::new((stream(), client, b""), (stream(), server, b""), Arc::clone(&process.counters)).unwrap()
}

/// What happens only to sessions that can go to another server.
fn meet(relay: &mut Tracked, process: &Process, event: &Event) {
    match event {
        Event::OwnPing if relay.known().state().begin_own_ping() => relay.to_server.put_behind(PING),
        Event::ServerLost => _ = go_elsewhere(relay, process),
        _ => {}
    }
}

fn go_elsewhere(relay: &mut Tracked, process: &Process) -> Result<(), Bound> {
    relay.lose_server()?;
    assert_eq!(relay.state(), Err(Immovable::BetweenServers));
    let info = Arc::new(Info::parse(b"{\"server_id\":\"C\",\"client_id\":9}").unwrap());
    let server = Arc::clone(&process.server);
    relay.go_on(NewServer { stream: stream(), server, info: &info, rest: b"PING\r\n" }).unwrap();
    Ok(())
}

fn moved(relay: Tracked, process: &Process, memory: usize) -> Tracked {
    let text = serde_json::to_string(&relay.state().unwrap()).unwrap();
    let before = timeless(&relay.state().unwrap());
    let Ok(RelayState::Tracked(state)) = serde_json::from_str(&text) else { panic!("{text}") };
    let relay = Tracked::resume((relay.down, relay.up), *state, process.resumed_in(), Some(memory)).unwrap();
    assert_eq!(timeless(&relay.state().unwrap()), before);
    relay
}

/// What the session is in the end, and what it says to another server and to its client when it goes there.
fn outcome(process: &Process, (whole, mut relay): (Whole, Tracked)) -> (Whole, Result<(), Bound>, [Vec<u8>; 2]) {
    let found = go_elsewhere(&mut relay, process);
    (whole, found, [relay.to_server.waiting().to_vec(), relay.to_client.waiting().to_vec()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, ..ProptestConfig::default() })]

    #[test]
    fn a_session_that_is_moved_anywhere_goes_to_another_server_the_same(
        client in client_says(),
        server in server_says(),
        (longest, seed) in (select(&[1, 7, 60, 40_000][..]), any::<u64>()),
        (memory, has_welcome, tells) in (select(&[100, MEMORY][..]), any::<bool>(), any::<bool>()),
    ) {
        let events = events(&client, &server, longest, seed, true);
        block_on(async {
            let process = Process::new(tells);
            let unmoved = play(begin(&process, (memory, has_welcome)), &process, &events, |mut relay, event| {
                meet(&mut relay, &process, event);
                relay
            });
            let unmoved = outcome(&process, unmoved);
            let process = Process { counters: Arc::default(), ..process };
            let moved_always = play(begin(&process, (memory, has_welcome)), &process, &events, |mut relay, event| {
                meet(&mut relay, &process, event);
                moved(relay, &process, memory)
            });
            prop_assert_eq!(&outcome(&process, moved_always), &unmoved);
            let process = Process { counters: Arc::default(), ..process };
            let asked = play(begin(&process, (memory, has_welcome)), &process, &events, |mut relay, event| {
                meet(&mut relay, &process, event);
                let _ = relay.state().unwrap();
                relay
            });
            prop_assert_eq!(&outcome(&process, asked), &unmoved);
            Ok(())
        })?;
    }

    #[test]
    fn garbage_of_a_session_that_can_go_elsewhere_is_refused_or_harmless(
        (client, server) in (client_says(), server_says()),
        seed: u64,
        (garbage, byte) in (vec((any::<usize>(), replacement()), 0..4), option::weighted(0.3, any::<(usize, u8)>())),
        has_welcome: bool,
    ) {
        let events = events(&client, &server, 300, seed, true);
        let (before, after) = events.split_at(seed as usize % (events.len() + 1));
        block_on(async {
            let process = Process::new(true);
            let (_, relay) = play(begin(&process, (MEMORY, has_welcome)), &process, before, |relay, _| relay);
            let text = spoil(&relay.state().unwrap(), &garbage, byte);
            if let Ok(RelayState::Tracked(state)) = serde_json::from_slice(&text)
                && let Ok(relay) = Tracked::resume((relay.down, relay.up), *state, process.resumed_in(), Some(MEMORY))
            {
                let played = play(relay, &process, after, |mut relay, event| {
                    meet(&mut relay, &process, event);
                    relay
                });
                let _ = outcome(&process, played);
            }
        });
    }
}

#[test]
fn what_no_tracked_relay_can_be_is_refused() {
    let process = Process::new(true);
    let resume = |client: &str, server: &str| {
        let side = r#""client":{"framing":{"state":STATE},"client":{"named":0,"hash":1}}"#;
        let text = format!(
            r#"{{"tracked":{{"to_server":{{"side":{{{side},{client}}}}},
                "to_client":{{"side":{{"server":{{"framing":{{"state":STATE}},"policy":"rewrite"}}{server}}}}}}}}}"#
        );
        let state = if client.contains("drops_rest") || server.contains("TVNH") { "\"tail\"" } else { "\"start\"" };
        let text = text.replace("STATE", state).replace(",}", "}");
        let state = serde_json::from_str(&text).map_err(|err| err.to_string())?;
        let RelayState::Tracked(state) = state else { panic!("another kind") };
        block_on(async {
            let relay = Tracked::resume((stream(), stream()), *state, process.resumed_in(), Some(MEMORY));
            relay.map(|relay| relay.known().size().0).map_err(|err| err.to_string())
        })
    };
    assert_eq!(resume("", ""), Ok(0));
    assert_eq!(
        resume(r#""known":{"subscriptions":[{"sub":"YSAx","delivered":1,"max":2},{"sub":"YSBxIDI="}]}"#, ""),
        Ok(2)
    );
    assert_eq!(resume(r#""known":{"subscriptions":[{"sub":"YSAx"}],"bound":"options"}"#, ""), Ok(0));
    assert_eq!(resume(r#""drops_rest":true"#, ""), Ok(0));
    for wrong in [
        r#""known":{"subscriptions":[{"sub":"YSAx"},{"sub":"YSAx"}]}"#,
        r#""known":{"subscriptions":[{"sub":"YSAx","delivered":2,"max":2}]}"#,
        r#""known":{"subscriptions":[{"sub":"YQ=="}]}"#,
        r#""known":{"before_own_ping":1}"#,
        r#""known":{"bound":"of a later version"}"#,
        r#""drops_rest":true,"held":"UFVC""#,
    ] {
        assert!(resume(wrong, "").is_err(), "{wrong}");
    }
    assert!(resume("", r#","held":"TVNH""#).is_err());
    let too_long = format!(r#""held":"{}""#, "YWFh".repeat(20_000));
    assert!(resume(&too_long, "").is_err());
}

#[test]
fn a_session_that_is_not_rehomed_any_more_remembers_nothing() {
    let process = Process::new(false);
    let subscribe = |relay: &mut Tracked, sids: std::ops::Range<u32>| {
        for sid in sids {
            let _ = relay.to_server.preload(format!("SUB orders.eu.{sid}.created {sid}\r\n").as_bytes());
            relay.to_server.drop_waiting();
        }
    };
    block_on(async {
        for already in [0, 10] {
            let mut relay = begin(&process, (MEMORY, false));
            subscribe(&mut relay, 0..already);
            let RelayState::Tracked(state) = relay.state().unwrap() else { panic!("another kind") };
            let mut relay = Tracked::resume((relay.down, relay.up), *state, process.resumed_in(), None).unwrap();
            subscribe(&mut relay, 10..2000);
            assert_eq!((relay.known().size(), relay.known().bound()), ((0, 0), Some(Bound::Memory)), "{already}");
        }
    });
}

/// `cargo test --lib what_a_tracked -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn what_a_tracked_session_takes() {
    let process = Process::new(false);
    block_on(async {
        let mut relay = begin(&process, (MEMORY, false));
        let subs: String = (0..10).map(|n| format!("SUB orders.eu.{n:05}.created {n}\r\n")).collect();
        let _ = relay.to_server.preload(subs.as_bytes());
        relay.to_server.drop_waiting();
        let (text, began) = (serde_json::to_string(&relay.state().unwrap()).unwrap(), Instant::now());
        for _ in 0..10_000 {
            relay = moved(relay, &process, MEMORY);
        }
        println!("{text}\n{} bytes with 10 subscriptions, 10000 times in {:?}", text.len(), began.elapsed());
    });
}
