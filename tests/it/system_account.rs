//! The system account: weir gets readings, account limits and counts through it, without a monitoring port.

use rustix::process::Signal;
use weir_testkit::{
    operator::{Account, Operator},
    *,
};

const QUOTA: &str = "maximum account active connections exceeded";
const ACCOUNTS: &str = "
    system_account: SYS
    accounts {
        SYS { users: [{user: admin, password: s3cr3t-adm1n}] }
        ORDERS { users: [{user: o, password: p}] }
    }";
const ADMIN: &str = "[cluster.system]\nuser = \"admin\"\npassword = \"s3cr3t-adm1n\"";

fn orders() -> Login {
    Login::user("o", "p")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accounts_limit_is_its_jwts_and_other_ways_in_count() {
    let operator = Operator::with_accounts([4, -1]);
    let cluster = Cluster::start(2, |server| server.with(&operator.server_config_with_system(1))).await;
    let (account, system) = (operator.account(0), operator.account(1));
    let dir = tempfile::tempdir().unwrap();
    let creds = dir.path().join("weir.creds");
    std::fs::write(&creds, system.user().creds()).unwrap();
    let weir = WeirConfig::of(&cluster)
        .without_monitors()
        .cluster(&format!("[cluster.system]\ncreds_file = \"{}\"", creds.display()))
        .start()
        .await;
    let user = account.user();
    let login = Login::jwt(&user.jwt, &user.key);
    let direct = RawClient::connect(&cluster.servers[0].address, &login).await;
    let mut clients = vec![RawClient::connect(&weir.address, &login).await];
    // weir refuses by itself once it has read the limit and the servers' counts.
    let by_weir = "weir_refused_total{reason=\"account_quota\"}";
    eventually(PATIENCE, "weir keeps the limit of the JWT", async || {
        match RawClient::attempt(&weir.address, &login, PATIENCE).await {
            // The servers may let one client too many in, since each learns of the other's clients a moment later.
            Attempt::In(one_too_many) if clients.len() == 3 => drop(one_too_many),
            Attempt::In(client) => clients.push(client),
            refused => assert_eq!(refused.refusal(), Some(QUOTA), "{refused:?}"),
        }
        if weir.gauge(by_weir).await > 0.0 { Ok(()) } else { Err(clients.len()) }
    })
    .await;
    assert_eq!(clients.len(), 3, "the fourth does not come through weir");
    drop(direct);
    eventually(PATIENCE, "its place is free again", async || {
        match RawClient::attempt(&weir.address, &login, PATIENCE).await {
            Attempt::In(client) => {
                clients.push(client);
                Ok(())
            }
            refused => Err(refused.refusal().map(str::to_owned)),
        }
    })
    .await;
    assert_eq!(clients.len(), 4);
    assert!(!weir.log().contains(&system.user().jwt));
    drop(clients);
    weir.assert_nothing_leaked().await;
}

/// A server that has heard of an account by a route only answers for it too, and knows no JWT. The one that weir is
/// connected to answers first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_known_though_the_nearest_server_knows_no_jwt() {
    let operator = Operator::with_accounts([4, -1, -1]);
    let (account, system, other) = (operator.account(0), operator.account(1), operator.account(2));
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(2, |server| {
        let jwts = dir.path().join(&server.name);
        std::fs::create_dir(&jwts).unwrap();
        server.with(&operator.server_config_with_files(1, &jwts))
    })
    .await;
    let creds = dir.path().join("weir.creds");
    std::fs::write(&creds, system.user().creds()).unwrap();
    let weir = WeirConfig::of(&cluster)
        .without_monitors()
        .cluster(&format!("[cluster.system]\ncreds_file = \"{}\"", creds.display()))
        .start()
        .await;
    let near = eventually(PATIENCE, "weir is connected", async || {
        for (n, server) in cluster.servers.iter().enumerate() {
            let connz = server.monitoring("/connz").await.ok_or("no answer")?;
            if connz["connections"].as_array().unwrap().iter().any(|one| one["name"] == "weir") {
                return Ok(n);
            }
        }
        Err("nowhere")
    })
    .await;
    let (near, far) = (&cluster.servers[near], &cluster.servers[1 - near]);
    // So many that weir's next client goes to the other server.
    let login = |of: &Account| {
        let user = of.user();
        Login::jwt(&user.jwt, &user.key)
    };
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(RawClient::connect(&near.address, &login(other)).await);
    }
    weir.until("weir counts them", |m| m.sum_where("weir_server_connections", "server", &near.name) >= 20.0).await;
    let name = account.name();
    let mut client = RawClient::connect(&weir.address, &login(account)).await;
    client.subscribe("there", 1).await.unwrap();
    client.round_trip().await.unwrap();
    assert_eq!(far.account_connections(&name).await, 1);
    eventually(PATIENCE, "the nearest server has heard of the account by its route", async || {
        let told = near.monitoring(&format!("/accountz?acc={name}")).await.ok_or("no answer".to_owned())?;
        let detail = &told["account_detail"];
        let is_it = detail["complete"] == false && detail["decoded_jwt"].is_null();
        if is_it { Ok(()) } else { Err(detail.to_string()) }
    })
    .await;
    let sample = format!("weir_account_max_connections{{account=\"{name}\"}}");
    weir.until("the limit is known", |metrics| metrics.get(&sample) == Some(4.0)).await;
}

