//! INFO lines that no nats-server of today sends: a value of another type costs clients nothing but that value.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use weir_testkit::{client::Op, *};

/// Passes everything on between weir and a server, and puts `line` in what the server says in each session when told.
/// No real server can be made to send it. Returns its address.
async fn with_a_line(server: String, line: &'static str, told: Arc<Notify>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (server, told) = (server.clone(), Arc::clone(&told));
            tokio::spawn(async move {
                let mut far = TcpStream::connect(server).await?;
                let (mut up, mut down) = ([0; 4096], [0; 4096]);
                loop {
                    tokio::select! {
                        n = near.read(&mut up) => match n? {
                            0 => break,
                            n => far.write_all(&up[..n]).await?,
                        },
                        n = far.read(&mut down) => match n? {
                            0 => break,
                            n => near.write_all(&down[..n]).await?,
                        },
                        () = told.notified() => near.write_all(line.as_bytes()).await?,
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_another_type_keeps_no_info_from_clients_and_is_told_once() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let line = "INFO {\"server_id\":\"NA\",\"server_name\":\"n1\",\"version\":\"2.99.0\",\"proto\":1,\"host\":\"10.0.0.9\",\
                \"port\":4222,\"headers\":true,\"max_payload\":\"1MB\",\"client_id\":5,\"connect_urls\":[\"10.0.0.9:4222\"]}\r\n";
    let told = Arc::<Notify>::default();
    let address = with_a_line(server.address.clone(), line, Arc::clone(&told)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .replacing(&server.address, &address)
        .listener("advertise = [\"nats.example.com:4222\"]\nhandshake_timeout = \"30s\"")
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
        client.round_trip().await.unwrap();
        clients.push(client);
    }
    // Again and again: a notice passes by whoever does not wait at that moment.
    let telling = tokio::spawn(async move {
        loop {
            told.notify_waiters();
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    for client in &mut clients {
        let info = loop {
            match client.next_within(PATIENCE).await.unwrap() {
                Some(Op::Info(info)) if info["version"] != "2.99.0" && info["max_payload"] == "1MB" => break info,
                Some(_) => {}
                None => panic!("the session has ended"),
            }
        };
        assert_eq!(info["connect_urls"], serde_json::json!(["nats.example.com:4222"]));
        assert_eq!((info["port"].to_string(), &info["server_name"]), (weir.port().to_owned(), &"n1".into()));
        client.round_trip().await.unwrap();
    }
    telling.abort();
    weir.says("value of another type").await;
    let log = weir.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("value of another type")).collect();
    assert!(lines.len() == 1 && lines[0].contains("max_payload") && lines[0].contains("server=\"n1\""), "{lines:?}");
    let counted = weir.gauge("weir_server_info_errors_total{server=\"n1\"}").await;
    assert!((1.0..=2.0).contains(&counted), "{counted}: once for each worker at most");
    drop(clients);
    weir.assert_nothing_leaked().await;
}
