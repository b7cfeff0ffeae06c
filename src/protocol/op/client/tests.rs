//! Framing of what a client sends, beside a reference parser.

use proptest::prelude::*;

use super::*;
use crate::protocol::{
    control_line::not_connect_at,
    op::reference::{Found, Reference},
};

const MAX: usize = 64;

fn whole(stream: &[u8]) -> (ClientScan, u64, bool) {
    chunks(&[stream])
}

/// Scans the chunks one after the other. The index in the result is that in the whole stream. The caller of the framing
/// reads the verb of a CONNECT.
fn chunks(parts: &[&[u8]]) -> (ClientScan, u64, bool) {
    let mut framing = ClientFraming::new(MAX);
    let mut base = 0;
    for part in parts {
        let found = match framing.scan(part) {
            ClientScan::Pass => None,
            ClientScan::Connect { at } => {
                let stream = parts.concat();
                let line = &stream[base + at..];
                match not_connect_at(line) {
                    Some(wrong) => Some(ClientScan::Violation { at: base + at + wrong }),
                    None if line.len() < 7 => return (ClientScan::Pass, framing.messages(), false),
                    None => Some(ClientScan::Connect { at: base + at }),
                }
            }
            ClientScan::Violation { at } => Some(ClientScan::Violation { at: base + at }),
            ClientScan::Hmsg { at } => Some(ClientScan::Hmsg { at: base + at }),
        };
        if let Some(found) = found {
            return (found, framing.messages(), framing.at_boundary());
        }
        base += part.len();
    }
    (ClientScan::Pass, framing.messages(), framing.at_boundary())
}

#[test]
fn accepted() {
    for (stream, messages) in [
        ("", 0),
        ("PING\r\n", 0),
        ("ping\n", 0),
        ("PiNG anything\tat all\r\r\n", 0),
        ("PONGCONNECT {}\r\n", 0),
        ("+OK\r\n+ok CONNECT\n", 0),
        ("-ERR 'x'\r\n-err\tCONNECT\n", 0),
        ("INFO {}\r\nINFO{}\r\ninfo\t {\"a\":1}\n", 0),
        ("SUB foo 1\r\nSUB\tfoo q 1\nUNSUB 1\r\nunsub 1 5\r\nSUB \r\n", 0),
        ("SUB CONNECT{} 1\rx\r\n", 0),
        ("PUB a 0\r\n\r\n", 1),
        ("PUB a 5\r\nhello\r\nPING\r\n", 1),
        ("pub \t a \t r 5 \t\nhello\r\n", 1),
        ("PUB a 000000005\r\nhello\r\n", 1),
        ("PUB a 21\r\nCONNECT {\"user\":\"x\"}\r\r\n", 1),
        ("HPUB a 12 17\r\nNATS/1.0\r\n\r\nhello\r\nhPuB\ta r  0\t0\r\n\r\n", 2),
    ] {
        assert_eq!(whole(stream.as_bytes()), (ClientScan::Pass, messages, true), "{stream:?}");
    }
}

#[test]
fn refused_where_the_server_does_or_earlier() {
    // The bar stands in front of the offending byte.
    for marked in [
        "|\r\n",
        "| PING\r\n",
        "|MSG a 1 5\r\nhello\r\n",
        "|RMSG",
        "|A+ x\r\n",
        "|LS+ x\r\n",
        "|\u{b}OK\r\n",
        "P|X",
        "PIN|X",
        "PUB|\r\n",
        "PUB|a 5\r\n",
        "-ERR|\r\n",
        "-ERR|'x'\r\n",
        "SUB|\r\n",
        "SUB |\nPUB a 100\r\n",
        "INFO|\n{}\r\n",
        "PUB |\na 5\r\nhello\r\n",
        "PUB \r|\n",
        "PUB 5\r|\n",
        "PUB a b c 5\r|\n",
        "PUB a -5\r|\n",
        "PUB a +5\r|\n",
        "PUB a 5x\r|\n",
        "PUB a 0x5\r|\n",
        "PUB a 1000000000\r|\n",
        "PUB a 0000000005\r|\n",
        "PUB a 99999999999999999999999\r|\n",
        "PUB a 5\r|\r\nhello\r\n",
        "PUB a\r|b 5\r\nhello\r\n",
        "PUB a 1\r|0\r\nhello\r\n",
        "PUB a 5\r\nhello|\n",
        "PUB a 5\r\nhello|x",
        "PUB a 0\r\n|PING\r\n",
        "PUB a 5\r\nhello\r|PING\r\n",
        "HPUB a 5\r|\n",
        "HPUB a 6 5\r|\n",
        "HPUB a x 5\r|\n",
        "HPUB a b c 5 5\r|\n",
    ] {
        let at = marked.find('|').unwrap();
        let stream = marked.replace('|', "");
        let (scan, ..) = whole(stream.as_bytes());
        let expected = ClientScan::Violation { at };
        assert_eq!(scan, expected, "{marked:?}");
    }
}

