//! A reload changes the configuration of a weir that runs: what is counted stays counted, nobody is disconnected, and a
//! configuration with an error changes nothing.

use std::process::Command;

use rustix::process::Signal;
use weir_testkit::{
    admin::{AdminSocket, says},
    *,
};

const QUOTA: &str = "maximum account active connections exceeded";
const USERS: &str = "accounts { ORDERS { users: [{user: orders-1, password: s}, {user: orders-2, password: s}] }, \
                     REST { users: [{user: rest, password: s}] } }";

fn orders(n: u32) -> Login {
    Login::user(&format!("orders-{n}"), "s")
}

async fn attempt(weir: &Weir, login: &Login) -> Attempt {
    RawClient::attempt(&weir.address, login, PATIENCE).await
}

async fn is_refused(weir: &Weir, login: &Login, text: &str) {
    let attempt = attempt(weir, login).await;
    assert_eq!(attempt.refusal(), Some(text), "{attempt:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_change_and_what_is_counted_stays_counted() {
    let server = NatsServer::start(ServerOptions::default().with(USERS)).await;
    let config = WeirConfig::of_servers(&[&server]).account("ORDERS", "users = [\"orders-*\"]\nmax_connections = 2");
    let mut weir = config.start().await;
    let mut clients = vec![];
    for n in [1, 2] {
        clients.push(attempt(&weir, &orders(n)).await.expect_in());
    }
    is_refused(&weir, &orders(1), QUOTA).await;

    weir.reconfigure("max_connections = 2", "max_connections = 3");
    let metrics = weir.reloads().await;
    assert_eq!(metrics.get("weir_account_max_connections{account=\"ORDERS\"}"), Some(3.0));
    clients.push(attempt(&weir, &orders(1)).await.expect_in());
    is_refused(&weir, &orders(1), QUOTA).await;

    // Lower than what is there: nobody has to leave, and nobody comes until fewer are there than it allows.
    weir.reconfigure("max_connections = 3", "max_connections = 1");
    weir.reloads().await;
    is_refused(&weir, &orders(1), QUOTA).await;
    for client in &mut clients {
        client.round_trip().await.expect("who is in stays in");
    }
    clients.truncate(1);
    let connections = "weir_account_connections{account=\"ORDERS\"}";
    weir.until("two have left", |metrics| metrics.get(connections) == Some(1.0)).await;
    is_refused(&weir, &orders(1), QUOTA).await;

    // By user, by name and by source, and without the account.
    weir.reconfigure(
        "[accounts.ORDERS]\nusers = [\"orders-*\"]\nmax_connections = 1",
        "[users.\"rest\"]\nmax_connections = 1",
    );
    weir.reloads().await;
    clients.push(attempt(&weir, &orders(1)).await.expect_in());
    clients.push(attempt(&weir, &Login::user("rest", "s")).await.expect_in());
    is_refused(&weir, &Login::user("rest", "s"), QUOTA).await;
    weir.reconfigure("[users.\"rest\"]", "[names.\"report *\"]");
    weir.reloads().await;
    let report = |n: u32| Login::user("rest", "s").name(&format!("report {n}"));
    clients.push(attempt(&weir, &report(1)).await.expect_in());
    is_refused(&weir, &report(2), QUOTA).await;
    weir.reconfigure("[names.\"report *\"]", "[names.\"other\"]\nmax_connections = 9\n[names.\"report *\"]");
    weir.reconfigure("\"report *\"]\nmax_connections = 1", "\"report *\"]\nmax_connections = 2");
    weir.reloads().await;
    clients.push(attempt(&weir, &report(2)).await.expect_in());
    is_refused(&weir, &report(3), QUOTA).await;
    weir.reconfigure(
        "\"report *\"]\nmax_connections = 2",
        "\"report *\"]\nmax_connections = 9\n[admission.per_source]\nmax_connections = 1",
    );
    weir.reloads().await;
    clients.push(attempt(&weir, &report(4)).await.expect_in());
    let refused = attempt(&weir, &orders(1)).await;
    assert!(refused.refusal().is_some(), "this address has one since sources are counted: {refused:?}");

    for client in &mut clients {
        client.round_trip().await.expect("who is in stays in");
    }
    drop(clients);
    weir.assert_nothing_leaked().await;
}

/// Who waits at a pace of one a second goes at once when the pace is raised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_go_at_the_new_pace() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let admission = "rate = 1\nburst = 1\nmax_hold = \"19s\"";
    let mut weir = WeirConfig::of_servers(&[&server]).admission(admission).start().await;
    drop(RawClient::connect(&weir.address, &Login::nobody()).await);
    let waiting: Vec<_> = (0..30)
        .map(|_| {
            let address = weir.address.clone();
            tokio::spawn(async move { RawClient::attempt(&address, &Login::nobody().lang("nats.js"), PATIENCE).await })
        })
        .collect();
    weir.until("they wait", |metrics| metrics.sum("weir_held") > 10.0).await;
    weir.reconfigure("rate = 1\nburst = 1", "rate = 10000\nburst = 1000");
    let metrics = weir.reloads().await;
    assert_eq!(metrics.sum("weir_config_keys_awaiting_restart"), 0.0);
    weir.until("nobody waits", |metrics| metrics.sum("weir_held") == 0.0).await;
    let mut clients = Vec::new();
    for one in waiting {
        clients.extend(one.await.unwrap().into_client());
    }
    // At one a second few of 30 would have had a turn within 19 s; some may have been told so before the reload.
    assert!(clients.len() > 10, "{}", clients.len());
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_with_errors_changes_nothing_and_says_why() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let config = WeirConfig::of_servers(&[&server]).account("default", "max_connections = 1");
    let mut weir = config.start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    let good = std::fs::read_to_string(weir.config_file()).unwrap();
    let info = |metrics: &metrics::Metrics| metrics.of("weir_config_info").map(|(name, _)| name.to_owned()).next();
    let before = weir.metrics().await;

    weir.reconfigure("max_connections = 1", "max_connections = 5\nmax_conections = 7");
    weir.reconfigure("level = \"debug\"", "level = \"loud\"");
    let metrics = weir.reload().await;
    assert_eq!(metrics.get("weir_config_last_reload_successful"), Some(0.0));
    assert_eq!(metrics.get("weir_config_reloads_total{result=\"refused\"}"), Some(1.0));
    let since = "weir_config_last_reload_success_timestamp_seconds";
    assert_eq!((metrics.get(since), info(&metrics)), (before.get(since), info(&before)));
    is_refused(&weir, &Login::nobody(), QUOTA).await;
    client.round_trip().await.unwrap();
    let checked = Command::new(weir::binary()).arg("check").arg("-c").arg(weir.config_file()).output().unwrap();
    let checked = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.lines().count(), 2, "{checked}");
    for line in checked.lines() {
        eventually(PATIENCE, line, async || {
            let log = weir.log().replace("\\\"", "\"");
            if log.contains(line) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    // It is no TOML, it is gone, and it is right again.
    std::fs::write(weir.config_file(), "[[cluster.servers\n").unwrap();
    weir.reload().await;
    std::fs::remove_file(weir.config_file()).unwrap();
    assert_eq!(weir.reload().await.get("weir_config_reloads_total{result=\"refused\"}"), Some(3.0));
    is_refused(&weir, &Login::nobody(), QUOTA).await;
    std::fs::write(weir.config_file(), good.replace("max_connections = 1", "max_connections = 2")).unwrap();
    let metrics = weir.reloads().await;
    assert!(metrics.get(since) > before.get(since) && info(&metrics) != info(&before));
    let second = attempt(&weir, &Login::nobody()).await.expect_in();
    client.round_trip().await.unwrap();
    drop((client, second));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_restart_is_named_and_holds_nothing_back() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let mut weir = WeirConfig::of_servers(&[&server]).account("default", "max_connections = 1").start().await;
    weir.reconfigure("workers = 2", "workers = 3");
    weir.reconfigure("max_connections = 1", "max_connections = 2");
    let metrics = weir.reloads().await;
    assert_eq!(metrics.get("weir_config_keys_awaiting_restart"), Some(1.0));
    let told = "a change of the configuration needs a restart key=\"workers\" running=\"2\" file=\"3\"";
    weir.says_times(told, 1).await;
    let changed = "configuration changed key=\"[accounts.default] max_connections\" old=\"1\" new=\"2\"";
    weir.says(changed).await;
    let clients =
        [attempt(&weir, &Login::nobody()).await.expect_in(), attempt(&weir, &Login::nobody()).await.expect_in()];

    // It is named again until weir is restarted, or the file says again what runs.
    let metrics = weir.reloads().await;
    assert_eq!(metrics.get("weir_config_reloads_total{result=\"unchanged\"}"), Some(1.0));
    weir.says_times(told, 2).await;
    weir.reconfigure("workers = 3", "workers = 2");
    assert_eq!(weir.reloads().await.get("weir_config_keys_awaiting_restart"), Some(0.0));
    weir.says_times("configuration reloaded", 3).await;
    assert_eq!(weir.log().matches(told).count(), 2);
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_level_and_the_lame_duck_mode_change() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let top = "workers = 2\nlame_duck_grace_period = \"600s\"\nlame_duck_duration = \"1200s\"";
    let mut weir = WeirConfig::of_servers(&[&server]).top(top).log_level("info").start().await;
    let closed = |weir: &Weir| weir.log().matches("DEBUG").count();
    let one_more = async |weir: &Weir| {
        let before = weir.metrics().await.sum("weir_closed_total");
        drop(RawClient::connect(&weir.address, &Login::nobody()).await);
        weir.until("it has gone", |metrics| metrics.sum("weir_closed_total") > before).await;
    };
    one_more(&weir).await;
    assert_eq!(closed(&weir), 0);
    weir.reconfigure("level = \"info\"", "level = \"debug\"");
    weir.reloads().await;
    one_more(&weir).await;
    eventually(PATIENCE, "a line for the session", async || if closed(&weir) > 0 { Ok(()) } else { Err(weir.log()) })
        .await;
    weir.reconfigure("level = \"debug\"", "level = \"warn\"");
    weir.reconfigure("\"600s\"", "\"0s\"");
    weir.reconfigure("\"1200s\"", "\"2s\"");
    weir.reloads().await;
    one_more(&weir).await;
    weir.signal(Signal::TERM);
    assert!(weir.wait(PATIENCE).await.success(), "it does not wait for 600 s");
    // The log may have had lines to write still when the level changed: none of them is of what came after that.
    let log = weir.log();
    assert_eq!(
        (log.matches(" closed id=").count(), log.contains("stop"), log.contains("drain")),
        (1, false, false),
        "{log}"
    );
}

/// The environment's level counts more than the file's, at a reload as at the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_sets_the_level() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let mut weir = WeirConfig::of_servers(&[&server]).environment("WEIR_LOG", "info").start().await;
    weir.reconfigure("level = \"debug\"", "level = \"error\"");
    weir.reloads().await;
    weir.says("the environment sets the log level").await;
    let reloaded = async || if weir.log().contains("configuration reloaded") { Ok(()) } else { Err(weir.log()) };
    eventually(PATIENCE, "info is logged still", reloaded).await;
}

/// A ConfigMap of Kubernetes: the file is a link into a link to a folder, and the inner link is swapped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_is_read_again_when_it_has_changed() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let top = "workers = 2\nreload_on_change = true";
    let config = WeirConfig::of_servers(&[&server]).top(top).account("default", "max_connections = 1");
    let mut weir = config.start().await;
    let _first = RawClient::connect(&weir.address, &Login::nobody()).await;
    weir.reconfigure("max_connections = 1", "max_connections = 2");
    let reloads = |metrics: &metrics::Metrics| metrics.sum("weir_config_reloads_total");
    weir.until("the new file is read", |metrics| reloads(metrics) == 1.0).await;
    let second = attempt(&weir, &Login::nobody()).await.expect_in();
    weir.says("asked=\"the file has changed\"").await;

    // From here on it is a link.
    let folder = weir.config_file().parent().unwrap().to_owned();
    let text = std::fs::read_to_string(weir.config_file()).unwrap();
    let swap = |version: &str, text: &str| {
        let data = folder.join(version);
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("weir.toml"), text).unwrap();
        let link = folder.join("..data.new");
        std::os::unix::fs::symlink(version, &link).unwrap();
        std::fs::rename(&link, folder.join("..data")).unwrap();
    };
    swap("v1", &text.replace("max_connections = 2", "max_connections = 3"));
    let link = folder.join("link");
    std::os::unix::fs::symlink("..data/weir.toml", &link).unwrap();
    std::fs::rename(&link, weir.config_file()).unwrap();
    weir.until("the file behind the links is read", |metrics| reloads(metrics) == 2.0).await;
    swap("v2", &text.replace("max_connections = 2", "max_conections = 4"));
    let metrics = weir.until("the swap is seen", |metrics| reloads(metrics) == 3.0).await;
    assert_eq!(metrics.get("weir_config_last_reload_successful"), Some(0.0));
    swap("v3", &text.replace("max_connections = 2", "max_connections = 4").replace("change = true", "change = false"));
    let metrics = weir.until("it is right again", |metrics| reloads(metrics) == 4.0).await;
    assert_eq!(metrics.get("weir_account_max_connections{account=\"$G\"}"), Some(4.0), "{}", weir.log());
    drop(second);
    // SIGHUP still works once the watch is off.
    swap("v4", &text.replace("max_connections = 2", "max_connections = 5").replace("change = true", "change = false"));
    let metrics = weir.reloads().await;
    assert_eq!(metrics.get("weir_account_max_connections{account=\"$G\"}"), Some(5.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_a_reload_would_change() {
    let (server, admin) = (NatsServer::start(ServerOptions::default()).await, AdminSocket::default());
    let quota = "[accounts.default]\nmax_connections = 1\n";
    let weir = WeirConfig::of_servers(&[&server]).table(quota).table(&admin.toml()).start().await;
    let file = weir.config_file();
    let old = file.with_extension("old");
    std::fs::copy(&file, &old).unwrap();
    let check = async |more: &[&str]| says(&[&["check", "-c", file.to_str().unwrap()], more].concat()).await;
    let diff = ["--diff", old.to_str().unwrap()];
    assert_eq!(check(&diff).await.out, "nothing changes\n");
    weir.reconfigure("max_connections = 1", "max_connections = 2");
    weir.reconfigure("workers = 2", "workers = 3");
    let changes = [
        "~ workers: 2 -> 3 (needs a restart: the threads are started with weir)",
        "~ [accounts.default] max_connections: 1 -> 2",
    ];
    let said = check(&diff).await;
    assert_eq!((said.code, said.out), (0, changes.join("\n") + "\n"));
    let json: serde_json::Value = serde_json::from_str(&check(&[&diff[..], &["--json"]].concat()).await.out).unwrap();
    assert_eq!(json["changes"][1]["new"], "2", "{json}");

    // By the word of the weir that runs, of which nothing changes.
    let said = check(&["--diff"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(changes.iter().all(|change| said.out.contains(change)), "{said:?}");
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum("weir_config_reloads_total"), 0.0);
    weir.reconfigure("max_connections = 2", "max_connections = x");
    let said = check(&["--diff"]).await;
    assert!(said.code == 1 && said.err.contains("weir.toml:"), "{said:?}");

    // Another file is compared with what runs, whatever is in weir's own; text that changes nothing is told so.
    let new = file.with_extension("new");
    let text = std::fs::read_to_string(&old).unwrap();
    std::fs::write(&new, text.replace("max_connections = 1", "max_connections = 7")).unwrap();
    let diff_of = async |file: &std::path::Path| says(&["check", "-c", file.to_str().unwrap(), "--diff"]).await;
    let said = diff_of(&new).await;
    let is_told = said.out.contains("~ [accounts.default] max_connections: 1 -> 7") && said.out.contains("weir.new");
    assert!(said.code == 0 && is_told, "{said:?}");
    let said = diff_of(&old).await;
    assert!(said.code == 0 && said.out.contains("weir.old, a reload would change this: nothing"), "{said:?}");
    assert_eq!(weir.metrics().await.sum("weir_config_reloads_total"), 0.0);
    assert_eq!(says(&["check", "-c", old.to_str().unwrap(), "--diff", "none.toml"]).await.code, 64);
}
