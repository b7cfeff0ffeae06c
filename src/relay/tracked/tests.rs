//! The two sides of a session that can go to another server, fed with streams that are cut anywhere.

mod connections;

use std::{net::IpAddr, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    advertised_info::{Advertise, AdvertisedInfo, AdvertisedTls},
    config::{Config, ServerArg},
    identity::Keys,
    outcome::Cause,
    protocol::connect::Connect,
    relay::{ClientSide, InfoPolicy, ServerSide, Side, direction::Outlet, waiting::Waiting},
    upstream::{Port, Server, Servers},
};

fn client(known: &Known) -> TrackedClient {
    client_of_server(known, 4096)
}

/// Of a server with this `max_control_line`.
fn client_of_server(known: &Known, max_control_line: usize) -> TrackedClient {
    let connect = Connect::parse(b"{}").unwrap();
    let keys = Arc::<Keys>::default();
    let sent = keys.sent_identity(&connect);
    let inner = ClientSide::new(keys, sent, connect.service_options(), max_control_line);
    TrackedClient::new(inner, known.clone())
}

fn pass(side: &mut impl Side, chunk: &[u8]) -> (Vec<u8>, Result<(), Cause>) {
    let (mut waiting, mut bytes) = (Waiting::default(), 0);
    let passed = side.pass(chunk, &mut Outlet::to_hold(&mut waiting, &mut bytes));
    (waiting.to_vec(), passed)
}

fn subscriptions(known: &Known) -> String {
    let mut words = Vec::new();
    known.state().subscriptions.write(&mut words);
    String::from_utf8(words).unwrap()
}

const SAID: &str = "SUB a 1\r\nPUB a 5\r\nhello\r\nPING\r\nsub b\tq 2\r\nUNSUB 1 3\r\nHPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n\
                    PUB  odd   2 \r\nPI\r\nPONG\r\nSUB c 3\nUNSUB 3\r\n+OK\r\n";

proptest! {
    #[test]
    fn all_that_a_client_says_passes_whole_however_it_is_cut(cuts in proptest::collection::vec(1..40_usize, 1..60)) {
        let known = Known::new(64 * 1024);
        let (mut side, mut passed) = (client(&known), Vec::new());
        let mut rest = SAID.as_bytes();
        for cut in cuts.iter().chain(&[SAID.len()]) {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            let (out, result) = pass(&mut side, now);
            prop_assert_eq!(result, Ok(()));
            passed.extend_from_slice(&out);
            // What has passed ends with an operation.
            let text = str::from_utf8(&passed).unwrap();
            prop_assert!(text.is_empty() || text.ends_with('\n'), "{}", text);
            rest = later;
        }
        prop_assert_eq!(str::from_utf8(&passed).unwrap(), SAID);
        prop_assert_eq!(subscriptions(&known), "SUB a 1\r\nUNSUB 1 3\r\nSUB b q 2\r\n");
        prop_assert_eq!((known.state().pings, side.messages()), (1, 3));
    }
}

#[test]
fn what_is_no_operation_reaches_the_server_at_once() {
    for wrong in ["FOO", "PUB a b c d\r\n", "SUBS"] {
        let known = Known::new(1024);
        let (out, result) = pass(&mut client(&known), wrong.as_bytes());
        assert_eq!(result, Err(Cause::Protocol), "{wrong}");
        assert!(!out.is_empty(), "{wrong}: the server answers it");
    }
}

#[test]
fn a_long_message_passes_as_it_comes_and_its_rest_goes_nowhere_once_the_server_is_lost() {
    let known = Known::new(1024);
    let mut side = client(&known);
    let begin = [&b"PUB a 100000\r\n"[..], &[b'x'; 40_000]].concat();
    assert_eq!(pass(&mut side, &begin).0.len(), begin.len());
    side.lose_server();
    assert_eq!(pass(&mut side, &[b'x'; 60_000]).0, b"");
    assert_eq!(pass(&mut side, b"\r\nPUB a 2\r\nhi\r\n").0, b"PUB a 2\r\nhi\r\n");
}

