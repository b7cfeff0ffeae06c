//! Leafnodes over WebSocket: nats-servers whose remotes are `ws://` or `wss://`.

use std::time::Duration;

use ::weir::internals::config::Config;
use serde_json::{Value, json};
use weir_testkit::admin::AdminSocket;
use weir_testkit::operator::Operator;
use weir_testkit::tls::{Authority, pair};
use weir_testkit::websocket::{WsClient, request};
use weir_testkit::*;

use crate::leafnodes::{
    Hub, Way, before, both_ways, cluster, connected, delivers, drain_closes, leafnode, never_saw,
    the_hub_says_no_again_and_again, the_second_waits_for_the_place, ways,
};

/// The listener of these tests, with more keys of its `websocket` table.
fn listener(more: &str) -> String {
    format!("kind = \"websocket\"\n[listeners.websocket]\nleafnodes = true\n{more}")
}

/// weir in front of these hubs; its only listener takes leafnodes and clients over WebSocket.
fn over_websocket(hubs: &[&Hub]) -> WeirConfig {
    before(hubs).listener(&listener(""))
}

/// The `url` of a remote at this address, with user and password, and a path.
fn url(scheme: &str, address: &str, user: &str, path: &str) -> String {
    format!("url: \"{scheme}://{user}{}{address}{path}\"", if user.is_empty() { "" } else { "@" })
}

/// A payload that does not compress, of so many bytes.
fn noise(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

/// 1 MiB, which is nats-server's `max_payload`, goes from a client of one server to one of the other.
async fn delivers_a_mebibyte(from: &str, to: &str, at: &Login) {
    let mut subscriber = RawClient::connect(to, at).await;
    subscriber.subscribe("large", 1).await.unwrap();
    subscriber.round_trip().await.unwrap();
    let mut publisher = RawClient::connect(from, at).await;
    for payload in [noise(1024 * 1024), vec![b'w'; 1024 * 1024]] {
        eventually(PATIENCE, "it is delivered", async || {
            publisher.publish("large", &payload).await.unwrap();
            match subscriber.next_within(Duration::from_secs(2)).await {
                Ok(Some(client::Op::Msg { payload: came, .. })) if came == payload => Ok(()),
                Ok(Some(_)) => Err("another message"),
                _ => Err("no message"),
            }
        })
        .await;
    }
}

async fn is_served(way: &Way, hub: &Hub, weir: &Weir, remote: &str) -> String {
    let leafnode = leafnode("edge1", &format!("{}\n{remote}", way.remote)).await;
    connected(&leafnode, 1).await;
    both_ways(&leafnode, hub, &way.at_hub).await;
    never_saw(&leafnode, &[hub]);
    assert_eq!(hub.count().await, 1);
    let connz = http::get(&weir.monitor, "/connz").await.unwrap().1;
    let connz: Value = serde_json::from_str(&connz).unwrap();
    let shown = &connz["connections"][0];
    assert_eq!(
        (&shown["kind"], &shown["type"], &shown["listener_kind"], &shown["name"]),
        (&"Leafnode".into(), &"websocket".into(), &"websocket".into(), &"edge1".into()),
        "{connz}"
    );
    let log = leafnode.log();
    drop(leafnode);
    weir.assert_nothing_leaked().await;
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_logs_in_at_a_hub_does_so_over_websocket() {
    let authority = Authority::new("weir tests");
    for way in ways(&authority) {
        eprintln!("{}", way.what);
        let hub = Hub::start("n1", &way.of_hub, &way.extra).await;
        let weir = over_websocket(&[&hub]).start().await;
        is_served(&way, &hub, &weir, &url("ws", &weir.address, way.user, "")).await;
    }
}

/// TLS towards the leafnode, and for every other way to log in also towards the hub.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls() {
    let authority = Authority::new("weir tests");
    let (weirs, hubs) = (authority.issue("weir", &["127.0.0.1"]), authority.issue("n1", &["127.0.0.1"]));
    for (n, way) in ways(&authority).iter().enumerate() {
        let hub_has_tls = n % 2 == 1;
        eprintln!("{}, TLS of the hub: {hub_has_tls}", way.what);
        let of_hub = format!("tls {{ cert_file: {:?}, key_file: {:?}, timeout: 30 }}", hubs.cert, hubs.key);
        let of_hub = if hub_has_tls { of_hub } else { String::new() };
        let hub = Hub::start("n1", &format!("{}\n{of_hub}", way.of_hub), &way.extra).await;
        let config = before(&[&hub]).listener(&format!("{}[listeners.tls]\n{}", listener(""), pair(&weirs)));
        let config = match hub_has_tls {
            true => config.cluster_tls(&format!("ca_file = {:?}", authority.ca())),
            false => config,
        };
        let weir = config.start().await;
        let tls = format!("tls {{ ca_file: {:?} }}", authority.ca());
        is_served(way, &hub, &weir, &format!("{}\n{tls}", url("wss", &weir.address, way.user, ""))).await;
    }
}

/// What the remote asks for in its request, and a path in front of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_compression_without_masks_and_below_a_path() {
    let hub = Hub::start("n1", "", "").await;
    for compression in [false, true] {
        let weir = before(&[&hub]).listener(&listener(&format!("compression = {compression}"))).start().await;
        for (compresses, no_masking) in [(false, false), (false, true), (true, false), (true, true)] {
            eprintln!("listener: {compression}, remote: {compresses}, no masking: {no_masking}");
            let way = Way {
                what: "nobody",
                of_hub: String::new(),
                extra: String::new(),
                user: "",
                remote: format!("ws_compression: {compresses}, ws_no_masking: {no_masking}"),
                at_hub: Login::nobody(),
            };
            let path = if no_masking { "/edge/of" } else { "" };
            let log = is_served(&way, &hub, &weir, &url("ws", &weir.address, "", path)).await;
            let agreed = format!("Leafnode compression={} masking={}", compression && compresses, !no_masking);
            assert!(log.contains(&agreed), "{agreed}:\n{log}");
            let leafnode = leafnode("edge1", &format!("{}\n{}", way.remote, url("ws", &weir.address, "", path))).await;
            connected(&leafnode, 1).await;
            delivers_a_mebibyte(&leafnode.address, &hub.server.address, &Login::nobody()).await;
            delivers_a_mebibyte(&hub.server.address, &leafnode.address, &Login::nobody()).await;
            drop(leafnode);
            weir.assert_nothing_leaked().await;
        }
    }
}

