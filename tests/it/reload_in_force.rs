//! A reload puts into force the keys that change while weir runs, beside those that need a restart: what both kinds say
//! together holds, and what follows from the first follows them.

use std::time::Duration;

use weir_testkit::{admin::AdminSocket, tls::Authority, *};

fn sessions(name: &str) -> String {
    format!("weir_sessions_active{{server=\"{name}\"}}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_below_the_reserve_that_weir_runs_with_is_not_reloaded() {
    let server = NatsServer::start(ServerOptions::named("n1")).await;
    let admin = AdminSocket::default();
    let config = WeirConfig::of_servers(&[&server]).cluster("reserve = 500").table(&admin.toml());
    let mut weir = config.start().await;
    weir.reconfigure("reserve = 500", "reserve = 10");
    weir.reconfigure("name = \"n1\"", "name = \"n1\"\nmax_connections = 400");
    let told = "max_connections: 400 is not more than the reserve of 500 slots, as weir runs until a restart \
                ([cluster] reserve); restart weir with this file, or write more";
    for verb in [&["reload", "--dry-run"][..], &["reload"]] {
        let said = admin.says(verb).await;
        assert!(said.code != 0 && said.err.contains(told), "{verb:?}: {said:?}");
    }
    RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.unwrap();
    // More than the reserve of before: the cap holds, and the reserve waits.
    weir.reconfigure("max_connections = 400", "max_connections = 600");
    let metrics = weir.reloads().await;
    assert_eq!(metrics.sum("weir_config_keys_awaiting_restart"), 1.0);
    RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.unwrap();
}
