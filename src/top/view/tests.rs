//! Lines as they are printed.

use super::*;
use crate::overview::{
    Clients, Health, History, LargeSource, Leaks, Moves, Overview, Process, Refusals, Server, Source, Storm, Storms,
};
use crate::rebalance::under_way::{Emptied, UnderWay};
use crate::reports::answer::{GroupKind, Growing, Rate, RefusedClient, TimeLeft};

/// A weir in a storm, with a server that is down.
pub fn storm() -> Watched {
    let server = |name: &str, state: &str, why: Option<&str>, sessions| Server {
        name: name.into(),
        state: state.into(),
        why: why.map(Into::into),
        sessions,
        others: 20,
        connections: sessions + 20,
        max_connections: Some(800),
        limit_known: true,
        reserve: 40,
        handshakes: 1,
        handshake_limit: 4,
        reading_age_seconds: Some(0.3),
        ..Server::default()
    };
    let account = |name: &str, connections, max_connections, refused| Account {
        name: name.into(),
        connections,
        max_connections,
        refused,
        ..Account::default()
    };
    let storm =
        Storm { began_unix_ms: 1_000_000, goes_on: true, seconds: 4, arrived: 868, refused: 496, ..Storm::default() };
    let overview = Overview {
        now_unix_ms: 1_004_000,
        weir: Process { version: "1.2.3".into(), started_unix_ms: 7, uptime_seconds: 61.0, ..Process::default() },
        health: Health { status: "ok".into(), error: None },
        clients: Clients { sessions: 1234, waiting: 224, pace: Some(39.0), headroom: Some(901), ..Clients::default() },
        servers: vec![
            server("nats-0", "up", None, 700),
            server("nats-1", "ejected", Some("it does not answer; one client tries it again in 0.8 s"), 0),
        ],
        warnings: vec![Warning {
            of: "account".into(),
            name: "ORDERS".into(),
            connections: 758,
            max_connections: 900,
            level: "warn_at".into(),
            growth: Some(Rate { per_minute: 68.0, error: 1.0, over_seconds: 300, confidence: Confidence::High }),
            full: Some(TimeLeft { seconds: 125, earliest: 120, latest: 130 }),
        }],
        refusals: vec![Refusals {
            reason: "hold_expired".into(),
            advice: "more clients come than servers log in".into(),
            last_minute: 468,
            last_ten_minutes: 468,
            total: 566,
        }],
        accounts: vec![
            account("ORDERS", 758, Some(900), 5),
            account("BATCH", 60, Some(60), 37),
            account("a\u{1b}[31m\nb", 25, None, 0),
        ],
        accounts_in_use: 3,
        sources: vec![Source { source: "192.0.2.7".into(), bad_logins: 9 }],
        largest_sources: vec![LargeSource { source: "192.0.2.8".into(), sessions: 1200 }],
        leaks: Leaks {
            sessions: 1234,
            idle_sessions: 40,
            idle_after_seconds: 600,
            unnamed_sessions: 7,
            growing: vec![Growing {
                by: GroupKind::Name,
                account: "ORDERS".into(),
                group: "bil\u{1b}[31mling".into(),
                connections: 151,
                idle: 0,
                grown: 45,
                over_seconds: 45,
                per_minute: 60.0,
                confidence: Confidence::Low,
            }],
        },
        refused_clients: vec![RefusedClient {
            reason: "account_quota".into(),
            account: "BATCH".into(),
            user: "app".into(),
            name: "nightly".into(),
            source: "192.0.2.9".into(),
            count: 37,
            minutes_ago: 0,
        }],
        history: History { arrived: vec![0, 10, 80], refused: vec![0, 0, 50], ..History::default() },
        storms: Storms { running: Some(storm), over: Vec::new() },
        moves: Moves {
            under_way: UnderWay {
                emptied: vec![Emptied { server: "nats-2".into(), sessions: 9, left: 4, ..Emptied::default() }],
                ..UnderWay::default()
            },
            ..Moves::default()
        },
        ..Overview::default()
    };
    let mut watched = Watched::new("127.0.0.1:8222".into());
    watched.take(overview);
    watched
}

fn text(watched: &Watched, choices: &Choices, width: usize) -> Vec<String> {
    let line = |line: Line<'_>| line.spans.iter().map(|span| &*span.content).collect::<String>();
    lines(watched, choices, width).into_iter().map(line).collect()
}

fn line_of(lines: &[String], word: &str) -> String {
    lines.iter().find(|line| line.contains(word)).unwrap_or_else(|| panic!("no {word} in {lines:#?}")).clone()
}

