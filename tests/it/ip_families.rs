//! One listener for IPv4 and IPv6. An IPv4 client is an IPv4 client there, wherever its address counts or is shown.

use tempfile::TempDir;
use weir_testkit::*;

/// weir that listens on every address of both families, as it does by default on another port.
async fn on_both(servers: &[&NatsServer], listener: &str, more: &str) -> (Weir, String, String) {
    let dir = TempDir::with_prefix("weir-test-").expect("temporary folder");
    let config = WeirConfig::of_servers(servers).listener(listener).cluster(more);
    let config = config.admission("[admission.per_source]\nmax_connections = 2");
    let toml = config.toml(&dir.path().join("ports.json").display().to_string());
    let toml = toml.replacen("listen = \"127.0.0.1:0\"", "listen = \"[::]:0\"", 1);
    let weir = Weir::spawn(&toml, dir).await;
    weir.sees(servers.len()).await;
    let port = weir.port();
    let (v4, v6) = (format!("127.0.0.1:{port}"), format!("[::1]:{port}"));
    (weir, v4, v6)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_families_are_served_and_told_apart() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let (weir, v4, v6) = on_both(&[&server], "", "").await;
    let mut inside = Vec::new();
    for (address, ip) in [(&v4, "127.0.0.1"), (&v6, "::1"), (&v4, "127.0.0.1"), (&v6, "::1")] {
        let client = match RawClient::attempt(address, &Login::nobody(), PATIENCE).await {
            Attempt::Ended(_) if ip == "::1" && std::net::TcpListener::bind("[::1]:0").is_err() => {
                return skip("this machine has no IPv6");
            }
            attempt => attempt.expect_in(),
        };
        assert_eq!((&client.info["client_ip"], &client.info["host"]), (&ip.into(), &"0.0.0.0".into()));
        inside.push(client);
    }
    // Each address has its own quota, and both are used up.
    for address in [&v4, &v6] {
        let attempt = RawClient::attempt(address, &Login::nobody(), PATIENCE).await;
        assert!(matches!(attempt, Attempt::Refused { .. }), "{attempt:?}");
    }
    drop(inside);
    weir.until("all have left", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
    for peer in ["peer=127.0.0.1:", "peer=[::1]:"] {
        weir.says(peer).await;
    }
    let log = weir.log();
    assert!(!log.contains("::ffff:"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trusted_networks_and_proxy_headers_know_ipv4_as_ipv4() {
    let server = NatsServer::start(ServerOptions::default()).await;
    for trusted in ["127.0.0.0/8", "::ffff:127.0.0.0/104"] {
        let listener = format!("accept_proxy_protocol_from = [{trusted:?}]");
        let (weir, v4, _) = on_both(&[&server], &listener, "").await;
        for header in ["PROXY TCP4 192.0.2.7 192.0.2.1 5 4222\r\n", "PROXY TCP6 ::ffff:192.0.2.7 ::1 5 4222\r\n"] {
            let attempt = RawClient::attempt_behind(header.as_bytes(), &v4, &Login::nobody(), PATIENCE).await;
            assert_eq!(attempt.expect_in().info["client_ip"], "192.0.2.7", "{trusted} {header}");
        }
        weir.until("both have left", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
        weir.says("peer=192.0.2.7:5").await;
        assert!(!weir.log().contains("::ffff:192"), "{}", weir.log());
    }
}
