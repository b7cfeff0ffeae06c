//! The model against the measurements: attempts before a client gives up, seconds until it is closed, first retries,
//! what each text does.

use super::*;
use crate::client_library::table::{ALL, C, DOTNET, GO, JAVA, JS, PYTHON, RUST};

const LONG: Duration = Duration::from_secs(3600);
const MS: Duration = Duration::from_millis(1);

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

/// The number of attempts, and the seconds from the lost connection until the client is closed for good, if every
/// attempt ends like this after `took`.
fn until_closed(library: &Library, ending: Ending, took: Duration) -> (u16, f64) {
    let (mut memory, mut rng) = (Memory::default(), rng());
    let mut at = library.dropped(&mut memory, 1, LONG, &mut rng);
    for attempt in 1..=500 {
        at += took;
        match library.failed(&mut memory, 1, ending, took, &mut rng) {
            Next::TryAfter(wait) => at += wait,
            Next::GivesUpAfter(wait) => return (attempt, (at + wait).as_secs_f64()),
        }
    }
    (u16::MAX, f64::INFINITY)
}

#[track_caller]
fn closed(library: &Library, ending: Ending, attempts: u16, seconds: f64) {
    let (tried, after) = until_closed(library, ending, MS);
    assert_eq!(tried, attempts, "{} {ending:?}", library.lang);
    assert!((after - seconds).abs() <= 0.02 * seconds + 0.6, "{} {ending:?}: {after} s, not {seconds}", library.lang);
}

#[test]
fn they_give_up_after_as_many_attempts_and_seconds_as_measured() {
    let refused = Ending::Refused;
    closed(&GO, Ending::BeforeInfo, 60, 123.0);
    closed(&GO, refused, 60, 123.0);
    // The measured client had been connected for one second only, so its first wait took 2 s more.
    closed(&PYTHON, Ending::BeforeInfo, 61, 120.0);
    closed(&PYTHON, refused, 61, 120.0);
    // 1 s and 2 s less than measured, for the same reason.
    closed(&JS, Ending::BeforeInfo, 10, 18.5);
    closed(&JS, refused, 10, 200.0);
    closed(&JS, Ending::Reset, 10, 200.0);
    closed(&JAVA, Ending::BeforeInfo, 60, 121.0);
    closed(&JAVA, refused, 60, 241.0);
    closed(&JAVA, Ending::Eof, 60, 241.0);
    closed(&C, refused, 60, 123.0);
    for library in [&RUST, &DOTNET] {
        assert_eq!(until_closed(library, refused, MS).0, u16::MAX, "{}", library.lang);
    }
}

#[test]
fn two_authorization_errors_close_some_libraries() {
    let violation = |library: &Library| library.refused_with("Authorization Violation");
    closed(&GO, violation(&GO), 2, 4.1);
    closed(&JS, violation(&JS), 2, 2.05);
    closed(&JAVA, violation(&JAVA), 2, 6.1);
    closed(&C, violation(&C), 2, 4.1);
    closed(&DOTNET, violation(&DOTNET), 2, 2.05);
    closed(&PYTHON, violation(&PYTHON), 61, 120.0);
    assert_eq!(until_closed(&RUST, violation(&RUST), MS).0, u16::MAX);
    // Only JavaScript takes the server's text for a slow login for an authorization error.
    assert!(ALL.iter().all(|l| l.auth_error("Authentication Timeout").is_some() == (l.lang == "nats.js")));
    for harmless in ["maximum connections exceeded", "maximum account active connections exceeded", "Stale Connection"]
    {
        assert!(ALL.iter().all(|l| l.auth_error(harmless).is_none()));
    }
}

#[test]
fn a_refusal_between_two_authorization_errors_saves_libraries_that_compare_with_the_last_error() {
    for (library, is_out) in [(&GO, true), (&JAVA, true), (&C, true), (&JS, false), (&DOTNET, false)] {
        let (mut memory, mut rng) = (Memory::default(), rng());
        let auth_error = library.refused_with("Authorization Violation");
        library.failed(&mut memory, 1, auth_error, MS, &mut rng);
        library.failed(&mut memory, 1, Ending::Refused, MS, &mut rng);
        let last = library.failed(&mut memory, 1, auth_error, MS, &mut rng);
        assert_eq!(matches!(last, Next::GivesUpAfter(_)), is_out, "{}", library.lang);
    }
}

#[test]
fn first_retry_after_a_drop() {
    for library in ALL {
        let first = library.dropped(&mut Memory::default(), 1, LONG, &mut rng());
        match library.lang {
            "go" | "C" => assert!(first >= 2000 * MS && first <= 2100 * MS, "{first:?}"),
            _ => assert_eq!(first, Duration::ZERO, "{}", library.lang),
        }
    }
    // After a connection that lived for one second.
    let soon = |library: &Library| library.dropped(&mut Memory::default(), 1, 1000 * MS, &mut rng());
    assert_eq!(soon(&PYTHON), 2000 * MS);
    assert!(soon(&JS) >= 1000 * MS && soon(&JS) <= 1100 * MS);
    // If each PONG is followed by an end of stream, these libraries reconnect in a hot loop.
    assert!([&RUST, &JAVA, &DOTNET].iter().all(|library| soon(library).is_zero()));
}

