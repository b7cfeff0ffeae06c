//! What clients have to be like: a name, a version that is not too old, and sessions that are used.

use std::time::Duration;

use serde_json::json;
use weir_testkit::*;

const ACCOUNTS: &str = "accounts {
    ORDERS { users: [{user: app, password: p}] }
    OTHERS { users: [{user: other, password: p}] }
}";
const USERS: [(&str, &str); 2] = [("ORDERS", "users = [\"app\"]"), ("OTHERS", "users = [\"other\"]")];

async fn weir_with(policies: &str) -> (NatsServer, Weir) {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let config = WeirConfig::of_servers(&[&server]).default_settings();
    let config = USERS.iter().fold(config, |config, (account, users)| config.account(account, users));
    let weir = config.table(policies).start().await;
    (server, weir)
}

fn client(user: &str, name: &str, lang: &str, version: &str) -> Login {
    Login::user(user, "p").name(name).lang(lang).with("version", json!(version))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_without_a_name_or_with_an_old_library_are_refused() {
    let (_server, weir) = weir_with(
        "[policies.name]\nrequired = true\naccounts = [\"ORDERS\"]\n\
         [policies.version.min_version_by_lang]\ngo = \"1.30\"",
    )
    .await;
    for (login, text) in [
        (client("app", "", "go", "1.31.0"), Some("client name required")),
        (client("app", "orders", "go", "1.29.9"), Some("minimum version required")),
        (client("app", "orders", "go", "1.30.0"), None),
        (client("app", "orders", "rust", "0.1.0"), None),
        (client("other", "", "go", "1.31.0"), None),
    ] {
        let attempt = RawClient::attempt(&weir.address, &login, PATIENCE).await;
        assert_eq!(attempt.refusal(), text, "{login:?}");
        if let Some(mut inside) = attempt.into_client() {
            inside.round_trip().await.expect("it is in");
        }
    }
    for reason in ["name_missing", "client_too_old"] {
        let sample = format!("weir_refused_total{{reason=\"{reason}\"}}");
        weir.until("each is counted", |metrics| metrics.get(&sample) == Some(1.0)).await;
    }
    weir.assert_nothing_leaked().await;
}

/// The official client of Rust takes both texts for a failed attempt, and is let in once it is as it should be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_client_without_a_name_reads_why() {
    let (_server, weir) = weir_with("[policies.name]\nrequired = true").await;
    let options = || async_nats::ConnectOptions::with_user_and_password("app".into(), "p".into());
    let err = options().connect(weir.url()).await.expect_err("it has no name");
    assert!(err.to_string().contains("client name required"), "{err}");
    let named = options().name("orders").connect(weir.url()).await.expect("it has a name");
    named.flush().await.expect("it is in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_only_warns_lets_in_and_counts() {
    let (_server, weir) = weir_with(
        "[policies.name]\nrequired = true\nwarn_only = true\n\
         [policies.version]\nwarn_only = true\n[policies.version.min_version_by_lang]\ngo = \"1.30\"\n\
         [policies.idle]\ntimeout = \"1s\"\nwarn_only = true",
    )
    .await;
    let mut inside = RawClient::connect(&weir.address, &client("app", "", "go", "1.0.0")).await;
    let would = |reason: &str| format!("weir_would_refuse_total{{reason=\"{reason}\"}}");
    let (name, version) = (would("name_missing"), would("client_too_old"));
    let idle = "weir_would_close_total{reason=\"idle\"}";
    let counted =
        |metrics: &metrics::Metrics| [&*name, &*version, idle].iter().all(|sample| metrics.get(sample) == Some(1.0));
    weir.until("each is counted", counted).await;
    inside.round_trip().await.expect("it stays");
    for line in ["let in over a quota or policy that only warns", "idle for longer than the policy allows"] {
        eventually(PATIENCE, line, async || if weir.log().contains(line) { Ok(()) } else { Err(weir.log()) }).await;
    }
    let metrics = weir.metrics().await;
    assert_eq!((metrics.sum("weir_refused_total"), metrics.get(idle)), (0.0, Some(1.0)), "each is told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_moves_nothing_but_ping_is_ended() {
    let (_server, weir) = weir_with("[policies.idle]\ntimeout = \"8s\"\naccounts = [\"ORDERS\"]").await;
    let mut pings = RawClient::connect(&weir.address, &client("app", "pings", "go", "1.30.0")).await;
    let mut spared = RawClient::connect(&weir.address, &client("other", "spared", "go", "1.30.0")).await;
    let (mut busy, address) = (Vec::new(), weir.address.clone());
    // Publishes, and delivers to the other one: a message is one in either direction.
    busy.push(RawClient::connect(&address, &client("app", "hears", "go", "1.30.0")).await);
    busy[0].subscribe("busy", 1).await.expect("SUB");
    busy.push(RawClient::connect(&address, &client("app", "speaks", "go", "1.30.0")).await);
    loop {
        busy[1].publish("busy", b"x").await.expect("it is in");
        assert_eq!(busy[0].next_msg().await.0, "busy");
        if pings.round_trip().await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let sample = "weir_closed_total{party=\"weir\",phase=\"relay\",reason=\"idle\"}";
    weir.until("it is counted", |metrics| metrics.get(sample) == Some(1.0)).await;
    for client in busy.iter_mut().chain([&mut spared]) {
        client.round_trip().await.expect("it is used, or of another account");
    }
    drop((busy, spared));
    weir.assert_nothing_leaked().await;
}
