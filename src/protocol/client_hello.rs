//! The first bytes of a connection: are they TLS, has the whole ClientHello arrived, and does it resume a session?
//!
//! weir uses this only to estimate what a handshake will cost. rustls reads the same bytes again and relies on nothing
//! that is found here.

use crate::protocol::tls_cursor::Cursor;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBytes {
    /// Too few bytes to tell.
    Incomplete,
    /// Not TLS.
    Other,
    /// A whole ClientHello, or [`MAX_CLIENT_HELLO`] bytes of one.
    ClientHello {
        /// It carries a ticket. The handshake is cheaper if the ticket is valid.
        resumes: bool,
        /// It prefers ChaCha20 to AES, as clients do whose processor has no AES instructions.
        without_aes: bool,
    },
}

/// weir does not wait for more of a ClientHello than this many bytes. Those of real clients have 200 to 2000.
pub const MAX_CLIENT_HELLO: usize = 4096;

/// The record header of a handshake record (RFC 8446, 5.1): type 22, version 3.x, length.
const HANDSHAKE: u8 = 22;
const HEADER: usize = 5;
/// Extensions that carry a ticket: session_ticket (RFC 5077), where it is not empty, and pre_shared_key (RFC 8446,
/// 4.2.11).
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;
/// The cipher suites with ChaCha20: of TLS 1.3, and of 1.2 with ECDSA and RSA (RFC 8446, B.4; RFC 7905, 2).
const CHACHA20: [[u8; 2]; 3] = [[0x13, 0x03], [0xcc, 0xa9], [0xcc, 0xa8]];

/// Tells what the first bytes of a connection are.
pub fn classify(bytes: &[u8]) -> FirstBytes {
    match *bytes {
        [] | [HANDSHAKE] => return FirstBytes::Incomplete,
        [HANDSHAKE, 3, ..] => {}
        _ => return FirstBytes::Other,
    }
    let Some((&[_, _, _, high, low], body)) = bytes.split_first_chunk::<HEADER>() else {
        return FirstBytes::Incomplete;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if body.len() < length && bytes.len() < MAX_CLIENT_HELLO {
        return FirstBytes::Incomplete;
    }
    let mut fields = HelloFields::default();
    // A ClientHello that is cut off or malformed is for rustls to report.
    let _ = fields.read(body.get(..length).unwrap_or(body));
    FirstBytes::ClientHello { resumes: fields.ticket, without_aes: fields.chacha20_first }
}

/// The fields of a ClientHello that weir needs.
#[derive(Default)]
struct HelloFields {
    ticket: bool,
    chacha20_first: bool,
}

impl HelloFields {
    /// Reads until the end, or until something is malformed; `None` in that case.
    fn read(&mut self, message: &[u8]) -> Option<()> {
        // Type 1 and length, version and random.
        let mut rest = Cursor(message.strip_prefix(&[1])?);
        rest.take(3 + 2 + 32)?;
        rest.counted(1)?; // session id
        let suites = rest.counted(2)?;
        // Some clients put a reserved value, which is not a suite, in front (GREASE, RFC 8701).
        let first = suites.as_chunks::<2>().0.iter().find(|suite| suite[0] != suite[1]);
        self.chacha20_first = first.is_some_and(|suite| CHACHA20.contains(suite));
        rest.counted(1)?; // compression methods
        let mut extensions = Cursor(rest.counted(2)?);
        while !extensions.0.is_empty() {
            let &[high, low] = extensions.take(2)? else { return None };
            let body = extensions.counted(2)?;
            self.ticket |= match u16::from_be_bytes([high, low]) {
                PRE_SHARED_KEY => true,
                SESSION_TICKET => !body.is_empty(),
                _ => false,
            };
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello with these extensions.
    fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        hello_of(&[0x13, 0x01], extensions)
    }

    /// A ClientHello with these suites and extensions.
    fn hello_of(suites: &[u8], extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut ext = Vec::new();
        for (kind, body) in extensions {
            ext.extend_from_slice(&kind.to_be_bytes());
            ext.extend_from_slice(&(body.len() as u16).to_be_bytes());
            ext.extend_from_slice(body);
        }
        let mut message = vec![3, 3];
        message.extend_from_slice(&[7; 32]);
        message.extend_from_slice(&[0, 0, suites.len() as u8]);
        message.extend_from_slice(suites);
        message.extend_from_slice(&[1, 0]);
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
        let fresh = FirstBytes::ClientHello { resumes: false, without_aes: false };
        let resumed = FirstBytes::ClientHello { resumes: true, without_aes: false };
        assert_eq!(classify(&hello(&[(0, b"name"), (35, b"")])), fresh);
        assert_eq!(classify(&hello(&[(0, b"name"), (35, b"ticket")])), resumed);
        assert_eq!(classify(&hello(&[(0, b"name"), (41, b"psk")])), resumed);
    }

    #[test]
    fn who_has_nothing_for_aes_is_seen() {
        for (suites, without_aes) in [
            (&[0x13, 0x01, 0x13, 0x03][..], false),
            (&[0x13, 0x03, 0x13, 0x01], true),
            (&[0x1a, 0x1a, 0x13, 0x03], true),
            (&[0xcc, 0xa8], true),
            (&[], false),
        ] {
            let expected = FirstBytes::ClientHello { resumes: false, without_aes };
            assert_eq!(classify(&hello_of(suites, &[(0, b"name")])), expected, "{suites:x?}");
        }
    }

    #[test]
    fn every_beginning_is_incomplete_and_none_panics() {
        let whole = hello(&[(0, b"name"), (41, b"psk")]);
        for n in 0..whole.len() {
            assert_eq!(classify(&whole[..n]), FirstBytes::Incomplete, "{n} bytes");
        }
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut spoilt = whole.clone();
            spoilt[rng.usize(..whole.len())] = rng.u8(..);
            let _ = classify(&spoilt);
        }
    }

    #[test]
    fn nats_is_no_tls() {
        assert_eq!(classify(b"CONNECT {}\r\n"), FirstBytes::Other);
        assert_eq!(classify(b"PING"), FirstBytes::Other);
        assert_eq!(classify(&[22, 9]), FirstBytes::Other);
    }

    #[test]
    fn what_is_too_long_is_not_waited_for() {
        let mut long = vec![0; MAX_CLIENT_HELLO];
        long[..5].copy_from_slice(&[22, 3, 1, 0x3f, 0xff]);
        assert_eq!(classify(&long), FirstBytes::ClientHello { resumes: false, without_aes: false });
    }
}
