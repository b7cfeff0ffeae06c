//! Small storms whose outcome is known or can be worked out.

use std::{num::NonZeroU32, time::Duration};

use crate::{
    admission::{AccountLimits, Quota},
    client_library::{
        library::Library,
        table::{ALL, DOTNET, GO, JAVA, JS, PYTHON, RUST},
    },
    config::{Config, ServerArg},
};

use super::{outcome::AccountOutcome, *};

fn plan(clients: u32, library: &'static Library, handshakes: f64) -> Plan {
    let config = Config::from_servers(&[ServerArg("n1:4222".into())]).unwrap();
    let per_second = NonZeroU32::new(handshakes as u32).unwrap();
    let rate = Rate { per_second, burst: NonZeroU32::new((handshakes as u32 / 10).max(10)).unwrap() };
    Plan {
        clients,
        accounts: Vec::new(),
        mix: ClientMix::One(library),
        servers: 3,
        handshakes,
        handshake_time: None,
        discipline: None,
        max_connections: None,
        reserve: config.upstream.reserve,
        round_trip: Duration::from_millis(1),
        at_once: false,
        servers_died: false,
        close_spread: config.upstream.close_spread,
        weirs: 1,
        beat_interval: Duration::from_millis(250),
        beat_delay: Duration::from_millis(1),
        admission: Params { pace: Some(rate), ..config.admission },
        bucket: rate,
        time_limit: Duration::from_secs(600),
        seed: 1,
    }
}

#[track_caller]
fn within(found: Option<f64>, range: std::ops::Range<f64>) {
    assert!(found.is_some_and(|found| range.contains(&found)), "{found:?} is not in {range:?}");
}

#[test]
fn several_weirs_bring_all_in_as_one_does_and_fill_no_server_too_far() {
    let one = Plan { at_once: true, max_connections: Some(1200), ..plan(3000, &GO, 1000.0) };
    for weirs in [3, 10] {
        let fleet = Plan { weirs, ..one.clone() };
        let (found, again, alone) = (fleet.weir(), fleet.weir(), one.weir());
        assert_eq!((found.count.lost, alone.count.lost, found.over_limit), (0, 0, 0), "{weirs} weirs");
        assert_eq!(found.count.seconds_to_100, again.count.seconds_to_100, "the same seed is the same storm");
        assert!(found.most_connections <= 1050, "{} on one server", found.most_connections);
    }
}

/// A storm of one account and a few clients of another, whose rows tell of them together as much as the storm does.
#[test]
fn a_storm_of_one_account_is_told_apart_from_what_others_see_of_it() {
    let of = |name: &str, clients| AccountClients { name: name.into(), clients };
    let accounts = vec![of("STORM", 3900), of("QUIET", 100)];
    let one = Plan { handshake_time: Some(Duration::from_millis(5)), at_once: true, ..plan(4000, &GO, 200.0) };
    let several = Plan { accounts, ..one.clone() };
    assert!(one.weir().accounts.is_empty());
    for weirs in [1, 3] {
        let several = Plan { weirs, ..several.clone() };
        for outcome in [several.direct(), several.token_bucket(), several.weir()] {
            let sum = |of: fn(&AccountOutcome) -> usize| outcome.accounts.iter().map(of).sum::<usize>();
            assert_eq!(sum(|one| one.count.clients), 4000);
            assert_eq!(sum(|one| one.count.back), outcome.count.back);
            assert_eq!(sum(|one| one.count.lost), outcome.count.lost);
            assert_eq!(sum(|one| one.count.still_trying), outcome.count.still_trying);
            assert_eq!(sum(|one| one.count.refused as usize), outcome.count.refused as usize);
            assert_eq!(sum(|one| one.count.timed_out as usize), outcome.count.timed_out as usize);
        }
        let [direct, weir] = [several.direct(), several.weir()].map(|outcome| outcome.accounts);
        // 20 s of logins wait, of which those of the quiet account are half a second.
        within(weir[1].count.seconds_to_100, 0.5..4.0);
        within(weir[0].count.seconds_to_100, 19.0..24.0);
        assert!(direct[1].count.seconds_to_100.is_none_or(|all| all > 10.0), "{direct:?}");
    }
}

