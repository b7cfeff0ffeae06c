//! Clients that weir moves from server to server: `weir rebalance`, and rolling restarts.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use weir_testkit::{admin::AdminSocket, *};

fn moved(metrics: &metrics::Metrics, cause: &str, result: &str) -> f64 {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_does_what_the_dry_run_said_and_then_nothing() {
    let (cluster, admin) = (Cluster::start(3, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).cluster("slow_start = \"0s\"").table(&admin.toml()).start().await;
    for server in ["n2", "n3"] {
        admin.does(&["drain", server]).await;
    }
    let most = Crowd::start(&weir.address, 90, &Login::nobody(), Habit::PATIENT);
    most.settles_at(90).await;
    for server in ["n2", "n3"] {
        admin.does(&["undrain", server]).await;
    }
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
    weir.says("rebalance has ended").await;
    assert!(began.elapsed() > Duration::from_millis(55 * 50), "55 gaps of 50 ms: {:?}", began.elapsed());
    are(&cluster, [34, 33, 33]).await;
    let landed = |metrics: &metrics::Metrics| moved(metrics, "rebalance", "landed");
    let metrics = weir.until("each of them has landed", |metrics| landed(metrics) == 56.0).await;
    assert_eq!(refused(&metrics), 0.0);
    assert_eq!(metrics.sum_where("weir_closed_total", "reason", "rebalance"), 56.0);

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
        eventually(PATIENCE, "the rebalance has ended", async || {
            let status = admin.answers(&["rebalance", "--status"]).await;
            if status["state"] == "ended" { Ok(()) } else { Err(status) }
        })
        .await;
    }
    let metrics = weir.metrics().await;
    assert_eq!(refused(&metrics), 0.0);
    assert!(moved(&metrics, "lame_duck", "landed") > 0.0 && moved(&metrics, "rebalance", "landed") > 0.0);
    crowd.end().await;
    weir.assert_nothing_leaked().await;
}
