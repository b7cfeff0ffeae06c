//! What operators see of leafnodes, and do with them: `/leafz` and its like, metrics, `weir rebalance`, observe mode,
//! the queue.

use std::{collections::BTreeSet, net::Ipv4Addr};

use serde_json::{Value, json};
use weir_testkit::{admin::AdminSocket, *};

use crate::leafnodes::{Hub, before, both_ways, connected, leafnode, url};
use crate::natsz::ask;

const USERS: &str = "authorization { users: [ { user: edge, password: pw, account: SITES } ] }";
const ACCOUNTS: &str = "accounts { SITES { users: [ { user: core, password: p } ] } }";

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap_or_else(|| panic!("{object}")).keys().cloned().collect()
}

/// weir's `/leafz` beside the hub's: the same fields, and the same of each leafnode but for what is the hub's side of
/// weir.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leafz_is_what_the_hub_shows() {
    let hub = Hub::start("n1", USERS, ACCOUNTS).await;
    let weir = before(&[&hub]).account("SITES", "max_leafnodes = 5").start().await;
    assert_eq!(ask(&weir, "/leafz").await["leafs"], json!([]));
    let leafnodes = [
        leafnode("edge1", &url(&weir.address, "edge:pw")).await,
        leafnode("edge2", &url(&weir.address, "edge:pw")).await,
    ];
    for one in &leafnodes {
        connected(one, 1).await;
    }
    both_ways(&leafnodes[0], &hub, &Login::user("core", "p")).await;
    // What nats-server has that weir has not, and the other way round.
    let own = BTreeSet::from(["listener", "server", "server_cid"].map(str::to_owned));
    eventually(PATIENCE, "both show the same", async || {
        let (mine, theirs) = (ask(&weir, "/leafz").await, hub.server.monitoring("/leafz").await.ok_or("no answer")?);
        assert_eq!(keys(&mine), keys(&theirs));
        assert_eq!((&mine["leafnodes"], &theirs["leafnodes"]), (&json!(2), &json!(2)));
        for one in mine["leafs"].as_array().unwrap() {
            let of_hub = theirs["leafs"].as_array().unwrap().iter().find(|of_hub| of_hub["name"] == one["name"]);
            let of_hub = of_hub.unwrap_or_else(|| panic!("{} in {theirs}", one["name"]));
            // Both know the round trip after the first PING.
            if one.get("rtt").is_none() {
                return Err(format!("no rtt: {one}"));
            }
            assert_eq!(keys(one), keys(of_hub).union(&own).cloned().collect(), "{one} {of_hub}");
            for field in ["name", "account", "is_spoke", "ip"] {
                assert_eq!(one[field], of_hub[field], "{field}: {one} {of_hub}");
            }
            assert_eq!((&one["server"], &one["listener"]), (&json!("n1"), &json!(weir.address)));
            // S2 ends at weir; on this machine nothing is worth compressing.
            let compression = (&one["compression"], &of_hub["compression"]);
            assert_eq!(compression, (&json!("s2_uncompressed"), &json!("not supported")));
            for field in ["in_msgs", "out_msgs", "in_bytes", "out_bytes"] {
                if one[field] != of_hub[field] {
                    return Err(format!("{field}: {one} {of_hub}"));
                }
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(ask(&weir, "/overviewz").await["clients"]["leafnodes"], 2);
    assert_eq!(ask(&weir, "/leafz?acc=SITES&subs=1").await["leafnodes"], 2);
    assert_eq!(ask(&weir, "/leafz?acc=OTHER").await["leafnodes"], 0);
    let path = "/leafz?subs=perhaps";
    let theirs = http::get(&hub.server.monitor, path).await.unwrap();
    assert_eq!((http::get(&weir.monitor, path).await.unwrap(), theirs.0), (theirs.clone(), 400));
    // nats-server tells clients and leafnodes apart here, too.
    for (path, fields) in [("/varz", &["connections", "leafnodes"][..])] {
        let (mine, theirs) = (ask(&weir, path).await, hub.server.varz().await);
        for field in fields {
            assert_eq!(mine[field], theirs[field], "{field}");
        }
    }
    let statz = ask(&weir, "/accstatz").await["account_statz"][0].clone();
    assert_eq!(
        [&statz["acc"], &statz["conns"], &statz["leafnodes"], &statz["total_conns"]].map(Value::clone),
        [json!("SITES"), json!(0), json!(2), json!(2)]
    );
    let detail = ask(&weir, "/accountz?acc=SITES").await["account_detail"].clone();
    assert_eq!((&detail["leafnode_connections"], &detail["client_connections"]), (&json!(2), &json!(0)));
    let metrics = weir.metrics().await;
    for (sample, value) in [
        ("weir_leafnodes_active{server=\"n1\"}", 2.0),
        ("weir_sessions_active{server=\"n1\"}", 2.0),
        ("weir_leafnodes_admitted_total{server=\"n1\"}", 2.0),
        ("weir_account_leafnodes{account=\"SITES\"}", 2.0),
        ("weir_account_max_leafnodes{account=\"SITES\"}", 5.0),
    ] {
        assert_eq!(metrics.get(sample), Some(value), "{sample}");
    }
    drop(leafnodes);
    let gone = |now: &metrics::Metrics| now.sum("weir_leafnodes_active") + now.sum("weir_account_leafnodes") == 0.0;
    weir.until("they are gone", gone).await;
    assert_eq!(ask(&weir, "/varz").await["leafnodes"], 0);
    weir.assert_nothing_leaked().await;
}

/// Leafnodes of a hub that has been away are moved to it again, as many as make both even; where they are even already
/// none is disturbed, however uneven the clients are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_moves_leafnodes_only_where_that_makes_them_even() {
    let mut hubs = [Hub::start("n1", USERS, ACCOUNTS).await, Hub::start("n2", USERS, ACCOUNTS).await];
    let admin = AdminSocket::default();
    let weir = before(&[&hubs[0], &hubs[1]]).table(&admin.toml()).start().await;
    let mut leafnodes = Vec::new();
    for n in 0..6 {
        leafnodes.push(leafnode(&format!("edge{n}"), &url(&weir.address, "edge:pw")).await);
    }
    for one in &leafnodes {
        connected(one, 1).await;
    }
    hubs[1].server.kill9();
    eventually(PATIENCE, "all are at one hub", async || if hubs[0].count().await == 6 { Ok(()) } else { Err(()) })
        .await;
    hubs[1].server.restart().await;
    weir.until("it is back", |now| now.get("weir_server_up{server=\"n2\"}") == Some(1.0)).await;
    let rebalance = async || {
        let begun = admin.answers(&["rebalance", "--rate", "100/s"]).await;
        eventually(PATIENCE, "none is under way", async || {
            let status = admin.answers(&["rebalance", "--status"]).await;
            if status["state"] == "running" { Err(status) } else { Ok(()) }
        })
        .await;
        begun
    };
    // weir may not know yet that the hub takes leafnodes again.
    eventually(PATIENCE, "one has begun", async || match rebalance().await {
        begun if begun["clients"] == 3 => Ok(()),
        begun => Err(begun),
    })
    .await;
    eventually(PATIENCE, "they are even", async || match (hubs[0].count().await, hubs[1].count().await) {
        (3, 3) => Ok(()),
        others => Err(others),
    })
    .await;
    let closed = weir.metrics().await.sum_where("weir_closed_total", "reason", "rebalance");
    assert_eq!(closed, 3.0);
    // Clients past weir make one hub fuller: no leafnode would go elsewhere.
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(RawClient::connect(&hubs[0].server.address, &Login::user("core", "p")).await);
    }
    weir.until("weir has read it", |now| now.sum("weir_server_connections") == 26.0).await;
    assert_eq!(rebalance().await["clients"], 0);
    assert_eq!(weir.metrics().await.sum_where("weir_closed_total", "reason", "rebalance"), 3.0);
    assert_eq!((hubs[0].count().await, hubs[1].count().await), (3, 3));
    drop((leafnodes, clients));
    weir.assert_nothing_leaked().await;
}

/// In observe mode a leafnode over its quota is let in, and counted; each hub gets about as many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observe_mode_lets_them_in_and_says_what_it_would_have_done() {
    let hubs = [Hub::start("n1", USERS, ACCOUNTS).await, Hub::start("n2", USERS, ACCOUNTS).await];
    let weir = before(&[&hubs[0], &hubs[1]])
        .admission("mode = \"observe\"\n[admission.per_source]\nmax_leafnodes = 5")
        .account("SITES", "max_leafnodes = 2")
        .start()
        .await;
    let mut leafnodes = Vec::new();
    for n in 0..6 {
        leafnodes.push(leafnode(&format!("edge{n}"), &url(&weir.address, "edge:pw")).await);
        connected(&leafnodes[n], 1).await;
    }
    let metrics = weir.metrics().await;
    let would = |reason| metrics.sum_where("weir_would_refuse_total", "reason", reason);
    assert_eq!(metrics.sum("weir_refused_total"), 0.0);
    // Who would have been refused for its account counts for no source either.
    assert_eq!((would("account_leafnode_quota"), would("source_leafnode_quota")), (4.0, 0.0));
    assert_eq!(metrics.sum("weir_leafnodes_active"), 6.0);
    eprintln!("{} and {}", hubs[0].count().await, hubs[1].count().await);
    assert_eq!(hubs[0].count().await + hubs[1].count().await, 6);
    both_ways(&leafnodes[5], at(&hubs, &connected(&leafnodes[5], 1).await[0]), &Login::user("core", "p")).await;
    drop(leafnodes);
    weir.assert_nothing_leaked().await;
}

