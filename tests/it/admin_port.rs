//! The admin port: whoever connects there takes nothing from clients and keeps weir from nothing.

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weir_testkit::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_request_does_not_keep_weir_from_ending() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let mut weir = WeirConfig::of_servers(&[&server]).start().await;
    let mut half = TcpStream::connect(&weir.monitor).await.unwrap();
    half.write_all(b"GET /metrics HTTP/1.1\r\nhost: weir\r\n").await.unwrap();
    let mut whole = TcpStream::connect(&weir.monitor).await.unwrap();
    whole.write_all(b"GET /healthz HTTP/1.1\r\nhost: weir\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    whole.read_exact(&mut answer).await.unwrap(); // weir has begun to read both
    weir.signal(Signal::TERM);
    weir.signal(Signal::TERM); // the second one ends the drain
    assert!(weir.wait(PATIENCE).await.success());
    drop((half, whole));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_take_no_descriptor_from_clients_and_no_scrape() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).file_limit(300).start().await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(&weir.monitor).await.unwrap());
    }
    weir.metrics().await; // by now weir has accepted all of them
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    weir.metrics().await;
    drop((silent, clients));
    weir.assert_nothing_leaked().await;
}
