//! Framing of what a server sends, cut at every byte.

use proptest::prelude::*;

use super::*;

/// Scans as a session does, which collects each captured line up to its LF. Returns the captured lines, the violation
/// and the number of messages.
fn run(capture: Capture, parts: &[&[u8]]) -> (Vec<Vec<u8>>, Option<usize>, u64, bool) {
    let mut framing = ServerFraming::new(capture);
    let (mut lines, mut open, mut base) = (Vec::new(), None::<Vec<u8>>, 0);
    for part in parts {
        let mut at = 0;
        while at < part.len() {
            if let Some(line) = &mut open {
                let end = memchr(b'\n', &part[at..]).map_or(part.len(), |end| at + end + 1);
                line.extend_from_slice(&part[at..end]);
                at = end;
                if line.ends_with(b"\n") {
                    lines.extend(open.take());
                }
                continue;
            }
            match framing.scan(&part[at..]) {
                ServerScan::Pass => break,
                ServerScan::Line { at: start } => {
                    assert!(framing.at_boundary());
                    open = Some(Vec::new());
                    at += start;
                }
                ServerScan::Violation { at: bad } => {
                    return (lines, Some(base + at + bad), framing.messages(), false);
                }
            }
        }
        base += part.len();
    }
    (lines, None, framing.messages(), framing.at_boundary() && open.is_none())
}

const STREAM: &[u8] = b"PONG\r\nINFO {\"a\":1}\r\nMSG a 1 6\r\nINFO {\r\nHMSG a.b 12 _INBOX.x 12 17\r\nNATS/1.0\r\n\r\nPING\n\r\n+OK\r\nMSG\ta  1 \t0 \n\r\n-ERR 'x'\r\nPING\r\nINFO {}\n";

#[test]
fn lines_and_messages() {
    let (lines, bad, messages, boundary) = run(Capture::InfoOnly, &[STREAM]);
    assert_eq!((bad, messages, boundary), (None, 3, true));
    assert_eq!(lines, [&b"INFO {\"a\":1}\r\n"[..], b"INFO {}\n"]);
    let (lines, bad, messages, boundary) = run(Capture::EveryControlLine, &[STREAM]);
    assert_eq!((bad, messages, boundary), (None, 3, true));
    let lines: Vec<_> = lines.iter().map(|line| line.escape_ascii().to_string()).collect();
    assert_eq!(
        lines,
        ["PONG\\r\\n", "INFO {\\\"a\\\":1}\\r\\n", "+OK\\r\\n", "-ERR \\'x\\'\\r\\n", "PING\\r\\n", "INFO {}\\n"]
    );
}

#[test]
fn a_line_is_told_by_its_first_byte() {
    let mut framing = ServerFraming::new(Capture::InfoOnly);
    assert_eq!(framing.scan(b"PING\r\nMSG a 1 2\r\nhi\r\nI"), ServerScan::Line { at: 21 });
    assert_eq!(framing.scan(b"PING\r\n+"), ServerScan::Pass);
    framing.set_capture(Capture::EveryControlLine);
    // The line that has begun is not captured.
    assert_eq!(framing.scan(b"OK\r\n+OK\r\n"), ServerScan::Line { at: 4 });
}

