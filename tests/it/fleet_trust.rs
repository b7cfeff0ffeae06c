//! A stranger in the weirs' account, who may publish what weirs say to each other but not write the bucket: no quota is
//! exceeded, no server opened beyond its limit, nobody led away, weirs stay as large as they were, and all is well once
//! the stranger is gone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectOptions};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use weir_testkit::history::History;
use weir_testkit::*;

use crate::{
    fleet_past,
    fleet_quota::{self, attempts, with_quota},
};

const QUOTA: usize = 20;
/// Of each server.
const LIMIT: u64 = 60;
/// Messages that the stranger sends in a second, about.
const A_SECOND: u64 = 2000;
/// What a weir may grow by meanwhile, in bytes: 256 peers with all that is kept of each.
const GROWTH: u64 = 128 << 20;

fn orders() -> Login {
    Login::user("o", "o").lang("go")
}

async fn stranger(cluster: &Cluster) -> Client {
    let options = ConnectOptions::with_user_and_password("weir-10".into(), "fl33t-10-s3cret".into());
    options.connect(&cluster.servers[0].address).await.expect("a stranger who is let in")
}

/// What is said in place of each number, for some seconds each: the highest, none, or any.
fn lie(as_of: Duration, rng: &mut fastrand::Rng) -> Value {
    match as_of.as_secs() / 3 % 3 {
        0 => json!(u32::MAX),
        1 => json!(rng.u32(..) >> rng.u32(..32)),
        _ => json!(0),
    }
}

/// Every number and answer within is made up.
fn twist(what: &mut Value, as_of: Duration, rng: &mut fastrand::Rng) {
    match what {
        Value::Number(_) => *what = lie(as_of, rng),
        Value::Bool(yes) => *yes = rng.bool(),
        Value::Object(all) => all.values_mut().for_each(|one| twist(one, as_of, rng)),
        _ => {}
    }
}

/// Another beat each time: of weirs that are there, of ones that are made up, old and new, empty and full.
fn beat(real: &Value, n: u64, as_of: Duration, rng: &mut fastrand::Rng) -> Value {
    let mut beat = real.clone();
    twist(&mut beat, as_of, rng);
    (beat["v"], beat["run"]) = (json!(1), real["run"].clone());
    if n.is_multiple_of(2) {
        beat["id"] = json!(format!("ghost-{}", n % 1000));
    } else if n % 10 == 5 {
        beat["run"] = json!(rng.u64(1..u64::MAX));
    }
    // What the weir itself says is old from then on.
    beat["n"] = json!((1_u64 << 60) + n);
    if n.is_multiple_of(50) {
        for table in ["servers", "accounts"] {
            for _ in 0..400 {
                let mut one = json!({});
                for field in ["held", "open", "handshakes", "waiting", "limit", "taken", "released", "done"] {
                    one[field] = lie(as_of, rng);
                }
                beat[table][format!("{:032x}", rng.u128(..))] = one;
            }
        }
    }
    beat
}

