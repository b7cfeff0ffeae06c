//! Random CONNECTs: keys in any case and with Unicode folding, escapes, several equal keys, wrong types, and now and
//! then something that is no JSON.

use fastrand::Rng;

use crate::differential::case::{Case, Ending, Piece, What};
use crate::differential::pair::{JWTS, KEY, Kind, SIGNATURE, SIGNATURES};

/// The client of this seed, which only logs in and shows how the server treats it.
pub fn case(seed: u64) -> Case {
    let mut rng = Rng::with_seed(seed);
    let is_odd = rng.u32(0..100) < 35;
    let mut random = Random { rng, is_odd };
    let kind = random.one(&Kind::ALL);
    let prefix: String = (0..9).map(|_| random.rng.lowercase()).collect();
    let mut pieces = vec![Piece::new(What::Connect, random.begin())];
    for member in random.members(kind) {
        let separator = if pieces.len() == 1 { "" } else { "," };
        pieces.push(Piece::new(What::Connect, [separator.as_bytes(), &member].concat()));
    }
    let end = random.end();
    pieces.push(Piece::new(What::Connect, end));
    // Whether it gets its own message, an answer to each operation, a word about a bad subject, and one about a request
    // that nobody answers.
    let probe = format!(
        "SUB {prefix}.me 1\r\nPUB {prefix}.me 2\r\nhi\r\nPUB {prefix}.* 0\r\n\r\nPUB {prefix}.nobody {prefix}.me 0\r\n\r\n"
    );
    pieces.push(Piece::new(What::Pub, probe));
    pieces.push(Piece::new(What::Ping, "PING\r\n"));
    // Servers close on this one when the client did not say that it knows headers.
    pieces.push(Piece::new(What::Hpub, format!("HPUB {prefix}.me 12 14\r\nNATS/1.0\r\n\r\nhi\r\n")));
    if random.chance(30) {
        for piece in &mut pieces {
            piece.cuts = vec![random.rng.usize(0..=piece.bytes.len())];
        }
    }
    Case { kind, prefix, pieces, ending: Ending::HalfClose, asks_who: true, hidden: 0 }
}

struct Random {
    rng: Rng,
    /// Whether there may be something in it that the server cannot read.
    is_odd: bool,
}

