//! The differences that are meant, one list. docs/reference/compatibility.md has the same names and tells users why.
//!
//! A difference is told by what the server would have to be sent to do the same: weir treats what the client sends as
//! if it had sent something else. So nothing is accepted that is merely near to a difference that is meant.

use serde_json::{Map, Value};

use crate::differential::case::{Case, Ending, Piece, What};
use crate::differential::pair::{JWTS, KEY, Outcome, SIGNATURE, SIGNATURES};
use crate::differential::transcript::End;

/// A difference that is meant.
pub struct Accepted {
    pub name: &'static str,
    /// What the client could have sent instead, straight at the server, to the same effect; one for each place in the
    /// case where the difference may be. The outcome is what it had straight at the server.
    pub instead: fn(&Case, &Outcome) -> Vec<Case>,
}

/// All of them.
pub const ACCEPTED: &[Accepted] = &[
    Accepted { name: "first-is-no-operation", instead: first_is_no_operation },
    Accepted { name: "connect-unreadable", instead: connect_unreadable },
    Accepted { name: "connect-too-long", instead: connect_too_long },
    Accepted { name: "connect-as-another", instead: connect_as_another },
    Accepted { name: "connect-again-kept-back", instead: connect_again_kept_back },
    Accepted { name: "connect-again-protocol", instead: connect_again_protocol },
    Accepted { name: "connect-late", instead: connect_late },
    Accepted { name: "line-end-in-arguments", instead: line_end_in_arguments },
];

/// To this any server says that it is no operation.
const NO_OPERATION: &[u8] = b"C\0";

/// Where nothing that a client may send stands first, weir says so. A nats-server that wants a login says that instead,
/// and one that does not reads what only servers send.
fn first_is_no_operation(case: &Case, _: &Outcome) -> Vec<Case> {
    let of_clients = |word: &[u8]| {
        let word = word.to_ascii_uppercase();
        [&b"PUB"[..], b"HPUB", b"SUB", b"UNSUB"].contains(&&*word)
            || word.starts_with(b"PING")
            || word.starts_with(b"PONG")
    };
    let is_it = |first: &Piece| {
        let word = first.bytes.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        !CONNECTS.contains(&first.what) && !LATER_CONNECTS.contains(&first.what) && !of_clients(word)
    };
    if case.pieces.first().is_some_and(is_it) { vec![case.with(0, NO_OPERATION)] } else { Vec::new() }
}

/// nats-server closes without a word when it cannot read the first CONNECT. weir says that it is no operation.
fn connect_unreadable(case: &Case, straight: &Outcome) -> Vec<Case> {
    let is_silent = straight.heard.as_ref().is_some_and(|heard| heard.ops == ["INFO"] && heard.end == End::Closed);
    let is_connect = |what: &What| CONNECTS.contains(what) || LATER_CONNECTS.contains(what);
    let is_it = |first: &Piece| is_connect(&first.what) && is_silent;
    if case.pieces.first().is_some_and(is_it) { vec![case.with(0, NO_OPERATION)] } else { Vec::new() }
}

/// A later CONNECT that says something else about who the client is, or only a part of what the first one said, ends
/// the session, silently. nats-server goes on with the other user, or answers that it does not know it.
fn connect_as_another(case: &Case, _: &Outcome) -> Vec<Case> {
    let ends_before = |at| Case { pieces: case.pieces[..at].to_vec(), ending: Ending::HalfClose, ..case.clone() };
    let is_another = |at: usize| case.changes(at, &IDENTITY).unwrap_or(true) || case.names_a_part(at);
    // Behind something broken what was meant as a payload may be read as operations.
    let within_payload = case.pieces.iter().enumerate().filter_map(|(at, piece)| {
        let begin = piece.bytes.windows(CONNECT_LINE.len()).position(|bytes| bytes == CONNECT_LINE)?;
        let is_read = !case.pieces[..at].iter().all(Piece::is_orderly);
        let mut ends = ends_before(at + 1);
        ends.pieces[at] = Piece::new(What::Garbage, &piece.bytes[..begin + 2]);
        is_read.then_some(ends)
    });
    case.again().filter(|&at| is_another(at)).map(ends_before).chain(within_payload).collect()
}

const CONNECT_LINE: &[u8] = b"\r\nCONNECT ";

