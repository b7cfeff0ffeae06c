//! Properties that hold for any bytes. Each fuzz target calls one of these functions, and none of them may panic.

use std::{collections::BTreeMap, fmt::Debug, net::Ipv4Addr};

use serde::{Serialize, de::{DeserializeOwned, IgnoredAny}};
use weir::internals::config::Config;
use weir::internals::fleet::lease::record::{Membership, Record};
use weir::internals::protocol::connect::{Connect, ConnectError};
use weir::internals::protocol::control_line::{ClientLine, LineScanner, TooLong, client_line, server_line};
use weir::internals::protocol::info::{Info, Rewrite, Urls};
use weir::internals::protocol::op::{
    Capture, ClientFraming, ClientScan, LeafnodeFraming, LeafnodeScan, ServerFraming, ServerScan,
};
use weir::internals::protocol::client_preface::Preface;
use weir::internals::protocol::s2::{self, Level, encode::Compressor};
use weir::internals::protocol::subscriptions::{Subscribed, Subscriptions};
use weir::internals::protocol::websocket::decode::{Decoder, Violation};
use weir::internals::protocol::websocket::open::Request;
use weir::internals::protocol::websocket::{FrameSize, Negotiated, DeflatePool, Role, encode, upgrade::Rules};

/// nats-server's parser, as weir's own tests have it.
#[path = "../../src/protocol/op/tests/reference.rs"]
mod reference;

use reference::{Found, Reference};

/// The same lines are found however the bytes arrive, and no more of a line is buffered than the limit allows.
pub fn control_line(data: &[u8]) {
    const LIMIT: usize = 128;
    let lines = |step: usize| {
        let mut scanner = LineScanner::new(LIMIT);
        let (mut start, mut ends) = (0, Vec::new());
        let mut end = 0;
        loop {
            match scanner.find(&data[start..end]) {
                Ok(Some(line)) => {
                    start += line;
                    ends.push(start);
                }
                Ok(None) if end == data.len() => return (ends, None),
                Ok(None) => {
                    assert!(end - start <= LIMIT + 66);
                    end = (end + step).min(data.len());
                }
                Err(TooLong) => return (ends, Some(start)),
            }
        }
    };
    let whole = lines(data.len().max(1));
    for step in [1, 2, 7] {
        assert_eq!(whole, lines(step));
    }
    let mut start = 0;
    for end in whole.0 {
        let line = &data[start..end];
        if let ClientLine::Connect(json) = client_line(line) {
            let _ = Connect::parse(json);
        }
        let _ = server_line(line);
        start = end;
    }
}

/// A value of the bucket of a fleet is read, or not used. What is read is written so that its leases read as the same,
/// within its bounds.
pub fn lease(data: &[u8]) {
    use weir::internals::fleet::lease::record::{LONGEST, MOST_ENTRIES};
    if let Ok(record) = Record::decode(data) {
        assert!(record.l.len() <= MOST_ENTRIES);
        if let Some(value) = record.encode() {
            assert!(value.len() <= LONGEST);
            // What is not known here may be a fraction, which is not written with every digit.
            let leases = |record: &Record| {
                let all = record.l.iter().map(|(holder, one)| (holder.clone(), one.t, one.n, one.f, one.want));
                (record.q, record.past, all.collect::<Vec<_>>())
            };
            let again = Record::decode(&value).map(|again| leases(&again));
            assert_eq!(again, Ok(leases(&record)));
        }
    }
    if let Ok(membership) = Membership::decode(data) {
        let again = Membership::decode(&membership.encode());
        assert!(again.is_ok_and(|again| (again.t, again.bye, again.o) == (membership.t, membership.bye, membership.o)));
    }
}

/// A configuration is right, or each finding has a message and a cure. What is in force reads as the same, but for what
/// is never shown: users and a password.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse("f", text) {
        Err(findings) => {
            assert!(findings.have_errors());
            assert!(findings.iter().all(|one| one.to_string().contains("; ")));
        }
        Ok(config) if !text.contains("users") && !text.contains("password") => {
            let shown = config.effective().to_string();
            let again = Config::parse("f", &shown).unwrap_or_else(|findings| panic!("{findings}\n{shown}"));
            let plain = |text: &str| text.replace("  # default", "");
            assert_eq!(plain(&shown), plain(&again.effective().to_string()));
        }
        Ok(_) => {}
    }
}

