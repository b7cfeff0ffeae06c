//! Two servers that deliver to one client, in virtual time.

#![expect(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "small numbers of the test's own")]

use super::*;

const ALL: Option<Receives> = Some(Receives::All);

/// A client that gets what two servers deliver, at virtual times.
struct Client {
    overlap: Overlap,
    began: Instant,
    had: Vec<String>,
}

impl Client {
    fn new() -> Self {
        let began = Instant::now();
        let mut overlap = Overlap::new(None);
        overlap.subscribes(began);
        Self { overlap, began, had: Vec::new() }
    }

    fn at(&self, ms: u64) -> Instant {
        self.began + Duration::from_millis(ms)
    }

    /// The new server has answered what it was asked a moment ago, and takes no longer than a second for copies.
    fn before(&self, ms: u64) -> Instant {
        self.at(ms).checked_sub(Duration::from_secs(1)).unwrap()
    }

    fn old(&mut self, ms: u64, message: &str) {
        let now = self.at(ms);
        self.overlap.old_delivers(b"1", Some(message.as_bytes()), now);
        self.had.push(message.to_owned());
    }

    fn new_server(&mut self, ms: u64, message: &str) {
        let now = self.at(ms);
        match self.overlap.is_switched() {
            true if self.overlap.is_over(now) || !self.overlap.is_leftover(message.as_bytes(), now) => {
                self.had.push(message.to_owned());
            }
            true => {}
            false => {
                assert!(!self.overlap.new_delivers(b"1", message.as_bytes(), ALL, now));
                self.overlap.is_even(Some(self.before(ms)), now);
            }
        }
    }

    fn switch(&mut self, ms: u64) {
        let now = self.at(ms);
        self.overlap.is_even(Some(self.before(ms)), now);
        let kept = self.overlap.switch(now);
        self.had.extend(kept.map(|message| String::from_utf8(message.into()).unwrap()));
    }
}

#[test]
fn each_message_comes_once_whichever_server_is_faster() {
    let mut client = Client::new();
    client.old(0, "before");
    client.old(100, "a");
    client.new_server(110, "a");
    client.new_server(200, "b");
    client.new_server(210, "c");
    client.old(220, "b");
    client.old(1300, "d");
    client.switch(1400);
    assert_eq!(client.had, ["before", "a", "b", "d", "c"], "what only the new one had follows");
    client.new_server(1410, "d");
    client.new_server(1420, "e");
    client.new_server(1430, "d");
    assert_eq!(client.had[5..], ["e", "d"], "the copy of what the old one had is dropped once");
}

#[test]
fn what_looks_the_same_is_counted_and_what_came_before_matches_nothing() {
    let mut client = Client::new();
    (0..5).for_each(|n| client.old(n, "tick"));
    client.old(100, "tick");
    client.new_server(101, "tick");
    client.new_server(1500, "other");
    client.old(1501, "other");
    client.switch(1600);
    assert_eq!(client.had.len(), 7);
    // It is none of the first five.
    client.new_server(1700, "tick");
    assert_eq!((client.had.len(), client.had.last().unwrap().as_str()), (8, "tick"));
    assert!(client.overlap.is_over(client.at(1700)));
}

#[test]
fn copies_of_a_server_that_stood_still_are_no_messages() {
    let mut client = Client::new();
    client.old(100, "a");
    client.overlap.is_even(None, client.at(4000));
    assert_eq!(client.overlap.switch(client.at(4000)).count(), 0);
    client.new_server(9000, "a");
    assert_eq!(client.had, ["a"], "it has answered nothing since the switch");
    client.old(9000, "b");
    client.overlap = Overlap::new(None);
    client.overlap.old_delivers(b"1", Some(b"b"), client.at(9000));
    assert_eq!(client.overlap.switch(client.at(9010)).count(), 0);
    client.overlap.present_answers(client.at(12_000));
    assert!(!client.overlap.is_over(client.at(14_000)) && client.overlap.is_over(client.at(14_001)));
    client.new_server(14_001, "b");
    assert_eq!(client.had, ["a", "b", "b"], "a message that looks the same");
}

#[test]
fn a_copy_that_comes_while_the_session_goes_on_to_a_third_server_is_one() {
    let (mut overlap, now) = (Overlap::new(None), Instant::now());
    overlap.subscribes(now);
    overlap.old_delivers(b"1", Some(b"a"), now);
    assert_eq!(overlap.switch(now).count(), 0);
    let mut overlap = overlap.again(None);
    assert!(!overlap.is_switched() && !overlap.is_over(now));
    assert!(overlap.is_leftover(b"a", now) && !overlap.is_leftover(b"a", now));
}

#[test]
fn members_of_a_queue_get_theirs_at_once_and_who_has_left_nothing() {
    let (mut overlap, now) = (Overlap::new(None), Instant::now());
    assert!(overlap.new_delivers(b"2", b"job", Some(Receives::ShareOfQueue), now));
    assert!(!overlap.new_delivers(b"3", b"late", None, now));
    assert_eq!(overlap.switch(Instant::now()).count(), 0);
    assert_eq!((overlap.not_counted(b"2"), overlap.not_counted(b"3"), overlap.not_counted(b"4")), (1, 1, 0));
}

