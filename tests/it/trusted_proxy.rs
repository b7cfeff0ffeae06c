//! Trusted proxy: the servers let users in only through weir, and weir signs the nonce of every connection.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nkeys::KeyPair;
use weir_testkit::client::End;
use weir_testkit::operator::Operator;
use weir_testkit::*;

const VIOLATION: &str = "Authorization Violation";

fn weir_nkey(file: &Path) -> Output {
    Command::new(weir_testkit::weir::binary()).arg("nkey").arg(file).output().expect("weir starts")
}

/// A key pair made by `weir nkey`: the file of the seed, and the command's output, which is a server configuration.
fn pair(dir: &tempfile::TempDir) -> (PathBuf, String) {
    let file = dir.path().join("proxy.nk");
    let output = weir_nkey(&file);
    assert!(output.status.success(), "{output:?}");
    (file, String::from_utf8(output.stdout).unwrap())
}

fn seed_file(file: &Path) -> String {
    format!("proxy_nkey_seed_file = \"{}\"", file.display())
}

#[test]
fn weir_nkey_makes_a_pair_and_keeps_the_seed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (file, printed) = pair(&dir);
    let seed = std::fs::read_to_string(&file).unwrap();
    let key = KeyPair::from_seed(seed.trim()).unwrap();
    assert!(printed.contains(&key.public_key()) && !printed.contains(seed.trim()), "{printed}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = weir_nkey(&file);
    assert_eq!(again.status.code(), Some(1), "an old seed is never overwritten");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), seed);
}

