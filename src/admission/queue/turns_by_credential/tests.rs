//! Whose turn it is, among credentials that share a lane.

use proptest::prelude::*;

use super::*;

fn key(n: u64) -> Shown {
    Some(CredentialKey::from_raw(n))
}

fn order(n: u64) -> QueueOrder {
    (QueueRank::default(), n)
}

/// Takes the first until nobody is left.
fn all(turns: &mut TurnsByCredential) -> Vec<(u64, u64)> {
    std::iter::from_fn(|| {
        let (credential, order) = turns.first()?;
        turns.had_turn(credential, order.0);
        turns.remove(credential, order);
        Some((credential?.raw(), order.1))
    })
    .collect()
}

#[test]
fn credentials_take_turns_however_many_clients_one_has() {
    let mut turns = TurnsByCredential::default();
    (0..1000).for_each(|n| turns.push(key(1), order(n)));
    (0..500).for_each(|_| {
        let (credential, order) = turns.first().expect("one");
        turns.had_turn(credential, order.0);
        turns.remove(credential, order);
    });
    turns.push(key(2), order(2000));
    turns.push(key(3), order(2001));
    turns.push(key(2), order(2002));
    assert_eq!([1, 2, 3].map(|credential| turns.most_before(key(credential))), [1499, 5, 2]);
    let order = all(&mut turns);
    assert_eq!(order[..6], [(1, 500), (2, 2000), (3, 2001), (1, 501), (2, 2002), (1, 502)]);
    assert_eq!((order.len(), turns.len()), (503, 0));
    assert_eq!(turns.sequences.map(|one| one.len()), [0, 0]);
}

#[test]
fn made_up_credentials_take_no_turns_of_those_whose_account_has_been_named() {
    let mut turns = TurnsByCredential::default();
    (0..20).for_each(|n| turns.push(key(1), order(n)));
    (1000..1100).for_each(|n| turns.push(key(n), order(n)));
    assert_eq!(turns.most_before(key(1)), 20 * 101 - 1);
    turns.had_turn(key(1), order(0).0);
    turns.remove(key(1), order(0));
    turns.account_is_named(key(1));
    assert_eq!([1, 1000].map(|credential| turns.most_before(key(credential))), [37, 199]);
    let order = all(&mut turns);
    let of_named = order.iter().take(38).filter(|(credential, _)| *credential == 1).count();
    assert_eq!((of_named, order.len()), (19, 119), "every other one");
}

#[test]
fn a_client_that_waits_for_a_place_holds_no_other_credential_up() {
    let (mut turns, mut waits) = (TurnsByCredential::default(), QueueRank::default());
    waits.waits_for_place = true;
    turns.push(key(1), (waits, 0));
    for n in 1..4 {
        turns.push(key(2), order(n));
    }
    assert_eq!(all(&mut turns), [(2, 1), (2, 2), (2, 3), (1, 0)]);
}

/// The next one may lack a token of its account's rate, and one that has paid goes in its place.
#[test]
fn an_unknown_client_keeps_its_turn_while_known_ones_go_in_its_place() {
    let mut turns = TurnsByCredential::default();
    let unknown = (QueueRank::default().first_unknown(), 100);
    turns.push(key(1), unknown);
    (0..20).for_each(|n| turns.push(key(1), order(n)));
    for n in 0..12 {
        assert_eq!(turns.first(), Some((key(1), if n < 9 { order(n) } else { unknown })), "turn {n}");
        turns.had_turn(key(1), order(n).0);
        turns.remove(key(1), order(n));
    }
    turns.had_turn(key(1), unknown.0);
    turns.remove(key(1), unknown);
    assert_eq!(turns.first(), Some((key(1), order(12))));
}

proptest! {
    /// Where each client has a credential of its own, the order is that of the queue. Whoever goes or stays, each
    /// line is in the sequence once.
    #[test]
    fn credentials_of_one_client_each_go_in_the_order_of_the_queue(
        clients in prop::collection::vec((0u64..40, any::<bool>()), 1..60),
    ) {
        let (mut own, mut shared) = (TurnsByCredential::default(), TurnsByCredential::default());
        for (n, (credential, leaves)) in (0..).zip(&clients) {
            own.push(key(n), order(n));
            shared.push(key(*credential), order(n));
            if *leaves {
                shared.remove(key(*credential), order(n));
            }
            prop_assert_eq!(shared.sequences.iter().map(BTreeSet::len).sum::<usize>(), shared.lines.len());
        }
        prop_assert!(all(&mut own).iter().map(|(_, n)| *n).eq(0..clients.len() as u64));
        let stay = clients.iter().filter(|(_, leaves)| !leaves).count();
        prop_assert_eq!((all(&mut shared).len(), shared.len()), (stay, 0));
    }
}