/// The limits of each account are those of the configuration, and of a fleet together.
#[test]
fn accounts_have_the_limits_of_the_configuration_however_many_weirs_there_are() {
    let of = |name: &str| AccountClients { name: name.into(), clients: 500 };
    let mut plan = Plan { accounts: vec![of("A"), of("B"), of("C")], at_once: true, ..plan(1500, &GO, 500.0) };
    plan.time_limit = Duration::from_secs(30);
    let limits = |most| AccountLimits {
        quota: Quota { max_connections: Some(most), ..Quota::default() },
        ..AccountLimits::default()
    };
    plan.admission.accounts.insert("A".into(), limits(100));
    plan.admission.default_account = limits(301);
    for weirs in [1, 3, 10] {
        let outcome = Plan { weirs, ..plan.clone() }.weir();
        let back: Vec<_> = outcome.accounts.iter().map(|one| one.count.back).collect();
        assert_eq!(back, [100, 301, 301], "{weirs} weirs");
    }
}

#[test]
fn the_same_seed_is_the_same_storm_and_another_is_not() {
    let text = |seed| Plan { seed, ..plan(2000, &GO, 400.0) }.forecast().to_string();
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
}

#[test]
fn everybody_is_accounted_for() {
    for library in ALL {
        let plan = Plan { time_limit: Duration::from_secs(60), ..plan(3000, library, 200.0) };
        for outcome in [plan.direct(), plan.token_bucket(), plan.weir()] {
            assert_eq!(
                outcome.count.back + outcome.count.lost + outcome.count.still_trying,
                3000,
                "{} {outcome:?}",
                library.lang
            );
            assert!(outcome.back_at(1e9) == outcome.count.back && outcome.back_at(0.0) <= 200);
            assert!(outcome.tries >= outcome.count.refused + outcome.count.timed_out);
            assert!(outcome.most_connections <= plan.max_connections());
        }
    }
}

/// The servers are fast enough for all clients at once: only the clients' first wait and the handshakes take time.
#[test]
fn a_cluster_that_is_fast_enough_needs_no_help() {
    let fast = plan(1000, &RUST, 10_000.0);
    // weir first learns what the servers can do, which takes a few handshakes on each.
    for (outcome, longest) in [(fast.direct(), 0.12), (fast.weir(), 0.14)] {
        within(outcome.count.seconds_to_100, 0.09..longest);
        assert_eq!((outcome.tries, outcome.wasted), (1000, 0));
    }
    within(plan(1000, &GO, 10_000.0).weir().count.seconds_to_100, 2.0..2.3);
}

/// 50,000 clients on 1,000 handshakes a second, at a tenth of the size and a tenth of the speed.
#[test]
fn a_plain_token_bucket_loses_clients_and_weir_does_not() {
    let go = plan(5000, &GO, 100.0);
    let bucket = go.token_bucket();
    assert!(bucket.count.lost > 100 && bucket.count.seconds_to_100.is_none(), "{bucket:?}");
    let js = plan(2000, &JS, 100.0);
    assert!(js.token_bucket().count.lost > 1500);
    for plan in [go, js, plan(2000, &RUST, 100.0), plan(2000, &PYTHON, 100.0)] {
        // At 5 ms a server works on handshakes one after another.
        let plan = Plan { handshake_time: Some(Duration::from_millis(5)), ..plan };
        let (weir, least) = (plan.weir(), f64::from(plan.clients) / 100.0);
        assert_eq!((weir.count.lost, weir.over_limit), (0, 0));
        within(weir.count.seconds_to_100, least * 0.98..least * 1.3 + 2.0);
    }
}