/// A leafnode over WebSocket learns other addresses from `ws_connect_urls`: it reads weir's, and no hub's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_info_leads_past_weir() {
    let mut hubs = Vec::new();
    for hub in 0..2 {
        let websocket = format!("websocket {{ listen: \"127.0.0.1:{}\", no_tls: true }}", ports::free());
        hubs.push(Hub::start(&format!("n{hub}"), "", &websocket).await);
    }
    let all: Vec<&Hub> = hubs.iter().collect();
    let weir = before(&all)
        .listener("kind = \"websocket\"\nadvertise = [\"weir.example:443\"]\n[listeners.websocket]\nleafnodes = true")
        .start()
        .await;
    let (mut client, answer) = WsClient::ask(&weir.address, &request("/leafnode", "")).await.unwrap();
    assert_eq!(answer.status, 101, "{answer:?}");
    let first = client.info().await;
    client.say(b"CONNECT {\"name\":\"edge\",\"protocol\":1,\"headers\":true}\r\n").await;
    let answer = client.line().await;
    let second: Value = serde_json::from_str(answer.strip_prefix("INFO ").expect("INFO answers")).unwrap();
    assert_eq!(second["connect_info"], json!(true), "{second}");
    for info in [first, second] {
        assert_eq!((&info["leafnode_urls"], &info["ws_connect_urls"]), (&json!([]), &json!(["weir.example:443"])));
        assert_eq!((info.get("ip"), info.get("compression"), info.get("connect_urls")), (None, None, None), "{info}");
        assert_eq!(info["port"].to_string(), weir.port(), "{info}");
    }
    drop(client);
    // A client of the same listener reads nothing of leafnodes.
    let (client, info) = WsClient::greeted(&weir.address, "").await;
    assert_eq!((&info["connect_urls"], info.get("ws_connect_urls")), (&json!(["weir.example:443"]), None), "{info}");
    assert_eq!(info.get("leafnode_urls"), None, "{info}");
    drop(client);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_killed_leaves_them_to_the_others() {
    let mut hubs = cluster(3).await;
    let weir = over_websocket(&hubs.iter().collect::<Vec<_>>()).start().await;
    let mut leafnodes = Vec::new();
    for n in 0..6 {
        leafnodes.push(leafnode(&format!("edge{n}"), &url("ws", &weir.address, "", "")).await);
    }
    for one in &leafnodes {
        connected(one, 1).await;
    }
    for hub in &hubs {
        assert_eq!(hub.count().await, 2, "they are spread");
    }
    hubs[0].server.kill9();
    eventually(PATIENCE, "all leafnodes are on the others", async || {
        match (hubs[1].count().await, hubs[2].count().await) {
            (3, 3) => Ok(()),
            others => Err(others),
        }
    })
    .await;
    for one in &leafnodes {
        let hub = connected(one, 1).await[0]["name"].as_str().unwrap().to_owned();
        let hub = hubs.iter().find(|other| other.server.name == hub).unwrap();
        both_ways(one, hub, &Login::nobody()).await;
        never_saw(one, &hubs.iter().collect::<Vec<_>>());
    }
    drop(leafnodes);
    weir.assert_nothing_leaked().await;
}

