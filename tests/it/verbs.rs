//! The verbs at the admin socket, by weir's own command line and by HTTP: what they print, do, and leave in the log.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    time::Duration,
};

use nkeys::KeyPair;
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;
use weir_testkit::{
    admin::{AdminSocket, says},
    client::End,
    *,
};

const FULL: &str = "maximum connections exceeded";

/// A server, weir in front of it, and its admin socket.
async fn scene() -> (NatsServer, Weir, AdminSocket) {
    let (server, admin) = (NatsServer::start(ServerOptions::default()).await, AdminSocket::default());
    let weir = WeirConfig::of_servers(&[&server]).table(&admin.toml()).start().await;
    (server, weir, admin)
}

/// A client that tries to get in, in a task of its own.
fn comes(weir: &Weir, login: &Login) -> JoinHandle<Attempt> {
    let (address, login) = (weir.address.clone(), login.clone());
    tokio::spawn(async move { RawClient::attempt(&address, &login, PATIENCE).await })
}

async fn holds(weir: &Weir, clients: f64) {
    weir.until("clients are held", |metrics| metrics.sum("weir_held") == clients).await;
}

/// The user of this process, as the log names it.
pub(crate) fn own_user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let users = fs::read_to_string("/etc/passwd").expect("users");
    let name = users.lines().find(|line| line.split(':').nth(2) == Some(&uid.to_string()));
    name.and_then(|line| line.split(':').next()).map_or_else(|| format!("uid {uid}"), str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_pause_who_comes_is_held_and_sessions_go_on() {
    let (_server, weir, admin) = scene().await;
    let mut session = RawClient::connect(&weir.address, &Login::nobody()).await;
    session.subscribe("here", 1).await.unwrap();

    let said = admin.does(&["pause"]).await;
    assert!(said.starts_with("paused: ") && said.contains("the one session goes on"), "{said}");
    let waiting = [comes(&weir, &Login::nobody()), comes(&weir, &Login::nobody().lang("go"))];
    holds(&weir, 2.0).await;
    assert_eq!(weir.gauge("weir_paused").await, 1.0);
    session.publish("here", b"still").await.unwrap();
    assert_eq!(session.next_msg().await.1, b"still");
    let said = admin.does(&["pause"]).await;
    assert!(said.starts_with("paused already, for ") && said.contains(&format!(" by {}", own_user())), "{said}");
    let status = admin.answers(&["status"]).await;
    assert_eq!((&status["state"], &status["clients"]["waiting"]), (&"paused".into(), &2.into()), "{status}");
    assert_eq!(status["paused"]["by"], own_user(), "{status}");

    let said = admin.answers(&["resume"]).await;
    assert_eq!((&said["verb"], &said["paused"]), (&"resume".into(), &false.into()), "{said}");
    for one in waiting {
        one.await.unwrap().expect_in();
    }
    RawClient::connect(&weir.address, &Login::nobody()).await;
    assert_eq!(weir.gauge("weir_paused").await, 0.0);
    assert_eq!(admin.does(&["resume"]).await, "it was not paused\n");
    weir.says("verb=\"resume\"").await;
    let log = weir.log();
    let line = log.lines().find(|line| line.contains("verb=\"pause\"")).unwrap_or_else(|| panic!("{log}"));
    let uid = format!("uid={}", rustix::process::geteuid().as_raw());
    for part in ["an operator asks", &format!("user={:?}", own_user()), &uid, "pid=", "done=\"paused: "] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
    drop(session);
    weir.assert_nothing_leaked().await;
}

/// Whatever the servers are meanwhile: full, or dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_held_to_the_end_of_its_time_is_refused_for_the_pause() {
    let admin = AdminSocket::default();
    let mut server = NatsServer::start(ServerOptions::default().max_connections(1)).await;
    let config = WeirConfig::of_servers(&[&server]).cluster("reserve = 0").admission("max_hold = \"1s\"");
    let weir = config.table(&admin.toml()).start().await;
    let session = RawClient::connect(&weir.address, &Login::nobody()).await;
    admin.does(&["pause"]).await;
    let paused = |metrics: &metrics::Metrics| metrics.sum_where("weir_refused_total", "reason", "paused");
    for refused in [1.0, 2.0] {
        let held = weir.metrics().await.get("weir_hold_seconds_sum").unwrap_or(0.0);
        let attempt = comes(&weir, &Login::nobody()).await.unwrap();
        let Attempt::Refused { text, info: Some(_), end: End::Eof } = &attempt else { panic!("{attempt:?}") };
        assert_eq!(text, FULL);
        let metrics = weir.until("it is counted", |metrics| paused(metrics) == refused).await;
        let held = metrics.get("weir_hold_seconds_sum").unwrap_or(0.0) - held;
        assert!(held >= 0.9, "held for {held} s only");
        server.kill9();
    }
    eventually(PATIENCE, "a line says what to do", async || {
        let log = weir.log();
        let line = log.lines().find(|line| line.contains(" refusing ") && line.contains("paused 1"));
        let advice = "advice=\"an operator holds everybody: `weir resume`";
        if line.is_some_and(|line| line.contains(advice)) { Ok(()) } else { Err(log) }
    })
    .await;
    // Both within the last minute: more has not passed since.
    eventually(PATIENCE, "both are shown", async || {
        let status = admin.does(&["status"]).await;
        let row = status.lines().find(|line| line.starts_with("paused "));
        if row.and_then(|row| row.split_whitespace().nth(1)) == Some("2") { Ok(()) } else { Err(status) }
    })
    .await;
    drop(session);
}

