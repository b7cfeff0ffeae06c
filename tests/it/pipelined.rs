//! Clients that do not wait for PONG: they send everything behind CONNECT, and some close at once.

use std::time::Duration;

use weir_testkit::{
    client::{End, Op},
    websocket::*,
    *,
};

/// The password `demo` in bcrypt at cost 12: a login takes some 0.3 s.
const DEMO: &str = "$2a$12$abcdefghijklmnopqrstuuPZMSJg2LUPgP73PQ9tCr.AZ2Qkj/kWa";

const WEBSOCKET: &str = "kind = \"websocket\"\n[listeners.websocket]\ncompression = true";

/// CONNECT and PING, and behind them as many SUBs as NATS.Net sends when it reconnects, some 120 KiB.
fn subscriptions() -> Vec<u8> {
    let mut bytes = format!("{}PING\r\n", Login::nobody().connect_line()).into_bytes();
    for i in 0..3000 {
        bytes.extend_from_slice(format!("SUB app.tenant.0001.device.{i:05} {i}\r\n").as_bytes());
    }
    bytes
}

/// A server and weir, both with their defaults.
async fn scene() -> (NatsServer, Weir) {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).default_settings().start().await;
    (server, weir)
}

async fn subscribed(address: &str, subject: &str) -> RawClient {
    let mut subscriber = RawClient::connect(address, &Login::nobody()).await;
    subscriber.subscribe(subject, 1).await.unwrap();
    subscriber
}

