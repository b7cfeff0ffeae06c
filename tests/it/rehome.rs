//! Sessions that go on with another server when theirs is lost (`rehome`).

use std::time::Duration;

use futures::future::join_all;
use rustix::process::Signal;
use serde_json::Value;
use weir_testkit::{admin::AdminSocket, client::Op, *};

use crate::moves;

pub(crate) const REHOME: &str = "rehome = true";

fn moved(metrics: &metrics::Metrics, result: &str) -> f64 {
    moves::moved(metrics, "server_lost", result)
}

/// The server with a client, of which there is one.
async fn its_server(cluster: &Cluster) -> usize {
    let counts = cluster.settles_at(1).await;
    counts.iter().position(|n| *n == 1).expect("a server with the client")
}

/// The name of the server of which the client is told next.
async fn told_of(client: &mut RawClient) -> Value {
    loop {
        if let Op::Info(info) = client.next_within(PATIENCE).await.unwrap().expect("an operation") {
            return info["server_id"].clone();
        }
    }
}

/// What the client gets before the answer to its PING.
pub(crate) async fn gets(client: &mut RawClient) -> Vec<String> {
    client.round_trip().await.unwrap();
    let mut got = Vec::new();
    while let Ok(Some(op)) = client.next_within(Duration::ZERO).await {
        if let Op::Msg { subject, payload, .. } = op {
            got.push(format!("{subject} {}", String::from_utf8(payload).unwrap()));
        }
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_its_server_keeps_its_connection_its_subscriptions_and_what_is_left_of_a_max() {
    let mut cluster = Cluster::start(3, |server| server).await;
    let weir = WeirConfig::of(&cluster).account("default", REHOME).start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    let first = client.info_after_pong().await["server_id"].clone();
    client
        .send(b"SUB orders.> 1\r\nSUB jobs workers 2\r\nSUB few 3\r\nUNSUB 3 5\r\nSUB gone 4\r\nUNSUB 4\r\n")
        .await
        .unwrap();
    for n in 0..2 {
        client.publish("few", format!("{n}").as_bytes()).await.unwrap();
    }
    assert_eq!(gets(&mut client).await, ["few 0", "few 1"]);

    let lost = its_server(&cluster).await;
    cluster.servers[lost].kill9();
    assert_ne!(told_of(&mut client).await, first, "an INFO names the new server");
    let metrics = weir.until("it is re-homed", |metrics| moved(metrics, "rehomed") == 1.0).await;
    assert_eq!(metrics.of("weir_closed_total").map(|(_, n)| n).sum::<f64>(), 0.0);
    for n in 2..8 {
        client.publish("few", format!("{n}").as_bytes()).await.unwrap();
    }
    for subject in ["orders.eu", "jobs", "gone"] {
        client.publish(subject, b"x").await.unwrap();
    }
    assert_eq!(gets(&mut client).await, ["few 2", "few 3", "few 4", "orders.eu x", "jobs x"]);
    drop(client);
    weir.assert_nothing_leaked().await;
}

/// The next server would refuse them again, and that would end the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_server_has_refused_is_not_asked_of_the_next_one() {
    for pedantic in [false, true] {
        let mut cluster = Cluster::start(2, |server| server.with("max_subscriptions: 2")).await;
        let weir = WeirConfig::of(&cluster).account("default", REHOME).start().await;
        let login = Login::nobody().with("pedantic", pedantic.into());
        let mut client = RawClient::connect(&weir.address, &login).await;
        let first = client.info_after_pong().await["server_id"].clone();
        client.send(b"SUB a 1\r\nSUB an..invalid.subject 2\r\nSUB b 3\r\nSUB c 4\r\nSUB d 5\r\n").await.unwrap();
        let mut refused = Vec::new();
        while refused.len() < 3 {
            if let Op::Err(text) = client.next_within(PATIENCE).await.unwrap().expect("three errors") {
                refused.push(text.to_lowercase());
            }
        }
        let too_many = "maximum subscriptions exceeded";
        assert_eq!(refused, ["invalid subject", too_many, too_many]);
        client.round_trip().await.unwrap();
        // A place that one leaves is another one's.
        client.send(b"UNSUB 1\r\nSUB e 6\r\n").await.unwrap();
        client.round_trip().await.unwrap();

        let lost = its_server(&cluster).await;
        cluster.servers[lost].kill9();
        assert_ne!(told_of(&mut client).await, first);
        weir.until("it is re-homed", |metrics| moved(metrics, "rehomed") == 1.0).await;
        for subject in ["a", "b", "c", "d", "e"] {
            client.publish(subject, b"x").await.unwrap();
        }
        assert_eq!(gets(&mut client).await, ["b x", "e x"]);
        drop(client);
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_of_hundreds_is_closed_when_a_server_is_killed() {
    const CLIENTS: usize = 240;
    let mut cluster = Cluster::start(3, |server| server).await;
    let weir = WeirConfig::of(&cluster).account("default", REHOME).start().await;
    let connect = async |n: usize| {
        let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
        client.subscribe(&format!("to.{n}"), 1).await.unwrap();
        client
    };
    let mut clients = join_all((0..CLIENTS).map(connect)).await;
    let counts = cluster.settles_at(CLIENTS as u64).await;
    let lost = counts[1] as f64;
    assert!(lost > 0.0, "{counts:?}");
    cluster.servers[1].kill9();
    let metrics = weir.until("all of its clients are re-homed", |metrics| moved(metrics, "rehomed") >= lost).await;
    assert_eq!((moved(&metrics, "rehomed"), moved(&metrics, "not_rehomed")), (lost, 0.0));
    weir.says(&format!("sessions have lost their server rehomed={lost} not_rehomed=0")).await;
    for (n, client) in clients.iter_mut().enumerate() {
        client.publish(&format!("to.{n}"), b"here").await.unwrap();
        assert_eq!(gets(client).await, [format!("to.{n} here")]);
    }
    let metrics = weir.metrics().await;
    assert_eq!(metrics.of("weir_closed_total").map(|(_, n)| n).sum::<f64>(), 0.0);
    assert_eq!(metrics.get("weir_sessions_active{server=\"n2\"}"), Some(0.0));
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_server_is_answered_and_what_it_publishes_is_kept() {
    let mut server = NatsServer::start(ServerOptions::named("n1")).await;
    let weir =
        WeirConfig::of_servers(&[&server]).account("default", "rehome = true\nrehome_within = \"30s\"").start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    let first = client.info_after_pong().await["server_id"].clone();
    server.kill9();
    weir.until("the session has no server", |metrics| metrics.get("weir_server_up{server=\"n1\"}") == Some(0.0)).await;
    client.round_trip().await.expect("weir answers in its server's place");
    client.send(b"SUB later 1\r\nPUB later 5\r\nhel").await.unwrap();
    server.restart().await;
    assert_ne!(told_of(&mut client).await, first);
    client.send(b"lo\r\n").await.unwrap();
    assert_eq!(gets(&mut client).await, ["later hello"]);
    client.send(b"PUB later 2\r\nhi\r\n").await.unwrap();
    assert_eq!(gets(&mut client).await, ["later hi"]);
    drop(client);
    weir.assert_nothing_leaked().await;
}

/// What its subscriptions are would be lost without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_subscribes_to_too_much_without_a_server_ends() {
    let mut server = NatsServer::start(ServerOptions::named("n1")).await;
    let limits = "rehome = true\nrehome_within = \"60s\"\nrehome_memory = 1024";
    let weir = WeirConfig::of_servers(&[&server]).account("default", limits).start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    client.subscribe("here", 1).await.unwrap();
    server.kill9();
    weir.until("the session has no server", |metrics| metrics.get("weir_server_up{server=\"n1\"}") == Some(0.0)).await;
    client.round_trip().await.expect("weir answers in its server's place");
    let many: String = (2..42).map(|n| format!("SUB a.subject.of.some.length.{n} {n}\r\n")).collect();
    client.send(many.as_bytes()).await.unwrap();
    // weir has read them once it answers; or it has ended the session by then.
    let _ = client.round_trip().await;
    server.restart().await;
    let ended = weir.until("it has ended", |metrics| moved(metrics, "not_rehomed") == 1.0).await;
    assert_eq!(moved(&ended, "rehomed"), 0.0);
    assert_ne!(client.end(PATIENCE).await, client::End::StillOpen);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_publishes_without_a_server_before_it_ends_is_delivered() {
    let mut server = NatsServer::start(ServerOptions::named("n1")).await;
    let weir =
        WeirConfig::of_servers(&[&server]).account("default", "rehome = true\nrehome_within = \"60s\"").start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    client.info_after_pong().await;
    server.kill9();
    weir.until("the session has no server", |metrics| metrics.get("weir_server_up{server=\"n1\"}") == Some(0.0)).await;
    client.round_trip().await.expect("weir answers in its server's place");
    client.send(b"PUB last 5\r\nwords\r\n").await.unwrap();
    client.shut_writing().await.unwrap();
    server.restart().await;
    assert_ne!(client.end(PATIENCE).await, client::End::StillOpen);
    let varz = server.monitoring("/varz").await.expect("a server that answers");
    assert_eq!(varz["in_msgs"], 1, "it has the message");
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_without_a_server_whose_clients_leave_do_not_wait_for_a_turn_any_more() {
    const CLIENTS: usize = 10;
    let (mut server, admin) = (NatsServer::start(ServerOptions::named("n1")).await, AdminSocket::default());
    let weir = WeirConfig::of_servers(&[&server])
        .account("default", "rehome = true\nrehome_within = \"60s\"")
        .table(&admin.toml())
        .start()
        .await;
    let login = Login::nobody();
    let clients = join_all((0..CLIENTS).map(|_| RawClient::connect(&weir.address, &login))).await;
    admin.does(&["pause"]).await;
    server.kill9();
    weir.until("all wait", |metrics| metrics.get("weir_held") == Some(CLIENTS as f64)).await;
    drop(clients);
    // Nobody has a turn in a pause: nothing else takes them out of the queue within the 60 s.
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_of_a_server_that_stands_still_are_elsewhere_before_it_goes_on() {
    let mut cluster = Cluster::start(3, |server| server).await;
    let weir = WeirConfig::of(&cluster).account("default", REHOME).start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    client.info_after_pong().await;
    client.subscribe("here", 1).await.unwrap();
    let lost = its_server(&cluster).await;
    cluster.servers[lost].signal(Signal::STOP);
    weir.until("it is re-homed", |metrics| moved(metrics, "rehomed") == 1.0).await;
    client.publish("here", b"again").await.unwrap();
    assert_eq!(gets(&mut client).await, ["here again"]);
    cluster.servers[lost].signal(Signal::CONT);
    weir.sees(3).await;
    assert_eq!(gets(&mut client).await, [""; 0]);
    drop(client);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_where_it_cannot_or_is_not_to_go_on() {
    let mut cluster = Cluster::start(2, |server| server.with("max_payload: 100")).await;
    let weir = WeirConfig::of(&cluster).account("default", "rehome = true\nrehome_memory = 1024").start().await;
    // Its server has meant it.
    let mut wrong = RawClient::connect(&weir.address, &Login::nobody()).await;
    wrong.send(&[b"PUB a 101\r\n", &[b'x'; 101][..], b"\r\n"].concat()).await.unwrap();
    let (rest, _) = wrong.rest(PATIENCE).await;
    assert!(rest.contains("Maximum Payload Violation"), "{rest}");
    weir.until("it is counted", |metrics| moved(metrics, "not_rehomed") == 1.0).await;

    let mut large = RawClient::connect(&weir.address, &Login::nobody()).await;
    for n in 0..40 {
        large.send(format!("SUB a.subject.of.some.length.{n} {n}\r\n").as_bytes()).await.unwrap();
    }
    large.round_trip().await.unwrap();
    let lost = its_server(&cluster).await;
    cluster.servers[lost].kill9();
    weir.until("it is told", |metrics| moved(metrics, "not_rehomed") == 2.0).await;
    large.end(PATIENCE).await;
    assert_eq!(moved(&weir.metrics().await, "rehomed"), 0.0);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_async_nats_go_on_through_the_death_of_each_server() {
    let mut cluster = Cluster::start(3, |server| server).await;
    let weir = WeirConfig::of(&cluster).account("default", REHOME).start().await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let connect = async || {
        let tell = tell.clone();
        let options = async_nats::ConnectOptions::new().event_callback(move |event| {
            let tell = tell.clone();
            async move {
                let _ = tell.send(event.to_string());
            }
        });
        options.connect(weir.url()).await.expect("a client")
    };
    let (asks, answers) = (connect().await, connect().await);
    let mut requests = answers.subscribe("service").await.unwrap();
    answers.flush().await.unwrap();
    let serving = tokio::spawn(async move {
        use futures::StreamExt;
        while let Some(request) = requests.next().await {
            let reply = request.reply.expect("a reply subject");
            answers.publish(reply, request.payload).await.unwrap();
        }
    });
    for n in 0..3 {
        cluster.servers[n].kill9();
        // A request on its way is lost with its server, as are those before interest has spread.
        eventually(PATIENCE, "requests are answered", async || {
            match tokio::time::timeout(Duration::from_secs(2), asks.request("service", "ping".into())).await {
                Ok(Ok(answer)) if answer.payload == "ping" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        cluster.servers[n].restart().await;
        cluster.whole().await;
        weir.sees(3).await;
    }
    serving.abort();
    let mut events = Vec::new();
    while let Ok(event) = told.try_recv() {
        events.push(event);
    }
    assert!(!events.iter().any(|event| event.contains("disconnected")), "{events:?}");
    assert!(moved(&weir.metrics().await, "rehomed") >= 2.0);
}
