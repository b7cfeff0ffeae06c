//! What one address with 100 connections and no credentials takes from others, phase by phase: clients from another
//! address all get in beside it.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use nkeys::KeyPair;
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};
use weir_testkit::{
    tls::{Authority, TlsClient, pair},
    websocket::{WsClient, request},
    *,
};

const STRANGERS: usize = 100;
const CLIENTS: usize = 20;
const THEIR_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// What Go, Java and C allow from TCP connect to PONG.
const TWO_SECONDS: Duration = Duration::from_secs(2);
/// A ClientHello whose record says that 512 bytes follow, and its first byte.
const HALF_A_HELLO: &[u8] = &[22, 3, 1, 2, 0, 1];

/// Connections from one address, each of which says `words` and waits for its end, and is opened again then.
struct Strangers {
    _tasks: JoinSet<()>,
    opened: Arc<AtomicU64>,
}

impl Strangers {
    /// `greeted` ones wait for the first byte of weir before they speak.
    async fn come(address: &str, greeted: bool, words: &[u8]) -> Self {
        let (mut tasks, opened) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
        for _ in 0..STRANGERS {
            let (address, words, opened) = (address.to_owned(), words.to_owned(), Arc::clone(&opened));
            tasks.spawn(async move {
                loop {
                    let Ok(mut stream) = connect_from(THEIR_ADDRESS, &address).await else { continue };
                    opened.fetch_add(1, Relaxed);
                    let mut bytes = [0; 4096];
                    if greeted && stream.read(&mut bytes).await.unwrap_or(0) == 0 {
                        continue;
                    }
                    if stream.write_all(&words).await.is_err() {
                        continue;
                    }
                    while stream.read(&mut bytes).await.unwrap_or(0) > 0 {}
                }
            });
        }
        let strangers = Self { _tasks: tasks, opened };
        eventually(PATIENCE, "all strangers are there", async || match strangers.opened.load(Relaxed) {
            n if n >= STRANGERS as u64 => Ok(()),
            n => Err(n),
        })
        .await;
        strangers
    }
}

/// How good clients come.
enum Client {
    Plain(Box<Login>),
    WebSocket,
    Tls(Arc<ClientConfig>),
}

impl Client {
    async fn enter(&self, address: &str) -> Result<(), String> {
        let entering = async {
            match self {
                Self::Plain(login) => match RawClient::attempt(address, login, TWO_SECONDS).await {
                    Attempt::In(_) => Ok(()),
                    other => Err(format!("{other:?}")),
                },
                Self::WebSocket => {
                    drop(WsClient::connect(address, "", &Login::nobody()).await);
                    Ok(())
                }
                Self::Tls(tls) => {
                    let client = TlsClient::connect(address, "localhost", false, Arc::clone(tls)).await;
                    let said = client.map_err(|err| err.to_string())?.enter().await.map_err(|err| err.to_string())?;
                    if said == "PONG\r\n" { Ok(()) } else { Err(said) }
                }
            }
        };
        tokio::time::timeout(TWO_SECONDS, entering).await.map_err(|err| err.to_string())?
    }

    /// One after the other, beside the strangers.
    async fn all_enter(&self, weir: &Weir, strangers: Strangers) {
        for n in 0..CLIENTS {
            if let Err(err) = self.enter(&weir.address).await {
                panic!("client {n} of {CLIENTS}, beside {} connections: {err}", strangers.opened.load(Relaxed));
            }
        }
        drop(strangers);
        weir.assert_nothing_leaked().await;
    }
}

