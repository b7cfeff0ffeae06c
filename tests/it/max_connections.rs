//! However many clients come at once, no server reaches its `max_connections`, and no slot that weir may fill stays
//! empty.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use weir_testkit::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once_on_285_slots() {
    let cluster = Cluster::start(3, |server| server.max_connections(100)).await;
    let weir = WeirConfig::of(&cluster)
        .cluster("reserve = 5")
        .admission("rate = 300\nburst = 100\nmax_hold = \"1500ms\"\nrefusal_spread = \"1500ms\"")
        .start()
        .await;

    let crowd = Crowd::start(&weir.address, 1000, &Login::nobody(), Habit::NATS_GO);
    crowd.settles_at(285).await;
    assert_eq!(cluster.settles_at(285).await, [95, 95, 95], "every slot weir may fill is filled, the reserve is not");

    // The other 715 clients keep trying, which changes nothing.
    let tried = crowd.attempts();
    eventually(PATIENCE, "everyone outside has tried again", async || match crowd.attempts() {
        now if now >= tried + 1500 => Ok(()),
        now => Err(now),
    })
    .await;
    assert_eq!((crowd.connected(), crowd.most_connected(), crowd.lost()), (285, 285, 0));
    assert_eq!(cluster.connections().await, [95, 95, 95]);
    assert!(!cluster.log_contains("maximum connections exceeded"), "no server ever had to refuse");
    weir.agrees_with(&cluster).await;
    let strange: Vec<_> = crowd
        .ends()
        .into_keys()
        .filter(|end| !["maximum connections exceeded", "timed out"].contains(&end.as_str()))
        .collect();
    assert!(strange.is_empty(), "only polite refusals: {strange:?}");

    // After all have left, the same number gets in again.
    crowd.end_some(1000);
    crowd.end().await;
    cluster.settles_at(0).await;
    let next = Crowd::start(&weir.address, 285, &Login::nobody(), Habit::NATS_GO);
    next.settles_at(285).await;
    assert_eq!(cluster.settles_at(285).await, [95, 95, 95]);
    next.end().await;
    assert!(!cluster.log_contains("maximum connections exceeded"), "no server ever had to refuse");
    weir.assert_nothing_leaked().await;
}

/// The server's own `/varz`, with 0 for its limit: nats-server 2.15 without a limit cannot be had, older ones can.
async fn varz_without_limit(server: &NatsServer) -> String {
    let mut varz = server.varz().await;
    varz["max_connections"] = 0.into();
    let body = varz.to_string();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                while matches!(stream.read(&mut [0; 4096]).await, Ok(1..)) {
                    stream.write_all(answer.as_bytes()).await?;
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_shown_only_where_weir_knows_it() {
    let server = NatsServer::start(ServerOptions::default().max_connections(100)).await;
    let both = ["weir_server_max_connections", "weir_server_headroom"];
    let shown = async |config: WeirConfig| {
        let weir = config.start().await;
        let metrics = weir.metrics().await;
        both.map(|name| metrics.of(name).map(|(_, value)| value).collect::<Vec<_>>())
    };
    let config = || WeirConfig::of_servers(&[&server]).cluster("reserve = 5");
    assert_eq!(shown(config()).await, [[100.0], [95.0]]);
    // nats-server's default of 65,536 is what weir goes by, and not what it knows.
    assert_eq!(shown(config().without_monitors()).await, [[0.0; 0], [0.0; 0]]);
    let configured = config().without_monitors().replacing("address", "max_connections = 50\naddress");
    assert_eq!(shown(configured).await, [[50.0], [45.0]]);
    let unlimited = config().with_monitor(&varz_without_limit(&server).await);
    assert_eq!(shown(unlimited).await, [[f64::INFINITY], [f64::INFINITY]]);
}
