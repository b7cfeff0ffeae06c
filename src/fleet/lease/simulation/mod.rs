//! Seeded histories of a quota that several weirs share, with everything that can go wrong: requests and answers that
//! are lost, late or come twice; watches that lag, lose and reorder; a bucket without quorum; weirs that are cut off,
//! stopped, killed, restarted and told another quota; clocks that run 20 % apart; servers that keep connections of a
//! machine that is gone; clients that come past all weirs, and readings of them that are late, stale or lost. See
//! `world.rs` for the model and what always holds in it.

mod bucket;
mod direct;
mod faults;
mod weir;
mod world;

use self::world::World;

/// Runs one history. What goes wrong in it is told with its seed.
fn history(seed: u64) {
    let mut world = World::new(seed);
    world.go_wrong();
    world.heal();
}

#[test]
fn no_history_has_one_connection_too_many_and_each_fills_its_quota_in_the_end() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let (first, many) = (number("WEIR_SEED").unwrap_or(1), number("WEIR_HISTORIES").unwrap_or(100));
    for seed in first..first + many {
        history(seed);
    }
}
