//! The endpoints that NATS tools read: what they show is what the servers show of the same connections, and they are
//! decoded as the tools decode them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use weir_testkit::{
    client::Op,
    tls::{Authority, TlsClient, pair},
    *,
};

pub(crate) async fn ask(weir: &Weir, path: &str) -> Value {
    let (status, body) = http::get(&weir.monitor, path).await.unwrap();
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|err| panic!("{path}: {err}: {body}"))
}

fn connections(answer: &Value) -> Vec<Value> {
    answer["connections"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
}

/// What both show of a connection, and must show alike.
const SAME: [&str; 11] = [
    "kind",
    "type",
    "name",
    "lang",
    "version",
    "account",
    "authorized_user",
    "in_msgs",
    "out_msgs",
    "in_bytes",
    "out_bytes",
];

fn same(connection: &Value) -> Vec<Value> {
    SAME.iter().map(|field| connection[*field].clone()).collect()
}

const ACCOUNTS: &str = "accounts { A { users: [{user: a, password: a}, {user: b, password: b}] }, \
                        B { users: [{user: c, password: c}] } }";

/// Each connection beside the one that its server shows under the number that weir names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_those_that_the_servers_show() {
    let cluster = Cluster::start(2, |server| server.with(ACCOUNTS)).await;
    let weir = WeirConfig::of(&cluster).start().await;
    let mut clients = Vec::new();
    for (n, user) in ["a", "b", "c"].into_iter().cycle().take(9).enumerate() {
        let login =
            Login::user(user, user).name(&format!("worker \"{n}\"")).lang("go").with("version", "1.39.0".into());
        let mut client = RawClient::connect(&weir.address, &login).await;
        client.subscribe(&format!("to.{n}"), 1).await.unwrap();
        clients.push(client);
    }
    // Of each size there is, with and without headers, in one write and cut in the middle of a control line.
    for (n, client) in clients.iter_mut().enumerate() {
        for size in [0, 1, 17, 5_000, 40_000] {
            client.publish(&format!("to.{n}"), &vec![b'x'; size]).await.unwrap();
        }
        let headers = "NATS/1.0\r\nA: b\r\n\r\n";
        let total = headers.len() + 4;
        client.send(format!("HPUB to.{n} {} {total}\r\n{headers}body\r\nPU", headers.len()).as_bytes()).await.unwrap();
        client.send(format!("B to.{n} 3\r\nabc\r\n").as_bytes()).await.unwrap();
        client.round_trip().await.unwrap();
        for _ in 0..7 {
            client.next_msg().await;
        }
    }
    let by_name: BTreeMap<_, _> = cluster.servers.iter().map(|server| (server.name.clone(), server)).collect();
    eventually(PATIENCE, "weir and the servers show the same", async || {
        let shown = connections(&ask(&weir, "/connz?auth=1").await);
        assert_eq!(shown.len(), clients.len());
        for connection in shown {
            let server = by_name[connection["server"].as_str().expect("a server")];
            let path = format!("/connz?auth=1&cid={}", connection["server_cid"]);
            let theirs = connections(&server.monitoring(&path).await.expect("connz"));
            let [theirs] = &theirs[..] else { return Err(format!("{path}: {theirs:?}")) };
            if same(&connection) != same(theirs) {
                return Err(format!("{connection} {theirs}"));
            }
            assert_eq!((&connection["in_msgs"], &connection["out_msgs"]), (&7.into(), &7.into()));
        }
        Ok(())
    })
    .await;
    // The sums, and the accounts.
    let varz = ask(&weir, "/varz").await;
    let mut sums = BTreeMap::<&str, u64>::new();
    for server in &cluster.servers {
        let theirs = server.varz().await;
        for field in ["in_client_msgs", "in_client_bytes", "out_client_msgs", "out_client_bytes", "connections"] {
            *sums.entry(field).or_default() += theirs[field].as_u64().unwrap_or_else(|| panic!("{field}: {theirs}"));
        }
    }
    for (field, sum) in sums {
        assert_eq!(varz[field], sum, "{field}");
    }
    assert_eq!((&varz["total_connections"], &varz["in_msgs"]), (&9.into(), &63.into()));
    let statz = ask(&weir, "/accstatz").await;
    for account in statz["account_statz"].as_array().unwrap() {
        let mut theirs = [0, 0];
        for server in &cluster.servers {
            let all = server.monitoring("/accstatz").await.unwrap();
            let one = all["account_statz"].as_array().unwrap().iter().find(|one| one["acc"] == account["acc"]).cloned();
            let one = one.unwrap_or_default();
            theirs[0] += one["conns"].as_u64().unwrap_or(0);
            theirs[1] += one["received"]["msgs"].as_u64().unwrap_or(0);
        }
        assert_eq!([account["conns"].as_u64(), account["received"]["msgs"].as_u64()], theirs.map(Some), "{account}");
    }
    let accounts = ask(&weir, "/accountz").await;
    let names = accounts["accounts"].as_array().unwrap();
    assert!(names.contains(&"A".into()) && names.contains(&"B".into()), "{accounts}");
    assert_eq!(ask(&weir, "/accountz?acc=A").await["account_detail"]["client_connections"], 6);
    // What has ended still counts.
    drop(clients);
    weir.until("all have ended", |metrics| metrics.sum("weir_closed_total") == 9.0).await;
    eventually(PATIENCE, "all are remembered, and no account has one", async || {
        let ended = connections(&ask(&weir, "/connz?state=closed").await).len();
        let used = ask(&weir, "/accstatz").await["account_statz"].clone();
        if ended == 9 && used == Value::Array(Vec::new()) { Ok(()) } else { Err((ended, used)) }
    })
    .await;
    let unused = ask(&weir, "/accstatz?unused=1").await;
    let of_a = unused["account_statz"].as_array().unwrap().iter().find(|one| one["acc"] == "A").cloned().unwrap();
    assert_eq!((&of_a["conns"], &of_a["received"]["msgs"], &of_a["sent"]["msgs"]), (&0.into(), &42.into(), &42.into()));
    assert_eq!(connections(&ask(&weir, "/connz?state=closed&acc=A").await).len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_orders_and_conditions_select() {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    let mut clients = Vec::new();
    for n in 0..6_usize {
        // The clock of the last activity ticks every 4 ms, or every 10.
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        let user = if n < 4 { "a" } else { "c" };
        let mut client = RawClient::connect(&weir.address, &Login::user(user, user).name(&format!("n{n}"))).await;
        for _ in 0..=n {
            client.publish("x", b"12345").await.unwrap();
        }
        client.round_trip().await.unwrap();
        clients.push(client);
    }
    let names = async |query: &str| {
        let shown = connections(&ask(&weir, &format!("/connz?{query}")).await);
        shown.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("").await, "n0 n1 n2 n3 n4 n5");
    assert_eq!(names("sort=msgs_from").await, "n5 n4 n3 n2 n1 n0");
    assert_eq!(names("sort=bytes_from&limit=2&offset=1").await, "n4 n3");
    assert_eq!(names("sort=idle").await.split(' ').next(), Some("n0"));
    assert_eq!(names("sort=last&limit=1").await, "n5");
    assert_eq!(names("sort=uptime&limit=1").await, "n5");
    assert_eq!(names("user=c").await, "n4 n5");
    assert_eq!(names("acc=A&name=n2").await, "n2");
    assert_eq!(names(&format!("server={}&limit=1", server.name)).await, "n0");
    assert_eq!(names("server=none").await, "");
    let page = ask(&weir, "/connz?limit=2&offset=3").await;
    let numbers = ["num_connections", "total", "offset", "limit"].map(|field| page[field].as_u64().unwrap());
    assert_eq!(numbers, [2, 6, 3, 2]);
    let cid = connections(&page)[0]["cid"].as_u64().unwrap();
    assert_eq!(names(&format!("cid={cid}")).await, "n3");
    assert!(connections(&page)[0].get("account").is_none(), "only with auth=1");
    drop(clients.remove(2));
    let remembered = async || if names("state=closed").await == "n2" { Ok(()) } else { Err(()) };
    eventually(PATIENCE, "one has ended", remembered).await;
    assert_eq!(names("").await, "n0 n1 n3 n4 n5");
    assert_eq!(names("state=any").await, "n0 n1 n2 n3 n4 n5");
    let ended = connections(&ask(&weir, "/connz?state=closed&auth=1").await).remove(0);
    let how = ["reason", "outcome", "party", "phase", "account", "authorized_user"].map(|field| ended[field].clone());
    assert_eq!(how, ["eof", "closed", "downstream", "relay", "A", "a"]);
    assert!(ended["stop"].as_str() >= ended["start"].as_str() && ended["in_msgs"] == 3, "{ended}");
}

/// A client that is refused is found by its name at once, with the reason that the log and the metrics have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_refused_is_found_by_name() {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let config = WeirConfig::of_servers(&[&server]).account("A", "max_connections = 1\nusers = [\"a\"]");
    let dir = tempfile::TempDir::with_prefix("weir-test-").unwrap();
    let ports = dir.path().join("ports.json").display().to_string();
    let toml = config.toml(&ports).replace("[monitor]\n", "[monitor]\nmax_closed_clients = 3\n");
    let weir = Weir::spawn(&toml, dir).await;
    weir.sees(1).await;
    let _in = RawClient::connect(&weir.address, &Login::user("a", "a")).await;
    for n in 0..5 {
        let login = Login::user("a", "a").name(&format!("orders-{n}")).lang("go").with("version", "1.39.0".into());
        let refused = RawClient::attempt(&weir.address, &login, PATIENCE).await;
        assert_eq!(refused.refusal(), Some("maximum account active connections exceeded"));
        let path = format!("/connz?state=refused&name=orders-{n}&auth=1");
        let found = eventually(PATIENCE, "it is found", async || connections(&ask(&weir, &path).await).pop().ok_or(()));
        let found = found.await;
        let shown = ["reason", "outcome", "account", "authorized_user", "lang", "version", "ip"];
        let shown = shown.map(|field| found[field].clone());
        assert_eq!(shown, ["account_quota", "refused", "A", "a", "go", "1.39.0", "127.0.0.1"]);
        assert!(found.get("server").is_none() && found["in_msgs"] == 0, "{found}");
    }
    let kept = connections(&ask(&weir, "/connz?state=closed&sort=stop").await);
    let names: Vec<_> = kept.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["orders-4", "orders-3", "orders-2"], "so many are kept");
    assert_eq!(connections(&ask(&weir, "/connz?state=closed&reason=hold_expired").await).len(), 0);
    let refused = async || ask(&weir, "/varz").await["refused"].clone();
    eventually(PATIENCE, "all are counted", async || if refused().await == 5 { Ok(()) } else { Err(()) }).await;
}