/// Whatever refuses it, it reads why, and comes back at its `reconnect_interval`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_refused_reads_why_and_comes_back() {
    let hub = Hub::start("n1", "authorization { users: [ { user: edge, password: pw } ] }", "").await;
    // The connect check and the accept check say no, in turn.
    for (limit, text, reason) in [
        ("[accounts.default]\nmax_connections = 1", "maximum account active connections exceeded", "account_quota"),
        ("[admission.per_source]\nmax_connections = 1", "maximum connections exceeded", "source_quota"),
        (
            "[accounts.default]\nmax_leafnodes = 1",
            "maximum account active connections exceeded",
            "account_leafnode_quota",
        ),
        ("[admission.per_source]\nmax_leafnodes = 1", "maximum connections exceeded", "source_leafnode_quota"),
    ] {
        eprintln!("{limit}");
        let weir = over_websocket(&[&hub]).table(limit).start().await;
        the_second_waits_for_the_place(&weir, &url("ws", &weir.address, "edge:pw", ""), text, reason).await;
        weir.assert_nothing_leaked().await;
    }
    let weir = over_websocket(&[&hub]).start().await;
    the_hub_says_no_again_and_again(&url("ws", &weir.address, "edge:wrong", "")).await;
    weir.assert_nothing_leaked().await;
}

