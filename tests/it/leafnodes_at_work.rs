//! What leafnodes are used for works through weir as it does without: logins that others decide about, loop detection,
//! JetStream domains, queue groups, requests, and many subjects.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use futures::StreamExt;
use weir_testkit::callout::Callout;
use weir_testkit::*;

use crate::leafnodes::{Hub, before, both_ways, cluster, connected, leafnode, never_saw};

fn url(address: &str, user: &str) -> String {
    format!("url: \"nats-leaf://{user}{}{address}\"", if user.is_empty() { "" } else { "@" })
}

async fn client(server: &NatsServer) -> async_nats::Client {
    let options = async_nats::ConnectOptions::new().connection_timeout(PATIENCE).request_timeout(Some(PATIENCE));
    options.connect(&server.address).await.expect("a client")
}

/// The service at the hub decides about leafnodes as it does about clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auth_callout_decides() {
    let callout = Callout::new().sparing(&["core"]);
    let accounts = "APP { users: [{user: core, password: pw}] }";
    let hub = Hub::start("n1", "", &callout.server_config_for(accounts)).await;
    let service = callout.run(&hub.server.address, Duration::from_millis(50)).await;
    let weir = before(&[&hub]).start().await;
    let edge = leafnode("edge1", &url(&weir.address, "site:secret")).await;
    connected(&edge, 1).await;
    both_ways(&edge, &hub, &Login::user("core", "pw")).await;
    never_saw(&edge, &[&hub]);
    let leafz = hub.server.monitoring("/leafz").await.unwrap();
    assert_eq!(leafz["leafs"][0]["account"], "APP", "{leafz}");
    let seen = service.seen();
    assert!(seen.iter().any(|request| request["connect_opts"]["user"] == "site"), "{seen:?}");
    let refused = leafnode("edge2", &url(&weir.address, "nobody:secret")).await;
    refused.says("Authorization Violation").await;
    drop((edge, refused));
    weir.assert_nothing_leaked().await;
}

/// Who brings no credentials is the hub's `no_auth_user`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_auth_user_stands_for_who_says_nothing() {
    let accounts = "accounts { SITES { users: [ { user: core, password: pw } ] } }\nno_auth_user: core";
    let hub = Hub::start("n1", "", accounts).await;
    let weir = before(&[&hub]).start().await;
    let edge = leafnode("edge1", &url(&weir.address, "")).await;
    connected(&edge, 1).await;
    both_ways(&edge, &hub, &Login::user("core", "pw")).await;
    let leafz = hub.server.monitoring("/leafz").await.unwrap();
    assert_eq!(leafz["leafs"][0]["account"], "SITES", "{leafz}");
    // Whoever names another user is judged by that.
    let wrong = leafnode("edge2", &url(&weir.address, "core:wrong")).await;
    wrong.says("Authorization Violation").await;
    drop((edge, wrong));
    weir.assert_nothing_leaked().await;
}

/// Where a line ends elsewhere for the hub than for whoever counts its leafnodes, a CONNECT can stand in what looks
/// like a payload, and moves the leafnode into another account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connect_hides_behind_a_line_end() {
    let users = "{ user: a, password: a, account: A }, { user: b, password: b, account: B }";
    let hub = Hub::start("n1", &format!("authorization {{ users: [ {users} ] }}"), "accounts { A {}, B {} }").await;
    let weir = before(&[&hub]).account("B", "max_leafnodes = 1").start().await;
    let leafnode = leafnode("edge1", &url(&weir.address, "b:b")).await;
    connected(&leafnode, 1).await;
    let of = async |account: &str| {
        let leafz = hub.server.monitoring("/leafz").await.unwrap();
        leafz["leafs"].as_array().into_iter().flatten().filter(|one| one["account"] == account).count()
    };
    let connect = "CONNECT {\"user\":\"b\",\"pass\":\"b\"}";
    let longer = "CONNECT {\"user\":\"b\",\"pass\":\"b\",\"name\":\"1234567\"}";
    assert_eq!((connect.len(), "hello\r\n".len() + longer.len()), (31, 55));
    for (n, hidden) in [
        format!("LS+ \nLMSG x 31\r\n{connect}\r\n"),
        format!("LS- \nLMSG x 31\r\n{connect}\r\n"),
        format!("-ERR \nLMSG x 31\r\n{connect}\r\n"),
        format!("LMSG x\ry 55\nhello\r\n{longer}\r\n"),
    ]
    .iter()
    .enumerate()
    {
        let mut raw = RawClient::greeted(&weir.address).await.unwrap();
        raw.send(b"CONNECT {\"user\":\"a\",\"pass\":\"a\",\"name\":\"raw\",\"protocol\":1}\r\n").await.unwrap();
        eventually(PATIENCE, "it is in", async || if of("A").await == 1 { Ok(()) } else { Err(()) }).await;
        raw.send(hidden.as_bytes()).await.unwrap();
        eventually(PATIENCE, "it is closed", async || {
            assert_eq!(of("B").await, 1, "leafnodes of B, of which one may be there: {hidden:?}");
            let closed = weir.metrics().await.sum_where("weir_closed_total", "reason", "protocol");
            if closed == (n + 1) as f64 { Ok(()) } else { Err(closed) }
        })
        .await;
        eventually(PATIENCE, "it is gone", async || if of("A").await == 0 { Ok(()) } else { Err(()) }).await;
    }
    connected(&leafnode, 1).await;
}

