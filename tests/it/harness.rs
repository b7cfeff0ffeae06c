//! The test harness itself, against real nats-servers without weir: what the other tests rely on holds.

use std::time::Duration;

use weir_testkit::client::{End, Op};
use weir_testkit::metrics::Metrics;
use weir_testkit::*;

const FULL: &str = "maximum connections exceeded";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_says_so_in_its_log() {
    let server = NatsServer::start(ServerOptions::default().max_connections(2)).await;
    let (_a, _b) = (
        RawClient::connect(&server.address, &Login::nobody()).await,
        RawClient::connect(&server.address, &Login::nobody()).await,
    );
    assert_eq!(server.connections().await, 2);
    assert!(!server.log_contains(FULL));

    let third = RawClient::attempt(&server.address, &Login::nobody(), PATIENCE).await;
    assert!(!matches!(third, Attempt::In(_)), "{third:?}");
    eventually(PATIENCE, "the log has it", async || if server.log_contains(FULL) { Ok(()) } else { Err(server.log()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_comes_back_at_its_address_and_its_clients_too() {
    let mut server = NatsServer::start(ServerOptions::default()).await;
    let crowd = Crowd::start(&server.address, 50, &Login::nobody(), Habit::NATS_GO);
    crowd.settles_at(50).await;

    server.kill9();
    assert!(!server.runs());
    crowd.settles_at(0).await;
    assert_eq!(crowd.lost(), 50);
    assert_eq!(server.connections().await, 0);

    server.restart().await;
    crowd.settles_at(50).await;
    server.settles_at(50).await;
    eventually(PATIENCE, "a new life counts anew", async || match server.total_connections().await {
        50 => Ok(()),
        n => Err(n),
    })
    .await;
    crowd.end().await;
    server.settles_at(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_one() {
    let cluster = Cluster::start(3, |server| server).await;
    let mut here = RawClient::connect(&cluster.servers[0].address, &Login::nobody()).await;
    let mut there = RawClient::connect(&cluster.servers[2].address, &Login::nobody()).await;
    eventually(PATIENCE, "servers of a cluster advertise each other", async || {
        let advertised = cluster.advertised().await;
        if advertised.iter().any(|urls| urls.len() > 1) { Ok(()) } else { Err(advertised) }
    })
    .await;

    here.subscribe("greetings", 1).await.unwrap();
    eventually(PATIENCE, "interest has spread", async || {
        there.publish("greetings", b"hello").await.unwrap();
        there.round_trip().await.unwrap();
        match here.next_within(Duration::from_millis(200)).await {
            Ok(Some(Op::Msg { payload, .. })) if payload == b"hello" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(cluster.settles_at(2).await, [1, 0, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_logins_and_refusals() {
    let server = NatsServer::start(ServerOptions::default().with(
        "accounts { A { users: [{user: a, password: pa}], limits { max_connections: 1 } }, B { users: [{user: b, password: pb}] } }",
    ))
    .await;
    let a = Login::user("a", "pa").in_two_writes();
    let in_a = RawClient::connect(&server.address, &a).await;
    let _in_b = RawClient::connect(&server.address, &Login::user("b", "pb").name("bee")).await;
    assert_eq!((server.account_connections("A").await, server.account_connections("B").await), (1, 1));

    let second = RawClient::attempt(&server.address, &a, PATIENCE).await;
    assert_eq!(second.refusal(), Some("maximum account active connections exceeded"));
    for wrong in [Login::user("a", "pb"), Login::token("t"), Login::nobody()] {
        let attempt = RawClient::attempt(&server.address, &wrong, PATIENCE).await;
        assert_eq!(attempt.refusal(), Some("Authorization Violation"), "{attempt:?}");
    }

    in_a.abandon();
    eventually(PATIENCE, "the slot of an abandoned connection is free", async || {
        RawClient::attempt(&server.address, &a, PATIENCE).await.into_client().ok_or("refused")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_tells_broken_from_refused_from_silent() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let script = tokio::spawn(async move {
        for answer in ["INFO {}\r\nPONG\r\n", "-ERR 'x'\r\n", "-ERR 'no'\r\n", "", "PONG\r\n"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            if answer != "-ERR 'x'\r\n" {
                stream.write_all(b"INFO {\"version\":\"2.10.0\"}\r\n").await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        let (silent, _) = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
        drop(silent);
    });

    let mut attempts = Vec::new();
    for _ in 0..5 {
        attempts.push(RawClient::attempt(&address, &Login::nobody(), PATIENCE).await);
    }
    let silent = RawClient::attempt(&address, &Login::nobody(), Duration::from_millis(200)).await;
    assert!(matches!(&attempts[0], Attempt::Broken(_)), "INFO between CONNECT and PONG: {:?}", attempts[0]);
    assert!(matches!(&attempts[1], Attempt::Refused { info: None, .. }), "{:?}", attempts[1]);
    assert!(matches!(&attempts[2], Attempt::Refused { info: Some(_), end: End::Eof, .. }), "{:?}", attempts[2]);
    assert!(matches!(&attempts[3], Attempt::Ended(End::Eof)), "{:?}", attempts[3]);
    assert!(matches!(&attempts[4], Attempt::In(_)), "{:?}", attempts[4]);
    assert!(matches!(silent, Attempt::TimedOut(_)), "{silent:?}");
    script.abort();
}

#[test]
fn metrics_are_read_with_and_without_labels() {
    let metrics = Metrics::parse(
        "# TYPE weir_held gauge\nweir_held 3\n# TYPE weir_refused_total counter\nweir_refused_total{reason=\"draining\"} 2\n\
         weir_refused_total{reason=\"server capacity } x\"} 5\nweir_heldish 1\n# EOF\n",
    );
    assert_eq!(metrics.get("weir_held"), Some(3.0));
    assert_eq!(metrics.sum("weir_held"), 3.0);
    assert_eq!(metrics.sum("weir_refused_total"), 7.0);
    assert_eq!(metrics.sum_where("weir_refused_total", "reason", "draining"), 2.0);
    assert!(metrics.knows("weir_held") && !metrics.knows("weir_hel"));
}

#[test]
fn unevenness_is_max_by_min() {
    assert!((unevenness(&[100, 105]) - 1.05).abs() < 1e-9);
    assert!(unevenness(&[0, 1]).is_infinite());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_remember_how_many_were_there_at_once() {
    let cluster = Cluster::start(2, |server| server.with("accounts { A { users: [{user: a, password: p}] } }")).await;
    let login = Login::user("a", "p");
    let most = async || history::History::of(&cluster, "A").await.most();
    assert_eq!(most().await, 0);
    let three = Crowd::spread(&cluster.addresses(), 3, Habit::ONCE, |_| login.clone());
    three.settles_at(3).await;
    assert_eq!(most().await, 3);
    // They stay for longer than their ends may be remembered late.
    tokio::time::sleep(3 * history::END_IS_LATE).await;
    three.end().await;
    cluster.settles_at(0).await;
    let two = Crowd::spread(&cluster.addresses(), 2, Habit::ONCE, |_| login.clone());
    two.settles_at(2).await;
    assert_eq!(cluster.connections().await, [1, 1], "each began with another address");
    assert_eq!(most().await, 3, "five in all, and never more than three at once");
    assert_eq!(history::History::of(&cluster, "A").await.len(), 5);
}

#[test]
fn an_end_that_a_server_remembers_late_makes_none_too_many_and_one_that_stays_does() {
    fn most(connections: &[(&str, Option<&str>)]) -> i64 {
        connections.iter().copied().collect::<history::History>().most()
    }
    let first = ("2026-11-26T10:00:00.1Z", Some("2026-11-26T10:00:02.398Z"));
    assert_eq!(most(&[first, ("2026-11-26T10:00:02.3Z", None)]), 1);
    assert_eq!(most(&[first, ("2026-11-26T10:00:02.29Z", None)]), 2);
    assert_eq!(most(&[first, ("2026-11-25T23:59:59+01:00", None)]), 2);
    assert_eq!(most(&[("2026-11-26T10:00:02.398Z", Some("2026-11-26T10:00:02.398000001Z")), first]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_can_be_kept_from_the_bucket_and_from_nothing_else() {
    let mut cluster = Cluster::start(3, |server| server.jetstream().with(&fleet::accounts(""))).await;
    cluster.has_jetstream().await;
    let login =
        |n| async_nats::ConnectOptions::with_user_and_password(format!("weir-{n}"), format!("fl33t-{n}-s3cret"));
    let first = login(1).connect(&cluster.servers[0].address).await.unwrap();
    let second = login(2).connect(&cluster.servers[1].address).await.unwrap();
    let bucket = async_nats::jetstream::kv::Config {
        bucket: format!("weir-fleet-{}", fleet::NAME),
        num_replicas: 3,
        ..Default::default()
    };
    let (js, other) = (async_nats::jetstream::new(first.clone()), async_nats::jetstream::new(second));
    let of_first = eventually(PATIENCE, "a bucket", async || js.create_key_value(bucket.clone()).await).await;
    let of_second = eventually(PATIENCE, "the bucket", async || other.get_key_value(&bucket.bucket).await).await;
    eventually(PATIENCE, "a value", async || of_first.put("a", "1".into()).await).await;

    fleet::cut_from_bucket(&mut cluster, 1).await;
    let within = |put| tokio::time::timeout(Duration::from_millis(500), put);
    assert!(!matches!(within(of_first.put("a", "2".into())).await, Ok(Ok(_))), "it writes what it must not");
    eventually(PATIENCE, "the other one writes", async || of_second.put("a", "3".into()).await).await;
    seen_by_server(&first).await;

    fleet::let_to_bucket(&mut cluster, 1).await;
    eventually(PATIENCE, "it writes again", async || of_first.put("a", "4".into()).await).await;
}
