//! The relay: back-pressure, half-close, and how sessions end.

use std::time::Duration;

use weir_testkit::{
    client::{End, Op},
    *,
};

async fn through_weir() -> (NatsServer, Weir) {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    (server, weir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_costs_no_memory() {
    let (_server, weir) = through_weir().await;
    let mut reader = RawClient::connect(&weir.address, &Login::nobody()).await;
    reader.subscribe("flood", 1).await.unwrap();
    reader.round_trip().await.unwrap();
    let before = weir.rss();
    let mut writer = RawClient::connect(&weir.address, &Login::nobody()).await;
    let payload = vec![b'x'; 256 * 1024];
    for _ in 0..160 {
        writer.publish("flood", &payload).await.unwrap(); // 40 MiB in all, which the reader does not read
    }
    writer.round_trip().await.unwrap();
    let grown = weir.rss().saturating_sub(before) >> 20;
    assert!(grown < 8, "the reader stopped reading and weir grew by {grown} MiB");
    // The reader still gets everything, in order.
    for _ in 0..160 {
        let (subject, body) = reader.next_msg().await;
        assert!(subject == "flood" && body.len() == payload.len());
    }
    drop((reader, writer));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_sent_before_its_end_arrives() {
    let (_server, weir) = through_weir().await;
    let mut reader = RawClient::connect(&weir.address, &Login::nobody()).await;
    reader.subscribe("last", 1).await.unwrap();
    reader.round_trip().await.unwrap();
    for i in 0..50 {
        let mut writer = RawClient::connect(&weir.address, &Login::nobody()).await;
        writer.publish("last", format!("words {i}").as_bytes()).await.unwrap();
        writer.shut_writing().await.unwrap();
        assert_eq!(reader.next_msg().await.1, format!("words {i}").as_bytes());
        assert_eq!(writer.end(PATIENCE).await, End::Eof, "the server's end comes as a FIN");
    }
    drop(reader);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_one_side_ends_the_other() {
    let (mut server, weir) = through_weir().await;
    let abandoned = RawClient::connect(&weir.address, &Login::nobody()).await;
    server.settles_at(1).await;
    abandoned.abandon();
    server.settles_at(0).await;

    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    server.kill9();
    assert_eq!(client.end(PATIENCE).await, End::Eof, "a killed server looks like a plain end");
    drop(client);
    let closed =
        |party: &'static str| move |m: &metrics::Metrics| m.sum_where("weir_closed_total", "party", party) >= 1.0;
    weir.until("the client's end is the client's", closed("downstream")).await;
    weir.until("the server's end is the server's", closed("upstream")).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_without_a_word_ends_plainly() {
    const CLIENTS: usize = 40;
    let (server, weir) = through_weir().await;
    at_once(CLIENTS, |_| {
        let address = weir.address.clone();
        async move { drop(RawClient::connect(&address, &Login::nobody().name("brief")).await) }
    })
    .await;
    eventually(PATIENCE, "the server has seen a plain end of each", async || {
        let closed = server.monitoring("/connz?state=closed").await.unwrap_or_default();
        let all = closed["connections"].as_array().cloned().unwrap_or_default();
        let brief = all.iter().filter(|one| one["name"] == "brief");
        let reasons: Vec<_> = brief.map(|one| one["reason"].as_str().unwrap_or_default().to_owned()).collect();
        assert!(reasons.iter().all(|reason| reason == "Client Closed"), "{reasons:?}");
        if reasons.len() == CLIENTS { Ok(()) } else { Err(reasons.len()) }
    })
    .await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verbose_client_gets_its_oks_and_one_without_ping_gets_on() {
    let (_server, weir) = through_weir().await;
    let mut verbose = RawClient::greeted(&weir.address).await.unwrap();
    verbose.send(b"CONNECT {\"verbose\":true,\"protocol\":1}\r\n").await.unwrap();
    assert!(matches!(verbose.next_within(PATIENCE).await.unwrap(), Some(Op::Ok)));
    verbose.send(b"PING\r\n").await.unwrap();
    assert!(matches!(verbose.next_within(PATIENCE).await.unwrap(), Some(Op::Pong)));
    assert!(matches!(verbose.next_within(PATIENCE).await.unwrap(), Some(Op::Info(_))), "the server's own INFO");
    verbose.send(b"SUB a 1\r\nPUB a 2\r\nhi\r\n").await.unwrap();
    assert!(matches!(verbose.next_within(PATIENCE).await.unwrap(), Some(Op::Ok)));

    let mut silent = RawClient::greeted(&weir.address).await.unwrap();
    silent.send(b"CONNECT {\"verbose\":false}\r\nSUB a 1\r\nPUB a 2\r\nho\r\n").await.unwrap();
    assert_eq!(silent.next_msg().await.1, b"ho", "no INFO and no PONG that it did not ask for");
    // Negative check: in this time nothing else may come.
    assert!(silent.next_within(Duration::from_millis(300)).await.is_err());
    drop((verbose, silent));
    weir.assert_nothing_leaked().await;
}

/// Operations that nats-server answers before it closes: those of servers above all (parser.go).
const LAST_OPERATIONS: [&str; 16] = [
    "HMSG a 1 5 5\r\nhello\r\n",
    "hmsg a 1 5 5\r\nhello\r\n",
    "PUB a 2\r\nhi\r\nHMSG a 1 5 5\r\nhello\r\n",
    "MSG a 1 5\r\nhello\r\n",
    "RMSG $G a 5\r\nhello\r\n",
    "RS+ $G a\r\n",
    "LS+ a\r\n",
    "LMSG a 5\r\nhello\r\n",
    "A+ x\r\n",
    "A- x\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "PUB a 5\r\nhellooo\r\n",
    "PUB a 2000000\r\nhello",
    "SUB a 1\r\nPUB a 2\r\nhi\r\nPING\r\nHMSG a 1 5 5\r\nhello\r\n",
    "SUB a..b 1\r\nPING\r\nX",
    "CONNECT {\"protocol\":9}\r\n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_words_of_a_server_reach_the_client() {
    let (server, weir) = through_weir().await;
    let too_long = format!("SUB {} 1\r\n", "x".repeat(5000));
    for operations in LAST_OPERATIONS.into_iter().chain([&*too_long]) {
        // Bytes that come behind them do not change what the client reads.
        for behind in ["", "PING\r\nPUB a 2\r\nhi\r\n"] {
            let mut said = Vec::new();
            for address in [&server.address, &weir.address] {
                let mut client = RawClient::connect(address, &Login::nobody()).await;
                client.send(operations.as_bytes()).await.unwrap();
                let mut all = Vec::new();
                // The server may have closed before.
                let _ = client.send(behind.as_bytes()).await;
                while let Ok(Some(op)) = client.next_within(PATIENCE).await {
                    if !matches!(op, Op::Info(_) | Op::Ping) {
                        all.push(op);
                    }
                }
                said.push(all);
            }
            // A server that closes while bytes come resets the connection, and what it said may be lost: not by weir.
            if behind.is_empty() || said[1].is_empty() {
                assert_eq!(said[0], said[1], "{operations:?} {behind:?}");
            }
            assert!(matches!(said[1].last(), Some(Op::Err(_))), "{operations:?} {behind:?}: {said:?}");
        }
    }
    weir.assert_nothing_leaked().await;
}

/// Fills the connection of a subscriber that does not read, until its server gives it up and has `others` beside the
/// publisher.
pub(crate) async fn flood_until_given_up(server: &NatsServer, login: &Login, others: u64) {
    let mut publisher = RawClient::connect(&server.address, login).await;
    let payload = vec![b'x'; 256 * 1024];
    eventually(PATIENCE, "the server has closed its slow consumers", async || {
        for _ in 0..16 {
            publisher.publish("flood", &payload).await.unwrap();
        }
        publisher.round_trip().await.unwrap();
        let left = server.connections().await;
        if left == 1 + others { Ok(()) } else { Err(format!("{left} connections, {others} should be left")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_subscriber_holds_no_place_once_its_server_has_closed_it() {
    let own = "write_deadline: 500ms\naccounts { A { users: [{user: u, password: up}] } }";
    let server = NatsServer::start(ServerOptions::default().with(own)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .default_settings()
        .account("A", "users = [\"u\"]\nmax_connections = 3")
        .start()
        .await;
    let login = Login::user("u", "up");
    let mut frozen = Vec::new();
    for _ in 0..3 {
        let mut client = RawClient::connect(&weir.address, &login).await;
        client.subscribe("flood", 1).await.unwrap();
        frozen.push(client);
    }
    flood_until_given_up(&server, &login, 0).await;
    // Others of the account take their places, long before keepalive and user timeout find the frozen ones.
    let others = eventually(PATIENCE, "three others are let in", async || {
        let mut others = Vec::new();
        for _ in 0..3 {
            match RawClient::attempt(&weir.address, &login, PATIENCE).await {
                Attempt::In(client) => others.push(client),
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(others)
    })
    .await;
    // The connections of the frozen ones end as well.
    weir.until("only the others are left", |metrics| metrics.sum("weir_sessions_active") == 3.0).await;
    drop((frozen, others));
    weir.assert_nothing_leaked().await;
}

/// Nothing can be put into what such a client sends, so the server is asked: at its monitoring port, or over the system
/// account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_is_frozen_in_the_middle_of_a_message_holds_no_place_either() {
    let own = "write_deadline: 500ms\nsystem_account: SYS\n\
               accounts { A { users: [{user: u, password: up}] }, SYS { users: [{user: admin, password: ap}] } }";
    let server = NatsServer::start(ServerOptions::default().with(own)).await;
    let login = Login::user("u", "up");
    let config = || WeirConfig::of_servers(&[&server]).default_settings();
    let system = "[cluster.system]\nuser = \"admin\"\npassword = \"ap\"";
    for (config, others) in [(config(), 0), (config().without_monitors().cluster(system), 1)] {
        let weir = config.start().await;
        let mut frozen = RawClient::connect(&weir.address, &login).await;
        frozen.subscribe("flood", 1).await.unwrap();
        frozen.send(b"PUB half 1000\r\nhalf of it").await.unwrap();
        let mut lives = RawClient::connect(&weir.address, &login).await;
        lives.subscribe("other", 1).await.unwrap();
        flood_until_given_up(&server, &login, 1 + others).await;
        let left = weir.until("only the other one is left", |metrics| metrics.sum("weir_sessions_active") == 1.0).await;
        assert_eq!(left.sum_where("weir_closed_total", "party", "downstream"), 0.0, "it was its server, and not TCP");
        lives.publish("other", b"still").await.unwrap();
        assert_eq!(lives.next_msg().await.1, b"still");
        drop((frozen, lives));
        weir.until("nobody is left", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
    }
}

/// Bytes that a client does not take are in weir's memory, and leave it with the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_stalled_sessions_is_bounded_and_given_back() {
    const STUCK: usize = 500;
    // The server is to keep them all.
    let own = "write_deadline: \"300s\"\nmax_pending: 256MB";
    let server = NatsServer::start(ServerOptions::default().with(own)).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    let mut stuck = at_once(STUCK, |_| {
        let address = weir.address.clone();
        async move {
            let mut client = RawClient::connect(&address, &Login::nobody()).await;
            client.subscribe("flood", 1).await.unwrap();
            client
        }
    })
    .await;
    let before = weir.rss();
    let mut publisher = RawClient::connect(&server.address, &Login::nobody()).await;
    let payload = vec![b'x'; 256 * 1024];
    let held = "weir_relay_waiting_bytes";
    eventually(PATIENCE, "each is stuck", async || {
        publisher.publish("flood", &payload).await.unwrap();
        publisher.round_trip().await.unwrap();
        let now = weir.gauge(held).await;
        // What each holds is a read of the least size at least.
        if now > (STUCK * 4096) as f64 { Ok(()) } else { Err(now) }
    })
    .await;
    let (at_the_stall, now) = (weir.rss().saturating_sub(before) >> 20, weir.gauge(held).await);
    // 32 MiB in large reads, and the others in reads of 32 KiB at most.
    assert!(now <= (48 << 20) as f64, "{now} bytes are held");
    assert!(at_the_stall < 64, "weir grew by {at_the_stall} MiB");
    // They still get everything.
    for _ in 0..3 {
        assert_eq!(stuck[0].next_msg().await.1.len(), payload.len());
    }
    drop(stuck);
    weir.until("nothing is held", |metrics| metrics.sum(held) == 0.0).await;
    eventually(PATIENCE, "memory is given back to the system", async || {
        let after = weir.rss().saturating_sub(before) >> 20;
        if after < 12 { Ok(()) } else { Err(format!("{after} MiB more than before, {at_the_stall} at the stall")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_breaks_off_while_its_server_stands_still_is_noticed() {
    let (mut server, weir) = through_weir().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    server.signal(rustix::process::Signal::STOP);
    // Until nothing goes any more.
    let payload = vec![b'x'; 512 * 1024];
    while tokio::time::timeout(Duration::from_secs(1), client.publish("a", &payload)).await.is_ok() {}
    client.abandon();
    weir.until("the session has ended", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
    server.signal(rustix::process::Signal::CONT);
    weir.assert_nothing_leaked().await;
}
