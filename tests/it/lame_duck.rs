//! Servers that are put into lame duck mode, end, and come back, where weir has no readings of them: another process at
//! the address is no lame duck.

use rustix::process::Signal;
use weir_testkit::*;

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
