//! Servers that are put into lame duck mode, end, and come back, where weir has no readings of them: another process at
//! the address is no lame duck. And servers that have one client go.

use rustix::process::Signal;
use weir_testkit::*;

use crate::rehome::REHOME;

/// A server that lets go of its clients soon after it has gone into lame duck mode, as few as they are.
fn quick(server: ServerOptions) -> ServerOptions {
    server.with("lame_duck_grace_period: 100ms")
}

/// Puts a server into lame duck mode, waits until it has ended, and starts it again.
async fn replace(server: &mut NatsServer) {
    // What `nats-server --signal ldm` sends.
    server.signal(Signal::USR2);
    eventually(PATIENCE, "the lame duck has ended", async || if server.runs() { Err("it runs") } else { Ok(()) }).await;
    server.restart().await;
}

async fn comes_back(weir: WeirConfig, up: usize, server: &mut NatsServer) {
    let weir = weir.default_settings().start_before(up).await;
    let client = RawClient::connect(&weir.address, &Login::nobody()).await;
    replace(server).await;
    let back = eventually(PATIENCE, "it is used again", async || {
        match RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await {
            Attempt::In(client) => Ok(client),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    drop((client, back));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_monitor_it_is_used_again_once_it_is_back() {
    let mut server = NatsServer::start(quick(ServerOptions::default())).await;
    let weir = WeirConfig::of_servers(&[&server]).without_monitors();
    comes_back(weir, 1, &mut server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_monitor_that_never_answers_it_is_used_again_once_it_is_back() {
    let mut server = NatsServer::start(quick(ServerOptions::default())).await;
    let weir = WeirConfig::of_servers(&[&server]).with_monitor(&format!("127.0.0.1:{}", ports::free()));
    comes_back(weir, 0, &mut server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_without_monitors_leaves_all_servers_in_use() {
    let mut cluster = Cluster::start(3, quick).await;
    let weir = WeirConfig::of(&cluster).without_monitors().default_settings().start().await;
    let crowd = Crowd::start(&weir.address, 30, &Login::nobody(), Habit::NATS_GO);
    crowd.settles_at(30).await;
    for n in 0..3 {
        replace(&mut cluster.servers[n]).await;
        weir.sees(3).await;
        crowd.settles_at(30).await;
    }
    // Whoever comes while a server is busy goes to another one, so on a slow machine it takes more of them.
    let mut more = Vec::new();
    eventually(PATIENCE, "the servers have equal shares", async || {
        while more.len() < 30 {
            more.push(RawClient::connect(&weir.address, &Login::nobody()).await);
        }
        more.push(RawClient::connect(&weir.address, &Login::nobody()).await);
        let shares = cluster.connections().await;
        if unevenness(&shares) <= 1.2 { Ok(()) } else { Err(shares) }
    })
    .await;
    crowd.end().await;
    drop(more);
    weir.assert_nothing_leaked().await;
}

const ACCOUNTS: &str = "
    system_account: SYS
    accounts { SYS { users: [{user: admin, password: adm}] }, APP { users: [{user: app, password: p}] } }
    no_auth_user: app";

/// Has a server tell one of its clients to go, as an operator does.
async fn tells_one_to_go(server: &NatsServer) {
    let connz = server.monitoring("/connz").await.expect("/connz");
    let (cid, id) = (&connz["connections"][0]["cid"], &connz["server_id"].as_str().expect("an id"));
    let options = async_nats::ConnectOptions::with_user_and_password("admin".into(), "adm".into());
    let operator = options.connect(&server.address).await.unwrap();
    let request = format!("{{\"cid\":{cid}}}");
    let answer = operator.request(format!("$SYS.REQ.SERVER.{id}.LDM"), request.into()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

/// The INFO is the one that each client gets of a server that shuts down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_its_server_tells_to_go_goes_alone() {
    for account in ["weight = 1", REHOME] {
        let cluster = Cluster::start(2, |server| server.with(ACCOUNTS)).await;
        let weir = WeirConfig::of(&cluster).account("APP", account).start().await;
        let crowd = Crowd::start(&weir.address, 6, &Login::nobody(), Habit::NATS_GO);
        crowd.settles_at(6).await;
        let are = async |expected: [u64; 2]| {
            eventually(PATIENCE, "the servers have their clients", async || {
                let counts = cluster.connections().await;
                if counts == expected { Ok(()) } else { Err(counts) }
            })
            .await;
        };
        are([3, 3]).await;
        tells_one_to_go(&cluster.servers[0]).await;
        are([2, 4]).await;
        // New clients still go there, and it keeps its own.
        let login = Login::nobody();
        let more = [RawClient::connect(&weir.address, &login).await, RawClient::connect(&weir.address, &login).await];
        are([4, 4]).await;
        let metrics = weir.metrics().await;
        let moved: f64 = metrics.of("weir_moves_total").map(|(_, n)| n).sum();
        assert_eq!(moved, 1.0, "{account}");
        drop(more);
        crowd.end().await;
        weir.assert_nothing_leaked().await;
    }
}
