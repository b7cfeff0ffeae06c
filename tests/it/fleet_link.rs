//! The connection of a weir to its fleet: whom it hears, what it needs, and what it does without.

use std::{fs::Permissions, os::unix::fs::PermissionsExt};

use rustix::process::Signal;
use weir_testkit::{fleet, *};

const IN_FORCE: &str = "leases of the fleet are in force";

fn orders() -> Login {
    Login::user("orders-1", "secret")
}

/// Three servers with an account for the weirs and one for clients.
async fn cluster(has_jetstream: bool) -> Cluster {
    let mut accounts = fleet::accounts("ORDERS { users: [{user: orders-1, password: secret}] }");
    if !has_jetstream {
        accounts = accounts.replace("jetstream: enabled, ", "");
    }
    let cluster = Cluster::start(3, |server| {
        let server = server.with(&accounts);
        if has_jetstream { server.jetstream() } else { server }
    });
    cluster.await
}

fn with_quota(cluster: &Cluster) -> WeirConfig {
    WeirConfig::of(cluster).account("ORDERS", "users = [\"orders-*\"]\nmax_connections = 10")
}

/// Makes `n` attempts at the same time, spread over the weirs, and returns those that got in.
/// Each has a name of its own: they read nothing once they are in, and would be taken for ghosts of those who come
/// later.
async fn attempts(weirs: &[&Weir], n: usize) -> Vec<RawClient> {
    let all = at_once(n, |i| {
        let address = weirs[i % weirs.len()].address.clone();
        let login = orders().name(&fastrand::u64(..).to_string());
        async move { RawClient::attempt(&address, &login, 2 * PATIENCE).await }
    });
    all.await.into_iter().filter_map(Attempt::into_client).collect()
}

/// Accounts of which the login of the fleet has these permissions.
fn servers_with(permissions: &str) -> String {
    format!(
        "accounts {{ WEIRS {{ jetstream: enabled, users: [{{user: weir-1, password: fl33t-1-s3cret{permissions}}}] }} }}"
    )
}