/// Checks that all subscriptions of this client work, the last one above all.
async fn receives_all(client: &mut RawClient, publisher: &mut RawClient) {
    while client.next_within(PATIENCE).await.unwrap().expect("an operation") != Op::Pong {}
    client.round_trip().await.unwrap();
    for i in [0, 1500, 2999] {
        publisher.publish(&format!("app.tenant.0001.device.{i:05}"), b"event").await.unwrap();
        assert_eq!(client.next_msg().await.1, b"event");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_subscriptions_behind_connect() {
    let (mut server, weir) = scene().await;
    for _ in 0..2 {
        let mut client = RawClient::dial(&weir.address).await.unwrap();
        client.send(&subscriptions()).await.unwrap();
        let mut publisher = RawClient::connect(&server.address, &Login::nobody()).await;
        receives_all(&mut client, &mut publisher).await;
        // The next round is the reconnect.
        server.restart().await;
        assert_eq!(client.end(PATIENCE).await, End::Eof);
        weir.until("the server is used again", |metrics| metrics.sum("weir_server_up") == 1.0).await;
    }
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_message_behind_connect() {
    let (server, weir) = scene().await;
    let mut subscriber = subscribed(&server.address, "logs").await;
    let body = vec![b'x'; 900_000];
    for _ in 0..3 {
        let mut client = RawClient::dial(&weir.address).await.unwrap();
        let head = format!("CONNECT {{\"verbose\":false}}\r\nPUB logs {}\r\n", body.len());
        client.send(&[head.as_bytes(), &body, b"\r\n"].concat()).await.unwrap();
        assert!(subscriber.next_msg().await.1 == body);
    }
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_over_websocket() {
    for extension in ["", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"] {
        let server = NatsServer::start(ServerOptions::default()).await;
        let weir = WeirConfig::of_servers(&[&server]).default_settings().listener(WEBSOCKET).start().await;
        let (mut client, _) = WsClient::greeted(&weir.address, extension).await;
        for some in subscriptions().chunks(20_000) {
            match extension {
                "" => client.say(some).await,
                _ => client.say_deflated(some).await,
            }
        }
        client.say(b"PUB app.tenant.0001.device.02999 5\r\nevent\r\nPING\r\n").await;
        // What has come back: PONG, INFO, the message and PONG.
        let mut has_message = false;
        loop {
            match &*client.line().await {
                "event" => has_message = true,
                "PONG" if has_message => break,
                _ => {}
            }
        }
        drop(client);
        weir.assert_nothing_leaked().await;
    }
}

/// A close frame right behind the last messages: the client's are published and what the server answers still comes,
/// and the answer to the close frame is the last of all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_behind_them_keeps_nothing_back() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).default_settings().listener(WEBSOCKET).start().await;
    for round in 0..20 {
        let mut subscriber = subscribed(&server.address, "last").await;
        let (mut client, _) = WsClient::greeted(&weir.address, "").await;
        let mut words = Login::nobody().connect_line();
        words += "PING\r\nSUB last 1\r\nPUB last 4\r\nword\r\nPING\r\n";
        client.say(words.as_bytes()).await;
        client.send(CLOSE, true, false, b"\x03\xe8bye").await.unwrap();
        let (said, closing) = client.rest().await;
        assert_eq!(closing, Some((1000, "bye".to_owned())), "round {round}");
        let words: Vec<_> = said.lines().filter(|line| !line.starts_with("INFO ") && *line != "PING").collect();
        assert_eq!(words, ["PONG", "MSG last 1 4", "word", "PONG"], "round {round}");
        assert_eq!(subscriber.next_msg().await.1, b"word", "round {round}");
    }
    weir.assert_nothing_leaked().await;
}

/// One client that ends while it is held is answered as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_frame_of_a_held_client_is_answered() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = slow_pace(&server).listener(WEBSOCKET).start().await;
    let mut before = Vec::new();
    for _ in 0..4 {
        before.push(WsClient::connect(&weir.address, "", &Login::nobody()).await);
    }
    let greeting = format!("{}PING\r\n", Login::nobody().lang("java").connect_line());
    for _ in 0..IN_FRONT {
        let (mut client, _) = WsClient::greeted(&weir.address, "").await;
        client.say(greeting.as_bytes()).await;
        before.push(client);
    }
    let (mut client, _) = WsClient::greeted(&weir.address, "").await;
    client.say(greeting.as_bytes()).await;
    weir.until("it is held", last_is_held).await;
    client.send(CLOSE, true, false, b"\x03\xe8bye").await.unwrap();
    assert_eq!(client.rest().await, (String::new(), Some((1000, "bye".to_owned()))));
    drop((before, client));
    weir.assert_nothing_leaked().await;
}

/// One new client a second, so that those behind the first four are held for long.
fn slow_pace(server: &NatsServer) -> WeirConfig {
    WeirConfig::of_servers(&[server]).admission("rate = 1\nburst = 4\nmax_hold = \"19s\"\nrefusal_spread = \"100ms\"")
}

/// How many wait in front of the clients of a test: as many seconds as a slow machine has to see these held.
const IN_FRONT: usize = 8;

/// Whether somebody is held while all are there: then it is the last one.
fn last_is_held(metrics: &metrics::Metrics) -> bool {
    let held = metrics.sum("weir_held");
    held > 0.0 && held + metrics.sum("weir_sessions_active") > 4.0 + IN_FRONT as f64
}

/// Fills the pace, and then sends `bytes` behind CONNECT and PING from each of `n` clients, which are held. weir holds
/// a Java client until its deadline, because jnats gains nothing from an early refusal.
async fn held(weir: &Weir, n: usize, bytes: &[u8]) -> (Vec<RawClient>, Vec<RawClient>) {
    let mut before = Vec::new();
    for _ in 0..4 {
        before.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    let greeting = format!("{}PING\r\n", Login::nobody().lang("java").connect_line());
    for _ in 0..IN_FRONT {
        let mut client = RawClient::greeted(&weir.address).await.unwrap();
        client.send(greeting.as_bytes()).await.unwrap();
        before.push(client);
    }
    let mut clients = Vec::new();
    for _ in 0..n {
        let mut client = RawClient::greeted(&weir.address).await.unwrap();
        client.send(greeting.as_bytes()).await.unwrap();
        // weir need not read everything.
        let _ = tokio::time::timeout(Duration::from_millis(20), client.send(bytes)).await;
        clients.push(client);
    }
    weir.until("they are held", last_is_held).await;
    (before, clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_client_that_sends_much_is_not_refused() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = slow_pace(&server).start().await;
    let mut subscriber = subscribed(&server.address, "much").await;
    let (_before, mut clients) = held(&weir, 1, b"").await;
    let mut client = clients.pop().unwrap();
    let mut operations = Vec::new();
    for i in 0..5000 {
        operations.extend_from_slice(format!("PUB much 100\r\n{i:0100}\r\n").as_bytes());
    }
    client.send(&operations).await.unwrap();
    for i in 0..5000 {
        assert_eq!(subscriber.next_msg().await.1, format!("{i:0100}").into_bytes());
    }
    client.round_trip().await.unwrap();
    drop((client, _before));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_clients_that_send_much_cost_little_and_are_seen_to_leave() {
    const CLIENTS: usize = 400;
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = slow_pace(&server).start().await;
    drop(held(&weir, CLIENTS, b"").await);
    weir.until("all have left", |metrics| metrics.sum("weir_held") + metrics.sum("weir_sessions_active") == 0.0).await;
    let before = weir.rss();
    // 256 KiB each, which the kernel may take or not.
    let (_before, clients) = held(&weir, CLIENTS, &b"PUB elsewhere 4\r\nabcd\r\n".repeat(11_000)).await;
    let each = weir.rss().saturating_sub(before) / CLIENTS as u64;
    println!("{each} bytes of weir's memory for each held client");
    assert!(each < 16 * 1024, "{each} bytes for each held client");
    let held = weir.metrics().await.sum("weir_held");
    assert!(held > 0.9 * CLIENTS as f64 - 20.0, "{held} are held");
    for (i, client) in clients.into_iter().enumerate() {
        if i % 2 == 0 { drop(client) } else { client.abandon() }
    }
    weir.until("weir has seen them leave", |metrics| metrics.sum("weir_held") == 0.0).await;
    drop(_before);
    weir.assert_nothing_leaked().await;
}

/// How a client ends that has said what it has to say.
#[derive(Debug, Clone, Copy)]
enum Way {
    HalfClose,
    Close,
    CloseWithoutReading,
}

async fn publishes_and_ends(address: &str, words: &str, way: Way) {
    let mut client = match way {
        Way::CloseWithoutReading => RawClient::dial(address).await.unwrap(),
        Way::HalfClose | Way::Close => RawClient::greeted(address).await.unwrap(),
    };
    client.send(words.as_bytes()).await.unwrap();
    if let Way::HalfClose = way {
        client.shut_writing().await.unwrap();
        assert_eq!(client.end(PATIENCE).await, End::Eof);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_and_close_at_once() {
    let (server, weir) = scene().await;
    let mut subscriber = subscribed(&server.address, "last").await;
    for way in [Way::HalfClose, Way::Close, Way::CloseWithoutReading] {
        for i in 0..50 {
            let words = format!("CONNECT {{\"verbose\":false}}\r\nPUB last 5\r\n{i:05}\r\n");
            publishes_and_ends(&weir.address, &words, way).await;
            assert_eq!(subscriber.next_msg().await.1, format!("{i:05}").into_bytes(), "{way:?}");
        }
    }
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_and_close_while_the_login_takes_its_time() {
    let server = NatsServer::start(ServerOptions::default().with(&format!(
        "authorization {{ timeout: 60, users: [{{user: u, password: {DEMO:?}}}, {{user: s, password: sp}}] }}"
    )))
    .await;
    let weir = WeirConfig::of_servers(&[&server]).default_settings().start().await;
    let login = Login::user("u", "demo");
    let mut subscriber = RawClient::connect(&server.address, &Login::user("s", "sp")).await;
    subscriber.subscribe("last", 1).await.unwrap();
    for way in [Way::HalfClose, Way::Close] {
        let words = format!("{}PUB last 5\r\nhello\r\n", login.connect_line());
        publishes_and_ends(&weir.address, &words, way).await;
        assert_eq!(subscriber.next_msg().await.1, b"hello", "{way:?}");
    }
    drop(subscriber);
    weir.assert_nothing_leaked().await;
}

/// What `printf 'CONNECT {"verbose":false}\r\nPING\r\n' | nc -N host 4222` does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_ends_its_stream_reads_info_pong_and_the_end() {
    let (_server, weir) = scene().await;
    for _ in 0..50 {
        let mut netcat = RawClient::dial(&weir.address).await.unwrap();
        netcat.send(b"CONNECT {\"verbose\":false}\r\nPING\r\n").await.unwrap();
        netcat.shut_writing().await.unwrap();
        assert!(matches!(netcat.next_within(PATIENCE).await, Ok(Some(Op::Info(_)))));
        assert!(matches!(netcat.next_within(PATIENCE).await, Ok(Some(Op::Pong))));
        assert_eq!(netcat.end(PATIENCE).await, End::Eof);
    }
    weir.assert_nothing_leaked().await;
}
