//! Quotas by user and by client name, and quotas that only warn.

use weir_testkit::*;

const QUOTA: &str = "maximum account active connections exceeded";
const USERS: &str =
    "authorization { users: [{user: batch-1, password: p}, {user: batch-2, password: p}, {user: web, password: p}] }";

fn login(user: &str, name: &str) -> Login {
    Login::user(user, "p").name(name)
}

/// Waits for the count, since weir counts a refusal only when the client has gone.
async fn refused(weir: &Weir, reason: &str, n: f64) {
    let counted = |metrics: &metrics::Metrics| metrics.sum_where("weir_refused_total", "reason", reason) == n;
    weir.until(&format!("{n} refusals for {reason}"), counted).await;
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
    refused(&weir, "user_quota", 2.0).await;
    for name in ["report a", "report b", "report c"] {
        clients.push(RawClient::connect(&weir.address, &login("web", name)).await);
    }
    let told = RawClient::attempt(&weir.address, &login("web", "report d"), PATIENCE).await;
    assert_eq!(told.refusal(), Some(QUOTA), "{told:?}");
    refused(&weir, "name_quota", 1.0).await;
    clients.push(RawClient::connect(&weir.address, &login("web", "other")).await);
    drop(clients.remove(0));
    let again = eventually(PATIENCE, "its slot is given back", async || {
        RawClient::attempt(&weir.address, &login("batch-1", ""), PATIENCE).await.into_client().ok_or("refused")
    })
    .await;
    clients.push(again);
    server.settles_at(8).await;
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
    for reason in ["source_quota", "account_quota", "user_quota", "name_quota"] {
        let would = format!("weir_would_refuse_total{{reason=\"{reason}\"}}");
        weir.until(reason, |metrics| metrics.get(&would) == Some(2.0)).await;
    }
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
    eventually(PATIENCE, "it is in the log", async || match weir.log() {
        log if log.contains("let in over a quota or policy that only warns") => Ok(()),
        log => Err(log),
    })
    .await;
    drop(clients);
    weir.assert_nothing_leaked().await;
}

/// A client over its rate is held as long as its deadline allows, and other clients are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_hold_within_the_clients_time() {
    let server = NatsServer::start(ServerOptions::default().with(USERS)).await;
    let slow = "rate = 1\nburst = 1";
    let weir = WeirConfig::of_servers(&[&server])
        .admission("rate = 20000\nburst = 20000\nmax_hold = \"19s\"\n[admission.max_hold_by_lang]\nhasty = \"20ms\"")
        .table(&format!("[users.\"batch-*\"]\n{slow}\n[names.\"report *\"]\n{slow}"))
        .start()
        .await;
    for (kind, hasty) in [(login("batch-1", ""), "user_rate"), (login("web", "report a"), "name_rate")] {
        let clients = at_once(4, |_| {
            let (address, login) = (weir.address.clone(), kind.clone());
            async move { RawClient::connect(&address, &login).await }
        })
        .await;
        // The next token is some time away. A client that comes now and cannot wait is refused with the reason.
        let promised = at_once(4, |_| {
            let (address, login) = (weir.address.clone(), kind.clone());
            async move { RawClient::attempt(&address, &login, PATIENCE).await }
        });
        let told = async {
            weir.until("some wait", |metrics| metrics.sum("weir_held") >= 1.0).await;
            let told = RawClient::attempt(&weir.address, &kind.clone().lang("hasty"), PATIENCE).await;
            let other = RawClient::connect(&weir.address, &login("batch-2", "other")).await;
            drop(other);
            told
        };
        let (promised, told) = tokio::join!(promised, told);
        assert_eq!(told.refusal(), Some(QUOTA), "{told:?}");
        refused(&weir, hasty, 1.0).await;
        let promised: Vec<_> = promised.into_iter().map(Attempt::expect_in).collect();
        drop((clients, promised));
    }
    weir.assert_nothing_leaked().await;
}
