//! A relay that is moved to another process all the while does what one does that is never moved.

mod connections;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    task::{Context, Waker},
    time::Instant,
};

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::Value;

use super::*;
use crate::{
    advertised_info::{Advertise, AdvertisedInfo, AdvertisedTls},
    config::{Config, ServerArg},
    fleet::addresses::Class,
    protocol::{connect::Connect, info::Info, tls_records::TlsRecords},
    relay::registry::{AtServer, Registration, SessionFacts, SessionRegistry},
    telemetry::{counters::Totals, moment::Moment},
    upstream::{Port, Servers},
};

const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What all relays of a test have in common.
pub(in crate::relay) struct Process {
    pub(in crate::relay) keys: Arc<Keys>,
    pub(in crate::relay) listener_info: Arc<ListenerInfo>,
    pub(in crate::relay) server: Arc<Server>,
    pub(in crate::relay) counters: Arc<Counters>,
    pub(in crate::relay) sessions: Arc<SessionRegistry>,
}

impl Process {
    pub(in crate::relay) fn new(tells_of_fleet: bool) -> Self {
        let config = Config::from_servers(&[ServerArg("n1:4222".into())]).unwrap();
        let servers = Arc::new(Servers::new(&config.upstream));
        let all = AdvertisedInfo::new(Arc::clone(&servers), "weir".to_owned());
        let advertise =
            Advertise { own: Vec::new(), fleet: tells_of_fleet.then_some(Class::Client), ..Advertise::default() };
        let address = SocketAddr::from(([127, 0, 0, 1], 4222));
        Self {
            keys: Arc::default(),
            listener_info: all.of_listener(address, advertise, AdvertisedTls::None, Port::Client),
            server: servers.iter().next().unwrap(),
            counters: Arc::default(),
            sessions: Arc::default(),
        }
    }

    pub(in crate::relay) fn resumed_in(&self) -> ResumedIn {
        ResumedIn {
            keys: Arc::clone(&self.keys),
            listener_info: Arc::clone(&self.listener_info),
            client_ip: NOBODY,
            server: Arc::clone(&self.server),
            counters: Arc::clone(&self.counters),
        }
    }

