//! Clients that never send CONNECT: nats-server serves them where no login is required, and as its `no_auth_user`.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weir_testkit::websocket::WsClient;
use weir_testkit::*;

const NO_AUTH_USER: &str = "accounts { A: { users: [{user: a, password: p}] }, B: { users: [{user: b, password: p}] } }\n\
                            no_auth_user: a";
const USERS: &str = "authorization { timeout: 30, users: [{user: a, password: p}] }";

/// A socket that has read INFO, and nothing behind it.
async fn greeted(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let mut info = Vec::new();
    while !info.ends_with(b"\r\n") {
        let n = timeout(PATIENCE, stream.read_buf(&mut info)).await.expect("INFO in time").expect("INFO");
        assert!(n > 0, "the end before INFO");
    }
    assert!(info.starts_with(b"INFO "));
    stream
}

/// Waits for no PONG, but for the end of the connection.
const TO_THE_END: usize = usize::MAX;

/// What is answered: until the end, or until so many PONGs have come and then as long as it goes on.
async fn answered(stream: &mut TcpStream, pongs: usize) -> String {
    let mut read = Vec::new();
    loop {
        let are_there = read.windows(6).filter(|bytes| bytes == b"PONG\r\n").count() >= pongs;
        let wait = if are_there { Duration::from_millis(200) } else { PATIENCE };
        match timeout(wait, stream.read_buf(&mut read)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => read.extend_from_slice(b"<end>"),
            Err(_) if are_there => return String::from_utf8_lossy(&read).into_owned(),
            Err(_) => panic!("only {:?}", String::from_utf8_lossy(&read)),
        }
        if read.ends_with(b"<end>") {
            return String::from_utf8_lossy(&read).into_owned();
        }
    }
}

/// The answers to these bytes, which come in two pieces.
async fn talk(address: &str, script: &[u8], cut: usize, pongs: usize) -> String {
    let mut stream = greeted(address).await;
    let (first, second) = script.split_at(cut.min(script.len()));
    stream.write_all(first).await.unwrap();
    if !second.is_empty() {
        // In another packet, in most runs.
        tokio::task::yield_now().await;
        stream.write_all(second).await.unwrap();
    }
    answered(&mut stream, pongs).await
}