#[test]
fn not_a_servers() {
    for marked in [
        "|SUB a 1\r\n",
        "M|X",
        "MSG|\r\n",
        "HMSG|X",
        "MSG 5\r|\n",
        "MSG a 1 x\r|\n",
        "MSG a 1 5x\r|\n",
        "MSG a 1 1234567890\r|\n",
        "MSG a 1 2\r\nhi|x",
        "MSG a 1 2\r\nhi\r|x",
    ] {
        let at = marked.find('|').unwrap();
        let stream = marked.replace('|', "");
        assert_eq!(run(Capture::InfoOnly, &[stream.as_bytes()]).1, Some(at), "{marked:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn cuts_change_nothing(
        pieces in prop::collection::vec(prop::sample::select(&[
            "MSG ", "HMSG ", "msg ", "INFO ", "PING", "PONG", "+OK", "-ERR ", "a", " ", "\t", "\r", "\n", "\r\n", "0", "2", "12", " 0\r\n\r\n", " 1 2\r\n", "xx\r\n", "1000000000",
        ][..]), 0..24),
        size in 1usize..9,
        capture in prop::sample::select(&[Capture::InfoOnly, Capture::EveryControlLine][..]),
    ) {
        let stream = pieces.concat().into_bytes();
        let parts: Vec<&[u8]> = stream.chunks(size).collect();
        prop_assert_eq!(run(capture, &[&stream]), run(capture, &parts));
    }

    /// A message that repeats, with a few bytes changed: only a true repetition may be recognised as one.
    #[test]
    fn cuts_change_nothing_in_repetitions(
        message in prop::sample::select(&[
            "MSG a 1 1\r\nI\r\n", "MSG a.b.c 1234 8\r\nINFO {}\n\r\n", "HMSG a 1 2 4\r\n\r\nab\r\n", "MSG a 1 0\n\r\n", "MSG a 1 r.r.r.r.r 2\r\nM \r\n",
        ][..]),
        times in 1usize..8,
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![prop::sample::select(&b"0123456789 \t\r\nMmHSG"[..]), any::<u8>()]), 0..4),
        size in 1usize..30,
        capture in prop::sample::select(&[Capture::InfoOnly, Capture::EveryControlLine][..]),
    ) {
        let mut stream = message.repeat(times).into_bytes();
        for (at, byte) in changes {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let parts: Vec<&[u8]> = stream.chunks(size).collect();
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(run(capture, &[&stream]), run(capture, &parts));
        prop_assert_eq!(run(capture, &[&stream]), run(capture, &bytes));
    }

    #[test]
    fn payloads_are_never_searched(payloads in prop::collection::vec(prop_oneof![Just(b"\r\nINFO {}\r\n".to_vec()), prop::collection::vec(any::<u8>(), 0..30)], 0..8), size in 1usize..40) {
        let mut stream = Vec::new();
        for payload in &payloads {
            stream.extend_from_slice(format!("MSG a.b 1 {}\r\n", payload.len()).as_bytes());
            stream.extend_from_slice(payload);
            stream.extend_from_slice(b"\r\n");
        }
        let parts: Vec<&[u8]> = stream.chunks(size).collect();
        prop_assert_eq!(run(Capture::EveryControlLine, &parts), (Vec::new(), None, payloads.len() as u64, true));
    }
}

/// What is put between two operations is read as if the server had sent it there, wherever the stream is cut.
#[test]
fn the_end_of_an_operation_is_found_from_every_byte() {
    const OPS: [&[u8]; 5] = [
        b"MSG a 1 6\r\nINFO {\r\n",
        b"PING\r\n",
        b"HMSG a 12 12 17\r\nNATS/1.0\r\n\r\nPING\n\r\n",
        b"+OK\n",
        b"MSG a 1 0\r\n\r\n",
    ];
    let stream = OPS.concat();
    let ends: Vec<usize> = OPS
        .iter()
        .scan(0, |end, op| {
            *end += op.len();
            Some(*end)
        })
        .collect();
    for cut in 0..stream.len() {
        for chunk in 1..=7 {
            let mut framing = ServerFraming::new(Capture::InfoOnly);
            assert_eq!(framing.scan(&stream[..cut]), ServerScan::Pass);
            let mut at = cut;
            let end = loop {
                let part = &stream[at..stream.len().min(at + chunk)];
                match framing.pass_boundary(part) {
                    Some(read) => break at + read,
                    None => at += part.len(),
                }
            };
            let next = if cut == 0 { 0 } else { *ends.iter().find(|end| **end >= cut).unwrap() };
            assert_eq!((end, framing.at_boundary()), (next, true), "cut at {cut}, in chunks of {chunk}");
            assert_eq!(framing.scan(&stream[end..]), ServerScan::Pass);
            assert_eq!(framing.messages(), 3);
        }
    }
    let mut framing = ServerFraming::new(Capture::InfoOnly);
    assert_eq!(framing.scan(b"MSG a 1 2\r\nhi"), ServerScan::Pass);
    assert_eq!((framing.pass_boundary(b"\rx"), framing.at_boundary()), (Some(1), false));
    assert_eq!(framing.scan(b"x"), ServerScan::Violation { at: 0 }, "the scan finds the byte");
}
