//! The framing of leafnodes, however a stream is cut, beside a reference parser.

use proptest::prelude::*;

use super::*;
use crate::protocol::{
    control_line::{ServerLine, server_line},
    info::Info,
    op::reference::{Found, Reference},
};

/// As 2.15.1 sends them, in both directions, with an INFO in a payload.
const OPERATIONS: [&[u8]; 12] = [
    b"LS+ $LDS.abc\r\n",
    b"LS+ foo.* workers 3\r\n",
    b"LS- foo.* workers\r\n",
    b"LMSG foo 5\r\nhello\r\n",
    b"LMSG foo _INBOX.1 0\r\n\r\n",
    b"LMSG foo + _INBOX.1 workers 15\r\nINFO {}\r\nPING\r\n\r\n",
    b"LMSG foo | workers others 2\r\n\r\n\r\n",
    b"HMSG foo 12 17\r\nNATS/1.0\r\n\r\nhello\r\n",
    b"PING\r\n",
    b"PONG\r\n",
    b"-ERR 'Loop detected'\r\n",
    b"+OK\r\n",
];

/// Scans a stream in these chunks; INFO lines are collected. Returns what was captured, and where it was over.
fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (LeafnodeFraming, usize, Option<LeafnodeScan>) {
    let (mut framing, mut infos) = (LeafnodeFraming::default(), 0);
    let mut in_info = false;
    for mut chunk in chunks {
        while !chunk.is_empty() {
            if in_info {
                let end = memchr(b'\n', chunk);
                in_info = end.is_none();
                chunk = &chunk[end.map_or(chunk.len(), |end| end + 1)..];
                continue;
            }
            match framing.scan(chunk) {
                LeafnodeScan::Pass => break,
                LeafnodeScan::Line { at } => {
                    infos += 1;
                    in_info = true;
                    chunk = &chunk[at..];
                }
                over => return (framing, infos, Some(over)),
            }
        }
    }
    (framing, infos, None)
}

#[test]
fn cut_at_every_byte_it_is_the_same() {
    let stream = [&OPERATIONS.concat(), &b"INFO {\"server_id\":\"N\"}\r\n"[..], b"LMSG a 1\r\nx\r\nPI"].concat();
    for cut in 0..=stream.len() {
        let (framing, infos, over) = scan([&stream[..cut], &stream[cut..]]);
        assert_eq!((infos, over), (1, None), "{cut}");
        assert_eq!((framing.messages(), framing.payload()), (6, 5 + 15 + 2 + 17 + 1), "{cut}");
        assert_eq!((framing.pings(), framing.pongs(), framing.at_boundary()), (1, 1, false), "{cut}");
    }
    let (framing, ..) = scan(stream.chunks(1));
    assert_eq!((framing.messages(), framing.pings()), (6, 1));
}

#[test]
fn what_no_leafnode_says_ends_the_scan() {
    for bytes in [
        &b"PUB a 1\r\nx\r\n"[..],
        b"SUB a 1\r\n",
        b"RMSG A a 1\r\nx\r\n",
        b"LMSG a\r\n",
        b"LMSG a b\r\n",
        b"LMSG a 1234567890\r\n",
        b"LMSG a 1\r\nxx\r\n",
        b"LMSG\r\n",
        b"HPUB a 1 1\r\n",
        b"LX+ a\r\n",
        b"\xff\x06\x00\x00sNaPpY",
        b"\r\n",
        b"LS+\r\n",
        b"LS-x\r\n",
        b"-ERR\r\n",
        b"LMSG a 1\r\r\n",
        b"HMSG a\r 1 1\r\n",
        b"LMSG \r a 1\r\n",
    ] {
        for cut in 0..=bytes.len() {
            let (_, infos, over) = scan([&bytes[..cut], &bytes[cut..]]);
            assert!(infos == 0 && matches!(over, Some(LeafnodeScan::Violation { .. })), "{bytes:?} {over:?}");
        }
    }
    let mut framing = LeafnodeFraming::default();
    assert_eq!(framing.scan(b"PING\r\nCONNECT {}\r\n"), LeafnodeScan::Connect { at: 6 });
    assert_eq!(framing.scan(b"PING\r\n"), LeafnodeScan::Violation { at: 0 }, "it is over");
}

/// What the server reads as the end of an argument is not where weir would see the end of the line.
#[test]
fn no_line_end_hides_a_connect() {
    for bytes in [
        &b"LS+ \nLMSG x 31\r\nCONNECT {\"user\":\"b\",\"pass\":\"b\"}\r\n"[..],
        b"LS- \nLMSG x 31\r\nCONNECT {\"user\":\"b\",\"pass\":\"b\"}\r\n",
        b"-ERR\t \nLMSG x 31\r\nCONNECT {\"user\":\"b\",\"pass\":\"b\"}\r\n",
        b"LMSG x\ry 51\nhello\r\nCONNECT {\"user\":\"b\",\"pass\":\"b\",\"name\":\"12\"}\r\n",
        b"HMSG x\ry 0 51\nhello\r\nCONNECT {\"user\":\"b\",\"pass\":\"b\",\"name\":\"12\"}\r\n",
        b"LMSG \nx 0\r\n\r\nCONNECT {}\r\n",
    ] {
        let connect = memchr::memmem::find(bytes, b"CONNECT").unwrap();
        let mut server = Reference::of_leafnode(usize::MAX);
        assert_eq!(server.parse(&[bytes]), Found::Connect(connect), "{bytes:?}");
        for cut in 0..=bytes.len() {
            let (_, _, over) = scan([&bytes[..cut], &bytes[cut..]]);
            assert!(matches!(over, Some(LeafnodeScan::Violation { .. })), "{bytes:?} {over:?}");
        }
    }
}