/// The transcripts of clients without CONNECT, at the server and through weir.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_operation_is_answered_as_by_the_server() {
    let scripts: [&[u8]; 9] = [
        b"PING\r\n",
        b"SUB foo 1\r\nPUB foo 2\r\nhi\r\nPING\r\n",
        b"pub foo 2\r\nhi\r\nping\r\n",
        b"PONG\r\nPING\r\n",
        b"UNSUB 1\r\nPING\r\n",
        b"SUB foo.*.bar 1\nPING\n",
        b"HPUB foo 12 14\r\nNATS/1.0\r\n\r\nhi\r\nPING\r\n",
        b"PUB\r\nPING\r\n",
        // Its options count from then on.
        b"PING\r\nCONNECT {\"verbose\":false}\r\nSUB foo 1\r\nPING\r\n",
    ];
    for extra in ["", NO_AUTH_USER, USERS] {
        let server = NatsServer::start(ServerOptions::default().with(extra)).await;
        let weir = WeirConfig::of_servers(&[&server]).start().await;
        for script in scripts {
            let shown = String::from_utf8_lossy(script);
            let pongs = shown.lines().filter(|line| line.eq_ignore_ascii_case("PING")).count();
            let direct = talk(&server.address, script, script.len(), pongs).await;
            for cut in [script.len(), 1, 4, 5] {
                let through = talk(&weir.address, script, cut, pongs).await;
                assert_eq!(through, direct, "{shown:?} cut at {cut}, with {extra:?}");
            }
        }
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_counts_for_the_account_of_the_no_auth_user() {
    let server = NatsServer::start(ServerOptions::default().with(NO_AUTH_USER)).await;
    let weir = WeirConfig::of_servers(&[&server]).account("A", "max_connections = 2").start().await;
    let mut stay = Vec::new();
    for _ in 0..2 {
        let mut stream = greeted(&weir.address).await;
        stream.write_all(b"PING\r\n").await.unwrap();
        assert_eq!(answered(&mut stream, 1).await, "PONG\r\n");
        stay.push(stream);
    }
    let in_a = |metrics: &metrics::Metrics| metrics.get("weir_account_connections{account=\"A\"}") == Some(2.0);
    weir.until("weir knows that both are in A", in_a).await;
    let third = talk(&weir.address, b"PING\r\n", 6, TO_THE_END).await;
    assert_eq!(third, "-ERR 'maximum account active connections exceeded'\r\n<end>");
    // Somebody else is not concerned.
    RawClient::connect(&weir.address, &Login::user("b", "p")).await.round_trip().await.unwrap();
    drop(stay);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_websocket_it_is_the_same() {
    let server = NatsServer::start(ServerOptions::default().with(NO_AUTH_USER)).await;
    let weir = WeirConfig::of_servers(&[&server]).listener("kind = \"websocket\"").start().await;
    let (mut client, _) = WsClient::greeted(&weir.address, "").await;
    client.say(b"PING\r\n").await;
    assert_eq!(client.line().await, "PONG");
    client.say(b"SUB foo 1\r\nPUB foo 2\r\nhi\r\n").await;
    assert_eq!(client.exactly(10).await, b"+OK\r\n+OK\r\n");
    assert_eq!(client.line().await, "MSG foo 1 2");
    drop(client);
    weir.assert_nothing_leaked().await;
}

/// What cannot be an operation takes no place on a server. Scanners and probes of other protocols speak like this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocols_reach_no_server() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    weir.says("server found").await; // its own dial is over
    let before = server.total_connections().await;
    for script in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"HEAD / HTTP/1.0\r\n",
        b"POST / HTTP/1.1\r\n",
        b"PUT /",
        b"PRI * HTTP/2.0\r\n",
        b"SSH-2.0-x\r\n",
        b"USER x\r\n",
        b"\r\n",
        b"\x16\x03\x01",
        b"PUBLISH a\r\n",
        b"PROXY TCP4",
    ] {
        let said = talk(&weir.address, script, script.len(), TO_THE_END).await;
        assert_eq!(said, "-ERR 'Unknown Protocol Operation'\r\n<end>", "{}", String::from_utf8_lossy(script));
    }
    // It opens, and closes without a word.
    drop(greeted(&weir.address).await);
    weir.until("it is counted", |metrics| metrics.sum("weir_probes_total") == 1.0).await;
    assert_eq!(server.total_connections().await, before);
    weir.assert_nothing_leaked().await;
}

/// Where no login is required nats-server has no timer for CONNECT: somebody who types, or a slow device, has time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_ends_only_where_a_login_is_required() {
    let server = NatsServer::start(ServerOptions::default().default_timeouts()).await;
    let weir = WeirConfig::of_servers(&[&server]).default_settings().start().await;
    let (mut silent, mut slow) = (greeted(&weir.address).await, greeted(&weir.address).await);
    slow.write_all(b"CONNECT {").await.unwrap();
    // nats-server's auth_timeout, and so weir's time for CONNECT where a login is required, is 2 s.
    let nothing = timeout(Duration::from_millis(2500), silent.read_u8()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    server.settles_at(0).await; // it takes no place on a server
    silent.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(answered(&mut silent, 1).await, "PONG\r\n");
    slow.write_all(b"\"verbose\":false}\r\nPING\r\n").await.unwrap();
    assert_eq!(answered(&mut slow, 1).await, "PONG\r\n");
    drop((silent, slow));
    weir.assert_nothing_leaked().await;
    drop(weir);

    let users = "authorization { users: [{user: a, password: p}] }";
    let server = NatsServer::start(ServerOptions::default().default_timeouts().with(users)).await;
    let weir = WeirConfig::of_servers(&[&server]).default_settings().start().await;
    assert_eq!(talk(&weir.address, b"", 0, TO_THE_END).await, "-ERR 'Stale Connection'\r\n<end>");
    assert_eq!(talk(&weir.address, b"PI", 2, TO_THE_END).await, "-ERR 'Stale Connection'\r\n<end>");
    weir.assert_nothing_leaked().await;
}
