//! Lines of the preface: their ends, their bounds, their verbs.

use super::*;

#[test]
fn client_lines() {
    for (line, expected) in [
        (&b"CONNECT {}\r\n"[..], ClientLine::Connect(b"{}")),
        (b"connect{}\n", ClientLine::Connect(b"{}")),
        (b"CoNnEcT \t \t{} \t\r\n", ClientLine::Connect(b"{} \t")),
        (b"CONNECTED {}\r\n", ClientLine::Connect(b"ED {}")),
        (b"CONNECT \r\n", ClientLine::Connect(b"")),
        (b"CONNECT\n", ClientLine::Other),
        (b"CONNECT  \n", ClientLine::Other),
        (b"CONNEC {}\r\n", ClientLine::Other),
        (b"PING\r\n", ClientLine::Ping),
        (b"ping\n", ClientLine::Ping),
        (b"Ping x\r\n", ClientLine::Ping),
        (b"PONG\r\n", ClientLine::Pong),
        (b"PINX\r\n", ClientLine::Other),
        (b" PING\r\n", ClientLine::Other),
        (b"SUB a 1\r\n", ClientLine::Other),
        (b"\r\n", ClientLine::Other),
        (b"\n", ClientLine::Other),
        (b"", ClientLine::Other),
        (b"PING", ClientLine::Other),
    ] {
        assert_eq!(client_line(line), expected, "{:?}", line.escape_ascii().to_string());
    }
}

#[test]
fn server_lines() {
    for (line, expected) in [
        (&b"INFO {\"a\":1} \r\n"[..], ServerLine::Info(b"{\"a\":1} ")),
        (b"INFO{}\n", ServerLine::Info(b"{}")),
        (b"PING\r\n", ServerLine::Ping),
        (b"PONG\r\n", ServerLine::Pong),
        (b"+OK\r\n", ServerLine::Ok),
        (b"-ERR 'maximum connections exceeded'\r\n", ServerLine::Err(b"maximum connections exceeded")),
        (b"-ERR 'it's' \r\n", ServerLine::Err(b"it's")),
        (b"-ERR \xff\r\n", ServerLine::Err(b"\xff")),
        (b"-ERR\r\n", ServerLine::Err(b"")),
        (b"-ERR '\r\n", ServerLine::Err(b"")),
        (b"MSG a 1 5\r\n", ServerLine::Other),
        (b"PING", ServerLine::Other),
    ] {
        assert_eq!(server_line(line), expected, "{:?}", line.escape_ascii().to_string());
    }
}

#[test]
fn lines_are_found_at_every_cut() {
    let stream = b"PING\r\nCONNECT {}\nPONG\r\n";
    for step in 1..=stream.len() {
        let mut scanner = LineScanner::new(16);
        let (mut start, mut ends) = (0, Vec::new());
        for end in (step..stream.len() + step).step_by(step) {
            while let Some(line) = scanner.find(&stream[start..end.min(stream.len())]).unwrap() {
                start += line;
                ends.push(start);
            }
        }
        assert_eq!(ends, [6, 17, 23], "step {step}");
    }
}

/// As for nats-server with `max_control_line` 4096: an argument of 4096 bytes is accepted, and one of 4097 is not.
#[test]
fn the_limit_is_the_arguments() {
    for (verb, end) in
        [("CONNECT ", "\r\n"), ("CONNECT", "\n"), ("connect \t ", "\r\n"), ("INFO ", "\r\n"), ("SUB ", "\n")]
    {
        for (extra, fits) in [(0, true), (1, false)] {
            let line = format!("{verb}{{{}{end}", "x".repeat(99 + extra));
            let found = LineScanner::new(100).find(line.as_bytes());
            assert_eq!(found.is_ok(), fits, "{line:?}");
            assert!(!fits || found == Ok(Some(line.len())));
            // If it arrives byte by byte, the result comes neither sooner nor later.
            let mut scanner = LineScanner::new(100);
            let first = (0..=line.len()).find(|&end| scanner.find(&line.as_bytes()[..end]).is_err());
            // The error is certain with the first byte that is too many.
            assert_eq!(first, (!fits).then_some(verb.len() + 101), "{line:?}");
        }
    }
}

#[test]
fn no_line_is_endless() {
    for start in ["CONNECT ", "PING", "", "\r"] {
        for fill in [" ", "x", "\r", "\t"] {
            let line = format!("{start}{}", fill.repeat(400));
            let mut scanner = LineScanner::new(100);
            let longest = (0..line.len()).take_while(|&end| scanner.find(&line.as_bytes()[..end]) == Ok(None)).count();
            assert!(longest <= 100 + MAX_OVERHEAD + 2, "{start:?} {fill:?}: {longest}");
        }
    }
}

#[test]
fn a_late_blank_does_not_make_a_verb() {
    let line = format!("{} x\r\n", "x".repeat(100));
    assert_eq!(LineScanner::new(99).find(line.as_bytes()), Err(TooLong));
    assert_eq!(LineScanner::new(99).find(&line.as_bytes()[..100]), Err(TooLong));
}

#[test]
fn a_failed_scanner_starts_anew() {
    let mut scanner = LineScanner::new(0);
    assert_eq!(scanner.find(b"xxxxxxxxx"), Err(TooLong));
    assert_eq!(scanner.find(b"PING\r\n"), Ok(Some(6)));
    assert_eq!(scanner.find(b""), Ok(None));
    assert_eq!(scanner.find(b"PI"), Ok(None));
    // A buffer that is shorter than before must not cause a panic.
    assert_eq!(scanner.find(b"P"), Ok(None));
}