/// What the caller of the framing finds in a whole stream: a CONNECT, or that it is over. It collects the lines.
fn follow(stream: &[u8]) -> (Option<LeafnodeScan>, LeafnodeFraming) {
    let (mut framing, mut base) = (LeafnodeFraming::default(), 0);
    loop {
        match framing.scan(&stream[base..]) {
            LeafnodeScan::Pass => return (None, framing),
            LeafnodeScan::Line { at } => {
                let line = &stream[base + at..];
                let Some(end) = memchr(b'\n', line) else {
                    return (Some(LeafnodeScan::Line { at: base + at }), framing);
                };
                match server_line(&line[..=end]) {
                    ServerLine::Info(json) if Info::parse(json).is_ok() => base += at + end + 1,
                    _ => return (Some(LeafnodeScan::Violation { at: base + at + end }), framing),
                }
            }
            LeafnodeScan::Connect { at } => return (Some(LeafnodeScan::Connect { at: base + at }), framing),
            LeafnodeScan::Violation { at } => return (Some(LeafnodeScan::Violation { at: base + at }), framing),
        }
    }
}

/// Bytes that are almost operations.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&str; 38] = [
        "LMSG ",
        "LMSG ",
        "HMSG ",
        "lmsg\t",
        "LS+ ",
        "LS- ",
        "ls+",
        "-ERR ",
        "+OK",
        "PING",
        "PONG",
        "INFO ",
        "INFO {}\r\n",
        "CONNECT {}\r\n",
        "CONNECT ",
        "PUB ",
        "RMSG ",
        "a",
        "a.b",
        " ",
        "\t",
        "\r",
        "\n",
        "\r\n",
        "\r\n",
        "\r\n",
        "\r\n",
        "0",
        "1",
        "2",
        "12",
        "+ r ",
        "| q ",
        " 0\r\n\r\n",
        " 1\r\n",
        "000000001",
        "{}",
        "x",
    ];
    let piece = prop_oneof![
        8 => prop::sample::select(&PIECES[..]).prop_map(|piece| piece.as_bytes().to_vec()),
        4 => prop::sample::select(&OPERATIONS[..]).prop_map(<[u8]>::to_vec),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// The server reads each operation where weir does, however its reads cut the stream, or weir ends the session
    /// before it.
    #[test]
    fn never_more_lenient_than_the_server(
        stream in nearly(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        at.extend([0, stream.len()]);
        at.sort_unstable();
        let parts: Vec<&[u8]> = at.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
        let mut server = Reference::of_leafnode(usize::MAX);
        let (theirs, (ours, framing)) = (server.parse(&parts), follow(&stream));
        match (theirs, ours) {
            (Found::Nothing, None) => {
                prop_assert_eq!((server.messages, server.at_start()), (framing.messages(), framing.at_boundary()));
            }
            // A line that is not complete.
            (Found::Nothing, Some(LeafnodeScan::Line { .. } | LeafnodeScan::Connect { .. })) => {}
            (Found::Connect(a), Some(LeafnodeScan::Connect { at: b })) => prop_assert_eq!(a, b),
            (Found::Connect(a), Some(LeafnodeScan::Violation { at: b })) => prop_assert!(b < a),
            (Found::Connect(_), _) => prop_assert!(false, "{parts:?}: {theirs:?} {ours:?}"),
            // It closes, and reads no more.
            (Found::Error(_), _) | (_, Some(LeafnodeScan::Violation { .. })) => {}
            (_, Some(LeafnodeScan::Pass)) => unreachable!("it is not returned"),
        }
    }

    #[test]
    fn any_stream_is_followed_alike_however_it_is_cut(
        picks in prop::collection::vec(0..OPERATIONS.len(), 0..20),
        size in 1usize..40,
    ) {
        let stream: Vec<u8> = picks.iter().flat_map(|&at| OPERATIONS[at]).copied().collect();
        let (whole, _, over) = scan([&stream[..]]);
        let (cut, _, cut_over) = scan(stream.chunks(size));
        prop_assert_eq!((over, cut_over), (None, None));
        prop_assert!(whole.at_boundary() && cut.at_boundary());
        prop_assert_eq!((whole.messages(), whole.payload()), (cut.messages(), cut.payload()));
        prop_assert_eq!((whole.pings(), whole.pongs()), (cut.pings(), cut.pongs()));
    }

    #[test]
    fn any_bytes_are_followed_alike_however_they_are_cut(
        stream in prop::collection::vec(prop::sample::select(b"LMSGHPIN+-ERKO 123\r\nOC".to_vec()), 0..60),
        size in 1usize..9,
    ) {
        let (whole, infos, over) = scan([&stream[..]]);
        let (cut, cut_infos, cut_over) = scan(stream.chunks(size));
        prop_assert_eq!(infos, cut_infos);
        prop_assert_eq!(over.is_some(), cut_over.is_some());
        prop_assert_eq!((whole.messages(), whole.at_boundary()), (cut.messages(), cut.at_boundary()));
    }
}
