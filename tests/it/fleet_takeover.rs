//! Weirs of a fleet are taken over: the others see no weir leave or come, no quota is exceeded, and nobody is refused
//! who has a place.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::task::JoinSet;
use weir_testkit::{admin::AdminSocket, fleet::seen_by, takeover::Between, *};

use crate::{
    fleet_quota::{QUOTA, attempts, come, never_over, with_quota},
    fleet_servers::{holds, orders, three_servers},
    takeover::Fake,
};

/// How many takeovers in a row, unless this variable says so.
const VARIABLE: &str = "WEIR_TAKEOVERS";
const TAKEOVERS: usize = 10;

/// What a weir logs when it sees another one come or go.
const NEWS: [&str; 4] = [
    "weir of the fleet is there",
    "of the fleet has ended",
    "of the fleet is heard no more",
    "has lost its connection",
];

/// Three weirs, each with an admin socket.
async fn three_weirs(of_all: &WeirConfig, more: &str) -> (Fleet, Vec<AdminSocket>) {
    let admins: Vec<_> = (0..3).map(|_| AdminSocket::default()).collect();
    let config = |n: usize| fleet::config_with(&of_all.clone().log_level("info").table(&admins[n - 1].toml()), n, more);
    let fleet = Fleet::start_at_once((1..=3).map(config)).await;
    fleet.is_whole().await;
    (fleet, admins)
}

/// The same, once all have their leases.
async fn with_leases(of_all: &WeirConfig) -> (Fleet, Vec<AdminSocket>) {
    let (fleet, admins) = three_weirs(of_all, "").await;
    fleet.has_leases().await;
    (fleet, admins)
}

/// What the other weirs have logged of the n-th one's coming and going. On a busy machine they may lose sight of each
/// other for a moment.
fn news(fleet: &Fleet, of: usize) -> Vec<String> {
    let others = fleet.weirs.iter().enumerate().filter(|(n, _)| *n != of);
    let log = others.map(|(_, weir)| weir.log()).collect::<Vec<_>>().concat();
    let is_news = |line: &&str| {
        NEWS.iter().any(|news| line.contains(news)) && line.contains(&format!("weir=\"weir-{}\"", of + 1))
    };
    log.lines().filter(is_news).map(str::to_owned).collect()
}

/// Takes the n-th weir over. The others do not notice, and the process before ends.
async fn take_over(fleet: &mut Fleet, n: usize) {
    let before = news(fleet, n);
    let status = fleet.weirs[n].is_taken_over_whole().await;
    assert!(status.success(), "{status}");
    assert_eq!(news(fleet, n), before, "the others see nothing");
}

