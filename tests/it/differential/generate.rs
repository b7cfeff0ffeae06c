//! Random clients: mostly what clients do, with odd and broken operations among it.

use fastrand::Rng;

use crate::differential::case::{Case, Ending, Piece, What};
use crate::differential::pair::{JWTS, KEY, Kind, SIGNATURE, SIGNATURES};

/// The payload of the last message of a client that closes at once.
pub const LAST: &str = "the last one";

/// The client of this seed. The seed alone decides everything.
pub fn case(seed: u64) -> Case {
    let mut random = Random { rng: Rng::with_seed(seed), prefix: String::new(), kind: Kind::Open };
    random.kind = random.one(&Kind::ALL);
    random.prefix = (0..9).map(|_| random.rng.lowercase()).collect();
    let kind = random.kind;
    let mut pieces = random.first();
    let is_in = pieces.first().is_none_or(|piece| piece.what == What::Connect);
    let mut is_whole = is_in;
    for _ in 0..random.rng.usize(0..12) {
        // After something broken nobody can tell whether a PING is one.
        let piece = match random.rng.u32(0..100) {
            0..10 if is_whole => Piece::round_trip(),
            0..76 => random.valid(),
            _ => random.odd(),
        };
        is_whole &= piece.is_orderly() && piece.what != What::Again;
        pieces.push(piece);
    }
    let mut ending = Ending::HalfClose;
    if is_whole && pieces.first().is_some_and(|piece| piece.what == What::Connect) && random.chance(8) {
        // A server without headers closes on an HPUB.
        let is_heard = |what| what == What::Hpub && kind != Kind::Tight || matches!(what, What::Connect | What::Pub);
        pieces.retain(|piece| is_heard(piece.what));
        pieces.push(Piece::new(What::Pub, format!("PUB {}.a {}\r\n{LAST}\r\n", random.prefix, LAST.len())));
        if let Some(connect) = pieces.first_mut() {
            connect.bytes = random.connect(&random.quiet_options(), true);
        }
        ending = Ending::Close;
    } else if is_whole && random.chance(50) {
        pieces.push(Piece::round_trip());
    }
    random.cut(&mut pieces);
    Case { kind, prefix: random.prefix, pieces, ending, asks_who: false, hidden: 0 }
}

struct Random {
    rng: Rng,
    prefix: String,
    kind: Kind,
}

