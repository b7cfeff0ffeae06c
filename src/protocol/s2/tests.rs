//! Streams of S2: of nats-server's library, of weir's own, broken and hostile ones.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::{
    COMPRESSED, Level, MOST_OF_BLOCK, Mode, STREAM, UNCOMPRESSED, checksum,
    decode::{Decoder, Step, Violation},
    encode::{self, Compressor, MOST_WRITTEN},
};

const LEVELS: [Level; 4] = [Level::Uncompressed, Level::Fast, Level::Better, Level::Best];

/// What the decoder gives for a stream that comes in pieces of these sizes, to a reader with so much room at a time.
fn decoded(decoder: &mut Decoder, stream: &[u8], pieces: &[usize], room: usize) -> Result<Vec<u8>, Violation> {
    let (mut all, mut out, mut kept, mut at) = (Vec::new(), vec![0; room], Vec::new(), 0);
    for piece in pieces.iter().copied().chain([usize::MAX]) {
        let end = stream.len().min(at + piece.min(stream.len()));
        kept.extend_from_slice(&stream[at..end]);
        at = end;
        loop {
            let Step { taken, given } = decoder.decode(&kept, &mut out)?;
            kept.drain(..taken);
            all.extend_from_slice(&out[..given]);
            if given == 0 && !decoder.has_more() {
                break;
            }
        }
        assert!(decoder.is_stalled() || kept.is_empty(), "it has taken all");
    }
    Ok(all)
}

fn let_in() -> Decoder {
    let mut decoder = Decoder::default();
    decoder.let_in();
    decoder
}

fn encoded(level: Level, blocks: &[&[u8]]) -> Vec<u8> {
    let (mut compressor, mut stream) = (Compressor::default(), Vec::new());
    encode::begin(&mut stream);
    for block in blocks {
        compressor.block(level, block, &mut stream);
    }
    stream
}

fn chunk(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&[kind], &length[..3], body].concat()
}

fn messages(n: usize) -> Vec<u8> {
    let mut text = String::new();
    for i in 0..n {
        let (site, value) = (i % 7, i * 37 % 1000);
        let payload = format!(r#"{{"site":"edge-{site}","sensor":{i},"value":{value}.5,"unit":"celsius","ok":true}}"#);
        write!(text, "LMSG telemetry.{} {}\r\n{payload}\r\n", i % 5, payload.len()).unwrap();
    }
    text.into_bytes()
}

/// As nats-server 2.15 writes with its library, a stream for each flush: of one PING, and of so many messages.
const BY_GO: [(&str, &[u8], &[usize]); 4] = [
    ("uncompressed", include_bytes!("by_go/uncompressed.s2"), &[1, 2, 30]),
    ("fast", include_bytes!("by_go/fast.s2"), &[1, 2, 30, 250]),
    ("better", include_bytes!("by_go/better.s2"), &[1, 2, 30, 250]),
    ("best", include_bytes!("by_go/best.s2"), &[1, 2, 30, 250]),
];

fn flushed(flushes: &[usize]) -> Vec<u8> {
    flushes.iter().fold(b"PING\r\n".to_vec(), |all, n| [all, messages(*n)].concat())
}

#[test]
fn what_nats_server_writes_is_read() {
    for (level, stream, flushes) in BY_GO {
        for (pieces, room) in [(1, 1), (1, 64), (7, 1024), (4096, 1024), (usize::MAX, 32 * 1024)] {
            let mut decoder = let_in();
            let pieces = vec![pieces; stream.len() / pieces + 1];
            assert_eq!(decoded(&mut decoder, stream, &pieces, room).unwrap(), flushed(flushes), "{level}, {room}");
            assert_eq!(decoder.held(), 0, "{level}: nothing is kept between two blocks");
        }
    }
}

/// Also where all of it has to be there before its length is known.
#[test]
fn a_short_block_is_not_kept_until_more_comes() {
    for n in [0, 1, 6, 40, 100, 5000] {
        for level in LEVELS {
            let stream = encoded(level, &[&vec![b'x'; n]]);
            for cut in 0..stream.len() {
                let read = decoded(&mut let_in(), &stream, &vec![1; cut], 10_000);
                assert_eq!(read.map(|read| read.len()), Ok(n), "{level:?}, cut at {cut}");
            }
        }
    }
}

#[test]
fn blocks_are_those_of_the_library_of_nats_server() {
    for (level, (name, stream, _)) in LEVELS.into_iter().zip(BY_GO).filter(|(level, _)| *level != Level::Best) {
        assert!(stream.starts_with(&encoded(level, &[b"PING\r\n"])), "{name}");
    }
    // Short ones are as of the level below.
    let (better, best) = (encoded(Level::Better, &[&messages(30)]), encoded(Level::Best, &[&messages(30)]));
    assert_eq!(better, best);
    let block = &messages(700)[..MOST_WRITTEN];
    let sizes = LEVELS.map(|level| encoded(level, &[block]).len());
    assert!(sizes.is_sorted_by(|a, b| a > b), "each level is shorter than the one before: {sizes:?}");
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        blocks in prop::collection::vec(prop::collection::vec(0..4u8, 0..3000), 0..5),
        level in 0..4usize,
        pieces in prop::collection::vec(1..200usize, 0..50),
        room in 1..4000usize,
    ) {
        let blocks: Vec<&[u8]> = blocks.iter().map(|block| &**block).collect();
        let mut decoder = let_in();
        let read = decoded(&mut decoder, &encoded(LEVELS[level], &blocks), &pieces, room);
        prop_assert_eq!(read.unwrap(), blocks.concat());
        prop_assert_eq!(decoder.held(), 0);
    }

    #[test]
    fn bytes_that_change_never_become_other_bytes(
        which in 0..4usize,
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
        room in 1..2000usize,
    ) {
        let (_, stream, flushes) = BY_GO[which];
        let mut stream = stream[..3000].to_vec();
        let at = at.index(stream.len());
        stream[at] = to;
        let (mut decoder, whole) = (let_in(), flushed(flushes));
        // A length that changes takes bytes from the next chunk, and may leave it without an end. A chunk that turns
        // into one that may be skipped is.
        if let Ok(read) = decoded(&mut decoder, &stream, &[], room) && stream[at] < 0x80 {
            prop_assert!(whole.starts_with(&read), "{} of {}", read.len(), whole.len());
        }
    }

    #[test]
    fn no_bytes_make_it_fail_otherwise(bytes in prop::collection::vec(any::<u8>(), 0..600), room in 1..2000usize) {
        for kind in [COMPRESSED, UNCOMPRESSED] {
            let stream = [&STREAM[..], &chunk(kind, &bytes)].concat();
            let _ = decoded(&mut let_in(), &stream, &[3, 1, 200], room);
        }
        let _ = decoded(&mut let_in(), &[&STREAM[..], &bytes].concat(), &[], room);
        let _ = decoded(&mut let_in(), &bytes, &[], room);
    }
}

