//! Clients over WebSocket are connected to the servers' WebSocket ports, so that the servers judge them as such.

use nkeys::KeyPair;
use rustix::process::Signal;
use weir_testkit::operator::Operator;
use weir_testkit::tls::Authority;
use weir_testkit::websocket::*;
use weir_testkit::*;

const VIOLATION: &str = "-ERR 'Authorization Violation'";
const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

/// Two listeners: one for plain clients, one for clients over WebSocket.
const BOTH: &str = "handshake_timeout = \"30s\"\n[[listeners]]\nlisten = \"127.0.0.1:0\"\nkind = \"websocket\"\n\
                    handshake_timeout = \"30s\"\n[listeners.websocket]\ncompression = true";

/// A server with a WebSocket port, and that port's address.
struct Server {
    server: NatsServer,
    websocket: String,
}

impl Server {
    async fn start(name: &str, websocket: &str, extra: &str) -> Self {
        let port = ports::free();
        let own = format!("websocket {{ listen: \"127.0.0.1:{port}\", no_tls: true, {websocket} }}\n{extra}");
        let server = NatsServer::start(ServerOptions::named(name).with(&own)).await;
        Self { server, websocket: format!("127.0.0.1:{port}") }
    }

    fn url(&self) -> String {
        format!("ws://{}", self.websocket)
    }
}

