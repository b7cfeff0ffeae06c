//! The weirs of a fleet give a server together what one weir would give it, and keep to a rate together.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use serde_json::Value;
use weir_testkit::{crowd::*, fleet, *};

/// The password `p` in bcrypt at cost 9: a login takes some 0.03 s of a core.
const BCRYPT: &str =
    "APP { users: [{user: app, password: \"$2a$09$abcdefghijklmnopqrstuuT3YjSVEoejw6Q74MYXZ6jB1T6D/HXwC\"}] }";

fn app() -> Login {
    Login::user("app", "p").name("worker").lang("go")
}

/// Weirs with a `[fleet]`, each of which has heard of all others.
async fn weirs(n: usize, of_all: &WeirConfig) -> Vec<Weir> {
    let configs: Vec<_> = (1..=n).map(|n| fleet::config(of_all, n)).collect();
    let weirs = futures::future::join_all(configs.iter().map(WeirConfig::start)).await;
    for (own, weir) in weirs.iter().enumerate() {
        for other in (1..=n).filter(|other| *other != own + 1) {
            weir.says(&format!("another weir of the fleet is there weir=\"weir-{other}\"")).await;
        }
    }
    weirs
}

/// The last beat of each weir.
type Beats = Arc<Mutex<HashMap<String, Value>>>;

/// Hears the beats of all weirs.
async fn beats(cluster: &Cluster) -> Beats {
    let options = async_nats::ConnectOptions::with_user_and_password("weir-9".into(), "fl33t-9-s3cret".into());
    let client = options.connect(&cluster.servers[0].address).await.expect("connects");
    let mut heard = client.subscribe("weir.fleet.edge.beat").await.expect("subscribes");
    client.flush().await.expect("is subscribed");
    let beats = Beats::default();
    let all = Arc::clone(&beats);
    tokio::spawn(async move {
        let _client = client;
        while let Some(message) = heard.next().await {
            let beat: Value = serde_json::from_slice(&message.payload).expect("JSON");
            let id = beat["id"].as_str().expect("an id").to_owned();
            all.lock().unwrap().insert(id, beat);
        }
    });
    beats
}

/// The largest part that a weir has of any rate by its beat, in millionths.
fn largest_part(beat: &Value) -> u64 {
    let rates = beat["rates"].as_object().into_iter().flatten();
    rates.filter_map(|(_, rate)| rate["has"].as_u64()).max().unwrap_or(0)
}

/// Logins under way on the only server, and its limit, by the last beats of all weirs.
fn under_way(beats: &Beats) -> (f64, f64) {
    let (mut places, mut limit) = (0.0, 0.0_f64);
    for beat in beats.lock().unwrap().values() {
        for server in beat["servers"].as_object().expect("servers").values() {
            let pace = &server["pace"];
            places += pace["places"].as_f64().unwrap_or(0.0);
            limit = limit.max(pace["limit_milli"].as_f64().unwrap_or(0.0) / 1000.0);
        }
    }
    (places, limit)
}

/// A storm of logins through these weirs; how long it took.
async fn storm(weirs: &[Weir], clients: usize) -> Duration {
    let addresses: Vec<_> = weirs.iter().map(|weir| weir.address.clone()).collect();
    let began = Instant::now();
    let crowd = Crowd::spread(&addresses, clients, Habit::PATIENT, |_| app());
    crowd.settles_at(clients).await;
    let took = began.elapsed();
    crowd.end().await;
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_weirs_give_a_server_what_one_gives_it() {
    nats::at_least(2, 12); // servers name the account
    const CLIENTS: usize = 150;
    let cluster = Cluster::start(1, |one| one.default_timeouts().with(&fleet::accounts(BCRYPT))).await;
    let of_all = WeirConfig::of(&cluster).default_settings();
    let alone = [of_all.start().await];
    let one = storm(&alone, CLIENTS).await;
    drop(alone);

    let weirs = weirs(3, &of_all).await;
    let beats = beats(&cluster).await;
    let (is_over, seen) = (Arc::<AtomicBool>::default(), Arc::clone(&beats));
    let over = Arc::clone(&is_over);
    let looking = tokio::spawn(async move {
        let mut samples = Vec::new();
        while !over.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            samples.push(under_way(&seen));
        }
        samples
    });
    let three = storm(&weirs, CLIENTS).await;
    is_over.store(true, Relaxed);
    let samples = looking.await.expect("samples");
    // While clients wait everywhere: the middle of the storm.
    let middle = &samples[samples.len() / 4..samples.len() * 3 / 4];
    let mean = |of: fn(&(f64, f64)) -> f64| middle.iter().map(of).sum::<f64>() / middle.len().max(1) as f64;
    let (places, limit) = (mean(|one| one.0), mean(|one| one.1));
    println!(
        "{places:.2} logins under way of a limit of {limit:.2}; {one:?} through one weir, {three:?} through three"
    );
    assert!(places > 0.2 && limit >= 1.0, "beats tell: {places} of {limit}");
    assert!(places <= limit + 1.5, "{places} logins under way of a limit of {limit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pace_is_that_of_all_weirs_together() {
    all_weirs_keep_to_twenty_a_second(|config| config.admission("rate = 20\nburst = 4")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_of_an_account_is_that_of_all_weirs_together() {
    all_weirs_keep_to_twenty_a_second(|config| config.table("[accounts.APP]\nrate = 20\nburst = 4")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_of_a_user_is_that_of_all_weirs_together() {
    all_weirs_keep_to_twenty_a_second(|config| config.table("[users.\"a*\"]\nrate = 20\nburst = 4")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_of_a_pattern_of_names_is_that_of_all_weirs_together() {
    all_weirs_keep_to_twenty_a_second(|config| config.table("[names.\"wor*\"]\nrate = 20\nburst = 4")).await;
}

async fn all_weirs_keep_to_twenty_a_second(limited: impl Fn(WeirConfig) -> WeirConfig) {
    const CLIENTS: usize = 120;
    let others = "APP { users: [{user: app, password: p}] }";
    let cluster = Cluster::start(1, |one| one.with(&fleet::accounts(others))).await;
    let of_all = limited(WeirConfig::of(&cluster));
    let weirs = weirs(3, &of_all).await;
    let beats = beats(&cluster).await;
    // Tokens are promised at the part of the rate that a weir has: an equal one once it has listened for others.
    eventually(PATIENCE, "each weir has a third of the rate", async || {
        let parts: Vec<_> = beats.lock().unwrap().values().map(largest_part).collect();
        if parts.len() == 3 && parts.iter().all(|part| *part >= 300_000) { Ok(()) } else { Err(parts) }
    })
    .await;
    // Each weir learns whose login this is.
    for weir in &weirs {
        drop(RawClient::connect(&weir.address, &app()).await);
    }
    let took = storm(&weirs, CLIENTS).await;
    println!("{CLIENTS} clients in {took:?}");
    // Each weir may let one in at once, however small its part of the burst.
    let least = Duration::from_secs_f64((CLIENTS - 4 - 3) as f64 / 20.0);
    assert!(took >= least.mul_f64(0.9), "{CLIENTS} clients in {took:?}");

    // All clients come to one weir now: the rate is mostly its own.
    let crowd = Crowd::start(&weirs[0].address, 60, &app(), Habit::PATIENT);
    let part = || beats.lock().unwrap().get("weir-1").map_or(0, largest_part);
    eventually(PATIENCE, "one weir has most of the rate", async || match part() {
        millionths if millionths >= 800_000 => Ok(()),
        millionths => Err(millionths),
    })
    .await;
    crowd.settles_at(60).await;
    crowd.end().await;
}