/// A later CONNECT that says nothing new does not reach the server, which since 2.15 would drop the subscriptions of
/// the client. A verbose client gets its answer all the same.
fn connect_again_kept_back(case: &Case, _: &Outcome) -> Vec<Case> {
    let changes = |at, keys: &[_]| case.changes(at, keys).unwrap_or(false);
    let says_nothing_new = |at: &usize| !changes(*at, &IDENTITY) && !changes(*at, &OPTIONS);
    case.again().filter(says_nothing_new).map(|at| case.with(at, b"UNSUB nothing-of-this-name\r\n")).collect()
}

/// The keys of CONNECT that say who a client is, and what an absent one means.
const IDENTITY: [(&str, Value); 6] = [
    ("user", Value::Null),
    ("pass", Value::Null),
    ("auth_token", Value::Null),
    ("nkey", Value::Null),
    ("jwt", Value::Null),
    ("sig", Value::Null),
];

/// The keys that say how it is to be served, and what an absent one means.
const OPTIONS: [(&str, Value); 5] = [
    ("verbose", Value::Bool(true)),
    ("pedantic", Value::Bool(true)),
    ("echo", Value::Bool(true)),
    ("headers", Value::Bool(false)),
    ("no_responders", Value::Bool(false)),
];

/// weir asks for `protocol` 1 in the name of a client that did not, so that the server names its account, and writes
/// what is no UTF-8 as Go does, in three bytes. A CONNECT within some bytes of `max_control_line` is too long then.
fn connect_too_long(case: &Case, _: &Outcome) -> Vec<Case> {
    let connects = case.pieces.iter().take_while(|piece| CONNECTS.contains(&piece.what));
    let text: Vec<u8> = connects.flat_map(|piece| piece.bytes.iter().copied()).collect();
    let text = String::from_utf8_lossy(&text);
    let count = |names: &[&str]| names.iter().map(|name| text.matches(name).count()).sum::<usize>();
    // What is filled in later: public keys, signatures, and JWTs, which are not all as long.
    let (keys, signatures, jwts) = (count(&[KEY]), count(&[SIGNATURE]) + count(&SIGNATURES), count(&JWTS));
    let least = text.len() + keys * 49 + signatures * 70 + jwts * 350;
    let most = case.kind.max_control_line();
    let may_be_it = least < most + 40 && least + jwts * 300 > most - 40;
    if may_be_it { vec![case.with(0, too_long(case).as_bytes())] } else { Vec::new() }
}

fn too_long(case: &Case) -> String {
    format!("CONNECT {{{}", "x".repeat(case.kind.max_control_line() + 1))
}

/// A later CONNECT does not change `protocol`.
fn connect_again_protocol(case: &Case, _: &Outcome) -> Vec<Case> {
    let without = |at: usize| {
        let text = String::from_utf8(case.pieces[at].bytes.clone()).ok()?;
        let other = text.replace("\"protocol\":1", "\"protoco_\":1").replace("\"protocol\":0", "\"protoco_\":0");
        (other != text).then(|| {
            let mut case = case.clone();
            case.pieces[at].bytes = other.into_bytes();
            case
        })
    };
    case.again().filter_map(without).collect()
}

/// Of a client that leaves CONNECT out the server gets one from weir, which asks for the name of its account. One that
/// comes later is the second to the server, which since 2.15 drops the client's subscriptions then. It does not change
/// `protocol`.
fn connect_late(case: &Case, _: &Outcome) -> Vec<Case> {
    let is_connect = |piece: &Piece| CONNECTS.contains(&piece.what);
    let mut late = case.clone();
    if late.hidden > 0 || late.pieces.iter().any(is_connect) || late.again().next().is_none() {
        return Vec::new();
    }
    for piece in &mut late.pieces {
        if let (What::Again, Ok(text)) = (piece.what, String::from_utf8(piece.bytes.clone())) {
            piece.bytes = text.replace("\"protocol\":1", "\"protocol\":0").into_bytes();
        }
    }
    late.pieces.insert(0, Piece::new(What::Connect, "CONNECT {}\r\n"));
    vec![Case { hidden: 1, ..late }]
}

