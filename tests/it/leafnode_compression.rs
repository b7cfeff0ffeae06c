//! S2 between weir and the leafnodes, as between two nats-servers.

use std::time::Duration;

use ::weir::internals::protocol::s2::{
    Level,
    decode::Decoder,
    encode::{self, Compressor},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_testkit::tls::{Authority, pair};
use weir_testkit::*;

use crate::leafnodes::{Hub, before, both_ways, cluster, connected, leafnode, logs_in, never_saw, url, ways};

const USERS: &str = "authorization { users: [ { user: edge, password: pw } ] }";

fn listener(mode: &str) -> String {
    format!("kind = \"leafnode\"\ncompression = {mode:?}")
}

/// Which mode the leafnode has then; one of several that begin so where it goes by the round trip.
fn agreed<'a>(weir: &'a str, leafnode: &'a str) -> &'a str {
    match (weir, leafnode) {
        ("off", _) => "not supported",
        (_, "off") => "off",
        ("accept", "accept") => "off",
        (_, "s2_auto") => "s2_",
        ("s2_auto", "accept") => "s2_fast",
        (weir, "accept") => weir,
        (_, own) => own,
    }
}

/// Messages with headers, and as large as the servers allow, of bytes that compress and of others.
async fn large_ones_pass(from: &str, to: &str, subject: &str) {
    let mut subscriber = RawClient::connect(to, &Login::nobody().with("headers", json!(true))).await;
    subscriber.subscribe(subject, 1).await.unwrap();
    subscriber.round_trip().await.unwrap();
    let mut publisher = RawClient::connect(from, &Login::nobody().with("headers", json!(true))).await;
    let random: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(1_000_000).collect();
    eventually(PATIENCE, "the first message", async || {
        publisher.publish(subject, b"first").await.unwrap();
        match subscriber.next_within(Duration::from_millis(100)).await {
            Ok(Some(client::Op::Msg { .. })) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for payload in [&random[..], &vec![b'x'; 1024 * 1024 - 64], b"one more"] {
        let header = "NATS/1.0\r\nSite: edge\r\n\r\n";
        let (of_header, all) = (header.len(), header.len() + payload.len());
        let line = format!("HPUB {subject} {of_header} {all}\r\n{header}");
        publisher.send(&[line.as_bytes(), payload, b"\r\n"].concat()).await.unwrap();
        loop {
            let (_, came) = subscriber.next_msg().await;
            if came != b"first" {
                assert!(came.ends_with(payload) && came.len() >= payload.len(), "{} bytes came", came.len());
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mode_of_a_leafnode_goes_with_every_mode_of_weir() {
    let hub = Hub::start("n1", USERS, "").await;
    for of_weir in ["s2_auto", "s2_fast", "s2_better", "s2_best", "accept", "off"] {
        let weir = before(&[&hub]).listener(&listener(of_weir)).start().await;
        for of_leafnode in ["off", "accept", "s2_auto", "s2_fast", "s2_better", "s2_best"] {
            let remote = format!("{}, compression: {of_leafnode}", url(&weir.address, "edge:pw"));
            let leafnode = leafnode("edge1", &remote).await;
            let hubs = connected(&leafnode, 1).await;
            let (agreed, shown) = (agreed(of_weir, of_leafnode), hubs[0]["compression"].as_str().unwrap());
            let is_agreed = if agreed == "s2_" { shown.starts_with(agreed) } else { shown == agreed };
            assert!(is_agreed, "{of_weir}, {of_leafnode}: {shown}");
            both_ways(&leafnode, &hub, &Login::nobody()).await;
            never_saw(&leafnode, &[&hub]);
            if of_leafnode == "s2_fast" {
                large_ones_pass(&leafnode.address, &hub.server.address, "up").await;
                large_ones_pass(&hub.server.address, &leafnode.address, "down").await;
            }
            let leafz = hub.server.monitoring("/leafz").await.unwrap();
            assert_eq!(leafz["leafs"][0]["compression"], "not supported", "weir speaks plainly to the hub: {leafz}");
        }
        weir.assert_nothing_leaked().await;
    }
}

/// With each way to log in, and TLS towards the leafnode behind INFO and before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_below_it() {
    let authority = Authority::new("weir tests");
    let weirs = authority.issue("weir", &["127.0.0.1"]);
    for (n, way) in ways(&authority).iter().enumerate() {
        let (first, mode) = (n % 2 == 1, ["s2_fast", "s2_better", "s2_best", "accept"][n % 4]);
        let tls = format!("{}\n[listeners.tls]\n{}\nhandshake_first = {first}", listener(mode), pair(&weirs));
        let ca = authority.ca();
        let remote = format!("compression: s2_fast, tls {{ ca_file: {ca:?}, handshake_first: {first} }}");
        logs_in(way, "", |weir| weir.listener(&tls), &remote).await;
    }
}

/// A leafnode of bytes.
struct RawLeafnode {
    stream: TcpStream,
    decoder: Decoder,
    compressor: Compressor,
    /// What came, and what it said.
    raw: Vec<u8>,
    text: Vec<u8>,
    came: usize,
}

impl RawLeafnode {
    /// It has answered the first INFO with this mode, and read the second; returns both.
    async fn greeted(address: &str, mode: &str) -> (Self, Value, Value) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            line.push(stream.read_u8().await.unwrap());
        }
        let first = info(&line);
        // In pieces, as it may come.
        let answer = format!("INFO {{\"server_id\":\"EDGE\",\"compression\":{mode:?}}}\r\n");
        for piece in answer.as_bytes().chunks(20) {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut decoder = Decoder::default();
        decoder.let_in();
        let (compressor, raw, text, came) = Default::default();
        let mut one = Self { stream, decoder, compressor, raw, text, came };
        let second = info(one.line().await.as_bytes());
        let mut begin = Vec::new();
        encode::begin(&mut begin);
        one.stream.write_all(&begin).await.unwrap();
        (one, first, second)
    }

    async fn say(&mut self, text: &str) {
        let mut block = Vec::new();
        self.compressor.block(Level::Better, text.as_bytes(), &mut block);
        self.stream.write_all(&block).await.unwrap();
    }

    /// Reads more; `false` at the end.
    async fn read(&mut self) -> bool {
        let n = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.raw)).await.expect("bytes in time");
        self.came += *n.as_ref().unwrap_or(&0);
        let mut out = [0; 4096];
        loop {
            let step = self.decoder.decode(&self.raw, &mut out).expect("what weir writes is S2");
            self.raw.drain(..step.taken);
            self.text.extend_from_slice(&out[..step.given]);
            if step.given == 0 {
                return n.is_ok_and(|n| n > 0);
            }
        }
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.text.iter().position(|&byte| byte == b'\n') {
                return String::from_utf8(self.text.drain(..=end).collect()).unwrap();
            }
            assert!(self.read().await, "the stream has ended behind {:?}", String::from_utf8_lossy(&self.text));
        }
    }

    /// The next line that begins so.
    async fn line_of(&mut self, verb: &str) -> String {
        loop {
            let line = self.line().await;
            if line.starts_with(verb) {
                return line;
            }
        }
    }

    /// All that still comes.
    async fn rest(mut self) -> String {
        while self.read().await {}
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

fn info(line: &[u8]) -> Value {
    serde_json::from_slice(line.strip_prefix(b"INFO ").expect("an INFO")).unwrap()
}

const CONNECT: &str = "CONNECT {\"name\":\"edge\",\"protocol\":1,\"headers\":true,\"compress_mode\":\"s2_fast\"}\r\n";

/// The INFO in the stream, the answer to CONNECT, and the INFO by which a hub tells of a change of the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_info_in_the_stream_names_a_hubs_address() {
    let mut hubs = cluster(2).await;
    let weir = before(&[&hubs[0]]).listener(&listener("s2_best")).start().await;
    let (mut raw, first, second) = RawLeafnode::greeted(&weir.address, "s2_auto").await;
    assert_eq!((&first, &first["compression"]), (&second, &"s2_best".into()), "the same nonce of the same hub");
    raw.say(CONNECT).await;
    let answer = info(raw.line().await.as_bytes());
    assert_eq!((&answer["connect_info"], &answer["remote_account"]), (&json!(true), &json!("$G")), "{answer}");
    hubs[1].server.kill9();
    let told = info(raw.line_of("INFO").await.as_bytes());
    for info in [&first, &answer, &told] {
        assert_eq!((&info["leafnode_urls"], info.get("ip")), (&json!([]), None), "{info}");
        assert!(hubs.iter().all(|hub| !info.to_string().contains(&hub.leafnodes)), "{info}");
    }
    drop(raw);
    weir.assert_nothing_leaked().await;
}

/// What one message takes on the line, where weir compresses and where it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_hub_sends_is_compressed_towards_the_leafnode() {
    let hub = Hub::start("n1", "", "").await;
    let payload = "{\"site\":\"edge-1\",\"sensor\":17,\"value\":21.5,\"unit\":\"celsius\"}".repeat(400);
    for mode in ["s2_auto", "s2_fast", "s2_better", "s2_best"] {
        let weir = before(&[&hub]).listener(&listener(mode)).start().await;
        let (mut raw, ..) = RawLeafnode::greeted(&weir.address, "s2_auto").await;
        raw.say(CONNECT).await;
        raw.line_of("INFO").await;
        raw.say("LS+ down\r\nPING\r\n").await;
        raw.line_of("PONG").await;
        let before = raw.came;
        let mut core = RawClient::connect(&hub.server.address, &Login::nobody()).await;
        core.publish("down", payload.as_bytes()).await.unwrap();
        raw.line_of("LMSG").await;
        assert_eq!(raw.line().await.trim_end(), payload);
        let took = raw.came - before;
        assert!(mode == "s2_auto" || took * 4 < payload.len(), "{mode}: {took} bytes");
        // It is heard, too.
        core.subscribe("up", 1).await.unwrap();
        raw.line_of("LS+ up").await;
        raw.say("LMSG up 5\r\nhello\r\n").await;
        assert_eq!(core.next_msg().await.1, b"hello");
        drop(raw);
        weir.assert_nothing_leaked().await;
    }
}

/// A quota holds for the account of a CONNECT that comes compressed, and its refusal is compressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_hold_for_who_says_compressed_who_it_is() {
    let users = "authorization { users: [ { user: edge, password: pw, account: SITES } ] }";
    let hub = Hub::start("n1", users, "accounts { SITES {} }").await;
    let account = "users = [\"edge\"]\nmax_connections = 1";
    let weir = before(&[&hub]).listener(&listener("s2_fast")).account("SITES", account).start().await;
    let connect = CONNECT.replace("{\"name\"", "{\"user\":\"edge\",\"pass\":\"pw\",\"name\"");
    let (mut first, ..) = RawLeafnode::greeted(&weir.address, "s2_fast").await;
    first.say(&connect).await;
    first.line_of("INFO").await;
    let (mut second, ..) = RawLeafnode::greeted(&weir.address, "s2_fast").await;
    second.say(&connect).await;
    let told = second.rest().await;
    assert!(told.contains("-ERR 'maximum account active connections exceeded'"), "{told:?}");
    weir.until("it is counted", |now| now.sum_where("weir_refused_total", "reason", "account_quota") == 1.0).await;
    drop(first);
    weir.assert_nothing_leaked().await;
}

/// Before CONNECT a stream that is broken is refused, behind it the session ends; both say why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_stream_ends_the_session_and_says_why() {
    let hub = Hub::start("n1", "", "").await;
    let weir = before(&[&hub]).listener(&listener("s2_auto")).start().await;
    let wrong_checksum = [&b"\x01\x0a\x00\x00....PING\r\n"[..]].concat();
    let too_large = b"\x01\xff\xff\xff....".to_vec();
    let size_too_large = b"\x00\x80\x00\x00....\xff\xff\xff\xff\x0f".to_vec();
    let unknown = b"\x02\x00\x00\x00".to_vec();
    let plain = b"PING\r\nPING\r\n".to_vec();
    for (n, broken) in [wrong_checksum, too_large, size_too_large, unknown, plain].iter().enumerate() {
        let (mut raw, ..) = RawLeafnode::greeted(&weir.address, "s2_fast").await;
        raw.stream.write_all(broken).await.unwrap();
        raw.rest().await;
        weir.until("it is refused", |now| now.sum_where("weir_refused_total", "reason", "protocol") == n as f64 + 1.0)
            .await;
        let (mut raw, ..) = RawLeafnode::greeted(&weir.address, "s2_fast").await;
        raw.say(CONNECT).await;
        raw.line_of("INFO").await;
        raw.stream.write_all(broken).await.unwrap();
        raw.rest().await;
        weir.until("it is closed", |now| now.sum_where("weir_closed_total", "reason", "compression") == n as f64 + 1.0)
            .await;
    }
    weir.says("reason=\"compression\"").await;
    let (_, closed) = http::get(&weir.monitor, "/connz?state=closed").await.unwrap();
    assert_eq!(closed.matches("\"reason\": \"compression\"").count(), 5, "{closed}");
    // One that ends in the middle of a block has ended.
    let (mut raw, ..) = RawLeafnode::greeted(&weir.address, "s2_fast").await;
    raw.say(CONNECT).await;
    raw.line_of("INFO").await;
    raw.stream.write_all(b"\x01\x0a\x00\x00..").await.unwrap();
    raw.stream.shutdown().await.unwrap();
    raw.rest().await;
    weir.until("it has ended", |now| now.sum_where("weir_closed_total", "reason", "eof") == 1.0).await;
    // A mode that no nats-server has.
    let mut stream = TcpStream::connect(&weir.address).await.unwrap();
    stream.write_all(b"INFO {\"compression\":\"zstd\"}\r\n").await.unwrap();
    let mut told = String::new();
    let _ = stream.read_to_string(&mut told).await;
    assert!(told.contains("-ERR"), "{told}");
    // One that names none goes on plainly.
    let mut raw = RawClient::greeted(&weir.address).await.unwrap();
    raw.send(b"INFO {\"compression\":\"off\"}\r\nCONNECT {\"name\":\"edge\",\"protocol\":1}\r\n").await.unwrap();
    eventually(PATIENCE, "the hub has it", async || match hub.count().await {
        1 => Ok(()),
        n => Err(n),
    })
    .await;
    drop(raw);
    weir.assert_nothing_leaked().await;
}