/// In front of servers that send a nonce a client waits before it sees INFO.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_signs_waits_too() {
    let (key, admin) = (KeyPair::new_user(), AdminSocket::default());
    let users = format!("authorization {{ users: [{{nkey: {}}}] }}", key.public_key());
    let server = NatsServer::start(ServerOptions::default().with(&users)).await;
    let weir = WeirConfig::of_servers(&[&server]).table(&admin.toml()).start().await;
    // The connection to the server that this one leaves behind is for the next client, and not in a pause.
    drop(RawClient::greeted(&weir.address).await.unwrap());
    admin.does(&["pause"]).await;
    let waits = comes(&weir, &Login::nkey(&key));
    holds(&weir, 1.0).await;
    admin.does(&["resume"]).await;
    waits.await.unwrap().expect_in().round_trip().await.unwrap();
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_shows_everything_at_a_glance() {
    let admin = AdminSocket::default();
    let mut cluster = Cluster::start(2, |server| server.max_connections(100)).await;
    let weir = WeirConfig::of(&cluster).cluster("slow_start = \"0s\"").table(&admin.toml()).start().await;
    let sessions = [RawClient::connect(&weir.address, &Login::nobody()).await];
    weir.until("it is a session", |metrics| metrics.sum("weir_sessions_active") == 1.0).await;
    let text = admin.does(&["status"]).await;
    let pid = admin.answers(&["status"]).await["pid"].as_u64().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for part in [
        format!("weir {version}, serving, up "),
        format!("pid {pid}, configuration "),
        "sessions 1   held 0   being refused 0   pace ".to_owned(),
        "log level debug".to_owned(),
        "SERVER  STATE".to_owned(),
    ] {
        assert!(text.contains(&part), "{part:?} in\n{text}");
    }
    let row = |name: &str, text: &str| {
        let row = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{text}")).to_owned();
        row.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let rows = ["n1", "n2"].map(|name| row(name, &text));
    assert!(rows.iter().all(|row| row[1] == "up" && row[3].ends_with("/100")), "{text}");
    assert_eq!(rows.iter().map(|row| row[2].parse::<u32>().unwrap()).sum::<u32>(), 1, "{text}");

    cluster.servers[1].kill9();
    let text = eventually(PATIENCE, "the dead server is shown", async || {
        let text = admin.does(&["status"]).await;
        if row("n2", &text)[1] == "up" { Err(text) } else { Ok(text) }
    })
    .await;
    let is_said =
        ["it does not answer", "its last reading is", "it gives no reading"].iter().any(|why| text.contains(why));
    assert!(is_said, "it says why: {text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    drop(sessions);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_level_is_shown_and_set() {
    let (server, admin) = (NatsServer::start(ServerOptions::default()).await, AdminSocket::default());
    let weir = WeirConfig::of_servers(&[&server]).log_level("info").table(&admin.toml()).start().await;
    assert_eq!(admin.does(&["loglevel"]).await, "the log level is info\n");
    let closed = || weir.log().matches(" closed id=").count();
    let comes_and_goes = async || {
        drop(RawClient::connect(&weir.address, &Login::nobody()).await);
        weir.until("it has gone", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
    };
    comes_and_goes().await;
    assert_eq!(closed(), 0);
    let said = admin.answers(&["loglevel", "debug"]).await;
    assert_eq!(
        (&said["level"], &said["before"], &said["configured"]),
        (&"debug".into(), &"info".into(), &"info".into())
    );
    assert_eq!(admin.does(&["loglevel"]).await, "the log level is debug, and info by the configuration\n");
    eventually(PATIENCE, "a client has a line", async || {
        comes_and_goes().await;
        if closed() > 0 { Ok(()) } else { Err(weir.log()) }
    })
    .await;
    // The line that tells of it comes before the level that hides it.
    admin.does(&["loglevel", "error"]).await;
    admin.does(&["pause"]).await;
    admin.does(&["loglevel", "INFO"]).await;
    for (level, lines) in [("debug", 1), ("error", 1), ("INFO", 1)] {
        let asked = format!("arguments=\"level={level}\"");
        eventually(PATIENCE, &asked, async || match weir.log().matches(&asked).count() {
            n if n == lines => Ok(()),
            n => Err(n),
        })
        .await;
    }
    assert!(!weir.log().contains("verb=\"pause\""), "{}", weir.log());
    for wrong in ["verbose", "weir=verbose", ""] {
        let said = admin.says(&["loglevel", wrong]).await;
        assert_eq!((said.code, &*said.out), (64, ""), "{said:?}");
    }
    assert_eq!(admin.answers(&["loglevel"]).await["level"], "info");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_is_read_again_and_a_wrong_one_is_shown() {
    let (_server, weir, admin) = scene().await;
    assert_eq!(admin.does(&["reload"]).await, "reloaded: nothing\n");
    weir.reconfigure("refusal_spread = \"100ms\"", "refusal_spread = \"200ms\"");
    weir.reconfigure("workers = 2", "workers = 3");
    let said = admin.does(&["reload", "--dry-run"]).await;
    assert!(said.starts_with("a reload would change this: 1 change\n") && said.contains("refusal_spread"), "{said}");
    let said = admin.answers(&["reload"]).await;
    let (changes, restart) = (said["changes"].as_array().unwrap(), said["needs_restart"].as_array().unwrap());
    assert_eq!((changes.len(), restart.len()), (1, 1), "{said}");
    assert_eq!((&changes[0]["key"], &restart[0]["key"]), (&"refusal_spread".into(), &"workers".into()), "{said}");

    weir.reconfigure("refusal_spread = \"200ms\"", "refusal_spread = \"200\"\nnonsense = 1");
    for verb in [&["reload"][..], &["reload", "--dry-run"]] {
        let said = admin.says(verb).await;
        assert_eq!((said.code, &*said.out), (1, ""), "{said:?}");
        for part in ["nothing has changed:\n", "admission.refusal_spread: ", "admission.nonsense: unknown key"] {
            assert!(said.err.contains(part), "{part}: {said:?}");
        }
    }
    let asked = format!("asked=\"weir reload by {}\"", own_user());
    weir.says_times(&asked, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_wrong_usage_from_failure() {
    let (_server, _weir, admin) = scene().await;
    let folder = admin.folder();
    let write = |name: &str, text: &str| {
        fs::write(folder.join(name), text).unwrap();
        folder.join(name).to_str().unwrap().to_owned()
    };
    // What is wrong elsewhere in the file does not matter, so that a reload can say what it is.
    let with = write("with.toml", &format!("{}\n[admission]\nrate = 0\n", admin.toml()));
    let said = says(&["pause", "-c", &with, "--json"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(answer["paused"], true);

    let without = write("without.toml", "workers = 1\n");
    let broken = write("broken.toml", "[admin\n");
    let empty = write("empty.toml", "[admin]\nsocket = \"\"\n");
    let nowhere = folder.join("nowhere.sock").to_str().unwrap().to_owned();
    for (args, code, words) in [
        (["status", "-c", &without], 64, "has no admin socket: write [admin]"),
        (["status", "-c", &broken], 64, "name it by --socket"),
        (["status", "-c", &empty], 64, "admin.socket: it is empty"),
        (["status", "-c", &nowhere], 64, "nowhere.sock"),
        (["status", "--socket", &nowhere], 1, "nowhere.sock: No such file"),
        (["pause", "--socket", &without], 1, "without.toml: "),
        (["status", "--nonsense", "x"], 64, "--nonsense"),
        (["resume", "-c", ""], 64, ""),
        (["report", "-c", &nowhere], 64, "nowhere.sock"),
    ] {
        let said = says(&args).await;
        assert_eq!((said.code, &*said.out), (code, ""), "{args:?}: {said:?}");
        assert!(said.err.contains(words), "{args:?}: {said:?}");
        assert!(!said.err.contains("--server"), "no verb has this option: {said:?}");
    }
    let both = says(&["status", "-c", &with, "--socket", &nowhere]).await;
    assert_eq!(both.code, 64, "{both:?}");
    let said = says(&["status", "--json", "--socket", &nowhere]).await;
    let why: Value = serde_json::from_str(&said.out).unwrap();
    assert!(said.code == 1 && why["error"].as_str().unwrap().contains("No such file"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_server_loses_its_sessions_and_gets_clients_again_when_it_is_undrained() {
    let (cluster, admin) = (Cluster::start(2, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).cluster("slow_start = \"0s\"").table(&admin.toml()).start().await;
    let crowd = Crowd::start(&weir.address, 20, &Login::nobody(), Habit::PATIENT);
    crowd.settles_at(20).await;
    let on_n2 = cluster.settles_at(20).await[1];
    assert!(on_n2 > 0, "{:?}", cluster.connections().await);
    weir.agrees_with(&cluster).await;

    let said = admin.answers(&["drain", "n2"]).await;
    let expected = (&"n2".into(), &true.into(), &on_n2.into());
    assert_eq!((&said["server"], &said["drained"], &said["sessions"]), expected, "{said}");
    eventually(PATIENCE, "all are on the other server", async || {
        let counts = cluster.connections().await;
        if counts == [20, 0] { Ok(()) } else { Err(counts) }
    })
    .await;
    crowd.settles_at(20).await;
    let closes = |metrics: &metrics::Metrics| metrics.sum_where("weir_closed_total", "reason", "drain");
    weir.until("each close is counted", |metrics| closes(metrics) == on_n2 as f64).await;
    weir.agrees_with(&cluster).await;
    assert!(admin.does(&["drain", "n2"]).await.starts_with("n2 is drained already; it has no session"));
    let status = admin.does(&["status"]).await;
    let row = status.lines().find(|line| line.starts_with("n2 ")).unwrap_or_else(|| panic!("{status}"));
    assert_eq!(row.split_whitespace().nth(1), Some("draining"), "{status}");

    // By its address too.
    let said = admin.does(&["undrain", &cluster.servers[1].address]).await;
    assert_eq!(said, "n2 gets its share of new clients again\n");
    for _ in 0..5 {
        drop(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    let first_again = RawClient::connect(&weir.address, &Login::nobody()).await;
    eventually(PATIENCE, "the emptier server has the client", async || match cluster.connections().await[1] {
        1 => Ok(()),
        n => Err(n),
    })
    .await;
    assert_eq!(admin.does(&["undrain", "n2"]).await, "n2 was not drained\n");
    let said = admin.does(&["drain", "n1"]).await;
    assert!(!said.contains("no_server"), "{said}");
    let said = admin.does(&["drain", "n2"]).await;
    assert!(said.contains("no other server can be used, so that all clients are refused"), "{said}");
    for (args, code) in [(&["drain", "n3"][..], 1), (&["undrain", ""], 64), (&["drain"], 64)] {
        let said = admin.says(args).await;
        assert_eq!((said.code, &*said.out), (code, ""), "{args:?}: {said:?}");
    }
    let said = admin.says(&["drain", "n3"]).await;
    assert_eq!(said.err, "there is no server n3; there are n1, n2\n");
    weir.says(&format!("by=\"weir drain by {}\"", own_user())).await;
    drop((first_again, crowd));
}

/// Head and body of an answer to a request as curl makes one.
fn curl(socket: &Path, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_ask_over_http() {
    let (_server, weir, admin) = scene().await;
    let path = admin.path();
    let ask = move |request: &str| {
        let (status, body) = curl(&path, request);
        (status, serde_json::from_str::<Value>(&body).unwrap_or_default())
    };
    for (request, status) in [("GET /pause", 405), ("POST /nonsense", 404)] {
        let (got, answer) = ask(request);
        let path = request.split(' ').nth(1).unwrap();
        assert!(got == status && answer["error"].as_str().is_some_and(|why| why.contains(path)), "{got}: {answer}");
    }
    let (status, answer) = ask("POST /pause?for=5s");
    assert_eq!((status, answer["error"].as_str()), (400, Some("there is no argument \"for\" here")));
    assert_eq!(weir.gauge("weir_paused").await, 0.0);
    let (status, answer) = ask("POST /pause");
    assert_eq!((status, &answer["paused"], &answer["sessions"]), (200, &true.into(), &0.into()));
    let (status, answer) = ask("GET /status");
    assert_eq!((status, &answer["state"]), (200, &"paused".into()));
    assert_eq!(ask("POST /loglevel?level=weir%3Dinfo%2Cwarn").1["level"], "weir=info,warn");
    // An idle connection keeps nobody out, however many there are.
    let idle: Vec<_> = (0..40).map(|_| UnixStream::connect(admin.path()).unwrap()).collect();
    admin.does(&["resume"]).await;
    drop(idle);
    weir.says("err=\"there is no argument").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_is_its_owners_and_lives_as_long_as_its_weir() {
    let (server, mut weir, admin) = scene().await;
    let mode = fs::symlink_metadata(admin.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    // Another weir does not take it, and says why it does not start.
    let dir = tempfile::TempDir::with_prefix("weir-test-").unwrap();
    let ports = dir.path().join("ports.json").display().to_string();
    let config = WeirConfig::of_servers(&[&server]).table(&admin.toml());
    fs::write(dir.path().join("weir.toml"), config.toml(&ports)).unwrap();
    let said = says(&["run", "-c", dir.path().join("weir.toml").to_str().unwrap()]).await;
    assert!(said.code == 1 && said.err.contains("a living process has this socket"), "{said:?}");
    admin.does(&["status"]).await;

    // A weir that was killed leaves it, and the next one takes its place.
    weir.signal(Signal::KILL);
    weir.wait(PATIENCE).await;
    assert!(admin.path().exists());
    let said = admin.says(&["status"]).await;
    assert!(said.code == 1 && said.err.contains("Connection refused"), "{said:?}");
    let mut next = config.start().await;
    admin.does(&["status"]).await;
    next.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(50)).await;
    next.signal(Signal::TERM);
    next.wait(PATIENCE).await;
    assert!(!admin.path().exists(), "it is removed");
}
