//! The same bytes straight to a nats-server and through weir: what the client hears, and what is published, must be the
//! same but for a list of differences, each with its name and its reason.
//!
//! `WEIR_DIFFERENTIAL_SEED=n` plays the one client of that seed. `WEIR_DIFFERENTIAL_CASES=n` plays n clients instead
//! of the few of the suite, from a random seed on or from that one.

mod accepted;
mod case;
mod compare;
mod generate;
mod generate_connect;
mod known;
mod pair;
mod transcript;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::{fs, slice};

use weir_testkit::{project, say};

use self::{
    case::Case,
    compare::{Verdict, compare, shrink},
    pair::{Kind, Pair, Path, Protocol},
};

/// So many clients are connected at once on each path.
const AT_ONCE: usize = 60;

/// The clients of the suite, for each way to speak.
const CASES: u64 = 200;
const CASES_WITHIN_TLS_AND_WEBSOCKET: u64 = 60;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Plays clients on both paths, and fails if there is a difference that is not accepted.
async fn play(what: &str, protocol: Protocol, generate: fn(u64) -> Case) {
    let (seed, cases) = (variable("WEIR_DIFFERENTIAL_SEED"), variable("WEIR_DIFFERENTIAL_CASES"));
    let suite = if protocol == Protocol::Plain { CASES } else { CASES_WITHIN_TLS_AND_WEBSOCKET };
    let count = cases.unwrap_or(if seed.is_some() { 1 } else { suite });
    let first = seed.unwrap_or_else(|| fastrand::u64(..1 << 48));
    say(&format!("{what}: WEIR_DIFFERENTIAL_SEED={first} WEIR_DIFFERENTIAL_CASES={count}"));
    let mut by_kind: BTreeMap<Kind, Vec<(u64, Case)>> = BTreeMap::new();
    for seed in first..first + count {
        let case = match (protocol, generate(seed)) {
            // What a nats-server says before a WebSocket is closed, by it or by the client, seldom arrives.
            (Protocol::WebSocket, case) => case.while_orderly().with_round_trip(),
            (_, case) => case,
        };
        by_kind.entry(case.kind).or_default().push((seed, case));
    }
    let mut failed = String::new();
    let (mut by_chance, mut let_in, mut served, mut with_accounts, mut came_again) = (0, 0, 0, 0, 0);
    let mut accepted: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (kind, cases) in by_kind {
        let mut pair = Pair::start(kind, protocol).await;
        for batch in cases.chunks(AT_ONCE) {
            let (seeds, cases): (Vec<u64>, Vec<Case>) = batch.iter().cloned().unzip();
            let straight = pair.play(Path::Straight, &cases).await;
            let through = pair.play(Path::ThroughWeir, &cases).await;
            for (at, case) in cases.iter().enumerate() {
                let (straight, through) = (&straight[at], &through[at]);
                let_in += usize::from(through.who.is_some());
                served += u64::from(through.was_served());
                let mut shown = String::new();
                match compare(&mut pair, case, straight, through).await {
                    Verdict::Same => {}
                    Verdict::SameByChance => by_chance += 1,
                    Verdict::Accepted(names) => {
                        for name in names {
                            *accepted.entry(name).or_default() += 1;
                        }
                    }
                    Verdict::Differs => shown = shrink(&mut pair, case, (straight, through)).await,
                }
                let accounts = through.accounts();
                with_accounts += usize::from(accounts.is_some());
                if let Some((server, weir)) = accounts
                    && server != weir
                {
                    shown += &format!("{case}  account {server:?} at the server and {weir:?} in weir's log\n");
                }
                if !shown.is_empty() {
                    let text = format!("\n{what}: WEIR_DIFFERENTIAL_SEED={}\n{shown}", seeds[at]);
                    say(&text);
                    failed += &text;
                }
            }
        }
        came_again += pair.came_again;
        pair.weir.assert_nothing_leaked().await;
    }
    say(&format!(
        "{what}: {count} clients, accepted: {accepted:?}, {by_chance} by chance; {served} served at first; the server says \
         who {let_in} were, and weir names the accounts of {with_accounts}; {came_again} times another answer since \
         there was no place at first"
    ));
    assert!(failed.is_empty(), "differences:{failed}");
    // Where weir turned everybody away, nothing would have been compared.
    assert!(count < 60 || served >= count / 40, "only {served} of {count} were served at first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_clients_hear_what_they_hear_straight_at_the_server() {
    play("operations", Protocol::Plain, generate::case).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_connects_are_who_they_are_straight_at_the_server() {
    play("connects", Protocol::Plain, generate_connect::case).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_clients_hear_the_same_within_tls() {
    play("operations within TLS", Protocol::Tls, generate::case).await;
    play("connects within TLS", Protocol::Tls, generate_connect::case).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_clients_hear_the_same_over_websocket() {
    play("operations over WebSocket", Protocol::WebSocket, generate::case).await;
}

/// Clients that once differed, and those that differ as they should: each accepted difference has one that needs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_clients_differ_only_as_they_should() {
    let known = known::all();
    let mut failed = String::new();
    for kind in Kind::ALL {
        let mut pair = Pair::start(kind, Protocol::Plain).await;
        for known in &known {
            let case = known.case();
            if case.kind != kind {
                continue;
            }
            let straight = pair.play(Path::Straight, slice::from_ref(&case)).await.remove(0);
            let through = pair.play(Path::ThroughWeir, slice::from_ref(&case)).await.remove(0);
            let verdict = compare(&mut pair, &case, &straight, &through).await;
            let is_right = match known.name {
                None => matches!(verdict, Verdict::Same | Verdict::SameByChance),
                Some(name) => verdict == Verdict::Accepted(vec![name]),
            };
            if !is_right {
                let wanted = known.name;
                write!(
                    failed,
                    "\n{verdict:?} instead of {wanted:?}\n{case}  straight:\n{straight}  through weir:\n{through}"
                )
                .unwrap();
            }
        }
        pair.weir.assert_nothing_leaked().await;
    }
    assert!(failed.is_empty(), "{failed}");
    let names = |known: &known::Known| known.name;
    let needed: BTreeSet<&str> = known.iter().filter_map(names).collect();
    assert_eq!(needed, accepted_names(), "the list of accepted differences and those that a client needs");
}

fn accepted_names() -> BTreeSet<&'static str> {
    accepted::ACCEPTED.iter().map(|accepted| accepted.name).collect()
}

#[test]
fn accepted_differences_are_told_to_users() {
    let page = fs::read_to_string(project().join("docs/reference/compatibility.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("On the wire\n")).expect("a section");
    let names = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(names.collect::<BTreeSet<_>>(), accepted_names());
}
