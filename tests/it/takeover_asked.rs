//! Takeovers while somebody asks for something else: nothing that is answered with yes is lost, and a process that has
//! sessions drains them. And takeovers with more sockets than fit beside one message.

use futures::future::join_all;
use rustix::process::Signal;
use weir_testkit::{admin::AdminSocket, takeover::Between, *};

async fn weir(top: &str, more: &str) -> (Cluster, Weir, AdminSocket) {
    let (cluster, admin) = (Cluster::start(2, |server| server).await, AdminSocket::default());
    let config = WeirConfig::of(&cluster).top(top).table(&admin.toml()).table(more).log_level("info");
    let weir = config.start().await;
    (cluster, weir, admin)
}

async fn connect(weir: &Weir) -> RawClient {
    RawClient::connect(&weir.address, &Login::nobody()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_sockets_than_fit_beside_a_message_are_taken_over() {
    // 242 for clients, and two more.
    let (_cluster, mut weir, _admin) = weir("workers = 121", "[[listeners]]\nlisten = \"127.0.0.1:0\"").await;
    let mut client = connect(&weir).await;
    assert!(weir.is_taken_over_whole().await.success());
    client.round_trip().await.expect("the session goes on");
    for _ in 0..20 {
        connect(&weir).await.round_trip().await.expect("a client comes in");
    }
}
