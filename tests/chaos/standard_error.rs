//! Nobody reads weir's standard error while all servers die and come back, and then somebody does.

use std::{
    io::{Read, pipe},
    sync::{Arc, Mutex},
    time::Instant,
};

use weir_testkit::*;

use crate::scene::{EAGER, LONGEST, Scene, nothing, rest};

async fn nobody_reads_the_log(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let (mut reader, writer) = pipe().expect("a pipe");
    let mut scene = Scene::start_with(|server| server, |config, _| config.standard_error(writer), EAGER).await;
    // A line for each session, until the pipe and weir's own queue are full.
    let full =
        |metrics: &metrics::Metrics| metrics.sum_where("weir_log_lines_dropped_total", "reason", "queue_full") > 0.0;
    eventually(LONGEST, "the pipe and the queue are full", async || {
        at_once(100, |i| {
            let (address, login) = (scene.weir.address.clone(), rest(&format!("comes-{i}")));
            async move { drop(RawClient::attempt(&address, &login, PATIENCE).await) }
        })
        .await;
        if full(&scene.weir.metrics().await) { Ok(()) } else { Err("no line is lost") }
    })
    .await;
    scene.watch.look().await;
    scene.cluster.servers.iter_mut().for_each(NatsServer::kill9);
    scene.weir.sees(0).await;
    meanwhile(&mut scene).await;
    for server in &mut scene.cluster.servers {
        server.restart().await;
    }
    scene.recovers("every server killed and started again, with a log that nobody reads", Instant::now()).await;

    let (read, then) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
    let into = Arc::clone(&read);
    let reading = std::thread::spawn(move || {
        let mut some = [0; 4096];
        while let Ok(n @ 1..) = reader.read(&mut some) {
            into.lock().expect("the log").extend_from_slice(&some[..n]);
        }
    });
    eventually(LONGEST, "the log goes on", async || {
        drop(RawClient::connect(&scene.weir.address, &rest("after-the-pipe")).await);
        let log = String::from_utf8_lossy(&read.lock().expect("the log")).into_owned();
        match log.contains("after-the-pipe") {
            true => Ok(()),
            false => Err(log.lines().last().unwrap_or_default().to_owned()),
        }
    })
    .await;
    scene.recovers("a log that somebody reads again", then).await;
    scene.end().await;
    reading.join().expect("the log has ended with weir");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_while_all_servers_die() {
    nobody_reads_the_log(nothing).await;
}