/// A leafnode that is connected to the hub by two ways, one over another leafnode: the loop is noticed, as it is
/// without weir, and whoever has closed it stays away for the 30 s that nats-server has for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loops_are_detected() {
    for through_weir in [false, true] {
        eprintln!("through weir: {through_weir}");
        let hub = Hub::start("n1", "", "").await;
        let weir = before(&[&hub]).start().await;
        let to_hub = if through_weir { &weir.address } else { &hub.leafnodes };
        let middle = format!("127.0.0.1:{}", ports::free());
        let own = format!("debug: true\nleafnodes {{ listen: \"{middle}\", remotes: [ {{ {} }} ] }}", url(to_hub, ""));
        let middle_server = NatsServer::start(ServerOptions::named("middle").with(&own)).await;
        connected(&middle_server, 1).await;
        let both =
            format!("debug: true\nleafnodes {{ remotes: [ {{ {} }}, {{ {} }} ] }}", url(to_hub, ""), url(&middle, ""));
        let edge = NatsServer::start(ServerOptions::named("edge").with(&both)).await;
        let all = [&edge, &middle_server, &hub.server];
        eventually(PATIENCE, "the loop is detected", async || {
            if all.iter().any(|server| server.log_contains("Loop detected")) { Ok(()) } else { Err("not yet") }
        })
        .await;
        // One of the two ways is left, and messages come once.
        eventually(PATIENCE, "one way is left", async || {
            let ways = edge.varz().await["leafnodes"].as_u64().unwrap()
                + middle_server.varz().await["leafnodes"].as_u64().unwrap();
            // The edge has one of its two; or the middle has lost its own.
            if ways <= 3 { Ok(()) } else { Err(ways) }
        })
        .await;
        drop((edge, middle_server));
        weir.assert_nothing_leaked().await;
    }
}