    pub(in crate::relay) fn client_side(&self, max_control_line: usize) -> ClientSide {
        let connect = Connect::parse(br#"{"user":"a","pass":"b","verbose":false}"#).unwrap();
        let sent = self.keys.sent_identity(&connect);
        ClientSide::new(Arc::clone(&self.keys), sent, connect.service_options(), max_control_line)
    }

    pub(in crate::relay) fn server_side(&self, has_welcome: bool, policy: InfoPolicy) -> ServerSide {
        let welcome = has_welcome.then(|| b"INFO {\"server_id\":\"welcome\"}\r\n".to_vec());
        let info = Arc::new(Info::parse(br#"{"server_id":"A","client_id":7,"client_ip":"::1"}"#).unwrap());
        let (listener_info, server) = (Arc::clone(&self.listener_info), Arc::clone(&self.server));
        ServerSide::new(welcome, policy, listener_info, NOBODY, server, &info)
    }

    fn register(&self) -> Registration {
        self.sessions.register(SessionFacts::default(), None, AtServer::default())
    }
}

/// What comes next in a session.
#[derive(Debug, Clone)]
pub(in crate::relay) enum Event {
    FromClient(Vec<u8>),
    FromServer(Vec<u8>),
    /// Both sides take what waits for them.
    Taken,
    /// The listener has something new to tell.
    News,
    Counted,
    /// weir asks the server for a sign of life.
    OwnPing,
    /// The session goes on with another server.
    ServerLost,
}

/// What a session has been in the end.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::relay) struct Whole {
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    ends: [Option<Cause>; 2],
    totals: Totals,
    activity: [u64; 2],
    signs_of_life: [u32; 2],
    counted: Totals,
}

/// Plays the events, after each of which `then` may put another relay in the place of this one.
pub(in crate::relay) fn play<C: Side, S: Side>(
    mut relay: Relay<C, S>,
    process: &Process,
    events: &[Event],
    mut then: impl FnMut(Relay<C, S>, &Event) -> Relay<C, S>,
) -> (Whole, Relay<C, S>) {
    let mut entry = process.register();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut take = |relay: &mut Relay<C, S>| {
        to_server.extend_from_slice(relay.to_server.waiting());
        relay.to_server.drop_waiting();
        to_client.extend_from_slice(relay.to_client.waiting());
        relay.to_client.drop_waiting();
    };
    for event in events {
        match event {
            Event::FromClient(bytes) if relay.to_server.stopped().is_none() => {
                let _ = relay.to_server.preload(bytes);
            }
            Event::FromServer(bytes) if relay.to_client.stopped().is_none() => {
                let _ = relay.to_client.preload(bytes);
            }
            Event::News if relay.to_client.stopped().is_none() => {
                if let Some(news) = relay.to_client.side_mut().announce() {
                    relay.to_client.put_behind(&news);
                }
            }
            Event::Taken => take(&mut relay),
            Event::Counted => _ = relay.count(entry.handle()),
            _ => {}
        }
        relay = then(relay, event);
        // The next process has an entry of its own, which begins with the totals of the one before.
        let next = process.register();
        next.handle().traffic().set(entry.handle().traffic().totals());
        entry = next;
    }
    take(&mut relay);
    let totals = relay.count(entry.handle());
    assert_eq!(entry.handle().traffic().totals(), totals);
    let whole = Whole {
        to_server,
        to_client,
        ends: [relay.to_server.stopped(), relay.to_client.stopped()],
        totals,
        activity: [relay.to_server.activity(), relay.to_client.activity()],
        signs_of_life: [relay.to_server.side().signs_of_life(), relay.to_client.side().signs_of_life()],
        counted: process.counters.totals(),
    };
    (whole, relay)
}

/// Without times, which go on.
pub(in crate::relay) fn timeless(state: &RelayState) -> Value {
    fn drop_times(value: &mut Value) {
        if let Value::Object(members) = value {
            members.retain(|key, _| key != "pinged_for" && key != "subscribed_before");
            members.values_mut().for_each(drop_times);
        }
    }
    let mut value = serde_json::to_value(state).unwrap();
    drop_times(&mut value);
    value
}

/// A connection, on which nothing is written here.
pub(in crate::relay) fn stream() -> Stream {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_nonblocking(true).unwrap();
    tokio::net::TcpStream::from_std(stream).unwrap().into()
}

/// Moves the session to another process.
fn moved(relay: Relay, process: &Process) -> Relay {
    let text = serde_json::to_string(&relay.state().unwrap()).unwrap();
    let before = timeless(&relay.state().unwrap());
    let Ok(RelayState::Plain(state)) = serde_json::from_str(&text) else { panic!("{text}") };
    let relay = Relay::<ClientSide, ServerSide>::resume((relay.down, relay.up), *state, process.resumed_in()).unwrap();
    assert_eq!(timeless(&relay.state().unwrap()), before);
    relay
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0..3_usize, 6 => 0..200_usize, 1 => 65_530..65_545_usize]
}

/// A message with this control line up to its sizes.
fn message(line: &'static str) -> impl Strategy<Value = Vec<u8>> {
    (sizes(), any::<u8>(), any::<bool>()).prop_map(move |(size, byte, plain_end)| {
        let headers = if line.to_ascii_lowercase().starts_with('h') { "12 " } else { "" };
        let size = if headers.is_empty() { size } else { size + 12 };
        let end = if plain_end { "\r\n" } else { " \n" };
        [format!("{line} {headers}{size}{end}").as_bytes(), &vec![byte; size], b"\r\n"].concat()
    })
}

fn words(all: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    select(all).prop_map(|words| words.as_bytes().to_vec())
}

/// What a client says. The last of it may be what no server understands.
pub(in crate::relay) fn client_says() -> impl Strategy<Value = Vec<u8>> {
    let publications =
        prop_oneof![message("PUB a.b"), message("pub\ta  reply"), message("HPUB a"), message("hpub a.b.c  reply.to")];
    let others = words(&[
        "SUB a 1\r\n",
        "sub a.b queue\t2 \r\n",
        "UNSUB 1\n",
        "UNSUB 2 10\r\n",
        "PING\r\n",
        "PONG\r\n",
        "pong and more\r\n",
        "+OK\r\n",
        "-ERR 'what'\r\n",
        "INFO {\"a\":1}\r\n",
        "CONNECT {}\r\n",
        "connect {\"user\":\"a\",\"pass\":\"b\"}\r\n",
        "CONNECT {\"verbose\":true}\n",
        "CONNECT {\"verbose\":false,\"echo\":false,\"headers\":true,\"user\":\"a\",\"pass\":\"b\"}\r\n",
        "CONNECT   {\"echo\":true,\"no_responders\":true}\r\n",
    ]);
    let wrong = prop_oneof![
        words(&[
            "FOO\r\n",
            "HMSG a 1 12 12\r\n",
            "PUB a x\r\n",
            "PUB a b c 1\r\nx\r\n",
            "PUB a 3\r\nabcd\r\n",
            "HPUB a 13 12\r\n",
            "CONNECT {\"user\":\"other\"}\r\n",
            "CONNECT {\"user\":\r\n",
            "CONNETC {}\r\n",
            "SUB \n",
        ]),
        (5000..6000_usize).prop_map(|len| [&b"SUB "[..], &vec![b'x'; len], b" 1\r\n"].concat()),
        (5000..6000_usize).prop_map(|len| [&b"CONNECT {\"name\":\""[..], &vec![b'x'; len], b"\"}\r\n"].concat()),
    ];
    let right = vec(prop_oneof![3 => publications, 4 => others], 0..20);
    (right, option::weighted(0.3, wrong), vec(any::<u8>(), 0..4)).prop_map(|(right, wrong, rest)| {
        // What comes behind a wrong operation goes nowhere.
        let rest = if wrong.is_some() { rest } else { Vec::new() };
        [right.concat(), wrong.unwrap_or_default(), rest].concat()
    })
}

pub(in crate::relay) fn server_says() -> impl Strategy<Value = Vec<u8>> {
    let messages =
        prop_oneof![message("MSG a 1"), message("MSG a.b  2 reply"), message("HMSG a 1"), message("msg\ta 1")];
    let others = words(&[
        "PING\r\n",
        "PONG\r\n",
        "PONG\r\n",
        "+OK\r\n",
        "-ERR 'Permissions Violation for Publish to \"a\"'\r\n",
        "INFO {\"server_id\":\"A\",\"client_id\":7,\"client_ip\":\"::1\",\"connect_urls\":[\"n1:1\",\"n2:2\"]}\r\n",
        "info {\"server_id\":\"B\",\"client_id\":8,\"nonce\":\"\\u00e9\"} \n",
        "INFO no JSON\r\n",
    ]);
    let wrong = words(&["FOO\r\n", "MSG a 1 x\r\n", "MSG a 1 3\r\nabcd\r\n", "MSG 1\r\n"]);
    let right = vec(prop_oneof![3 => messages, 3 => others], 0..20);
    (right, option::weighted(0.1, wrong))
        .prop_map(|(right, wrong)| [right.concat(), wrong.unwrap_or_default()].concat())
}

/// Both streams, cut into chunks of up to so many bytes, in any order with what happens besides.
pub(in crate::relay) fn events(
    client: &[u8],
    server: &[u8],
    longest: usize,
    seed: u64,
    is_tracked: bool,
) -> Vec<Event> {
    let mut rng = fastrand::Rng::with_seed(seed);
    // A long payload byte by byte takes long and tells nothing new.
    let longest = longest.max((client.len() + server.len()) / 300);
    let (mut client, mut server, mut events) = (client, server, Vec::new());
    while !client.is_empty() || !server.is_empty() {
        let from_client = rng.bool();
        let stream = if from_client { &mut client } else { &mut server };
        let (chunk, rest) = stream.split_at(rng.usize(0..=longest).min(stream.len()));
        *stream = rest;
        if !chunk.is_empty() {
            events.push(if from_client {
                Event::FromClient(chunk.to_vec())
            } else {
                Event::FromServer(chunk.to_vec())
            });
        }
        match rng.u8(0..12) {
            0..3 => events.push(Event::Taken),
            3 => events.push(Event::News),
            4..6 => events.push(Event::Counted),
            6 if is_tracked => events.push(Event::OwnPing),
            7 if is_tracked && rng.u8(0..8) == 0 => events.push(Event::ServerLost),
            _ => {}
        }
    }
    events
}

pub(in crate::relay) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_relay_that_is_moved_anywhere_passes_and_counts_the_same(
        client in client_says(),
        server in server_says(),
        (longest, seed) in (select(&[1, 7, 60, 40_000][..]), any::<u64>()),
        (has_welcome, drops_info, tells, knows_limit) in any::<(bool, bool, bool, bool)>(),
    ) {
        let events = events(&client, &server, longest, seed, false);
        block_on(async {
            let policy = if drops_info { InfoPolicy::Drop } else { InfoPolicy::Rewrite };
            let limit = if knows_limit { 4096 } else { usize::MAX };
            let begin = |process: &Process| {
                let (client, server) = (process.client_side(limit), process.server_side(has_welcome, policy));
                Relay::new((stream(), client, b""), (stream(), server, b""), Arc::clone(&process.counters)).unwrap()
            };
            let process = Process::new(tells);
            let (unmoved, relay) = play(begin(&process), &process, &events, |relay, _| relay);
            let state = timeless(&relay.state().unwrap());
            let process = Process { counters: Arc::default(), ..process };
            let (moved_always, relay) = play(begin(&process), &process, &events, |relay, _| moved(relay, &process));
            prop_assert_eq!(&moved_always, &unmoved);
            prop_assert_eq!(&timeless(&relay.state().unwrap()), &state);
            // Where the other process says no the session goes on in this one.
            let process = Process { counters: Arc::default(), ..process };
            let (asked, relay) = play(begin(&process), &process, &events, |relay, _| {
                let _ = relay.state().unwrap();
                relay
            });
            prop_assert_eq!(&asked, &unmoved);
            prop_assert_eq!(&timeless(&relay.state().unwrap()), &state);
            Ok(())
        })?;
    }
}