#[test]
fn an_operation_that_only_servers_send() {
    for stream in ["HMSG a 1 5\r\n", "hm", "PUB a 0\r\n\r\nHmsg"] {
        let at = stream.find(['M', 'm']).unwrap();
        assert_eq!(whole(stream.as_bytes()).0, ClientScan::Hmsg { at }, "{stream:?}");
        assert_eq!(chunks(&[&stream.as_bytes()[..at], &stream.as_bytes()[at..]]).0, ClientScan::Hmsg { at });
    }
}

#[test]
fn an_argument_has_at_most_the_limit() {
    for (verb, tail) in [("SUB ", ""), ("INFO", ""), ("-ERR\t \t", ""), ("PUB ", " 0"), ("HPUB   ", " 0 0")] {
        let payload = if tail.is_empty() { "" } else { "\r\n" };
        for line_end in ["\r\n", "\n"] {
            let fits = format!("{verb}{}{tail}{line_end}{payload}", "x".repeat(MAX - tail.len()));
            assert_eq!(whole(fits.as_bytes()).0, ClientScan::Pass, "{fits:?}");
            let long = format!("{verb}{}{tail}{line_end}{payload}", "x".repeat(MAX + 1 - tail.len()));
            assert_eq!(whole(long.as_bytes()).0, ClientScan::Violation { at: verb.len() + MAX }, "{long:?}");
            for cut in 0..long.len() {
                assert_eq!(whole(&long.as_bytes()[..cut]).0 == ClientScan::Pass, cut <= verb.len() + MAX);
                let (head, rest) = long.as_bytes().split_at(cut);
                assert_eq!(chunks(&[head, rest]), whole(long.as_bytes()), "{long:?} at {cut}");
                let (head, rest) = fits.as_bytes().split_at(cut.min(fits.len()));
                assert_eq!(chunks(&[head, rest]), whole(fits.as_bytes()), "{fits:?} at {cut}");
            }
        }
    }
    // The server limits neither blanks nor what follows a PING.
    let blanks = format!("SUB {}x 1\r\nPING{}\r\n", " ".repeat(10 * MAX), "x".repeat(10 * MAX));
    assert_eq!(whole(blanks.as_bytes()).0, ClientScan::Pass);
}

#[test]
fn connect_is_found_at_its_first_letter() {
    for connect in ["CONNECT {}\r\n", "connect{}\n", "cOnNeCt\t\t{\"a\":1}\r\n", "CONNECT\n{}\r\n"] {
        let stream = format!("PUB a 2\r\nCO\r\nPING\r\n{connect}PING\r\n");
        let at = stream.find("PING").unwrap() + 6;
        assert_eq!(whole(stream.as_bytes()), (ClientScan::Connect { at }, 1, true));
        for cut in 0..stream.len() {
            let (head, rest) = stream.as_bytes().split_at(cut);
            assert_eq!(chunks(&[head, rest]).0, ClientScan::Connect { at }, "cut {cut}");
        }
    }
    let mut framing = ClientFraming::new(MAX);
    assert_eq!(framing.scan(b"PING\r\nc"), ClientScan::Connect { at: 6 });
    assert_eq!(framing.scan(b"PING\r\n"), ClientScan::Pass, "it goes on behind the line");
}

