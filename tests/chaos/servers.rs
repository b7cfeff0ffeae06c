//! Every server gone and back: killed, stopped in order, and frozen. Clients are refused politely meanwhile, and all
//! are back afterwards by themselves.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::time::sleep;
use weir_testkit::{NatsServer, eventually};

use crate::scene::{LONGEST, QUOTA, REST, Scene, nothing};

/// Power is lost, and comes back.
pub async fn all_are_killed(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let mut scene = Scene::start().await;
    scene.watch.look().await;
    scene.cluster.servers.iter_mut().for_each(NatsServer::kill9);
    scene.weir.sees(0).await;
    eventually(LONGEST, "all clients have lost them", async || match scene.lost() {
        lost if lost >= QUOTA + REST => Ok(()),
        lost => Err(lost),
    })
    .await;
    // Clients try again in vain.
    let tried = scene.rest.attempts();
    eventually(LONGEST, "clients have tried again", async || match scene.rest.attempts() {
        now if now >= tried + REST => Ok(()),
        now => Err(now),
    })
    .await;
    assert_eq!(scene.weir.health().await, 503);
    meanwhile(&mut scene).await;
    for server in &mut scene.cluster.servers {
        server.restart().await;
    }
    scene.recovers("every server killed and started again", Instant::now()).await;
    scene.is_polite();
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_killed_and_started_again() {
    all_are_killed(nothing).await;
}

/// One after another is stopped and started, the next one as soon as the last one is ready: while clients of the first
/// are on their way to the second, that goes too.
pub async fn all_are_restarted_in_turn(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let mut scene = Scene::start().await;
    let mut meanwhile = Some(meanwhile);
    for n in 0..scene.cluster.servers.len() {
        scene.watch.look().await;
        scene.cluster.servers[n].restart().await;
        if n == 1
            && let Some(meanwhile) = meanwhile.take()
        {
            meanwhile(&mut scene).await;
        }
    }
    scene.recovers("every server restarted, one after another without a pause", Instant::now()).await;
    scene.is_polite();
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_restarted_in_turn() {
    all_are_restarted_in_turn(nothing).await;
}

/// As when the machines of all servers stand still for the migration of their disks. Whoever is in stays connected.
pub async fn all_stand_still(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let mut scene = Scene::start().await;
    scene.cluster.servers.iter_mut().for_each(|server| server.signal(Signal::STOP));
    scene.weir.sees(0).await;
    // Longer than logins are waited for, so that weir has taken all servers for bad ones.
    sleep(Duration::from_secs(3)).await;
    meanwhile(&mut scene).await;
    scene.cluster.servers.iter_mut().for_each(|server| server.signal(Signal::CONT));
    scene.recovers("every server frozen (SIGSTOP)", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "nobody has lost its connection: {:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.is_polite();
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_frozen() {
    all_stand_still(nothing).await;
}

/// Accounts that are re-homed: nobody loses its connection, neither when one server after another is killed nor when no
/// server is left for a while.
async fn all_are_killed_beneath_clients_that_stay(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let mut scene = Scene::start_rehomed(|server| server, |config, _| config).await;
    for n in 0..scene.cluster.servers.len() {
        scene.watch.look().await;
        scene.cluster.servers[n].kill9();
        scene.weir.sees(2).await;
        scene.cluster.servers[n].restart().await;
        scene.recovers("one server killed beneath clients that stay", Instant::now()).await;
    }
    scene.cluster.servers.iter_mut().for_each(NatsServer::kill9);
    scene.weir.sees(0).await;
    meanwhile(&mut scene).await;
    for server in &mut scene.cluster.servers {
        server.restart().await;
    }
    scene.recovers("every server killed beneath clients that stay", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "nobody has lost its connection: {:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.is_polite();
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_killed_beneath_clients_that_stay() {
    all_are_killed_beneath_clients_that_stay(nothing).await;
}
