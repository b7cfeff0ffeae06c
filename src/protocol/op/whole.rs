//! Operations that are there as a whole: for who must not begin one that may never be finished.
//!
//! What an operation is follows from its first letters and the end of its line. Whether it is valid is for the framing
//! to say, which gets the bytes then.

use memchr::memchr;

use crate::protocol::op::{args::MAX_DIGITS, server::sid_of};

/// What stands at the start of an operation of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientOperation<'a> {
    /// Its line is not there yet.
    Unfinished,
    /// PUB or HPUB, which is so long with its payload.
    Publication {
        /// In bytes, with the end of the payload.
        len: usize,
    },
    /// SUB.
    Sub {
        /// The line, with its end.
        line: &'a [u8],
        /// What stands behind the verb.
        arguments: &'a [u8],
    },
    /// UNSUB.
    Unsub {
        /// The line, with its end.
        line: &'a [u8],
        /// What stands behind the verb.
        arguments: &'a [u8],
    },
    /// PING: the line, with its end.
    Ping(&'a [u8]),
    /// Any other line, with its end.
    Line(&'a [u8]),
}

impl<'a> ClientOperation<'a> {
    /// Of the bytes from the start of one.
    pub fn at(bytes: &'a [u8]) -> Self {
        let Some(line) = line_at(bytes) else { return Self::Unfinished };
        if let Some(arguments) = behind(line, b"PUB").or_else(|| behind(line, b"HPUB")) {
            return size(arguments)
                .map_or(Self::Line(line), |size| Self::Publication { len: with_payload(line, size) });
        }
        if let Some(arguments) = behind(line, b"SUB") {
            return Self::Sub { line, arguments };
        }
        if let Some(arguments) = behind(line, b"UNSUB") {
            return Self::Unsub { line, arguments };
        }
        match line.get(..4) {
            Some(verb) if verb.eq_ignore_ascii_case(b"PING") => Self::Ping(line),
            _ => Self::Line(line),
        }
    }
}

/// What stands at the start of an operation of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerOperation<'a> {
    /// Its line is not there yet.
    Unfinished,
    /// MSG or HMSG, which is so long with its payload.
    Message {
        /// The line, with its end.
        line: &'a [u8],
        /// The subscription that it is for.
        sid: &'a [u8],
        /// In bytes, with the end of the payload.
        len: usize,
    },
    /// PONG: the line, with its end.
    Pong(&'a [u8]),
    /// PING: the line, with its end.
    Ping(&'a [u8]),
    /// `-ERR`.
    Err {
        /// The line, with its end.
        line: &'a [u8],
        /// The text, without quotes.
        text: &'a [u8],
    },
    /// Any other line, with its end.
    Line(&'a [u8]),
}

impl<'a> ServerOperation<'a> {
    /// Of the bytes from the start of one.
    pub fn at(bytes: &'a [u8]) -> Self {
        let Some(line) = line_at(bytes) else { return Self::Unfinished };
        if let Some(arguments) = behind(line, b"MSG").or_else(|| behind(line, b"HMSG")) {
            let message = |size| Self::Message { line, sid: sid_of(line), len: with_payload(line, size) };
            return size(arguments).map_or(Self::Line(line), message);
        }
        if let Some(text) = behind(line, b"-ERR") {
            let text = text.trim_ascii();
            let text = text.strip_prefix(b"'").and_then(|text| text.strip_suffix(b"'")).unwrap_or(text);
            return Self::Err { line, text };
        }
        match line.get(..4) {
            Some(verb) if verb.eq_ignore_ascii_case(b"PONG") => Self::Pong(line),
            Some(verb) if verb.eq_ignore_ascii_case(b"PING") => Self::Ping(line),
            _ => Self::Line(line),
        }
    }
}

fn line_at(bytes: &[u8]) -> Option<&[u8]> {
    memchr(b'\n', bytes).and_then(|end| bytes.get(..=end))
}

/// What stands behind this verb and a blank.
fn behind<'a>(line: &'a [u8], verb: &[u8]) -> Option<&'a [u8]> {
    let (first, rest) = line.split_at_checked(verb.len())?;
    let is_it = first.eq_ignore_ascii_case(verb) && matches!(rest.first(), Some(b' ' | b'\t'));
    rest.get(1..).filter(|_| is_it)
}

/// The last word as a size.
fn size(arguments: &[u8]) -> Option<usize> {
    let word = arguments.trim_ascii_end().rsplit(|byte| matches!(byte, b' ' | b'\t')).next()?;
    let is_size = word.len() <= MAX_DIGITS && word.iter().all(u8::is_ascii_digit);
    str::from_utf8(word).ok().filter(|_| is_size)?.parse().ok()
}

fn with_payload(line: &[u8], size: usize) -> usize {
    line.len().saturating_add(size).saturating_add(b"\r\n".len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_begins() {
        let at = |bytes: &'static str| ClientOperation::at(bytes.as_bytes());
        assert_eq!(at("PUB a 5\r"), ClientOperation::Unfinished);
        assert_eq!(at("PUB a 5\r\nhe"), ClientOperation::Publication { len: 16 });
        assert_eq!(at("hpub a\tr 12 17 \r\n"), ClientOperation::Publication { len: 17 + 19 });
        assert_eq!(at("PUB a 1234567890\r\n"), ClientOperation::Line(b"PUB a 1234567890\r\n"));
        let sub = ClientOperation::Sub { line: b"SUB a q 1\r\n", arguments: b"a q 1\r\n" };
        assert_eq!(at("SUB a q 1\r\nPING\r\n"), sub);
        let unsub = ClientOperation::Unsub { line: b"unsub\t1 5\n", arguments: b"1 5\n" };
        assert_eq!(at("unsub\t1 5\nPING\r\n"), unsub);
        assert_eq!(at("ping\r\n"), ClientOperation::Ping(b"ping\r\n"));
        assert_eq!(at("SUBS a 1\r\n"), ClientOperation::Line(b"SUBS a 1\r\n"));
        assert_eq!(at("CONNECT {}\r\n"), ClientOperation::Line(b"CONNECT {}\r\n"));
    }

    #[test]
    fn what_a_server_begins() {
        let at = |bytes: &'static str| ServerOperation::at(bytes.as_bytes());
        assert_eq!(at("MSG a 7 reply 5"), ServerOperation::Unfinished);
        let message = ServerOperation::Message { line: b"MSG a 7 reply 5\r\n", sid: b"7", len: 24 };
        assert_eq!(at("MSG a 7 reply 5\r\nhello\r\n"), message);
        let message = ServerOperation::Message { line: b"HMSG a 17 12 12\r\n", sid: b"17", len: 31 };
        assert_eq!(at("HMSG a 17 12 12\r\n"), message);
        let err = ServerOperation::Err { line: b"-ERR 'Stale Connection'\r\n", text: b"Stale Connection" };
        assert_eq!(at("-ERR 'Stale Connection'\r\n"), err);
        assert_eq!(at("PONG\r\n"), ServerOperation::Pong(b"PONG\r\n"));
        assert_eq!(at("+OK\r\n"), ServerOperation::Line(b"+OK\r\n"));
    }

    #[test]
    fn the_framing_ends_where_a_whole_operation_does() {
        use crate::protocol::op::{Capture, ClientFraming, ClientScan, ServerFraming, ServerScan};
        for bytes in
            ["PUB a 5\r\nhello\r\n", "hpub a\tr 12 17 \r\nNATS/1.0\r\n\r\nhello\r\n", "PUB  a 0\n\r\n", "SUB a 1\r\n"]
        {
            let len = match ClientOperation::at(bytes.as_bytes()) {
                ClientOperation::Publication { len } => len,
                ClientOperation::Sub { line, .. } => line.len(),
                other => panic!("{other:?}"),
            };
            let mut framing = ClientFraming::new(usize::MAX);
            assert_eq!(
                (len, framing.scan(bytes.as_bytes()), framing.at_boundary()),
                (bytes.len(), ClientScan::Pass, true)
            );
        }
        for bytes in ["MSG a 1 5\r\nhello\r\n", "HMSG a  1 r 12 17\r\nNATS/1.0\r\n\r\nhello\r\n"] {
            let ServerOperation::Message { len, .. } = ServerOperation::at(bytes.as_bytes()) else { panic!("{bytes}") };
            let mut framing = ServerFraming::new(Capture::InfoOnly);
            assert_eq!(
                (len, framing.scan(bytes.as_bytes()), framing.at_boundary()),
                (bytes.len(), ServerScan::Pass, true)
            );
        }
    }

    #[test]
    fn whole_messages_pass_and_are_counted_by_sid() {
        use crate::protocol::op::{Capture, ServerFraming};
        let bytes = b"MSG a 1 2\r\nhi\r\nMSG a 1 2\r\nho\r\nMSG b 22 r 0\r\n\r\nMSG a 1 2\r\nh";
        let mut framing = ServerFraming::new(Capture::InfoOnly);
        let mut seen = Vec::new();
        let passed = framing.pass_whole(bytes, |sid, n| seen.push((sid.to_vec(), n)));
        assert_eq!((passed, framing.messages(), framing.at_boundary()), (bytes.len() - 12, 3, true));
        assert_eq!(seen, [(b"1".to_vec(), 2), (b"22".to_vec(), 1)]);
    }
}