/// Where all the values are in the text of a state, at any depth.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(key, member)| pointers(member, &format!("{at}/{key}"), all))
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(n, item)| pointers(item, &format!("{at}/{n}"), all)),
        _ => {}
    }
}

/// Garbage in the place of some values, and a byte of the text that is another one.
pub(in crate::relay) fn spoil(state: &RelayState, garbage: &[(usize, Value)], byte: Option<(usize, u8)>) -> Vec<u8> {
    let mut value = serde_json::to_value(state).unwrap();
    for (at, garbage) in garbage {
        let mut all = Vec::new();
        pointers(&value, "", &mut all);
        *value.pointer_mut(&all[at % all.len()]).unwrap() = garbage.clone();
    }
    let mut text = serde_json::to_vec(&value).unwrap();
    if let Some((at, byte)) = byte {
        let at = at % text.len();
        text[at] = byte;
    }
    text
}

pub(in crate::relay) fn replacement() -> impl Strategy<Value = Value> {
    let number = select(vec![0, 1, 2, 9, 255, 4096, 999_999_999, u32::MAX.into(), 1 << 62, u64::MAX - 1, u64::MAX]);
    let text = select(
        &[
            "",
            "start",
            "cr",
            "tail",
            "broken",
            "hmsg",
            "pub",
            "info",
            "every_control_line",
            "eof",
            "drop",
            "Q09O",
            "Cg==",
            "{}",
            "SU5GTyB7",
            "verbose",
        ][..],
    );
    let json = select(
        &[
            r#"{"verb":{"verb":"pub","read":3}}"#,
            r#"{"verb":{"verb":"hpub","read":200}}"#,
            r#"{"blanks":"ping"}"#,
            r#"{"need_blank":"ok"}"#,
            r#"{"arg":18446744073709551615}"#,
            r#"{"arg":4097}"#,
            r#"{"payload":0}"#,
            r#"{"payload":4294967295}"#,
            r#"{"sizes":{"verb":"sub","args":{},"len":0,"cr":false}}"#,
            r#"{"sizes":{"verb":"pub","args":{"last":{"value":4000000000,"digits":9}},"len":1,"cr":true}}"#,
            r#"{"args":{"args":{"words":255,"in_word":true,"last":{"value":1,"digits":200}},"cr":true}}"#,
            r#"{"over":"other"}"#,
            "[]",
            "{}",
        ][..],
    );
    prop_oneof![
        number.prop_map(Value::from),
        text.prop_map(Value::from),
        json.prop_map(|json| serde_json::from_str(json).unwrap()),
        select(&[Value::Null, Value::Bool(true), Value::Bool(false)][..]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_refused_or_harmless(
        (client, server) in (client_says(), server_says()),
        seed: u64,
        (garbage, byte) in (vec((any::<usize>(), replacement()), 0..4), option::weighted(0.3, any::<(usize, u8)>())),
        (has_welcome, tells) in any::<(bool, bool)>(),
    ) {
        let events = events(&client, &server, 300, seed, false);
        let (before, after) = events.split_at(seed as usize % (events.len() + 1));
        block_on(async {
            let process = Process::new(tells);
            let (client, server) = (process.client_side(4096), process.server_side(has_welcome, InfoPolicy::Rewrite));
            let relay = Relay::new((stream(), client, b""), (stream(), server, b""), Arc::clone(&process.counters)).unwrap();
            let (_, relay) = play(relay, &process, before, |relay, _| relay);
            let text = spoil(&relay.state().unwrap(), &garbage, byte);
            if let Ok(RelayState::Plain(state)) = serde_json::from_slice(&text)
                && let Ok(relay) = Relay::<ClientSide, ServerSide>::resume((relay.down, relay.up), *state, process.resumed_in())
            {
                play(relay, &process, after, |relay, _| relay);
            }
        });
    }
}

/// Those that would otherwise make a sum overflow or read outside of a line.
#[test]
fn what_no_relay_can_be_is_refused() {
    let process = Process::new(true);
    let resume = |to_server: &str, to_client: &str| {
        let text = format!(
            r#"{{"plain":{{"to_server":{{"bytes":5,"side":{{"client":{{"named":0,"hash":1}},"later":[],{to_server}}}}},
                "to_client":{{"side":{{"policy":"rewrite",{to_client}}}}},"of_a_later_version":true}}}}"#
        );
        let state = serde_json::from_str(&text).map_err(|err| err.to_string())?;
        let RelayState::Plain(state) = state else { panic!("another kind") };
        block_on(async {
            let relay = Relay::<ClientSide, ServerSide>::resume((stream(), stream()), *state, process.resumed_in());
            relay.map(drop).map_err(|err| err.to_string())
        })
    };
    let idle = r#""framing":{}"#;
    assert_eq!(resume(idle, idle), Ok(()), "what is absent says nothing, and what is unknown is not looked at");
    for wrong in [
        r#""framing":{"messages":4611686018427387905}"#,
        r#""framing":{"state":{"payload":0}}"#,
        r#""framing":{"state":{"payload":1000000000}}"#,
        r#""framing":{"state":{"verb":{"verb":"pub","read":3}}}"#,
        r#""framing":{"state":{"blanks":"ping"}}"#,
        r#""framing":{"state":{"need_blank":"info"}}"#,
        r#""framing":{"state":{"arg":18446744073709551615}}"#,
        r#""framing":{"max_control_line":100,"state":{"arg":102}}"#,
        r#""framing":{"state":{"sizes":{"verb":"sub","args":{},"len":1,"cr":false}}}"#,
        r#""framing":{"state":{"sizes":{"verb":"pub","args":{"last":{"value":10,"digits":1}},"len":1,"cr":false}}}"#,
        r#""framing":{"state":{"sizes":{"verb":"pub","args":{"last":{"digits":10}},"len":1,"cr":false}}}"#,
        r#""framing":{"state":"of_a_later_version"}"#,
        r#""framing":{},"line":"""#,
        r#""framing":{},"line":"UFVC""#,
        r#""framing":{},"line":"Q09OTkVDVCB7fQo=""#,
        r#""framing":{"state":"tail"},"line":"Q09O""#,
        r#""framing":{},"line":"no base64""#,
    ] {
        assert!(resume(wrong, idle).is_err(), "{wrong}");
    }
    for wrong in [
        r#""framing":{"state":{"verb":{"verb":"msg","read":4}}}"#,
        r#""framing":{"payload":4611686018427387905}"#,
        r#""framing":{"state":{"args":{"args":{"previous":{"value":1}},"cr":false}}}"#,
        r#""framing":{"capture":"every_control_line"}"#,
        r#""framing":{},"welcome":"SU5GTyB7fQ0K""#,
        r#""framing":{},"line":"SU5GTyB7fQo=""#,
        r#""framing":{"state":"cr"},"line":"SU5G""#,
        r#""framing":{},"last_info":"[]""#,
    ] {
        assert!(resume(idle, wrong).is_err(), "{wrong}");
    }
}

