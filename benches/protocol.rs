//! What the protocol costs: per message while relaying, per connection in the preface.
//!
//! `cargo bench --bench protocol`

use std::net::{IpAddr, Ipv4Addr};

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use weir::internals::protocol::connect::Connect;
use weir::internals::protocol::control_line::{LineScanner, client_line};
use weir::internals::protocol::info::{Info, OwnInfo, Urls};
use weir::internals::protocol::op::{Capture, ClientFraming, ServerFraming};

#[path = "samples/words.rs"]
mod samples;

use samples::{CONNECT, INFO};

/// The size of a read buffer.
const CHUNK: usize = 32 * 1024;

fn main() {
    divan::main();
}

/// A buffer full of the same message, and the number of messages.
fn messages(line: &str, size: usize) -> (Vec<u8>, usize) {
    let one = [format!("{line} {size}\r\n").as_bytes(), &vec![b'x'; size], b"\r\n"].concat();
    let count = CHUNK / one.len();
    (one.repeat(count), count)
}

/// A buffer full of messages of about this size, of which no two neighbours have the same control line.
fn mixed_messages(line: &str, size: usize) -> (Vec<u8>, usize) {
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut all, mut count) = (Vec::new(), 0);
    loop {
        let subject = ["eu.created", "us.created", "eu.paid", "us.cancelled.by.client", "de"][rng.usize(..5)];
        let size = rng.usize(size / 2..=size + size / 2);
        let one = [format!("{line}{subject} {size}\r\n").as_bytes(), &vec![b'x'; size], b"\r\n"].concat();
        if all.len() + one.len() > CHUNK {
            return (all, count);
        }
        all.extend(one);
        count += 1;
    }
}

#[divan::bench(args = [16, 128, 1024])]
fn publish(bencher: Bencher<'_, '_>, size: usize) {
    let (chunk, count) = messages("PUB orders.eu.created", size);
    let mut framing = ClientFraming::new(4096);
    bencher
        .counter(ItemsCount::new(count))
        .counter(BytesCount::of_slice(&chunk[..]))
        .bench_local(|| framing.scan(black_box(&chunk)));
}

#[divan::bench(args = [16, 128, 1024])]
fn publish_with_reply(bencher: Bencher<'_, '_>, size: usize) {
    let (chunk, count) = messages("PUB orders.eu.created _INBOX.aBcDeFgHiJkLmNoPqRsTuV.1", size);
    let mut framing = ClientFraming::new(4096);
    bencher.counter(ItemsCount::new(count)).bench_local(|| framing.scan(black_box(&chunk)));
}

#[divan::bench(args = [16, 128, 1024])]
fn publish_with_headers(bencher: Bencher<'_, '_>, size: usize) {
    let (chunk, count) = messages("HPUB orders.eu.created 12", size);
    let mut framing = ClientFraming::new(4096);
    bencher.counter(ItemsCount::new(count)).bench_local(|| framing.scan(black_box(&chunk)));
}

#[divan::bench(args = [16, 128, 1024])]
fn deliver(bencher: Bencher<'_, '_>, size: usize) {
    let (chunk, count) = messages("MSG orders.eu.created 12", size);
    let mut framing = ServerFraming::new(Capture::InfoOnly);
    bencher
        .counter(ItemsCount::new(count))
        .counter(BytesCount::of_slice(&chunk[..]))
        .bench_local(|| framing.scan(black_box(&chunk)));
}

#[divan::bench(args = [16, 128, 1024])]
fn publish_mixed(bencher: Bencher<'_, '_>, size: usize) {
    let (chunk, count) = mixed_messages("PUB orders.", size);
    let mut framing = ClientFraming::new(4096);
    bencher.counter(ItemsCount::new(count)).bench_local(|| framing.scan(black_box(&chunk)));
}

#[divan::bench(args = [16, 128, 1024])]
fn deliver_mixed(bencher: Bencher<'_, '_>, size: usize) {
    let (chunk, count) = mixed_messages("MSG orders.", size);
    let mut framing = ServerFraming::new(Capture::InfoOnly);
    bencher.counter(ItemsCount::new(count)).bench_local(|| framing.scan(black_box(&chunk)));
}

/// One message per read, as on a quiet connection.
#[divan::bench]
fn publish_alone(bencher: Bencher<'_, '_>) {
    let message = b"PUB orders.eu.created 16\r\n0123456789abcdef\r\n";
    let mut framing = ClientFraming::new(4096);
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| framing.scan(black_box(message)));
}

/// The slow path: the end of a chunk cuts every control line.
#[divan::bench]
fn publish_cut(bencher: Bencher<'_, '_>) {
    let parts: [&[u8]; 2] = [b"PUB orders.eu.cre", b"ated 16\r\n0123456789abcdef\r\n"];
    let mut framing = ClientFraming::new(4096);
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        for part in parts {
            black_box(framing.scan(black_box(part)));
        }
    });
}

#[divan::bench]
fn subscribe(bencher: Bencher<'_, '_>) {
    let chunk = b"SUB orders.eu.created 12\r\n".repeat(100);
    let mut framing = ClientFraming::new(4096);
    bencher.counter(ItemsCount::new(100usize)).bench_local(|| framing.scan(black_box(&chunk)));
}

#[divan::bench]
fn connect_line() -> usize {
    let line = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"go\"}\r\n";
    let end = LineScanner::new(4096).find(black_box(line)).ok().flatten().unwrap_or(0);
    black_box(client_line(&line[..end]));
    end
}

#[divan::bench]
fn connect_parse_and_write(bencher: Bencher<'_, '_>) {
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        if let Ok(connect) = Connect::parse(black_box(CONNECT)) {
            connect.write(&mut out);
        }
        out.len()
    });
}

#[divan::bench]
fn info_parse_and_rewrite(bencher: Bencher<'_, '_>) {
    let rewrite = samples::rewrite();
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        if let Ok(info) = Info::parse(black_box(INFO)) {
            info.rewrite(&rewrite, &mut out);
        }
        out.len()
    });
}

#[divan::bench]
fn own_info_write(bencher: Bencher<'_, '_>) {
    let infos: Vec<Info> = Info::parse(INFO).into_iter().collect();
    let infos: Vec<&Info> = infos.iter().collect();
    let own_info = OwnInfo::new("NWEIR", "weir", &infos, "weir", 4222, (Urls::Clients, &[]));
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        own_info.write(IpAddr::V4(Ipv4Addr::LOCALHOST), &mut out);
        out.len()
    });
}