fn at<'a>(hubs: &'a [Hub], leaf: &Value) -> &'a Hub {
    hubs.iter().find(|hub| leaf["name"] == hub.server.name.as_str()).unwrap_or_else(|| panic!("{leaf}"))
}

/// A storm of clients whose logins cost the hub much, from many sources, and some leafnodes in its midst, from one:
/// these are in long before each source has had a turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leafnodes_go_before_clients_that_wait() {
    const CLIENTS: usize = 400;
    const SOURCES: usize = 100;
    let password = crate::slow_server::PASSWORD;
    let users = format!("authorization {{ users: [ {{ user: edge, password: {password:?}, account: SITES }} ] }}");
    // A server with NKeys sends clients a nonce, so that those wait by their source as leafnodes do.
    let key = nkeys::KeyPair::new_user().public_key();
    let accounts =
        format!("accounts {{ SITES {{ users: [ {{ user: core, password: {password:?} }}, {{ nkey: {key} }} ] }} }}");
    let hub = Hub::start("n1", &users, &accounts).await;
    let weir = before(&[&hub]).listener("kind = \"leafnode\"\n[[listeners]]\nlisten = \"127.0.0.1:0\"").start().await;
    let clients = weir.other_listeners[0].clone();
    let storm = Crowd::start_each(&clients, CLIENTS, Habit::NATS_GO, |n| {
        Login::user("core", "p").lang("go").from_source(Ipv4Addr::new(127, 0, 1, (n % SOURCES) as u8 + 1))
    });
    weir.until("many wait", |now| now.sum("weir_held") >= 300.0).await;
    let before = storm.connected();
    let mut leafnodes = Vec::new();
    for n in 0..4 {
        leafnodes.push(leafnode(&format!("edge{n}"), &url(&weir.address, "edge:p")).await);
    }
    for one in &leafnodes {
        connected(one, 1).await;
    }
    let then = storm.connected();
    eprintln!("{before} clients were in when the leafnodes came, {then} when all of these were in");
    assert!(then < CLIENTS, "the storm is on");
    assert!(then - before < 10, "with priority 2 or 3 clients come in meanwhile, without it 10 to 126");
    let refused: usize = leafnodes.iter().map(|one| one.log().matches("exceeded").count()).sum();
    eprintln!("{refused} refusals of leafnodes");
    storm.settles_at(CLIENTS).await;
    storm.end().await;
    drop(leafnodes);
    weir.assert_nothing_leaked().await;
}
