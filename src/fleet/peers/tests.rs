//! Tests of who lives, and of what is known of peers, whatever way their messages take.

use proptest::prelude::*;

use super::*;
use crate::fleet::key::{Keys, Kind};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn id(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

fn server() -> Key {
    Keys::of_fleet("edge").of(Kind::Server, "n1")
}

fn account(n: usize) -> Key {
    Keys::of_fleet("edge").of(Kind::Account, &n.to_string())
}

/// As a weir hears it that does not go by the bucket.
fn hear(peers: &mut Peers, now: Instant, beat: Beat) -> Result<Heard, Ignored> {
    peers.heard(now, beat, Vouch::Unknown)
}

fn beat(name: &str, run: u64, n: u64, held: u32) -> Beat {
    let one = ServerBeat { held, open: held, taken: held.into(), handshakes: 1, ..Default::default() };
    Beat { n, up_ms: 250 * n, sessions: held, servers: [(server(), one)].into(), ..Beat::new(id(name), run) }
}

fn holding(n: usize, held: u32) -> (Key, AccountBeat) {
    (account(n), AccountBeat { held, ..Default::default() })
}

#[test]
fn the_newest_beat_counts_whatever_comes_late_or_twice() {
    let (mut peers, now) = (Peers::new(id("a")), Instant::now());
    assert!(hear(&mut peers, now, beat("b", 1, 5, 10)).unwrap().is_new);
    assert_eq!(hear(&mut peers, now, beat("b", 1, 5, 10)).unwrap_err(), Ignored::Old);
    assert_eq!(hear(&mut peers, now, beat("b", 1, 4, 99)).unwrap_err(), Ignored::Old);
    assert!(!hear(&mut peers, now, beat("c", 1, 1, 3)).unwrap().beat.servers.is_empty());
    assert_eq!(peers.of_server(server()), ServerCounts { held: 13, open: 13, handshakes: 2, waiting: 0, peers: 2 });
    assert_eq!((peers.ignored(Ignored::Old), peers.weirs()), (2, 3));
}

#[test]
fn a_process_that_was_restarted_begins_anew_and_its_last_words_are_old() {
    let (mut peers, now) = (Peers::new(id("a")), Instant::now());
    hear(&mut peers, now, beat("b", 1, 900, 10)).unwrap();
    let heard = hear(&mut peers, now, beat("b", 2, 1, 0)).unwrap();
    assert_eq!((heard.ends.unwrap().run, heard.is_new), (1, false));
    assert_eq!(hear(&mut peers, now, beat("b", 1, 901, 10)).unwrap_err(), Ignored::Old);
    assert_eq!(peers.of_server(server()).held, 0);
}

#[test]
fn a_bye_is_believed_once_the_weir_is_gone() {
    let (mut peers, now) = (Peers::new(id("a")), Instant::now());
    hear(&mut peers, now, beat("b", 2, 1, 10)).unwrap();
    let bye = |run| Bye { id: id("b"), run };
    let late = now + ENDS_WITHIN;
    assert!(!peers.bye(now, &bye(1)), "of the process before");
    assert!(peers.bye(now, &bye(2)) && peers.get(&id("b")).unwrap().has_said_bye(now));
    assert_eq!(peers.of_server(server()).held, 10, "it may be forged");
    hear(&mut peers, now, beat("b", 2, 2, 10)).unwrap();
    assert!(peers.get(&id("b")).unwrap().has_said_bye(now), "a beat may have been on its way");
    assert!(!peers.get(&id("b")).unwrap().has_said_bye(late), "it was");
    assert!(peers.bye(late, &bye(2)));
    assert_eq!(peers.lost(late, &id("b"), 1), None, "another process was asked for");
    assert_eq!(peers.lost(late, &id("b"), 2), Some(Gone { has_said_bye: true, ..gone("b", 2) }));
    assert!(peers.is_empty());
}

fn gone(name: &str, run: u64) -> Gone {
    Gone { id: id(name), run, has_said_bye: false, counted: true }
}

#[test]
fn a_stranger_counts_for_nothing_and_takes_nobodys_place() {
    let (mut peers, now) = (Peers::new(id("m")), Instant::now());
    let counts = |peers: &Peers| (peers.weirs(), peers.position(), peers.of_server(server()).held);
    let accounts = |n: u64| Beat { accounts: [holding(1, 9)].into(), ..beat("w", 7, n, 10) };
    // A weir may be heard before its membership is seen.
    let heard = peers.heard(now, accounts(1), Vouch::Stranger).unwrap();
    assert!(!heard.counts && !heard.is_new && heard.accounts().next().is_none());
    assert_eq!((counts(&peers), peers.all().count(), peers.of_account(account(1)).held), ((1, 0, 0), 1, 0));
    let heard = peers.heard(now, accounts(2), Vouch::Member).unwrap();
    assert!(heard.counts && heard.is_new && heard.ends.is_none());
    assert_eq!((counts(&peers), peers.of_account(account(1)).held), ((2, 0, 10), 9));
    // Another process with its id is none, unless the bucket says so; and where there is no bucket nobody can tell.
    assert_eq!(peers.heard(now, beat("w", 8, 1, 99), Vouch::Stranger).unwrap_err(), Ignored::Stranger);
    let heard = peers.heard(now, beat("w", 8, 2, 1), Vouch::Member).unwrap();
    assert_eq!((heard.ends, counts(&peers)), (Some(gone("w", 7)), (2, 0, 1)));
    let heard = peers.heard(now, beat("w", 9, 1, 50), Vouch::Unknown).unwrap();
    assert_eq!((heard.ends, heard.counts), (Some(gone("w", 8)), true));
    let heard = peers.heard(now, beat("w", 8, 3, 1), Vouch::Member).unwrap();
    assert_eq!((heard.ends, counts(&peers)), (Some(gone("w", 9)), (2, 0, 1)), "it has its place again at once");
    // One that was made up before the bucket was there is found out.
    peers.heard(now, beat("ghost", 1, 1, 50), Vouch::Unknown).unwrap();
    assert_eq!(counts(&peers), (3, 1, 51));
    let heard = peers.heard(now, beat("ghost", 1, 2, 50), Vouch::Stranger).unwrap();
    assert_eq!((heard.ends, counts(&peers)), (Some(gone("ghost", 1)), (2, 0, 1)));
}

#[test]
fn what_a_weir_has_signed_takes_the_place_of_what_others_have_said_for_it() {
    let (mut peers, now) = (Peers::new(id("m")), Instant::now());
    // Before its key is known nobody can tell.
    peers.heard(now, beat("w", 7, 1 << 40, 99), Vouch::Unknown).unwrap();
    let heard = peers.heard(now, beat("w", 7, 2, 1), Vouch::Signed).unwrap();
    assert!(heard.counts && !heard.is_new && heard.ends.is_none());
    assert_eq!(peers.of_server(server()).held, 1);
    assert_eq!(peers.heard(now, beat("w", 7, 1 << 40, 99), Vouch::Forged).unwrap_err(), Ignored::Forged);
    assert_eq!(peers.heard(now, beat("w", 7, 2, 5), Vouch::Signed).unwrap_err(), Ignored::Old, "said once more");
    assert_eq!((peers.of_server(server()).held, peers.lost_beats()), (1, 0));
    peers.heard(now, Beat { n: u64::MAX, ..beat("u", 7, 1, 99) }, Vouch::Unknown).unwrap();
    assert!(peers.heard(now, beat("u", 7, 1, 0), Vouch::Signed).is_ok(), "no number is too high");
    // A stranger's number does not keep it out either.
    peers.heard(now, beat("v", 7, 1 << 40, 99), Vouch::Stranger).unwrap();
    assert!(peers.heard(now, beat("v", 7, 1, 2), Vouch::Signed).unwrap().is_new);
    assert_eq!(peers.of_server(server()).held, 3);
}

#[test]
fn what_a_weir_has_signed_that_is_gone_is_not_said_once_more() {
    let (mut peers, now) = (Peers::new(id("m")), Instant::now());
    let said: Vec<_> = (1..=5).map(|n| beat("w", 7, n, 10)).collect();
    said.iter().for_each(|beat| drop(peers.heard(now, beat.clone(), Vouch::Signed).unwrap()));
    assert_eq!(peers.lost(now, &id("w"), 7), Some(gone("w", 7)));
    for beat in said {
        assert_eq!(peers.heard(now, beat, Vouch::Signed).unwrap_err(), Ignored::Old);
    }
    // It was cut off from this weir only, and is heard again; a number that nobody has signed is not remembered.
    assert!(peers.heard(now, beat("w", 7, 6, 10), Vouch::Signed).unwrap().is_new);
    peers.heard(now, beat("v", 8, 1 << 40, 1), Vouch::Unknown).unwrap();
    peers.lost(now, &id("v"), 8);
    assert!(peers.heard(now, beat("v", 8, 2, 1), Vouch::Signed).unwrap().is_new);
}

#[test]
fn strangers_leave_room_for_members() {
    let (mut peers, now) = (Peers::new(id("m")), Instant::now());
    for n in 0..1000 {
        let heard = peers.heard(now, beat(&format!("ghost-{n}"), 1, 1, 1), Vouch::Stranger);
        assert_eq!(heard.is_ok(), n < MOST_STRANGERS);
    }
    for n in 0..MOST_PEERS {
        assert!(peers.heard(now, beat(&format!("weir-{n}"), 1, 1, 1), Vouch::Member).unwrap().is_new);
    }
    assert_eq!((peers.weirs() as usize, peers.all().count()), (MOST_PEERS + 1, MOST_PEERS + MOST_STRANGERS));
    assert!(peers.forget(now + ms(2000)).iter().filter(|gone| !gone.counted).count() == MOST_STRANGERS);
}

#[test]
fn a_weir_with_the_same_id_is_no_peer() {
    let (mut peers, now) = (Peers::new(id("a")), Instant::now());
    assert_eq!(hear(&mut peers, now, beat("a", 7, 1, 3)).unwrap_err(), Ignored::SameId);
    assert!(peers.is_empty());
}

#[test]
fn who_is_silent_is_forgotten() {
    let (mut peers, now) = (Peers::new(id("a")), Instant::now());
    hear(&mut peers, now, beat("b", 1, 1, 3)).unwrap();
    hear(&mut peers, now, Beat { every_ms: 20, ..beat("c", 1, 1, 3) }).unwrap();
    hear(&mut peers, now, Beat { every_ms: u32::MAX, ..beat("d", 1, 1, 3) }).unwrap();
    let silent = |peers: &mut Peers, after| {
        let gone = peers.forget(now + ms(after));
        gone.iter().map(|one| one.id.to_string()).collect::<Vec<_>>()
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(silent(&mut peers, 750), none);
    assert_eq!(silent(&mut peers, 751), ["c"]);
    assert_eq!(silent(&mut peers, 1000), none);
    assert_eq!(silent(&mut peers, 1001), ["b"]);
    assert_eq!(silent(&mut peers, 8_000), none);
    assert_eq!(silent(&mut peers, 8_001), ["d"], "nobody is remembered for ever by what it says itself");
    hear(&mut peers, now, beat("b", 1, 2, 3)).unwrap();
    assert_eq!(peers.lost(now, &id("b"), 1), Some(gone("b", 1)));
}

#[test]
fn positions_of_all_weirs_differ() {
    let names = ["a", "b", "c"];
    let positions = names.map(|own| {
        let mut peers = Peers::new(id(own));
        for other in names {
            let _ = hear(&mut peers, Instant::now(), beat(other, 1, 1, 0));
        }
        (peers.position(), peers.weirs())
    });
    assert_eq!(positions, [(0, 3), (1, 3), (2, 3)]);
}

#[test]
fn made_up_peers_and_accounts_are_bounded() {
    let (mut peers, now) = (Peers::new(id("a")), Instant::now());
    for n in 0..MOST_PEERS + 10 {
        assert_eq!(hear(&mut peers, now, beat(&format!("w{n}"), 1, 1, 1)).is_ok(), n < MOST_PEERS);
    }
    assert_eq!((peers.all().count(), peers.ignored(Ignored::TooMany)), (MOST_PEERS, 10));
    for n in 0..40 {
        for part in 0..40 {
            let accounts = (0..1000).map(|one| holding(100_000 * n + 1000 * part + one, 1)).collect();
            let beat = Beat { accounts, ..beat(&format!("w{n}"), 1, 2 + part as u64, 1) };
            hear(&mut peers, now, beat).unwrap();
        }
        if n == 5 {
            break;
        }
    }
    assert_eq!(peers.accounts, MOST_ACCOUNTS);
    peers.forget(now + ms(2000));
    assert_eq!((peers.accounts, peers.all().count()), (0, 0));
}

#[test]
fn accounts_are_put_together_and_a_loss_heals_with_the_next_span() {
    let (mut peers, now) = (Peers::new(id("a")), Instant::now());
    let mut n = 0;
    let mut says = |accounts: Vec<_>, all_of| {
        n += 1;
        hear(&mut peers, now, Beat { accounts: accounts.into_iter().collect(), all_of, ..beat("b", 1, n, 0) }).unwrap();
        [0, 1, 2].map(|one| peers.of_account(account(one)).held)
    };
    let all = Some((Key::LOWEST, Key::HIGHEST));
    assert_eq!(says(vec![holding(0, 4), holding(1, 5)], all), [4, 5, 0]);
    assert_eq!(says(vec![holding(1, 6), holding(2, 1)], None), [4, 6, 1]);
    assert_eq!(says(vec![holding(1, 0)], None), [4, 0, 1]);
    assert_eq!(says(vec![holding(2, 2)], Some((account(2), account(2)))), [4, 0, 2]);
    assert_eq!(says(vec![holding(2, 2)], all), [0, 0, 2], "the message that said so of the first was lost");
}

#[test]
fn what_a_peer_says_is_dated_and_its_arrivals_are_counted() {
    let (mut peers, start) = (Peers::new(id("a")), Instant::now() + ms(100_000));
    for n in 1..=20 {
        let late = if n == 20 { ms(200) } else { ms(1) };
        let beat = Beat { arrivals: 100 * n, ..beat("b", 1, n, 0) };
        let heard = hear(&mut peers, start + ms(250 * n) + late, beat).unwrap();
        assert_eq!(heard.of_server(server()).sent, start + ms(250 * n + 1));
        assert_eq!(heard.of_server(server()).began, start + ms(1));
    }
    let peer = peers.get(&id("b")).unwrap();
    assert_eq!(peer.lag(), ms(199));
    assert!((390.0..401.0).contains(&peer.arrivals_per_second()), "{}", peer.arrivals_per_second());
}

proptest! {
    #[test]
    fn at_the_end_the_last_beat_counts_in_whatever_order_they_come(
        order in Just((1..30u64).collect::<Vec<_>>()).prop_shuffle(),
        again in prop::collection::vec(1..30u64, 0..20),
    ) {
        let (mut peers, now) = (Peers::new(id("a")), Instant::now());
        for n in order.into_iter().chain(again) {
            let _ = hear(&mut peers, now, beat("b", 1, n, n as u32));
        }
        prop_assert_eq!(peers.of_server(server()).held, 29);
    }
}
