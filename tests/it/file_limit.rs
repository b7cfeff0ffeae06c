//! The limit of open files: weir does not start where it could serve nobody, and clients beyond those that it can serve
//! read why.

use std::process::{Command, Output};

use tokio::net::TcpStream;
use weir_testkit::*;

/// `weir run` where it may open so many files, for 10 s at most.
fn run_with(descriptors: u32) -> Output {
    let config = "[[listeners]]\nlisten = \"127.0.0.1:0\"\n[[cluster.servers]]\naddress = \"127.0.0.1:1\"\n";
    let file = tempfile::NamedTempFile::with_suffix(".toml").expect("a temporary file");
    std::fs::write(&file, config).expect("write the configuration");
    Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -n {descriptors}; exec timeout 10 \"$0\" run -c \"$1\""))
        .arg(weir::binary())
        .arg(file.path())
        .output()
        .expect("weir starts")
}

#[test]
fn weir_does_not_start_where_it_could_serve_nobody() {
    let output = run_with(50);
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the limit of 50 open files carries no client: weir needs "), "{said}");
    assert!(said.contains("for max_clients = 65536 (`ulimit -n 131"), "{said}");
}

const FULL: &str = "maximum connections exceeded";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_beyond_the_limit_read_why_and_those_that_are_in_go_on() {
    let server = NatsServer::start(ServerOptions::named("n1").default_timeouts()).await;
    let small = "[[listeners]]\nlisten = \"127.0.0.1:0\"\nmax_clients = 4";
    let config = WeirConfig::of_servers(&[&server]).default_settings().top("workers = 2").table(small);
    let weir = config.file_limit(200).start().await;
    // Those who are in read nothing for a while: of another name they are nobody's ghosts.
    let silent = Login::nobody().name("silent");
    let mut inside = vec![RawClient::connect(&weir.other_listeners[0], &silent).await];
    loop {
        match RawClient::attempt(&weir.address, &silent, PATIENCE).await {
            Attempt::In(client) => inside.push(client),
            refused => {
                assert_eq!(refused.refusal(), Some(FULL), "{refused:?}");
                break;
            }
        }
    }
    // 48 + 2 + 16 of weir's own, and a tenth of what is left for refusals.
    assert_eq!(inside.len(), 60);
    let (_, varz) = http::get(&weir.monitor, "/varz").await.unwrap();
    let varz: serde_json::Value = serde_json::from_str(&varz).expect("JSON");
    assert_eq!(varz["max_connections"], 60, "of both listeners together");
    let answer = http::get(&weir.monitor, "/healthz").await.unwrap();
    assert_eq!(answer.0, 503);
    assert!(answer.1.contains("\"error\":\"no file descriptor left\""), "{}", answer.1);

    let address = weir.address.clone();
    let beyond = at_once(300, |_| {
        let address = address.clone();
        async move { RawClient::attempt(&address, &Login::nobody(), PATIENCE).await }
    })
    .await;
    let unread: Vec<_> = beyond.iter().filter(|attempt| attempt.refusal() != Some(FULL)).collect();
    assert!(unread.is_empty(), "{} of 300 have read no reason: {:?}", unread.len(), unread.first());
    let refused =
        |metrics: &metrics::Metrics| metrics.sum_where("weir_refused_total", "reason", "listener_full") >= 301.0;
    weir.until("the refusals are counted", refused).await;

    // Silent connections take what is kept for refusals. Nobody who is in notices, nor does a scrape.
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(&weir.address).await.unwrap());
    }
    for client in &mut inside {
        client.round_trip().await.unwrap();
    }
    let told = "clients wait in the kernel's queue";
    eventually(PATIENCE, told, async || if weir.log().contains(told) { Ok(()) } else { Err(weir.log()) }).await;
    assert_eq!(weir.health().await, 503);
    // They are behind the silent ones, whose time is short.
    let address = weir.address.clone();
    let behind = at_once(20, |_| {
        let address = address.clone();
        async move { RawClient::attempt(&address, &Login::nobody(), PATIENCE).await }
    })
    .await;
    assert!(behind.iter().all(|attempt| attempt.refusal() == Some(FULL)), "{behind:?}");

    drop((silent, inside));
    weir.assert_nothing_leaked().await;
    eventually(PATIENCE, "there is room again", async || match weir.health().await {
        200 => Ok(()),
        status => Err(status),
    })
    .await;
    RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.unwrap();
}
