//! What a process recalls from which another one took over: as a whole, with its text.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::plan_agreement;
use crate::{
    admission::{Login, LoginTry},
    identity::{ClientKey, Credential, Keys},
    session::{
        remembered::{NotRemembered, Remembered},
        shared::Shared,
    },
    upstream::{Drained, Placement, Port, Urgency, concurrency::login_speed::ComparedLogin},
};

/// A process whose keys are those of `keys`.
fn process(keys: &Keys) -> Arc<Shared> {
    let mut shared = plan_agreement::shared(&plan_agreement::config(None));
    Arc::get_mut(&mut shared).unwrap().keys = Arc::new(Keys::with_secret(keys.secret()));
    shared
}

fn source(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n))
}

/// So many clients have been in, and half of them are refused now.
fn after_clients(shared: &Shared, clients: u32, now: Instant) -> Vec<Login> {
    let server = shared.servers.iter().next().unwrap().id();
    let login = |n: u32| {
        let key = shared.keys.credential(Credential::User(&format!("user-{n}")));
        let login = Login { client: shared.keys.client(source(n), key, Some("client")), key };
        shared.directory.learn(key, &format!("ACCOUNT-{}", n % 100).into(), now);
        shared.admission.source_reputation().succeeded(source(n), key);
        shared.admission.login_history().succeeded(login, server, false, now);
        let _ = shared.admission.accounts().of_name(&format!("ACCOUNT-{}", n % 100), now);
        if n.is_multiple_of(2) {
            shared.admission.client_history().refused(login.client, now);
        }
        login
    };
    (0..clients).map(login).collect()
}

#[test]
fn another_process_knows_what_this_one_knew() {
    let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
    let old = process(&Keys::default());
    let logins = after_clients(&old, 1000, now);
    old.next_id.store(4711, Relaxed);
    old.admission.kicked().keep_away(logins[3].client, now + Duration::from_secs(60));
    old.admission.pause();
    let bad = source(5000);
    (0..200).for_each(|n| old.admission.source_reputation().failed(bad, logins[n].key, LoginTry::default(), now));
    let [drained, down, up] = [0, 1, 2].map(|n| old.servers.iter().nth(n).unwrap());
    assert!(matches!(old.servers.drain(drained.id()), Drained::Done(_)));
    assert!(down.dial_failed(Port::Client, now, &mut rng).is_some());
    for n in 0..50 {
        let tried = [drained.id(), down.id()];
        let Placement::Placed(_slot) = old.servers.place(now, &tried, Urgency::Urgent, &mut rng) else { continue };
        let login = ComparedLogin::uncompared(Duration::from_millis(5));
        up.handshake_finished(now + Duration::from_millis(n), login, Duration::from_millis(8));
    }

    let text = old.remembered(now).to_json().unwrap();
    let (new, there) = (process(&old.keys), Instant::now());
    assert!(new.recall(Remembered::from_json(&text).unwrap(), there));
    assert_eq!(new.next_id.load(Relaxed), 4711);
    assert!(new.admission.is_paused());
    let reputation = new.admission.source_reputation();
    assert!(reputation.is_damped(bad, there) && !reputation.is_damped(source(1), there));
    for (n, login) in logins.iter().enumerate() {
        assert_eq!(new.directory.learned(login.key), old.directory.learned(login.key));
        assert!(new.admission.login_history().is_good(login.key));
        assert_eq!(new.admission.client_history().refusals(login.client), u32::from(n % 2 == 0));
        assert_eq!(new.admission.kicked().is_kept_away(login.client, there), n == 3);
    }
    let [is_drained, is_down, is_up] = [0, 1, 2].map(|n| new.servers.iter().nth(n).unwrap());
    assert!(is_drained.is_draining() && !is_down.is_draining());
    assert!(is_down.is_ejected() && !is_up.is_ejected());
    assert_eq!((is_up.has_logged_in_any(), is_up.overdue_after()), (true, up.overdue_after()));
    assert!(is_up.view(there).handshake_limit > 1);
    assert_eq!(is_up.view(there).handshake_limit, up.view(now).handshake_limit);
    // And a third one knows no less of the second than that one did of the first.
    assert_eq!(new.remembered(there).learned_accounts(), 1000);
}

#[test]
fn a_process_with_another_secret_takes_nothing_by_keys() {
    let (now, old) = (Instant::now(), process(&Keys::default()));
    let logins = after_clients(&old, 10, now);
    old.admission.pause();
    let new = process(&Keys::default());
    assert!(!new.recall(old.remembered(now), now));
    assert!(new.admission.is_paused() && !new.directory.has_learned(logins[0].key));
    assert!(!new.admission.login_history().is_good(logins[0].key));
    assert_eq!(new.admission.client_history().refusals(logins[0].client), 0);
}

