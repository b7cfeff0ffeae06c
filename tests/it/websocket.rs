//! WebSocket clients: frames, close codes and refusals are the same as at nats-server's own WebSocket listener.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use weir_testkit::operator::Operator;
use weir_testkit::tls::{Authority, pair};
use weir_testkit::websocket::*;
use weir_testkit::*;

const SHORT: Duration = Duration::from_millis(200);
const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
const BROWSER: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36\r\n";

/// weir in front of a server, with a WebSocket listener with these settings.
async fn before(server: &NatsServer, websocket: &str) -> Weir {
    config(server, websocket).start().await
}

fn config(server: &NatsServer, websocket: &str) -> WeirConfig {
    let listener = format!("kind = \"websocket\"\nhandshake_timeout = \"30s\"\n[listeners.websocket]\n{websocket}");
    WeirConfig::of_servers(&[server]).listener(&listener).cluster("reserve = 0")
}

/// A server that has a WebSocket listener itself, and the address of that listener.
async fn with_websocket(websocket: &str) -> (NatsServer, String) {
    let port = ports::free();
    let own = format!("websocket {{ listen: \"127.0.0.1:{port}\", no_tls: true, {websocket} }}");
    (NatsServer::start(ServerOptions::default().with(&own)).await, format!("127.0.0.1:{port}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_sees() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = before(&server, "").await;
    let (mut client, info) = WsClient::greeted(&weir.address, "").await;
    assert_eq!((&info["connect_urls"], &info["ws_connect_urls"]), (&Value::Null, &Value::Null));
    assert_eq!(info["port"].to_string(), weir.address.rsplit(':').next().unwrap(), "the listener's own");
    assert!(client.is_silent(SHORT).await, "nothing behind INFO before CONNECT");

    // weir accepts text and binary messages, whole or in fragments, with control frames between the fragments.
    let connect = Login::nobody().connect_line();
    let (one, two) = connect.as_bytes().split_at(20);
    client.send(TEXT, false, false, one).await.unwrap();
    client.send(PING, true, false, b"still there?").await.unwrap();
    let pong = client.frame().await.unwrap();
    assert_eq!((pong.header.opcode, &pong.payload[..]), (PONG, &b"still there?"[..]));
    client.send(CONTINUE, false, false, b"").await.unwrap();
    client.send(CONTINUE, true, false, two).await.unwrap();
    client.say(b"PING\r\n").await;
    // PONG and INFO come in one frame, or in two if the server's PONG came before the client's PING.
    let mut welcome = client.frame().await.unwrap().payload;
    if welcome == b"PONG\r\n" {
        welcome.extend_from_slice(&client.frame().await.unwrap().payload);
    }
    assert!(welcome.starts_with(b"PONG\r\nINFO "), "{welcome:?}");
    client.say(b"SUB a 1\r\nPUB a 5\r\nhe").await;
    client.say(b"llo\r\nPING\r\n").await;
    assert_eq!(client.exactly(24).await, b"MSG a 1 5\r\nhello\r\nPONG\r\n"[..24]);

    // The client closes; its own close code comes back, and then the end of the stream.
    client.send(CLOSE, true, false, b"\x03\xe8bye").await.unwrap();
    assert_eq!(client.rest().await, (String::new(), Some((1000, "bye".into()))));
    server.settles_at(0).await;
    let closed = "weir_closed_total{party=\"downstream\",phase=\"relay\",reason=\"eof\"}";
    weir.until("it is counted", |metrics| metrics.get(closed) == Some(1.0)).await;
    weir.assert_nothing_leaked().await;
}

/// The same messages of 1 MiB in both directions, with every framing: in one frame, in many frames, compressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_pass_in_pieces() {
    let server = NatsServer::start(ServerOptions::default().with("max_payload: 1048576")).await;
    let weir = before(&server, "compression = true").await;
    let random: Vec<u8> = (0..1 << 20).map(|_| fastrand::u8(..)).collect();
    let text = b"all work and no play ".repeat((1 << 20) / 21);
    for (more, compressed, small) in [("", false, false), (BROWSER, false, true), (DEFLATE, true, false)] {
        let more = if small {
            format!("{more}{DEFLATE}").replace(if compressed { "" } else { DEFLATE }, "")
        } else {
            more.into()
        };
        let mut client = WsClient::connect(&weir.address, &more, &Login::nobody()).await;
        client.say(b"SUB big 1\r\n").await;
        client.line().await; // the INFO after PONG
        for payload in [&random, &text] {
            let message = [format!("PUB big {}\r\n", payload.len()).as_bytes(), payload, b"\r\n"].concat();
            if compressed {
                client.say_deflated(&message).await;
            } else {
                client.say(&message).await;
            }
            assert_eq!(client.line().await, format!("MSG big 1 {}", payload.len()));
            assert!(client.exactly(payload.len() + 2).await[..payload.len()] == payload[..], "it arrives as it was");
        }
    }
    let mut browser = WsClient::connect(&weir.address, BROWSER, &Login::nobody()).await;
    browser.say(b"SUB big 1\r\nPUB big 40000\r\n").await;
    browser.say(&[b'x'; 40_000]).await;
    browser.say(b"\r\n").await;
    let mut seen = 0;
    while seen < 40_000 {
        let frame = browser.frame().await.unwrap();
        assert!(frame.payload.len() <= 4096, "browsers get small frames");
        seen += frame.payload.len();
    }
    drop(browser);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_only_where_it_is_agreed_upon() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let (off, on) = (before(&server, "").await, before(&server, "compression = true").await);
    let (_, answer) = WsClient::ask(&off.address, &request("/", DEFLATE)).await.unwrap();
    assert_eq!((answer.status, answer.header("Sec-WebSocket-Extensions")), (101, None));
    let (_, answer) = WsClient::ask(&on.address, &request("/", "")).await.unwrap();
    assert_eq!(answer.header("Sec-WebSocket-Extensions"), None);

    let (mut client, answer) = WsClient::ask(&on.address, &request("/", DEFLATE)).await.unwrap();
    let agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    assert_eq!(answer.header("Sec-WebSocket-Extensions"), Some(agreed));
    assert_eq!(client.message().await, (1, true), "INFO is worth compressing");
    client.say_deflated(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await;
    let info = client.line().await;
    assert!(info.starts_with("INFO {"), "{info}");
    assert_eq!(client.line().await, "PONG");
    client.line().await;
    client.say(b"PING\r\n").await;
    assert_eq!(client.message().await, (1, false), "a PONG is not");

    // A decompression bomb is refused at the same length as an uncompressed CONNECT, and costs no memory.
    let before = on.rss();
    let mut bomb = WsClient::open(&on.address, DEFLATE).await;
    bomb.say_deflated(&[&b"CONNECT {"[..], &vec![b' '; 32 << 20]].concat()).await;
    let (said, closing) = bomb.rest().await;
    assert!(said.ends_with("-ERR 'maximum control line exceeded'\r\n"), "{said}");
    assert_eq!(closing.unwrap().0, 1008);
    assert!(on.rss() < before + (8 << 20), "{} bytes more", on.rss() - before);
    drop(client);
    on.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_need_no_mask_where_the_client_asks_so() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = before(&server, "").await;
    let asked = request("/", "Nats-No-Masking: true\r\n");
    let (mut client, answer) = WsClient::ask(&weir.address, &asked).await.unwrap();
    assert_eq!((answer.status, answer.header("Nats-No-Masking")), (101, Some("true")));
    client.masks = false;
    client.say(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await;
    assert!(client.line().await.starts_with("INFO"));
    assert_eq!(client.line().await, "PONG");
}

/// Requests, protocol violations and closes: weir answers as nats-server answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weir_says_what_nats_server_says() {
    let (server, own) = with_websocket("compression: true, same_origin: true").await;
    let weir = before(&server, "compression = true\nsame_origin = true").await;
    let good = request("/", "");
    let requests = [
        good.clone(),
        request("/any/path?a=b", ""),
        request("/mqtt", ""),
        good.replace("GET", "POST"),
        good.replace("Upgrade: websocket\r\n", ""),
        good.replace("Connection: Upgrade\r\n", "Connection: close\r\n"),
        good.replace("Version: 13", "Version: 8"),
        good.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"),
        good.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
        request("/", "Origin: http://nats.example\r\n"),
        request("/", "Origin: https://nats.example\r\n"),
        request("/", "Origin: http://evil.example\r\n"),
        request("/", "Origin: null\r\n"),
        request("/", DEFLATE),
        request("/", "Nats-No-Masking: true\r\n"),
    ];
    for asked in &requests {
        let (_, theirs) = WsClient::ask(&own, asked).await.unwrap();
        let (_, ours) = WsClient::ask(&weir.address, asked).await.unwrap();
        assert_eq!(ours.status, theirs.status, "{asked}\n{theirs:?}");
        for name in ["Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions", "Nats-No-Masking"] {
            if ours.status == 101 {
                assert_eq!(ours.header(name), theirs.header(name), "{asked}");
            }
        }
        if ours.status != 101 {
            assert_eq!(ours.header("Sec-Websocket-Version"), theirs.header("Sec-Websocket-Version"));
            assert!(ours.body.starts_with(theirs.body.trim_end()), "{ours:?}, {theirs:?}");
        }
    }

    // The same for connected clients: protocol violations and closes.
    let misdeeds: [(&str, Vec<u8>); 11] = [
        ("no mask", vec![0x82, 0x06, b'P', b'I', b'N', b'G', b'\r', b'\n']),
        ("reserved bits", vec![0xa2, 0x80, 1, 2, 3, 4]),
        ("unknown opcode", vec![0x83, 0x80, 1, 2, 3, 4]),
        ("continuation of nothing", vec![0x80, 0x80, 1, 2, 3, 4]),
        ("compressed, not agreed", vec![0xc2, 0x80, 1, 2, 3, 4]),
        ("long control frame", [&[0x89, 0xfe, 0, 126, 0, 0, 0, 0][..], &[0; 126]].concat()),
        ("split control frame", vec![0x09, 0x80, 1, 2, 3, 4]),
        ("close with one byte", vec![0x88, 0x81, 0, 0, 0, 0, 3]),
        ("close with a bad code", vec![0x88, 0x82, 0, 0, 0, 0, 3, 0xee]),
        ("close with a code", vec![0x88, 0x82, 0, 0, 0, 0, 3, 0xe9]),
        ("close without one", vec![0x88, 0x80, 0, 0, 0, 0]),
    ];
    let mut compared = 0;
    for (what, bytes) in misdeeds {
        let mut said = Vec::new();
        for address in [&own, &weir.address] {
            let mut client = WsClient::connect(address, "", &Login::nobody()).await;
            client.line().await;
            client.raw(&bytes).await.unwrap();
            said.push(client.rest().await.1);
        }
        assert!(said[1].is_some(), "{what}");
        // nats-server may close the connection before its close frame has been sent.
        if let (Some((theirs, words)), Some((code, text))) = (&said[0], &said[1]) {
            // nats-server's text also names the invalid status code.
            assert!(code == theirs && words.starts_with(text.as_str()), "{what}: {said:?}");
            compared += 1;
        }
    }
    say(&format!("{compared} of 11 misdeeds met with a word of nats-server's"));
    assert!(compared > 0);
    for words in [&b"NONSENSE\r\n"[..], b"PUB a 9999999\r\n"] {
        let mut said = Vec::new();
        for address in [&own, &weir.address] {
            let mut client = WsClient::connect(address, "", &Login::nobody()).await;
            client.line().await;
            client.say(words).await;
            said.push(client.rest().await);
        }
        let [(their_words, their_close), (words, close)] = &said[..] else { panic!("{said:?}") };
        assert!(!words.is_empty() && words.starts_with(&**their_words), "{said:?}");
        assert!(close.is_some() && (their_close.is_none() || close == their_close), "{said:?}");
    }
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_got_as_far_is_refused_in_nats() {
    let server = NatsServer::start(ServerOptions::default().max_connections(1)).await;
    let config = config(&server, "");
    let weir =
        config.admission("rate = 20000\nburst = 20000\nmax_hold = \"300ms\"\nrefusal_spread = \"100ms\"\n[admission.max_hold_by_lang]\npatient = \"19s\"").start().await;
    let first = WsClient::connect(&weir.address, "", &Login::nobody().lang("patient")).await;
    let (mut second, _) = WsClient::greeted(&weir.address, "").await;
    second.say(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await;
    let refused = second.rest().await;
    let text = "-ERR 'maximum connections exceeded'\r\n".to_owned();
    assert_eq!(refused, (text, Some((1008, "Maximum Connections Exceeded".into()))));
    drop(first);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_did_not_is_refused_in_http() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let listener = "kind = \"websocket\"\nhandshake_timeout = \"30s\"\nmax_clients = 1";
    let mut weir = WeirConfig::of_servers(&[&server])
        .top("workers = 1\nlame_duck_new_clients = \"refuse\"\nlame_duck_grace_period = \"15s\"")
        .listener(listener)
        .start()
        .await;
    let mut first = WsClient::connect(&weir.address, "", &Login::nobody()).await;
    first.line().await;
    let (_, full) = WsClient::ask(&weir.address, &request("/", "")).await.unwrap();
    assert_eq!((full.status, full.header("Retry-After")), (503, Some("2")), "{full:?}");
    assert_eq!(full.body, "Service Unavailable: maximum connections exceeded\n");
    let why = "weir_refused_total{reason=\"listener_full\"}";
    let metrics = weir.until("it is counted", |metrics| metrics.get(why) == Some(1.0)).await;
    assert_eq!(metrics.sum("weir_refused_total"), 1.0, "once");

    weir.signal(Signal::TERM);
    eventually(PATIENCE, "it drains", async || match weir.health().await {
        503 => Ok(()),
        other => Err(other),
    })
    .await;
    let (_, draining) = WsClient::ask(&weir.address, &request("/", "")).await.unwrap();
    assert_eq!(draining.status, 503);
    let (said, closing) = first.rest().await;
    // The server may have sent its first PING in the meantime.
    assert_eq!(said.replace("PING\r\n", ""), "", "plain, to come back");
    assert_eq!(closing, Some((1001, "Server Shutdown".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_is_told() {
    let mut server = NatsServer::start(ServerOptions::default()).await;
    let weir = before(&server, "").await;
    let mut client = WsClient::connect(&weir.address, "", &Login::nobody()).await;
    client.line().await;
    server.kill9();
    assert_eq!(client.rest().await, (String::new(), Some((1001, "Server Shutdown".into()))));
    weir.until("it is closed", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_and_a_probe() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let listener = "kind = \"websocket\"\nhandshake_timeout = \"3s\"";
    let weir = WeirConfig::of_servers(&[&server]).listener(listener).start().await;
    drop(tokio::net::TcpStream::connect(&weir.address).await.unwrap());
    weir.until("a probe is one", |metrics| metrics.get("weir_probes_total") == Some(1.0)).await;
    let (_, late) = WsClient::ask(&weir.address, "GET / HTTP/1.1\r\nHost: a\r\n").await.unwrap();
    assert_eq!(late.status, 408);
    let (mut client, _) = WsClient::greeted(&weir.address, "").await;
    assert_eq!(client.rest().await, ("-ERR 'Stale Connection'\r\n".into(), Some((1001, "Stale Connection".into()))));
    drop(client);
    let late = "weir_refused_total{reason=\"handshake_timeout\"}";
    weir.until("both are counted", |metrics| metrics.get(late) == Some(2.0)).await;
    let (_, wrong) = WsClient::ask(&weir.address, "NATS? no\r\n\r\n").await.unwrap();
    assert_eq!(wrong.status, 400);
    let wrong = "weir_refused_total{reason=\"protocol\"}";
    weir.until("it is counted", |metrics| metrics.get(wrong) == Some(1.0)).await;
    weir.assert_nothing_leaked().await;
}

/// Credentials in CONNECT take precedence, and cookies fill in what is missing, as in nats-server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_come_in_cookies() {
    let outcome = async |address: &str, cookie: &str, login: Login| {
        let (mut client, info) = WsClient::greeted(address, &format!("Cookie: {cookie}\r\n")).await;
        client.say(format!("{}PING\r\n", login.answering(&info).connect_line()).as_bytes()).await;
        client.line().await
    };
    const IN: &str = "PONG";
    const OUT: &str = "-ERR 'Authorization Violation'";

    let port = ports::free();
    let own = format!("websocket {{ listen: \"127.0.0.1:{port}\", no_tls: true, user_cookie: u, pass_cookie: p }}");
    let server =
        NatsServer::start(ServerOptions::default().with(&own).with("authorization { user: ann, password: s3cret }"))
            .await;
    let weir = before(&server, "user_cookie = \"u\"\npass_cookie = \"p\"").await;
    let cases = [
        ("u=ann; p=s3cret", Login::nobody(), IN),
        ("u=ann; p=wrong", Login::nobody(), OUT),
        ("x=y", Login::nobody(), OUT),
        ("u=bob; p=wrong", Login::user("ann", "s3cret"), IN),
        ("u=ann; p=s3cret", Login::user("ann", "wrong"), OUT),
        ("p=s3cret", Login::nobody().with("user", "ann".into()), IN),
    ];
    for (cookie, login, expected) in cases {
        let theirs = outcome(&format!("127.0.0.1:{port}"), cookie, login.clone()).await;
        let ours = outcome(&weir.address, cookie, login).await;
        assert_eq!((&*ours, &*theirs), (expected, expected), "{cookie}");
    }
    assert!(!weir.log().contains("s3cret"));

    let server = NatsServer::start(ServerOptions::default().with("authorization { token: t0ken }")).await;
    let weir = before(&server, "token_cookie = \"t\"").await;
    assert_eq!(outcome(&weir.address, "t=t0ken", Login::nobody()).await, IN);
    assert_eq!(outcome(&weir.address, "t=wrong", Login::nobody()).await, OUT);

    // A bearer JWT in a cookie, with servers that send a nonce.
    let operator = Operator::with_accounts([-1]);
    let server = NatsServer::start(ServerOptions::default().with(&operator.server_config())).await;
    let weir = before(&server, "jwt_cookie = \"jwt\"").await;
    let (bearer, signer) = (operator.account(0).bearer(), operator.account(0).user());
    assert_eq!(outcome(&weir.address, &format!("jwt={}", bearer.jwt), Login::nobody()).await, IN);
    assert_eq!(outcome(&weir.address, "jwt=nonsense", Login::jwt(&signer.jwt, &signer.key)).await, IN);
    assert_eq!(outcome(&weir.address, "jwt=nonsense", Login::nobody()).await, OUT);
    assert!(!weir.log().contains(&bearer.jwt));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_behind_a_proxy_that_is_believed() {
    let server = NatsServer::start(ServerOptions::default().with("proxy_protocol: true")).await;
    let ip = async |weir: &Weir, header: &str| {
        let (_, info) = WsClient::greeted(&weir.address, header).await;
        info["client_ip"].as_str().unwrap().to_owned()
    };
    const HEADER: &str = "X-Forwarded-For: 198.51.100.9, 192.0.2.7\r\n";
    let weir = config(&server, "").cluster("proxy_protocol = true").start().await;
    assert_eq!(ip(&weir, HEADER).await, "127.0.0.1", "nobody is believed");
    let weir =
        config(&server, "accept_forwarded_from = [\"127.0.0.1\"]").cluster("proxy_protocol = true").start().await;
    assert_eq!(ip(&weir, HEADER).await, "192.0.2.7");
    assert_eq!(ip(&weir, "").await, "127.0.0.1");
    // The server learns this address too.
    let _client = WsClient::connect(&weir.address, HEADER, &Login::nobody()).await;
    server.settles_at(1).await; // weir's own dials come and go
    let connz = server.monitoring("/connz").await.unwrap();
    assert_eq!(connz["connections"][0]["ip"], "192.0.2.7", "{connz}");
}

/// A client that does not read costs a bounded amount of memory, even if it sends thousands of pings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_no_burden() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = before(&server, "compression = true").await;
    let mut deaf = WsClient::connect(&weir.address, "", &Login::nobody()).await;
    deaf.say(b"SUB flood 1\r\nPING\r\n").await;
    while deaf.line().await != "PONG" {}
    let before = weir.rss();
    let mut loud = WsClient::connect(&weir.address, "", &Login::nobody()).await;
    let message = [b"PUB flood 65536\r\n", &[b'x'; 65_536][..], b"\r\n"].concat();
    for _ in 0..400 {
        loud.say(&message).await;
    }
    let mut pings = Vec::new();
    for _ in 0..20_000 {
        frame(PING, true, false, true, &[7; 125], &mut pings);
    }
    deaf.raw(&pings).await.unwrap();
    loud.say(b"PING\r\n").await;
    while loud.line().await != "PONG" {}
    let grown = weir.rss().saturating_sub(before);
    assert!(grown < 6 << 20, "{grown} bytes");
    // When the client reads, it gets everything, in order.
    for _ in 0..400 {
        loop {
            let frame = deaf.frame().await.unwrap();
            if frame.header.opcode == BINARY {
                deaf.bytes.extend(frame.payload);
            }
            let question = if deaf.bytes.starts_with(b"PING\r\n") { 6 } else { 0 }; // the server's own
            deaf.bytes.drain(..question);
            if deaf.bytes.len() >= 21 + 65_538 {
                break;
            }
        }
        let head: Vec<u8> = deaf.bytes.drain(..21).collect();
        assert_eq!(String::from_utf8_lossy(&head), "MSG flood 1 65536\r\nxx");
        deaf.bytes.drain(..65_536);
    }
}

/// nats-server sends its WebSocket addresses to a WebSocket client in `connect_urls`. It sends `ws_connect_urls` only
/// to other servers. nats.js reads only `connect_urls`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn advertised_addresses_come_as_nats_server_sends_them() {
    nats::at_least(2, 12); // since 2.12 a server sends INFO after the first PONG
    let own = [ports::free(), ports::free()].map(|port| format!("127.0.0.1:{port}"));
    let next = std::sync::atomic::AtomicUsize::new(0);
    let cluster = Cluster::start(2, |server| {
        let own = &own[next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)];
        server.with(&format!("websocket {{ listen: \"{own}\", no_tls: true }}"))
    })
    .await;
    let urls = async |address: &str| {
        let (mut client, first) = WsClient::greeted(address, "").await;
        client.say(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await;
        assert_eq!(client.line().await, "PONG");
        let second = client.line().await;
        let second = serde_json::from_str(second.strip_prefix("INFO ").expect("INFO behind PONG")).unwrap();
        [first, second].map(|info: Value| {
            let urls = info["connect_urls"].as_array().into_iter().flatten();
            let mut urls: Vec<_> = urls.map(|url| url.as_str().expect("text").to_owned()).collect();
            urls.sort();
            (urls, info["ws_connect_urls"].clone())
        })
    };
    for (connect_urls, ws_connect_urls) in urls(&own[0]).await {
        // nats-server 2.15.1 may miss the address of the other server, even for good: where both make a route to the
        // other at once, it forgets the address with the route that it closes. So the other's is not asked for.
        assert!(connect_urls.contains(&own[0]), "what nats-server does: {connect_urls:?} of {own:?}");
        assert!(connect_urls.iter().all(|url| own.contains(url)), "what nats-server does: {connect_urls:?} of {own:?}");
        assert_eq!(ws_connect_urls, Value::Null, "what nats-server does");
    }

    let listener = "kind = \"websocket\"\nhandshake_timeout = \"30s\"\nadvertise = [\"nats.example.com:443\"]";
    let weir = WeirConfig::of(&cluster).listener(listener).start().await;
    let ours = (vec!["nats.example.com:443".to_owned()], Value::Null);
    assert_eq!(urls(&weir.address).await, [ours.clone(), ours]);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn async_nats_over_websocket() {
    use futures::StreamExt;
    let server = NatsServer::start(ServerOptions::default().jetstream()).await;
    let weir = before(&server, "").await;
    let connect =
        || async_nats::ConnectOptions::new().connection_timeout(PATIENCE).connect(format!("ws://{}", weir.address));
    let (one, two) = (connect().await.unwrap(), connect().await.unwrap());
    let mut subscriber = one.subscribe("a.*").await.unwrap();
    seen_by_server(&one).await;
    let large = vec![b'x'; 900_000];
    for n in 0..20 {
        two.publish(format!("a.{n}"), large.clone().into()).await.unwrap();
    }
    for n in 0..20 {
        let message = tokio::time::timeout(PATIENCE, subscriber.next()).await.unwrap().unwrap();
        assert_eq!((&*message.subject, message.payload.len()), (&*format!("a.{n}"), large.len()));
    }
    let js = async_nats::jetstream::new(two);
    let stream =
        async_nats::jetstream::stream::Config { name: "S".into(), subjects: vec!["s".into()], ..Default::default() };
    eventually(PATIENCE, "a stream", async || js.get_or_create_stream(stream.clone()).await).await;
    for n in 1..=20 {
        assert_eq!(js.publish("s", "x".into()).await.unwrap().await.unwrap().sequence, n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_over_tls() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("weir", &["nats.example", "localhost"]);
    let server = NatsServer::start(ServerOptions::default()).await;
    let tables = format!(
        "kind = \"websocket\"\nhandshake_timeout = \"30s\"\nmax_clients = 2\n[listeners.websocket]\nsame_origin = true\n\
         compression = true\n[listeners.tls]\n{}",
        pair(&own)
    );
    let weir = WeirConfig::of_servers(&[&server]).top("workers = 1").listener(&tables).start().await;
    let ask = async |request: String| {
        let tcp = tokio::net::TcpStream::connect(&weir.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(authority.client(None));
        let tls = connector.connect("nats.example".try_into().unwrap(), tcp).await.unwrap();
        WsClient::ask_over(Box::new(tls), &request).await.unwrap()
    };
    let (_, plain) = ask(request("/", "Origin: http://nats.example\r\n")).await;
    assert_eq!(plain.status, 403, "another scheme is another origin");
    let (mut client, answer) = ask(request("/", &format!("Origin: https://nats.example\r\n{DEFLATE}"))).await;
    assert_eq!(answer.status, 101);
    assert_eq!(client.info().await["tls_required"], true);
    client.say(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await;
    assert_eq!(client.line().await, "PONG");
    client.line().await;
    let payload = b"all work and no play ".repeat(40_000);
    client.say(b"SUB a 1\r\n").await;
    client.say_deflated(&[format!("PUB a {}\r\n", payload.len()).as_bytes(), &payload, b"\r\n"].concat()).await;
    client.line().await;
    assert!(client.exactly(payload.len() + 2).await.starts_with(&payload));

    // A client library over wss. It fills the listener, which then refuses the next client.
    let options = async_nats::ConnectOptions::new().connection_timeout(PATIENCE).add_root_certificates(authority.ca());
    let library = options.connect(format!("wss://localhost:{}", weir.port())).await.unwrap();
    seen_by_server(&library).await;
    let (_, full) = ask(request("/", "")).await;
    assert_eq!((full.status, full.header("Retry-After")), (503, Some("2")));
    client.send(CLOSE, true, false, b"\x03\xe8").await.unwrap();
    assert_eq!(client.rest().await.1, Some((1000, String::new())), "and the goodbye of TLS, or reading fails");
    // weir also gives up the connection of a client that does not close its end, after a short wait.
    drop(library);
    server.settles_at(0).await;
    weir.assert_nothing_leaked().await;
    drop(client);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn further_headers_and_pings() {
    let (server, direct) = with_websocket("headers: { X-Frame-Options: \"DENY\" }").await;
    let more = "ping_interval = \"1s\"\n[listeners.websocket.headers]\nX-Frame-Options = \"DENY\"";
    let weir = before(&server, more).await;
    for address in [&direct, &weir.address] {
        let (_, answer) = WsClient::ask(address, &request("/", "")).await.unwrap();
        assert_eq!((answer.status, answer.header("X-Frame-Options")), (101, Some("DENY")), "{answer:?}");
    }
    let mut client = WsClient::connect(&weir.address, "", &Login::nobody()).await;
    for _ in 0..2 {
        // What the server has to say comes in between.
        loop {
            let frame = tokio::time::timeout(PATIENCE, client.frame()).await.expect("a ping").unwrap();
            if frame.header.opcode == PING {
                assert_eq!(frame.payload, b"");
                break;
            }
        }
        client.send(PONG, true, false, b"").await.unwrap();
    }
    drop(client);
    weir.assert_nothing_leaked().await;
}

/// Plain HTTP where HTTPS is spoken reads the same as at a nats-server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_where_https_is_spoken_gets_an_answer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let authority = Authority::new("weir tests");
    let own = authority.issue("weir", &["localhost"]);
    let port = ports::free();
    let tls = format!("tls {{ cert_file: {:?}, key_file: {:?} }}", own.cert, own.key);
    let websocket = format!("websocket {{ listen: \"127.0.0.1:{port}\", {tls} }}");
    let server = NatsServer::start(ServerOptions::default().with(&websocket)).await;
    let listener = format!("kind = \"websocket\"\n[listeners.tls]\n{}", pair(&own));
    let weir = WeirConfig::of_servers(&[&server]).listener(&listener).start().await;
    for asked in [request("/", ""), "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()] {
        let mut answers = Vec::new();
        for address in [&format!("127.0.0.1:{port}"), &weir.address] {
            let mut http = tokio::net::TcpStream::connect(address).await.unwrap();
            http.write_all(asked.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // nats-server closes with the request unread, which is a reset behind its words.
            let _ = tokio::time::timeout(PATIENCE, http.read_to_end(&mut answer)).await.expect("an end");
            answers.push(String::from_utf8(answer).unwrap());
        }
        assert!(answers[0].starts_with("HTTP/1.0 400 Bad Request"), "{answers:?}");
        assert_eq!(answers[0], answers[1]);
    }
    let attempt = RawClient::attempt(&weir.address, &Login::nobody(), SHORT).await;
    assert!(!matches!(attempt, Attempt::In(_)), "{attempt:?}");
}
