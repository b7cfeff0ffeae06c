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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_takes_as_long_as_the_configuration_in_force_says() {
    const CLIENTS: usize = 100;
    let cluster = Cluster::start(2, |server| server).await;
    let admin = AdminSocket::default();
    let top = "workers = 2\nlame_duck_grace_period = \"0s\"\nlame_duck_duration = \"1h\"";
    let mut weir = WeirConfig::of(&cluster).top(top).table(&admin.toml()).start().await;
    let mut clients = vec![];
    for _ in 0..CLIENTS {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    let there = weir.gauge(&sessions("n1")).await;
    assert!(there > 20.0, "{there} of {CLIENTS}");
    // At this pace alone the drain would take a minute.
    weir.reconfigure("rate = 20000\nburst = 20000", "rate = 1\nburst = 1");
    weir.reconfigure("lame_duck_duration = \"1h\"", "lame_duck_duration = \"1ms\"");
    let metrics = weir.reloads().await;
    assert_eq!(metrics.sum("weir_config_keys_awaiting_restart"), 0.0);
    admin.does(&["drain", "n1"]).await;
    weir.until("the server is empty", |metrics| metrics.get(&sessions("n1")) == Some(0.0)).await;
    drop(clients);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_await_tls_are_not_asked_for_info_once_listeners_pass_it_through() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("server", &["localhost", "127.0.0.1"]);
    let tls = format!("tls {{ cert_file: {:?}, key_file: {:?}, handshake_first: true }}", own.cert, own.key);
    let server = NatsServer::start(ServerOptions::named("n1").with(&tls)).await;
    let mut weir = WeirConfig::of_servers(&[&server]).listener("kind = \"client\"").start_at_once().await;
    weir.says("server ejected").await;
    let passthrough = "kind = \"passthrough\"\n[listeners.passthrough]\nhandshake_first = true";
    weir.reconfigure("kind = \"client\"", passthrough);
    let metrics = weir.reloads().await;
    assert_eq!(metrics.sum("weir_config_keys_awaiting_restart"), 0.0);
    let options = || {
        let options = async_nats::ConnectOptions::new().require_tls(true).add_root_certificates(authority.ca());
        options.tls_first().connection_timeout(PATIENCE)
    };
    let connect = async || options().connect(weir.url()).await;
    eventually(PATIENCE, "a client gets in", connect).await;
    // weir's own dials would fail one after the other, each within 2 s, and have the server ejected. One may be under
    // way.
    let failed = || weir.log().matches("no INFO").count();
    let before = failed();
    for n in 0..40 {
        let client = connect().await.unwrap_or_else(|err| panic!("client {n}: {err}"));
        client.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(failed() <= before + 1, "weir dials a server that sends it no INFO: {}", weir.log());
}
