//! One path, so many times, for `scripts/bench-instructions` to count instructions of. Without arguments it lists the paths.

use std::{
    env,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
};

use weir::{
    protocol::{
        connect::Connect,
        info::{Greeting, Info, Rewrite},
        op::{Capture, ClientFraming, ServerFraming},
    },
    upstream::placement::{Rank, View, choose},
};

const CONNECT: &[u8] = br#"{"verbose":false,"pedantic":false,"jwt":null,"nkey":null,"sig":null,"name":"orders","echo":true,"lang":"rust","version":"0.51.0","protocol":1,"tls_required":false,"user":"alice","pass":"wonderland","auth_token":null,"headers":true,"no_responders":true}"#;
const INFO: &[u8] = br#"{"server_id":"NBZ7GXNHHT4DHTO5HB6LZ5T2NOBVTYYHB2XVS3DBWBBZ","server_name":"n1","version":"2.15.1","proto":1,"git_commit":"abcdef0","go":"go1.26.8","host":"0.0.0.0","port":4222,"headers":true,"auth_required":true,"max_payload":1048576,"jetstream":true,"client_id":5,"client_ip":"127.0.0.1","cluster":"c1","connect_urls":["10.0.0.1:4222","10.0.0.2:4222"],"api_lvl":3,"xkey":"XAB"}"#;

/// Messages in one chunk, and so operations in one step of the framing paths.
const MESSAGES: u64 = 100;

const PATHS: [&str; 10] = [
    "publish-16",
    "publish-128",
    "publish-alone-16",
    "deliver-16",
    "deliver-128",
    "connect-parse-and-write",
    "info-parse-and-rewrite",
    "greeting-write",
    "choose-of-3",
    "choose-of-100",
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
        "info-parse-and-rewrite" => info(count),
        "greeting-write" => greeting(count),
        "choose-of-3" => place(3, count),
        "choose-of-100" => place(100, count),
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

fn info(times: u64) {
    let rewrite = Rewrite {
        advertise: &[],
        host: "weir",
        port: 4222,
        version: "2.10.0",
        client_ip: "192.0.2.1",
        tls_required: false,
        tls_available: false,
        tls_verify: false,
        keep_nonce: false,
    };
    let mut out = Vec::with_capacity(4096);
    for _ in 0..times {
        out.clear();
        if let Ok(info) = Info::parse(black_box(INFO)) {
            info.rewrite(&rewrite, &mut out);
        }
        black_box(&out);
    }
}

fn greeting(times: u64) {
    let infos: Vec<Info> = Info::parse(INFO).into_iter().collect();
    let infos: Vec<&Info> = infos.iter().collect();
    let greeting = Greeting::new("NWEIR", "weir", &infos, "weir", 4222, &[]);
    let mut out = Vec::with_capacity(4096);
    for _ in 0..times {
        out.clear();
        greeting.write(black_box(12345), IpAddr::V4(Ipv4Addr::LOCALHOST), &mut out);
        black_box(&out);
    }
}

fn place(servers: u32, times: u64) {
    let view = |n: u32| View {
        rank: Rank::Eligible,
        projected: (n * 7919) % 1000,
        ceiling: 10_000,
        handshakes: n % 5,
        handshake_limit: 256,
    };
    let views: Vec<View> = (0..servers).map(view).collect();
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..times {
        black_box(choose(black_box(&views).iter().copied(), false, &mut rng));
    }
}
