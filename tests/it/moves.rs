//! Clients that weir moves from server to server: `weir rebalance`, and rolling restarts.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use weir_testkit::{admin::AdminSocket, *};

pub(crate) fn moved(metrics: &metrics::Metrics, cause: &str, result: &str) -> f64 {
    metrics.get(&format!("weir_moves_total{{cause=\"{cause}\",result=\"{result}\"}}")).unwrap_or(0.0)
}

fn refused(metrics: &metrics::Metrics) -> f64 {
    metrics.of("weir_refused_total").map(|(_, n)| n).sum()
}

/// Waits until each server has as many clients.
async fn are(cluster: &Cluster, expected: [u64; 3]) {
    eventually(PATIENCE, "the servers have their clients", async || {
        let counts = cluster.connections().await;
        if counts == expected { Ok(()) } else { Err(counts) }
    })
    .await;
}

/// Starts clients that are all on the first of three servers, from which the others are kept until then.
async fn crowd_on_the_first(weir: &Weir, admin: &AdminSocket, n: usize) -> Crowd {
    for server in ["n2", "n3"] {
        admin.does(&["drain", server]).await;
    }
    let crowd = Crowd::start(&weir.address, n, &Login::nobody(), Habit::PATIENT);
    crowd.settles_at(n).await;
    for server in ["n2", "n3"] {
        admin.does(&["undrain", server]).await;
    }
    crowd
}

/// Waits until `weir rebalance --status` says so.
async fn until_status(admin: &AdminSocket, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(PATIENCE, what, async || {
        let status = admin.answers(&["rebalance", "--status"]).await;
        if is_so(&status) { Ok(status) } else { Err(status) }
    })
    .await
}

/// Clients of which a rebalance knows what has become of them.
fn ended(status: &Value) -> u64 {
    ["landed", "elsewhere", "late"].iter().map(|name| status[name].as_u64().expect("a count")).sum()
}

