//! The nats CLI sees weir: through it as clients do, and beside the servers in the answers over the system account.

use std::{path::PathBuf, process::Output, time::Duration};

use serde_json::Value;
use tokio::process::Command;
use weir_testkit::*;

const ACCOUNTS: &str = "
    system_account: SYS
    accounts {
        SYS { users: [
            {user: admin, password: adm}
            {user: asks, password: adm, permissions: {subscribe: [\"_INBOX.>\", \"$SYS.SERVER.>\"]}}
        ] }
        ORDERS { users: [{user: o, password: p}] }
    }";

fn system(user: &str) -> String {
    format!("[cluster.system]\nuser = \"{user}\"\npassword = \"adm\"\nanswer_requests = true")
}

/// The CLI, or why it is not there.
async fn cli() -> Result<PathBuf, String> {
    let _alone = installs::one_at_a_time().await;
    let found = Command::new(project().join("scripts/nats-cli")).output().await.expect("scripts/nats-cli");
    let told = String::from_utf8_lossy(&found.stderr).into_owned();
    match found.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&found.stdout).trim().into()),
        Some(77) => Err(told),
        _ => panic!("{told}"),
    }
}

/// Runs the CLI with a configuration of nobody's.
async fn nats(cli: &PathBuf, server: &str, login: &str, arguments: &str) -> Output {
    let home = tempfile::tempdir().expect("a folder");
    let (user, password) = login.split_once(':').expect("user:password");
    let run = Command::new(cli)
        .env("XDG_CONFIG_HOME", home.path())
        .env("HOME", home.path())
        .args(["--server", server, "--user", user, "--password", password, "--timeout", "3s"])
        .args(arguments.split(' '))
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(PATIENCE, run).await.expect("the CLI ends").expect("the CLI runs")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What the servers, and weir, say to a request: by name.
async fn ask(client: &async_nats::Client, subject: &str, request: &str, expected: usize) -> Vec<(String, Value)> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply(subject.to_owned(), inbox, request.to_owned().into()).await.unwrap();
    let mut all = Vec::new();
    // Those that must come have their time; who comes besides is waited for shortly.
    let wait = |so_far: usize| if so_far < expected { PATIENCE } else { Duration::from_millis(500) };
    while let Ok(Some(message)) = tokio::time::timeout(wait(all.len()), futures::StreamExt::next(&mut answers)).await {
        let answer: Value = serde_json::from_slice(&message.payload).unwrap();
        let name = answer["server"]["name"].as_str().or(answer["name"].as_str()).unwrap().to_owned();
        all.push((name, answer));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

async fn scene() -> (Cluster, Weir, async_nats::Client) {
    let cluster = Cluster::start(2, |server| server.with(ACCOUNTS)).await;
    let weir = WeirConfig::of(&cluster).top("server_name = \"weir\"").cluster(&system("admin")).start().await;
    let options = async_nats::ConnectOptions::with_user_and_password("admin".into(), "adm".into());
    let client = options.connect(&cluster.servers[0].address).await.unwrap();
    eventually(PATIENCE, "weir answers beside the servers", async || {
        let names: Vec<_> =
            ask(&client, "$SYS.REQ.SERVER.PING", "", 2).await.into_iter().map(|(name, _)| name).collect();
        if names.len() == 3 && names.contains(&"weir".to_owned()) { Ok(()) } else { Err(names) }
    })
    .await;
    (cluster, weir, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weir_answers_requests_to_the_servers_as_one_of_them() {
    let (cluster, weir, client) = scene().await;
    let login = Login::user("o", "p").name("worker").lang("go");
    let mut worker = RawClient::connect(&weir.address, &login).await;
    worker.publish("x", b"12345").await.unwrap();
    worker.round_trip().await.unwrap();
    for question in ["STATSZ", "VARZ", "CONNZ", "HEALTHZ", "IDZ"] {
        let answers = ask(&client, &format!("$SYS.REQ.SERVER.PING.{question}"), "", 3).await;
        assert_eq!(answers.len(), 3, "{question}: {answers:?}");
        // Everything that weir has, a server has with the same type.
        let of = |name: &str| answers.iter().find(|(one, _)| one == name).expect("it answers").1.clone();
        let (weirs, servers) = (of("weir"), of(&cluster.servers[0].name));
        for part in ["server", "data", "statsz"] {
            let Some(fields) = weirs[part].as_object() else { continue };
            for (field, value) in fields {
                let is_own = ["held", "refused"].contains(&&**field);
                let theirs = &servers[part][field];
                let same = std::mem::discriminant(value) == std::mem::discriminant(theirs);
                assert!(is_own || same || theirs.is_null(), "{question} {part}.{field}: {value} {theirs}");
            }
        }
    }
    let connz = ask(&client, "$SYS.REQ.SERVER.PING.CONNZ", r#"{"auth":true,"user":"o","server_name":"weir"}"#, 1).await;
    let [(name, connz)] = &connz[..] else { panic!("{connz:?}") };
    let connection = &connz["data"]["connections"][0];
    assert_eq!((name.as_str(), &connection["name"], &connection["in_bytes"]), ("weir", &"worker".into(), &5.into()));
    let id = connz["server"]["id"].as_str().unwrap();
    let [(_, direct)] = &ask(&client, &format!("$SYS.REQ.SERVER.{id}.STATSZ"), "", 1).await[..] else { panic!("one") };
    let statsz = ["connections", "total_connections"].map(|field| direct["statsz"][field].clone());
    assert_eq!((statsz, &direct["statsz"]["received"]["msgs"]), ([1.into(), 1.into()], &1.into()));
    let wrong = ask(&client, "$SYS.REQ.SERVER.PING.CONNZ", r#"{"sort":"size"}"#, 3).await;
    assert!(wrong.iter().all(|(_, answer)| answer["error"] == wrong[0].1["error"] && answer["error"].is_object()));
    // weir does not take its own answers, or another weir's, for a server's.
    assert_eq!(weir.metrics().await.sum("weir_server_up"), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_shows_weir_beside_the_servers() {
    let cli = match cli().await {
        Ok(cli) => cli,
        Err(why) => return skip(&why),
    };
    let (cluster, weir, _client) = scene().await;
    let mut worker = RawClient::connect(&weir.address, &Login::user("o", "p").name("worker-7").lang("go")).await;
    worker.round_trip().await.unwrap(); // it is among the sessions a moment after its PONG
    let (system, through) = (cluster.servers[0].url(), weir.url());
    let list = nats(&cli, &system, "admin:adm", "server list --json").await;
    let listed: Value = serde_json::from_slice(&list.stdout).unwrap_or_else(|err| panic!("{err}: {}", told(&list)));
    let mut names: Vec<_> =
        listed.as_array().unwrap().iter().map(|one| one["server"]["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, [&*cluster.servers[0].name, &*cluster.servers[1].name, "weir"], "{}", told(&list));
    let list = nats(&cli, &system, "admin:adm", "server list").await;
    assert!(list.status.success() && told(&list).contains("weir"), "{}", told(&list));
    // The clients that came through weir, with the address that they came from.
    let report = nats(&cli, &system, "admin:adm", "server report connections 3 --host weir").await;
    assert!(report.status.success() && told(&report).contains("worker-7"), "{}", told(&report));
    // The same through weir, and a check of weir as of a server.
    let report = nats(&cli, &through, "admin:adm", "server report connections 3").await;
    assert!(report.status.success() && told(&report).contains("worker-7"), "{}", told(&report));
    let check = nats(&cli, &through, "o:p", "server check connection").await;
    assert!(check.status.success() && told(&check).contains("OK"), "{}", told(&check));
    let check =
        nats(&cli, &system, "admin:adm", "server check server --name weir --conn-warn 50 --conn-critical 100").await;
    assert!(check.status.success() && told(&check).contains("OK"), "{}", told(&check));
}

/// Where the login may not subscribe to the requests, weir says so and which permission it lacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_may_not_answer_is_told_which_permission_it_lacks() {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let weir = WeirConfig::of_servers(&[&server]).cluster(&system("asks")).start().await;
    eventually(PATIENCE, "weir says what it lacks", async || {
        let log = weir.log();
        let told = log.contains("the login may not answer requests to the servers")
            && log.contains("let it subscribe to $SYS.REQ.SERVER.>");
        if told { Ok(()) } else { Err(log) }
    })
    .await;
    // All else works.
    RawClient::connect(&weir.address, &Login::user("o", "p")).await;
}