async fn open_server() -> NatsServer {
    NatsServer::start(ServerOptions::default().default_timeouts()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_or_half_way_before_connect() {
    let server = open_server().await;
    for words in [&b""[..], b"CONNECT {\"verb"] {
        let weir = WeirConfig::of_servers(&[&server]).default_settings().start().await;
        let strangers = Strangers::come(&weir.address, true, words).await;
        Client::Plain(Login::nobody().into()).all_enter(&weir, strangers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_proxy_header_that_does_not_come() {
    let server = open_server().await;
    let listener = format!("accept_proxy_protocol_from = [\"{THEIR_ADDRESS}/32\"]\nmax_clients = 60");
    let weir = WeirConfig::of_servers(&[&server]).default_settings().listener(&listener).start().await;
    let strangers = Strangers::come(&weir.address, false, b"PROXY TCP4").await;
    Client::Plain(Login::nobody().into()).all_enter(&weir, strangers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_half_a_client_hello() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("weir", &["localhost"]);
    let server = open_server().await;
    let tls = format!("[listeners.tls]\n{}", pair(&own));
    let weir = WeirConfig::of_servers(&[&server]).default_settings().listener(&tls).start().await;
    let strangers = Strangers::come(&weir.address, true, HALF_A_HELLO).await;
    Client::Tls(authority.client(None)).all_enter(&weir, strangers).await;
}

/// Strangers within `[admission.per_source]` before they have sent their HTTP request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_half_an_http_request() {
    let server = open_server().await;
    let half = request("/", "");
    for words in [&b""[..], &half.as_bytes()[..20]] {
        let weir = WeirConfig::of_servers(&[&server])
            .default_settings()
            .listener("kind = \"websocket\"\nmax_clients = 20")
            .admission("[admission.per_source]\nmax_connections = 10")
            .start()
            .await;
        let strangers = Strangers::come(&weir.address, false, words).await;
        Client::WebSocket.all_enter(&weir, strangers).await;
    }
}

/// The servers have room for as many as there are strangers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_server_that_waits_for_their_signature() {
    let key = KeyPair::new_user();
    let config = format!("authorization {{ users: [{{nkey: {}}}] }}", key.public_key());
    let small = ServerOptions::default().with(&config).default_timeouts().max_connections(STRANGERS as u64);
    let server = NatsServer::start(small).await;
    let forged = format!("CONNECT {{\"nkey\":\"{}\",\"sig\":\"AAAA\"}}\r\nPING\r\n", key.public_key());
    for words in [&b""[..], forged.as_bytes()] {
        let weir = WeirConfig::of_servers(&[&server]).default_settings().start().await;
        let strangers = Strangers::come(&weir.address, true, words).await;
        Client::Plain(Login::nkey(&key).into()).all_enter(&weir, strangers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_wrong_passwords_while_turns_are_short() {
    let config = "accounts { A { users: [{user: a, password: p}] }, B { users: [{user: b, password: p}] } }";
    let server = NatsServer::start(ServerOptions::default().with(config).default_timeouts()).await;
    let weir = WeirConfig::of_servers(&[&server])
        .default_settings()
        .admission("rate = 50\nburst = 5")
        .account("A", "users = [\"a\"]")
        .account("B", "users = [\"b\"]")
        .start()
        .await;
    let wrong = Login::user("b", "wrong").lang("nats.js").connect_line() + "PING\r\n";
    let strangers = Strangers::come(&weir.address, true, wrong.as_bytes()).await;
    Client::Plain(Login::user("a", "p").into()).all_enter(&weir, strangers).await;
}

/// A TLS server behind a passthrough listener, with room for `most`.
async fn passthrough(authority: &Authority, most: u64) -> (NatsServer, Weir) {
    let own = authority.issue("server", &["localhost", "127.0.0.1"]);
    let config = format!("tls {{ cert_file: {:?}, key_file: {:?} }}", own.cert, own.key);
    let options = ServerOptions::default().with(&config).default_timeouts().max_connections(most);
    let server = NatsServer::start(options).await;
    let weir = WeirConfig::of_servers(&[&server]).default_settings().listener("kind = \"passthrough\"").start().await;
    (server, weir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_that_weir_does_not_read() {
    let authority = Authority::new("weir tests");
    for words in [&b""[..], HALF_A_HELLO] {
        let (_server, weir) = passthrough(&authority, STRANGERS as u64).await;
        let strangers = Strangers::come(&weir.address, true, words).await;
        Client::Tls(authority.client(None)).all_enter(&weir, strangers).await;
    }
}

/// Who stops in the middle of a ClientHello and leaves has said nothing about the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_client_hello_lowers_no_limit() {
    let authority = Authority::new("weir tests");
    let (_server, weir) = passthrough(&authority, 1000).await;
    let client = Client::Tls(authority.client(None));
    for _ in 0..5 {
        client.enter(&weir.address).await.unwrap();
    }
    let before = weir.metrics().await.sum("weir_handshake_limit");
    // A whole record, too: of half a message.
    for words in [HALF_A_HELLO, &[22, 3, 1, 0, 4, 1, 0, 2, 0]] {
        for _ in 0..4 {
            let mut stream = connect_from(THEIR_ADDRESS, &weir.address).await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0, "INFO");
            stream.write_all(words).await.unwrap();
            // Longer than the 250 ms in which a server is expected to answer.
            tokio::time::sleep(Duration::from_millis(350)).await;
        }
    }
    weir.until("they have left", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
    let after = weir.metrics().await.sum("weir_handshake_limit");
    assert!(after >= before, "from {before} to {after}");
    client.enter(&weir.address).await.unwrap();
    weir.assert_nothing_leaked().await;
}