#[test]
fn a_seed_file_without_a_seed_is_refused_before_anything_is_bound() {
    let dir = tempfile::tempdir().unwrap();
    let (seed, config) = (dir.path().join("proxy.nk"), dir.path().join("weir.toml"));
    let text = format!("[cluster]\n{}\n[[cluster.servers]]\naddress = \"n1:4222\"\n", seed_file(&seed));
    std::fs::write(&config, text).unwrap();
    for said in ["it cannot be read", "it holds no NKey seed"] {
        for (command, code) in [("check", 1), ("run", 64)] {
            let output =
                Command::new(weir_testkit::weir::binary()).arg(command).arg("-c").arg(&config).output().unwrap();
            assert_eq!(output.status.code(), Some(code));
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(text.contains("cluster.proxy_nkey_seed_file: ") && text.contains(said), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        std::fs::write(&seed, "hunter2").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_come_through_weir_only() {
    nats::at_least(2, 12);
    let dir = tempfile::tempdir().unwrap();
    let (file, proxies) = pair(&dir);
    let key = KeyPair::new_user();
    let users = format!(
        "accounts {{ A {{ users: [{{user: a, password: p, proxy_required: true}}, {{nkey: {}, proxy_required: true}}, {{user: open, password: p}}] }} }}",
        key.public_key()
    );
    let cluster = Cluster::start(2, |server| server.with(&proxies).with(&users)).await;
    let weir = WeirConfig::of(&cluster).cluster(&seed_file(&file)).start().await;
    let logins = [Login::user("a", "p"), Login::nkey(&key), Login::user("open", "p")];
    for login in &logins[..2] {
        let direct = RawClient::attempt(&cluster.servers[0].address, login, PATIENCE).await;
        assert_eq!(direct.refusal(), Some(VIOLATION));
    }
    let mut clients = Vec::new();
    for login in logins.iter().cycle().take(12) {
        let mut client = RawClient::connect(&weir.address, login).await;
        assert_eq!(client.info_after_pong().await["remote_account"], "A");
        client.round_trip().await.unwrap();
        clients.push(client);
    }
    let seed = std::fs::read_to_string(&file).unwrap();
    let public = KeyPair::from_seed(seed.trim()).unwrap().public_key();
    for server in &cluster.servers {
        // A dial of weir's own, which has no login, is soon over.
        eventually(PATIENCE, "each connection is weir's", async || {
            let connz = server.monitoring("/connz?auth=1").await.unwrap();
            let others = |one: &&serde_json::Value| one["proxy"]["key"] != public;
            connz["connections"].as_array().unwrap().iter().find(others).map_or(Ok(()), |other| Err(other.clone()))
        })
        .await;
    }
    // The official client with both kinds of credentials, and wrong credentials, which the server refuses.
    let by_key = async_nats::ConnectOptions::with_nkey(key.seed().unwrap()).connection_timeout(PATIENCE);
    let by_key = by_key.connect(weir.url()).await.unwrap();
    let by_name =
        async_nats::ConnectOptions::with_user_and_password("a".into(), "p".into()).connection_timeout(PATIENCE);
    let by_name = by_name.connect(weir.url()).await.unwrap();
    seen_by_server(&by_key).await;
    seen_by_server(&by_name).await;
    let wrong = RawClient::attempt(&weir.address, &Login::user("a", "wrong"), PATIENCE).await;
    assert_eq!(wrong.refusal(), Some(VIOLATION));
    drop((clients, by_key, by_name));
    weir.assert_nothing_leaked().await;
    assert!(!weir.log().contains(seed.trim()) && !weir.log().contains("proxy_sig\":"), "a secret in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_the_servers_do_not_trust() {
    nats::at_least(2, 12);
    let dir = tempfile::tempdir().unwrap();
    let (file, _) = pair(&dir);
    let other = KeyPair::new_user().public_key();
    let config = format!("proxies {{ trusted: [{{key: {other}}}] }}\nauthorization {{ user: a, password: p }}");
    let server = NatsServer::start(ServerOptions::default().with(&config)).await;
    let weir = WeirConfig::of_servers(&[&server]).cluster(&seed_file(&file)).start().await;
    let attempt = RawClient::attempt(&weir.address, &Login::user("a", "p"), PATIENCE).await;
    assert_eq!(attempt.refusal(), Some(VIOLATION), "the server's own word");
    weir.assert_nothing_leaked().await;

    // A server without `proxies`: weir signs nothing, users get in, and the log says so.
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).cluster(&seed_file(&file)).start().await;
    RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.unwrap();
    weir.says("it sends no nonce to sign").await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jwt_users_come_through_weir_only() {
    nats::at_least(2, 12);
    let dir = tempfile::tempdir().unwrap();
    let (file, proxies) = pair(&dir);
    let operator = Operator::with_accounts([-1]);
    let config = operator.server_config();
    let server = NatsServer::start(ServerOptions::default().with(&config).with(&proxies)).await;
    let weir = WeirConfig::of_servers(&[&server]).cluster(&seed_file(&file)).start().await;
    let user = operator.account(0).proxied();
    let login = Login::jwt(&user.jwt, &user.key);
    assert_eq!(RawClient::attempt(&server.address, &login, PATIENCE).await.refusal(), Some(VIOLATION));
    RawClient::connect(&weir.address, &login).await.round_trip().await.unwrap();
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_without_room_for_the_signature() {
    nats::at_least(2, 12);
    let dir = tempfile::tempdir().unwrap();
    let (file, proxies) = pair(&dir);
    let server = NatsServer::start(ServerOptions::default().with(&proxies).with("max_control_line: 1024")).await;
    let weir = WeirConfig::of_servers(&[&server]).cluster(&seed_file(&file)).start().await;
    let named = |n| Login::nobody().name(&"x".repeat(n));
    RawClient::connect(&weir.address, &named(600)).await.round_trip().await.unwrap();
    let line = named(850).connect_line().len();
    assert!((960..1030).contains(&line), "{line}");
    let attempt = RawClient::attempt(&weir.address, &named(850), PATIENCE).await;
    let polite =
        matches!(&attempt, Attempt::Refused { text, end: End::Eof, .. } if text == "maximum control line exceeded");
    assert!(polite, "{attempt:?}");
    weir.says("no room for proxy_sig").await;
    weir.assert_nothing_leaked().await;
}
