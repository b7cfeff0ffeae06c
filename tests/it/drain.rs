//! Drain: from SIGTERM on `/healthz` is 503, and weir serves for a grace period, new clients too. Then it refuses new
//! clients, ends the present ones by FIN, spread over time, and exits with code 0.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use weir_testkit::client::End;
use weir_testkit::*;

/// A new client must not get in: the listener is closed, or weir refuses the client with INFO, the text and a FIN.
async fn outside(weir: &Weir) {
    let attempt = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
    match &attempt {
        Attempt::Ended(_) => {}
        Attempt::Refused { text, info: Some(_), end: End::Eof } if text == "maximum connections exceeded" => {}
        _ => panic!("while draining: {attempt:?}"),
    }
}

/// Waits until weir says that it leaves: `/healthz` says 503, or weir's endpoints are gone already.
async fn draining(weir: &Weir) {
    eventually(PATIENCE, "/healthz is 503", async || match http::get(&weir.monitor, "/healthz").await {
        Ok((503, _)) | Err(_) => Ok(()),
        Ok((other, _)) => Err(other),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn present_clients_end_by_fin_one_after_the_other() {
    let cluster = Cluster::start(3, |server| server).await;
    let top = "workers = 2\nlame_duck_grace_period = \"1s\"\nlame_duck_duration = \"7s\"";
    let mut weir = WeirConfig::of(&cluster).top(top).start().await;
    let crowd = Crowd::start(&weir.address, 100, &Login::nobody(), Habit::ONCE);
    crowd.settles_at(100).await;

    weir.signal(Signal::TERM);
    draining(&weir).await;
    // From the end of the grace period on.
    eventually(PATIENCE, "the first session is closed", async || match crowd.connected() {
        100 => Err(()),
        _ => Ok(()),
    })
    .await;
    outside(&weir).await;
    let mut levels = BTreeSet::new();
    eventually(PATIENCE, "all are sent away", async || match crowd.connected() {
        0 => Ok(()),
        now => {
            levels.insert(now);
            Err(now)
        }
    })
    .await;
    assert!(levels.len() >= 3, "spread over time, not all at once: {levels:?}");
    assert!(weir.wait(PATIENCE).await.success(), "exit code 0");
    let ends = crowd.ends();
    assert_eq!(ends.get("established, then Eof"), Some(&100), "a plain FIN, no -ERR, no reset: {ends:?}");
    cluster.settles_at(0).await;
    crowd.end().await;
}

/// A client that lives as long as a job does that has one thing to say.
async fn short_client(weir: &Weir) {
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    client.publish("jobs", b"done").await.unwrap();
    client.round_trip().await.unwrap();
}

/// A balancer that asks `/healthz` every few seconds sends clients meanwhile, whether or not any are there. A client
/// library at its defaults does not try its first connection again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_the_grace_new_clients_are_served() {
    let cluster = Cluster::start(2, |server| server).await;
    for with_sessions in [false, true] {
        let top = "workers = 2\nlame_duck_grace_period = \"8s\"\nlame_duck_duration = \"9s\"";
        let mut weir = WeirConfig::of(&cluster).default_settings().top(top).start().await;
        let mut stays = Vec::new();
        if with_sessions {
            stays.push(RawClient::connect(&weir.address, &Login::nobody()).await);
        }
        weir.signal(Signal::TERM);
        draining(&weir).await;
        // On a slow machine fewer, so that the grace is not over before the question below.
        let began = Instant::now();
        for _ in 0..40 {
            short_client(&weir).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            if began.elapsed() > Duration::from_secs(4) {
                break;
            }
        }
        assert_eq!(weir.health().await, 503, "it serves, and says that it will not");
        for client in &mut stays {
            client.round_trip().await.unwrap();
        }
        assert!(weir.wait(PATIENCE).await.success(), "exit code 0");
        assert!(tokio::net::TcpStream::connect(&weir.address).await.is_err(), "the port is closed");
        assert!(!weir.log().contains(" refusing "), "{}", weir.log());
        cluster.settles_at(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_clients_are_refused_when_told_so_and_present_ones_go_on() {
    let cluster = Cluster::start(1, |server| server).await;
    let top = "workers = 2\nlame_duck_new_clients = \"refuse\"\nlame_duck_grace_period = \"300s\"\n\
               lame_duck_duration = \"600s\"";
    let mut weir = WeirConfig::of(&cluster).top(top).start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    client.subscribe("here", 1).await.unwrap();

    weir.signal(Signal::TERM);
    draining(&weir).await;
    for _ in 0..3 {
        let attempt = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
        assert_eq!(attempt.refusal(), Some("maximum connections exceeded"), "{attempt:?}");
        client.publish("here", b"still").await.unwrap();
        assert_eq!(client.next_msg().await.1, b"still");
    }
    drop(client);
    cluster.settles_at(0).await;
    // The port stays open although nobody is there.
    let attempt = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
    assert_eq!(attempt.refusal(), Some("maximum connections exceeded"), "{attempt:?}");
    weir.signal(Signal::TERM);
    assert!(weir.wait(PATIENCE).await.success(), "exit code 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_signal_ends_it_at_once() {
    let server = NatsServer::start(ServerOptions::default()).await;
    for signal in [Signal::TERM, Signal::INT, Signal::USR2] {
        let top = "workers = 2\nlame_duck_grace_period = \"300s\"\nlame_duck_duration = \"600s\"";
        let mut weir = WeirConfig::of_servers(&[&server]).top(top).start().await;
        weir.signal(signal);
        draining(&weir).await;
        short_client(&weir).await;
        assert!(weir.exited().is_none(), "after one {signal:?}");
        weir.signal(signal);
        assert!(weir.wait(PATIENCE).await.success(), "exit code 0 after {signal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_clients_it_ends_with_the_grace() {
    let server = NatsServer::start(ServerOptions::default()).await;
    for signal in [Signal::TERM, Signal::INT, Signal::USR2] {
        let top = "workers = 2\nlame_duck_grace_period = \"200ms\"\nlame_duck_duration = \"600s\"";
        let mut weir = WeirConfig::of_servers(&[&server]).top(top).start().await;
        weir.signal(signal);
        assert!(weir.wait(PATIENCE).await.success(), "exit code 0 after {signal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nats_server_survives_ends_nothing() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let mut weir = WeirConfig::of_servers(&[&server]).start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    for n in 1..=2 {
        // weir logs nothing for SIGPIPE: a write into a pipe without a reader is an ordinary error.
        weir.signal(Signal::PIPE);
        for (signal, name) in [(Signal::HUP, "configuration reloaded"), (Signal::USR1, "SIGUSR1: ")] {
            weir.signal(signal);
            let told = async || if weir.log().matches(name).count() == n { Ok(()) } else { Err(weir.log()) };
            eventually(PATIENCE, "a line in the log", told).await;
        }
    }
    client.round_trip().await.unwrap();
    drop(RawClient::connect(&weir.address, &Login::nobody()).await);
    assert!(weir.exited().is_none());
    drop(client);
    weir.assert_nothing_leaked().await;

    // Lame duck mode (SIGUSR2) ends weir.
    weir.signal(Signal::USR2);
    assert!(weir.wait(PATIENCE).await.success(), "exit code 0");
}

/// Clients that wait for their turn when weir leaves come to another weir: one by one, and not in one moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_for_their_turn_are_told_one_by_one() {
    const HELD: usize = 100;
    let server = NatsServer::start(ServerOptions::default()).await;
    let top = "workers = 2\nlame_duck_grace_period = \"0s\"\nlame_duck_duration = \"10s\"";
    let admission = "rate = 1\nburst = 1\nmax_hold = \"19s\"";
    let mut weir = WeirConfig::of_servers(&[&server]).top(top).admission(admission).start().await;
    let first = RawClient::connect(&weir.address, &Login::nobody()).await;
    let mut told = Vec::new();
    for _ in 0..HELD {
        let mut client = RawClient::greeted(&weir.address).await.unwrap();
        client.send(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await.unwrap();
        told.push(tokio::spawn(async move {
            let (said, end) = client.rest(PATIENCE).await;
            (std::time::Instant::now(), said, end)
        }));
    }
    weir.until("they wait", |metrics| metrics.sum("weir_held") > 50.0).await;
    weir.signal(Signal::TERM);
    assert!(weir.wait(PATIENCE).await.success(), "exit code 0");
    let mut times = Vec::new();
    for client in told {
        let (at, said, end) = client.await.unwrap();
        // A few had their turn before.
        if said == "-ERR 'maximum connections exceeded'\r\n" {
            assert_eq!(end, End::Eof);
            times.push(at);
        }
    }
    assert!(times.len() > 45, "{}", times.len());
    times.sort();
    // The default refusal_spread is 1.5 s. Without it all took some 10 ms.
    let took = times[times.len() - 1] - times[0];
    assert!(took > Duration::from_millis(400), "all were told within {took:?}");
    drop(first);
}