/// What is wrong is answered as a nats-server answers it, and what is right too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_arguments_are_answered_as_by_a_nats_server() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    for path in [
        "/connz?auth=maybe",
        "/connz?subs=2",
        "/connz?limit=many",
        "/connz?limit=99999999999999999999",
        "/connz?offset=1.5",
        "/connz?cid=-1",
        "/connz?cid=x",
        "/connz?state=half",
        "/connz?sort=size",
        "/connz?sort=stop",
        "/connz?sort=reason&state=any",
        "/accountz?acc=nobody",
        "/accstatz?unused=perhaps",
        "/nothing",
    ] {
        let (status, body) = http::get(&weir.monitor, path).await.unwrap();
        assert_eq!((status, body), http::get(&server.monitor, path).await.unwrap(), "{path}");
        assert!(status >= 400, "{path}");
    }
    let sorts = "cid start subs pending msgs_to msgs_from bytes_to bytes_from last idle uptime rtt".split(' ');
    let sorted = sorts.map(|sort| format!("/connz?sort={sort}"));
    let others = [
        "/connz?sort=stop&state=closed",
        "/connz?sort=reason&state=CLOSED",
        "/connz?auth=T&subs=detail&state=ALL",
        "/connz?limit=-1&offset=-1&unknown=1",
        "/connz?mqtt_client=x&user=y&acc=z",
        "/accstatz?unused=1",
        "/varz",
        "/accountz",
        "/healthz?js-enabled-only=true",
        "/",
    ];
    for path in sorted.chain(others.map(str::to_owned)) {
        assert_eq!(http::get(&server.monitor, &path).await.unwrap().0, 200, "{path}");
        assert_eq!(http::get(&weir.monitor, &path).await.unwrap().0, 200, "{path}");
    }
}

