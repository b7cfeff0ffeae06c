//! Attempts of a hostile client to be somebody else or to get in past a quota, all of which fail.

use nkeys::KeyPair;
use weir_testkit::{operator::Operator, *};

const VIOLATION: &str = "Authorization Violation";
const QUOTA: &str = "maximum account active connections exceeded";
const TWO: &str = "
    accounts { ORDERS { users: [{user: o, password: op}] }, BILLING { users: [{user: b, password: bp}] } }";

async fn two_accounts() -> (NatsServer, Weir) {
    let server = NatsServer::start(ServerOptions::default().with(TWO)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .account("ORDERS", "users = [\"o\"]\nmax_connections = 1")
        .account("BILLING", "users = [\"b\"]\nmax_connections = 9")
        .start()
        .await;
    (server, weir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_is_good_once() {
    let key = KeyPair::new_user();
    let config = format!("accounts {{ A {{ users: [{{nkey: {}}}] }} }}", key.public_key());
    let server = NatsServer::start(ServerOptions::default().with(&config)).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    let login = Login::nkey(&key);
    let mut first = RawClient::greeted(&weir.address).await.unwrap();
    let stolen = login.answering(&first.info).connect_line();
    first.send(format!("{stolen}PING\r\n").as_bytes()).await.unwrap();
    assert_eq!(first.next_within(PATIENCE).await.unwrap(), Some(client::Op::Pong));
    for _ in 0..5 {
        let mut thief = RawClient::greeted(&weir.address).await.unwrap();
        assert_ne!(thief.info["nonce"], first.info["nonce"]);
        thief.send(format!("{stolen}PING\r\n").as_bytes()).await.unwrap();
        assert_eq!(thief.next_within(PATIENCE).await.unwrap(), Some(client::Op::Err(VIOLATION.into())));
    }
    assert_eq!(server.account_connections("A").await, 1);
    drop(first);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_header_is_no_other_address() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server])
        .admission("max_hold = \"19s\"\n[admission.per_source]\nmax_connections = 1")
        .start()
        .await;
    let client = RawClient::connect(&weir.address, &Login::nobody()).await;
    for source in 1..5 {
        let header = format!("PROXY TCP4 192.0.2.{source} 198.51.100.1 4000 4222\r\n");
        let mut forger = RawClient::dial(&weir.address).await.unwrap();
        forger.send(header.as_bytes()).await.unwrap();
        forger.send(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await.unwrap();
        let (said, _) = forger.rest(PATIENCE).await;
        assert!(!said.contains("PONG"), "{said}");
    }
    assert_eq!(server.connections().await, 1);
    // A header after CONNECT does not work either, although a server that reads PROXY headers might accept it there.
    drop(client);
    server.settles_at(0).await;
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    let mut smuggler = RawClient::connect(&weir.address, &Login::nobody()).await;
    smuggler.send(b"PROXY TCP4 192.0.2.1 198.51.100.1 4000 4222\r\n").await.unwrap();
    assert_ne!(smuggler.end(PATIENCE).await, client::End::StillOpen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_connect_moves_nobody() {
    let (server, weir) = two_accounts().await;
    let inside = RawClient::connect(&weir.address, &Login::user("o", "op")).await;
    let again = Login::user("o", "op").connect_line();
    for tail in [again.clone(), again.replace("CONNECT", "cOnNeCt"), format!("PUB x 2\r\nhi\r\n{again}")] {
        let mut mover = RawClient::connect(&weir.address, &Login::user("b", "bp")).await;
        mover.send(tail.as_bytes()).await.unwrap();
        assert_ne!(mover.end(PATIENCE).await, client::End::StillOpen, "{tail}");
    }
    // The same with both CONNECTs in one write.
    let mut mover = RawClient::greeted(&weir.address).await.unwrap();
    let both = format!("{}{again}PING\r\n", Login::user("b", "bp").connect_line());
    mover.send(both.as_bytes()).await.unwrap();
    assert_ne!(mover.end(PATIENCE).await, client::End::StillOpen);
    assert_eq!(server.account_connections("ORDERS").await, 1);
    drop(inside);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_a_key_gets_past_the_quota() {
    let (server, weir) = two_accounts().await;
    let inside = RawClient::connect(&weir.address, &Login::user("o", "op")).await;
    // For nats-server each of these is user `o`.
    for spelled in [
        r#"{"verbose":false,"user":"b","pass":"bp","User":"o","PASS":"op"}"#,
        r#"{"verbose":false,"USER":"o","Pass":"op"}"#,
        "{\"verbose\":false,\"user\":\"b\",\"pass\":\"bp\",\"u\u{17f}er\":\"o\",\"pa\u{17f}s\":\"op\"}",
        r#"{"verbose":false,"\u0075ser":"o","p\u0061ss":"op"}"#,
        r#"{"verbose":false,"user":"b","user":"o","pass":"bp","pass":"op"}"#,
        r#"{"verbose":false,"user":"\u006f","pass":"op"}"#,
    ] {
        let mut tricky = RawClient::greeted(&weir.address).await.unwrap();
        tricky.send(format!("CONNECT {spelled}\r\nPING\r\n").as_bytes()).await.unwrap();
        assert_eq!(tricky.next_within(PATIENCE).await.unwrap(), Some(client::Op::Err(QUOTA.into())), "{spelled}");
    }
    assert_eq!(server.account_connections("ORDERS").await, 1);
    drop(inside);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_hidden_in_a_value_stays_a_value() {
    let (server, weir) = two_accounts().await;
    let smuggled = "x\r\nCONNECT {\"user\":\"o\",\"pass\":\"op\"}\r\nPING\r\n";
    for field in ["name", "lang", "unknown", "proxy_sig"] {
        let login = Login::user("b", "bp").with(field, smuggled.into());
        match RawClient::attempt(&weir.address, &login, PATIENCE).await {
            Attempt::In(mut client) => client.round_trip().await.unwrap(),
            other => assert_eq!(field, "proxy_sig", "{other:?}"),
        }
        server.settles_at(0).await;
    }
    let mut raw = RawClient::greeted(&weir.address).await.unwrap();
    // For nats-server a line end inside the JSON ends the line, and the text before it is not valid JSON.
    raw.send(
        b"CONNECT {\"user\":\"b\",\"pass\":\"bp\",\"name\":\"x\r\nCONNECT {\"user\":\"o\",\"pass\":\"op\"}\r\nPING\r\n",
    )
    .await
    .unwrap();
    assert!(!raw.rest(PATIENCE).await.0.contains("PONG"));
    assert_eq!(server.account_connections("ORDERS").await, 0);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_with_bad_credentials_takes_nothing_from_those_it_claims() {
    let operator = Operator::with_accounts([-1]);
    let server = NatsServer::start(ServerOptions::default().with(&operator.server_config())).await;
    let account = operator.account(0);
    let weir = WeirConfig::of_servers(&[&server])
        .listener("handshake_timeout = \"30s\"\naccept_proxy_protocol_from = [\"127.0.0.0/8\"]")
        .account(&account.name(), "max_connections = 3\nmax_handshakes = 1")
        .start()
        .await;
    let from = async |source: &str, login: &Login| {
        let header = format!("PROXY TCP4 {source} 198.51.100.1 40000 4222\r\n");
        RawClient::attempt_behind(header.as_bytes(), &weir.address, login, PATIENCE).await
    };
    let user = account.user();
    let mut forged = user.jwt.clone();
    forged.replace_range(forged.len() - 8.., "AAAAAAAA");
    let (good, bad) = (Login::jwt(&user.jwt, &user.key), Login::jwt(&forged, &user.key));
    // Ten at a time: weir forgives five per second.
    for _ in 0..15 {
        let attempts = futures::future::join_all((0..10).map(|_| from("192.0.2.66", &bad))).await;
        assert!(attempts.iter().all(|attempt| attempt.refusal().is_some()));
    }
    let mut inside = Vec::new();
    for _ in 0..3 {
        inside.push(from("192.0.2.1", &good).await.expect_in());
        assert!(from("192.0.2.66", &bad).await.refusal().is_some());
    }
    let waits = |metrics: &metrics::Metrics| metrics.sum_where("weir_refused_total", "reason", "source_rate") > 0.0;
    let metrics = weir.until("the source waits", waits).await;
    assert!(metrics.sum_where("weir_bad_logins_by_source_total", "source", "192.0.2.66") >= 100.0);
    drop(inside);
    weir.assert_nothing_leaked().await;
}