/// `cargo test --release --lib relay::state -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn what_ten_thousand_idle_sessions_take() {
    const SESSIONS: u32 = 10_000;
    let process = Process::new(true);
    block_on(async {
        let (client, server) = (process.client_side(4096), process.server_side(false, InfoPolicy::Rewrite));
        let pipelined = b"SUB a.b 1\r\nPUB a 5\r\nhello\r\nPONG\r\n";
        let mut relay =
            Relay::new((stream(), client, pipelined), (stream(), server, b"PING\r\n"), Arc::default()).unwrap();
        relay.to_server.drop_waiting();
        relay.to_client.drop_waiting();
        relay.count(process.register().handle());
        println!("{}", serde_json::to_string(&relay.state().unwrap()).unwrap());
        let (mut bytes, began) = (0, Instant::now());
        for _ in 0..SESSIONS {
            let text = serde_json::to_vec(&relay.state().unwrap()).unwrap();
            bytes += text.len();
            let Ok(RelayState::Plain(state)) = serde_json::from_slice(&text) else { panic!("another kind") };
            relay =
                Relay::<ClientSide, ServerSide>::resume((relay.down, relay.up), *state, process.resumed_in()).unwrap();
        }
        println!("{SESSIONS} sessions: {bytes} bytes, {:?} to write, read and resume", began.elapsed());
    });
}

