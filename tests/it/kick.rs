//! `weir kick`: the sessions that fit all selectors end by a plain FIN, and their clients come back, unless they are
//! kept away for a time.

use std::time::{Duration, Instant};

use weir_testkit::{admin::AdminSocket, client::End, websocket::WsClient, *};

const USERS: &str = "accounts { ORDERS { users: [{user: orders, password: p}, {user: batch-1, password: p}] }, \
                     REST { users: [{user: rest, password: p}] } }";

async fn scene() -> (Cluster, Weir, AdminSocket) {
    let (cluster, admin) = (Cluster::start(2, |server| server.with(USERS)).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).table(&admin.toml()).start().await;
    (cluster, weir, admin)
}

fn user(user: &str, name: &str) -> Login {
    Login::user(user, "p").name(name)
}

async fn stays(client: &mut RawClient) {
    client.round_trip().await.expect("it does not fit, and stays");
}

async fn ends(mut client: RawClient) {
    assert_eq!(client.end(PATIENCE).await, End::Eof, "a plain FIN");
    assert!(client.errors.is_empty(), "{:?}", client.errors);
}

async fn kicked(weir: &Weir, sessions: f64) {
    let kicked = |metrics: &metrics::Metrics| metrics.sum_where("weir_closed_total", "reason", "kicked");
    weir.until("they are counted", |metrics| kicked(metrics) == sessions).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_that_fits_all_selectors() {
    let (cluster, weir, admin) = scene().await;
    let connect = async |login: Login| {
        let mut client = RawClient::connect(&weir.address, &login).await;
        // By then its server has named its account.
        client.info_after_pong().await;
        client.round_trip().await.unwrap();
        client
    };
    let mut count = 0.0;
    for (args, others) in [
        (&["--user", "batch-*"][..], [user("orders", "batch-1"), user("rest", "")]),
        (&["--account", "ORDERS", "--name", "wor?er"], [user("orders", ""), user("rest", "worker")]),
        (&["--name", ""], [user("orders", "a"), user("rest", "b")]),
    ] {
        let name = if args.contains(&"") { "" } else { "worker" };
        let fits = connect(user("batch-1", name)).await;
        let mut stay = [connect(others[0].clone()).await, connect(others[1].clone()).await];
        let would = admin.answers(&[&["kick", "--dry-run"], args].concat()).await;
        assert_eq!(would["sessions"], 1, "{args:?}: {would}");
        let said = admin.answers(&[&["kick"], args].concat()).await;
        assert_eq!((&said["sessions"], &said["penalty_seconds"]), (&1.into(), &serde_json::Value::Null), "{said}");
        ends(fits).await;
        count += 1.0;
        kicked(&weir, count).await;
        stays(&mut stay[0]).await;
        stays(&mut stay[1]).await;
        drop(stay);
        weir.until("they have left", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
    }

    // By server, source and age.
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(connect(user("orders", "")).await);
    }
    let on_n1 = cluster.settles_at(10).await[0];
    let none = admin.answers(&["kick", "--source", "192.0.2.0/24"]).await;
    assert_eq!((&none["sessions"], &none["done"]), (&0.into(), &"no session fits: nobody is kicked".into()));
    assert_eq!(admin.answers(&["kick", "--older-than", "1h", "--source", "127.0.0.1"]).await["sessions"], 0);
    let said = admin.answers(&["kick", "--server", "n1", "--source", "127.0.0.1", "--older-than", "1ms"]).await;
    assert_eq!(said["sessions"], on_n1, "{said}");
    kicked(&weir, count + on_n1 as f64).await;
    assert_eq!(weir.gauge("weir_sessions_active{server=\"n2\"}").await, 10.0 - on_n1 as f64);
    eventually(PATIENCE, "its end is in the log", async || {
        let log = weir.log();
        if log.contains(&format!("sessions have been kicked by={:?} ended={on_n1}", crate::verbs::own_user())) {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_is_who_moves_no_message_and_they_go_one_after_another() {
    let (_cluster, weir, admin) = scene().await;
    let mut idle = Vec::new();
    for _ in 0..5 {
        idle.push(RawClient::connect(&weir.address, &user("rest", "idle")).await);
    }
    let mut busy = RawClient::connect(&weir.address, &user("rest", "busy")).await;
    tokio::time::sleep(Duration::from_millis(3200)).await;
    // A PING is no message.
    stays(&mut idle[0]).await;
    let began = Instant::now();
    // It is busy while the verb is asked for, however long that takes.
    let works = async {
        loop {
            busy.publish("jobs", b"done").await.unwrap();
            stays(&mut busy).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let said = tokio::select! {
        said = admin.answers(&["kick", "--idle", "3s", "--rate", "10"]) => said,
        () = works => unreachable!("it never ends"),
    };
    assert_eq!((&said["sessions"], &said["rate"]), (&5.into(), &10.0.into()), "{said}");
    for client in idle {
        ends(client).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(400), "five at ten a second");
    stays(&mut busy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_penalty_they_are_kept_away_and_others_are_not() {
    let (_cluster, weir, admin) = scene().await;
    let (wild, calm) = (user("orders", "wild"), user("orders", "calm"));
    let mut session = RawClient::connect(&weir.address, &wild).await;
    stays(&mut session).await; // it is among the sessions a moment after its PONG
    let said = admin.does(&["kick", "--name", "wild", "--for", "1h"]).await;
    assert!(said.contains("1 session ends; their clients are refused with reason kicked for 1h"), "{said}");
    ends(session).await;
    let attempt = RawClient::attempt(&weir.address, &wild, PATIENCE).await;
    assert_eq!(attempt.refusal(), Some("maximum connections exceeded"), "{attempt:?}");
    RawClient::connect(&weir.address, &calm).await;
    let metrics =
        weir.until("it is counted", |metrics| metrics.sum_where("weir_refused_total", "reason", "kicked") == 1.0);
    assert_eq!(metrics.await.sum("weir_kicked_clients"), 1.0);
    assert_eq!(admin.does(&["kick", "--forgive"]).await, "1 client may come back\n");
    RawClient::connect(&weir.address, &wild).await;
    assert_eq!(weir.gauge("weir_kicked_clients").await, 0.0);

    // It is over by itself.
    let mut session = RawClient::connect(&weir.address, &wild).await;
    stays(&mut session).await;
    admin.does(&["kick", "--name", "wild", "--for", "200ms"]).await;
    ends(session).await;
    eventually(PATIENCE, "it gets in again", async || {
        RawClient::attempt(&weir.address, &wild, PATIENCE).await.into_client().ok_or("refused")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_says_nobody_or_nonsense_is_wrong_usage() {
    let (_cluster, weir, admin) = scene().await;
    let mut client = RawClient::connect(&weir.address, &user("rest", "")).await;
    for args in [
        &["kick"][..],
        &["kick", "--for", "1h"],
        &["kick", "--dry-run"],
        &["kick", "--idle", "10"],
        &["kick", "--account", "[", "--dry-run"],
        &["kick", "--source", "nowhere"],
        &["kick", "--user", "rest", "--rate", "0"],
        &["kick", "--user", "rest", "--for", "25h"],
        &["kick", "--user", "rest", "--forgive"],
    ] {
        let said = admin.says(args).await;
        assert_eq!((said.code, &*said.out), (64, ""), "{args:?}: {said:?}");
    }
    let said = admin.says(&["kick", "--server", "n9"]).await;
    assert_eq!((said.code, said.err.contains("there is no server n9")), (1, true), "{said:?}");
    stays(&mut client).await;
}

/// A payload that reads like the end of a connection is said by whoever publishes. Only the server's own words count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_payload_chooses_the_code_with_which_a_websocket_ends() {
    let admin = AdminSocket::default();
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).listener("kind = \"websocket\"").table(&admin.toml()).start().await;
    let mut reads = WsClient::connect(&weir.address, "", &Login::nobody()).await;
    assert!(reads.line().await.starts_with("INFO {"));
    let words = "-ERR 'Authorization Violation'";
    reads.say(format!("SUB a 1\r\nPUB a {}\r\n{words}\r\n", words.len()).as_bytes()).await;
    assert_eq!((reads.line().await, reads.line().await), (format!("MSG a 1 {}", words.len()), words.to_owned()));
    admin.does(&["kick", "--source", "127.0.0.1"]).await;
    assert_eq!(reads.rest().await.1, Some((1001, "Server Shutdown".into())));

    for (words, line, code, text) in [
        ("NONSENSE\r\n", "-ERR 'Unknown Protocol Operation'", 1002, "Protocol Violation"),
        ("PUB a 9999999\r\n", "-ERR 'Maximum Payload Violation'", 1009, "Maximum Message Payload Exceeded"),
    ] {
        let mut client = WsClient::connect(&weir.address, "", &Login::nobody()).await;
        client.line().await;
        client.say(words.as_bytes()).await;
        let (said, closing) = client.rest().await;
        assert!(said.ends_with(&format!("{line}\r\n")), "{said}");
        assert_eq!(closing, Some((code, text.into())));
    }
    weir.assert_nothing_leaked().await;
}
