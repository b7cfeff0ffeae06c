//! Prints the figures of the decision on how places are given in a fleet, for people:
//! `cargo test --lib fleet::pace::simulation::figures -- --ignored --nocapture`. With `WEIR_SIM_ALL=1` those of the
//! rules that were not chosen too.

use super::*;

fn rules() -> Vec<Rule> {
    match std::env::var("WEIR_SIM_ALL") {
        Ok(_) => vec![Rule::Turns, Rule::TimeShare, Rule::Passing, Rule::Apart],
        Err(_) => vec![Rule::Turns],
    }
}

#[test]
#[ignore = "prints the figures of the decision"]
fn figures() {
    let kinds: [(&str, (f64, f64), f64, usize); 7] = [
        ("60 ms, 1 core", (0.055, 0.065), 1.0, 150),
        ("60 ms, 2 cores", (0.055, 0.065), 2.0, 300),
        ("100 ms, 2 cores", (0.09, 0.11), 2.0, 200),
        ("200 ms, 2 cores", (0.18, 0.22), 2.0, 100),
        ("100 ms, 8 cores", (0.09, 0.11), 8.0, 800),
        ("25 ms, 2 cores", (0.02, 0.03), 2.0, 1000),
        ("1 ms, 2 cores", (0.0008, 0.0012), 2.0, 10_000),
    ];
    for (name, work, cores, clients) in kinds {
        println!("{name}");
        for rule in rules() {
            for (loss, uneven) in [(0.0, 0.0), (0.05, 0.5)] {
                let mut alone = 0.0;
                for weirs in [1, 2, 3, 10] {
                    let (mut took, mut mean, mut over, mut most, mut sent) = (0.0, 0.0, 0.0, 0, 0.0);
                    const SEEDS: u64 = 5;
                    for seed in 0..SEEDS {
                        let accounts = 1 + 2 * (seed % 2) as usize;
                        let storm = Storm { weirs, work, cores, clients, rule, loss, uneven, accounts, ..BCRYPT };
                        let mut world = World::new(storm, seed);
                        world.run(1.5);
                        world.storm_comes();
                        let seconds = world.run_to_the_end();
                        let (m, o) = world.mean_under_way(1.5, 1.5 + seconds * 0.9, 2 + cores as u32);
                        (took, mean, over) = (took + seconds, mean + m, over + o);
                        most = most.max(world.under_way.iter().copied().max().unwrap());
                        sent += world.sent as f64 / (1.5 + seconds);
                    }
                    let n = SEEDS as f64;
                    if weirs == 1 {
                        alone = took / n;
                    }
                    println!(
                        "  {rule:?} loss {loss} uneven {uneven} weirs {weirs}: {:.2} s = {:.2}x, under way {:.2} \
                         (over cores + 2: {:.2} of the time, most {most}), {:.0} beats/s",
                        took / n,
                        took / n / alone,
                        mean / n,
                        over / n,
                        sent / n
                    );
                }
            }
        }
    }
}

/// How many histories each figure is of: `WEIR_SIM_HISTORIES`.
fn histories() -> u64 {
    std::env::var("WEIR_SIM_HISTORIES").map_or(5, |many| many.parse().expect("WEIR_SIM_HISTORIES is a number"))
}

#[test]
#[ignore = "prints the figures of the decision"]
fn quiet_figures() {
    for (work, cores, accounts) in [
        ((0.09, 0.11), 2.0, 1),
        ((0.09, 0.11), 2.0, 3),
        ((0.18, 0.22), 2.0, 1),
        ((0.02, 0.03), 2.0, 1),
        ((0.0008, 0.0012), 2.0, 1),
    ] {
        for rule in rules() {
            for weirs in [1, 3, 10] {
                let clients = (60.0 / work.0) as usize;
                let storm = Storm { weirs, work, cores, rule, accounts, clients, ..BCRYPT };
                let all: Vec<_> = (0..histories()).flat_map(|seed| quiet(storm, seed)).collect();
                println!(
                    "{work:?} {accounts} accounts {rule:?} weirs {weirs}: p50 {:?} p90 {:?} p99 {:?} most {:?} of {}",
                    percentile(&all, 0.5),
                    percentile(&all, 0.9),
                    percentile(&all, 0.99),
                    percentile(&all, 1.0),
                    all.len()
                );
            }
        }
    }
}