/// Publishes what it makes up, until it is told to stop.
async fn forge(client: Client, seed: u64, stop: CancellationToken) -> u64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut beats = client.subscribe("weir.fleet.edge.beat").await.expect("subscribed");
    let mut real = [json!({ "v": 1, "id": "x", "run": 1, "n": 1, "up_ms": 1, "every_ms": 250 }), json!({})];
    real[1] = real[0].clone();
    let (mut sent, began) = (0_u64, Instant::now());
    while !stop.is_cancelled() {
        // What weirs say is known to the stranger, the number of their process included.
        while let Ok(Some(message)) = tokio::time::timeout(Duration::ZERO, beats.next()).await {
            let heard = serde_json::from_slice::<Value>(&message.payload).ok();
            for (known, id) in real.iter_mut().zip(["weir-1", "weir-2"]) {
                // Its own ones come back to it.
                if let Some(heard) = heard.as_ref().filter(|one| one["id"] == id && one["n"].as_u64() < Some(1 << 60)) {
                    *known = heard.clone();
                }
            }
        }
        for _ in 0..50 {
            sent += 1;
            let real = &real[rng.usize(..2)];
            let (subject, payload) = match sent % 10 {
                0 => ("bye", json!({ "id": real["id"], "run": real["run"] }).to_string().into_bytes()),
                1 => ("beat", (0..rng.usize(..2000)).map(|_| rng.u8(..)).collect()),
                2 => ("beat", json!({ "v": 2, "id": ["another", "form"] }).to_string().into_bytes()),
                3 if sent.is_multiple_of(1000) => ("beat", vec![b'['; 900_000]),
                3 => ("bye", (0..rng.usize(..200)).map(|_| rng.u8(..)).collect()),
                _ => ("beat", beat(real, sent, began.elapsed(), &mut rng).to_string().into_bytes()),
            };
            client.publish(format!("weir.fleet.edge.{subject}"), payload.into()).await.expect("published");
        }
        let due = Duration::from_secs_f64(sent as f64 / A_SECOND as f64);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        tokio::task::yield_now().await;
    }
    client.flush().await.expect("all is sent");
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_forges_what_weirs_say_exceeds_no_quota_and_no_limit() {
    let accounts = fleet::accounts("ORDERS { users: [{user: o, password: o}] }, B { users: [{user: b, password: b}] }");
    let options = |server: ServerOptions| server.jetstream().with(&accounts).max_connections(LIMIT);
    let cluster = Cluster::start(2, options).await;
    cluster.has_jetstream().await;
    let of_all = WeirConfig::of(&cluster)
        .listener("advertise = \"fleet\"")
        .account("ORDERS", &format!("users = [\"o\"]\nmax_connections = {QUOTA}"));
    let fleet = Fleet::start(2, &of_all).await;
    for weir in &fleet.weirs {
        // Before that, beats are all that they have to go by.
        weir.says("leases of the fleet are in force").await;
    }
    let rss: Vec<u64> = fleet.weirs.iter().map(Weir::rss).collect();

    let (seed, stop) = (fastrand::u64(..), CancellationToken::new());
    println!("seed {seed}");
    let forging = tokio::spawn(forge(stranger(&cluster).await, seed, stop.clone()));
    for weir in &fleet.weirs {
        weir.until("the stranger is heard", |m| {
            m.sum("weir_fleet_beats_received_total") > 1000.0 && m.sum("weir_fleet_messages_rejected_total") > 10.0
        })
        .await;
    }

    // Shares may be unfair; who comes gets in all the same.
    let crowd = Crowd::spread(&fleet.addresses(), 60, Habit::NATS_GO, |_| orders());
    let others = Crowd::spread(&fleet.addresses(), 30, Habit::NATS_GO, |_| Login::user("b", "b").lang("go"));
    let all_in = async || match (cluster.account_connections("ORDERS").await, cluster.account_connections("B").await) {
        (20, 30) => Ok(()),
        counts => Err(counts),
    };
    eventually(PATIENCE, "the quota is used and the others are in", all_in).await;
    // As long as each of its lies once more.
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        for weir in &fleet.weirs {
            let info = RawClient::greeted(&weir.address).await.expect("INFO").info;
            assert!(!info.to_string().contains("evil"), "{info}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for (weir, before) in fleet.weirs.iter().zip(&rss) {
        let now = weir.rss();
        assert!(now < before + GROWTH, "it has grown from {before} to {now} bytes");
        let seen = fleet::fleetz(weir).await;
        let weirs = seen["weirs"].as_array().expect("weirs");
        assert!(weirs.len() <= 257 && seen["live"] == 2, "only weirs are weirs: {}", seen["live"]);
    }
    crowd.end().await;
    others.end().await;
    stop.cancel();
    let sent = forging.await.expect("the stranger ends");
    println!("{sent} forged messages");

    // Once nobody forges any more, all is as it was: each weir hears the other, and what there is is used.
    fleet.is_whole().await;
    let crowd = Crowd::spread(&fleet.addresses(), 60, Habit::NATS_GO, |_| orders());
    let others = Crowd::spread(&fleet.addresses(), 30, Habit::NATS_GO, |_| Login::user("b", "b").lang("go"));
    eventually(PATIENCE, "the same once the stranger is gone", all_in).await;
    let history = History::of(&cluster, "ORDERS").await;
    assert!(history.most() <= QUOTA as i64, "{} of {QUOTA} at once", history.most());
    assert!(!cluster.log_contains("maximum connections exceeded"), "a server was opened beyond its limit");
    crowd.end().await;
    others.end().await;
    for weir in &fleet.weirs {
        let log = weir.log();
        let told: Vec<_> = log.lines().filter(|line| line.contains("a message of the fleet is not taken in")).collect();
        assert!((1..=3).contains(&told.len()), "{told:#?}");
        assert!(!log.contains("panic") && !log.contains("ghost-"), "{log}");
    }
}

/// Says for the second weir, as if that had said it, that it holds this much of the account. Nothing else is made up.
async fn hides(client: Client, held: u32, said: Arc<AtomicU64>, stop: CancellationToken) {
    let mut beats = client.subscribe("weir.fleet.edge.beat").await.expect("subscribed");
    let (mut real, mut n) = (Value::Null, 1_u64 << 60);
    let mut every = tokio::time::interval(Duration::from_millis(20));
    while !stop.is_cancelled() {
        tokio::select! {
            Some(message) = beats.next() => {
                let heard: Value = serde_json::from_slice(&message.payload).expect("a beat");
                // Its own ones come back to it. The beat of a weir that has clients names the account.
                let is_real = heard["id"] == "weir-2" && heard["n"].as_u64() < Some(1 << 60);
                if is_real && heard["accounts"].as_object().is_some_and(|accounts| !accounts.is_empty()) {
                    real = heard;
                }
            }
            _ = every.tick(), if !real.is_null() => {
                n += 1;
                let mut beat = real.clone();
                beat["n"] = json!(n);
                for (_, one) in beat["accounts"].as_object_mut().expect("accounts") {
                    let mut says = |what: &str, number: u64| one[what] = json!(number);
                    says("held", held.into());
                    says("open", held.into());
                    says("taken", u64::from(held) + 1000);
                    says("released", 1000);
                }
                client.publish("weir.fleet.edge.beat", beat.to_string().into()).await.expect("published");
                said.fetch_add(1, Relaxed);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_for_a_weir_hides_nobody_who_came_past_all_weirs() {
    let cluster = Cluster::start(3, |server| server.jetstream().with(&fleet_past::accounts())).await;
    cluster.has_jetstream().await;
    let fleet = Fleet::start(2, &with_quota(WeirConfig::of(&cluster).cluster(fleet_past::SYSTEM))).await;
    fleet.has_leases().await;
    let (past, login) = (40, Login::user("o", "p").lang("test"));
    let [first, second] = [0, 1].map(|n| fleet.weirs[n].address.clone());
    // The second weir has a lease of half the quota, and hardly uses it.
    let half = attempts(std::slice::from_ref(&second), fleet_quota::QUOTA / 2).await;
    let mut clients = vec![RawClient::connect(&first, &login).await, RawClient::connect(&second, &login).await];
    drop(half);
    let (said, stop) = (Arc::<AtomicU64>::default(), CancellationToken::new());
    let options = ConnectOptions::with_user_and_password("weir-10".into(), "fl33t-10-s3cret".into());
    let stranger = options.connect(&cluster.servers[0].address).await.expect("a stranger who is let in");
    let hiding = tokio::spawn(hides(stranger, past + 1, Arc::clone(&said), stop.clone()));
    let mut direct = Vec::new();
    for n in 0..past as usize {
        direct.push(RawClient::connect(&cluster.servers[n % 3].address, &login).await);
    }
    let has_said = async || if said.load(Relaxed) > 100 { Ok(()) } else { Err(said.load(Relaxed)) };
    eventually(PATIENCE, "the stranger speaks for the second weir", has_said).await;
    fleet_past::are_past(&fleet, past as usize).await;
    for address in [&first, &second] {
        clients.extend(attempts(std::slice::from_ref(address), fleet_quota::QUOTA).await);
    }
    fleet_quota::never_over(&cluster).await;
    assert_eq!(clients.len() + direct.len(), fleet_quota::QUOTA, "all of the quota is in use");
    stop.cancel();
    hiding.await.expect("the stranger ends");
    for weir in &fleet.weirs {
        weir.says("it is not signed by the weir that it names").await;
    }
    drop((direct, clients));
    fleet.assert_idle().await;
}

/// Answers at one server in the place of the bucket, whose server is gone, and of weirs that are asked whether they are
/// there: what they write is stored, it says, and there is nothing to read.
async fn answers(server: String, info: Value, last: Arc<AtomicU64>) {
    let options = ConnectOptions::with_user_and_password("weir-9".into(), "fl33t-9-s3cret".into());
    let client = options.connect(server).await.expect("a stranger who is let in");
    let heard = ["$KV.weir-fleet-edge.>", "$JS.API.STREAM.>", "weir.fleet.edge.is.>"];
    let heard = heard.map(|subject| client.subscribe(subject));
    let mut heard = futures::stream::select_all(futures::future::try_join_all(heard).await.expect("subscribed"));
    while let Some(message) = heard.next().await {
        let Some(reply) = message.reply else { continue };
        let answer = match &*message.subject {
            subject if subject.starts_with("$KV") => {
                json!({ "stream": "KV_weir-fleet-edge", "seq": last.fetch_add(1, Relaxed) })
            }
            subject if subject.contains(".INFO.") => info.clone(),
            _ => json!({ "error": { "code": 404, "err_code": 10037, "description": "no message found" } }),
        };
        client.publish(reply, answer.to_string().into()).await.expect("published");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hears_what_weirs_ask_cannot_answer_for_the_bucket() {
    // It may do all that strangers are not to be kept from.
    let denied = "[\"$KV.weir-fleet-edge.>\", \"$JS.API.>\", \"_INBOX_weir-fleet-edge.>\"]";
    let kept = format!("fl33t-9-s3cret, permissions: {{publish: {{deny: {denied}}}}}");
    let accounts = fleet::accounts("ORDERS { users: [{user: o, password: o}] }").replace("fl33t-9-s3cret", &kept);
    let mut cluster = Cluster::start(3, |server| server.jetstream().with(&accounts)).await;
    cluster.has_jetstream().await;
    let of_all = WeirConfig::of(&cluster).account("ORDERS", &format!("users = [\"o\"]\nmax_connections = {QUOTA}"));
    let fleet = Fleet::start_each((1..=2).map(|n| fleet::config_with(&of_all, n, "replicas = 1"))).await;
    let first = Crowd::spread(&fleet.addresses(), 4, Habit::NATS_GO, |_| orders());
    first.settles_at(4).await;
    let client = stranger(&cluster).await;
    let asked = client.request("$JS.API.STREAM.INFO.KV_weir-fleet-edge", "".into());
    let info: Value = serde_json::from_slice(&asked.await.expect("an answer").payload).expect("of the stream");

    let lost = cluster.servers.iter().position(|server| info["cluster"]["leader"] == server.name).expect("it has one");
    cluster.servers[lost].kill9();
    let last = Arc::new(AtomicU64::new(1_000_000));
    let others = cluster.servers.iter().enumerate().filter(|(n, _)| *n != lost);
    let strangers: Vec<_> = others
        .map(|(_, server)| tokio::spawn(answers(server.address.clone(), info.clone(), Arc::clone(&last))))
        .collect();
    let crowd = Crowd::spread(&fleet.addresses(), 60, Habit::NATS_GO, |_| orders());
    let is_answered = async || if last.load(Relaxed) > 1_000_001 { Ok(()) } else { Err(last.load(Relaxed)) };
    eventually(PATIENCE, "the stranger hears what weirs write", is_answered).await;
    let all_in = async || match first.connected() + crowd.connected() {
        QUOTA.. => Ok(()),
        now => Err(now),
    };
    eventually(PATIENCE, "the quota is used, by the parts of it that weirs have without the bucket", all_in).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let history = History::of(&cluster, "ORDERS").await;
    assert!(history.most() <= QUOTA as i64, "{} of {QUOTA} at once", history.most());
    strangers.iter().for_each(tokio::task::JoinHandle::abort);
    first.end().await;
    crowd.end().await;
}

/// Servers let a client ask for an answer at any subject, whether or not it may publish there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_has_no_weir_write_into_the_bucket() {
    let kept = "fl33t-10-s3cret, permissions: {publish: {deny: [\"$KV.weir-fleet-edge.>\", \"$JS.API.>\"]}}";
    let accounts = fleet::accounts("ORDERS { users: [{user: o, password: o}] }").replace("fl33t-10-s3cret", kept);
    let cluster = Cluster::start(3, |server| server.jetstream().with(&accounts)).await;
    let of_all = WeirConfig::of(&cluster).account("ORDERS", &format!("users = [\"o\"]\nmax_connections = {QUOTA}"));
    cluster.has_jetstream().await;
    let fleet = Fleet::start_each((1..=2).map(|n| fleet::config_with(&of_all, n, "replicas = 1"))).await;
    let first = RawClient::connect(&fleet.weirs[0].address, &orders()).await;
    let client = stranger(&cluster).await;
    let mut heard = client.subscribe("weir.fleet.edge.beat").await.expect("subscribed");
    let beat = heard.next().await.expect("a beat").payload;
    let beat: Value = serde_json::from_slice(&beat).expect("JSON");
    let (id, run) = (beat["id"].as_str().expect("an id"), beat["run"].as_u64().expect("a run"));
    let mut written = client.subscribe("$KV.weir-fleet-edge.>").await.expect("subscribed");
    client.flush().await.expect("all of it is in force");
    let subject = format!("weir.fleet.edge.is.{id}.{run:016x}");
    let elsewhere = "$KV.weir-fleet-edge.a.made-up";
    client.publish_with_reply(subject.clone(), elsewhere, "".into()).await.expect("published");
    let rejected = |metrics: &metrics::Metrics| metrics.sum("weir_fleet_messages_rejected_total") > 0.0;
    let asked = async || {
        let mut all = false;
        for weir in &fleet.weirs {
            all |= rejected(&weir.metrics().await);
        }
        if all { Ok(()) } else { Err("no weir has refused it") }
    };
    eventually(PATIENCE, "the question has come", asked).await;
    let until = tokio::time::Instant::now() + Duration::from_secs(2);
    while let Ok(Some(message)) = tokio::time::timeout_at(until, written.next()).await {
        assert_ne!(&*message.subject, elsewhere, "a weir writes it");
    }
    drop(first);
    fleet.assert_idle().await;
}