/// Rust, Python and Java come back at once. weir closes them one after another, so they need fewer attempts.
#[test]
fn clients_of_dead_servers_are_closed_one_after_another() {
    for library in [&RUST, &PYTHON, &JAVA] {
        let at_once = plan(8000, library, 1000.0);
        let spread = Plan { servers_died: true, ..at_once.clone() };
        let (before, after) = (at_once.weir(), spread.weir());
        assert_eq!((after.count.lost, after.count.back), (0, 8000));
        assert!(after.tries < before.tries, "{}: {} tries, {} at once", library.lang, after.tries, before.tries);
        within(after.count.seconds_to_100, 0.0..before.count.seconds_to_100.unwrap() + 0.5);
        assert_eq!(spread.direct().tries, at_once.direct().tries, "without weir the server itself closes them");
    }
    // The cluster is faster than the clients, so weir keeps nobody for long.
    let idle = Plan { servers_died: true, ..plan(100, &RUST, 10_000.0) };
    within(idle.weir().count.seconds_to_100, 0.0..0.1);
}

/// Measured with bcrypt at 10 logins a second: 50 clients are not connected after 170 s, 10 clients are after 1.3 s.
#[test]
fn long_handshakes_that_share_a_server_time_out_together() {
    let direct = |clients| Plan { servers: 1, at_once: true, ..plan(clients, &GO, 10.0) }.direct();
    within(direct(10).count.seconds_to_100, 0.9..1.5);
    let many = direct(50);
    assert!(many.back_at(100.0) < 50 && many.count.timed_out > 1000, "{many:?}");
}

/// weir may hold a Go client for 1.5 s, and a refused one comes back after 2 s, so the servers are idle only from 1.5 s
/// to 2.1 s: a client that is refused at the right moment is back when its turn comes.
#[test]
fn clients_that_are_all_new_are_back_when_the_servers_have_room() {
    for seed in 1..4 {
        let at_once =
            Plan { at_once: true, seed, handshake_time: Some(Duration::from_micros(3600)), ..plan(3000, &GO, 545.0) };
        let outcome = Plan { admission: Params { pace: None, ..at_once.admission.clone() }, ..at_once }.weir();
        within(outcome.count.seconds_to_100, 5.5..6.5);
        assert!(outcome.most_tries <= 3 && outcome.wasted == 0, "{outcome:?}");
    }
}

/// .NET waits longer after each refusal, and Java comes back at the same time whenever it is refused. While all clients
/// are away the servers are idle. A Java client is there for at most 1.9 s of every 4 s.
#[test]
fn clients_that_stay_away_for_long_leave_the_servers_idle_for_no_longer_than_they_must() {
    for (library, times) in [(&DOTNET, 1.25), (&JAVA, 2.15)] {
        let outcome = plan(10_000, library, 1000.0).weir();
        within(outcome.count.seconds_to_100, 9.9..10.0 * times);
        assert_eq!((outcome.count.lost, outcome.wasted, outcome.count.timed_out), (0, 0, 0), "{}", library.lang);
    }
}

#[test]
fn a_full_cluster_takes_no_more_than_it_has() {
    let plan = Plan { max_connections: Some(100), time_limit: Duration::from_secs(20), ..plan(1000, &JAVA, 500.0) };
    let (direct, weir) = (plan.direct(), plan.weir());
    assert_eq!((direct.count.back, direct.most_connections), (300, 100));
    // weir keeps 2 of 100 connections free.
    assert_eq!((weir.count.back, weir.most_connections, weir.over_limit), (294, 98, 0));
    assert!(direct.over_limit > 1000);
}

#[test]
fn the_chart_is_whole_and_says_what_it_shows() {
    let svg = plan(500, &GO, 100.0).forecast().svg();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<polyline").count(), 3);
    assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    for words in ["500 Go clients", "seconds since the beginning", "weir, rate 100: all back in", "direct: "] {
        assert!(svg.contains(words), "{words}\n{svg}");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}