/// Exit code, and the lines of standard error.
async fn check(of: &WeirConfig) -> (i32, Vec<String>) {
    let folder = tempfile::TempDir::with_prefix("weir-test-").expect("temporary folder");
    let path = folder.path().join("weir.toml");
    std::fs::write(&path, of.toml("weir.ports")).expect("write");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
    let mut command = tokio::process::Command::new(weir::binary());
    command.args(["check", "--quiet", "--connect"]).current_dir(folder.path()).stdin(std::process::Stdio::null());
    let output = command.output().await.expect("weir runs");
    let said = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
    (output.status.code().expect("a code"), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weirs_hear_of_each_other_and_of_each_others_end() {
    let cluster = Cluster::start(2, |server| server.with(&fleet::accounts(""))).await;
    let of_all = WeirConfig::of(&cluster);
    let one = fleet::config(&of_all, 1).start().await;
    let mut two = fleet::config(&of_all, 2).start().await;
    let mut three = fleet::config(&of_all, 3).start().await;
    for weir in ["weir-2", "weir-3"] {
        one.says(&format!("another weir of the fleet is there weir=\"{weir}\"")).await;
    }
    three.signal(Signal::TERM);
    one.says("another weir of the fleet has ended weir=\"weir-3\"").await;
    two.kill9();
    one.says("another weir of the fleet has lost its connection, or is gone weir=\"weir-2\"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_in_the_account_does_no_harm() {
    let cluster = Cluster::start(1, |server| server.with(&fleet::accounts(""))).await;
    let weir = fleet::config(&WeirConfig::of(&cluster), 1).start().await;
    let options = async_nats::ConnectOptions::with_user_and_password("weir-2".into(), "fl33t-2-s3cret".into());
    let stranger = options.connect(&cluster.servers[0].address).await.expect("connects");
    for message in ["", "{", "{\"v\":9}", "[]"] {
        stranger.publish("weir.fleet.edge.beat", message.into()).await.expect("publishes");
        stranger.publish("weir.fleet.edge.bye", message.into()).await.expect("publishes");
    }
    stranger.publish("weir.fleet.edge.beat", vec![b' '; 300_000].into()).await.expect("publishes");
    weir.says("a message of the fleet is not taken in").await;
    assert_eq!(weir.log().matches("is not taken in").count(), 1, "it is told once: {}", weir.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_login_or_its_servers_weir_serves() {
    let cluster = Cluster::start(1, |server| server.with("authorization { users: [{user: a, password: a}] }")).await;
    let weir = fleet::config(&WeirConfig::of(&cluster), 1).start().await;
    weir.says("the servers refuse the login to the fleet; weir keeps trying").await;
    let login = async_nats::ConnectOptions::with_user_and_password("a".into(), "a".into());
    login.connect(&weir.address).await.expect("a client gets in");
    assert!(!weir.log().contains("s3cret"), "no secret is shown: {}", weir.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_which_permission_is_missing() {
    let right = concat!(
        ", permissions: {publish: [\"weir.fleet.edge.>\", \"_INBOX_weir-fleet-edge.>\", \"$KV.weir-fleet-edge.>\", ",
        "\"$JS.API.STREAM.INFO.KV_weir-fleet-edge\", \"$JS.API.STREAM.CREATE.KV_weir-fleet-edge\", ",
        "\"$JS.API.STREAM.MSG.GET.KV_weir-fleet-edge\", \"$JS.API.CONSUMER.CREATE.KV_weir-fleet-edge\", ",
        "\"$JS.API.CONSUMER.CREATE.KV_weir-fleet-edge.>\", ",
        "\"$JS.API.CONSUMER.DELETE.KV_weir-fleet-edge.>\", \"$JS.FC.KV_weir-fleet-edge.>\"], ",
        "subscribe: [\"weir.fleet.edge.>\", \"_INBOX_weir-fleet-edge.>\"]}"
    );
    let start = async |permissions: &str| {
        let extra = servers_with(permissions);
        let server = NatsServer::start(ServerOptions::named("n1").jetstream().with(&extra)).await;
        let weir = fleet::config(&WeirConfig::of_servers(&[&server]), 1);
        (server, weir)
    };
    let (_server, weir) = start(right).await;
    assert_eq!(check(&weir).await, (0, vec![]), "what the page says is enough");

    let (_server, weir) = start(&right.replace("\"$KV.weir-fleet-edge.>\", ", "")).await;
    let (code, said) = check(&weir).await;
    assert!(code == 1 && said.len() == 1, "{said:?}");
    let all =
        "fleet.user: it may not publish to $KV.weir-fleet-edge.weir-check; let it publish to $KV.weir-fleet-edge.>";
    assert!(said[0].contains(all), "{said:?}");

    let (_server, weir) = start(&right.replace("subscribe: [\"weir.fleet.edge.>\"", "subscribe: [\"a\"")).await;
    let (code, said) = check(&weir).await;
    assert!(code == 1 && said.iter().any(|line| line.contains("it may not subscribe to weir.fleet.edge.")), "{said:?}");

    let server =
        NatsServer::start(ServerOptions::named("n1").with(&servers_with("").replace("jetstream: enabled,", ""))).await;
    let (code, said) = check(&fleet::config(&WeirConfig::of_servers(&[&server]), 1)).await;
    assert!(code == 0 && said.len() == 1, "{said:?}");
    assert!(said[0].contains("warning: fleet.quota: JetStream"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_one_for_two_weirs() {
    let cluster = cluster(true).await;
    let of_all = with_quota(&cluster);
    let one = fleet::config(&of_all, 1).start().await;
    let mut two = fleet::config(&of_all, 2).start().await;
    one.says(IN_FORCE).await;
    two.says(IN_FORCE).await;

    let mut clients = attempts(&[&one, &two], 60).await;
    assert_eq!(clients.len(), 10, "exactly the quota\n{}\n{}", one.log(), two.log());
    assert_eq!(cluster.account_connections("ORDERS").await, 10);

    // Whoever comes to another weir gets what is given back at one.
    clients.drain(..3).for_each(RawClient::abandon);
    let mut more = Vec::new();
    eventually(PATIENCE, "what was given back is taken", async || {
        more.extend(attempts(&[&two], 4).await);
        if more.len() >= 3 { Ok(()) } else { Err(more.len()) }
    })
    .await;
    assert_eq!(more.len(), 3, "and no more than that");
    assert!(cluster.account_connections("ORDERS").await <= 10);

    // The lease of a weir that is killed comes free, and not before its connections are gone.
    two.kill9();
    eventually(PATIENCE, "the lease of a dead weir is taken", async || {
        clients.extend(attempts(&[&one], 5).await);
        match one.metrics().await.sum("weir_sessions_active") {
            10.0 => Ok(()),
            held => Err(held),
        }
    })
    .await;
    assert!(attempts(&[&one], 5).await.is_empty(), "the quota is full");
    assert_eq!(cluster.account_connections("ORDERS").await, 10);
}

/// Servers count nobody's connections by user: the lease of a weir that is gone comes free all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_of_a_user_comes_free_when_a_weir_is_killed() {
    let cluster = cluster(true).await;
    let of_all = WeirConfig::of(&cluster).table("[users.\"orders-*\"]\nmax_connections = 6");
    let mut weirs = [fleet::config(&of_all, 1).start().await, fleet::config(&of_all, 2).start().await];
    for weir in &weirs {
        weir.says(IN_FORCE).await;
    }
    let _held = attempts(&weirs.each_ref(), 30).await;
    assert_eq!(cluster.account_connections("ORDERS").await, 6, "exactly the quota");
    let sessions = async |weir: &Weir| weir.metrics().await.sum("weir_sessions_active");
    // Either may have taken all of it.
    let more_has = usize::from(sessions(&weirs[1]).await > sessions(&weirs[0]).await);
    weirs[more_has].kill9();
    let other = &weirs[1 - more_has];
    let mut more = Vec::new();
    eventually(PATIENCE, "the lease of a dead weir is taken", async || {
        more.extend(attempts(&[other], 6).await);
        match sessions(other).await {
            6.0 => Ok(()),
            held => Err(held),
        }
    })
    .await;
    assert!(attempts(&[other], 3).await.is_empty(), "the quota is full");
    assert_eq!(cluster.account_connections("ORDERS").await, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_jetstream_the_quota_is_split() {
    let cluster = cluster(false).await;
    let of_all = with_quota(&cluster);
    let one = fleet::config(&of_all, 1).start().await;
    let two = fleet::config(&of_all, 2).start().await;
    for weir in [&one, &two] {
        weir.says("no leases of the fleet: quotas are split between the weirs until there are").await;
        weir.says("JetStream").await;
        weir.says("another weir of the fleet is there").await;
    }
    let clients = attempts(&[&one, &two], 60).await;
    assert_eq!(clients.len(), 10, "{}\n{}", one.log(), two.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_that_ends_leaves_nothing_in_the_bucket() {
    let cluster = cluster(true).await;
    let drain = "lame_duck_grace_period = \"0s\"\nlame_duck_duration = \"1s\"";
    let mut weir = fleet::config(&with_quota(&cluster).top(drain), 1).start().await;
    weir.says(IN_FORCE).await;
    let clients = attempts(&[&weir], 4).await;
    assert_eq!(clients.len(), 4);
    weir.signal(Signal::TERM);
    weir.wait(PATIENCE).await;
    let options = async_nats::ConnectOptions::with_user_and_password("weir-2".into(), "fl33t-2-s3cret".into());
    let client = options.connect(&cluster.servers[0].address).await.expect("connects");
    let bucket = async_nats::jetstream::new(client).get_key_value("weir-fleet-edge").await.expect("the bucket");
    for key in futures::TryStreamExt::try_collect::<Vec<_>>(bucket.keys().await.expect("keys")).await.expect("keys") {
        let value = bucket.get(&key).await.expect("a value").unwrap_or_default();
        let value = String::from_utf8_lossy(&value);
        assert!(!key.starts_with("w.") && !value.contains("weir-1"), "{key}: {value}");
    }
}