/// The CONNECT that weir writes means the same as the one that it read, and weir accepts as JSON what serde_json
/// accepts.
pub fn connect(data: &[u8]) {
    let json = serde_json::from_slice::<IgnoredAny>(data).is_ok();
    match Connect::parse(data) {
        Err(ConnectError::Syntax) => assert!(!json),
        Err(_) => assert!(json),
        Ok(connect) => {
            assert!(json);
            let mut line = Vec::new();
            connect.write(&mut line);
            let breaks = line.iter().filter(|byte| matches!(byte, b'\r' | b'\n')).count();
            assert!(breaks == 2 && line.ends_with(b"\r\n"));
            let ClientLine::Connect(written) = client_line(&line) else { panic!("not a CONNECT") };
            let again = Connect::parse(written).expect("canonical");
            assert_eq!(again, connect);
            let mut second = Vec::new();
            again.write(&mut second);
            assert_eq!(line, second);
        }
    }
}

/// A rewritten INFO is one object without duplicates, nulls or the server's URLs, and keeps the meaning of the
/// server's.
pub fn info(data: &[u8]) {
    let Ok(info) = Info::parse(data) else { return };
    let advertise = ["weir:4222".to_owned()];
    let urls = if data.len() % 4 < 2 { Urls::Clients } else { Urls::Leafnodes };
    let rewrite = Rewrite {
        advertise: if data.len() % 2 == 0 { &advertise } else { &[] },
        urls,
        host: "weir",
        port: 4222,
        version: "2.10.0",
        client_ip: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
        tls_required: true,
        tls_available: false,
        tls_verify: false,
        keep_nonce: true,
        compression: None,
    };
    let mut line = Vec::new();
    info.rewrite(&rewrite, &mut line);
    let breaks = line.iter().filter(|byte| matches!(byte, b'\r' | b'\n')).count();
    assert!(breaks == 2 && line.ends_with(b"\r\n"));
    let json = line.strip_prefix(b"INFO ").expect("INFO");
    let again = Info::parse(json).expect("rewritten");
    assert_eq!(
        (again.server_id(), again.nonce(), again.max_payload(), again.client_id(), again.ldm(), again.remote_account()),
        (info.server_id(), info.nonce(), info.max_payload(), info.client_id(), info.ldm(), info.remote_account()),
    );
    assert!(again.version() == "2.10.0" && again.tls_required() && !again.tls_available());
    let mut second = Vec::new();
    again.rewrite(&rewrite, &mut second);
    assert_eq!(line, second);
    if let Ok(serde_json::Value::Object(object)) = serde_json::from_slice(json) {
        assert!(object.values().all(|value| !value.is_null()));
        let is_to_clients = urls == Urls::Clients;
        assert_eq!(object.contains_key("connect_urls"), is_to_clients && !rewrite.advertise.is_empty());
        assert_eq!(object.contains_key("leafnode_urls"), !is_to_clients);
        assert!(!object.contains_key("ws_connect_urls"));
    }
}