#[test]
fn what_is_too_much_ends_it() {
    let now = Instant::now();
    let mut long = Overlap::new(None);
    long.old_delivers(b"1", None, now);
    assert!(long.too_much().is_some());
    let mut kept = Overlap::new(None);
    for n in 0..4 {
        assert_eq!(kept.too_much(), None);
        kept.new_delivers(b"1", &[n; 1024 * 1024], ALL, now);
    }
    assert!(kept.too_much().is_some());
    kept.old_delivers(b"1", Some(&[1; 1024 * 1024]), now);
    assert_eq!(kept.too_much(), None, "what is matched takes no memory");
    let mut ahead = Overlap::new(None);
    ahead.subscribes(now);
    (0..=MOST_AHEAD).for_each(|n| ahead.old_delivers(b"1", Some(&n.to_le_bytes()), now));
    assert!(ahead.too_much().is_some());
    ahead.is_even(Some(now + Duration::from_nanos(1)), now);
    assert_eq!(ahead.too_much(), None);
}

/// Publishers, each of whose messages take some time to each of the servers, in order. The old one has the
/// subscription from the beginning to its end, or since the publisher's server knows of it; the new one has what
/// comes to it behind the subscription, or, where nobody else there has subscribed, what was published since the
/// publisher's server knows of it.
#[test]
fn no_message_is_lost_doubled_or_out_of_its_publishers_order() {
    for seed in 0..3000 {
        play(seed);
    }
}

fn play(seed: u64) {
    const SUBSCRIBED: u64 = 700;
    let rng = &mut fastrand::Rng::with_seed(seed);
    // The old server stops at least 1.5 s after the new one has the subscription.
    let end = SUBSCRIBED + 1500 + rng.u64(..500);
    let (mut sent, mut events) = (vec![Vec::new(); 3], Vec::new());
    // When the client has subscribed, where that is not long ago.
    let made = rng.bool().then(|| rng.u64(..SUBSCRIBED));
    let mut first_of_old = [usize::MAX; 3];
    for (publisher, sent) in sent.iter_mut().enumerate() {
        let is_first_there = rng.bool();
        let knows_new = SUBSCRIBED + rng.u64(..400);
        let knows_old = made.map_or(0, |made| made + rng.u64(..400));
        // What looks the same comes at times that are further apart than copies are.
        let repeats = rng.bool();
        let longest = rng.u64(1..if repeats { 20 } else { 300 });
        let (mut at, mut last) = (rng.u64(..100), [0, 0]);
        while at < end + 1500 {
            let message = match repeats {
                true => format!("{publisher} the same"),
                false => format!("{publisher} {at}"),
            };
            sent.push(message.clone());
            for server in [0, 1] {
                last[server] = last[server].max(at + rng.u64(..longest));
                let has_it = match server {
                    0 => at < end && at >= knows_old,
                    _ if is_first_there => at >= knows_new,
                    _ => last[server] >= SUBSCRIBED,
                };
                if has_it && server == 0 {
                    first_of_old[publisher] = first_of_old[publisher].min(sent.len() - 1);
                }
                if has_it {
                    events.push((last[server], server, message.clone()));
                }
            }
            at += if repeats { rng.u64(2 * longest + 1..100) } else { rng.u64(1..80) };
        }
    }
    // The end of the old server's deliveries is known once all of them are there.
    let switch = events.iter().filter(|one| one.1 == 0).map(|one| one.0).max().unwrap_or(end).max(end);
    events.sort_by_key(|one| one.0);
    assert_eq!(Duration::from_millis(300), REMEMBERS_BEFORE);
    let remembers_from = SUBSCRIBED - 300;
    let mut client = Client::new();
    client.overlap = Overlap::new(made.map(|made| client.at(made)));
    let mut is_switched = false;
    for (at, server, message) in events {
        if at >= SUBSCRIBED && client.overlap.last_sub.is_none() {
            let now = client.at(SUBSCRIBED);
            client.overlap.subscribes(now);
        }
        if !is_switched && at > switch {
            client.switch(switch);
            is_switched = true;
        }
        match server {
            0 if at < remembers_from => client.had.push(message),
            0 => client.old(at, &message),
            _ => client.new_server(at, &message),
        }
    }
    if !is_switched {
        client.switch(switch);
    }
    for (publisher, (sent, first)) in sent.iter().zip(first_of_old).enumerate() {
        let mine = |one: &&String| one.starts_with(&format!("{publisher} "));
        let had: Vec<_> = client.had.iter().filter(mine).cloned().collect();
        // What only the new server may have had before may come too, but in order.
        let about = format!("seed {seed}, publisher {publisher}: {} from {first}", sent[0]);
        assert!(sent.ends_with(&had) && had.len() >= sent.len() - first, "{about}: {} of {}", had.len(), sent.len());
    }
}
