//! However many clients come at once, no server reaches its `max_connections`, and no slot that weir may fill stays
//! empty.

use weir_testkit::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once_on_285_slots() {
    let cluster = Cluster::start(3, |server| server.max_connections(100)).await;
    let weir = WeirConfig::of(&cluster)
        .cluster("reserve = 5")
        .admission("rate = 300\nburst = 100\nmax_hold = \"1500ms\"\nrefusal_spread = \"1500ms\"")
        .start()
        .await;

    let fleet = Fleet::start(&weir.address, 1000, &Login::nobody(), Habit::NATS_GO);
    fleet.settles_at(285).await;
    assert_eq!(cluster.settles_at(285).await, [95, 95, 95], "every slot weir may fill is filled, the reserve is not");

    // The other 715 clients keep trying, which changes nothing.
    let tried = fleet.attempts();
    eventually(PATIENCE, "everyone outside has tried again", async || match fleet.attempts() {
        now if now >= tried + 1500 => Ok(()),
        now => Err(now),
    })
    .await;
    assert_eq!((fleet.connected(), fleet.most_connected(), fleet.lost()), (285, 285, 0));
    assert_eq!(cluster.connections().await, [95, 95, 95]);
    assert!(!cluster.log_contains("maximum connections exceeded"), "no server ever had to refuse");
    weir.agrees_with(&cluster).await;
    let strange: Vec<_> = fleet
        .ends()
        .into_keys()
        .filter(|end| !["maximum connections exceeded", "timed out"].contains(&end.as_str()))
        .collect();
    assert!(strange.is_empty(), "only polite refusals: {strange:?}");

    // After all have left, the same number gets in again.
    fleet.end_some(1000);
    fleet.end().await;
    cluster.settles_at(0).await;
    let next = Fleet::start(&weir.address, 285, &Login::nobody(), Habit::NATS_GO);
    next.settles_at(285).await;
    assert_eq!(cluster.settles_at(285).await, [95, 95, 95]);
    next.end().await;
    assert!(!cluster.log_contains("maximum connections exceeded"), "no server ever had to refuse");
    weir.assert_nothing_leaked().await;
}
