//! Clients that send CONNECT again on a live connection. It says the same about who they are, so their session goes on.

use weir_testkit::{
    client::{End, Op},
    *,
};

/// What Fluent Bit writes before every PUB (plugins/out_nats/nats.h). It keeps the connection, and never reads.
const FLUENT_BIT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"ssl_required\":false,\"name\":\"fluent-bit\",\
                          \"lang\":\"c\",\"version\":\"4.0.3\"}\r\n";

/// A server with its defaults, weir in front of it, and a subscriber of `log` that is connected to the server itself.
async fn scene(options: ServerOptions) -> (NatsServer, Weir, RawClient) {
    let server = NatsServer::start(options).await;
    let weir = WeirConfig::of_servers(&[&server]).default_settings().start().await;
    let login = Login::user("u", "up");
    let mut subscriber = RawClient::connect(&server.address, &login).await;
    subscriber.subscribe("log", 1).await.unwrap();
    (server, weir, subscriber)
}

fn publication(body: &str) -> String {
    format!("PUB log {}\r\n{body}\r\n", body.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fluent_bit_sends_connect_before_every_message() {
    let (_server, weir, mut subscriber) = scene(ServerOptions::default()).await;
    let mut fluent_bit = RawClient::dial(&weir.address).await.unwrap();
    for flush in ["first", "second", "third"] {
        fluent_bit.send(format!("{FLUENT_BIT}{}", publication(flush)).as_bytes()).await.unwrap();
        assert_eq!(subscriber.next_msg().await.1, flush.as_bytes());
    }
    drop(fluent_bit);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_it_arrives_the_session_goes_on() {
    let (_server, weir, mut subscriber) = scene(ServerOptions::default()).await;
    let login = Login::nobody();
    let again = login.connect_line();
    let long = "x".repeat(300 * 1024);
    let ways: Vec<Vec<Vec<u8>>> = vec![
        vec![again.clone().into_bytes()],
        again.bytes().map(|byte| vec![byte]).collect(),
        vec![again.replace("CONNECT", "connect").into_bytes()],
        vec![again.replace("CONNECT ", "CoNnEcT\t").into_bytes()],
        vec![b"CONNECT {}\r\n".to_vec()],
        vec![again.repeat(20).into_bytes()],
        // In the middle of a stream, cut somewhere.
        vec![format!("{}{again}{}", publication("a"), publication("CONNECT {\"user\":\"x\"}\r\n")).into_bytes()],
        vec![format!("{}CONN", publication(&long)).into_bytes(), again[4..].into()],
    ];
    for way in ways {
        let mut client = RawClient::connect(&weir.address, &login).await;
        client.subscribe("mine", 1).await.unwrap();
        for bytes in &way {
            client.send(bytes).await.unwrap();
        }
        client.publish("log", b"it goes on").await.unwrap();
        client.publish("mine", b"subscriptions too").await.unwrap();
        assert_eq!(client.next_msg().await.1, b"subscriptions too");
        while subscriber.next_msg().await.1 != b"it goes on" {}
    }
    // Behind the first one at once, before the server has answered.
    let mut client = RawClient::dial(&weir.address).await.unwrap();
    let all = format!("{again}{}{again}PING\r\n{again}{}", publication("one"), publication("two"));
    client.send(all.as_bytes()).await.unwrap();
    assert_eq!(subscriber.next_msg().await.1, b"one");
    assert_eq!(subscriber.next_msg().await.1, b"two");
    client.round_trip().await.unwrap();
    drop(client);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_credential_may_come_again() {
    let key = nkeys::KeyPair::new_user();
    let users = format!("authorization {{ users: [{{user: u, password: up}}, {{nkey: {}}}] }}", key.public_key());
    let users = ServerOptions::default().with(&users);
    let (_server, weir, mut subscriber) = scene(users).await;
    for login in [Login::user("u", "up"), Login::nkey(&key)] {
        let mut client = RawClient::greeted(&weir.address).await.unwrap();
        let connect = login.answering(&client.info).connect_line();
        client.send(format!("{connect}{}{connect}", publication("one")).as_bytes()).await.unwrap();
        assert_eq!(subscriber.next_msg().await.1, b"one");
        client.round_trip().await.unwrap();
        client.send(format!("{connect}{}", publication("two")).as_bytes()).await.unwrap();
        assert_eq!(subscriber.next_msg().await.1, b"two");
        // The same user with another password, or another user, is somebody else.
        client.send(Login::user("u", "other").connect_line().as_bytes()).await.unwrap();
        assert_eq!(client.end(PATIENCE).await, End::Eof);
    }
    let ended = |metrics: &metrics::Metrics| metrics.sum_where("weir_closed_total", "reason", "second_connect") == 2.0;
    weir.until("both ends are counted", ended).await;
    weir.assert_nothing_leaked().await;
}

/// Sends operations in which CONNECT comes again to the server itself and through weir, and compares what comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_and_answers_are_as_without_weir() {
    let (server, weir, _subscriber) = scene(ServerOptions::default()).await;
    let options = |text: &str| format!("CONNECT {{{text}}}\r\n");
    let echo = "SUB me 1\r\nPUB me 2\r\nhi\r\n";
    for (name, operations) in [
        ("verbose", format!("{}PING\r\n{0}{0}PUB x 1\r\na\r\n{0}PING\r\n", options("\"verbose\":true"))),
        ("defaults", format!("{}PING\r\nPUB x 1\r\na\r\n{}PING\r\n", options(""), options(""))),
        (
            "becomes verbose",
            format!("{}PING\r\n{}{echo}PING\r\n", options("\"verbose\":false"), options("\"verbose\":true")),
        ),
        (
            "no longer verbose",
            format!("{}PING\r\n{}{echo}PING\r\n", options("\"verbose\":true"), options("\"verbose\":false")),
        ),
        ("no echo", format!("{}PING\r\n{}{echo}PING\r\n", options("\"verbose\":false"), options("\"echo\":false"))),
        (
            "no headers",
            format!(
                "{}PING\r\n{}PING\r\n",
                options("\"verbose\":false,\"headers\":true,\"no_responders\":true"),
                options("\"headers\":false")
            ),
        ),
        ("protocol", format!("{}PING\r\n{}", options("\"verbose\":false"), options("\"protocol\":7"))),
        ("wrong type", format!("{}PING\r\n{}", options("\"verbose\":false"), options("\"user\":7"))),
        ("not JSON", format!("{}PING\r\n{}", options("\"verbose\":false"), options("nonsense"))),
        ("no CONNECT", format!("{}PING\r\nCONNEXT {{}}\r\n", options("\"verbose\":false"))),
        ("too long", format!("{}PING\r\nCONNECT {{{}", options("\"verbose\":false"), "x".repeat(5000))),
    ] {
        let mut said = Vec::new();
        for address in [&server.address, &weir.address] {
            let mut client = RawClient::greeted(address).await.unwrap();
            // The login ends before the rest begins, as the first PONG tells.
            let (login, rest) = operations.split_at(operations.find("PING").unwrap() + 6);
            client.send(login.as_bytes()).await.unwrap();
            let mut all = Vec::new();
            while all.last() != Some(&Op::Pong) {
                all.extend(client.next_within(PATIENCE).await.unwrap());
            }
            client.send(rest.as_bytes()).await.unwrap();
            client.shut_writing().await.unwrap();
            while let Ok(Some(op)) = client.next_within(PATIENCE).await {
                if !matches!(op, Op::Info(_) | Op::Ping) {
                    all.push(op);
                }
            }
            said.push(all);
        }
        assert_eq!(said[0], said[1], "{name}");
    }
    weir.assert_nothing_leaked().await;
}
