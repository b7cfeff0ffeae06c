//! The table of subscriptions beside a plain map, and what it takes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What a table says of each: subject and queue, messages delivered, maximum.
type Reference = BTreeMap<Vec<u8>, (Vec<u8>, u32, u32)>;

/// The sids of those that the server has confirmed.
type Confirmed = BTreeSet<Vec<u8>>;

#[derive(Debug, Clone)]
enum Step {
    Sub { sid: u8, subject: u8, queue: bool },
    Unsub { sid: u8, max: Option<u8> },
    Delivered { sid: u8, messages: u8 },
    Refused { subject: u8, queue: bool },
    Confirm,
    RefusedUnconfirmed,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..40u8, 0..5u8, any::<bool>()).prop_map(|(sid, subject, queue)| Step::Sub { sid, subject, queue }),
        2 => (0..40u8, proptest::option::of(0..6u8)).prop_map(|(sid, max)| Step::Unsub { sid, max }),
        4 => (0..40u8, 1..4u8).prop_map(|(sid, messages)| Step::Delivered { sid, messages }),
        1 => (0..5u8, any::<bool>()).prop_map(|(subject, queue)| Step::Refused { subject, queue }),
        1 => Just(Step::Confirm),
        1 => Just(Step::RefusedUnconfirmed),
    ]
}

fn texts(sid: u8, subject: u8, queue: bool) -> (String, String, Option<&'static str>) {
    // Of different lengths, so that texts move within the table.
    (format!("{sid}"), format!("s{}", ".x".repeat(subject.into())), queue.then_some("workers"))
}

fn apply(subs: &mut Subscriptions, (reference, confirmed): (&mut Reference, &mut Confirmed), step: &Step) {
    match *step {
        Step::Sub { sid, subject, queue } => {
            let (sid, subject, queue) = texts(sid, subject, queue);
            let rest = queue.map_or(subject.clone(), |queue| format!("{subject} {queue}"));
            subs.subscribe(format!("{rest} {sid}").as_bytes()).unwrap();
            reference.entry(sid.into()).or_insert((rest.into(), 0, 0));
        }
        Step::Unsub { sid, max } => {
            let max_text = max.map_or(String::new(), |max| format!(" {max}"));
            subs.unsubscribe(format!("{sid}{max_text}").as_bytes());
            let (key, max) = (sid.to_string().into_bytes(), u32::from(max.unwrap_or(0)));
            if let Some(one) = reference.get_mut(&key) {
                one.2 = max;
                if max <= one.1 {
                    reference.remove(&key);
                }
            }
        }
        Step::Delivered { sid, messages } => {
            let key = sid.to_string().into_bytes();
            subs.delivered(&key, messages.into());
            if let Some(one) = reference.get_mut(&key) {
                one.1 += u32::from(messages);
                if one.2 > 0 && one.1 >= one.2 {
                    reference.remove(&key);
                }
            }
        }
        Step::Refused { subject, queue } => {
            let (_, subject, queue) = texts(0, subject, queue);
            subs.refused(subject.as_bytes(), queue.map(str::as_bytes));
            let rest = queue.map_or(subject.clone(), |queue| format!("{subject} {queue}"));
            reference.retain(|_, one| one.0 != rest.as_bytes());
        }
        Step::Confirm => {
            subs.confirm();
            *confirmed = reference.keys().cloned().collect();
        }
        Step::RefusedUnconfirmed => {
            subs.end_unconfirmed();
            reference.retain(|sid, _| confirmed.contains(sid));
        }
    }
    // One that has ended is another one when it comes again.
    confirmed.retain(|sid| reference.contains_key(sid));
}