/// Nothing is read of what passes, so nothing is known of it but how much it is.
#[test]
fn a_passthrough_is_moved_once_its_client_is_in() {
    block_on(async {
        let login = Arc::default();
        let side = Passthrough::from_client(TlsRecords::default(), &login);
        let counters = Arc::<Counters>::default();
        let client = (stream(), side, &b"hello"[..]);
        let relay = Relay::new(client, (stream(), Passthrough::default(), b"hi"), Arc::clone(&counters)).unwrap();
        assert_eq!(relay.state(), Err(Immovable::LogsIn));
        drop(login);
        let text = serde_json::to_string(&relay.state().unwrap()).unwrap();
        let Ok(RelayState::Passthrough(state)) = serde_json::from_str(&text) else { panic!("{text}") };
        let mut relay = Relay::<Passthrough, Passthrough>::resume((relay.down, relay.up), *state, counters).unwrap();
        assert_eq!(serde_json::to_string(&relay.state().unwrap()).unwrap(), text);
        relay.to_server.preload(b" server").unwrap();
        assert_eq!((relay.to_server.waiting(), relay.to_client.waiting()), (&b"hello server"[..], &b"hi"[..]));
        assert_eq!((relay.to_server.bytes(), relay.to_client.activity()), (12, 2));
    });
}