/// What nats-top 0.6 reads (util/toputils.go and nats-top.go): these fields of the structs of nats-server.
#[derive(Debug, Deserialize)]
struct TopVarz {
    server_id: String,
    server_name: String,
    version: String,
    now: String,
    uptime: String,
    cpu: f64,
    mem: i64,
    in_msgs: i64,
    out_msgs: i64,
    in_bytes: i64,
    out_bytes: i64,
    slow_consumers: i64,
}

#[derive(Debug, Deserialize)]
struct TopConnz {
    num_connections: i64,
    connections: Vec<TopConnection>,
}

#[derive(Debug, Deserialize)]
struct TopConnection {
    cid: u64,
    ip: String,
    port: u16,
    last_activity: String,
    uptime: String,
    pending_bytes: i64,
    in_msgs: i64,
    out_msgs: i64,
    in_bytes: i64,
    out_bytes: i64,
    subscriptions: u32,
    name: String,
    lang: String,
    version: String,
}

/// What prometheus-nats-exporter 0.17 reads of a connection (collector/connz.go): it asserts these types, and panics
/// where one is another.
fn as_the_exporter_reads(connection: &Value) {
    for text in ["kind", "type", "ip", "start", "last_activity", "uptime", "idle", "name", "lang", "version", "account"]
    {
        assert!(connection[text].is_string(), "{text}: {connection}");
    }
    for number in ["cid", "port", "pending_bytes", "in_msgs", "out_msgs", "in_bytes", "out_bytes", "subscriptions"] {
        assert!(connection[number].is_number(), "{number}: {connection}");
    }
    for span in ["uptime", "idle"] {
        humantime::parse_duration(connection[span].as_str().unwrap()).unwrap_or_else(|err| panic!("{err}"));
    }
    for time in ["start", "last_activity"] {
        humantime::parse_rfc3339(connection[time].as_str().unwrap()).unwrap_or_else(|err| panic!("{err}"));
    }
}