fn lines(subs: &Subscriptions) -> Vec<String> {
    let mut out = Vec::new();
    subs.write(&mut out);
    let mut lines: Vec<_> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn lines_of(reference: &Reference) -> Vec<String> {
    let mut lines = Vec::new();
    for (sid, (rest, delivered, max)) in reference {
        let (sid, rest) = (str::from_utf8(sid).unwrap(), str::from_utf8(rest).unwrap());
        lines.push(format!("SUB {rest} {sid}"));
        if *max > 0 {
            lines.push(format!("UNSUB {sid} {}", max - delivered));
        }
    }
    lines.sort();
    lines
}

proptest! {
    #[test]
    fn a_table_says_what_a_plain_map_says(steps in proptest::collection::vec(step(), 0..300)) {
        let (mut subs, mut reference) = (Subscriptions::new(usize::MAX), Reference::new());
        let mut confirmed = Confirmed::new();
        for step in &steps {
            apply(&mut subs, (&mut reference, &mut confirmed), step);
            prop_assert_eq!(subs.len(), reference.len());
        }
        prop_assert_eq!(lines(&subs), lines_of(&reference));
        let all: Vec<_> = subs.all().collect();
        let told = || all.iter().map(|(arguments, delivered, max)| (arguments.as_slice(), *delivered, *max));
        let restored = Subscriptions::restore(subs.bytes(), told()).unwrap();
        prop_assert_eq!(restored.all().collect::<Vec<_>>(), all.clone());
        prop_assert_eq!(lines(&restored), lines_of(&reference));
        if !all.is_empty() {
            prop_assert_eq!(Subscriptions::restore(10, told()).map(drop), Err(NotRestored::NoRoom));
            prop_assert_eq!(Subscriptions::restore(1 << 20, told().chain(told())).map(drop), Err(NotRestored::NotOne));
        }
        for sid in reference.keys() {
            subs.unsubscribe(sid);
        }
        prop_assert!(subs.is_empty());
        prop_assert_eq!(subs.bytes(), 0);
    }
}

#[test]
fn arguments_are_read_as_a_server_does() {
    let mut subs = Subscriptions::new(usize::MAX);
    for bad in ["", "foo", "foo q 1 more"] {
        assert_eq!(subs.subscribe(bad.as_bytes()), Ok(None), "{bad}");
    }
    for invalid in ["", ".a", "a.", "a..b", ">.a", "a.>.b", "."] {
        let expected = if invalid.is_empty() { None } else { Some(Subscribed::Invalid) };
        assert_eq!(subs.subscribe(format!("{invalid} 1").as_bytes()), Ok(expected), "{invalid}");
    }
    assert!(subs.is_empty());
    let of_older_process = [(&b"a..b 1"[..], 0, 0), (b"c 2", 0, 0)];
    let restored = Subscriptions::restore(usize::MAX, of_older_process.into_iter()).unwrap();
    assert_eq!(lines(&restored), ["SUB c 2"]);
    subs.subscribe(b"foo\t 1\r\n").unwrap();
    subs.subscribe(b"bar  workers   2 ").unwrap();
    assert_eq!(subs.subscribe(b"other..one 1"), Ok(Some(Subscribed::InUse)));
    assert_eq!(lines(&subs), ["SUB bar workers 2", "SUB foo 1"], "a sid that is in use stays what it is");
    subs.delivered(b"2", 3);
    subs.unsubscribe(b"2 5\r\n");
    assert_eq!(lines(&subs), ["SUB bar workers 2", "SUB foo 1", "UNSUB 2 2"]);
    subs.unsubscribe(b"2 3");
    subs.unsubscribe(b"1 x");
    assert!(subs.is_empty(), "it has had so many, and what is no number is no maximum");
}

#[test]
fn no_more_memory_is_used_than_allowed() {
    for most in [0, 200, 4 * 1024, 64 * 1024] {
        let mut subs = Subscriptions::new(most);
        let subscribe = |n: &u32| subs.subscribe(format!("orders.eu.{n:05}.created {n}").as_bytes()).is_ok();
        let fit = (0..10_000).take_while(subscribe).count();
        assert!(fit < 10_000 && (most < 64 * 1024 || fit >= 1000), "{fit} in {most} bytes");
    }
}

#[test]
fn who_subscribes_for_each_request_needs_no_more_memory_with_time() {
    let mut subs = Subscriptions::new(1024);
    subs.subscribe(b"_INBOX.all.> 0").unwrap();
    for n in 1..10_000 {
        subs.subscribe(format!("_INBOX.{n} {n}").as_bytes()).unwrap();
        if n > 4 {
            subs.unsubscribe((n - 4).to_string().as_bytes());
        }
    }
    assert_eq!(subs.len(), 5);
}

#[test]
fn the_newest_is_refused_first() {
    let mut subs = Subscriptions::new(usize::MAX);
    for sid in ["1", "2", "3", "4"] {
        assert_eq!(subs.subscribe(format!("a.*.>>.> {sid}").as_bytes()), Ok(Some(Subscribed::New)));
        if sid == "2" {
            subs.confirm();
        }
    }
    subs.end_newest_unconfirmed();
    assert_eq!(lines(&subs), ["1", "2", "3"].map(|sid| format!("SUB a.*.>>.> {sid}")));
    (0..3).for_each(|_| subs.end_newest_unconfirmed());
    assert_eq!(subs.len(), 2, "the server has confirmed them");
}
