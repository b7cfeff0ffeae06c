//! The framing of leafnodes, however a stream is cut.

use proptest::prelude::*;

use super::*;

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

proptest! {
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
