//! The reserve: clients of the system account get in when everything else is full.

use weir_testkit::{operator::Operator, *};

const FULL: &str = "maximum connections exceeded";
const HASTY: &str = "rate = 20000\nburst = 20000\nmax_hold = \"2s\"\nrefusal_spread = \"5ms\"";

/// Fills the four slots that weir may fill of a server with six slots and a reserve of two.
async fn fill(weir: &Weir, login: &Login) -> Vec<RawClient> {
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(RawClient::connect(&weir.address, login).await);
    }
    let told = RawClient::attempt(&weir.address, login, PATIENCE).await;
    assert_eq!(told.refusal(), Some(FULL), "{told:?}");
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_password() {
    let accounts = "
        system_account: SYS
        accounts { SYS { users: [{user: admin, password: a}] }, ORDERS { users: [{user: o, password: p}] } }";
    let server = NatsServer::start(ServerOptions::default().max_connections(6).with(accounts)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .cluster("reserve = 2")
        .admission(HASTY)
        .account("SYS", "users = [\"admin\"]")
        .start()
        .await;
    let clients = fill(&weir, &Login::user("o", "p")).await;
    let mut operators = Vec::new();
    for _ in 0..2 {
        let mut operator = RawClient::connect(&weir.address, &Login::user("admin", "a")).await;
        operator.round_trip().await.unwrap();
        operators.push(operator);
    }
    // The reserve is used up now, and weir never asked the server for more than it has.
    let third = RawClient::attempt(&weir.address, &Login::user("admin", "a"), PATIENCE).await;
    assert_eq!(third.refusal(), Some(FULL), "{third:?}");
    let wrong = RawClient::attempt(&weir.address, &Login::user("o", "p"), PATIENCE).await;
    assert_eq!(wrong.refusal(), Some(FULL), "{wrong:?}");
    server.settles_at(6).await;
    assert!(!server.log_contains("maximum connections exceeded"));
    drop((clients, operators));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_signature() {
    let operator = Operator::with_accounts([-1, -1]);
    let config = operator.server_config_with_system(1);
    let server = NatsServer::start(ServerOptions::default().max_connections(6).with(&config)).await;
    let weir = WeirConfig::of_servers(&[&server]).cluster("reserve = 2").admission(HASTY).start().await;
    let login = |account: usize| {
        let user = operator.account(account).user();
        Login::jwt(&user.jwt, &user.key)
    };
    let (orders, system) = (login(0), login(1));
    let clients = fill(&weir, &orders).await;
    // The first time it has signed a nonce of weir's own and is refused. After that weir knows its source.
    let first = RawClient::attempt(&weir.address, &system, PATIENCE).await;
    assert_eq!(first.refusal(), Some(FULL), "{first:?}");
    let mut operators = Vec::new();
    for _ in 0..2 {
        operators.push(RawClient::connect(&weir.address, &system).await);
    }
    drop(operators.pop());
    server.settles_at(5).await;
    // weir refuses other clients of that source before their CONNECT reaches the server.
    for _ in 0..5 {
        let told = RawClient::attempt(&weir.address, &orders, PATIENCE).await;
        assert_eq!(told.refusal(), Some(FULL), "{told:?}");
    }
    assert_eq!(server.account_connections(&operator.account(0).name()).await, 4);
    operators.push(RawClient::connect(&weir.address, &system).await);
    drop((clients, operators));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_a_full_listener() {
    let accounts = "
        system_account: SYS
        accounts { SYS { users: [{user: admin, password: a}] }, ORDERS { users: [{user: o, password: p}] } }";
    let server = NatsServer::start(ServerOptions::default().with(accounts)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .listener("max_clients = 2")
        .admission(HASTY)
        .account("SYS", "users = [\"admin\"]")
        .start()
        .await;
    let orders = Login::user("o", "p");
    let clients = [RawClient::connect(&weir.address, &orders).await, RawClient::connect(&weir.address, &orders).await];
    let told = RawClient::attempt(&weir.address, &orders, PATIENCE).await;
    assert_eq!(told.refusal(), Some(FULL), "{told:?}");
    let mut operator = RawClient::connect(&weir.address, &Login::user("admin", "a")).await;
    operator.round_trip().await.unwrap();
    let wrong = RawClient::attempt(&weir.address, &Login::user("admin", "x"), PATIENCE).await;
    assert_eq!(wrong.refusal(), Some("Authorization Violation"), "{wrong:?}");
    drop((clients, operator));
    weir.assert_nothing_leaked().await;
}
