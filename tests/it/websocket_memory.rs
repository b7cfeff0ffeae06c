//! What clients over WebSocket cost that are not in yet.

use weir_testkit::{websocket::*, *};

const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
const CLIENTS: usize = 600;

/// A decompressor takes 43 KiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stop_in_a_compressed_message_hold_few_decompressors() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let listener = "kind = \"websocket\"\nhandshake_timeout = \"60s\"\n[listeners.websocket]\ncompression = true";
    let weir = WeirConfig::of_servers(&[&server]).listener(listener).cluster("reserve = 0").start().await;
    let connect = format!("{}PING\r\n", Login::nobody().connect_line());
    let (mut short, mut long) = (Vec::new(), Vec::new());
    frame(TEXT, true, true, true, &deflated(connect.as_bytes()), &mut short);
    // The first of several frames, in which the decompressor has something to do.
    frame(TEXT, false, true, true, &deflated(connect.as_bytes())[..40], &mut long);
    let mut last = 0;
    for begun in [&short[..short.len() - 1], &long] {
        let mut clients = Vec::new();
        // What connections themselves cost, and what weir sets up once.
        for _ in 0..CLIENTS {
            clients.push(WsClient::greeted(&weir.address, DEFLATE).await.0);
        }
        let before = weir.rss();
        for client in &mut clients {
            client.raw(begun).await.unwrap();
        }
        // It reads on meanwhile: who comes now is served.
        WsClient::connect(&weir.address, DEFLATE, &Login::nobody()).await;
        let mut client = WsClient::open(&weir.address, DEFLATE).await;
        client.say_deflated(connect.as_bytes()).await;
        while client.line().await != "PONG" {}
        last = weir.rss().saturating_sub(before);
        assert!(last < CLIENTS as u64 * 16 * 1024, "{} bytes for each", last / CLIENTS as u64);
    }
    say(&format!("{last} bytes more for {CLIENTS} clients in the middle of a long message"));
    weir.assert_nothing_leaked().await;
}