/// A table of subscriptions says what a plain map says. The lines of `data` are what client and server send: `S` and
/// the arguments of a SUB, `U` and those of an UNSUB, `D` and the sid of a message.
pub fn subscriptions(data: &[u8]) {
    let (mut table, mut map) = (Subscriptions::new(usize::MAX), BTreeMap::<&[u8], (Vec<&[u8]>, u32, u32)>::new());
    for line in data.split(|byte| *byte == b'\n') {
        let Some((&kind, arguments)) = line.split_first() else { continue };
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
        let words: Vec<_> = arguments.split(is_blank).filter(|word| !word.is_empty()).collect();
        match (kind, &words[..]) {
            (b'S', [rest @ .., sid]) if matches!(rest.len(), 1 | 2) => {
                // Longer ones than any server reads find no room.
                if matches!(table.subscribe(arguments), Ok(Some(Subscribed::New))) {
                    map.entry(sid).or_insert((rest.to_vec(), 0, 0));
                }
            }
            (b'U', [sid, max @ ..]) if max.len() < 2 => {
                table.unsubscribe(arguments);
                let is_size = |word: &&&[u8]| word.len() <= 9 && word.iter().all(u8::is_ascii_digit);
                let max = max.first().filter(is_size).and_then(|word| str::from_utf8(word).ok()?.parse().ok()).unwrap_or(0);
                if let Some(one) = map.get_mut(sid) {
                    one.2 = max;
                    if max <= one.1 {
                        map.remove(sid);
                    }
                }
            }
            (b'D', [sid]) => {
                table.delivered(sid, 1);
                if let Some(one) = map.get_mut(sid) {
                    one.1 += 1;
                    if one.2 > 0 && one.1 >= one.2 {
                        map.remove(sid);
                    }
                }
            }
            (b'S', _) => assert_eq!(table.subscribe(arguments), Ok(None)),
            (b'U', _) => assert!(!table.unsubscribe(arguments)),
            _ => {}
        }
        assert_eq!(table.len(), map.len());
    }
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for (sid, (rest, delivered, max)) in map {
        let line = |words: &[&[u8]]| words.join(&b' ');
        expected.push(line(&[&[&b"SUB"[..]], &rest[..], &[sid]].concat()));
        if max > 0 {
            expected.push(line(&[b"UNSUB", sid, (max - delivered).to_string().as_bytes()]));
        }
    }
    let mut words = Vec::new();
    table.write(&mut words);
    let mut written: Vec<Vec<u8>> = words.split(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\r")).map(<[u8]>::to_vec).collect();
    written.sort();
    expected.sort();
    assert_eq!(written, expected);
}

/// Each framing finds the same in a stream however it is cut, and also if it is cut into single bytes. The first byte
/// of `data` chooses the cut. The same holds for a stream that repeats, as on a busy connection. No CONNECT that
/// nats-server's parser finds is missed.
pub fn ops(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else {
        return;
    };
    for stream in [stream, &stream.repeat(3)] {
        for step in [1, usize::from(cut) + 1] {
            ops_cut(stream, step);
        }
    }
}

fn ops_cut(stream: &[u8], step: usize) {
    let (of_client, of_leafnode) = (client(stream, stream.len().max(1)), leafnode(stream, stream.len().max(1)));
    assert_eq!(of_client, client(stream, step));
    assert_eq!(of_leafnode, leafnode(stream, step));
    let parts: Vec<&[u8]> = stream.chunks(step).collect();
    let mut server = Reference::new(64);
    match (server.parse(&parts), of_client.0) {
        (Found::Connect(theirs), ClientScan::Connect { at }) => assert_eq!(theirs, at),
        (Found::Connect(theirs), ClientScan::Violation { at } | ClientScan::Hmsg { at }) => assert!(at < theirs),
        (Found::Connect(theirs), ClientScan::Pass) => panic!("a client's CONNECT at {theirs} is missed"),
        (Found::Nothing, ClientScan::Pass) => {
            assert_eq!((server.messages, server.at_start()), (of_client.1, of_client.2));
        }
        (Found::Nothing | Found::Error(_), _) => {}
    }
    // A line that is captured is read by another than the framing.
    let (captures, over, messages, at_boundary) = of_leafnode;
    let mut server = Reference::of_leafnode(usize::MAX);
    match (server.parse(&parts), over) {
        (Found::Connect(theirs), Some(LeafnodeScan::Connect { at })) if captures == 0 => assert_eq!(theirs, at),
        (Found::Connect(theirs), Some(LeafnodeScan::Violation { at })) if captures == 0 => assert!(at < theirs),
        (Found::Connect(theirs), over) => assert!(captures > 0, "a leafnode's CONNECT at {theirs} is missed: {over:?}"),
        (Found::Nothing, None) if captures == 0 => {
            assert_eq!((server.messages, server.at_start()), (messages, at_boundary));
        }
        (Found::Nothing | Found::Error(_), _) => {}
    }
    for capture in [Capture::InfoOnly, Capture::EveryControlLine] {
        let found = |step| self::server(stream, step, capture);
        assert_eq!(found(stream.len().max(1)), found(step));
    }
}

fn client(stream: &[u8], step: usize) -> (ClientScan, u64, bool) {
    let mut framing = ClientFraming::new(64);
    for (index, chunk) in stream.chunks(step).enumerate() {
        let found = match framing.scan(chunk) {
            ClientScan::Pass => continue,
            ClientScan::Connect { at } => ClientScan::Connect { at: index * step + at },
            ClientScan::Violation { at } => ClientScan::Violation { at: index * step + at },
            ClientScan::Hmsg { at } => ClientScan::Hmsg { at: index * step + at },
        };
        return (found, framing.messages(), framing.at_boundary());
    }
    (ClientScan::Pass, framing.messages(), framing.at_boundary())
}

/// Returns the number of captured lines, where the scan was over, the number of messages, and whether the stream is
/// between two operations.
fn leafnode(stream: &[u8], step: usize) -> (usize, Option<LeafnodeScan>, u64, bool) {
    let (mut framing, mut captures, mut open) = (LeafnodeFraming::default(), 0, false);
    for (index, chunk) in stream.chunks(step).enumerate() {
        let mut at = 0;
        while at < chunk.len() {
            if open {
                let end = memchr::memchr(b'\n', &chunk[at..]);
                (open, at) = (end.is_none(), end.map_or(chunk.len(), |end| at + end + 1));
                continue;
            }
            let over = match framing.scan(&chunk[at..]) {
                LeafnodeScan::Pass => break,
                LeafnodeScan::Line { at: start } => {
                    (captures, open, at) = (captures + 1, true, at + start);
                    continue;
                }
                LeafnodeScan::Connect { at: found } => LeafnodeScan::Connect { at: index * step + at + found },
                LeafnodeScan::Violation { at: bad } => LeafnodeScan::Violation { at: index * step + at + bad },
            };
            return (captures, Some(over), framing.messages(), framing.at_boundary());
        }
    }
    (captures, None, framing.messages(), framing.at_boundary() && !open)
}

/// Returns the captured lines, the index of the violation, and the number of messages.
fn server(stream: &[u8], step: usize, capture: Capture) -> (Vec<u8>, Option<usize>, u64) {
    let mut framing = ServerFraming::new(capture);
    let (mut lines, mut open) = (Vec::new(), false);
    for (index, chunk) in stream.chunks(step).enumerate() {
        let mut at = 0;
        while at < chunk.len() {
            if open {
                let end = memchr::memchr(b'\n', &chunk[at..]).map_or(chunk.len(), |end| at + end + 1);
                lines.extend_from_slice(&chunk[at..end]);
                open = chunk[end - 1] != b'\n';
                at = end;
                continue;
            }
            match framing.scan(&chunk[at..]) {
                ServerScan::Pass => break,
                ServerScan::Line { at: start } => (open, at) = (true, at + start),
                ServerScan::Violation { at: bad } => {
                    return (lines, Some(index * step + at + bad), framing.messages());
                }
            }
        }
    }
    (lines, None, framing.messages())
}

/// A preface has the same result wherever it is cut, and keeps what follows CONNECT.
pub fn preface(data: &[u8]) {
    let play = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut preface = Preface::new(256);
        let mut connect = None;
        for piece in pieces {
            match preface.advance(piece) {
                Ok(came) => {
                    assert!(came.is_none() || connect.is_none(), "CONNECT twice");
                    connect = connect.or(came);
                }
                Err(wrong) => return Err(wrong),
            }
        }
        let ping = connect.is_some() && preface.take_ping();
        let rest = preface.into_pipelined();
        // Of a single piece everything is kept; the reader stops reading when there is no room.
        assert!(rest.len() <= data.len());
        Ok((connect, ping, rest))
    };
    let whole = play(&mut std::iter::once(data));
    assert_eq!(whole, play(&mut data.chunks(1)));
    for cut in 0..data.len().min(64) {
        assert_eq!(whole, play(&mut [&data[..cut], &data[cut..]].into_iter()), "cut at {cut}");
    }
}