/// Who waits to get in is open, as nats-server shows who has not logged in yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_wait_are_among_the_open_ones() {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let folder = tempfile::TempDir::with_prefix("weir-test-").unwrap();
    let socket = folder.path().join("weir.sock").display().to_string();
    let weir = WeirConfig::of_servers(&[&server]).table(&format!("[admin]\nsocket = {socket:?}\n")).start().await;
    let asks = |verb: &str| {
        let status =
            std::process::Command::new(weir_testkit::weir::binary()).args([verb, "--socket", &socket]).output();
        assert!(status.unwrap().status.success(), "{verb}");
    };
    let login = |name: &str| Login::user("a", "a").name(name).lang("go");
    let _inside = RawClient::connect(&weir.address, &login("inside")).await;
    asks("pause");
    let (address, waits) = (weir.address.clone(), login("waits"));
    let waits = tokio::spawn(async move { RawClient::attempt(&address, &waits, PATIENCE).await });
    let shown = async |query: &str, total: usize| {
        eventually(PATIENCE, query, async || {
            let connz = ask(&weir, &format!("/connz?auth=1&{query}")).await;
            if connz["total"] == total { Ok(connz["connections"].as_array().unwrap().clone()) } else { Err(connz) }
        })
        .await
    };
    let all = shown("state=open", 2).await;
    let held = all.iter().find(|one| one["name"] == "waits").unwrap_or_else(|| panic!("{all:?}"));
    let said = ["phase", "lang", "authorized_user", "in_msgs"].map(|field| &held[field]);
    assert_eq!(said, [&json!("hold"), &json!("go"), &json!("a"), &json!(0)], "{held}");
    assert!(held.get("server").is_none() && held["ip"] == "127.0.0.1", "{held}");
    let inside = all.iter().find(|one| one["name"] == "inside").unwrap();
    assert!(inside.get("phase").is_none(), "{inside}");
    assert_eq!(shown("state=held", 1).await[0]["cid"], held["cid"]);
    assert_eq!(shown(&format!("cid={}", held["cid"]), 2).await[0]["name"], "waits");
    assert_eq!(shown("limit=1&offset=1", 2).await.len(), 1);
    assert_eq!(shown("name=waits", 2).await.len(), 1);
    asks("resume");
    let _client = waits.await.unwrap().expect_in();
    assert!(shown("state=held", 0).await.is_empty());
    assert!(shown("state=open", 2).await.iter().all(|one| one.get("phase").is_none()));
}

