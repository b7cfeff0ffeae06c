//! Many reloads in a row, under connects and traffic: no client is lost, no message, and nothing leaks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::MissedTickBehavior};
use weir_testkit::{client::Op, *};

/// How many reloads, unless this variable says so: 1,000 take a minute or more.
const VARIABLE: &str = "WEIR_RELOADS";
const RELOADS: usize = 40;
/// New clients a second.
const CONNECTS: u32 = 200;
/// Pairs of a publisher and a subscriber, and messages a second of each.
const PAIRS: usize = 8;
const MESSAGES: u32 = 200;

/// Publishes numbers until told to stop; returns how many.
async fn publish(mut client: RawClient, subject: String, stop: Arc<AtomicBool>) -> u64 {
    let mut every = tokio::time::interval(Duration::from_secs(1) / MESSAGES);
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut n = 0;
    while !stop.load(Relaxed) {
        every.tick().await;
        client.publish(&subject, n.to_string().as_bytes()).await.expect("a publisher that is in stays in");
        n += 1;
    }
    client.publish(&subject, b"last").await.expect("the last message");
    client.round_trip().await.expect("a publisher that is in stays in");
    n
}

/// Checks that every number comes, in order; returns how many.
async fn receive(mut client: RawClient) -> u64 {
    let mut expected = 0;
    loop {
        match client.next_within(PATIENCE).await {
            Ok(Some(Op::Msg { payload, .. })) if payload == b"last" => return expected,
            Ok(Some(Op::Msg { payload, .. })) if payload == b"ready" => {}
            Ok(Some(Op::Msg { payload, .. })) => {
                assert_eq!(String::from_utf8(payload).unwrap(), expected.to_string(), "a message is lost");
                expected += 1;
            }
            Ok(Some(Op::Ping)) => client.send(b"PONG\r\n").await.expect("a subscriber that is in stays in"),
            Ok(Some(Op::Info(_))) => {}
            other => panic!("instead of message {expected}: {other:?}"),
        }
    }
}

/// Publishes `ready` until the subscriber, which may be on another server, receives it: interest takes its time from
/// one server to the other. From then on the subscriber misses nothing.
async fn interest_spreads(publisher: &mut RawClient, subject: &str, subscriber: &mut RawClient) {
    eventually(PATIENCE, "interest has spread", async || {
        publisher.publish(subject, b"ready").await.unwrap();
        publisher.round_trip().await.unwrap();
        match subscriber.next_within(Duration::from_millis(200)).await {
            Ok(Some(Op::Msg { .. })) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// What the n-th configuration has, in place of [`FIRST`].
fn nth(n: usize, second: &str) -> String {
    let (rate, most) = (5000 + n, 10_000 + n);
    let second = match n % 3 {
        0 => String::new(),
        1 => format!("[[listeners]]\nlisten = \"{second}\"\n"),
        _ => {
            format!("[[listeners]]\nlisten = \"{second}\"\nmax_clients = {}\nadvertise = [\"a:{}\"]\n", 100 + n, 1 + n)
        }
    };
    let accounts = match n % 2 {
        0 => format!("[accounts.default]\nmax_connections = {most}\n[names.\"x*\"]\nmax_connections = {most}\n"),
        _ => format!(
            "[accounts.default]\nmax_connections = {most}\nrate = {rate}\n[admission.per_source]\nmax_connections = {most}\n"
        ),
    };
    format!("# begin\n{second}{accounts}# end\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_reloads_lose_no_client_and_no_message() {
    let reloads = std::env::var(VARIABLE).ok().and_then(|n| n.parse().ok()).unwrap_or(RELOADS);
    let cluster = Cluster::start(2, |server| server).await;
    let second = format!("127.0.0.1:{}", ports::free());
    let mut before = nth(0, &second);
    let mut weir = WeirConfig::of(&cluster).table(&before).log_level("info").start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (mut publishers, mut subscribers) = (JoinSet::new(), JoinSet::new());
    for n in 0..PAIRS {
        let mut subscriber = RawClient::connect(&weir.address, &Login::nobody()).await;
        subscriber.subscribe(&format!("s{n}"), 1).await.unwrap();
        let mut publisher = RawClient::connect(&weir.address, &Login::nobody()).await;
        interest_spreads(&mut publisher, &format!("s{n}"), &mut subscriber).await;
        subscribers.spawn(receive(subscriber));
        publishers.spawn(publish(publisher, format!("s{n}"), Arc::clone(&stop)));
    }
    let (address, ends, connected) = (weir.address.clone(), Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&connected);
    let connects = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_secs(1) / CONNECTS);
        every.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut clients = JoinSet::new();
        while !ends.load(Relaxed) {
            every.tick().await;
            let (address, counted) = (address.clone(), Arc::clone(&counted));
            clients.spawn(async move {
                let login = Login::nobody().name("x");
                let mut client = RawClient::attempt(&address, &login, PATIENCE).await.expect_in();
                client.round_trip().await.expect("who is in stays in");
                counted.fetch_add(1, Relaxed);
            });
            while let Some(done) = clients.try_join_next() {
                done.expect("every client gets in");
            }
        }
        while let Some(done) = clients.join_next().await {
            done.expect("every client gets in");
        }
    });

    let (began, mut warm) = (Instant::now(), 0);
    for n in 1..=reloads {
        let next = nth(n, &second);
        weir.reconfigure(&before, &next);
        before = next;
        let metrics = weir.reloads().await;
        assert_eq!(metrics.sum("weir_config_reloads_total"), n as f64, "{}", weir.log());
        assert_eq!(metrics.get("weir_config_reloads_total{result=\"applied\"}"), Some(n as f64));
        if n == reloads.div_ceil(10) {
            warm = weir.rss();
        }
    }
    let took = began.elapsed();
    stop.store(true, Relaxed);
    connects.await.expect("every client gets in");
    let mut sent = 0;
    while let Some(n) = publishers.join_next().await {
        sent += n.unwrap();
    }
    let mut received = 0;
    while let Some(n) = subscribers.join_next().await {
        received += n.unwrap();
    }
    assert_eq!(sent, received);
    let refused = weir.metrics().await.sum("weir_refused_total");
    assert_eq!(refused, 0.0);
    let grown = weir.rss().saturating_sub(warm);
    println!(
        "{reloads} reloads in {took:?}, {} clients, {sent} messages, {} KiB more memory than after a tenth of them",
        connected.load(Relaxed),
        grown / 1024
    );
    assert!(grown < 32 << 20, "{grown} bytes more than after a tenth of the reloads");
    weir.assert_nothing_leaked().await;
}
