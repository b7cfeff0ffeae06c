//! `weir run --takeover`: another process goes on with the listening sockets and the sessions of the one that runs, and
//! nobody notices.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinSet,
};
use weir_testkit::{admin::AdminSocket, client::Op, *};

/// How many takeovers in a row, unless this variable says so.
const VARIABLE: &str = "WEIR_TAKEOVERS";
const TAKEOVERS: usize = 5;
/// Sessions with numbered traffic, and tasks that connect again and again.
const SESSIONS: usize = 40;
const CONNECTING: usize = 3;

/// weir with an admin socket in front of these servers.
async fn weir(servers: &[&NatsServer], more: &str) -> (Weir, AdminSocket) {
    let admin = AdminSocket::default();
    let config = WeirConfig::of_servers(servers).default_settings().table(&admin.toml()).table(more);
    (config.log_level("info").start().await, admin)
}

/// A session that publishes numbers to itself.
struct Numbered {
    client: RawClient,
    subject: String,
    size: usize,
}

impl Numbered {
    async fn connect(address: &str, login: &Login, n: usize) -> Self {
        let mut client = RawClient::connect(address, login).await;
        let subject = format!("numbers.{n}");
        client.subscribe(&subject, 1).await.unwrap();
        client.round_trip().await.unwrap();
        let size = [16, 200, 5000, 1_000_000][n % 4];
        Self { client, subject, size }
    }

