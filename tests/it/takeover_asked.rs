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
async fn what_would_be_lost_is_refused_while_another_process_takes_over() {
    let (_cluster, mut weir, admin) = weir("workers = 2", "").await;
    let mut client = connect(&weir).await;
    let (mut between, new) = Between::start(&weir, &admin).await;
    let ready = between.passes_until("ready").await;
    // It has read the configuration, and is a minute away from being late.
    weir.reconfigure("[admission]", "[policies.name]\nrequired = true\n[admission]");
    let said = admin.says(&["reload"]).await;
    assert!(said.code != 0 && said.err.contains("has read the configuration already"), "{said:?}");
    between.pass(ready).await;
    // What operators have asked for has gone before.
    let batch = between.passes_until("batch").await;
    let verbs = [&["drain", "n1"][..], &["undrain", "n1"], &["kick", "--name", "x", "--for", "1m"], &["rebalance"]];
    let said = join_all(verbs.iter().map(|verb| admin.says(verb))).await;
    for (verb, said) in verbs.iter().zip(said) {
        assert!(said.code != 0 && said.err.contains("another process takes over at this moment"), "{verb:?}: {said:?}");
    }
    between.pass(batch).await;
    between.passes_all();
    let mut before = weir.is_replaced_by(new).await;
    assert!(before.wait(PATIENCE).await.success(), "{}", before.log());
    client.round_trip().await.expect("the session goes on");
    admin.does(&["drain", "n1"]).await;
    // And where the takeover is off the same process does it.
    let (mut between, mut new) = Between::start(&weir, &admin).await;
    let held = between.passes_until("batch").await;
    new.kill();
    drop((held, between));
    weir.says("a takeover is off").await;
    admin.does(&["undrain", "n1"]).await;
    weir.reconfigure("required = true", "required = false");
    admin.does(&["reload"]).await;
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

/// `systemctl stop` signals the new process too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_stopped_while_it_takes_over_drains_what_it_has() {
    let top = "workers = 2\nlame_duck_grace_period = \"1s\"\nlame_duck_duration = \"2s\"";
    let (_cluster, mut weir, admin) = weir(top, "").await;
    let clients = join_all((0..4).map(|_| connect(&weir))).await;
    let (mut between, new) = Between::start(&weir, &admin).await;
    let held = between.passes_until("serve").await;
    let mut before = weir.replace(new);
    weir.signal(Signal::TERM);
    between.pass(held).await;
    between.passes_all();
    let status = weir.wait(PATIENCE).await;
    assert!(status.success(), "{status}: {}", weir.log());
    weir.says("has taken over").await;
    weir.says("draining").await;
    before.wait(PATIENCE).await;
    drop(clients);
}
