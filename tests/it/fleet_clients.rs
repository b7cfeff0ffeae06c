//! Clients learn the addresses of all weirs of a fleet (`advertise = "fleet"`), and those of a weir that dies go to the
//! others.

use std::collections::BTreeSet;

use async_nats::{Client, ConnectOptions};
use futures::future::join_all;
use serde_json::Value;
use weir_testkit::client::Op;
use weir_testkit::*;

const ADVERTISES: &str = "advertise = \"fleet\"";

async fn cluster() -> Cluster {
    let accounts = fleet::accounts("APP { users: [{user: a, password: a}] }");
    let cluster = Cluster::start(2, |server| server.jetstream().with(&accounts)).await;
    cluster.has_jetstream().await;
    cluster
}

fn app() -> Login {
    Login::user("a", "a")
}

fn urls(info: &Value) -> BTreeSet<String> {
    let urls = info["connect_urls"].as_array().into_iter().flatten();
    urls.map(|url| url.as_str().expect("an address").to_owned()).collect()
}

fn of(weirs: &[&Weir]) -> BTreeSet<String> {
    weirs.iter().map(|weir| weir.address.clone()).collect()
}

/// Reads on until an INFO names exactly these weirs. What else comes is answered, and the payloads of messages are
/// counted and compared.
async fn is_told(client: &mut RawClient, weirs: &BTreeSet<String>, payload: &[u8]) -> usize {
    let mut messages = 0;
    loop {
        match client.next_within(PATIENCE).await.expect("a connection that stays") {
            Some(Op::Info(info)) if urls(&info) == *weirs => {
                assert!(info["client_id"].is_u64() && info["server_name"].is_string(), "a whole INFO: {info}");
                return messages;
            }
            Some(Op::Info(_) | Op::Pong) => {}
            Some(Op::Ping) => client.send(b"PONG\r\n").await.expect("send"),
            Some(Op::Msg { payload: one, .. }) => {
                assert!(one == payload, "a message is what it was");
                messages += 1;
            }
            other => panic!("instead of INFO: {other:?}"),
        }
    }
}

/// What a new client of this weir is told first.
async fn greets_with(weir: &Weir, weirs: &BTreeSet<String>) {
    eventually(PATIENCE, "new clients are told the weirs", async || {
        let told = urls(&RawClient::greeted(&weir.address).await.expect("INFO").info);
        if told == *weirs { Ok(()) } else { Err(told) }
    })
    .await;
}

async fn nats(weir: &Weir) -> Client {
    let options = ConnectOptions::with_user_and_password("a".into(), "a".into());
    options.connection_timeout(PATIENCE).request_timeout(Some(PATIENCE)).connect(weir.url()).await.expect("connected")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_weir_that_dies_go_to_the_other() {
    let cluster = cluster().await;
    let of_all = WeirConfig::of(&cluster).listener(ADVERTISES);
    let mut first = fleet::config(&of_all, 1).start().await;
    // One that is connected before there is another weir, and one in the middle of a stream of large messages.
    let mut before = RawClient::connect(&first.address, &app()).await;
    assert_eq!(urls(&before.info), of(&[&first]));
    let mut busy = RawClient::connect(&first.address, &app()).await;
    busy.subscribe("large", 1).await.expect("subscribed");
    let payload: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let (address, sent) = (first.address.clone(), payload.clone());
    let publisher = tokio::spawn(async move {
        let mut publisher = RawClient::connect(&address, &app()).await;
        loop {
            publisher.publish("large", &sent).await.expect("published");
            publisher.round_trip().await.expect("passed on");
            // Nobody reads meanwhile: the server ends a subscriber with 64 MiB outstanding.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    let second = fleet::config(&of_all, 2).start().await;
    let both = of(&[&first, &second]);
    greets_with(&first, &both).await;
    greets_with(&second, &both).await;
    is_told(&mut before, &both, &[]).await;
    assert!(is_told(&mut busy, &both, &payload).await > 0, "INFO came between messages");
    for _ in 0..3 {
        assert!(busy.next_msg().await.1 == payload, "the stream goes on whole");
    }
    publisher.abort();
    drop((before, busy));

    // async-nats takes addresses from the INFO by which it connects, and from no later one.
    let clients: Vec<Client> = join_all((0..20).map(|_| nats(&first))).await;
    first.kill9();
    eventually(PATIENCE, "all are at the other weir", async || {
        let sessions = second.metrics().await.sum("weir_sessions_active");
        if sessions == 20.0 { Ok(()) } else { Err(sessions) }
    })
    .await;
    for client in &clients {
        client.flush().await.expect("the connection is whole");
    }
    // Nobody is led to the dead one any more.
    greets_with(&second, &of(&[&second])).await;
    drop(clients);
    second.until("nobody is left", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_that_is_stopped_is_left_out_before_it_ends() {
    let cluster = cluster().await;
    let of_all = WeirConfig::of(&cluster).listener(ADVERTISES);
    let drains = of_all.clone().top("lame_duck_grace_period = \"30s\"\nlame_duck_duration = \"60s\"");
    let mut first = fleet::config(&drains, 1).start().await;
    let second = fleet::config(&of_all, 2).start().await;
    let both = of(&[&first, &second]);
    greets_with(&second, &both).await;
    let mut client = RawClient::connect(&second.address, &app()).await;
    first.signal(rustix::process::Signal::TERM);
    greets_with(&second, &of(&[&second])).await;
    is_told(&mut client, &of(&[&second]), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_async_info_is_told_nothing_and_a_listener_of_its_own_addresses_only_these() {
    let cluster = cluster().await;
    let of_all = WeirConfig::of(&cluster).listener(ADVERTISES);
    let first = fleet::config(&of_all, 1).start().await;
    let mut old = RawClient::connect(&first.address, &app().with("protocol", 0.into())).await;
    let own = WeirConfig::of(&cluster).listener("advertise = [\"weir.example.com:4222\"]");
    let second = fleet::config(&own, 2).start().await;
    let third = fleet::config(&of_all, 3).start().await;
    greets_with(&third, &of(&[&first, &third])).await;
    greets_with(&first, &of(&[&first, &third])).await;
    greets_with(&second, &["weir.example.com:4222".to_owned()].into()).await;
    let mut new = RawClient::connect(&first.address, &app()).await;
    let fourth = fleet::config(&of_all, 4).start().await;
    is_told(&mut new, &of(&[&first, &third, &fourth]), &[]).await;
    // Told at the same time as the other, if at all.
    old.round_trip().await.expect("PONG");
    // What came before PONG would be read first.
    assert!(old.next_within(std::time::Duration::ZERO).await.is_err(), "it is told something");
}