/// weir with both listeners in front of these servers, whose WebSocket ports it knows.
fn before(servers: &[&Server]) -> WeirConfig {
    let urls: Vec<String> = servers.iter().map(|one| one.url()).collect();
    without_ports(servers).websockets(&urls.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The same without the WebSocket ports.
fn without_ports(servers: &[&Server]) -> WeirConfig {
    WeirConfig::of_servers(&servers.iter().map(|one| &one.server).collect::<Vec<_>>()).listener(BOTH)
}

/// What a client over WebSocket reads for its CONNECT and PING: `PONG`, or the `-ERR`.
async fn over_websocket(address: &str, login: &Login) -> String {
    let (mut client, info) = WsClient::greeted(address, "").await;
    client.say(format!("{}PING\r\n", login.answering(&info).connect_line()).as_bytes()).await;
    client.line().await
}

/// What a plain client reads.
async fn plain(address: &str, login: &Login) -> String {
    match RawClient::attempt(address, login, PATIENCE).await {
        Attempt::In(_) => "PONG".to_owned(),
        Attempt::Refused { text, .. } => format!("-ERR '{text}'"),
        other => panic!("{other:?}"),
    }
}

/// Each login gets through weir what it gets at the server itself, over WebSocket and without.
async fn as_at_the_server(weir: &Weir, one: &Server, logins: &[(&str, Login)]) {
    for (what, login) in logins {
        let (direct, through) = (one.websocket.as_str(), weir.other_listeners[0].as_str());
        assert_eq!(over_websocket(through, login).await, over_websocket(direct, login).await, "{what} over WebSocket");
        let (direct, through) = (one.server.address.as_str(), weir.address.as_str());
        assert_eq!(plain(through, login).await, plain(direct, login).await, "{what} without");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_users_and_nkeys_use_the_connections_that_they_may() {
    let keys: Vec<KeyPair> = (0..3).map(|_| KeyPair::new_user()).collect();
    let types = ["", ", allowed_connection_types: [\"STANDARD\"]", ", allowed_connection_types: [\"websocket\"]"];
    let user = |n: usize| format!("{{ user: u{n}, password: p{} }}", types[n]);
    let nkey = |n: usize| format!("{{ nkey: {}{} }}", keys[n].public_key(), types[n]);
    let users = |one: &dyn Fn(usize) -> String| (0..3).map(one).collect::<Vec<_>>().join(", ");
    let logins: Vec<(String, Login)> =
        (0..3).map(|n| (format!("user {n}"), Login::user(&format!("u{n}"), "p"))).collect();
    let named = |logins: &[(String, Login)]| -> Vec<(String, Login)> { logins.to_vec() };

    // Without NKeys the servers send no nonce, and weir dials after CONNECT.
    let extra = format!("authorization {{ timeout: 30, users: [{}] }}", users(&user));
    let one = Server::start("n1", "", &extra).await;
    let weir = before(&[&one]).start().await;
    let cases = named(&logins);
    let cases: Vec<_> = cases.iter().map(|(what, login)| (what.as_str(), login.clone())).collect();
    as_at_the_server(&weir, &one, &cases).await;
    assert_eq!(over_websocket(&weir.other_listeners[0], &logins[1].1).await, VIOLATION, "STANDARD only");
    assert_eq!(over_websocket(&weir.other_listeners[0], &logins[2].1).await, "PONG", "WEBSOCKET only");
    weir.assert_nothing_leaked().await;
    drop(weir);

    // With NKeys they do, and weir dials before.
    let extra = format!("authorization {{ timeout: 30, users: [{}, {}] }}", users(&user), users(&nkey));
    let one = Server::start("n1", "", &extra).await;
    let weir = before(&[&one]).start().await;
    let mut cases = named(&logins);
    cases.extend((0..3).map(|n| (format!("nkey {n}"), Login::nkey(&keys[n]))));
    let cases: Vec<_> = cases.iter().map(|(what, login)| (what.as_str(), login.clone())).collect();
    as_at_the_server(&weir, &one, &cases).await;
    assert_eq!(over_websocket(&weir.other_listeners[0], &Login::nkey(&keys[2])).await, "PONG", "WEBSOCKET only");
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jwt_users_and_scoped_ones_use_the_connections_that_they_may() {
    let operator = Operator::with_accounts([-1]).with_scopes(0, &[&["STANDARD"], &["WEBSOCKET"]]);
    let account = operator.account(0);
    let one = Server::start("n1", "", &format!("authorization {{ timeout: 30 }}\n{}", operator.server_config())).await;
    let login = |user: operator::User| Login::jwt(&user.jwt, &user.key);
    let cases = [
        ("any", login(account.user())),
        ("standard", login(account.with_types(&["STANDARD"]))),
        ("websocket", login(account.with_types(&["WEBSOCKET"]))),
        ("both", login(account.with_types(&["MQTT", "standard", "websocket"]))),
        ("scoped standard", login(account.scoped(0))),
        ("scoped websocket", login(account.scoped(1))),
    ];
    let weir = before(&[&one]).start().await;
    as_at_the_server(&weir, &one, &cases).await;
    for (n, said) in [(1, VIOLATION), (2, "PONG"), (4, VIOLATION), (5, "PONG")] {
        assert_eq!(over_websocket(&weir.other_listeners[0], &cases[n].1).await, said, "{}", cases[n].0);
    }
    weir.assert_nothing_leaked().await;
}

/// Without the WebSocket ports the servers take everybody for a plain client. What a JWT itself forbids is forbidden
/// all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_ports_a_jwt_that_allows_no_websocket_gets_in_nowhere() {
    let operator = Operator::with_accounts([-1]);
    let account = operator.account(0);
    let one = Server::start("n1", "", &format!("authorization {{ timeout: 30 }}\n{}", operator.server_config())).await;
    let weir = without_ports(&[&one]).start().await;
    let login = |types: &[&str]| {
        let user = account.with_types(types);
        Login::jwt(&user.jwt, &user.key)
    };
    let through = weir.other_listeners[0].as_str();
    for (types, over, without) in [
        (&[][..], "PONG", "PONG"),
        (&["STANDARD"], VIOLATION, "PONG"),
        (&["STANDARD", "WEBSOCKET"], "PONG", "PONG"),
        // The server refuses it, since it sees a plain connection: this needs the port.
        (&["WEBSOCKET"], VIOLATION, VIOLATION),
    ] {
        assert_eq!(over_websocket(through, &login(types)).await, over, "{types:?} over WebSocket");
        assert_eq!(plain(&weir.address, &login(types)).await, without, "{types:?} without");
    }
    let told = "the servers take its clients for plain ones (STANDARD)";
    weir.says(told).await;
    weir.assert_nothing_leaked().await;
    drop(weir);
    let weir = before(&[&one]).start().await;
    assert!(!weir.log().contains(told), "{}", weir.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_logins_of_the_websocket_block_count() {
    let users = "accounts { A: { users: [{user: a, password: p}] }, W: { users: [{user: web, password: p}] } }";
    let one =
        Server::start("n1", "no_auth_user: web", &format!("{users}\nno_auth_user: a\nauthorization {{ timeout: 30 }}"))
            .await;
    let weir = before(&[&one]).start().await;
    let cases = [("nobody", Login::nobody()), ("a", Login::user("a", "p")), ("wrong", Login::user("a", "x"))];
    as_at_the_server(&weir, &one, &cases).await;
    let (mut client, info) = WsClient::greeted(&weir.other_listeners[0], "").await;
    assert_eq!(info["auth_required"], true, "as the port says");
    client.say(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await;
    assert_eq!(client.line().await, "PONG");
    assert_eq!(one.server.account_connections("W").await, 1);
    weir.until("it is counted where the server says", |metrics| {
        metrics.get("weir_account_connections{account=\"W\"}") == Some(1.0)
    })
    .await;
    drop(client);
    weir.assert_nothing_leaked().await;
    drop(weir);

    // No credential is another user at the other port. The quota of that one's account does not concern this one.
    let weir = before(&[&one]).account("A", "max_connections = 1").start().await;
    let plain = RawClient::connect(&weir.address, &Login::nobody()).await;
    let over = WsClient::connect(&weir.other_listeners[0], "", &Login::nobody()).await;
    for account in ["A", "W"] {
        let sample = format!("weir_account_connections{{account=\"{account}\"}}");
        weir.until("the server has named the account", |metrics| metrics.get(&sample) == Some(1.0)).await;
    }
    drop((plain, over));
    weir.assert_nothing_leaked().await;
    drop(weir);

    // Here plain clients need no login, and clients over WebSocket do.
    let one = Server::start("n1", "authorization { username: joe, password: secret }", "").await;
    let weir = before(&[&one]).start().await;
    let cases =
        [("nobody", Login::nobody()), ("joe", Login::user("joe", "secret")), ("wrong", Login::user("joe", "x"))];
    as_at_the_server(&weir, &one, &cases).await;
    let (_, over) = WsClient::greeted(&weir.other_listeners[0], "").await;
    let without = RawClient::connect(&weir.address, &Login::nobody()).await;
    assert_eq!((&over["auth_required"], &without.info["auth_required"]), (&true.into(), &serde_json::Value::Null));
    drop(without);
    weir.assert_nothing_leaked().await;
}

/// Messages of 1 MiB in both directions: the client compresses or not, weir masks towards the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_pass_with_and_without_compression() {
    let one = Server::start("n1", "compression: true", "max_payload: 1048576").await;
    let weir = before(&[&one]).start().await;
    let random: Vec<u8> = (0..1 << 20).map(|_| fastrand::u8(..)).collect();
    let text = b"all work and no play ".repeat((1 << 20) / 21);
    let mut plain = RawClient::connect(&weir.address, &Login::nobody()).await;
    plain.subscribe("big", 1).await.unwrap();
    plain.round_trip().await.unwrap();
    for (more, compressed) in [("", false), (DEFLATE, true)] {
        let mut client = WsClient::connect(&weir.other_listeners[0], more, &Login::nobody()).await;
        client.say(b"SUB big 1\r\n").await;
        client.line().await; // the INFO after PONG
        for payload in [&random, &text] {
            let message = [format!("PUB big {}\r\n", payload.len()).as_bytes(), payload, b"\r\n"].concat();
            match compressed {
                true => client.say_deflated(&message).await,
                false => client.say(&message).await,
            }
            assert_eq!(client.line().await, format!("MSG big 1 {}", payload.len()));
            assert!(client.exactly(payload.len() + 2).await[..payload.len()] == payload[..], "it arrives as it was");
            assert!(plain.next_msg().await.1 == payload[..], "and at a plain client");
        }
        // The server's connection is one of its WebSocket port, without compression.
        let connections = one.server.monitoring("/connz").await.unwrap();
        let kinds: Vec<_> = connections["connections"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
        assert!(kinds.contains(&&"websocket".into()), "{connections}");
        client.send(CLOSE, true, false, b"\x03\xe8bye").await.unwrap();
        assert_eq!(client.rest().await.1, Some((1000, "bye".into())));
    }
    drop(plain);
    one.server.settles_at(0).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_port_that_is_closed_takes_no_server_from_plain_clients() {
    let (one, two) = (Server::start("n1", "", "").await, Server::start("n2", "", "").await);
    let closed = format!("ws://127.0.0.1:{}", ports::free());
    let config = without_ports(&[&one, &two]).websockets(&[&closed, &two.url()]);
    let weir = config.start().await;
    let mut over = Vec::new();
    for _ in 0..12 {
        over.push(WsClient::connect(&weir.other_listeners[0], "", &Login::nobody()).await);
    }
    tokio::join!(one.server.settles_at(0), two.server.settles_at(12));
    let mut plain = Vec::new();
    for _ in 0..12 {
        plain.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    one.server.settles_at(12).await; // the emptiest server takes them, its client port is fine
    assert_eq!(weir.gauge("weir_server_up{server=\"n1\"}").await, 1.0);
    weir.says("no INFO from the WebSocket port").await;
    drop((over, plain));
    weir.agrees_with_servers(&[&one.server, &two.server]).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_over_websocket_leave_dead_and_lame_servers() {
    let (mut one, mut two) = (Server::start("n1", "", "").await, Server::start("n2", "", "").await);
    let config = before(&[&one, &two]).cluster("slow_start = \"0s\"\nclose_spread = \"0s\"");
    let weir = config.start().await;
    let connect = async || WsClient::connect(&weir.other_listeners[0], "", &Login::nobody()).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(connect().await);
    }
    weir.agrees_with_servers(&[&one.server, &two.server]).await;
    tokio::join!(one.server.settles_at(5), two.server.settles_at(5)); // both take their share

    // The end of its server ends a session, and the client learns that it should come again.
    one.server.kill9();
    let (mut ended, mut kept) = (0, Vec::new());
    for mut client in clients {
        client.line().await; // the INFO after PONG
        client.say(b"PING\r\n").await;
        match client.frame().await {
            Some(frame) if frame.header.opcode == BINARY => kept.push(client),
            Some(frame) => {
                assert_eq!(frame.closing().0, 1001);
                ended += 1;
            }
            None => panic!("no close frame"),
        }
    }
    assert_eq!((ended, kept.len()), (5, 5));
    for _ in 0..5 {
        kept.push(connect().await);
    }
    two.server.settles_at(10).await; // the other one takes them
    one.server.restart().await;
    weir.sees(2).await;
    eventually(PATIENCE, "the first server is used again", async || {
        let _client = connect().await;
        if one.server.total_connections().await > 2 { Ok(()) } else { Err("not yet") }
    })
    .await;

    // A lame duck says so at its WebSocket port too, and gets nobody.
    two.server.signal(Signal::USR2);
    for client in &mut kept {
        let told = async { while !client.line().await.contains("\"ldm\":true") {} };
        tokio::time::timeout(PATIENCE, told).await.expect("the lame duck's INFO");
    }
    let _late = connect().await;
    two.server.settles_at(10).await;
    drop((kept, _late));
    one.server.settles_at(0).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_and_with_the_clients_address() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("n1", &["127.0.0.1"]);
    let port = ports::free();
    let extra = format!(
        "debug: true\nwebsocket {{ listen: \"127.0.0.1:{port}\", tls {{ cert_file: {:?}, key_file: {:?} }} }}",
        own.cert, own.key
    );
    let server = NatsServer::start(ServerOptions::default().with(&extra)).await;
    let trusting = format!("{BOTH}\naccept_forwarded_from = [\"127.0.0.1\"]");
    let tls = format!("[cluster.websocket_tls]\nca_file = {:?}", authority.ca());
    let config =
        WeirConfig::of_servers(&[&server]).listener(&trusting).websockets(&[&format!("wss://127.0.0.1:{port}")]);
    let weir = config.clone().cluster(&tls).start().await;
    let forwarded = "X-Forwarded-For: 203.0.113.9\r\n";
    let mut client = WsClient::connect(&weir.other_listeners[0], forwarded, &Login::nobody()).await;
    client.say(b"SUB a 1\r\nPUB a 2\r\nhi\r\n").await;
    client.line().await;
    assert_eq!(client.exactly(15).await, b"MSG a 1 2\r\nhi\r\n");
    eventually(PATIENCE, "the server knows whose connection it is", async || {
        if server.log_contains("203.0.113.9/127.0.0.1:") { Ok(()) } else { Err(server.log()) }
    })
    .await;
    drop(client);
    weir.assert_nothing_leaked().await;
    drop(weir);

    // The server's certificate is checked.
    let other = Authority::new("somebody else");
    let tls = format!("[cluster.websocket_tls]\nca_file = {:?}", other.ca());
    let weir = config.cluster(&tls).start().await;
    let (mut client, _) = WsClient::greeted(&weir.other_listeners[0], "").await;
    client.say(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await;
    assert_eq!(client.line().await, "-ERR 'maximum connections exceeded'");
    weir.says("WebSocket port of server ejected").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_is_full_at_both_ports() {
    const FULL: &str = "-ERR 'maximum connections exceeded'";
    let one = Server::start("n1", "", "max_connections: 3").await;
    let at_once = "max_hold = \"0s\"\nrefusal_spread = \"0s\"";
    let weir = before(&[&one]).cluster("reserve = 0").admission(at_once).start().await;
    let _plain = RawClient::connect(&weir.address, &Login::nobody()).await;
    let _over = WsClient::connect(&weir.other_listeners[0], "", &Login::nobody()).await;
    // Past weir, between two readings.
    let _direct = RawClient::connect(&one.server.address, &Login::nobody()).await;
    assert_eq!(over_websocket(&weir.other_listeners[0], &Login::nobody()).await, FULL);
    assert_eq!(plain(&weir.address, &Login::nobody()).await, FULL);
    assert!(!weir.log().contains("ejected"), "full is not down: {}", weir.log());
}