#[test]
fn what_an_entry_tells_does_not_jump_when_its_session_moves() {
    block_on(async {
        let process = Process::new(false);
        let (client, server) = (process.client_side(4096), process.server_side(false, InfoPolicy::Rewrite));
        let counters = Arc::clone(&process.counters);
        let client = (stream(), client, &b"SUB a 1\r\nPUB a 2\r\nhi\r\n"[..]);
        let mut relay = Relay::new(client, (stream(), server, b"PING\r\n"), counters).unwrap();
        let entry = process.register();
        relay.count(entry.handle());
        let mut relay = moved(relay, &process);
        let next = process.register();
        let (totals, at) = (entry.handle().traffic().totals(), Moment::from_raw(5));
        next.handle().traffic().set(totals);
        next.handle().traffic().set_last_activity(at);
        next.handle().traffic().set_last_heard(at);
        let shown = || {
            let traffic = next.handle().traffic();
            (traffic.totals(), traffic.last_activity(), traffic.last_heard(), traffic.rtt())
        };
        relay.count(next.handle());
        assert_eq!(shown(), (totals, at, at, None));
        assert_eq!(process.counters.totals(), totals);
        // The answer to a PING of before is none of the activity, and tells the round trip.
        let _ = relay.to_server.preload(b"PONG\r\n");
        relay.count(next.handle());
        assert_eq!((shown().1, shown().3.is_some()), (at, true));
        let _ = relay.to_server.preload(b"PUB a 0\r\n\r\n");
        relay.count(next.handle());
        assert!(shown().1 > at);
    });
}