/// A server without a leafnode port, a listener that takes none, and a client library where a leafnode should be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_served_is_told() {
    let none = NatsServer::start(ServerOptions::named("n1")).await;
    let weir = WeirConfig::of_servers(&[&none]).listener(&listener("")).start().await;
    let nowhere = leafnode("edge1", &url("ws", &weir.address, "", "")).await;
    nowhere.says("Not configured to accept leaf node connections").await;
    weir.until("it has come twice", |now| now.sum_where("weir_refused_total", "reason", "no_leafnode_port") >= 2.0)
        .await;
    drop(nowhere);
    // Clients of the same listener are served.
    drop(WsClient::connect(&weir.address, "", &Login::nobody()).await);
    weir.assert_nothing_leaked().await;

    // So do those of a plain listener. Where the port is known and dead, no server can be used for them.
    let address = format!("address = {:?}", none.address);
    let dead = format!("{address}\nleafnode = \"127.0.0.1:{}\"", ports::free());
    let plain = WeirConfig::of_servers(&[&none]).listener("kind = \"leafnode\"");
    for (config, reason) in [(plain.clone(), "no_leafnode_port"), (plain.replacing(&address, &dead), "no_server")] {
        let weir = config.start().await;
        let nowhere = leafnode("edge1", &format!("url: \"nats-leaf://{}\"", weir.address)).await;
        weir.until(reason, |now| now.sum_where("weir_refused_total", "reason", reason) >= 2.0).await;
        drop(nowhere);
        weir.assert_nothing_leaked().await;
    }

    let hub = Hub::start("n1", "", "").await;
    let weir = before(&[&hub]).listener("kind = \"websocket\"").start().await;
    let (_, answer) = WsClient::ask(&weir.address, &request("/leafnode", "")).await.unwrap();
    assert_eq!((answer.status, answer.body.contains("leafnode websocket endpoint not enabled")), (404, true));
    let weir = over_websocket(&[&hub]).start().await;
    let (_, answer) = WsClient::ask(&weir.address, &request("/mqtt", "")).await.unwrap();
    assert_eq!(answer.status, 404, "{answer:?}");
    for path in ["/leafnode", "/below/leafnode?a=b"] {
        let (mut client, answer) = WsClient::ask(&weir.address, &request(path, "")).await.unwrap();
        assert_eq!(answer.status, 101, "{answer:?}");
        let info = client.info().await;
        assert!(info["nonce"].is_string(), "{info}");
        client.say(b"CONNECT {\"lang\":\"go\",\"version\":\"1.53.1\",\"protocol\":1}\r\nPING\r\n").await;
        let (said, closed) = client.rest().await;
        assert!(said.contains("-ERR 'attempted to connect to leaf node port'"), "{said}");
        assert!(closed.is_some(), "a close frame comes behind it");
    }
    // Operations in place of CONNECT, and half a CONNECT.
    for words in [&b"PING\r\n"[..], b"SUB a 1\r\n"] {
        let (mut client, _) = WsClient::ask(&weir.address, &request("/leafnode", "")).await.unwrap();
        client.info().await;
        client.say(words).await;
        assert!(client.rest().await.0.contains("-ERR"));
    }
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_that_drains_closes_them() {
    let hub = Hub::start("n1", "", "").await;
    let top = "workers = 2\nlame_duck_grace_period = \"0s\"\nlame_duck_duration = \"1s\"";
    let mut weir = over_websocket(&[&hub]).top(top).start().await;
    let leafnode = leafnode("edge1", &url("ws", &weir.address, "", "")).await;
    connected(&leafnode, 1).await;
    drain_closes(&mut weir, leafnode, &hub).await;
}

/// Leafnodes that stay in the process before have their places of the account in the new one. Of three, the first is
/// closed at once, and the others not before a third of the hour is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_stay_in_the_process_before_count_as_leafnodes() {
    let (hub, admin) = (Hub::start("n1", "", "").await, AdminSocket::default());
    let config = over_websocket(&[&hub]).top("workers = 2\nlame_duck_duration = \"1h\"").table(&admin.toml());
    let mut weir = config.account("default", "max_leafnodes = 3").start().await;
    let mut leafnodes = Vec::new();
    for n in 1..=3 {
        leafnodes.push(leafnode(&format!("edge{n}"), &url("ws", &weir.address, "", "")).await);
        connected(&leafnodes[n - 1], 1).await;
    }
    let _before = weir.is_taken_over().await;
    leafnodes.push(leafnode("edge4", &url("ws", &weir.address, "", "")).await);
    let refused = |now: &metrics::Metrics| now.sum_where("weir_refused_total", "reason", "account_leafnode_quota");
    weir.until("one is refused", |now| refused(now) >= 1.0).await;
    eventually(PATIENCE, "the other three are connected", async || match hub.count().await {
        3 => Ok(()),
        n => Err(n),
    })
    .await;
    let own = weir.metrics().await;
    weir.until("one more is refused", |now| refused(now) > refused(&own)).await;
    assert_eq!(hub.count().await, 3);
}

/// Clients and leafnodes of one listener, and the listener's key changed by a reload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_begins_and_ends_to_take_them() {
    let hub = Hub::start("n1", "", "").await;
    let mut weir = before(&[&hub]).listener(&listener("").replace("true", "false")).start().await;
    let edge = leafnode("edge1", &url("ws", &weir.address, "", "")).await;
    edge.says("invalid websocket connection").await;
    weir.reconfigure("leafnodes = false", "leafnodes = true");
    weir.reload().await;
    connected(&edge, 1).await;
    let mut client = WsClient::connect(&weir.address, "", &Login::nobody()).await;
    client.say(b"SUB a 1\r\nPING\r\n").await;
    while client.line().await != "PONG" {}
    both_ways(&edge, &hub, &Login::nobody()).await;
    weir.reconfigure("leafnodes = true", "leafnodes = false");
    weir.reload().await;
    // Whoever is in stays.
    delivers((&edge.address, &Login::nobody()), (&hub.server.address, &Login::nobody())).await;
    drop((edge, client));
    weir.assert_nothing_leaked().await;
}

