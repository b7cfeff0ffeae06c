//! weir may have no more memory than it has, or little more. The limit is that of its address space (RLIMIT_AS), which
//! a process may be given while it runs; a container's limit ends weir by SIGKILL, which `weir_itself` shows.

use std::{os::unix::process::ExitStatusExt as _, time::Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use weir_testkit::*;

use crate::scene::{EAGER, LONGEST, Scene, all_come, nothing, rest};

/// Limits weir's address space to what it has now and so many MiB more.
fn limit(weir: &Weir, more: u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", weir.pid())).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmSize:")).expect("VmSize");
    let now: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("KiB");
    let most = Some((now << 10) + (more << 20));
    let pid = i32::try_from(weir.pid()).ok().and_then(Pid::from_raw);
    prlimit(pid, Resource::As, Rlimit { current: most, maximum: most }).expect("a limit of a process of ours");
}

/// Clients that do not read what is sent to them, as much as their servers keep for them.
async fn stalled_clients(scene: &Scene, n: usize) -> Vec<RawClient> {
    let mut stalled = at_once(n, |i| {
        let (address, login) = (scene.weir.address.clone(), rest(&format!("stalled-{i}")));
        async move {
            let mut client = RawClient::connect(&address, &login).await;
            client.subscribe("flood", 1).await.expect("it is in");
            client
        }
    })
    .await;
    let mut publisher = RawClient::connect(&scene.weir.address, &rest("publisher")).await;
    let payload = vec![b'x'; 256 << 10];
    for _ in 0..40 {
        publisher.publish("flood", &payload).await.expect("it is in");
        publisher.round_trip().await.expect("it is in");
    }
    stalled.push(publisher);
    stalled
}

/// What clients make weir keep fits into the bounds that weir has for it.
async fn little_more_is_enough(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let server = |server: ServerOptions| server.with("max_pending: 32MB\nwrite_deadline: \"60s\"");
    let mut scene = Scene::start_with(server, |config, _| config, EAGER).await;
    limit(&scene.weir, 128);
    let stalled = stalled_clients(&scene, 100).await;
    let storm = Crowd::start_each(&scene.weir.address, 300, EAGER, |i| rest(&format!("storm-{i}")));
    storm.settles_at(300).await;
    all_come(&scene, 10).await;
    meanwhile(&mut scene).await;
    assert_eq!(scene.weir.exited(), None, "weir runs:\n{}", scene.weir.log());
    storm.end().await;
    drop(stalled);
    scene.recovers("128 MiB of address space, stalled clients and a storm", Instant::now()).await;
    assert_eq!(scene.lost(), 0, "{:?} {:?}", scene.orders.ends(), scene.rest.ends());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_memory() {
    little_more_is_enough(nothing).await;
}

/// Without memory weir ends, says why, and does not stay half alive; its service manager starts it again.
async fn none_is_left(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let mut scene = Scene::start_with(|server| server, |config, _| config, EAGER).await;
    limit(&scene.weir, 0);
    let storm = Crowd::start_each(&scene.weir.address, 3000, EAGER, |i| rest(&format!("storm-{i}")));
    let status = scene.weir.wait(LONGEST).await;
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{status}");
    assert!(scene.weir.log().contains("memory allocation of "), "it says why");
    storm.end().await;
    let (config, ended) = (scene.config.clone(), Instant::now());
    scene.weir.start_again(&config).await;
    meanwhile(&mut scene).await;
    scene.recovers("no memory left: weir ends and is started again", ended).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_memory_left() {
    none_is_left(nothing).await;
}