/// A stream of operations that a client could send, and the index of each.
fn operations() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let payload = prop_oneof![
        Just(b"CONNECT {\"user\":\"b\"}\r\n".to_vec()),
        Just(b"\r\nCONNECT {}\r\nPING\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    let blanks = prop_oneof![4 => Just(" "), 1 => Just("  "), 1 => Just("\t")];
    let end = prop_oneof![4 => Just("\r\n"), 1 => Just("\n")];
    let publish = (
        payload,
        blanks.clone(),
        end.clone(),
        "[a-zC.]{1,9}",
        prop::option::of("[a-z.]{1,9}"),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(payload, blank, end, subject, reply, header, headers)| {
            let reply = reply.map_or(String::new(), |reply| format!("{reply}{blank}"));
            let header = if headers { format!("{}{blank}", header.index(payload.len() + 1)) } else { String::new() };
            let verb = if headers { "HPUB" } else { "PUB" };
            let line = format!("{verb}{blank}{subject}{blank}{reply}{header}{}{end}", payload.len());
            [line.as_bytes(), &payload, b"\r\n"].concat()
        });
    let other = (
        prop_oneof![
            Just("PING"),
            Just("pong"),
            Just("SUB CONNECT 1"),
            Just("UNSUB\t1 2"),
            Just("INFO{}"),
            Just("+OK"),
            Just("-ERR 'CONNECT'"),
        ],
        end,
    )
        .prop_map(|(line, end)| format!("{line}{end}").into_bytes());
    prop::collection::vec(prop_oneof![publish, other], 0..12)
}

/// Bytes that are almost operations.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(
            &[
                "PUB ", "HPUB ", "pub", "PING", "PONG", "SUB ", "UNSUB ", "INFO ", "+OK", "-ERR ", "CONNECT ", "HMSG ", "MSG ", "a", "a.b", " ", "\t", "\r",
                "\n", "\r\n", "\r\n", "\r\n", "\r\n", "0", "1", "2", "5", "12", " 0\r\n\r\n", " 1\r\n", "000000001", "0000000001", "-1", "x", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            ][..]
        ).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// A message that repeats, as a busy client sends it, with a few bytes changed: only a true repetition may be
/// recognised as one.
fn repeated() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(
        &[
            "PUB a 1",
            "PUB a 12",
            "pub a.b.c 10",
            "PUB a _INBOX.x 8",
            "HPUB a 2 12",
            "hpub a.b r 2 12",
            "PUB\ta 1",
            "PUB a  1",
            "PUB abcdefgh 7",
            "PUB abcdefghi 0",
            "PUB abcdefghijklmnopqrstuvwxyz 10",
        ][..],
    );
    let change = prop_oneof![
        Just(None),
        prop::sample::select(&b"0123456789 \t\r\nPpHhbCcxX"[..]).prop_map(Some),
        any::<u8>().prop_map(Some),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), change, any::<bool>()), 0..4);
    (line, prop::sample::select(&["\r\n", "\n"][..]), 1usize..8, changes).prop_map(|(line, end, times, changes)| {
        let size = line.rsplit([' ', '\t']).next().and_then(|size| size.parse().ok()).unwrap_or(0);
        let payload = &b"PUB a 1\r\nCONNECT {}\r\n"[..size];
        let mut stream = [line.as_bytes(), end.as_bytes(), payload, b"\r\n"].concat().repeat(times);
        for (at, change, insert) in changes {
            let at = at.index(stream.len());
            match change {
                Some(byte) if insert => stream.insert(at, byte),
                Some(byte) => stream[at] = byte,
                None if stream.len() > 1 => drop(stream.remove(at)),
                None => {}
            }
        }
        stream
    })
}

