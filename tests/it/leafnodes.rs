//! Leafnodes: nats-servers that connect to the hubs through weir.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use ::weir::internals::config::Config;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, tcp::OwnedReadHalf};
use weir_testkit::admin::AdminSocket;
use weir_testkit::operator::Operator;
use weir_testkit::tls::{Authority, pair};
use weir_testkit::*;

/// A server that takes leafnodes.
pub(crate) struct Hub {
    pub(crate) server: NatsServer,
    pub(crate) leafnodes: String,
}

impl Hub {
    /// With these keys in `leafnodes { … }`, and more configuration.
    pub(crate) async fn start(name: &str, leafnodes: &str, extra: &str) -> Self {
        let (options, leafnodes) = Self::options(ServerOptions::named(name), leafnodes, extra);
        Self { server: NatsServer::start(options).await, leafnodes }
    }

    pub(crate) fn options(options: ServerOptions, leafnodes: &str, extra: &str) -> (ServerOptions, String) {
        let address = format!("127.0.0.1:{}", ports::free());
        let own = format!("leafnodes {{ listen: \"{address}\"\n{leafnodes} }}\n{extra}");
        (options.with(&own), address)
    }

    pub(crate) async fn count(&self) -> u64 {
        self.server.varz().await["leafnodes"].as_u64().unwrap()
    }
}

/// weir in front of these hubs, whose leafnode ports it reads in `/varz`; its only listener is for leafnodes.
pub(crate) fn before(hubs: &[&Hub]) -> WeirConfig {
    WeirConfig::of_servers(&hubs.iter().map(|hub| &hub.server).collect::<Vec<_>>()).listener("kind = \"leafnode\"")
}

/// A leafnode whose remote has these keys. It logs what it reads of INFO.
pub(crate) async fn leafnode(name: &str, remote: &str) -> NatsServer {
    let own = format!("debug: true\ntrace: true\nleafnodes {{ remotes: [ {{ {remote} }} ] }}");
    NatsServer::start(ServerOptions::named(name).with(&own)).await
}

/// The `url` of a remote at this address, with user and password.
pub(crate) fn url(address: &str, user: &str) -> String {
    format!("url: \"nats-leaf://{user}{}{address}\"", if user.is_empty() { "" } else { "@" })
}

/// Waits until the leafnode has this many hubs.
pub(crate) async fn connected(leafnode: &NatsServer, n: usize) -> Vec<Value> {
    eventually(PATIENCE, "the leafnode is connected", async || {
        let leafz = leafnode.monitoring("/leafz").await.ok_or("no answer")?;
        let leafs = leafz["leafs"].as_array().cloned().unwrap_or_default();
        if leafs.len() == n { Ok(leafs) } else { Err("another number of hubs") }
    })
    .await
}

