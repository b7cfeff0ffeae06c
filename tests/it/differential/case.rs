//! What a client sends: pieces, where its writes end, and how it ends.

use std::fmt;

use crate::differential::pair::Kind;

/// What a piece of a client's bytes is. The list of accepted differences goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The first CONNECT, as clients send it.
    Connect,
    /// The first CONNECT, with credentials that the server refuses.
    WrongLogin,
    /// The first CONNECT, which the server cannot read.
    UnreadableConnect,
    /// A later CONNECT that says the same about who the client is.
    Again,
    /// A later CONNECT that says something else about who the client is.
    AgainAsAnother,
    /// A later CONNECT that the server cannot read.
    AgainUnreadable,
    Ping,
    Pong,
    Pub,
    Hpub,
    Sub,
    Unsub,
    /// A PUB or HPUB whose sizes are wrong or no sizes.
    WrongSize,
    /// A payload that does not end where its size says.
    WrongPayload,
    /// An operation with too few arguments, too many or odd ones.
    Arguments,
    /// A control line about as long as the server allows, or longer.
    LongLine,
    /// A carriage return or a line feed where none belongs.
    LineEnd,
    /// An operation of servers.
    OfServers,
    /// No operation.
    Garbage,
}

/// Some bytes that belong together.
#[derive(Clone, PartialEq, Eq)]
pub struct Piece {
    pub what: What,
    pub bytes: Vec<u8>,
    /// Offsets in `bytes` at which a new write begins.
    pub cuts: Vec<usize>,
    /// The client waits for the PONG of this PING before it goes on.
    pub waits: bool,
}

impl Piece {
    pub fn new(what: What, bytes: impl AsRef<[u8]>) -> Self {
        Self { what, bytes: bytes.as_ref().to_vec(), cuts: Vec::new(), waits: false }
    }

    /// A PING whose PONG the client awaits.
    pub fn round_trip() -> Self {
        Self { waits: true, ..Self::new(What::Ping, "PING\r\n") }
    }
}

impl Piece {
    /// Whether the server reads on behind it.
    pub fn is_orderly(&self) -> bool {
        use What::*;
        matches!(self.what, Connect | Ping | Pong | Pub | Hpub | Sub | Unsub | Again)
    }
}

/// How a client ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It shuts down its writing half and reads to the end.
    HalfClose,
    /// It closes at once. What it hears does not count, since it may not have been there to hear it.
    Close,
}

/// One client.
#[derive(Clone, PartialEq, Eq)]
pub struct Case {
    pub kind: Kind,
    /// The first token of all of its subjects.
    pub prefix: String,
    pub pieces: Vec<Piece>,
    pub ending: Ending,
    /// Whether the server is asked who it was.
    pub asks_who: bool,
    /// So many operations behind INFO do not count.
    pub hidden: usize,
}

impl Case {
    /// Whether the server has no reason to end the connection. Of a client that it ends it may have read more or less.
    pub fn is_orderly(&self) -> bool {
        self.pieces.iter().all(Piece::is_orderly)
    }

    /// The same up to the first piece for which the server may end the connection.
    pub fn while_orderly(mut self) -> Self {
        let orderly = self.pieces.iter().take_while(|piece| piece.is_orderly()).count();
        self.pieces.truncate(orderly);
        self
    }

    /// The same with a PING at the end, whose PONG the client awaits before it ends.
    pub fn with_round_trip(mut self) -> Self {
        self.pieces.push(Piece::round_trip());
        self
    }

    /// The same with another first token of its subjects, which is as long.
    pub fn renamed(&self, prefix: &str) -> Self {
        let mut other = self.clone();
        for piece in &mut other.pieces {
            let old = self.prefix.as_bytes();
            while let Some(at) = piece.bytes.windows(old.len()).position(|window| window == old) {
                piece.bytes[at..at + old.len()].copy_from_slice(prefix.as_bytes());
            }
        }
        Self { prefix: prefix.into(), ..other }
    }

    /// The same with other places to cut at.
    pub fn cut_at(&self, cuts: impl Fn(&Piece) -> Vec<usize>) -> Self {
        let mut other = self.clone();
        for piece in &mut other.pieces {
            piece.cuts = cuts(piece);
        }
        other
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  server {:?}, then {:?}:", self.kind, self.ending)?;
        for Piece { what, bytes, cuts, waits } in &self.pieces {
            let text = bytes.escape_ascii().to_string();
            let text = if text.len() > 400 { format!("{}… ({} bytes)", &text[..400], bytes.len()) } else { text };
            let waits = if *waits { ", and waits" } else { "" };
            let cuts = match cuts.len() {
                0 => String::new(),
                1..10 => format!(", cut at {cuts:?}"),
                n => format!(", cut {n} times"),
            };
            writeln!(f, "    {what:?}: \"{text}\"{cuts}{waits}")?;
        }
        Ok(())
    }
}