impl Random {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.rng.usize(0..of.len())].clone()
    }

    fn blank(&mut self) -> &'static str {
        let odd = if self.is_odd { "\r" } else { "" };
        self.one(&["", "", "", "", "", "", "", "", " ", "\t", "  ", odd])
    }

    fn begin(&mut self) -> String {
        let verb = self.one(&["CONNECT", "CONNECT", "connect", "CoNNeCT"]);
        format!("{verb}{}{{{}", self.one(&[" ", " ", " ", "", "\t", "   "]), self.blank())
    }

    fn end(&mut self) -> Vec<u8> {
        let tail = if self.is_odd && self.chance(15) {
            self.one(&["}", " x", "{}", ",", "\0", "\u{a0}", "//", "]", "\u{feff}"])
        } else {
            self.one(&["", "", "", "", " ", "\t"])
        };
        let close = if !self.is_odd || self.chance(90) { "}" } else { self.one(&["", ",}", "]"]) };
        format!("{}{close}{tail}{}", self.blank(), if self.chance(10) { "\n" } else { "\r\n" }).into()
    }

    /// The members, each with its blanks and without a comma.
    fn members(&mut self, kind: Kind) -> Vec<Vec<u8>> {
        let mut members = Vec::new();
        let logins = self.rng.usize(0..3).max(usize::from(kind != Kind::Open || self.chance(30)));
        for _ in 0..logins {
            for (key, value) in self.login(kind) {
                let value = self.string(&value);
                members.push(self.member(key, value));
            }
        }
        for _ in 0..self.rng.usize(0..8) {
            let (key, value) = self.other();
            members.push(self.member(key, value));
        }
        // Mostly in order, since the last of several equal keys counts.
        if self.chance(50) {
            self.rng.shuffle(&mut members);
        }
        members
    }

    fn member(&mut self, key: &str, value: Vec<u8>) -> Vec<u8> {
        let key = self.key(key);
        let (a, b, c, d) = (self.blank(), self.blank(), self.blank(), self.blank());
        [a.as_bytes(), &key, b.as_bytes(), b":", c.as_bytes(), &value, d.as_bytes()].concat()
    }

    /// A key as it may be written, with its quotes.
    fn key(&mut self, key: &str) -> Vec<u8> {
        let mut text = String::from("\"");
        let way = self.rng.u32(0..100);
        for c in key.chars() {
            let folded = match c {
                's' => 'ſ',
                'k' => '\u{212a}',
                other => other,
            };
            match way {
                0..60 => text.push(c),
                60..70 => text.push(c.to_ascii_uppercase()),
                70..78 if self.rng.bool() => text.push(c.to_ascii_uppercase()),
                78..86 => text.push(folded),
                86..92 if self.rng.bool() => text += &format!("\\u{:04x}", u32::from(c)),
                92..96 => text += &format!("\\u{:04X}", u32::from(folded)),
                _ => text.push(c),
            }
        }
        if way >= 98 {
            text.push_str(self.one(&["\\u0000", " ", "\u{301}", "\\/", "ſ"]));
        }
        text.push('"');
        text.into_bytes()
    }

    /// A string as it may be written, with its quotes.
    fn string(&mut self, value: &str) -> Vec<u8> {
        if self.is_odd && self.chance(4) {
            return self.one(&["null", "1", "true", "[]", "{}", "\"\"", "nul", "'x'"]).into();
        }
        // The placeholders are filled in later, and stay as they are.
        let is_fixed = value.contains("{{");
        let mut text = b"\"".to_vec();
        let way = if is_fixed { 0 } else { self.rng.u32(0..100) };
        for c in value.chars() {
            match way {
                80..88 if self.rng.bool() => text.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
                _ => text.extend_from_slice(c.to_string().as_bytes()),
            }
        }
        match way {
            88..90 => text.extend_from_slice(b"\\u0000"),
            90..92 => text.extend_from_slice(self.one(&[
                &b"\xff"[..],
                b"\xc3",
                b"\xed\xa0\x80",
                b"\\ud800",
                b"\\udc00x",
                b"\x7f",
            ])),
            92..94 if self.is_odd => {
                text.extend_from_slice(self.one(&[&b"\x01"[..], b"\t", b"\\x", b"\\u12", b"\"\""]))
            }
            _ => {}
        }
        text.push(b'"');
        text
    }

    /// Credentials: good ones, or those of somebody else.
    fn login(&mut self, kind: Kind) -> Vec<(&'static str, String)> {
        let user = |user: &str, pass: &str| vec![("user", user.to_owned()), ("pass", pass.to_owned())];
        let nkey = || vec![("nkey", KEY.to_owned()), ("sig", SIGNATURE.to_owned())];
        let jwt = |at: usize| vec![("jwt", JWTS[at].to_owned()), ("sig", SIGNATURES[at].to_owned())];
        let token = |token: &str| vec![("auth_token", token.to_owned())];
        let good = match kind {
            Kind::Open => vec![user("x", "y")],
            Kind::Users => vec![user("a", "ap"), user("b", "bp"), user("some", "sp")],
            Kind::Accounts => vec![user("a", "ap"), user("b", "bp")],
            Kind::Nkeys => vec![nkey(), nkey(), user("a", "ap"), user("b", "bp")],
            Kind::Jwts => vec![jwt(0), jwt(1), vec![("jwt", JWTS[2].to_owned())]],
            Kind::Tight => vec![token("t")],
        };
        if self.chance(if self.is_odd { 75 } else { 90 }) {
            return self.one(&good);
        }
        let others = [
            user("a", "bp"),
            user("b", ""),
            user("", "ap"),
            vec![("user", "b".to_owned())],
            vec![("pass", "bp".to_owned())],
            token("t"),
            token("x"),
            nkey(),
            vec![("nkey", "UABC".to_owned())],
            vec![("nkey", KEY.to_owned())],
            vec![("jwt", "a.b.c".to_owned())],
            vec![("sig", "x".to_owned())],
            jwt(1),
        ];
        self.one(&others)
    }

    /// Another member: its key and its value.
    fn other(&mut self) -> (&'static str, Vec<u8>) {
        let flag = |random: &mut Self| -> Vec<u8> {
            let odd = random.is_odd && random.chance(5);
            let of: &[&str] = if odd { &["null", "0", "\"true\"", "True", "[true]"] } else { &["true", "false"] };
            random.one(of).into()
        };
        match self.rng.u32(0..100) {
            0..12 => ("verbose", if self.chance(80) { b"false".to_vec() } else { flag(self) }),
            12..18 => ("pedantic", flag(self)),
            18..24 => ("echo", flag(self)),
            24..36 => ("headers", flag(self)),
            36..42 => ("no_responders", flag(self)),
            42..46 => ("tls_required", flag(self)),
            46..48 => ("new_account", if self.chance(70) { b"false".to_vec() } else { flag(self) }),
            48..50 => ("account", self.one(&["\"\"", "null", "\"A\""]).into()),
            50..60 => {
                let of = if !self.is_odd || self.chance(80) {
                    &["1", "0", "1", "0", "1", "null", "-0"][..]
                } else {
                    &["-0", "1.0", "1e0", "01", "\"1\"", "2", "-1", "9223372036854775808", "null", "0.0", "1E400"][..]
                };
                ("protocol", self.one(of).into())
            }
            60..80 => {
                let key = self.one(&["name", "lang", "version"]);
                let long = "long ".repeat(self.one(&[1, 1, 1, 10, 100, 400, 790, 816]));
                let value = self.one(&["n", "go", "1.2.3", "", "日本", "a'b", "x\u{2028}y", "<&>", "😀"]);
                let value = if self.chance(10) { &long } else { value };
                (key, self.string(value))
            }
            80..84 => (self.one(&["proxy_sig", "remote_account", "lame"]), self.string("x")),
            84..88 => {
                let of = [
                    "null",
                    "{}",
                    "{\"allow\":[\"x\"]}",
                    "{\"deny\":null}",
                    "[]",
                    "\"x\"",
                    "{\"allow\":[1]}",
                    "{\"allow\":{}}",
                ];
                let of = if self.is_odd { &of[..] } else { &of[..4] };
                (self.one(&["import", "export"]), self.one(of).into())
            }
            _ => {
                let key = self.one(&["more", "", "User", "users", "verbos", "_", "ssl_required", "tls"]);
                let deep = "[".repeat(40) + &"]".repeat(40);
                let values = [
                    "1",
                    "-1.5e+10",
                    "null",
                    "[1,2,{\"user\":\"b\"}]",
                    "{\"user\":\"b\",\"pass\":\"bp\"}",
                    "\"\\u00e9\\n\\/\"",
                    "[]",
                    "{}",
                    "\"\\ud83d\\ude00\"",
                    "1e999",
                    "1.",
                    "+1",
                    ".5",
                    "NaN",
                    "[1,]",
                    "{\"a\":}",
                    "{a:1}",
                    "0x1",
                    "tru",
                    "00",
                ];
                let value = self.one(if self.is_odd { &values[..] } else { &values[..10] });
                (key, if self.chance(10) { deep } else { value.to_owned() }.into())
            }
        }
    }
}
