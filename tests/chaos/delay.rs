//! The way between weir and its servers is slow, uneven, or takes connections and says nothing.

use std::time::{Duration, Instant};

use weir_testkit::*;

use crate::{
    relay::{Relay, Way},
    scene::{EAGER, Scene, all_come, nothing},
};

/// Servers whose client ports are behind relays.
async fn behind_relays() -> (Scene, Vec<Relay>) {
    let mut relays = Vec::new();
    let configure = |config: WeirConfig, cluster: &Cluster| {
        cluster.servers.iter().fold(config, |config, server| {
            relays.push(Relay::before(&server.address));
            config.replacing(&server.address, &relays[relays.len() - 1].address)
        })
    };
    let scene = Scene::start_with(|server| server, configure, EAGER).await;
    (scene, relays)
}

pub async fn servers_are_far(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let (mut scene, relays) = behind_relays().await;
    let (least, most) = (Duration::from_millis(50), Duration::from_millis(250));
    let mut meanwhile = Some(meanwhile);
    for way in [Way::Delays(most, most), Way::Delays(least, most)] {
        relays.iter().for_each(|relay| relay.goes(way));
        let began = Instant::now();
        all_come(&scene, 2).await;
        assert!(began.elapsed() > 4 * least, "each login goes to and fro: {:?}", began.elapsed());
        if let Some(meanwhile) = meanwhile.take() {
            meanwhile(&mut scene).await;
        }
    }
    relays.iter().for_each(|relay| relay.goes(Way::Plain));
    scene.recovers("servers as far away as 250 ms, evenly and unevenly", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "{:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_far_away() {
    servers_are_far(nothing).await;
}

/// As behind a balancer or a firewall whose own end has gone: connections are taken, those that there are stay open,
/// and nothing comes through them. Its monitoring port answers all the time.
async fn one_server_is_half_open(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let (mut scene, relays) = behind_relays().await;
    relays[0].goes(Way::Silent);
    all_come(&scene, 15).await;
    meanwhile(&mut scene).await;
    relays[0].goes(Way::Plain);
    scene.recovers("the connections of one server half open", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "{:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_connections_and_says_nothing() {
    one_server_is_half_open(nothing).await;
}