/// Frames decode to the same bytes however they are cut and however small the output buffer is. A client decodes what
/// weir encodes for it, and a server what weir masks for it. A request or an answer opens a WebSocket only once it is
/// complete. The first byte chooses what was negotiated.
pub fn websocket(data: &[u8]) {
    let Some((&agreed, stream)) = data.split_first() else { return };
    let frame_size = [FrameSize::Unlimited, FrameSize::Small, FrameSize::SmallUnlessDeflated][usize::from(agreed >> 2) % 3];
    let negotiated = Negotiated { deflate: agreed & 1 != 0, unmasked: agreed & 2 != 0, frame_size };
    let whole = decode(negotiated, stream, stream.len().max(1), 4096);
    for (step, room) in [(1, 1), (usize::from(agreed >> 4) + 2, 100)] {
        let cut = decode(negotiated, stream, step, room);
        if whole.2.is_some_and(|broken| broken.0.code == 1007) {
            // How much is decompressed before the error depends on the size of the output buffer.
            assert_eq!(whole.2, cut.2);
            assert!(whole.0.starts_with(&cut.0) || cut.0.starts_with(&whole.0));
        } else {
            assert_eq!(whole, cut);
        }
    }

    let negotiated = Negotiated { unmasked: true, ..negotiated };
    let (mut framed, mut pool) = (Vec::new(), DeflatePool::default());
    let sent = stream.repeat(usize::from(agreed >> 4) + 1);
    encode::data(Role::Server, negotiated, &sent, &mut pool, &mut framed);
    let decoded = decode(negotiated, &framed, 1000, 777);
    assert!(decoded == (sent.clone(), Vec::new(), None));
    let (masked, mut framed) = (Role::Client { next_key: || [1, 200, 3, 77] }, Vec::new());
    encode::data(masked, Negotiated::default(), &sent, &mut pool, &mut framed);
    let decoded = decode(Negotiated::default(), &framed, 1000, 777);
    assert!(decoded == (sent, Vec::new(), None));

    let request = Request::new(*b"the sample nonce");
    if let Ok(Some(length)) = request.read_answer(stream) {
        for cut in 0..length {
            assert_eq!(request.read_answer(&stream[..cut]), Ok(None), "cut at {cut}");
        }
    }

    let rules = Rules { compression: true, ..Rules::default() };
    if let Ok(Some(_)) = rules.read(stream) {
        for cut in 0..stream.len() {
            assert_eq!(rules.read(&stream[..cut]), Ok(None), "cut at {cut}");
        }
    }
}