/// A stream of the hub's domain and one of the leafnode's are used from both sides, and one is the other's mirror.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jetstream_domains() {
    let leafnodes = format!("127.0.0.1:{}", ports::free());
    let options = ServerOptions::named("n1").jetstream_domain("core");
    let hub = options.with(&format!("leafnodes {{ listen: \"{leafnodes}\" }}"));
    let hub = Hub { server: NatsServer::start(hub).await, leafnodes };
    let weir = before(&[&hub]).start().await;
    let remote = format!("trace: true\nleafnodes {{ remotes: [ {{ {} }} ] }}", url(&weir.address, ""));
    let edge = NatsServer::start(ServerOptions::named("edge").jetstream_domain("edge").with(&remote)).await;
    connected(&edge, 1).await;
    let (at_core, at_edge) = (client(&hub.server).await, client(&edge).await);
    let domain = |client: &async_nats::Client, name: &str| jetstream::with_domain(client.clone(), name);
    let config = |name: &str, subject: &str| stream::Config {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        ..Default::default()
    };
    // Each is made from the other side.
    let theirs = eventually(PATIENCE, "the hub's API answers at the edge", async || {
        domain(&at_edge, "core").create_stream(config("ORDERS", "orders.*")).await
    })
    .await;
    eventually(PATIENCE, "the edge's API answers at the hub", async || {
        domain(&at_core, "edge").create_stream(config("SENSORS", "sensors.*")).await.map(|_| ())
    })
    .await;
    for n in 0..100_usize {
        let payload = n.to_string();
        domain(&at_edge, "core").publish(format!("orders.{n}"), payload.clone().into()).await.unwrap().await.unwrap();
        domain(&at_core, "edge").publish(format!("sensors.{n}"), payload.into()).await.unwrap().await.unwrap();
    }
    drop(theirs);
    // The edge's mirror of the hub's stream, and the hub's stream that has the edge's as its source.
    let external =
        |domain: &str| Some(stream::External { api_prefix: format!("$JS.{domain}.API"), delivery_prefix: None });
    let mirror = stream::Source { name: "ORDERS".into(), external: external("core"), ..Default::default() };
    domain(&at_edge, "edge")
        .create_stream(stream::Config { name: "ORDERS_HERE".into(), mirror: Some(mirror), ..Default::default() })
        .await
        .unwrap();
    let source = stream::Source { name: "SENSORS".into(), external: external("edge"), ..Default::default() };
    domain(&at_core, "core")
        .create_stream(stream::Config { name: "ALL".into(), sources: Some(vec![source]), ..Default::default() })
        .await
        .unwrap();
    for (client, name, stream) in [(&at_edge, "edge", "ORDERS_HERE"), (&at_core, "core", "ALL")] {
        let has = eventually(PATIENCE, "all have been copied", async || {
            let mut stream = domain(client, name).get_stream(stream).await.map_err(|err| err.to_string())?;
            match stream.info().await.map_err(|err| err.to_string())?.state.messages {
                100 => Ok(stream),
                n => Err(n.to_string()),
            }
        })
        .await;
        let consumer = has
            .create_consumer(jetstream::consumer::pull::Config { durable_name: Some("d".into()), ..Default::default() })
            .await
            .unwrap();
        let messages: Vec<_> = consumer.fetch().max_messages(100).messages().await.unwrap().collect().await;
        let mut payloads: Vec<usize> = messages
            .into_iter()
            .map(|message| String::from_utf8(message.unwrap().payload.to_vec()).unwrap().parse().unwrap())
            .collect();
        payloads.sort_unstable();
        assert_eq!(payloads, (0..100).collect::<Vec<_>>(), "{stream}");
    }
    never_saw(&edge, &[&hub]);
    drop((at_core, at_edge, edge));
    weir.assert_nothing_leaked().await;
}

/// It comes back to the same hub, and interest with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_restarts_has_its_leafnodes_again() {
    let mut hub = Hub::start("n1", "", "").await;
    let weir = before(&[&hub]).start().await;
    let mut leafnodes = Vec::new();
    for n in 0..4 {
        leafnodes.push(leafnode(&format!("edge{n}"), &url(&weir.address, "")).await);
    }
    for one in &leafnodes {
        connected(one, 1).await;
    }
    for _ in 0..2 {
        hub.server.restart().await;
        eventually(PATIENCE, "all are back", async || match hub.count().await {
            4 => Ok(()),
            n => Err(n),
        })
        .await;
        for one in &leafnodes {
            connected(one, 1).await;
            both_ways(one, &hub, &Login::nobody()).await;
        }
    }
    drop(leafnodes);
    weir.assert_nothing_leaked().await;
}

/// A queue group with members on both sides, and requests both ways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_groups_and_requests() {
    let hub = Hub::start("n1", "", "").await;
    let weir = before(&[&hub]).start().await;
    let edges = [leafnode("edge1", &url(&weir.address, "")).await, leafnode("edge2", &url(&weir.address, "")).await];
    let mut all = vec![client(&hub.server).await];
    for edge in &edges {
        connected(edge, 1).await;
        all.push(client(edge).await);
    }
    // A member of the group at each server answers with where it is.
    let mut tasks = Vec::new();
    for (n, at) in all.iter().enumerate() {
        let (at, mut requests) = (at.clone(), at.queue_subscribe("work", "group".into()).await.unwrap());
        seen_by_server(&at).await;
        tasks.push(tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let Some(reply) = request.reply else { continue };
                at.publish(reply, format!("{n} {}", String::from_utf8_lossy(&request.payload)).into()).await.unwrap();
            }
        }));
    }
    for (n, at) in all.iter().enumerate() {
        let mut by = HashMap::<String, usize>::new();
        for question in 0..100 {
            let answer = at.request("work", question.to_string().into()).await.expect("an answer");
            let answer = String::from_utf8(answer.payload.to_vec()).unwrap();
            let (who, what) = answer.split_once(' ').unwrap();
            assert_eq!(what, question.to_string());
            *by.entry(who.to_owned()).or_default() += 1;
        }
        eprintln!("asked at {n}: {by:?}");
    }
    // Only those of the others are left: requests cross.
    for (n, at) in all.iter().enumerate() {
        for (m, task) in tasks.iter().enumerate() {
            if m == n {
                task.abort();
            }
        }
        let answer = eventually(PATIENCE, "somebody else answers", async || {
            let asked = tokio::time::timeout(Duration::from_secs(2), at.request("work", "x".into())).await;
            let answer = asked.map_err(|_| "nobody in time".to_owned())?.map_err(|err| err.to_string())?;
            Ok::<_, String>(String::from_utf8(answer.payload.to_vec()).unwrap())
        })
        .await;
        assert_ne!(answer.split_once(' ').unwrap().0, n.to_string());
        if n == 1 {
            break;
        }
    }
    drop((all, edges));
    weir.assert_nothing_leaked().await;
}

