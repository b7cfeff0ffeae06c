//! Quotas by user and by client name, and quotas that only warn.
mod support;

use support::*;

const QUOTA: &str = "maximum account active connections exceeded";
const USERS: &str =
    "authorization { users: [{user: batch-1, password: p}, {user: batch-2, password: p}, {user: web, password: p}] }";

fn login(user: &str, name: &str) -> Login {
    Login::user(user, "p").name(name)
}

async fn refused(weir: &Weir, reason: &str) -> f64 {
    weir.gauge(&format!("weir_refused_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_user_and_by_name() {
    let server = NatsServer::start(ServerOptions::default().with(USERS)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .table("[users.\"batch-*\"]\nmax_connections = 2\n[names.\"report *\"]\nmax_connections = 3")
        .start()
        .await;
    let mut clients = Vec::new();
    for user in ["batch-1", "batch-2"] {
        for _ in 0..2 {
            clients.push(RawClient::connect(&weir.address, &login(user, "")).await);
        }
        let told = RawClient::attempt(&weir.address, &login(user, ""), PATIENCE).await;
        assert_eq!(told.refusal(), Some(QUOTA), "{told:?}");
    }
    assert_eq!(refused(&weir, "user_quota").await, 2.0);
    for name in ["report a", "report b", "report c"] {
        clients.push(RawClient::connect(&weir.address, &login("web", name)).await);
    }
    let told = RawClient::attempt(&weir.address, &login("web", "report d"), PATIENCE).await;
    assert_eq!((told.refusal(), refused(&weir, "name_quota").await), (Some(QUOTA), 1.0));
    clients.push(RawClient::connect(&weir.address, &login("web", "other")).await);
    drop(clients.remove(0));
    server.settles_at(7).await;
    clients.push(RawClient::connect(&weir.address, &login("batch-1", "")).await);
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_warns_lets_in_and_says_so() {
    let server = NatsServer::start(ServerOptions::default().with(USERS)).await;
    let limit = "max_connections = 1\nwarn_only = true";
    let weir = WeirConfig::of_servers(&[&server])
        .admission(&format!("rate = 20000\nburst = 20000\n[admission.per_source]\n{limit}"))
        .account("default", limit)
        .table(&format!("[users.\"*\"]\n{limit}\n[names.\"*\"]\n{limit}"))
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(RawClient::connect(&weir.address, &login("web", "x")).await);
    }
    let metrics = weir.metrics().await;
    for reason in ["source_quota", "account_quota", "user_quota", "name_quota"] {
        let would = metrics.get(&format!("weir_would_refuse_total{{reason=\"{reason}\"}}"));
        assert_eq!(would, Some(2.0), "{reason}");
    }
    assert_eq!(metrics.sum("weir_refused_total"), 0.0);
    eventually(PATIENCE, "it is in the log", async || match weir.log() {
        log if log.contains("let in over a quota that only warns") => Ok(()),
        log => Err(log),
    })
    .await;
    drop(clients);
    weir.assert_nothing_leaked().await;
}