/// Messages of some kinds and sizes go from a client of one server to one of the other.
pub(crate) async fn delivers(from: (&str, &Login), to: (&str, &Login)) {
    // Interest that is over may not have gone yet from where it was.
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let there = format!("there.{}", CALLS.fetch_add(1, Relaxed));
    let (first, rest) = (format!("{there}.first"), format!("{there}.it"));
    let mut subscriber = RawClient::connect(to.0, to.1).await;
    subscriber.subscribe(&format!("{there}.*"), 1).await.unwrap();
    subscriber.round_trip().await.unwrap();
    let mut publisher = RawClient::connect(from.0, from.1).await;
    // Until the interest has come through.
    eventually(PATIENCE, "the first message", async || {
        publisher.publish(&first, b"").await.unwrap();
        match subscriber.next_within(Duration::from_millis(100)).await {
            Ok(Some(client::Op::Msg { .. })) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for payload in [&b"INFO {}\r\nCONNECT {}\r\n"[..], &[7; 300_000], b"", b"last"] {
        publisher.publish(&rest, payload).await.unwrap();
        let came = loop {
            let (subject, came) = subscriber.next_msg().await;
            if subject != first {
                break came;
            }
        };
        assert!(came == payload, "{} bytes came of {}", came.len(), payload.len());
    }
}

pub(crate) async fn both_ways(leafnode: &NatsServer, hub: &Hub, at_hub: &Login) {
    let (edge, core) = ((&*leafnode.address, &Login::nobody()), (&*hub.server.address, at_hub));
    delivers(edge, core).await;
    delivers(core, edge).await;
}

/// What a leafnode logs of its hubs has no address of theirs.
pub(crate) fn never_saw(leafnode: &NatsServer, hubs: &[&Hub]) {
    let log = leafnode.log();
    assert!(log.contains("LS+"), "the log traces what comes:\n{log}");
    for hub in hubs {
        assert!(!log.contains(&hub.leafnodes), "{} is in the log of the leafnode:\n{log}", hub.leafnodes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_and_messages_both_ways() {
    let users = "authorization { users: [ { user: edge, password: pw } ] }";
    let hub = Hub::start("n1", users, "").await;
    let weir = before(&[&hub]).start().await;
    let leafnode = leafnode("edge1", &url(&weir.address, "edge:pw")).await;
    let hubs = connected(&leafnode, 1).await;
    let compression = hubs[0]["compression"].as_str().unwrap();
    assert!(hubs[0]["name"] == "n1" && compression.starts_with("s2_"), "{hubs:?}");
    both_ways(&leafnode, &hub, &Login::nobody()).await;
    never_saw(&leafnode, &[&hub]);
    let sessions = weir.until("the session is counted", |now| now.sum("weir_sessions_active") == 1.0).await;
    assert!(sessions.sum("weir_relayed_messages_total") > 8.0);
    drop(leafnode);
    weir.assert_nothing_leaked().await;
}

/// Ways to log in at a hub: what it has in `leafnodes { … }`, what else, and what the remote says.
pub(crate) struct Way {
    pub(crate) what: &'static str,
    pub(crate) of_hub: String,
    pub(crate) extra: String,
    pub(crate) user: &'static str,
    pub(crate) remote: String,
    pub(crate) at_hub: Login,
}

pub(crate) fn ways(authority: &Authority) -> Vec<Way> {
    let key = KeyPair::new_user();
    let operator = Operator::with_accounts([-1]);
    let user = operator.account(0).user();
    let creds = authority.file("edge.creds");
    std::fs::write(&creds, user.creds()).unwrap();
    let way = |what, of_hub: &str, extra: &str, user, remote: &str, at_hub: &Login| Way {
        what,
        of_hub: of_hub.to_owned(),
        extra: extra.to_owned(),
        user,
        remote: remote.to_owned(),
        at_hub: at_hub.clone(),
    };
    let accounts = "accounts { SITES { users: [ { user: core, password: pw } ] } }";
    vec![
        way("nobody", "", "", "", "", &Login::nobody()),
        way(
            "a user of an account",
            "authorization { users: [ { user: edge, password: pw, account: SITES } ] }",
            accounts,
            "edge:pw",
            "",
            &Login::user("core", "pw"),
        ),
        way(
            "an NKey",
            "",
            &format!(
                "accounts {{ SITES {{ users: [ {{ nkey: {} }}, {{ user: core, password: pw }} ] }} }}",
                key.public_key()
            ),
            "",
            &format!("nkey: {:?}", key.seed().unwrap()),
            &Login::user("core", "pw"),
        ),
        way(
            "a JWT",
            "",
            &operator.server_config(),
            "",
            &format!("credentials: {creds:?}"),
            &Login::jwt(&user.jwt, &user.key),
        ),
    ]
}

pub(crate) async fn logs_in(way: &Way, of_hub: &str, weir: impl FnOnce(WeirConfig) -> WeirConfig, remote: &str) {
    eprintln!("{}, {remote}", way.what);
    let hub = Hub::start("n1", &format!("{}\n{of_hub}", way.of_hub), &way.extra).await;
    let weir = weir(before(&[&hub])).start().await;
    let leafnode = leafnode("edge1", &format!("{}\n{}\n{remote}", url(&weir.address, way.user), way.remote)).await;
    connected(&leafnode, 1).await;
    both_ways(&leafnode, &hub, &way.at_hub).await;
    never_saw(&leafnode, &[&hub]);
    assert_eq!(hub.count().await, 1);
    drop(leafnode);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_logs_in_at_a_hub_does_so_through_weir() {
    let authority = Authority::new("weir tests");
    for way in ways(&authority) {
        logs_in(&way, "", |weir| weir, "").await;
    }
}

/// With TLS towards the leafnode, after INFO and before it, and with TLS towards the hub.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_on_either_side() {
    let authority = Authority::new("weir tests");
    let (weirs, hubs) = (authority.issue("weir", &["127.0.0.1"]), authority.issue("n1", &["127.0.0.1"]));
    let of_hub = format!("tls {{ cert_file: {:?}, key_file: {:?}, timeout: 30 }}", hubs.cert, hubs.key);
    for (n, way) in ways(&authority).iter().enumerate() {
        let (first, hub_has_tls) = (n % 2 == 1, n >= 2);
        let listener = |weir: WeirConfig| {
            let tls = format!("kind = \"leafnode\"\n[listeners.tls]\n{}\nhandshake_first = {first}", pair(&weirs));
            weir.listener(&tls)
        };
        let weir = |weir: WeirConfig| match hub_has_tls {
            true => listener(weir).cluster_tls(&format!("ca_file = {:?}", authority.ca())),
            false => listener(weir),
        };
        let remote = format!("tls {{ ca_file: {:?}, handshake_first: {first} }}", authority.ca());
        logs_in(way, if hub_has_tls { &of_hub } else { "" }, weir, &remote).await;
    }
}

/// So many hubs of one cluster.
pub(crate) async fn cluster(n: usize) -> Vec<Hub> {
    cluster_with(n, "", "", |options| options).await
}

/// The same with these keys in `leafnodes { … }`, and more configuration.
pub(crate) async fn cluster_with(
    n: usize,
    leafnodes: &str,
    extra: &str,
    more: impl Fn(ServerOptions) -> ServerOptions,
) -> Vec<Hub> {
    let mut addresses = Vec::new();
    let cluster = {
        let ports = std::sync::Mutex::new(&mut addresses);
        Cluster::start(n, |options| {
            let (options, address) = Hub::options(more(options), leafnodes, extra);
            ports.lock().unwrap().push(address);
            options
        })
        .await
    };
    cluster.servers.into_iter().zip(addresses).map(|(server, leafnodes)| Hub { server, leafnodes }).collect()
}

/// The next INFO that a leafnode reads, which names no hub's address.
async fn next_info(reader: &mut BufReader<OwnedReadHalf>, hubs: &[Hub]) -> Value {
    loop {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await;
        assert!(read.expect("an INFO in time").unwrap() > 0, "the stream has ended");
        let Some(json) = line.strip_prefix("INFO ") else { continue };
        let info: Value = serde_json::from_str(json).unwrap();
        for hub in hubs {
            assert!(!line.contains(&hub.leafnodes), "{line}");
        }
        assert_eq!((&info["leafnode_urls"], info.get("ip")), (&json!([]), None));
        // Nothing is agreed on behind CONNECT.
        let offered = info.get("nonce").map(|_| "s2_auto");
        assert_eq!(info.get("compression").and_then(Value::as_str), offered, "{info}");
        return info;
    }
}

/// In the first INFO, in the answer to CONNECT, and in the INFO by which a hub tells of a change of the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_info_names_a_hubs_address_as_long_as_the_session_lives() {
    let mut hubs = cluster(2).await;
    let weir = before(&[&hubs[0]]).start().await;
    // A hub itself names both, so that the test would see them.
    let mut direct = BufReader::new(TcpStream::connect(&hubs[0].leafnodes).await.unwrap());
    let mut line = String::new();
    direct.read_line(&mut line).await.unwrap();
    assert!(hubs.iter().all(|hub| line.contains(&hub.leafnodes)), "{line}");
    let (reader, mut writer) = TcpStream::connect(&weir.address).await.unwrap().into_split();
    let mut reader = BufReader::new(reader);
    let first = next_info(&mut reader, &hubs).await;
    assert_eq!(first["port"].to_string(), weir.port(), "{first}");
    assert!(first["nonce"].is_string() && first["server_name"] == "n1", "{first}");
    writer.write_all(b"CONNECT {\"name\":\"edge\",\"protocol\":1,\"headers\":true}\r\n").await.unwrap();
    let answer = next_info(&mut reader, &hubs).await;
    assert_eq!((&answer["connect_info"], &answer["remote_account"]), (&json!(true), &json!("$G")), "{answer}");
    hubs[1].server.kill9();
    let told = next_info(&mut reader, &hubs).await;
    assert!(told.get("connect_info").is_none() && told["server_name"] == "n1", "{told}");
    drop((reader, writer));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_killed_leaves_its_leafnodes_to_the_others() {
    let mut hubs = cluster(3).await;
    let weir = before(&hubs.iter().collect::<Vec<_>>()).start().await;
    let mut leafnodes = Vec::new();
    for n in 0..6 {
        leafnodes.push(leafnode(&format!("edge{n}"), &url(&weir.address, "")).await);
    }
    for one in &leafnodes {
        connected(one, 1).await;
    }
    for hub in &hubs {
        assert_eq!(hub.count().await, 2, "they are spread");
    }
    hubs[0].server.kill9();
    let [_, second, third] = &hubs[..] else { panic!("three hubs") };
    eventually(PATIENCE, "all leafnodes are on the others", async || {
        match (second.count().await, third.count().await) {
            (3, 3) => Ok(()),
            others => Err(others),
        }
    })
    .await;
    for one in &leafnodes {
        let hub = connected(one, 1).await[0]["name"].as_str().unwrap().to_owned();
        let hub = if hub == "n2" { second } else { third };
        both_ways(one, hub, &Login::nobody()).await;
        never_saw(one, &hubs.iter().collect::<Vec<_>>());
    }
    drop(leafnodes);
    weir.assert_nothing_leaked().await;
}

/// It comes back after its `reconnect_interval`, however often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_refused_comes_back() {
    let users = "authorization { users: [ { user: edge, password: pw } ] }";
    let hub = Hub::start("n1", users, "").await;
    let weir = before(&[&hub]).account("default", "max_connections = 1").start().await;
    let text = "maximum account active connections exceeded";
    the_second_waits_for_the_place(&weir, &url(&weir.address, "edge:pw"), text, "account_quota").await;
    the_hub_says_no_again_and_again(&url(&weir.address, "edge:wrong")).await;
    weir.assert_nothing_leaked().await;
}

/// Two leafnodes have this remote, and there is room for one: the other reads `text`, and has the place once it is
/// free.
pub(crate) async fn the_second_waits_for_the_place(weir: &Weir, remote: &str, text: &str, reason: &str) {
    let first = leafnode("edge1", remote).await;
    connected(&first, 1).await;
    let second = leafnode("edge2", remote).await;
    second.says(text).await;
    weir.until("it has come twice", |now| now.sum_where("weir_refused_total", "reason", reason) >= 2.0).await;
    connected(&second, 0).await;
    drop(first);
    connected(&second, 1).await;
}

/// A wrong password, as this remote has it, is the hub's to judge.
pub(crate) async fn the_hub_says_no_again_and_again(remote: &str) {
    let wrong = leafnode("edge3", remote).await;
    wrong.says("Authorization Violation").await;
    eventually(PATIENCE, "it comes back", async || match wrong.log().matches("Authorization Violation").count() {
        0..2 => Err(()),
        _ => Ok(()),
    })
    .await;
}

/// A lame duck's leafnodes are closed, and stay away no longer than they would from a hub.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_that_drains_closes_them() {
    let hub = Hub::start("n1", "", "").await;
    let top = "workers = 2\nlame_duck_grace_period = \"0s\"\nlame_duck_duration = \"1s\"";
    let mut weir = before(&[&hub]).top(top).start().await;
    let leafnode = leafnode("edge1", &url(&weir.address, "")).await;
    connected(&leafnode, 1).await;
    let connz = http::get(&weir.monitor, "/connz").await.unwrap().1;
    let connz: Value = serde_json::from_str(&connz).unwrap();
    assert_eq!(
        (&connz["connections"][0]["kind"], &connz["connections"][0]["name"]),
        (&"Leafnode".into(), &"edge1".into()),
        "{connz}"
    );
    drain_closes(&mut weir, leafnode, &hub).await;
}

/// Has weir drain, and waits until the leafnode and its hub know that they are apart.
pub(crate) async fn drain_closes(weir: &mut Weir, leafnode: NatsServer, hub: &Hub) {
    weir.signal(rustix::process::Signal::TERM);
    connected(&leafnode, 0).await;
    eventually(PATIENCE, "the hub has none", async || match hub.count().await {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
    drop(leafnode);
}

/// What no leafnode says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_than_leafnodes_read_what_the_hub_says_and_no_connect_comes_twice() {
    let hub = Hub::start("n1", "", "").await;
    let weir = before(&[&hub]).start().await;
    for address in [&hub.leafnodes, &weir.address] {
        let refused = RawClient::attempt(address, &Login::nobody().lang("go"), PATIENCE).await;
        assert_eq!(refused.refusal(), Some("attempted to connect to leaf node port"), "{address}");
    }
    let mut raw = RawClient::greeted(&weir.address).await.unwrap();
    assert_eq!(raw.info["port"].to_string(), weir.port());
    raw.send(b"CONNECT {\"name\":\"edge\",\"protocol\":1}\r\nLS+ a\r\n").await.unwrap();
    eventually(PATIENCE, "the hub has it", async || match hub.count().await {
        1 => Ok(()),
        n => Err(n),
    })
    .await;
    raw.send(b"PING\r\nCONNECT {\"name\":\"other\"}\r\n").await.unwrap();
    weir.until("it is closed", |now| now.sum_where("weir_closed_total", "reason", "second_connect") == 1.0).await;
    // Without CONNECT there is no leafnode.
    let mut raw = RawClient::greeted(&weir.address).await.unwrap();
    raw.send(b"PING\r\n").await.unwrap();
    assert!(raw.rest(PATIENCE).await.0.contains("-ERR"));
    drop(raw);
    weir.assert_nothing_leaked().await;
}

/// So many leafnodes storm.
const STORM: usize = 200;

/// All at once, and once more when a hub is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_leafnodes_is_let_in_evenly() {
    let users =
        format!("authorization {{ users: [ {{ user: edge, password: {:?} }} ] }}", crate::slow_server::PASSWORD);
    let mut hubs = Vec::new();
    for n in 1..=3 {
        hubs.push(Hub::start(&format!("n{n}"), &users, "").await);
    }
    let weir = before(&hubs.iter().collect::<Vec<_>>()).start().await;
    // One server with many remotes, each in an account of its own, is many leafnodes.
    let accounts: Vec<String> = (0..STORM).map(|n| format!("A{n} {{}}")).collect();
    let remotes: Vec<String> =
        (0..STORM).map(|n| format!("{{ {}, account: A{n} }}", url(&weir.address, "edge:p"))).collect();
    let own = format!("accounts {{ {} }}\nleafnodes {{ remotes: [ {} ] }}", accounts.join("\n"), remotes.join("\n"));
    let edge = NatsServer::start(ServerOptions::named("edge").with(&own)).await;
    connected(&edge, STORM).await;
    let counts = futures::future::join_all(hubs.iter().map(Hub::count)).await;
    eprintln!("{counts:?}");
    assert_eq!(counts.iter().sum::<u64>(), STORM as u64);
    assert!(unevenness(&counts) <= 1.1, "{counts:?}");
    hubs[0].server.kill9();
    eventually(PATIENCE, "all are back", async || {
        let counts = futures::future::join_all(hubs[1..].iter().map(Hub::count)).await;
        if counts.iter().sum::<u64>() == STORM as u64 { Ok(()) } else { Err(counts) }
    })
    .await;
    let counts = futures::future::join_all(hubs[1..].iter().map(Hub::count)).await;
    eprintln!("{counts:?}");
    assert!(unevenness(&counts) <= 1.1, "{counts:?}");
    drop(edge);
    weir.assert_nothing_leaked().await;
}

/// Servers of both ends of the range of versions, on either side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_leafnodes_and_old_hubs_are_served() {
    let old = match nats::debian().await {
        Ok(old) => old,
        Err(why) => return skip::skip(&why),
    };
    let start = async |name: &str, own: &str, binary: Option<&PathBuf>| {
        let mut options = ServerOptions::named(name).with(own);
        options.binary = binary.cloned();
        NatsServer::start(options).await
    };
    for (hub_is_old, leafnode_is_old) in [(false, true), (true, false), (true, true)] {
        eprintln!("old hub: {hub_is_old}, old leafnode: {leafnode_is_old}");
        let leafnodes = format!("127.0.0.1:{}", ports::free());
        let own = format!("leafnodes {{ listen: \"{leafnodes}\"\nauthorization {{ user: edge, password: pw }} }}");
        let hub = Hub { server: start("n1", &own, hub_is_old.then_some(&old)).await, leafnodes };
        let weir = before(&[&hub]).start().await;
        let remote = format!("leafnodes {{ remotes: [ {{ {} }} ] }}", url(&weir.address, "edge:pw"));
        let leafnode = start("edge1", &format!("trace: true\n{remote}"), leafnode_is_old.then_some(&old)).await;
        connected(&leafnode, 1).await;
        both_ways(&leafnode, &hub, &Login::nobody()).await;
        never_saw(&leafnode, &[&hub]);
        drop(leafnode);
        weir.assert_nothing_leaked().await;
    }
}

/// Who has no turn before INFO is due reads weir's own. One with a password waits on; one that signs comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_for_long_get_in_too() {
    let key = KeyPair::new_user();
    let accounts = format!(
        "accounts {{ SITES {{ users: [ {{ user: edge, password: pw }}, {{ nkey: {} }} ] }} }}",
        key.public_key()
    );
    let hub = Hub::start("n1", "", &accounts).await;
    let weir = before(&[&hub]).admission("rate = 2\nburst = 1").start().await;
    let mut leafnodes = Vec::new();
    for n in 0..8 {
        let remote = match n % 2 {
            0 => url(&weir.address, "edge:pw"),
            _ => format!("{}, nkey: {:?}", url(&weir.address, ""), key.seed().unwrap()),
        };
        leafnodes.push(leafnode(&format!("edge{n}"), &remote).await);
    }
    for one in &leafnodes {
        connected(one, 1).await;
    }
    assert_eq!(hub.count().await, 8);
    let waited = weir.metrics().await;
    eprintln!("{}", waited.excerpt(&["weir_hold_seconds_count", "weir_refused_total"]));
    drop(leafnodes);
    weir.assert_nothing_leaked().await;
}

/// A leafnode stays in the process before, counted in the new one, and comes back to that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_drains_them() {
    let hub = Hub::start("n1", "", "").await;
    let admin = AdminSocket::default();
    let top = "workers = 2\nlame_duck_grace_period = \"0s\"\nlame_duck_duration = \"1s\"";
    let config = before(&[&hub]).top(top).table(&admin.toml());
    let mut weir = config.account("default", "max_connections = 1").start().await;
    let leafnode = leafnode("edge1", &url(&weir.address, "")).await;
    connected(&leafnode, 1).await;
    let mut before = weir.is_taken_over().await;
    before.wait(PATIENCE).await;
    leafnode.says("Leafnode connection closed").await;
    connected(&leafnode, 1).await;
    both_ways(&leafnode, &hub, &Login::nobody()).await;
    weir.until("the session is counted", |now| now.sum("weir_sessions_active") == 1.0).await;
}

/// A hub whose port nobody knows gets none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_names_the_port_or_a_reading_does() {
    let (hub, other) = (Hub::start("n1", "", "").await, NatsServer::start(ServerOptions::named("n2")).await);
    let all = WeirConfig::of_servers(&[&hub.server, &other]).listener("kind = \"leafnode\"");
    let weir = all.start().await;
    let mut leafnodes = Vec::new();
    for n in 0..4 {
        leafnodes.push(leafnode(&format!("edge{n}"), &url(&weir.address, "")).await);
    }
    for one in &leafnodes {
        connected(one, 1).await;
    }
    assert_eq!(hub.count().await, 4);
    drop((weir, leafnodes));
    let address = format!("address = {:?}", hub.server.address);
    let named = before(&[&hub]).replacing(&address, &format!("{address}\nleafnode = {:?}", hub.leafnodes));
    let weir = named.without_monitors().start_before(1).await;
    let leafnode = leafnode("edge1", &url(&weir.address, "")).await;
    connected(&leafnode, 1).await;
}