#[test]
fn no_credential_and_no_secret_is_in_the_text() {
    let (now, shared) = (Instant::now(), process(&Keys::default()));
    after_clients(&shared, 100, now);
    let text = String::from_utf8(shared.remembered(now).to_json().unwrap()).unwrap();
    assert!(text.contains("ACCOUNT-7") && !text.contains("user-") && !text.contains("client\""));
}

#[test]
fn a_text_of_another_build_says_what_is_understood() {
    let (now, shared) = (Instant::now(), process(&Keys::default()));
    for nothing in ["{}", r#"{"servers":7,"admission":[],"learned":null,"next_id":-1,"is_new":{"a":[1]}}"#] {
        assert_eq!(Remembered::from_json(nothing.as_bytes()).unwrap(), Remembered::default());
    }
    for none in ["", "7", "{", "\u{0}"] {
        assert!(matches!(Remembered::from_json(none.as_bytes()), Err(NotRemembered::Json(_))), "{none}");
    }
    let text = r#"{"admission":{"is_paused":true,"clients":[{"key":"no number"}],"rate":{"rate":null}}}"#;
    shared.recall(Remembered::from_json(text.as_bytes()).unwrap(), now);
    assert!(shared.admission.is_paused(), "the rest of what is not understood counts");
    let long = vec![b' '; crate::session::remembered::MOST_BYTES + 1];
    assert!(matches!(Remembered::from_json(&long), Err(NotRemembered::TooLong(_))));
}

/// Numbers and words in place of others.
fn spoiled(text: &str, seed: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    let made_up = [
        "0",
        "18446744073709551615",
        "1e308",
        "-1e308",
        "0.5",
        "-1",
        "null",
        "true",
        "[]",
        "{}",
        "4294967295",
        "\"x\"",
    ];
    let mut spoiled = String::new();
    for part in text.split_inclusive([':', ',', '[']) {
        let is_number = part.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        if is_number && rng.u8(0..8) == 0 {
            let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || "-+.eE".contains(c));
            spoiled += rng.choice(made_up).unwrap();
            spoiled += rest;
        } else {
            spoiled += part;
        }
    }
    spoiled
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever the text says, weir goes on: nothing panics when it is recalled, nor in what follows.
    #[test]
    fn a_text_that_is_made_up_ends_no_process(seed in any::<u64>()) {
        let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(seed));
        let old = process(&Keys::default());
        let logins = after_clients(&old, 20, now);
        old.admission.kicked().keep_away(logins[3].client, now + Duration::from_secs(60));
        for server in old.servers.iter() {
            server.dial_failed(Port::Client, now, &mut rng);
            server.login_failed(now, &mut rng);
            let login = ComparedLogin::uncompared(Duration::from_millis(5));
            server.handshake_finished(now, login, Duration::from_millis(8));
        }
        let text = String::from_utf8(old.remembered(now).to_json().unwrap()).unwrap();
        let new = process(&old.keys);
        if let Ok(remembered) = Remembered::from_json(spoiled(&text, seed).as_bytes()) {
            new.recall(remembered, now);
            for later in [0, 1, 1000, 100_000].map(|ms| now + Duration::from_millis(ms)) {
                new.admission.sweep(later);
                for login in &logins {
                    new.admission.client_history().refused(login.client, later);
                    let _ = new.admission.client_history().seniority(ClientKey::from_raw(1), later);
                }
                for server in new.servers.iter() {
                    let _ = (server.view(later), server.overdue_after(), server.logins_per_second());
                    server.dial_failed(Port::Client, later, &mut rng);
                    server.login_failed(later, &mut rng);
                    server.dial_answered();
                    let login = ComparedLogin::uncompared(Duration::from_millis(5));
                    server.handshake_finished(later, login, Duration::from_millis(8));
                }
                let _ = new.admission.session_lost(later, &mut rng);
                let _ = new.remembered(later).to_json().unwrap();
            }
        }
    }
}

/// What it costs. It asserts no time: `cargo test --release` shows it.
#[test]
fn the_text_has_some_hundred_bytes_for_each_client() {
    for clients in [10_000, 100_000] {
        let (now, old) = (Instant::now(), process(&Keys::default()));
        after_clients(&old, clients, now);
        let began = Instant::now();
        let refused = old.admission.client_history().remembered(now).len();
        let of_one_table = began.elapsed();
        println!("{refused} refused clients are copied in {of_one_table:?}, one shard after another");
        let began = Instant::now();
        let remembered = old.remembered(now);
        let collected = began.elapsed();
        let text = remembered.to_json().unwrap();
        let written = began.elapsed();
        let new = process(&old.keys);
        let began = Instant::now();
        let read = Remembered::from_json(&text).unwrap();
        let parsed = began.elapsed();
        new.recall(read, now);
        let recalled = began.elapsed();
        println!(
            "{clients} clients: {} bytes, {} for each; collected in {collected:?}, written in {written:?}, read in {parsed:?}, recalled in {recalled:?}",
            text.len(),
            text.len() / clients as usize,
        );
        assert!(text.len() < 300 * clients as usize);
    }
}