#[test]
fn a_stream_that_is_none_is_told_from_one_that_is_broken() {
    let read = |chunks: &[&[u8]]| decoded(&mut let_in(), &chunks.concat(), &[], 1024);
    assert_eq!(read(&[b"CONNECT {}\r\n"]), Err(Violation::NotS2));
    assert_eq!(read(&[b"\xff\x06\x00\x00sNaPpY"]), Err(Violation::NotS2), "no nats-server writes Snappy");
    assert_eq!(read(&[b"\xff\x07\x00\x00S2sTwO!"]), Err(Violation::NotS2));
    assert_eq!(read(&[STREAM, &chunk(0x02, b"")]), Err(Violation::UnknownChunk));
    assert_eq!(read(&[STREAM, &chunk(0x7f, b"1234")]), Err(Violation::UnknownChunk));
    assert_eq!(read(&[STREAM, &chunk(UNCOMPRESSED, b"123")]), Err(Violation::Corrupt));
    assert_eq!(read(&[STREAM, &chunk(COMPRESSED, b"1234")]), Err(Violation::Corrupt), "no size");
    assert_eq!(read(&[STREAM, &chunk(UNCOMPRESSED, b"1234PING\r\n")]), Err(Violation::Checksum));
    let sum = checksum(b"PING\r\n").to_le_bytes();
    assert_eq!(read(&[STREAM, &chunk(UNCOMPRESSED, &[&sum[..], b"PING\r\n"].concat())]).unwrap(), b"PING\r\n");
    let one_too_many = [&sum[..], b"\x07\x14PING\r\n"].concat();
    assert_eq!(read(&[STREAM, &chunk(COMPRESSED, &one_too_many)]), Err(Violation::Corrupt));
    // What stands before is not lost.
    let (mut decoder, mut out) = (let_in(), [0; 10]);
    let stream = [encoded(Level::Fast, &[b"PING\r\n"]), chunk(0x02, b"")].concat();
    assert_eq!(decoder.decode(&stream, &mut out).map(|step| step.given), Ok(6));
    assert!(decoder.has_more());
    assert_eq!(decoder.decode(&[], &mut out), Err(Violation::UnknownChunk));
    // What may be skipped is, as far as it goes, and the identifier may come again.
    let skipped = [chunk(0xfe, &[0; 5000]), chunk(0x80, b""), chunk(0x99, b"an index"), STREAM.to_vec()].concat();
    assert_eq!(read(&[&encoded(Level::Fast, &[b"a"]), &skipped, &encoded(Level::Better, &[b"b"])]).unwrap(), b"ab");
}

