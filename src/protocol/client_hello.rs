//! A look at the first bytes of a connection: is it TLS, has the whole ClientHello come, and does it resume a session?
//!
//! No more is read than that; the handshake itself reads everything again and believes nothing of this.

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBytes {
    /// Too few to say.
    Incomplete,
    /// Not TLS.
    Other,
    /// A ClientHello, whole as far as weir looks.
    ClientHello {
        /// It shows a ticket: the handshake is cheaper if that is good.
        resumes: bool,
    },
}

/// A ClientHello that is longer than this is not waited for: those of clients have 200 to 2000 bytes.
pub const LONGEST_LOOK: usize = 4096;

/// The record header of a handshake record (RFC 8446, 5.1): type 22, version 3.x, length.
const HANDSHAKE: u8 = 22;
const HEADER: usize = 5;
/// Extensions that carry a ticket: session_ticket (RFC 5077), where it is not empty, and pre_shared_key (RFC 8446, 4.2.11).
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;

/// Looks at the first bytes of a connection.
pub fn look(bytes: &[u8]) -> FirstBytes {
    match *bytes {
        [] | [HANDSHAKE] => return FirstBytes::Incomplete,
        [HANDSHAKE, 3, ..] => {}
        _ => return FirstBytes::Other,
    }
    let Some((header, body)) = bytes.split_at_checked(HEADER) else { return FirstBytes::Incomplete };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if body.len() < length && bytes.len() < LONGEST_LOOK {
        return FirstBytes::Incomplete;
    }
    FirstBytes::ClientHello { resumes: shows_ticket(&body[..length.min(body.len())]).unwrap_or(false) }
}

/// Whether a ClientHello shows a ticket; `None` when it is cut off or makes no sense.
fn shows_ticket(message: &[u8]) -> Option<bool> {
    // Type 1 and length, version and random.
    let mut rest = Cursor(message.strip_prefix(&[1])?);
    rest.take(3 + 2 + 32)?;
    rest.counted(1)?; // session id
    rest.counted(2)?; // cipher suites
    rest.counted(1)?; // compression methods
    let mut extensions = Cursor(rest.counted(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.take(2)?;
        let body = extensions.counted(2)?;
        match u16::from_be_bytes([kind[0], kind[1]]) {
            PRE_SHARED_KEY => return Some(true),
            SESSION_TICKET if !body.is_empty() => return Some(true),
            _ => {}
        }
    }
    Some(false)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// What follows a length of so many bytes.
    fn counted(&mut self, width: usize) -> Option<&'a [u8]> {
        let n = self.take(width)?.iter().fold(0, |n, &byte| n << 8 | usize::from(byte));
        self.take(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello with these extensions.
    fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut ext = Vec::new();
        for (kind, body) in extensions {
            ext.extend_from_slice(&kind.to_be_bytes());
            ext.extend_from_slice(&(body.len() as u16).to_be_bytes());
            ext.extend_from_slice(body);
        }
        let mut message = vec![3, 3];
        message.extend_from_slice(&[7; 32]);
        message.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
        message.extend_from_slice(&(ext.len() as u16).to_be_bytes());
        message.extend_from_slice(&ext);
        let mut record = vec![22, 3, 1];
        record.extend_from_slice(&(message.len() as u16 + 4).to_be_bytes());
        record.extend_from_slice(&[1, 0]);
        record.extend_from_slice(&(message.len() as u16).to_be_bytes());
        record.extend_from_slice(&message);
        record
    }

    #[test]
    fn tickets_are_seen() {
        let fresh = FirstBytes::ClientHello { resumes: false };
        let resumed = FirstBytes::ClientHello { resumes: true };
        assert_eq!(look(&hello(&[(0, b"name"), (35, b"")])), fresh);
        assert_eq!(look(&hello(&[(0, b"name"), (35, b"ticket")])), resumed);
        assert_eq!(look(&hello(&[(0, b"name"), (41, b"psk")])), resumed);
    }

    #[test]
    fn every_beginning_is_incomplete_and_none_panics() {
        let whole = hello(&[(0, b"name"), (41, b"psk")]);
        for n in 0..whole.len() {
            assert_eq!(look(&whole[..n]), FirstBytes::Incomplete, "{n} bytes");
        }
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut spoilt = whole.clone();
            spoilt[rng.usize(..whole.len())] = rng.u8(..);
            let _ = look(&spoilt);
        }
    }

    #[test]
    fn nats_is_no_tls() {
        assert_eq!(look(b"CONNECT {}\r\n"), FirstBytes::Other);
        assert_eq!(look(b"PING"), FirstBytes::Other);
        assert_eq!(look(&[22, 9]), FirstBytes::Other);
    }

    #[test]
    fn what_is_too_long_is_not_waited_for() {
        let mut long = vec![0; LONGEST_LOOK];
        long[..5].copy_from_slice(&[22, 3, 1, 0x3f, 0xff]);
        assert_eq!(look(&long), FirstBytes::ClientHello { resumes: false });
    }
}