/// No server has had anything of a CONNECT that weir collects.
#[test]
fn a_message_behind_a_connect_in_which_the_server_was_lost_passes_whole() {
    let known = Known::new(1024);
    let mut side = client_of_server(&known, 1024 * 1024);
    let connect = [&b"CONNECT {\"name\":\""[..], &[b'x'; 40_000], b"\"}\r\n"].concat();
    let (begin, rest) = connect.split_at(38_000);
    assert_eq!(pass(&mut side, begin).0, b"");
    side.lose_server();
    let _ = pass(&mut side, rest);
    let message = [&b"PUB a 100000\r\n"[..], &[b'x'; 100_000], b"\r\n"].concat();
    let passed: Vec<u8> = message.chunks(40_000).flat_map(|chunk| pass(&mut side, chunk).0).collect();
    assert_eq!(passed.len(), message.len());
}

#[test]
fn without_a_server_interest_is_remembered_and_publications_are_kept_in_order() {
    let known = Known::new(1024);
    let mut side = client(&known);
    let _ = pass(&mut side, b"PING\r\n");
    known.state().homeless = Some(Homeless { pings_to_repeat: 1, ..Homeless::default() });
    assert_eq!(pass(&mut side, b"SUB a 1\r\nPING\r\nPING\r\n").0, b"");
    assert_eq!(side.take_pongs(), b"PONG\r\nPONG\r\n");
    let (kept, _) = pass(&mut side, b"PUB a 2\r\nhi\r\nPING\r\nSUB b 2\r\n");
    assert_eq!((kept, side.take_pongs()), (b"PUB a 2\r\nhi\r\nPING\r\n".to_vec(), Vec::new()));
    assert_eq!((subscriptions(&known), known.state().pings), ("SUB a 1\r\nSUB b 2\r\n".into(), 2));
}

fn servers() -> Arc<Servers> {
    let config = Config::from_servers(&[ServerArg("n1:4222".into())]).unwrap();
    Arc::new(Servers::new(&config.upstream))
}

fn n1() -> Arc<Server> {
    servers().iter().next().unwrap()
}

fn server(known: &Known) -> TrackedServer {
    let servers = servers();
    let all = AdvertisedInfo::new(Arc::clone(&servers), "weir".to_owned());
    let listener =
        all.of_listener(([127, 0, 0, 1], 4222).into(), Advertise::default(), AdvertisedTls::None, Port::Client);
    let server = servers.iter().next().unwrap();
    let nobody = IpAddr::from([0, 0, 0, 0]);
    let info = Arc::new(crate::protocol::info::Info::parse(b"{\"server_id\":\"A\",\"max_payload\":1048576}").unwrap());
    let inner = ServerSide::new(None, InfoPolicy::Drop, listener, nobody, server, &info);
    TrackedServer::new(inner, known.clone())
}

const SERVED: &str = "MSG a 1 5\r\nhello\r\nMSG a 1 5\r\nhallo\r\nPONG\r\nHMSG b 2 12 14\r\nNATS/1.0\r\n\r\nhi\r\nPING\r\nPONG\r\n\
                      MSG  a   1 r 0 \r\n\r\n-ERR 'Permissions Violation for Subscription to \"secret\"'\r\n";

proptest! {
    #[test]
    fn all_that_a_server_says_passes_whole_however_it_is_cut(cuts in proptest::collection::vec(1..40_usize, 1..60)) {
        let known = Known::new(64 * 1024);
        let _ = pass(&mut client(&known), b"SUB a 1\r\nSUB b 2\r\nSUB secret 3\r\nUNSUB 1 7\r\nPING\r\n");
        assert!(known.state().begin_own_ping());
        let (mut side, mut passed) = (server(&known), Vec::new());
        let mut rest = SERVED.as_bytes();
        for cut in cuts.iter().chain(&[SERVED.len()]) {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            let (out, result) = pass(&mut side, now);
            prop_assert_eq!(result, Ok(()));
            passed.extend_from_slice(&out);
            let text = str::from_utf8(&passed).unwrap();
            prop_assert!(text.is_empty() || text.ends_with("\r\n"), "{}", text);
            rest = later;
        }
        // The second PONG is the answer to weir's own PING.
        let expected = SERVED.replacen("PING\r\nPONG\r\n", "PING\r\n", 1);
        prop_assert_eq!(str::from_utf8(&passed).unwrap(), expected);
        prop_assert_eq!(subscriptions(&known), "SUB a 1\r\nUNSUB 1 4\r\nSUB b 2\r\n");
        let pings = known.state().pings;
        prop_assert_eq!((pings, known.bound(), side.messages()), (0, None, 4));
    }
}