#[test]
fn rust_doubles_from_2_ms_to_4_s_without_jitter() {
    let (mut memory, mut rng) = (Memory::default(), rng());
    let waits: Vec<u128> = (0..14)
        .map(|_| match RUST.failed(&mut memory, 1, Ending::Refused, MS, &mut rng) {
            Next::TryAfter(wait) => wait.as_millis(),
            Next::GivesUpAfter(_) => panic!("it never gives up"),
        })
        .collect();
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4000, 4000, 4000]);
    RUST.connected(&mut memory);
    assert_eq!(RUST.dropped(&mut memory, 1, MS, &mut rng), Duration::ZERO);
}

#[test]
fn distances_between_attempts_that_time_out() {
    for (library, seconds) in [(&GO, 4.05), (&PYTHON, 4.0), (&JS, 20.0), (&JAVA, 4.05)] {
        let took = library.deadline.step();
        let mut memory = Memory::default();
        let Next::TryAfter(wait) = library.failed(&mut memory, 1, Ending::TimedOut, took, &mut rng()) else { panic!() };
        assert!(((took + wait).as_secs_f64() - seconds).abs() <= 0.06, "{}: {wait:?}", library.lang);
    }
}

#[test]
fn python_takes_an_end_for_success_and_never_gives_up_on_it() {
    assert_eq!(until_closed(&PYTHON, Ending::Eof, MS).0, u16::MAX);
    assert_eq!(until_closed(&PYTHON, Ending::Reset, MS).0, 61);
}

#[test]
fn a_longer_list_is_gone_through_before_a_sleep() {
    let sleeps = |library: &Library| {
        let (mut memory, mut rng) = (Memory::default(), rng());
        let mut all = vec![library.dropped(&mut memory, 3, LONG, &mut rng)];
        for _ in 0..5 {
            let Next::TryAfter(wait) = library.failed(&mut memory, 3, Ending::BeforeInfo, MS, &mut rng) else {
                panic!()
            };
            all.push(wait);
        }
        all.iter().map(|wait| *wait > 1000 * MS).collect::<Vec<_>>()
    };
    assert_eq!(sleeps(&GO), [false, false, true, false, false, true]);
    assert_eq!(sleeps(&JAVA), [false, false, false, true, false, false]);
    // Three servers have three budgets of 60 attempts.
    let (mut memory, mut rng) = (Memory::default(), rng());
    let tries = 1
        + (0..1000)
            .take_while(|_| matches!(GO.failed(&mut memory, 3, Ending::BeforeInfo, MS, &mut rng), Next::TryAfter(_)))
            .count();
    assert_eq!(tries, 180);
}

#[test]
fn what_an_established_client_does_with_a_text() {
    use Reaction::{Closes, Reconnects, Waits};
    let table = [
        ("Stale Connection", [Reconnects, Waits, Reconnects, Waits, Waits, Reconnects, Waits]),
        ("maximum connections exceeded", [Reconnects, Waits, Closes, Waits, Waits, Closes, Waits]),
        ("maximum account active connections exceeded", [Reconnects, Waits, Closes, Waits, Waits, Closes, Waits]),
        ("Authorization Violation", [Waits, Waits, Closes, Reconnects, Waits, Waits, Waits]),
        ("Authentication Timeout", [Closes, Waits, Closes, Reconnects, Waits, Closes, Waits]),
        ("Server Shutdown", [Closes, Waits, Closes, Waits, Waits, Closes, Waits]),
        ("Permissions Violation for Publish to \"x\"", [Waits; 7]),
    ];
    for (text, reactions) in table {
        for (library, expected) in ALL.iter().zip(reactions) {
            assert_eq!(library.reaction_to(&mut Memory::default(), text), expected, "{} {text}", library.lang);
        }
    }
}

/// The schedule that admission relies on is what the modelled client does.
#[test]
fn a_refused_client_comes_back_as_its_schedule_says() {
    use crate::client_library::returns::Return;
    for library in ALL {
        let (mut memory, mut rng) = (Memory::default(), rng());
        library.dropped(&mut memory, 1, LONG, &mut rng);
        for refusals in 0..6 {
            // Refused one second after the attempt began.
            let Next::TryAfter(wait) = library.failed(&mut memory, 1, Ending::Refused, 1000 * MS, &mut rng) else {
                panic!("{} gives up", library.lang);
            };
            let known = match (library.returns(), refusals) {
                (Return::After(wait), _) => wait,
                (Return::Doubling { first, cap }, n) => (first * 2u32.pow(n)).min(cap),
                (Return::Regardless, _) => {
                    let later = library.failed(&mut memory.clone(), 1, Ending::Refused, 500 * MS, &mut rng);
                    assert!(matches!(later, Next::TryAfter(longer) if longer > wait + 350 * MS), "{}", library.lang);
                    continue;
                }
                (Return::Unknown, _) => panic!("{} has no schedule", library.lang),
            };
            assert!(wait >= known && wait <= known + 100 * MS, "{}: {wait:?}, not {known:?}", library.lang);
        }
    }
}

#[test]
fn every_library_is_found_by_its_lang() {
    use crate::client_library::table::by_lang;
    assert!(ALL.iter().all(|library| by_lang(library.lang) == Some(*library)));
    assert!(["nats.ws", "nats.deno"].iter().all(|lang| by_lang(lang) == Some(&JS)));
    assert!(["", "GO", "c", "dotnet", "newlang"].iter().all(|lang| by_lang(lang).is_none()));
}
