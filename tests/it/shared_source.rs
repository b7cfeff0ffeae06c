//! Many clients behind one address, as behind a NAT or a balancer without PROXY headers: one that keeps failing keeps
//! nobody out whose credential is known from there.

use std::{
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use nkeys::KeyPair;
use rustls::ClientConfig;
use weir_testkit::{
    operator::Operator,
    tls::{Authority, TlsClient},
    *,
};

/// Clients that fail without pause, and how long they do.
const FORGERS: usize = 40;
const TRIES: usize = 8;
/// What Go, Java and C allow from TCP connect to PONG.
const TWO_SECONDS: Duration = Duration::from_secs(2);
/// weir dials servers for a damped source no more often than this, in dials per second.
const MOST_DIALS: f64 = 200.0;

/// Clients that try to log in again and again until they are dropped.
struct Forgers {
    tasks: tokio::task::JoinSet<()>,
    tries: Arc<AtomicU64>,
}

impl Forgers {
    fn start(address: &str, login: &Login) -> Self {
        let (mut tasks, tries) = (tokio::task::JoinSet::new(), Arc::new(AtomicU64::new(0)));
        for _ in 0..FORGERS {
            let (address, login, tries) = (address.to_owned(), login.clone(), Arc::clone(&tries));
            tasks.spawn(async move {
                loop {
                    let attempt = RawClient::attempt(&address, &login, PATIENCE).await;
                    assert!(!matches!(attempt, Attempt::In(_)), "a forger got in");
                    tries.fetch_add(1, Relaxed);
                }
            });
        }
        Self { tasks, tries }
    }

    /// Waits until weir damps their source.
    async fn are_damped(&self, weir: &Weir) {
        weir.until("their source is damped", |metrics| {
            metrics.sum_where("weir_refused_total", "reason", "source_rate") > 0.0
        })
        .await;
    }
}

impl Drop for Forgers {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

/// `known` logs in and leaves. Then clients from the same address fail with `forged`, and `known` connects each second.
async fn the_known_get_in_beside_forgers(config: &str, known: Login, forged: Login) {
    let server = NatsServer::start(ServerOptions::default().with(config).default_timeouts()).await;
    let weir = WeirConfig::of_servers(&[&server]).default_settings().start().await;
    drop(RawClient::connect(&weir.address, &known).await);

    let forgers = Forgers::start(&weir.address, &forged);
    forgers.are_damped(&weir).await;
    let (began, dials_before) = (Instant::now(), server.total_connections().await);
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    for n in 0..TRIES {
        every_second.tick().await;
        let attempt = RawClient::attempt(&weir.address, &known, TWO_SECONDS).await;
        assert!(matches!(attempt, Attempt::In(_)), "try {n}: {attempt:?}");
    }
    let (took, dials) = (began.elapsed().as_secs_f64(), server.total_connections().await - dials_before);
    say(&format!("{} tries of forgers, {dials} dials in {took:.1} s", forgers.tries.load(Relaxed)));
    assert!((dials as f64) < MOST_DIALS * took * 1.2 + 50.0, "{dials} dials in {took} s");
    drop(forgers);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_nkey() {
    let [a, b] = [KeyPair::new_user(), KeyPair::new_user()];
    let config = format!("authorization {{ users: [{{nkey: {}}}, {{nkey: {}}}] }}", a.public_key(), b.public_key());
    let forged = Login::nkey(&KeyPair::new_user()).with("nkey", b.public_key().into());
    the_known_get_in_beside_forgers(&config, Login::nkey(&a), forged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_credentials_of_an_operator() {
    let operator = Operator::with_accounts([-1]);
    let [a, b] = [operator.account(0).user(), operator.account(0).user()];
    let forged = Login::jwt(&b.jwt, &KeyPair::new_user());
    the_known_get_in_beside_forgers(&operator.server_config(), Login::jwt(&a.jwt, &a.key), forged).await;
}

/// Logs in with a password inside TLS that weir does not read; `Err` where it did not work in time.
async fn over_tls(address: &str, tls: &Arc<ClientConfig>) -> Result<TlsClient, String> {
    let login = async {
        let mut client = TlsClient::connect(address, "localhost", false, Arc::clone(tls)).await?;
        client.say(&format!("{}PING\r\n", Login::user("a", "pa").connect_line())).await?;
        let line = client.line().await?;
        if line == "PONG\r\n" { Ok(client) } else { Err(std::io::Error::other(line)) }
    };
    tokio::time::timeout(TWO_SECONDS, login).await.map_err(|err| err.to_string())?.map_err(|err| err.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_that_weir_does_not_read() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("server", &["localhost", "127.0.0.1"]);
    let config = format!(
        "tls {{ cert_file: {:?}, key_file: {:?} }}\n\
         authorization {{ timeout: 1, users: [{{user: a, password: pa}}, {{user: b, password: pb}}] }}",
        own.cert, own.key
    );
    let server = NatsServer::start(ServerOptions::default().with(&config).default_timeouts()).await;
    let weir = WeirConfig::of_servers(&[&server])
        .default_settings()
        .cluster_tls(&format!("ca_file = {:?}", authority.ca()))
        .table("[[listeners]]\nlisten = \"127.0.0.1:0\"\nkind = \"passthrough\"")
        .start()
        .await;
    let passthrough = weir.other_listeners[0].clone();
    let tls = authority.client(None);
    let session = over_tls(&passthrough, &tls).await.unwrap();
    // A session that lives this long has logged in: the server would have ended it otherwise.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    drop(session);
    weir.until("the session has ended", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;

    let forgers = Forgers::start(&weir.address, &Login::user("b", "wrong"));
    forgers.are_damped(&weir).await;
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    for n in 0..TRIES {
        every_second.tick().await;
        if let Err(err) = over_tls(&passthrough, &tls).await {
            panic!("try {n}: {err}");
        }
    }
    drop(forgers);
    weir.assert_nothing_leaked().await;
}
