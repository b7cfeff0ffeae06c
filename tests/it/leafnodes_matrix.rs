//! Leafnodes and hubs of several versions, in every way to log in, plainly and with TLS, over TCP and over WebSocket.
//! `scripts/leafnodes matrix` names the versions; without it both sides are the nats-server of the other tests.

use std::path::{Path, PathBuf};

use weir_testkit::tls::{Authority, pair};
use weir_testkit::*;

use crate::leafnodes::{Hub, Way, before, both_ways, connected, never_saw, ways};

/// The nats-servers of the matrix, each with the name of its version.
fn binaries() -> Vec<(String, PathBuf)> {
    let named = std::env::var("WEIR_MATRIX_NATS_SERVERS").unwrap_or_default();
    let mut binaries: Vec<PathBuf> = named.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    if binaries.is_empty() {
        binaries.push(nats::binary());
    }
    let version = |binary: &PathBuf| {
        let said = std::process::Command::new(binary).arg("--version").output().expect("a nats-server").stdout;
        String::from_utf8_lossy(&said).trim().rsplit_once('v').expect("a version").1.to_owned()
    };
    binaries.into_iter().map(|binary| (version(&binary), binary)).collect()
}

async fn start(name: &str, own: &str, binary: &Path) -> NatsServer {
    let mut options = ServerOptions::named(name).with(own);
    options.binary = Some(binary.to_owned());
    NatsServer::start(options).await
}

/// One cell: it is connected, messages go both ways, and it never sees the hub's address.
async fn passes((leaf, hub): (&Path, &Path), way: &Way, (scheme, authority): (&str, &Authority)) {
    let weirs = authority.issue("weir", &["127.0.0.1"]);
    // Since 2.10; a nats-server before that does not know the key.
    let compression = |version: &Path| match std::env::var("WEIR_MATRIX_COMPRESSION") {
        Ok(mode) if !is_2_9(version) => format!("compression: {mode}"),
        _ => String::new(),
    };
    let leafnodes = format!("127.0.0.1:{}", ports::free());
    let of_hub =
        format!("leafnodes {{ listen: \"{leafnodes}\"\n{}\n{} }}\n{}", way.of_hub, compression(hub), way.extra);
    let hub = Hub { server: start("n1", &of_hub, hub).await, leafnodes };
    let kind = if scheme.starts_with("ws") { "websocket" } else { "leafnode" };
    let has_tls = ["tls", "wss"].contains(&scheme);
    let tls = if has_tls { format!("[listeners.tls]\n{}", pair(&weirs)) } else { String::new() };
    let websocket = if kind == "websocket" { "[listeners.websocket]\nleafnodes = true\n" } else { "" };
    let weir = before(&[&hub]).listener(&format!("kind = \"{kind}\"\n{websocket}{tls}")).start().await;
    let scheme = if kind == "websocket" { scheme } else { "nats-leaf" };
    let user = if way.user.is_empty() { String::new() } else { format!("{}@", way.user) };
    let tls = if has_tls { format!("tls {{ ca_file: {:?} }}", authority.ca()) } else { String::new() };
    let remote = format!("url: \"{scheme}://{user}{}\"\n{}\n{tls}\n{}", weir.address, way.remote, compression(leaf));
    let own = format!("debug: true\ntrace: true\nleafnodes {{ remotes: [ {{ {remote} }} ] }}");
    let edge = start("edge1", &own, leaf).await;
    connected(&edge, 1).await;
    both_ways(&edge, &hub, &way.at_hub).await;
    never_saw(&edge, &[&hub]);
    drop(edge);
    weir.assert_nothing_leaked().await;
}

fn is_2_9(binary: &Path) -> bool {
    let said = std::process::Command::new(binary).arg("--version").output().expect("a nats-server").stdout;
    String::from_utf8_lossy(&said).contains("v2.9.")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_in_every_way() {
    let binaries = binaries();
    eprintln!("| leafnode | hub | login | TCP | TLS | ws | wss |\n|---|---|---|---|---|---|---|");
    for (leaf, leaf_binary) in &binaries {
        for (hub, hub_binary) in &binaries {
            let authority = Authority::new("weir tests");
            for way in ways(&authority).iter().filter(|way| way.what != "nobody") {
                // Remotes know `nkey` since 2.10.
                if way.what == "an NKey" && is_2_9(leaf_binary) {
                    eprintln!("| {leaf} | {hub} | {} | no such key | | | |", way.what);
                    continue;
                }
                for scheme in ["tcp", "tls", "ws", "wss"] {
                    passes((leaf_binary, hub_binary), way, (scheme, &authority)).await;
                }
                eprintln!("| {leaf} | {hub} | {} | passed | passed | passed | passed |", way.what);
            }
        }
    }
}