/// Two weirs on one machine have names of their own where they are given some, for clients and for tools.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weir_is_called_as_its_operator_says() {
    let server = NatsServer::start(ServerOptions::default()).await;
    for name in ["gate-1", "gate-2"] {
        let weir = WeirConfig::of_servers(&[&server]).top(&format!("server_name = {name:?}")).start().await;
        assert_eq!(ask(&weir, "/varz").await["server_name"], name);
        // Before it has a server.
        let info = RawClient::greeted(&weir.address).await.unwrap().info;
        assert_eq!(info["server_name"], name, "{info}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_load_time_is_that_of_the_last_good_reload() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let mut weir = WeirConfig::of_servers(&[&server]).cluster("warn_at = \"80%\"").start().await;
    let loaded = async |weir: &Weir| {
        let time = ask(weir, "/varz").await["config_load_time"].as_str().unwrap().to_owned();
        humantime::parse_rfc3339(&time).unwrap_or_else(|err| panic!("{time}: {err}"))
    };
    let began = loaded(&weir).await;
    weir.reconfigure("80%", "70%");
    weir.reloads().await;
    let reloaded = loaded(&weir).await;
    assert!(began < reloaded && reloaded <= std::time::SystemTime::now(), "{began:?} {reloaded:?}");
    weir.reconfigure("70%", "seventy");
    assert_eq!(weir.reload().await.get("weir_config_last_reload_successful"), Some(0.0));
    assert_eq!(loaded(&weir).await, reloaded, "a bad file was loaded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_decode_what_they_ask_for() {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    let login = Login::user("a", "a").name("top").lang("go").with("version", "1.39.0".into());
    let mut client = RawClient::connect(&weir.address, &login).await;
    client.publish("x", b"123").await.unwrap();
    client.round_trip().await.unwrap();
    let varz = ask(&weir, "/varz").await;
    let top: TopVarz = serde_json::from_value(varz.clone()).unwrap();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!((top.server_id.len(), &*top.server_name, top.slow_consumers), (22, host.trim(), 0));
    assert!(!top.version.is_empty() && top.uptime.ends_with('s') && top.cpu >= 0.0 && top.mem > 1_000_000);
    humantime::parse_rfc3339(&top.now).unwrap();
    assert_eq!([top.in_msgs, top.in_bytes, top.out_msgs, top.out_bytes], [1, 3, 0, 0]);
    // The exporter takes every number, every time at `start` and `config_load_time`, and what is in objects below.
    for time in ["start", "config_load_time"] {
        humantime::parse_rfc3339(varz[time].as_str().unwrap()).unwrap();
    }
    assert_eq!(varz["http_req_stats"]["/varz"], 1, "{varz}");
    assert!(varz["max_connections"].as_u64() > Some(0) && varz["cores"].as_u64() > Some(0), "{varz}");
    let top: TopConnz = serde_json::from_value(ask(&weir, "/connz?limit=1024&sort=cid&subs=1").await).unwrap();
    let [one] = &top.connections[..] else { panic!("{top:?}") };
    assert_eq!(
        (top.num_connections, one.cid, &*one.ip, one.subscriptions, one.pending_bytes),
        (1, 1, "127.0.0.1", 0, 0)
    );
    assert_eq!((&*one.name, &*one.lang, &*one.version, &*one.uptime), ("top", "go", "1.39.0", &*one.uptime));
    assert_eq!([one.in_msgs, one.in_bytes, one.out_msgs, one.out_bytes], [1, 3, 0, 0]);
    assert!(one.port > 0 && one.last_activity.ends_with('Z'));
    // What the exporter asks for with -connz_detailed and -accstatz.
    let detailed = ask(&weir, "/connz?auth=true").await;
    as_the_exporter_reads(&connections(&detailed)[0]);
    let statz = ask(&weir, "/accstatz?unused=1").await;
    let of_a = statz["account_statz"].as_array().unwrap().iter().find(|one| one["acc"] == "A").cloned().unwrap();
    for field in ["conns", "total_conns", "leafnodes", "num_subscriptions", "slow_consumers"] {
        assert!(of_a[field].is_number(), "{field}: {of_a}");
    }
    assert_eq!((&of_a["sent"]["msgs"], &of_a["received"]["bytes"]), (&0.into(), &3.into()));
    // The server's first PING comes a little later, and its answer shows how long the client takes.
    let rtt = eventually(PATIENCE, "the round trip is known", async || {
        while let Ok(Ok(Some(op))) = tokio::time::timeout(std::time::Duration::from_millis(50), client.next()).await {
            if op == Op::Ping {
                client.send(b"PONG\r\n").await.unwrap();
            }
        }
        connections(&ask(&weir, "/connz?sort=rtt").await)[0]["rtt"].as_str().map(str::to_owned).ok_or(())
    });
    let rtt = rtt.await.replace('µ', "u");
    assert!(humantime::parse_duration(rtt.split('.').next().unwrap()).is_ok() || rtt.contains('.'), "{rtt}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_of_the_client_is_shown_as_it_is() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let authority = Authority::new("natsz");
    let tls = pair(&authority.issue("weir", &["localhost"]));
    let weir = WeirConfig::of_servers(&[&server]).listener(&format!("[listeners.tls]\n{tls}")).start().await;
    let mut client = TlsClient::connect(&weir.address, "localhost", false, authority.client(None)).await.unwrap();
    client.enter().await.unwrap();
    // The table has a session a moment after its client has read PONG.
    let shown = eventually(PATIENCE, "it is shown", async || connections(&ask(&weir, "/connz").await).pop().ok_or(()));
    let shown = shown.await;
    let (_, tls) = client.stream.get_ref().get_ref();
    let suite = format!("{:?}", tls.negotiated_cipher_suite().unwrap().suite()).replace("TLS13_", "TLS_");
    let version = format!("{:?}", tls.protocol_version().unwrap()).replace("TLSv", "").replace('_', ".");
    assert_eq!((&shown["tls_version"], &shown["tls_cipher_suite"]), (&version.into(), &suite.into()));
    assert_eq!((&shown["listener"], &shown["listener_kind"]), (&Value::from(weir.address.clone()), &"client".into()));
}