#[test]
fn what_a_block_claims_is_no_memory_yet() {
    let most = MOST_OF_BLOCK;
    let uvarint = |mut n: usize| {
        let mut bytes = Vec::new();
        while n >= 0x80 {
            bytes.push(u8::try_from(n & 0x7f).unwrap() | 0x80);
            n >>= 7;
        }
        [bytes, vec![u8::try_from(n).unwrap()]].concat()
    };
    let header = |kind, length: usize| [&[kind], &u32::try_from(length).unwrap().to_le_bytes()[..3]].concat();
    let claims =
        |size: usize, length: usize| [header(COMPRESSED, length), vec![0; 4], uvarint(size), vec![0; 8]].concat();
    // At the first bytes that say so, and not once all of it has come.
    for too_large in [claims(most + 1, 5000), claims(0xffff_ffff, 5000), header(UNCOMPRESSED, most + 5)] {
        let stream = [&STREAM[..], &too_large].concat();
        assert_eq!(decoded(&mut let_in(), &stream, &[], 10), Err(Violation::TooLarge));
        assert_eq!(decoded(&mut Decoder::default(), &stream, &[], 10), Err(Violation::TooLarge));
    }
    let padded = [&STREAM[..], &claims(100, 5000)].concat();
    assert_eq!(decoded(&mut let_in(), &padded, &[], 10), Err(Violation::Corrupt), "no encoder does that");

    let mut decoder = let_in();
    let begun = [&STREAM[..], &header(UNCOMPRESSED, most + 4), &[7; 1000]].concat();
    assert_eq!(decoded(&mut decoder, &begun, &[], 10).unwrap(), b"");
    assert!(decoder.held() < 4 * begun.len(), "as much as has come, and not what is claimed: {}", decoder.held());
}

#[test]
fn a_leafnode_that_is_not_in_yet_is_not_read_further_than_to_a_large_block() {
    let blocks = [&b"CONNECT {}\r\n"[..], &[b'x'; MOST_WRITTEN], &[b'y'; 10], b"LS+ a\r\n"];
    for level in LEVELS {
        let mut stream = encoded(level, &blocks);
        let large = vec![b'z'; MOST_WRITTEN + 1];
        stream.extend_from_slice(&chunk(UNCOMPRESSED, &[&checksum(&large).to_le_bytes()[..], &large].concat()));
        let mut decoder = Decoder::default();
        let (mut out, mut read, mut at) = (vec![0; 1024], Vec::new(), 0);
        let mut step = |decoder: &mut Decoder, at: &mut usize, read: &mut Vec<u8>| {
            loop {
                let step = decoder.decode(&stream[*at..], &mut out).unwrap();
                *at += step.taken;
                read.extend_from_slice(&out[..step.given]);
                if step.given == 0 {
                    break;
                }
            }
        };
        step(&mut decoder, &mut at, &mut read);
        assert_eq!(read, blocks.concat());
        assert!(decoder.is_stalled());
        assert_eq!(decoder.held(), 0);
        decoder.let_in();
        step(&mut decoder, &mut at, &mut read);
        assert_eq!(read.len(), blocks.concat().len() + large.len());
        assert!(!decoder.is_stalled());
    }
}

#[test]
fn a_mode_is_agreed_on_as_between_two_nats_servers() {
    use Mode::{Accept, Off, S2Auto, S2Best, S2Better, S2Fast};
    for mode in [S2Auto, S2Fast, S2Better, S2Best] {
        for plain in ["", "off", "not supported"] {
            assert_eq!(mode.with_leafnode(plain), Ok(None), "{plain}");
        }
        for named in ["accept", "s2_auto", "s2_uncompressed", "s2_fast", "s2_better", "s2_best"] {
            assert_eq!(mode.with_leafnode(named), Ok(Some(mode)), "each side has its own: {named}");
        }
        assert!(mode.with_leafnode("zstd").is_err());
    }
    assert_eq!(Accept.with_leafnode("accept"), Ok(None), "neither asks for it");
    assert_eq!(Accept.with_leafnode("s2_auto"), Ok(Some(S2Fast)));
    assert_eq!(Accept.with_leafnode("s2_best"), Ok(Some(S2Best)));
    assert_eq!((Off.offered(), Accept.offered(), S2Auto.offered()), (None, Some("accept"), Some("s2_auto")));

    let ms = std::time::Duration::from_millis;
    let auto = [0, 10, 11, 50, 51, 100, 101].map(|rtt| S2Auto.level(ms(rtt)));
    use Level::{Best, Better, Fast, Uncompressed};
    assert_eq!(auto, [Uncompressed, Uncompressed, Fast, Fast, Better, Better, Best]);
    assert_eq!((S2Best.level(ms(0)), S2Fast.level(ms(500))), (Best, Fast));
}
