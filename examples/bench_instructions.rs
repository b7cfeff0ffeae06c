//! Runs one path a given number of times, so that `scripts/bench-instructions` can count its instructions. Without
//! arguments it lists the paths.

use std::{
    env,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
    time::Instant,
};

use weir::internals::{
    protocol::{
        connect::Connect,
        info::{Info, OwnInfo, Urls},
        op::{Capture, ClientFraming, ServerFraming},
    },
    upstream::{Urgency, placement},
};

#[path = "../benches/samples/servers.rs"]
mod servers;
#[path = "../benches/samples/words.rs"]
mod words;

use words::{CONNECT, INFO};

/// Messages in one chunk, and so operations in one step of the framing paths.
const MESSAGES: u64 = 100;

const PATHS: [&str; 13] = [
    "publish-16",
    "publish-128",
    "publish-alone-16",
    "deliver-16",
    "deliver-128",
    "connect-parse-and-write",
    "info-parse-and-rewrite",
    "info-again-and-rewrite",
    "greeting-write",
    "choose-of-3",
    "choose-of-100",
    "place-of-3",
    "place-of-100",
];

fn messages(line: &str, size: usize) -> Vec<u8> {
    [format!("{line} {size}\r\n").as_bytes(), &vec![b'x'; size], b"\r\n"].concat().repeat(MESSAGES as usize)
}

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let (path, count) = (args.next(), args.next().and_then(|count| count.parse().ok()));
    let (Some(path), Some(count)) = (path, count) else {
        PATHS.iter().for_each(|path| println!("{path}"));
        return ExitCode::SUCCESS;
    };
    match path.as_str() {
        "publish-16" => client(&messages("PUB orders.eu.created", 16), count / MESSAGES),
        "publish-128" => client(&messages("PUB orders.eu.created", 128), count / MESSAGES),
        "publish-alone-16" => client(b"PUB orders.eu.created 16\r\n0123456789abcdef\r\n", count),
        "deliver-16" => server(&messages("MSG orders.eu.created 12", 16), count / MESSAGES),
        "deliver-128" => server(&messages("MSG orders.eu.created 12", 128), count / MESSAGES),
        "connect-parse-and-write" => connect(count),
        "info-parse-and-rewrite" => info(count, None),
        "info-again-and-rewrite" => info(count, Info::parse(INFO).ok().as_ref()),
        "greeting-write" => greeting(count),
        "choose-of-3" => choose(3, count),
        "choose-of-100" => choose(100, count),
        "place-of-3" => place(3, count),
        "place-of-100" => place(100, count),
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn client(chunk: &[u8], times: u64) {
    let mut framing = ClientFraming::new(4096);
    for _ in 0..times {
        black_box(framing.scan(black_box(chunk)));
    }
}

fn server(chunk: &[u8], times: u64) {
    let mut framing = ServerFraming::new(Capture::InfoOnly);
    for _ in 0..times {
        black_box(framing.scan(black_box(chunk)));
    }
}

fn connect(times: u64) {
    let mut out = Vec::with_capacity(4096);
    for _ in 0..times {
        out.clear();
        if let Ok(connect) = Connect::parse(black_box(CONNECT)) {
            connect.write(&mut out);
        }
        black_box(&out);
    }
}

/// As at the first connection to a server; or, with `known`, as at every later one, which compares with the first one's
/// INFO.
fn info(times: u64, known: Option<&Info>) {
    let rewrite = words::rewrite();
    let mut out = Vec::with_capacity(4096);
    for _ in 0..times {
        out.clear();
        if let Ok(info) = Info::reparse(black_box(INFO), known) {
            info.rewrite(&rewrite, &mut out);
        }
        black_box(&out);
    }
}

fn greeting(times: u64) {
    let infos: Vec<Info> = Info::parse(INFO).into_iter().collect();
    let infos: Vec<&Info> = infos.iter().collect();
    let own_info = OwnInfo::new("NWEIR", "weir", &infos, "weir", 4222, (Urls::Clients, &[]));
    let mut out = Vec::with_capacity(4096);
    for _ in 0..times {
        out.clear();
        own_info.write(IpAddr::V4(Ipv4Addr::LOCALHOST), &mut out);
        black_box(&out);
    }
}

fn choose(count: u32, times: u64) {
    let views = servers::views(count);
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..times {
        black_box(placement::choose(black_box(&views).iter().copied(), Urgency::CanWait(1), &mut rng));
    }
}

/// Takes a slot and gives it back.
fn place(count: usize, times: u64) {
    let servers = servers::servers(count, 10_000);
    let mut rng = fastrand::Rng::with_seed(1);
    let now = Instant::now();
    for _ in 0..times {
        black_box(servers.place(black_box(now), &[], Urgency::CanWait(1), &mut rng));
    }
}