/// Begins a rebalance of 40 clients that takes 20 s at least, and waits until some have landed and others are on their
/// way.
async fn comes_halfway(admin: &AdminSocket) {
    assert_eq!(admin.answers(&["rebalance", "--rate", "2/s"]).await["clients"], 40);
    let is_halfway = |status: &Value| {
        assert_eq!(status["state"], "running", "{status}");
        status["landed"].as_u64() >= Some(2) && status["on_their_way"].as_u64() >= Some(1)
    };
    until_status(admin, "some have landed, and others are on their way", is_halfway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_does_what_the_dry_run_said_and_then_nothing() {
    let (cluster, admin) = (Cluster::start(3, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).cluster("slow_start = \"0s\"").table(&admin.toml()).start().await;
    let most = crowd_on_the_first(&weir, &admin, 90).await;
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    are(&cluster, [90, 5, 5]).await;
    weir.agrees_with(&cluster).await;

    assert!(admin.says(&["rebalance", "--pause"]).await.err.contains("no rebalance is under way"));
    let said = admin.answers(&["rebalance", "--dry-run", "--rate", "20/s"]).await;
    let after = serde_json::json!([
        {"server": "n1", "sessions": 90, "after": 34},
        {"server": "n2", "sessions": 5, "after": 33},
        {"server": "n3", "sessions": 5, "after": 33},
    ]);
    assert_eq!((&said["clients"], &said["servers"]), (&56.into(), &after), "{said}");
    let none = admin.answers(&["rebalance", "--dry-run", "--only", "server=n2"]).await;
    assert_eq!(none["clients"], 0, "n2 has none to give: {none}");

    let began = Instant::now();
    admin.does(&["rebalance", "--rate", "20/s"]).await;
    let again = admin.says(&["rebalance"]).await;
    assert!(again.code == 1 && again.err.contains("is under way"), "{again:?}");
    assert!(admin.does(&["rebalance", "--pause"]).await.starts_with("paused"));
    assert!(admin.does(&["rebalance", "--resume"]).await.starts_with("running"));
    let shown = async || {
        let (_, body) = http::get(&weir.monitor, "/overviewz").await.expect("GET /overviewz");
        serde_json::from_str::<Value>(&body).expect("JSON")["moves"].clone()
    };
    eventually(PATIENCE, "the overview shows that it is under way", async || {
        let moves = shown().await;
        if moves["rebalance"]["planned"] == 56 { Ok(()) } else { Err(moves) }
    })
    .await;
    weir.says("rebalance has ended").await;
    assert!(began.elapsed() > Duration::from_millis(55 * 50), "55 gaps of 50 ms: {:?}", began.elapsed());
    are(&cluster, [34, 33, 33]).await;
    let landed = |metrics: &metrics::Metrics| moved(metrics, "rebalance", "landed");
    let metrics = weir.until("each of them has landed", |metrics| landed(metrics) == 56.0).await;
    assert_eq!(refused(&metrics), 0.0);
    assert_eq!(metrics.sum_where("weir_closed_total", "reason", "rebalance"), 56.0);

    eventually(PATIENCE, "the overview shows how it has ended", async || {
        let moves = shown().await;
        let ended = ["state", "landed", "left"].map(|name| moves["rebalance"][name].clone());
        let totals = serde_json::json!([{"cause": "rebalance", "result": "landed", "total": 56}]);
        let is_so = ended.as_slice() == [Value::from("ended"), 56.into(), 0.into()] && moves["totals"] == totals;
        if is_so && moves["emptied"] == serde_json::json!([]) { Ok(()) } else { Err(moves) }
    })
    .await;

    for _ in 0..10 {
        assert_eq!(admin.answers(&["rebalance"]).await["clients"], 0);
    }
    let status = admin.answers(&["rebalance", "--status"]).await;
    assert_eq!((&status["state"], &status["planned"], &status["left"]), (&"ended".into(), &56.into(), &0.into()));
    drop((most, others));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rolling_restart_each_server_has_its_share() {
    let (mut cluster, admin) = (Cluster::start(3, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).table(&admin.toml()).start().await;
    let crowd = Crowd::start(&weir.address, 60, &Login::nobody(), Habit::PATIENT);
    crowd.settles_at(60).await;
    for n in 0..3 {
        // What `nats-server --signal ldm` sends.
        cluster.servers[n].signal(Signal::USR2);
        let name = format!("n{}", n + 1);
        weir.until("its clients have been moved", |metrics| {
            metrics.get(&format!("weir_sessions_active{{server=\"{name}\"}}")) == Some(0.0)
        })
        .await;

        cluster.servers[n].restart().await;
        weir.sees(3).await;
        eventually(PATIENCE, "it has its share again", async || {
            let counts = cluster.connections().await;
            let is_even = counts.iter().sum::<u64>() == 60 && unevenness(&counts) <= 1.1;
            if is_even { Ok(()) } else { Err(counts) }
        })
        .await;
        // The next restart is not to come into the run.
        until_status(&admin, "the rebalance has ended", |status| status["state"] == "ended").await;
    }
    let metrics = weir.metrics().await;
    assert_eq!(refused(&metrics), 0.0);
    assert!(moved(&metrics, "lame_duck", "landed") > 0.0 && moved(&metrics, "rebalance", "landed") > 0.0);
    crowd.end().await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_rebalance_moves_nobody_any_more_and_keeps_no_slot() {
    let (cluster, admin) = (Cluster::start(3, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).cluster("slow_start = \"0s\"").table(&admin.toml()).start().await;
    let crowd = crowd_on_the_first(&weir, &admin, 60).await;
    comes_halfway(&admin).await;
    let closed = |metrics: &metrics::Metrics| metrics.sum_where("weir_closed_total", "reason", "rebalance");

    let aborted = admin.answers(&["rebalance", "--abort"]).await;
    assert_eq!(aborted["state"], "stopping", "{aborted}");
    let begun = ended(&aborted) + aborted["on_their_way"].as_u64().expect("a count");
    assert!(begun < 40, "{aborted}");
    assert_eq!(aborted["left"], 40 - begun, "{aborted}");
    weir.says("rebalance has stopped").await;
    let status = until_status(&admin, "it has ended", |status| status["state"] == "ended").await;
    assert!(status["stopped"].as_str().is_some_and(|why| why.starts_with("aborted by ")), "{status}");
    assert_eq!((ended(&status), &status["on_their_way"]), (begun, &0.into()), "those on their way land: {status}");
    assert!(admin.says(&["rebalance", "--abort"]).await.err.contains("no rebalance is under way"));

    crowd.settles_at(60).await;
    weir.agrees_with(&cluster).await;
    // A slot that is kept counts as a connection.
    weir.until("no slot is kept", |metrics| metrics.sum("weir_server_connections") == 60.0).await;
    let metrics = weir.metrics().await;
    assert_eq!((closed(&metrics), refused(&metrics)), (begun as f64, 0.0));
    assert_eq!(metrics.sum("weir_moves_total"), begun as f64);
    let next = admin.answers(&["rebalance", "--rate", "2/s"]).await;
    assert!(next["clients"].as_u64() > Some(0), "the next one may begin: {next}");
    crowd.end().await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_to_whom_messages_come_all_the_while_are_moved_too() {
    let (cluster, admin) = (Cluster::start(2, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).cluster("slow_start = \"0s\"").table(&admin.toml()).start().await;
    admin.does(&["drain", "n2"]).await;
    let (mut clients, mut subscriptions) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let client = async_nats::connect(weir.url()).await.expect("a client");
        subscriptions.push(client.subscribe("ticks").await.unwrap());
        client.flush().await.unwrap();
        clients.push(client);
    }
    admin.does(&["undrain", "n2"]).await;
    let publisher = async_nats::connect(cluster.servers[0].url()).await.expect("a publisher");
    let ticks = tokio::spawn(async move {
        loop {
            publisher.publish("ticks", "x".into()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(admin.answers(&["rebalance", "--rate", "20/s"]).await["clients"], 4);
    let status = until_status(&admin, "the rebalance has ended", |status| status["state"] == "ended").await;
    assert_eq!((ended(&status), &status["left"]), (4, &0.into()), "{status}");
    weir.until("half are on n2", |metrics| metrics.get("weir_sessions_active{server=\"n2\"}") == Some(4.0)).await;
    ticks.abort();
    drop((clients, subscriptions));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_stops_by_itself_when_a_server_of_its_plan_dies() {
    let (mut cluster, admin) = (Cluster::start(3, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).cluster("slow_start = \"0s\"").table(&admin.toml()).start().await;
    let crowd = crowd_on_the_first(&weir, &admin, 60).await;
    comes_halfway(&admin).await;

    cluster.servers[2].kill9();
    weir.says("rebalance has stopped").await;
    let status = until_status(&admin, "it has ended", |status| status["state"] == "ended").await;
    assert!(status["stopped"].as_str().is_some_and(|why| why.starts_with("n3: ")), "{status}");
    assert!(ended(&status) < 40 && status["on_their_way"] == 0, "{status}");
    let shown = admin.does(&["rebalance", "--status"]).await;
    assert!(shown.contains("; stopped: n3: "), "{shown}");

    crowd.settles_at(60).await;
    weir.agrees_with_servers(&[&cluster.servers[0], &cluster.servers[1]]).await;
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum_where("weir_closed_total", "reason", "rebalance"), ended(&status) as f64);
    crowd.end().await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_begins_by_itself_where_a_server_has_over_twice_the_mean() {
    let (cluster, admin) = (Cluster::start(3, |server| server).await, AdminSocket::default());
    let config = WeirConfig::of(&cluster).cluster("slow_start = \"0s\"").table(&admin.toml());
    let weir = config.table("[rebalance]\nauto = true").start().await;
    let crowd = crowd_on_the_first(&weir, &admin, 60).await;
    let status = until_status(&admin, "one has ended", |status| status["state"] == "ended").await;
    let (by, planned) = (&status["by"], &status["planned"]);
    assert_eq!((by, planned, &status["stopped"]), (&"[rebalance] auto".into(), &40.into(), &Value::Null), "{status}");
    crowd.settles_at(60).await;
    are(&cluster, [20, 20, 20]).await;
    assert_eq!(refused(&weir.metrics().await), 0.0);
    crowd.end().await;
    weir.assert_nothing_leaked().await;
}

/// Twenty clients that are never idle, on two servers of which the first has shut down for a while.
async fn busy_clients_when_a_server_is_back() -> (Cluster, AdminSocket, Weir, tokio::task::JoinSet<()>) {
    let (mut cluster, admin) = (Cluster::start(2, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).table(&admin.toml()).start().await;
    let mut busy = tokio::task::JoinSet::new();
    for n in 0..20 {
        let client = async_nats::connect(weir.url()).await.unwrap_or_else(|err| panic!("client {n}: {err}"));
        busy.spawn(async move {
            loop {
                let _ = client.publish("busy", "x".into()).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    cluster.servers[0].signal(Signal::USR2);
    weir.until("its clients have been moved", |metrics| {
        metrics.get("weir_sessions_active{server=\"n1\"}") == Some(0.0)
    })
    .await;
    cluster.servers[0].restart().await;
    (cluster, admin, weir, busy)
}

fn begun(weir: &Weir) -> usize {
    weir.log().matches("rebalance begins").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_back_does_not_ask_for_ever_for_clients_that_are_never_idle() {
    let (_cluster, admin, weir, busy) = busy_clients_when_a_server_is_back().await;
    until_status(&admin, "nobody goes", |status| status["state"] == "ended" && status["landed"] == 0).await;
    let before = begun(&weir);
    // The next one would begin within a second.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(begun(&weir), before);
    drop(busy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rebalance_for_a_server_that_is_back_can_be_aborted() {
    let (_cluster, admin, weir, busy) = busy_clients_when_a_server_is_back().await;
    weir.says("rebalance begins").await;
    admin.does(&["rebalance", "--abort"]).await;
    until_status(&admin, "it has ended", |status| status["state"] == "ended").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(begun(&weir), 1);
    drop(busy);
}
