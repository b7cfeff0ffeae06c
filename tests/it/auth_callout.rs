//! Auth callouts: through weir the callout service gets the same requests as without weir, and no more at a time than
//! allowed.

use std::time::Duration;

use nkeys::KeyPair;
use weir_testkit::{callout::Callout, *};

const VIOLATION: &str = "Authorization Violation";
const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 4222\r\n";
const APP: &str = "users = [\"*\"]";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_is_asked_the_same_as_without_weir() {
    nats::at_least(2, 12); // PROXY headers
    for callout in [Callout::new(), Callout::encrypted()] {
        asked_the_same(callout).await;
    }
}

async fn asked_the_same(callout: Callout) {
    let config = ServerOptions::default().with(&callout.server_config()).with("proxy_protocol: true");
    let server = NatsServer::start(config).await;
    let service = callout.run(&server.address, Duration::ZERO).await;
    let weir = WeirConfig::of_servers(&[&server])
        .listener("accept_proxy_protocol_from = [\"127.0.0.0/8\"]")
        .cluster("proxy_protocol = true")
        .start()
        .await;
    let key = KeyPair::new_user();
    for login in [
        Login::user("alice", "s3cr3t").name("a name").with("version", "9.9.9".into()),
        Login::token("t0ken"),
        // It signs the server's nonce with a key that only the callout service knows.
        Login::user("alice", "x").with("nkey", key.public_key().into()).signing(&key),
        Login::user("al\u{e9}ce \"q\"", "p\\w"),
    ] {
        let mut asked = Vec::new();
        for address in [&server.address, &weir.address] {
            let mut client = RawClient::attempt_behind(HEADER, address, &login, PATIENCE).await.expect_in();
            client.round_trip().await.unwrap();
            let mut request = service.seen().pop().unwrap();
            let nonce = client.info["nonce"].as_str().expect("servers with NKey users send a nonce");
            let signed = login.answering(&client.info);
            for (key, value) in signed.fields() {
                if ["user", "pass", "auth_token", "nkey", "sig", "name", "version"].contains(&key.as_str()) {
                    assert_eq!(request["connect_opts"][key], *value, "{key}");
                }
            }
            if request["client_info"]["nonce"].is_string() {
                assert_eq!(request["client_info"]["nonce"], nonce);
            }
            assert_eq!(request["client_info"]["host"], "192.0.2.7");
            // These fields differ between any two connections.
            request["client_info"].as_object_mut().unwrap().retain(|key, _| key != "id" && key != "nonce");
            request["connect_opts"].as_object_mut().unwrap().remove("sig");
            request["user_nkey"].take();
            request["request_nonce"].take();
            asked.push(request);
        }
        assert_eq!(asked[0], asked[1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_service_is_given_as_many_as_it_may_have() {
    nats::at_least(2, 10);
    let callout = Callout::new();
    let server = NatsServer::start(ServerOptions::default().with(&callout.server_config())).await;
    let service = callout.run(&server.address, Duration::from_millis(50)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .account("APP", &format!("{APP}\nmax_handshakes = 2"))
        .account("AUTH", "users = [\"auth\"]")
        .start()
        .await;
    let attempts = at_once(16, |_| {
        let address = weir.address.clone();
        async move { RawClient::attempt(&address, &Login::user("alice", "x").lang("nats.js"), PATIENCE).await }
    })
    .await;
    let clients: Vec<_> = attempts.into_iter().filter_map(Attempt::into_client).collect();
    assert!(clients.len() >= 8, "{} of 16 are in, most of the others out of time", clients.len());
    assert!(service.most_at_once() <= 2, "{} at once", service.most_at_once());
    assert_eq!(weir.metrics().await.sum("weir_bad_logins_total"), 0.0);
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_no_passes_and_is_counted_by_account_source_and_reason() {
    nats::at_least(2, 10);
    let callout = Callout::new();
    let server = NatsServer::start(ServerOptions::default().with(&callout.server_config())).await;
    let _service = callout.run(&server.address, Duration::ZERO).await;
    let weir = WeirConfig::of_servers(&[&server]).account("APP", APP).start().await;
    for _ in 0..3 {
        let attempt = RawClient::attempt(&weir.address, &Login::user("nobody", "s3cr3t"), PATIENCE).await;
        assert_eq!(attempt.refusal(), Some(VIOLATION));
    }
    let metrics = weir.metrics().await;
    assert_eq!(metrics.get("weir_bad_logins_total{account=\"APP\",reason=\"violation\"}"), Some(3.0));
    assert_eq!(metrics.get("weir_bad_logins_by_source_total{source=\"127.0.0.1\"}"), Some(3.0));
    assert!(!weir.log().contains("s3cr3t"));
}