/// One client after the other comes, and each must get in, until told to stop. Returns how many.
async fn each_gets_in(address: String, stop: Arc<AtomicBool>) -> u64 {
    let mut connects = 0;
    while !stop.load(Relaxed) {
        let login = orders().lang("test").name(&fastrand::u64(..).to_string());
        let mut client = RawClient::attempt(&address, &login, PATIENCE).await.expect_in();
        client.round_trip().await.expect("it is in");
        connects += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    connects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_is_exact_while_weirs_are_taken_over_in_turn() {
    let takeovers = std::env::var(VARIABLE).map_or(TAKEOVERS, |n| n.parse().expect("a number"));
    let cluster = three_servers(|server| server).await;
    let (mut fleet, _admins) = with_leases(&with_quota(WeirConfig::of(&cluster))).await;
    let all = fleet.addresses();
    let stays = Crowd::spread(&all, QUOTA - 25, Habit::PATIENT, |_| orders());
    stays.settles_at(QUOTA - 25).await;
    let stop = Arc::<AtomicBool>::default();
    let mut coming = JoinSet::new();
    all.iter().for_each(|one| _ = coming.spawn(each_gets_in(one.clone(), Arc::clone(&stop))));
    let members = seen_by(&fleet.weirs[0]).await;
    for n in 0..takeovers / 2 {
        take_over(&mut fleet, n % 3).await;
        assert_eq!(seen_by(&fleet.weirs[n % 3]).await, members);
    }
    stop.store(true, Relaxed);
    let mut came = Vec::new();
    while let Some(one) = coming.join_next().await {
        came.push(one.expect("each gets in"));
    }
    say(&format!("{came:?} clients came meanwhile to {all:?}"));
    assert_eq!(stays.lost(), 0, "{:?}", stays.ends());
    never_over(&cluster).await;

    // More than there are places for.
    let crowd = come(&all, 200);
    crowd.settles_at(25).await;
    for n in takeovers / 2..takeovers {
        take_over(&mut fleet, n % 3).await;
    }
    crowd.settles_at(25).await;
    assert_eq!((crowd.lost(), stays.lost()), (0, 0), "{:?}", crowd.ends());
    for weir in &fleet.weirs {
        assert_eq!(seen_by(weir).await, members);
    }
    holds(&fleet, &cluster, QUOTA).await;
    never_over(&cluster).await;
    // What is given back in the new processes is there for clients of any weir.
    stays.end().await;
    crowd.settles_at(QUOTA).await;
    crowd.end().await;
    fleet.assert_idle().await;
    let clients = attempts(&all[1..2], 150).await;
    assert_eq!(clients.len(), QUOTA, "all of them at one weir");
    never_over(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_that_breaks_off_changes_nothing() {
    let cluster = three_servers(|server| server).await;
    let (mut fleet, _admins) = with_leases(&with_quota(WeirConfig::of(&cluster))).await;
    let crowd = come(&fleet.addresses(), 150);
    crowd.settles_at(QUOTA).await;
    // Another fleet, another member, none.
    let file = std::fs::read_to_string(fleet.weirs[0].config_file()).unwrap();
    let without = file.split("[fleet]").next().unwrap().to_owned();
    for (other, text) in [
        (file.replace("name = \"edge\"", "name = \"other\""), "the new configuration has fleet other"),
        (file.replace("id = \"weir-1\"", "id = \"weir-7\""), "the new configuration has fleet edge as weir-7"),
        (without, "the new configuration has no fleet"),
    ] {
        std::fs::write(fleet.weirs[0].config_file(), other).unwrap();
        let mut new = fleet.weirs[0].start_takeover();
        assert_eq!(new.wait(PATIENCE).await.code(), Some(1));
        assert!(new.log().contains(text) && new.log().contains("a takeover changes no fleet"), "{}", new.log());
    }
    std::fs::write(fleet.weirs[0].config_file(), file).unwrap();
    // New processes that end at any time of their start.
    for milliseconds in [0, 3, 6, 10, 15, 20, 25] {
        let mut new = fleet.weirs[0].start_takeover();
        let offered = "takes over from a running weir";
        eventually(PATIENCE, offered, async || if new.log().contains(offered) { Ok(()) } else { Err(new.log()) }).await;
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        let weir = &mut fleet.weirs[0];
        let breaks = weir.log().matches("a takeover is off").count();
        new.kill();
        new.wait(PATIENCE).await;
        let is_over = eventually(PATIENCE, "it is off or over", async || {
            let is_off = weir.log().matches("a takeover is off").count() > breaks;
            if is_off { Ok(false) } else { weir.exited().map(|_| true).ok_or_else(|| weir.log()) }
        })
        .await;
        if is_over {
            let status = weir.wait(PATIENCE).await;
            assert!(status.success(), "the process before has ended in order: {status}\n{}", weir.log());
            say(&format!("the takeover was over after {milliseconds} ms"));
            return;
        }
    }
    goes_on(&fleet, &cluster, &crowd).await;
    is_taken_over_at_last(fleet, &cluster, crowd).await;
}

/// The process before goes on with the whole quota.
async fn goes_on(fleet: &Fleet, cluster: &Cluster, crowd: &Crowd) {
    crowd.settles_at(QUOTA).await;
    fleet.is_whole().await;
    holds(fleet, cluster, QUOTA).await;
    never_over(cluster).await;
}

/// The next takeover of the first weir is whole.
async fn is_taken_over_at_last(mut fleet: Fleet, cluster: &Cluster, crowd: Crowd) {
    take_over(&mut fleet, 0).await;
    crowd.settles_at(QUOTA).await;
    never_over(cluster).await;
    crowd.end().await;
    fleet.assert_idle().await;
}

/// It has all sessions, and dies before it serves: the leases are those of the process before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_before_has_the_leases_until_the_new_one_serves() {
    let cluster = three_servers(|server| server).await;
    let (fleet, admins) = with_leases(&with_quota(WeirConfig::of(&cluster))).await;
    let crowd = come(&fleet.addresses(), 150);
    crowd.settles_at(QUOTA).await;
    let before = news(&fleet, 0);
    let mut other = Fake::of_fleet(&admins[0], 1, r#"{"name":"edge","id":"weir-1"}"#).await;
    other.until("offer").await;
    other.say(r#"{"message":"ready"}"#).await;
    loop {
        let message = other.next().await;
        match message["message"].as_str().unwrap() {
            "batch" => {
                let counted = serde_json::json!({"message": "counted", "number": message["number"], "refused": []});
                other.say(&counted.to_string()).await;
            }
            "serve" => break,
            "abort" | "fleet" => panic!("{message}"),
            _ => {}
        }
    }
    drop(other);
    fleet.weirs[0].says("a takeover is off").await;
    goes_on(&fleet, &cluster, &crowd).await;
    assert_eq!(news(&fleet, 0), before, "the others see nothing");
    is_taken_over_at_last(fleet, &cluster, crowd).await;
}

/// The process before dies when the new one has all sessions, or serves already, and has not given its leases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_process_is_the_weir_of_the_fleet_when_the_one_before_dies() {
    let cluster = three_servers(|server| server).await;
    let (mut fleet, admins) = with_leases(&with_quota(WeirConfig::of(&cluster))).await;
    let all = fleet.addresses();
    let crowd = come(&all, 150);
    crowd.settles_at(QUOTA).await;
    for message in ["serve", "fleet"] {
        let (mut between, new) = Between::start(&fleet.weirs[0], &admins[0]).await;
        let held = between.passes_until(message).await;
        fleet.weirs[0].kill9();
        fleet.weirs[0].replace(new);
        drop((held, between));
        fleet.weirs[0].serves().await;
        crowd.settles_at(QUOTA).await;
        assert_eq!(crowd.lost(), 0, "{message}: {:?}", crowd.ends());
        fleet.is_whole().await;
        holds(&fleet, &cluster, QUOTA).await;
        never_over(&cluster).await;
    }
    crowd.end().await;
    fleet.assert_idle().await;
    let clients = attempts(&all[..1], 150).await;
    assert_eq!(clients.len(), QUOTA, "all of them at that weir");
    never_over(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_is_split_stays_split() {
    let cluster = three_servers(|server| server).await;
    let (mut fleet, _admins) = three_weirs(&with_quota(WeirConfig::of(&cluster)), "quota = \"split\"").await;
    let crowd = come(&fleet.addresses(), 200);
    crowd.settles_at(QUOTA).await;
    for n in 0..3 {
        take_over(&mut fleet, n).await;
    }
    crowd.settles_at(QUOTA).await;
    assert_eq!(crowd.lost(), 0, "{:?}", crowd.ends());
    never_over(&cluster).await;
    crowd.end().await;
    fleet.assert_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_is_taken_over_while_the_bucket_has_no_quorum() {
    let mut cluster = three_servers(|server| server).await;
    let (mut fleet, _admins) = with_leases(&with_quota(WeirConfig::of(&cluster))).await;
    let crowd = come(&fleet.addresses(), 60);
    crowd.settles_at(60).await;
    // Each for itself: none of them reaches the bucket.
    for n in 1..=3 {
        fleet::cut_from_bucket(&mut cluster, n).await;
    }
    for weir in &fleet.weirs {
        weir.until("no leases are in force", |metrics| metrics.sum("weir_fleet_without_leases") == 1.0).await;
    }
    let more = come(&fleet.addresses(), 100);
    for n in 0..3 {
        take_over(&mut fleet, n).await;
    }
    assert_eq!(crowd.lost(), 0, "{:?}", crowd.ends());
    never_over(&cluster).await;
    for n in 1..=3 {
        fleet::let_to_bucket(&mut cluster, n).await;
    }
    more.settles_at(QUOTA - 60).await;
    never_over(&cluster).await;
    more.end().await;
    crowd.end().await;
    fleet.assert_idle().await;
}