/// So many subjects.
const SUBJECTS: usize = 1000;

/// One subscriber for each of the subjects at `to`; one message for each goes in at `from`. Each comes exactly once.
async fn each_comes_once(from: &NatsServer, to: &NatsServer, prefix: &str) {
    let mut subscriber = RawClient::connect(&to.address, &Login::nobody()).await;
    let subs: String = (0..SUBJECTS).map(|n| format!("SUB {prefix}.{n} {}\r\n", n + 1)).collect();
    subscriber.send(subs.as_bytes()).await.unwrap();
    subscriber.subscribe(&format!("{prefix}.there"), 9999).await.unwrap();
    let mut publisher = RawClient::connect(&from.address, &Login::nobody()).await;
    // The interest that came last is there: so are those before it.
    eventually(PATIENCE, "interest comes through", async || {
        publisher.publish(&format!("{prefix}.there"), b"").await.unwrap();
        match subscriber.next_within(Duration::from_millis(100)).await {
            Ok(Some(client::Op::Msg { .. })) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let mut messages = Vec::new();
    for n in 0..SUBJECTS {
        let payload = format!("{prefix} {n} {}", "x".repeat(n % 700));
        messages.extend_from_slice(format!("PUB {prefix}.{n} {}\r\n{payload}\r\n", payload.len()).as_bytes());
    }
    publisher.send(&messages).await.unwrap();
    publisher.publish(&format!("{prefix}.there"), b"last").await.unwrap();
    publisher.round_trip().await.unwrap();
    let mut came = HashMap::new();
    loop {
        let (subject, payload) = subscriber.next_msg().await;
        if subject.ends_with(".there") {
            if payload == b"last" {
                break;
            }
            continue;
        }
        *came.entry((subject, payload)).or_insert(0) += 1;
    }
    assert_eq!(came.len(), SUBJECTS);
    for n in 0..SUBJECTS {
        let payload = format!("{prefix} {n} {}", "x".repeat(n % 700)).into_bytes();
        assert_eq!(came.get(&(format!("{prefix}.{n}"), payload)), Some(&1), "{prefix}.{n}");
    }
}

/// Both ways, at rest and while others storm in and out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_subjects_both_ways_come_once_each_also_during_a_storm() {
    let hubs = cluster(2).await;
    let weir = before(&hubs.iter().collect::<Vec<_>>()).start().await;
    let edges = [leafnode("edge1", &url(&weir.address, "")).await, leafnode("edge2", &url(&weir.address, "")).await];
    for edge in &edges {
        connected(edge, 1).await;
    }
    each_comes_once(&edges[0], &hubs[0].server, "a").await;
    each_comes_once(&hubs[1].server, &edges[0], "b").await;
    each_comes_once(&edges[0], &edges[1], "c").await;
    // 60 remotes of another server come and go all the time.
    let accounts: String = (0..60).map(|n| format!("A{n} {{}}\n")).collect();
    let remotes: Vec<String> = (0..60).map(|n| format!("{{ {}, account: A{n} }}", url(&weir.address, ""))).collect();
    let own = format!("accounts {{ {accounts} }}\nleafnodes {{ reconnect: 1, remotes: [ {} ] }}", remotes.join("\n"));
    let mut others = NatsServer::start(ServerOptions::named("others").with(&own)).await;
    for round in 0..4 {
        tokio::join!(
            async {
                each_comes_once(&edges[0], &hubs[1].server, &format!("d{round}")).await;
                each_comes_once(&hubs[0].server, &edges[1], &format!("e{round}")).await;
            },
            others.restart(),
        );
    }
    connected(&others, 60).await;
    for edge in &edges {
        never_saw(edge, &hubs.iter().collect::<Vec<_>>());
    }
    drop((others, edges));
    weir.assert_nothing_leaked().await;
}
