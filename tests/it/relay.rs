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