/// A part of no limit is no reserve that could be drawn.
#[test]
fn a_server_without_a_limit_has_no_reserve() {
    let mut watched = storm();
    for limit_known in [true, false] {
        for one in &mut watched.overview.servers {
            (one.max_connections, one.limit_known, one.reserve) = (None, limit_known, 85_899_346);
        }
        let lines = text(&watched, &Choices::default(), 120);
        assert!(line_of(&lines, "nats-0").contains('█'), "{lines:#?}");
        // The one that has fewer connections.
        assert!(!line_of(&lines, "nats-1").contains('░'), "{lines:#?}");
    }
}

#[test]
fn a_frame_says_what_is_the_matter() {
    let lines = text(&storm(), &Choices::default(), 120);
    let head = line_of(&lines, "weir 1.2.3");
    assert!(head.contains("in a storm  up 1 min 01 s") && head.ends_with("127.0.0.1:8222  00:16:44 UTC "), "{head}");
    let refused = line_of(&lines, "refused ");
    assert!(refused.contains("17/s  50 in the last minute") && refused.ends_with("  █"), "{refused}");
    assert!(line_of(&lines, "nearly full").ends_with("account ORDERS is nearly full: 758 of 900, full in 2 min 05 s"));
    assert!(line_of(&lines, "waiting ").contains("224  pace 39/s"));
    let up = line_of(&lines, "nats-0");
    assert!(up.contains("720 of 800  90 %") && up.contains("logins 1 of 4") && up.contains("read 0.3 s ago"), "{up}");
    assert!(up.contains("███▒") && up.contains('░'), "{up}");
    assert!(line_of(&lines, "nats-1").contains("down"));
    assert!(line_of(&lines, "does not answer").starts_with("   it does not answer; one client tries"));
    assert!(line_of(&lines, "hold_expired").contains("468       468         566  more clients come"));
    let names = [" ORDERS  ", " BATCH  "].map(|name| lines.iter().position(|line| line.contains(name)).unwrap());
    assert!(names[0] < names[1]);
    assert!(line_of(&lines, " BATCH  ").contains("60        60 100 %          37"));
    assert!(line_of(&lines, "00:16:40").contains("goes on"));
    let who = line_of(&lines, "nightly");
    assert!(who.ends_with("37  account BATCH, user app, name nightly, source 192.0.2.9"), "{who}");
    assert!(line_of(&lines, "192.0.2.8").ends_with("1,200") && line_of(&lines, "192.0.2.7").ends_with(" 9"));
    assert!(line_of(&lines, " Leaks").ends_with("40 sessions idle for 10 min 00 s, 7 without a name"));
    let leak = line_of(&lines, "of ORDERS");
    assert!(leak.contains("151        0       +60.0  low"), "{leak}");
    assert!(line_of(&lines, "nats-2").starts_with(" emptying nats-2"));
    // What others have written changes no terminal.
    assert!(!lines.concat().chars().any(char::is_control));
    assert!(lines.iter().all(|line| line.chars().count() <= 120), "{lines:#?}");
}

#[test]
fn accounts_are_sorted_as_chosen() {
    let (watched, mut choices) = (storm(), Choices::default());
    let mut firsts = Vec::new();
    for _ in 0..4 {
        let lines = text(&watched, &choices, 120);
        let at = lines.iter().position(|line| line.contains(" Accounts")).unwrap();
        firsts.push(lines[at + 2].split_whitespace().next().unwrap().to_owned());
        choices.sort = choices.sort.next();
    }
    assert_eq!(firsts, ["ORDERS", "BATCH", "BATCH", "BATCH"]);
    assert_eq!(choices, Choices::default());
}

#[test]
fn who_cannot_be_reached_is_told_with_the_age_of_the_numbers() {
    let mut watched = storm();
    watched.failed = Some("127.0.0.1:8222: Connection refused".into());
    let lines = text(&watched, &Choices::default(), 80);
    assert!(line_of(&lines, "not to be reached").contains("Connection refused"));
    assert!(line_of(&lines, "these numbers are").contains("0 s old"));
}

#[test]
fn bars_and_curves_fill_their_width() {
    let drawn =
        |parts: &[(u64, char, Color)]| bar(parts, 100, 10).iter().map(|span| &*span.content).collect::<String>();
    assert_eq!(drawn(&[(50, '#', Color::Reset), (1, '+', Color::Reset)]), "#####+    ");
    assert_eq!(drawn(&[(500, '#', Color::Reset), (1, '+', Color::Reset)]), "##########");
    assert_eq!(drawn(&[(0, '#', Color::Reset)]), "          ");
    assert_eq!(sparkline(&[9, 0, 1, 8, 4], 4), " ▁█▄");
    assert_eq!(sparkline(&[3], 3), "  █");
    assert_eq!((&*fixed("abcdef", 4), &*fixed("ab", 4), &*within("ab", 4)), ("abc…", "ab  ", "ab"));
}