#[test]
fn what_is_wrong_with_a_listener_for_leafnodes_is_told() {
    let found = |more: &str, server: &str| {
        let listener = format!("[[listeners]]\nlisten = \"0.0.0.0:7422\"\nkind = \"leafnode\"\n{more}");
        let server = format!("[[cluster.servers]]\naddress = \"n1:4222\"\n{server}");
        match Config::parse("weir.toml", &(listener + &server)) {
            Ok(config) => config.warnings().iter().map(ToString::to_string).collect::<Vec<_>>(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    };
    assert_eq!(found("", "leafnode = \"n1:7422\"\n"), [""; 0]);
    assert_eq!(found("", "monitor = \"http://n1:8222\"\n"), [""; 0]);
    for (more, server, told) in [
        ("", "", "cluster.servers[0].leafnode: weir does not learn where it takes leafnodes"),
        ("advertise = \"fleet\"\n", "leafnode = \"n1:7422\"\n", "weirs tell each other no addresses for leafnodes"),
        ("", "leafnode = \"n1:4222\"\n", "is the address of the client port"),
        ("compression = \"gzip\"\n", "leafnode = \"n1:7422\"\n", "\"gzip\" is not one of the choices"),
        ("[listeners.websocket]\n", "leafnode = \"n1:7422\"\n", "this listener speaks no WebSocket"),
    ] {
        let said = found(more, server);
        assert!(said.len() == 1 && said[0].contains(told), "{said:?}");
    }
}