/// A hub takes a leafnode that weir connects for one that speaks plainly: `LEAFNODE`, not `LEAFNODE_WS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_types_of_a_jwt_hold() {
    let authority = Authority::new("weir tests");
    let operator = Operator::with_accounts([-1]);
    let hub = Hub::start("n1", "", &operator.server_config()).await;
    let weir = over_websocket(&[&hub]).start().await;
    for (types, gets_in) in [
        (&["LEAFNODE", "LEAFNODE_WS"][..], true),
        // Straight at the hub's WebSocket port it would be refused: weir does not show the hub that JWT.
        (&["LEAFNODE"], false),
        // It would get in there. The hub sees no WebSocket.
        (&["LEAFNODE_WS"], false),
    ] {
        eprintln!("{types:?}");
        let creds = authority.file("edge.creds");
        std::fs::write(&creds, operator.account(0).with_types(types).creds()).unwrap();
        let remote = format!("{}, credentials: {creds:?}", url("ws", &weir.address, "", ""));
        let leafnode = leafnode("edge1", &remote).await;
        if gets_in {
            connected(&leafnode, 1).await;
        } else {
            leafnode.says("Authorization Violation").await;
        }
        drop(leafnode);
        weir.assert_nothing_leaked().await;
    }
}

#[test]
fn a_listener_that_takes_them_needs_a_port_to_send_them_to() {
    let found = |server: &str| {
        let listener = format!("[[listeners]]\nlisten = \"0.0.0.0:80\"\n{}", listener(""));
        let server = format!("\n[[cluster.servers]]\naddress = \"n1:4222\"\nwebsocket = \"ws://n1:80\"\n{server}");
        let config = Config::parse("weir.toml", &(listener + &server)).unwrap();
        config.warnings().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(found("leafnode = \"n1:7422\"\n"), [""; 0]);
    let said = found("");
    assert!(said.len() == 1 && said[0].contains("weir does not learn where it takes leafnodes"), "{said:?}");
}

/// Pings that keep an HTTP proxy from closing what is silent, and hubs whose WebSocket ports weir knows for clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_one_is_pinged_and_stays() {
    let websocket = format!("127.0.0.1:{}", ports::free());
    let own = format!("websocket {{ listen: \"{websocket}\", no_tls: true }}");
    let hub = Hub::start("n1", "", &own).await;
    let more = "ping_interval = \"1s\"\ncompression = true";
    let config = before(&[&hub]).websockets(&[&format!("ws://{websocket}")]).listener(&listener(more));
    let weir = config.start().await;
    let mut leafnodes = Vec::new();
    for (n, remote) in ["", "ws_compression: true, ws_no_masking: true"].into_iter().enumerate() {
        let remote = format!("{}\n{remote}", url("ws", &weir.address, "", ""));
        leafnodes.push(leafnode(&format!("edge{n}"), &remote).await);
    }
    for one in &leafnodes {
        connected(one, 1).await;
    }
    let client = WsClient::connect(&weir.address, "", &Login::nobody()).await;
    let connz = hub.server.monitoring("/connz").await.unwrap();
    let types = connz["connections"].as_array().unwrap().iter().filter(|one| one["type"] == "websocket");
    assert_eq!((types.count(), hub.count().await), (1, 2), "{connz}");
    // Some pings.
    tokio::time::sleep(Duration::from_secs(4)).await;
    for one in &leafnodes {
        both_ways(one, &hub, &Login::nobody()).await;
    }
    let now = weir.metrics().await;
    assert_eq!(now.sum("weir_closed_total"), 0.0, "{}", now.excerpt(&["weir_closed_total"]));
    drop((leafnodes, client));
    weir.assert_nothing_leaked().await;
}