/// Once with frequent readings and once with the servers' events only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configured_quota_counts_those_who_came_another_way() {
    for interval in ["200ms", "1h"] {
        let cluster = Cluster::start(2, |server| server.with(ACCOUNTS)).await;
        let quota = "users = [\"o\"]\nmax_connections = 4";
        let config = WeirConfig::of(&cluster).poll_interval(interval).cluster(ADMIN).account("ORDERS", quota);
        let weir = config.start().await;
        let mut inside = vec![RawClient::connect(&weir.address, &orders()).await];
        for _ in 0..2 {
            let direct = RawClient::connect(&cluster.servers[1].address, &orders()).await;
            eventually(PATIENCE, "the direct one counts", async || {
                match RawClient::attempt(&weir.address, &orders(), PATIENCE).await {
                    Attempt::In(client) if inside.len() == 3 => {
                        drop(client); // it came before weir had counted the direct client
                        Err("in")
                    }
                    Attempt::In(client) => {
                        inside.push(client);
                        Err("in")
                    }
                    _ => Ok(()),
                }
            })
            .await;
            assert_eq!(inside.len(), 3);
            drop(direct);
            let back = eventually(PATIENCE, "its place is free again", async || {
                RawClient::attempt(&weir.address, &orders(), PATIENCE).await.into_client().ok_or("refused")
            });
            drop(back.await);
        }
        assert!(!weir.log().contains("s3cr3t-adm1n"));
        drop(inside);
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_go_on_over_http_where_the_system_account_is_closed() {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let wrong = ADMIN.replace("s3cr3t", "wr0ng");
    let weir = WeirConfig::of_servers(&[&server]).cluster(&wrong).start().await;
    weir.says("the servers refuse the login to the system account").await;
    let past = RawClient::connect(&server.address, &orders()).await;
    let counted = |metrics: &metrics::Metrics| metrics.sum("weir_server_connections") == 1.0;
    weir.until("a connection past weir is read", counted).await;
    drop(past);
    RawClient::connect(&weir.address, &orders()).await.round_trip().await.unwrap();
    assert!(!weir.log().contains("wr0ng"), "{}", weir.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_breaks_and_comes_back() {
    let mut server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let weir = WeirConfig::of_servers(&[&server]).without_monitors().cluster(ADMIN).start().await;
    for _ in 0..2 {
        server.kill9();
        weir.sees(0).await;
        server.restart().await;
        weir.sees(1).await;
        RawClient::connect(&weir.address, &orders()).await.round_trip().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lame_ducks_are_heard_without_a_session_there() {
    nats::at_least(2, 10); // since 2.10 a server announces lame duck mode by an event
    let duck = "lame_duck_duration: \"40s\"\nlame_duck_grace_period: \"30s\"";
    let mut cluster = Cluster::start(2, |server| server.with(ACCOUNTS).with(duck)).await;
    let weir = WeirConfig::of(&cluster).cluster(ADMIN).start().await;
    // weir's system connection is on one of the two servers; the other has no connection at all.
    cluster.servers[1].signal(Signal::USR2);
    weir.sees(1).await;
    for _ in 0..4 {
        RawClient::connect(&weir.address, &orders()).await.round_trip().await.unwrap();
    }
}

/// The lines of the log that speak of the system account.
fn of_the_login(weir: &Weir) -> Vec<String> {
    let log = weir.log();
    let is_of_it =
        |line: &&str| line.contains("system account") || line.contains("async_nats") || line.contains("nats:");
    log.lines().filter(is_of_it).map(str::to_owned).collect()
}

async fn with_login(login: &str) -> (NatsServer, Weir) {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let config = WeirConfig::of_servers(&[&server]).without_monitors().cluster(login).log_level("info");
    let weir = config.start_before(0).await;
    (server, weir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_login_begins_with_one_line_and_no_warning() {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let weir = WeirConfig::of_servers(&[&server]).without_monitors().cluster(ADMIN).log_level("info").start().await;
    weir.says("connected to the system account").await;
    let lines = of_the_login(&weir);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    assert!(line.contains(" INFO ") && line.contains("connected to the system account"), "{line}");
    assert!(line.contains("user=\"admin\"") && line.contains("account=\"SYS\""), "{line}");
    assert!(!weir.log().contains("no reading"), "{}", weir.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_another_account_is_told_once_with_key_and_cure_until_it_is_one_of_the_system_account() {
    let (mut server, weir) = with_login("[cluster.system]\nuser = \"o\"\npassword = \"p\"").await;
    let line = eventually(PATIENCE, "the warning", async || {
        of_the_login(&weir).into_iter().find(|line| line.contains("WARN")).ok_or_else(|| weir.log())
    })
    .await;
    for part in ["key=\"cluster.system.user\"", "user=\"o\"", "account=\"ORDERS\"", "advice=", "system_account"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // Several checks later, and after a loss of the connection, the same thing is not told again.
    server.kill9();
    server.restart().await;
    eventually(PATIENCE, "weir is there again", async || {
        let connections = server.connections().await;
        if connections > 0 { Ok(()) } else { Err(connections) }
    })
    .await;
    let before = server.monitoring("/varz").await.unwrap()["in_msgs"].as_u64().unwrap();
    eventually(PATIENCE, "it asks again", async || {
        let now = server.monitoring("/varz").await.unwrap()["in_msgs"].as_u64().unwrap();
        if now >= before + 4 { Ok(()) } else { Err(now) }
    })
    .await;
    assert!(!weir.log().contains("connected to the system account"), "{}", weir.log());
    // A connection that is lost for long is a fault of its own, and after that the login is a new one.
    let told = |words: &str| of_the_login(&weir).iter().filter(|line| line.contains(words)).count();
    let times = 1 + told("no connection to the system account");
    assert!((1..=times).contains(&told("is not one of")), "{}", weir.log());
    RawClient::connect(&weir.address, &orders()).await.round_trip().await.unwrap();
    // The user moves to the system account.
    server.reconfigure("[{user: admin, password: s3cr3t-adm1n}]", "[{user: o, password: p}]");
    server.reconfigure("ORDERS { users: [{user: o, password: p}] }", "ORDERS { users: [{user: x, password: p}] }");
    server.kill9();
    server.restart().await;
    weir.sees(1).await;
    weir.says("connected to the system account").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_once_with_key_and_cure_and_tried_on() {
    let (mut server, weir) = with_login(&ADMIN.replace("s3cr3t", "wr0ng")).await;
    let refused = |server: &NatsServer| server.log().matches("authentication error").count();
    eventually(PATIENCE, "it is tried on", async || {
        let tries = refused(&server);
        if tries >= 4 { Ok(()) } else { Err(tries) }
    })
    .await;
    weir.says("Authorization Violation").await;
    let lines: Vec<_> = of_the_login(&weir).into_iter().filter(|line| !line.contains("no reading")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in [" WARN ", "key=\"cluster.system.user\"", "Authorization Violation", "advice=", "system_account"] {
        assert!(lines[0].contains(part), "{part}: {lines:?}");
    }
    assert!(!weir.log().contains("adm1n"), "{}", weir.log());
    // The password is mended at the server.
    server.reconfigure("s3cr3t-adm1n", "wr0ng-adm1n");
    server.signal(Signal::HUP);
    weir.sees(1).await;
    assert_eq!(weir.log().matches("refuse the login").count(), 1, "{}", weir.log());
    weir.says("connected to the system account").await;
}
