//! Another process takes over in the middle of a fault.

use crate::{delay, monitors, scene::Scene, servers};

async fn taken_over(scene: &mut Scene) {
    let lost = scene.lost();
    assert!(scene.weir.is_taken_over_whole().await.success());
    assert_eq!(scene.lost(), lost, "a takeover closes nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_every_server_is_down() {
    servers::all_are_killed(taken_over).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_every_server_is_frozen() {
    servers::all_stand_still(taken_over).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long"]
async fn while_servers_are_restarted_in_turn() {
    // Servers close clients meanwhile, so that it cannot be told who loses what by the takeover.
    let taken_over = async |scene: &mut Scene| assert!(scene.weir.is_taken_over_whole().await.success());
    servers::all_are_restarted_in_turn(taken_over).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long"]
async fn while_monitors_misbehave() {
    monitors::monitors_misbehave(taken_over).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long"]
async fn while_servers_are_far() {
    delay::servers_are_far(taken_over).await;
}