impl Random {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.rng.usize(0..of.len())].clone()
    }

    fn subject(&mut self) -> String {
        let rest = self.one(&["a", "a", "b", "b", "c.d", "c.d.e", "c.d.e", "nobody", "nobody.here"]);
        format!("{}.{rest}", self.prefix)
    }

    fn blanks(&mut self) -> &'static str {
        self.one(&[" ", " ", " ", " ", " ", " ", "  ", "\t", " \t "])
    }

    /// A verb as it is, in another case now and then.
    fn verb(&mut self, verb: &str) -> String {
        match self.rng.u32(0..10) {
            0 => verb.to_lowercase(),
            1 => verb.chars().map(|c| if self.rng.bool() { c.to_ascii_lowercase() } else { c }).collect(),
            _ => verb.to_owned(),
        }
    }

    fn line_end(&mut self) -> &'static str {
        if self.chance(7) { "\n" } else { "\r\n" }
    }

    /// The first pieces: CONNECT, in most cases.
    fn first(&mut self) -> Vec<Piece> {
        let connect = match self.rng.u32(0..100) {
            0..6 => return Vec::new(),
            6..12 => Piece::new(What::WrongLogin, self.connect(&self.options_of_any(), false)),
            12..16 => Piece::new(What::UnreadableConnect, self.unreadable_connect()),
            _ => {
                let options = self.options();
                Piece::new(What::Connect, self.connect(&options, true))
            }
        };
        let mut pieces = vec![connect];
        match self.rng.u32(0..100) {
            0..50 => pieces.push(Piece { waits: pieces[0].what == What::Connect, ..Piece::round_trip() }),
            50..70 => pieces.push(Piece::new(What::Ping, "PING\r\n")),
            _ => {}
        }
        pieces
    }

    fn options_of_any(&self) -> String {
        "\"verbose\":false,\"protocol\":1".into()
    }

    /// Options with which the server says nothing unasked.
    fn quiet_options(&self) -> String {
        let headers = self.kind != Kind::Tight;
        format!("\"verbose\":false,\"pedantic\":false,\"protocol\":1,\"headers\":{headers}")
    }

    fn options(&mut self) -> String {
        let mut members: Vec<String> = Vec::new();
        let mut add = |key: &str, value: Option<&str>| members.extend(value.map(|value| format!("{key:?}:{value}")));
        let headers = self.kind != Kind::Tight && self.chance(75);
        let no_responders = headers && self.chance(50) || self.chance(2);
        add("verbose", self.one(&[Some("false"), Some("false"), Some("false"), Some("false"), Some("true"), None]));
        add("pedantic", self.one(&[Some("false"), Some("false"), Some("true"), None]));
        add("echo", self.one(&[None, None, Some("true"), Some("false")]));
        add("headers", if headers { Some("true") } else { self.one(&[None, Some("false")]) });
        add("no_responders", if no_responders { Some("true") } else { self.one(&[None, Some("false")]) });
        add("protocol", self.one(&[Some("1"), Some("1"), Some("1"), Some("0"), None, None, Some("0"), Some("1")]));
        if self.chance(3) {
            add("protocol", self.one(&[Some("2"), Some("-1"), Some("1.0"), Some("99999999999999999999")]));
        }
        add("lang", self.one(&[Some("\"go\""), Some("\"test\""), Some("\"nats.js\""), None, Some("\"\"")]));
        add("version", self.one(&[Some("\"1.2.3\""), None, Some("\"\"")]));
        add("name", self.one(&[Some("\"n\""), None, Some("\"\\u00fcber 'x' \\\\ \\\" \""), Some("null")]));
        add("tls_required", self.one(&[None, Some("false"), Some("true")]));
        if self.chance(20) {
            add("more", self.one(&[Some("{\"a\":[1,2,{}]}"), Some("null"), Some("1e3"), Some("\"x\"")]));
        }
        self.rng.shuffle(&mut members);
        members.join(",")
    }

    fn credentials(&mut self, good: bool) -> String {
        let user = |user: &str, pass: &str| format!("\"user\":{user:?},\"pass\":{pass:?}");
        let nobody = String::new();
        let jwt = |at: usize, sig: &str| match sig {
            "" => format!("\"jwt\":\"{}\"", JWTS[at]),
            _ => format!("\"jwt\":\"{}\",\"sig\":\"{sig}\"", JWTS[at]),
        };
        let nkey = format!("\"nkey\":\"{KEY}\",\"sig\":\"{SIGNATURE}\"");
        let some = match (self.kind, good) {
            (Kind::Open, _) => vec![nobody, user("x", "y")],
            (Kind::Users, true) => vec![user("a", "ap"), user("b", "bp"), user("some", "sp")],
            (Kind::Accounts, true) => vec![nobody, user("a", "ap"), user("b", "bp")],
            (Kind::Nkeys, true) => vec![nkey, user("a", "ap"), user("b", "bp")],
            (Kind::Tight, true) => vec!["\"auth_token\":\"t\"".into()],
            (Kind::Jwts, true) => vec![jwt(0, SIGNATURES[0]), jwt(1, SIGNATURES[1]), jwt(2, "")],
            (Kind::Jwts, false) => vec![nobody, user("a", "ap"), jwt(0, SIGNATURES[1]), jwt(1, ""), jwt(0, "x")],
            (Kind::Nkeys, false) => {
                vec![nobody, user("a", "x"), format!("\"nkey\":\"{KEY}\",\"sig\":\"{}\"", "A".repeat(86))]
            }
            (Kind::Tight, false) => vec![nobody, "\"auth_token\":\"x\"".into()],
            (Kind::Accounts, false) => vec![user("a", "bp"), user("nobody", "x"), "\"auth_token\":\"x\"".into()],
            (Kind::Users, false) => vec![nobody, user("a", "bp"), user("", "ap"), "\"auth_token\":\"x\"".into()],
        };
        self.one(&some)
    }

    fn connect(&mut self, options: &str, good: bool) -> Vec<u8> {
        let credentials = self.credentials(good);
        self.connect_of(options, &credentials)
    }

    fn connect_of(&mut self, options: &str, credentials: &str) -> Vec<u8> {
        let members = [credentials, options].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(",");
        let blanks = if self.chance(5) { "" } else { self.blanks() };
        format!("{}{blanks}{{{members}}}{}", self.verb("CONNECT"), self.line_end()).into_bytes()
    }

    fn unreadable_connect(&mut self) -> Vec<u8> {
        let argument = self.one(&[
            "nonsense",
            "{\"user\":1}",
            "{\"verbose\":\"false\"}",
            "{\"verbose\":false",
            "[]",
            "{} {}",
            "\"x\"",
            "{\"protocol\":1.5}",
            "{'verbose':false}",
            "\u{feff}{}",
            "",
        ]);
        format!("{}{}{argument}{}", self.verb("CONNECT"), self.blanks(), self.line_end()).into_bytes()
    }

    fn payload(&mut self) -> Vec<u8> {
        let most = if self.kind == Kind::Tight { 1024 } else { 40_000 };
        match self.rng.u32(0..20) {
            0..4 => Vec::new(),
            4 => b"\r\n".to_vec(),
            5 => b"PING\r\nCONNECT {\"user\":\"b\"}\r\n-ERR 'x'\r\n".to_vec(),
            6 => format!("MSG {}.a 1 5\r\n", self.prefix).into_bytes(),
            7 => vec![self.rng.u8(..); self.rng.usize(0..most)],
            8 => vec![b'x'; self.one(&[1023, 1024, most])],
            _ => (0..self.rng.usize(1..40)).map(|_| self.rng.u8(..)).collect(),
        }
    }

    fn reply(&mut self) -> String {
        if !self.chance(25) {
            return String::new();
        }
        let (last, blanks) = (self.one(&["a", "b", "reply"]), self.blanks());
        format!("{}.{last}{blanks}", self.prefix)
    }

    fn headers(&mut self) -> Vec<u8> {
        self.one(&[
            "NATS/1.0\r\n\r\n",
            "NATS/1.0\r\nA: b\r\n\r\n",
            "NATS/1.0\r\nA: b\r\nA: c\r\nLong-One: x y z\r\n\r\n",
            "NATS/1.0 503\r\n\r\n",
            "NATS/1.0\r\nNats-Msg-Id: 7\r\n\r\n",
        ])
        .into()
    }

    /// An operation as clients send it. A server may still say no to it.
    fn valid(&mut self) -> Piece {
        let end = self.line_end();
        let (what, bytes) = match self.rng.u32(0..100) {
            0..10 => (What::Ping, format!("{}{}{end}", self.verb("PING"), self.one(&["", "", "", " ", "x y"])).into()),
            10..14 => (What::Pong, format!("{}{}{end}", self.verb("PONG"), self.one(&["", " ", "x"])).into()),
            14..50 => {
                let (subject, reply, payload) = (self.subject(), self.reply(), self.payload());
                let (verb, blanks) = (self.verb("PUB"), self.blanks());
                let line = format!("{verb}{blanks}{subject}{blanks}{reply}{}{end}", payload.len());
                (What::Pub, [line.as_bytes(), &payload, b"\r\n"].concat())
            }
            50..65 => {
                let (subject, reply, payload, headers) = (self.subject(), self.reply(), self.payload(), self.headers());
                let (verb, blanks) = (self.verb("HPUB"), self.blanks());
                let (header, total) = (headers.len(), headers.len() + payload.len());
                let line = format!("{verb}{blanks}{subject}{blanks}{reply}{header}{blanks}{total}{end}");
                (What::Hpub, [line.as_bytes(), &headers, &payload, b"\r\n"].concat())
            }
            65..90 => {
                let wildcard = self.one(&["*", ">", "a", "b", "c.*", "c.d.>", "c.*.e"]);
                let subject = format!("{}.{wildcard}", self.prefix);
                // Each in a queue of its own, since a server chooses one of several at random.
                let queue = format!("q{} ", self.rng.u32(..));
                let queue = self.one(&["", "", "", &queue]);
                let sid = self.one(&["1", "1", "2", "3", "4", "x", "007", "a-b"]);
                (What::Sub, format!("{}{}{subject} {queue}{sid}{end}", self.verb("SUB"), self.blanks()).into())
            }
            _ => {
                let sid = self.one(&["1", "1", "2", "3", "x", "unknown"]);
                let max = self.one(&["", "", " 1", " 2", " 0", " 9999", " -1", " x"]);
                (What::Unsub, format!("{}{}{sid}{max}{end}", self.verb("UNSUB"), self.blanks()).into())
            }
        };
        Piece::new(what, bytes)
    }

    /// Something that clients should not send.
    fn odd(&mut self) -> Piece {
        let (subject, prefix) = (self.subject(), self.prefix.clone());
        let end = self.line_end();
        let (what, bytes): (What, Vec<u8>) = match self.rng.u32(0..100) {
            0..12 => {
                let options = self.options();
                let credentials = self.credentials(true);
                (What::Again, self.connect_of(&options, &credentials))
            }
            12..16 => (What::Again, format!("CONNECT {{}}{end}").into()),
            16..20 => (What::AgainAsAnother, self.connect(&self.options_of_any(), false)),
            20..24 => (What::AgainUnreadable, self.unreadable_connect()),
            24..38 => {
                let size = self.one(&[
                    "-1",
                    "x",
                    "",
                    "+3",
                    "03",
                    "0x3",
                    "3.0",
                    "1e1",
                    "2147483648",
                    "4294967299",
                    "18446744073709551619",
                    "99999999999999999999999",
                    "1048577",
                    "1025",
                    "3 3",
                    "000000000000000003",
                    "३",
                ]);
                let text = match self.rng.u32(0..3) {
                    0 => format!("HPUB {subject} {size} 15{end}NATS/1.0\r\n\r\nabc\r\n"),
                    1 => format!("HPUB {subject} 12 {size}{end}NATS/1.0\r\n\r\nabc\r\n"),
                    _ => format!("PUB {subject} {size}{end}abc\r\n"),
                };
                (What::WrongSize, text.into())
            }
            38..50 => {
                let tail =
                    self.one(&["abc\n", "abc", "ab\r\n", "abcd\r\n", "abc\r\r\n", "abc\rX", "abc\n\r\n", "abc \r\n"]);
                (What::WrongPayload, format!("PUB {subject} 3{end}{tail}").into())
            }
            50..66 => {
                let text = self.one(&[
                    "PUB",
                    "PUB ",
                    "PUB 3",
                    "PUB {s}",
                    "PUB {s} a b 3",
                    "PUB {s} a b c 3",
                    "HPUB {s} 3",
                    "HPUB {s}",
                    "HPUB {s} 20 12",
                    "HPUB {s} a b 12 12",
                    "SUB",
                    "SUB ",
                    "SUB {s}",
                    "SUB {s} q 1 2",
                    "SUB {p}..a 1",
                    "SUB {p}.a. 1",
                    "SUB .{p} 1",
                    "SUB {p}.>.a 1",
                    "SUB {p}.a* 1",
                    "UNSUB",
                    "UNSUB ",
                    "UNSUB 1 2 3",
                    "PUB {p}.* 0",
                    "PUB {p}.> 0",
                    "PUB {p}..b 0",
                    "PUB {p}.a {p}.* 0",
                    "PUBX",
                    "PINGX",
                    "PI",
                    "PONGG",
                    "SUBSCRIBE {s} 1",
                    "UNSUBSCRIBE 1",
                    "SUB {s} 1 ",
                    "SUB {p}.\u{fffd}\u{e9} 1",
                    "SUB {p}.a\u{0} 1",
                    "PUB {s} 0 ",
                    "PUB  {s}  0",
                    "HPUB {s} 0 0",
                    "HPUB {s} 2 2",
                    "HPUB {s} 12 15",
                    "PING PING",
                    "PONG PONG",
                ]);
                let text = text.replace("{s}", &subject).replace("{p}", &prefix);
                let payload = self.one(&["", "", "\r\n", "NATS/1.0\r\n\r\nabc\r\n", "xx\r\n"]);
                (What::Arguments, format!("{text}{end}{payload}").into())
            }
            66..74 => {
                let long = self.kind.max_control_line() + self.rng.usize(0..16) - 12;
                let long = if self.chance(15) { long * 20 } else { long };
                let fill = |len: usize| "x".repeat(len);
                let text = match self.rng.u32(0..4) {
                    0 => format!("SUB {prefix}.{} 1{end}", fill(long - 12)),
                    1 => format!("PUB {prefix}.{} 0{end}\r\n", fill(long - 12)),
                    2 => format!("UNSUB {}{end}", fill(long)),
                    _ => format!("PING{}{end}", fill(long)),
                };
                (What::LongLine, text.into())
            }
            74..82 => {
                let text = self.one(&[
                    "PUB {s}\r 3\r\nabc\r\n",
                    "PUB {s} 3\r\r\nabc\r\n",
                    "PUB {s} 3\rX\nabc\r\n",
                    "PUB \n{s} 3\r\nabc\r\n",
                    "SUB \r\n",
                    "SUB \n{s} 1\r\n",
                    "SUB {s} 1\r\r\n",
                    "SUB {s}\r 1\r\n",
                    "\r\n",
                    "\n",
                    "PING\r\r\n",
                    "PING\r",
                    "PUB {s} 3\n\rabc\r\n",
                    "UNSUB 1\r\r\n",
                    "UNSUB\r 1\r\n",
                    "\r\nPING\r\n",
                ]);
                (What::LineEnd, text.replace("{s}", &subject).into())
            }
            82..92 => {
                let text = self.one(&[
                    "+OK",
                    "+ok x",
                    "-ERR 'x'",
                    "-ERR",
                    "-ERR ",
                    "INFO {}",
                    "INFO",
                    "INFO x",
                    "INFO {\"ldm\":true}",
                    "MSG {s} 1 3",
                    "HMSG {s} 1 12 15",
                    "HM",
                    "RS+ A {s}",
                    "A+ A",
                    "LS+ {s}",
                    "RMSG A {s} 3",
                    "ACCOUNT x",
                    "+OKOK",
                    "-err x",
                    "info {\"connect_urls\":[\"127.0.0.1:1\"]}",
                ]);
                let payload = self.one(&["", "", "abc\r\n"]);
                (What::OfServers, format!("{}{end}{payload}", text.replace("{s}", &subject)).into())
            }
            _ => {
                let bytes = match self.rng.u32(0..4) {
                    0 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
                    1 => (0..self.rng.usize(1..30)).map(|_| self.rng.u8(..)).collect(),
                    2 => b" PING\r\n".to_vec(),
                    _ => b"\x16\x03\x01\x02\x00\x01\x00".to_vec(),
                };
                (What::Garbage, bytes)
            }
        };
        Piece::new(what, bytes)
    }

    /// Cuts the pieces into writes.
    fn cut(&mut self, pieces: &mut [Piece]) {
        let way = self.rng.u32(0..10);
        for piece in pieces {
            let len = piece.bytes.len();
            piece.cuts = match way {
                0..3 => Vec::new(),
                3 if len < 400 => (1..len).collect(),
                3..6 => vec![len],
                _ => {
                    let mut cuts: Vec<usize> = (0..self.rng.usize(0..4)).map(|_| self.rng.usize(0..=len)).collect();
                    cuts.sort_unstable();
                    cuts.dedup();
                    cuts
                }
            };
        }
    }
}