/// What a nats-server does with a carriage return among the arguments of PUB and HPUB depends on how its reads cut the
/// stream, and a line feed where an argument should begin is a part of that argument to it, so that the line goes on.
/// weir ends the session there, as the server does after most wrong arguments: without a word.
fn line_end_in_arguments(case: &Case, _: &Outcome) -> Vec<Case> {
    let is_it = |piece: &Piece| {
        let text = piece.bytes.to_ascii_uppercase();
        let begins_with_line_feed = |verb: &str| text.starts_with(format!("{verb} \n").as_bytes());
        let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let has_carriage_return = text.starts_with(b"PUB ") && line.contains(&b'\r');
        has_carriage_return || ["PUB", "HPUB", "SUB", "UNSUB"].into_iter().any(begins_with_line_feed)
    };
    let places = case.pieces.iter().enumerate().filter(|(_, piece)| is_it(piece));
    let mut instead: Vec<Case> = places.map(|(at, _)| case.with(at, b"PUB a b c d e\r\n")).collect();
    // A server that has read up to behind a carriage return loses a byte of CONNECT.
    let mut without = case.clone();
    for piece in &mut without.pieces {
        let is_end = piece.bytes.ends_with(b"\r\n");
        if CONNECTS.contains(&piece.what) {
            piece.bytes.retain(|&byte| byte != b'\r');
            if is_end {
                piece.bytes.insert(piece.bytes.len() - 1, b'\r');
            }
        }
    }
    if without != *case {
        instead.push(without);
    }
    instead
}

/// What a CONNECT may be that is the first.
const CONNECTS: [What; 3] = [What::Connect, What::UnreadableConnect, What::WrongLogin];

/// What a later one may be.
const LATER_CONNECTS: [What; 3] = [What::Again, What::AgainAsAnother, What::AgainUnreadable];

impl Case {
    /// The same with other bytes in the place of a piece.
    fn with(&self, at: usize, bytes: &[u8]) -> Self {
        let mut other = self.clone();
        other.pieces[at] = Piece::new(What::Garbage, bytes);
        other
    }

    /// Whether the CONNECT at this place says something else about these keys than what has been said before. `None`
    /// where something broken stands before it, which may have made a CONNECT a part of something else.
    fn changes(&self, at: usize, keys: &[(&str, Value)]) -> Option<bool> {
        let is_readable = |piece: &Piece| piece.is_orderly() || piece.what == What::AgainAsAnother;
        if !self.pieces[..at].iter().all(is_readable) {
            return None;
        }
        let before = self.said_before(at);
        let now = members(&self.pieces[at]);
        let changes = |(key, absent): &(&str, Value)| {
            let had = before.get(*key).unwrap_or(absent);
            now.get(*key).is_some_and(|value| !value.is_null() && value != had)
        };
        Some(keys.iter().any(changes))
    }

    /// What the CONNECTs before this place say, each key as it was said last.
    fn said_before(&self, at: usize) -> Map<String, Value> {
        let is_connect = |piece: &&Piece| CONNECTS.contains(&piece.what) || LATER_CONNECTS.contains(&piece.what);
        let all = self.pieces[..at].iter().filter(is_connect).flat_map(members);
        all.filter(|(_, value)| !value.is_null()).collect()
    }

    /// Whether the CONNECT at this place says some of who the client is, and not all that was said before.
    fn names_a_part(&self, at: usize) -> bool {
        let (before, now) = (self.said_before(at), members(&self.pieces[at]));
        let says = |said: &Map<String, Value>, key| said.get(key).is_some_and(|value| !value.is_null());
        IDENTITY.iter().any(|(key, _)| says(&now, *key))
            && IDENTITY.iter().any(|(key, _)| says(&before, *key) && !says(&now, *key))
    }

    /// Where CONNECT comes that is not the first.
    fn again(&self) -> impl Iterator<Item = usize> {
        let is_it = |piece: &Piece| LATER_CONNECTS.contains(&piece.what);
        self.pieces.iter().enumerate().filter(move |(_, piece)| is_it(piece)).map(|(at, _)| at)
    }
}

/// What the JSON of a CONNECT says, if it is readable.
fn members(piece: &Piece) -> Map<String, Value> {
    let text = String::from_utf8_lossy(&piece.bytes);
    let json = text.find('{').map_or("", |begin| &text[begin..]);
    serde_json::from_str(json).unwrap_or_default()
}