    /// Publishes until told to stop, and checks that all comes back once and in order. Returns how many.
    async fn run(mut self, stop: Arc<AtomicBool>) -> u64 {
        let (mut sent, mut had) = (0_u64, 0_u64);
        let text = |n: u64, size: usize| {
            let mut text = n.to_string().into_bytes();
            text.resize(size, b' ');
            text
        };
        while !stop.load(Relaxed) || had < sent {
            if sent < had + 4 && !stop.load(Relaxed) {
                self.client.publish(&self.subject, &text(sent, self.size)).await.expect("a session goes on");
                sent += 1;
                continue;
            }
            match self.client.next_within(PATIENCE).await {
                Ok(Some(Op::Msg { payload, .. })) => {
                    assert!(payload == text(had, self.size), "instead of message {had} of {}", self.subject);
                    had += 1;
                }
                Ok(Some(Op::Ping)) => self.client.send(b"PONG\r\n").await.expect("a session goes on"),
                Ok(Some(Op::Info(_))) => {}
                other => panic!("instead of message {had} of {}: {other:?}", self.subject),
            }
            if self.size < 10_000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        self.client.round_trip().await.expect("a session goes on");
        had
    }
}

/// The server's numbers of the connections that are open there.
async fn open_at(server: &NatsServer) -> BTreeSet<u64> {
    let connz = server.monitoring("/connz?limit=10000").await.expect("/connz");
    connz["connections"].as_array().unwrap().iter().map(|one| one["cid"].as_u64().unwrap()).collect()
}

/// Waits until these connections are open at the server, and no others: those who came and left are gone.
async fn only_open(server: &NatsServer, those: &BTreeSet<u64>) {
    eventually(PATIENCE, "each session has the connection that it began with", async || {
        let now = open_at(server).await;
        if now == *those { Ok(()) } else { Err(format!("{now:?} instead of {those:?}")) }
    })
    .await;
}

/// Connects and leaves again until told to stop. Returns how often.
async fn connect_again_and_again(address: String, stop: Arc<AtomicBool>) -> u64 {
    let mut connects = 0;
    while !stop.load(Relaxed) {
        let mut client = RawClient::attempt(&address, &Login::nobody(), PATIENCE).await.expect_in();
        client.round_trip().await.expect("it is in");
        connects += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    connects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn takeovers_in_a_row_lose_nobody_and_no_message() {
    let takeovers = std::env::var(VARIABLE).map_or(TAKEOVERS, |n| n.parse().expect("a number"));
    let server = NatsServer::start(ServerOptions::named("n1").with("max_payload: 8MB")).await;
    let (mut weir, _admin) = weir(&[&server], "").await;
    let stop = Arc::<AtomicBool>::default();
    let mut sessions = JoinSet::new();
    for n in 0..SESSIONS {
        let session = Numbered::connect(&weir.address, &Login::nobody(), n).await;
        sessions.spawn(session.run(Arc::clone(&stop)));
    }
    let began_with = open_at(&server).await;
    let mut connecting = JoinSet::new();
    let stop_connecting = Arc::<AtomicBool>::default();
    for _ in 0..CONNECTING {
        connecting.spawn(connect_again_and_again(weir.address.clone(), Arc::clone(&stop_connecting)));
    }
    for n in 0..takeovers {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let status = weir.is_taken_over_whole().await;
        assert!(status.success(), "takeover {n}: {status}");
    }
    stop_connecting.store(true, Relaxed);
    let connects: u64 = connecting.join_all().await.into_iter().sum();
    weir.until("all sessions are counted", |metrics| metrics.sum("weir_sessions_active") == SESSIONS as f64).await;
    only_open(&server, &began_with).await;
    weir.agrees_with_servers(&[&server]).await;
    stop.store(true, Relaxed);
    let messages: u64 = sessions.join_all().await.into_iter().sum();
    say(&format!("{takeovers} takeovers: {connects} connects, {messages} messages"));
    weir.until("all are gone", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
    weir.assert_no_panic();
}

#[tokio::test]
async fn a_takeover_with_another_configuration_keeps_sessions_and_quotas() {
    let options = |name| ServerOptions::named(name).with("accounts: { A: { users: [{user: a, password: p}] } }");
    let (one, two) = (NatsServer::start(options("n1")).await, NatsServer::start(options("n2")).await);
    let quota = "[accounts.A]\nusers = [\"a\"]\nmax_connections = 5\n[users.a]\nmax_connections = 5";
    let (mut weir, admin) = weir(&[&one], quota).await;
    let login = Login::user("a", "p");
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(RawClient::connect(&weir.address, &login).await);
    }
    weir.reconfigure("max_connections = 5\n[users", "max_connections = 3\n[users");
    let server =
        |one: &NatsServer| format!("[[cluster.servers]]\nname = \"{}\"\naddress = \"{}\"", one.name, one.address);
    weir.reconfigure(
        &server(&one),
        &format!("{}\nmonitor = \"http://{}\"\n{}", server(&two), two.monitor, server(&one)),
    );
    assert!(weir.is_taken_over_whole().await.success());
    for client in &mut clients {
        client.round_trip().await.expect("who is in stays in");
    }
    weir.sees(2).await;
    assert_eq!(weir.metrics().await.sum("weir_account_connections"), 4.0);
    // Four are in, and three may be.
    for _ in 0..2 {
        let refused = RawClient::attempt(&weir.address, &login, PATIENCE).await;
        assert_eq!(refused.refusal(), Some("maximum account active connections exceeded"), "{refused:?}");
        drop(clients.pop());
        let left = clients.len() as f64;
        weir.until("one has left", |metrics| metrics.sum("weir_account_connections") == left).await;
    }
    clients.push(RawClient::attempt(&weir.address, &login, PATIENCE).await.expect_in());
    let status = admin.answers(&["status"]).await;
    assert_eq!(status["clients"]["sessions"], 3, "the new process answers at the admin socket: {status}");
    drop(clients);
    weir.until("all are gone", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
}

#[tokio::test]
async fn clients_that_wait_for_their_turn_or_have_said_half_go_along() {
    let server = NatsServer::start(ServerOptions::named("n1")).await;
    let admin = AdminSocket::default();
    // With weir's own settings clients would wait for 2 s at most.
    let mut weir = WeirConfig::of_servers(&[&server]).table(&admin.toml()).start().await;
    admin.does(&["pause"]).await;
    let mut waiting = JoinSet::new();
    for n in 0..5 {
        let (address, login) = (weir.address.clone(), Login::nobody().name(&format!("waits-{n}")));
        waiting.spawn(async move {
            let mut client = RawClient::attempt(&address, &login, PATIENCE).await.expect_in();
            client.round_trip().await.expect("it is in");
            client
        });
    }
    weir.until("they wait", |metrics| metrics.sum("weir_held") == 5.0).await;
    let mut half = RawClient::greeted(&weir.address).await.unwrap();
    half.send(b"CONNECT {\"name\":\"ha").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let status = weir.is_taken_over_whole().await;
    assert!(status.success(), "nobody is left: {status}");
    weir.until("they wait there, since weir is paused", |metrics| metrics.sum("weir_held") == 5.0).await;
    half.send(b"lf\"}\r\nPING\r\n").await.unwrap();
    weir.until("so does the one that had said half", |metrics| metrics.sum("weir_held") == 6.0).await;
    admin.does(&["resume"]).await;
    let clients = waiting.join_all().await;
    assert_eq!(clients.len(), 5);
    half.round_trip().await.expect("the client that had said half is in");
    let metrics = weir.metrics().await;
    assert_eq!((metrics.sum("weir_refused_total"), metrics.sum("weir_sessions_active")), (0.0, 6.0));
}

/// Speaks as a new process would, as far as a test wants.
pub(crate) struct Fake(UnixStream);

impl Fake {
    async fn begin(admin: &AdminSocket, version: u32) -> Self {
        Self::of_fleet(admin, version, "null").await
    }

    /// With what it says of its fleet.
    pub(crate) async fn of_fleet(admin: &AdminSocket, version: u32, fleet: &str) -> Self {
        let mut stream = UnixStream::connect(admin.path()).await.unwrap();
        let request = b"POST /takeover HTTP/1.1\r\nhost: weir\r\nconnection: upgrade\r\nupgrade: weir-takeover\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut fake = Self(stream);
        let hello = format!(r#"{{"message":"hello","version":{version},"weir":"a test","fleet":{fleet}}}"#);
        fake.say(&hello).await;
        fake
    }

    pub(crate) async fn say(&mut self, message: &str) {
        self.0.write_all(&u32::try_from(message.len()).unwrap().to_be_bytes()).await.unwrap();
        self.0.write_all(message.as_bytes()).await.unwrap();
    }

    /// Reads up to the next message of this name. The kernel closes what comes beside it.
    pub(crate) async fn until(&mut self, name: &str) -> serde_json::Value {
        loop {
            let message = self.next().await;
            if message["message"] == name {
                return message;
            }
        }
    }

    /// The next message, whichever it is.
    pub(crate) async fn next(&mut self) -> serde_json::Value {
        let length = self.0.read_u32().await.expect("another message");
        let mut message = vec![0; length as usize];
        self.0.read_exact(&mut message).await.unwrap();
        serde_json::from_slice(&message).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_fails_harms_nobody() {
    let server = NatsServer::start(ServerOptions::named("n1").with("max_payload: 8MB")).await;
    let (mut weir, admin) = weir(&[&server], "").await;
    let stop = Arc::<AtomicBool>::default();
    let mut sessions = JoinSet::new();
    for n in 0..20 {
        let session = Numbered::connect(&weir.address, &Login::nobody(), n).await;
        sessions.spawn(session.run(Arc::clone(&stop)));
    }
    let began_with = open_at(&server).await;
    let mut connecting = JoinSet::new();
    let stop_connecting = Arc::<AtomicBool>::default();
    connecting.spawn(connect_again_and_again(weir.address.clone(), Arc::clone(&stop_connecting)));

    // It ends at once, as one with a bad configuration or one that is no weir.
    drop(Fake::begin(&admin, 1).await);
    weir.says_times("a takeover is off", 1).await;
    // Its takeovers are another version.
    let mut other = Fake::begin(&admin, 1000).await;
    let off = other.until("abort").await;
    assert!(off["why"].as_str().unwrap().contains("another version"), "{off}");
    weir.says_times("a takeover is off", 2).await;
    // It says what it should not.
    let mut other = Fake::begin(&admin, 1).await;
    other.until("offer").await;
    other.say(r#"{"message":"serving"}"#).await;
    other.until("abort").await;
    // It breaks off when it has been given sessions, before it has counted them.
    let mut other = Fake::begin(&admin, 1).await;
    other.until("offer").await;
    other.say(r#"{"message":"ready"}"#).await;
    other.until("batch").await;
    drop(other);
    weir.says_times("a takeover is off", 4).await;
    // Whoever is between its accept and its PONG while a new process stands still is refused, once it has been held for
    // as long as anybody is; and the first batch is that of these clients.
    stop_connecting.store(true, Relaxed);
    let connects: u64 = connecting.join_all().await.into_iter().sum();
    assert!(connects > 0);
    // It stands still there.
    let mut other = Fake::begin(&admin, 1).await;
    other.until("offer").await;
    other.say(r#"{"message":"ready"}"#).await;
    other.until("batch").await;
    other.until("abort").await;
    weir.says_times("a takeover is off", 5).await;
    // It cannot go on with any session, and breaks off later.
    let mut other = Fake::begin(&admin, 1).await;
    other.until("offer").await;
    other.say(r#"{"message":"ready"}"#).await;
    let sessions_given = other.until("sessions").await;
    let ids: Vec<_> = sessions_given["sessions"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    other.until("batch").await;
    let refused: Vec<_> = ids.iter().map(|id| serde_json::json!({"id": id, "why": "a test"})).collect();
    other.say(&serde_json::json!({"message": "counted", "number": 1, "refused": refused}).to_string()).await;
    other.until("go").await;
    drop(other);
    weir.says_times("a takeover is off", 6).await;

    only_open(&server, &began_with).await;
    weir.agrees_with_servers(&[&server]).await;
    // And then one that does not fail.
    assert!(weir.is_taken_over_whole().await.success());
    stop.store(true, Relaxed);
    sessions.join_all().await;
    weir.until("all are gone", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_reads_nothing_holds_nobody_up() {
    // What is told of so many is more than a socket takes.
    const CLIENTS: usize = 500;
    let server = NatsServer::start(ServerOptions::named("n1")).await;
    let (weir, admin) = weir(&[&server], "").await;
    let login = Login::nobody();
    // Of so many at once some are refused on a busy machine, and come again as all clients do.
    let comes = async || {
        let attempt = async || RawClient::attempt(&weir.address, &login, PATIENCE).await.into_client().ok_or("refused");
        eventually(PATIENCE, "a client is in", attempt).await
    };
    let mut clients = join_all((0..CLIENTS).map(|_| comes())).await;
    let mut other = Fake::begin(&admin, 1).await;
    other.until("offer").await;
    other.say(r#"{"message":"ready"}"#).await;
    weir.says("a takeover is off").await;
    RawClient::connect(&weir.address, &login).await.round_trip().await.unwrap();
    for client in &mut clients {
        client.round_trip().await.unwrap();
    }
    drop((other, clients));
    weir.until("all are gone", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
}

#[tokio::test]
async fn without_a_weir_to_take_over_from_there_is_none() {
    let server = NatsServer::start(ServerOptions::named("n1")).await;
    let (weir, admin) = weir(&[&server], "").await;
    // A process with this configuration that has another admin socket.
    weir.reconfigure("weir.sock", "other.sock");
    let mut new = weir.start_takeover();
    assert_eq!(new.wait(PATIENCE).await.code(), Some(1));
    assert!(new.log().contains("no weir answers on"), "{}", new.log());
    weir.reconfigure(&admin.toml().replace("weir.sock", "other.sock"), "");
    let mut new = weir.start_takeover();
    assert_eq!(new.wait(PATIENCE).await.code(), Some(1));
    assert!(new.log().contains("no [admin]"), "{}", new.log());
    RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.unwrap();
}
