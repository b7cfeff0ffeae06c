//! A second storm finds limits that have grown in the first one, and weirs of which none has anything to tell: each
//! could begin as many logins at once as one weir alone.

use super::*;

/// Three servers. The first storm is over, and a second one begins now.
fn second_storm(weirs: usize, loss: f64, seed: u64) -> World {
    let mut world = World::new(Storm { weirs, servers: 3, clients: 300, loss, ..BCRYPT }, seed);
    world.run(1.0);
    world.storm_comes();
    world.run_to_the_end();
    world.run(1.0);
    world.under_way.clear();
    world.quiet_took.clear();
    world.storm_comes();
    world
}

#[test]
fn weirs_begin_a_storm_with_no_more_logins_than_one_weir_would() {
    for seed in seeds() {
        for weirs in [1, 3, 10] {
            let mut world = second_storm(weirs, 0.0, seed);
            let limit = |s: usize| world.weirs.iter().map(|weir| weir.limits[s].limit()).max().unwrap();
            let limits: Vec<_> = (0..3).map(limit).collect();
            world.run(0.03);
            for (s, limit) in limits.into_iter().enumerate() {
                // Each has an equal part, rounded up.
                let (most, jobs) = (limit + weirs as u32 - 1, world.machines[s].jobs.len() as u32);
                assert!((limit..=most).contains(&jobs), "{weirs} weirs, limit {limit}: {jobs} under way");
            }
        }
    }
}

#[test]
#[ignore = "prints the figures of the decision"]
fn figures() {
    for weirs in [1, 3, 10] {
        let (mut took, mut seconds, mut most, histories) = (Vec::new(), 0.0, 0, 80);
        for seed in 0..histories {
            let mut world = second_storm(weirs, 0.01, seed);
            let (began, quiet) = (world.now, world.quiet);
            // Clients of the quiet account come to one weir, 20 a second.
            while world.left_over > 3 {
                world.arrive(0, quiet);
                world.run(0.05);
            }
            seconds += (world.now - began).as_secs_f64() / histories as f64;
            most = most.max(world.under_way.iter().copied().max().unwrap_or_default());
            took.append(&mut world.quiet_took);
        }
        let [half, most_of_them, longest] = [0.5, 0.99, 1.0].map(|part| percentile(&took, part));
        println!(
            "{weirs} weirs: {seconds:.2} s, most under way {most}, p50 {half:?} p99 {most_of_them:?} most {longest:?}"
        );
    }
}