/// Returns the decoded bytes, the answers to control frames, and the violation.
fn decode(negotiated: Negotiated, stream: &[u8], step: usize, room: usize) -> (Vec<u8>, Vec<u8>, Option<Violation>) {
    /// A compressed message can be a thousand times as long as the input.
    const ENOUGH: usize = 1 << 20;
    let (mut decoder, mut pool) = (Decoder::new(Role::Server, negotiated), DeflatePool::default());
    let (mut decoded, mut replies, mut out) = (Vec::new(), Vec::new(), vec![0; room]);
    for mut chunk in stream.chunks(step) {
        loop {
            let step = match decoder.decode(chunk, &mut out, &mut replies, &mut pool) {
                Ok(step) => step,
                Err(broken) => return (decoded, replies, Some(broken)),
            };
            assert!(step.given > 0 || step.taken > 0 || chunk.is_empty(), "it goes on");
            decoded.extend_from_slice(&out[..step.given]);
            chunk = &chunk[step.taken..];
            if decoded.len() > ENOUGH {
                decoded.truncate(ENOUGH);
                return (decoded, Vec::new(), None);
            }
            if decoder.is_closed() || chunk.is_empty() && !decoder.has_more() {
                break;
            }
        }
        if decoder.is_closed() {
            replies.extend(decoder.take_close_reply());
            break;
        }
    }
    (decoded, replies, None)
}

