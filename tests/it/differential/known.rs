//! Clients that once were treated otherwise than straight at the server, each found by a random one or by hand; and for
//! each accepted difference a client that needs it.

use crate::differential::case::{Case, Ending, Piece, What};
use crate::differential::pair::{KEY, Kind::*};
use crate::differential::pair::{Kind, SIGNATURE, new_prefix};

/// A client: the server, and what it sends. `{p}` stands for the first token of its subjects.
pub struct Known {
    /// The name of the accepted difference; `None` where there is to be no difference any more.
    pub name: Option<&'static str>,
    kind: Kind,
    pieces: Vec<(What, String)>,
}

impl Known {
    pub fn case(&self) -> Case {
        let prefix = new_prefix();
        let pieces = self
            .pieces
            .iter()
            .map(|(what, text)| Piece { cuts: vec![text.len()], ..Piece::new(*what, text.replace("{p}", &prefix)) });
        let pieces = pieces.collect();
        Case { kind: self.kind, prefix, pieces, ending: Ending::HalfClose, asks_who: false, hidden: 0 }
    }
}

fn known(name: impl Into<Option<&'static str>>, kind: Kind, pieces: &[(What, &str)]) -> Known {
    let pieces = pieces.iter().map(|&(what, text)| (what, text.to_owned())).collect();
    Known { name: name.into(), kind, pieces }
}

const QUIET: &str = "CONNECT {\"verbose\":false}\r\n";
const USER_A: &str = "CONNECT {\"verbose\":false,\"user\":\"a\",\"pass\":\"ap\"}\r\n";
const USER_B: &str = "CONNECT {\"verbose\":false,\"user\":\"b\",\"pass\":\"bp\"}\r\n";

/// All of them.
pub fn all() -> Vec<Known> {
    use What::*;
    let nkey = format!("CONNECT {{\"verbose\":false,\"nkey\":\"{KEY}\",\"sig\":\"{SIGNATURE}\"}}\r\n");
    // As long as the server allows, without anything that weir has to add.
    let longest = |kind: Kind, begin: &str| {
        let begin = format!("{begin},\"name\":\"");
        let fill = kind.max_control_line() - begin.len() - 2;
        format!("CONNECT {begin}{}\"}}\r\n", "x".repeat(fill))
    };
    let same = [
        // The sequence of seed 197: a server reads anything behind PING and PONG.
        known(None, Accounts, &[(Ping, "PINGx y\r\n")]),
        known(None, Accounts, &[(Pong, "PONGx\n"), (Ping, "ping\r\n")]),
        known(None, Users, &[(Ping, "PINGx y\r\n")]),
        // A CONNECT as long as the server allows became longer, and the server refused it.
        known(None, Open, &[(Connect, &longest(Open, "{\"protocol\":1")), (Sub, "SUB {p}.a 1\r\n")]),
        known(None, Tight, &[(Connect, &longest(Tight, "{\"auth_token\":\"t\",\"protocol\":1")), (Ping, "PING\r\n")]),
        // The server's last words once got lost.
        known(None, Open, &[(Connect, QUIET), (OfServers, "HMSG {p}.a 1 12 15\r\nNATS/1.0\r\n\r\nabc\r\n")]),
        known(None, Open, &[(Connect, QUIET), (Ping, "PING\r\n"), (OfServers, "RS+ A {p}.a\r\n"), (Ping, "PING\r\n")]),
        known(
            None,
            Tight,
            &[(Connect, "CONNECT {\"auth_token\":\"t\"}\r\n"), (Sub, "SUB {p}.a 1\r\n"), (Pub, "PUB {p}.a 2000\r\n")],
        ),
        // Keys in other letters, and the last of several.
        known(
            None,
            Accounts,
            &[
                (Connect, "CONNECT {\"USER\":\"a\",\"u\u{17f}er\":\"b\",\"pa\\u017fs\":\"bp\",\"protocol\":1}\r\n"),
                (Ping, "PING\r\n"),
            ],
        ),
        known(
            None,
            Nkeys,
            &[(Connect, &nkey), (Pub, "PUB {p}.a 2\r\nhi\r\n"), (Again, &nkey), (Pub, "PUB {p}.a 2\r\nhi\r\n")],
        ),
        known(
            None,
            Users,
            &[
                (Connect, "CONNECT {\"user\":\"some\",\"pass\":\"sp\"}\r\n"),
                (Sub, "SUB {p}.b 1\r\n"),
                (Pub, "PUB {p}.b 0\r\n\r\n"),
            ],
        ),
    ];
    let accepted = [
        known("first-is-no-operation", Users, &[(Garbage, "GET / HTTP/1.1\r\n\r\n")]),
        known("first-is-no-operation", Open, &[(OfServers, "INFO {}\r\n"), (Ping, "PING\r\n")]),
        known("connect-unreadable", Open, &[(UnreadableConnect, "CONNECT nonsense\r\n")]),
        known("connect-unreadable", Nkeys, &[(UnreadableConnect, "CONNECT {\"user\":1}\r\n"), (Ping, "PING\r\n")]),
        known("connect-too-long", Open, &[(Connect, &longest(Open, "{\"verbose\":false")), (Ping, "PING\r\n")]),
        known("connect-as-another", Accounts, &[(Connect, USER_A), (Again, USER_B), (Ping, "PING\r\n")]),
        known("connect-as-another", Accounts, &[(Ping, "PING\r\n"), (Again, USER_B), (Ping, "PING\r\n")]),
        known(
            "connect-again-kept-back",
            Open,
            &[(Connect, QUIET), (Sub, "SUB {p}.a 1\r\n"), (Again, QUIET), (Pub, "PUB {p}.a 2\r\nhi\r\n")],
        ),
        known(
            "connect-again-protocol",
            Open,
            &[
                (Connect, QUIET),
                (Again, "CONNECT {\"protocol\":1,\"echo\":false}\r\n"),
                (Sub, "SUB {p}.a 1\r\n"),
                (Pub, "PUB {p}.a 2\r\nhi\r\n"),
                (Ping, "PING\r\n"),
            ],
        ),
        known("connect-late", Open, &[(Sub, "SUB {p}.a 1\r\n"), (Again, QUIET), (Pub, "PUB {p}.a 2\r\nhi\r\n")]),
        known("line-end-in-arguments", Open, &[(Connect, QUIET), (LineEnd, "SUB \n{p}.a 2\r\n"), (Ping, "PING\r\n")]),
    ];
    same.into_iter().chain(accepted).collect()
}