#[test]
fn an_error_that_ends_the_connection_binds_the_session_and_one_while_it_subscribes_ends_it() {
    let known = Known::new(1024);
    let mut side = server(&known);
    assert_eq!(pass(&mut side, b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n").1, Ok(()));
    assert_eq!(known.bound(), None);
    assert_eq!(pass(&mut side, b"-ERR 'Stale Connection'\r\n").1, Ok(()));
    assert_eq!(known.bound(), Some(Bound::Error));
    let known = Known::new(1024);
    known.state().replays = true;
    let (out, result) = pass(&mut server(&known), b"-ERR 'Permissions Violation for Subscription to \"a\"'\r\n");
    assert_eq!((out.is_empty(), result), (false, Err(Cause::ServerError)));
}

#[test]
fn a_session_is_bound_in_the_middle_of_a_long_message_only() {
    let known = Known::new(1024);
    let mut side = server(&known);
    assert_eq!(pass(&mut side, b"MSG a 1 5\r\nhel").0, b"");
    assert_eq!(side.is_between_messages(), Ok(()));
    side.drop_begun();
    let begin = [&b"MSG a 1 100000\r\n"[..], &[b'x'; 40_000]].concat();
    assert_eq!(pass(&mut side, &begin).0.len(), begin.len());
    assert_eq!(side.is_between_messages(), Err(Bound::LongMessage));
}

#[tokio::test]
async fn what_is_asked_of_the_next_server_is_bounded() {
    use crate::{net::socket::connected_pair, relay::Relay, telemetry::counters::Counters};
    for (pings, expected) in [(1000, Ok(())), (1001, Err(Bound::Pings))] {
        let known = Known::new(1024);
        let ((_client, down), (_server, up)) = (connected_pair().await, connected_pair().await);
        let (from_client, from_server) = (client(&known), server(&known));
        let pipelined = b"PING\r\n".repeat(pings);
        let sides = ((down.into(), from_client, &*pipelined), (up.into(), from_server, &b""[..]));
        let mut relay = Relay::new(sides.0, sides.1, Arc::<Counters>::default()).unwrap();
        assert_eq!(relay.lose_server(), expected, "{pings}");
    }
}

/// The server that was to answer weir's PING is lost while the session is moved from it.
#[tokio::test]
async fn an_error_of_a_server_to_which_nothing_was_replayed_does_not_end_the_session() {
    use std::{future::poll_fn, time::Instant};

    use crate::{
        net::socket::connected_pair,
        protocol::info::Info,
        relay::{
            Relay,
            registry::{AtServer, SessionFacts, SessionRegistry},
        },
        telemetry::counters::Counters,
    };
    let known = Known::new(1024);
    let ((_client, down), (_first, up)) = (connected_pair().await, connected_pair().await);
    let ((second, to_second), (_third, to_third)) = (connected_pair().await, connected_pair().await);
    let sides = ((down.into(), client(&known), &b""[..]), (up.into(), server(&known), &b""[..]));
    let mut relay = Relay::new(sides.0, sides.1, Arc::<Counters>::default()).unwrap();
    let info = Arc::new(Info::parse(b"{}").unwrap());
    let of = |stream: tokio::net::TcpStream, rest| NewServer { stream: stream.into(), server: n1(), info: &info, rest };
    relay.lose_server().unwrap();
    relay.go_on(of(to_second, b"")).unwrap();
    relay.prepare_handover();
    let mut handover = relay.begin_handover(of(to_third, b"PONG\r\n"), Instant::now()).unwrap();
    drop(second);
    let registered = Arc::<SessionRegistry>::default().register(SessionFacts::default(), None, AtServer::default());
    let ended = poll_fn(|cx| relay.poll_handover(cx, registered.handle(), &mut handover)).await;
    assert!(matches!(ended, HandoverEnd::Switched), "{ended:?}");
    let denied = b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n";
    assert_eq!(pass(relay.to_client.side_mut(), denied), (denied.to_vec(), Ok(())));
}