/// A stream of S2 gives the same however it comes, and what is written is read. The first byte is the level and the
/// room.
pub fn s2(data: &[u8]) {
    let Some((&first, bytes)) = data.split_first() else { return };
    let level = [Level::Uncompressed, Level::Fast, Level::Better, Level::Best][usize::from(first & 3)];
    let (mut compressor, mut written) = (Compressor::default(), Vec::new());
    s2::encode::begin(&mut written);
    let begun = written.clone();
    for block in bytes.chunks(usize::from(first) * 16 + 1) {
        compressor.block(level, block, &mut written);
    }
    assert_eq!(of_s2(&written, 7, 1000, true), (bytes.to_vec(), None));

    let length = (bytes.len() as u32).to_le_bytes();
    let block = [&begun[..], &[first >> 7], &length[..3], bytes].concat();
    for stream in [bytes, &[&begun[..], bytes].concat(), &block] {
        for in_yet in [false, true] {
            let whole = of_s2(stream, usize::MAX, 100_000, in_yet);
            let cut = of_s2(stream, usize::from(first) + 1, usize::from(first) * 5 + 1, in_yet);
            assert!(whole == cut, "{:?} and {:?} with {} and {} bytes", whole.1, cut.1, whole.0.len(), cut.0.len());
        }
    }
}

/// Returns the decoded bytes, and the violation.
fn of_s2(stream: &[u8], step: usize, room: usize, in_yet: bool) -> (Vec<u8>, Option<s2::decode::Violation>) {
    /// A block can be a thousand times as long as the input.
    const ENOUGH: usize = 1 << 20;
    let mut decoder = s2::decode::Decoder::default();
    if in_yet {
        decoder.let_in();
    }
    let (mut decoded, mut out) = (Vec::new(), vec![0; room]);
    for mut chunk in stream.chunks(step) {
        loop {
            let step = match decoder.decode(chunk, &mut out) {
                Ok(step) => step,
                Err(broken) => return (decoded, Some(broken)),
            };
            decoded.extend_from_slice(&out[..step.given]);
            chunk = &chunk[step.taken..];
            if decoded.len() > ENOUGH {
                decoded.truncate(ENOUGH);
                return (decoded, None);
            }
            if decoder.is_stalled() && step.given == 0 {
                return (decoded, None);
            }
            assert!(step.given > 0 || step.taken > 0 || chunk.is_empty(), "it goes on");
            if chunk.is_empty() && !decoder.has_more() {
                break;
            }
        }
    }
    (decoded, None)
}

/// A state of the framing that another process has written, up to the first NUL, is refused, or follows any stream.
pub fn framing_state(data: &[u8]) {
    let nul = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (text, stream) = (&data[..nul], data.get(nul + 1..).unwrap_or_default());
    follow(text, stream, ClientFraming::is_sound, ClientFraming::scan);
    follow(text, stream, ServerFraming::is_sound, ServerFraming::scan);
}

/// One that is written and read in the middle of the stream finds the same in the rest of it.
fn follow<F, S>(text: &[u8], stream: &[u8], is_sound: fn(&F) -> bool, scan: fn(&mut F, &[u8]) -> S)
where
    F: Serialize + DeserializeOwned + PartialEq + Debug,
    S: PartialEq + Debug,
{
    let Some(mut framing) = serde_json::from_slice(text).ok().filter(is_sound) else { return };
    let (first, second) = stream.split_at(stream.len() / 2);
    let _ = scan(&mut framing, first);
    let written = serde_json::to_vec(&framing).expect("text");
    let mut again: F = serde_json::from_slice(&written).expect("what was written");
    assert_eq!(again, framing);
    assert_eq!(scan(&mut again, second), scan(&mut framing, second));
    assert_eq!(again, framing);
}