#[test]
fn a_line_that_only_resembles_the_one_before() {
    for (first, second) in [
        ("PUB a 1\r\n1\r\n", "PUB a 2\r\n22\r\n"),
        ("PUB a 1\r\n1\r\n", "PUB b 1\r\n1\r\n"),
        ("PUB a 1\r\n1\r\n", "pub a 1\r\n1\r\n"),
        ("PUB a 1\r\n1\r\n", "PUB a\t1\r\n1\r\n"),
        ("PUB a 1\r\n1\r\n", "PUB a 1\n1\r\n"),
        ("PUB a 1\n1\r\n", "PUB a 1\r\n1\r\n"),
        ("PUB a 1\r\n1\r\n", "PUB a 10\r\n0123456789\r\n"),
        ("PUB a 10\r\n0123456789\r\n", "PUB a 1\r\n1\r\n"),
        ("PUB subject.one 10\r\nPUB subjec\r\n", "PUB subject.two 11\r\n0123456789a\r\n"),
        ("HPUB subject 2 12\r\n0123456789ab\r\n", "HPUB subject 3 12\r\n0123456789ab\r\n"),
        ("HPUB subject 2 12\r\n0123456789ab\r\n", "PUB subjects 2 12\r\n0123456789ab\r\n"),
    ] {
        for (stream, messages) in
            [([first, first, second, first].concat(), 4), ([second, first, first, second, second].concat(), 5)]
        {
            for cut in 0..=stream.len() {
                let (head, rest) = stream.as_bytes().split_at(cut);
                assert_eq!(chunks(&[head, rest]), (ClientScan::Pass, messages, true), "{stream:?} at {cut}");
            }
        }
    }
    // The header size exceeds the total size, although the line is as long as the one before.
    let stream = "HPUB a 2 12\r\n0123456789ab\r\nHPUB a 2 12\r\n0123456789ab\r\nHPUB a 13 2\r\n";
    assert_eq!(whole(stream.as_bytes()).0, ClientScan::Violation { at: stream.len() - 1 });
    // A CONNECT is found behind any number of repetitions, and never in a payload.
    let stream = "PUB a 9\r\nCONNECT {\r\n".repeat(9) + "CONNECT {}\r\n";
    assert_eq!(whole(stream.as_bytes()), (ClientScan::Connect { at: stream.len() - 12 }, 9, true));
}

fn cut<'a>(stream: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    at.extend([0, stream.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn cuts_change_nothing(stream in prop_oneof![nearly(), repeated()], cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..8)) {
        let all = whole(&stream);
        let parts = cut(&stream, &cuts);
        prop_assert_eq!(all, chunks(&parts), "{:?}", parts);
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(all, chunks(&bytes));
    }

    #[test]
    fn payloads_are_never_searched(ops in operations(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let stream = ops.concat();
        let messages = ops.iter().filter(|op| op.starts_with(b"PUB") || op.starts_with(b"HPUB")).count() as u64;
        prop_assert_eq!(whole(&stream), (ClientScan::Pass, messages, true));
        prop_assert_eq!(chunks(&cut(&stream, &cuts)), (ClientScan::Pass, messages, true));
    }

    #[test]
    fn connect_is_always_found(ops in operations(), at in any::<prop::sample::Index>(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let (before, after) = ops.split_at(at.index(ops.len() + 1));
        let head = before.concat();
        let stream = [&head[..], b"CONNECT {}\r\n", &after.concat()].concat();
        prop_assert_eq!(whole(&stream).0, ClientScan::Connect { at: head.len() });
        prop_assert_eq!(chunks(&cut(&stream, &cuts)).0, ClientScan::Connect { at: head.len() });
    }

    /// Compared with the server's parser, weir is never more lenient, and stricter only where documented.
    #[test]
    fn as_the_server_does(stream in prop_oneof![nearly(), repeated()], cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let ours = whole(&stream);
        for parts in [vec![&stream[..]], cut(&stream, &cuts)] {
            let mut server = Reference::new(MAX);
            let theirs = server.parse(&parts);
            match (theirs, ours.0) {
                (Found::Nothing, ClientScan::Pass) => {
                    prop_assert_eq!(server.messages, ours.1);
                    prop_assert_eq!(server.at_start(), ours.2);
                }
                (Found::Connect(a), ClientScan::Connect { at: b }) => prop_assert_eq!(a, b),
                (Found::Error(a), ClientScan::Violation { at: b } | ClientScan::Hmsg { at: b }) if a == b => {}
                (theirs, ClientScan::Violation { at } | ClientScan::Hmsg { at }) => {
                    let earlier = match theirs {
                        Found::Nothing => true,
                        Found::Connect(a) | Found::Error(a) => at < a,
                    };
                    prop_assert!(earlier && strict(&stream, at), "{parts:?}: {theirs:?} {ours:?}");
                }
                _ => prop_assert!(false, "{parts:?}: {theirs:?} {ours:?}"),
            }
        }
    }
}

/// Whether the server does not detect this violation, or only by chance.
fn strict(stream: &[u8], at: usize) -> bool {
    let before = &stream[..at];
    let line = before.rsplit(|&b| b == b'\n').next().unwrap_or_default();
    // The server checks the length of an argument only at the ends of lines and buffers, and does not always count a
    // CR.
    let long = line.len() >= MAX;
    stream[at] == b'\n' || before.ends_with(b"\r") || long || matches!(line.split_last(), Some((b'h' | b'H', _)))
}
