//! The PROXY protocol (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>): who a connection that comes through
//! another proxy really comes from. Versions 1 and 2 are read, version 2 is written.

use std::net::{IpAddr, SocketAddr};

use memchr::memchr;
use ppp::{v1, v2};

/// A header of version 1 is never longer (its specification, section 2.1).
const LONGEST_V1: usize = 107;
/// Bytes of a header that are read at most; version 2 may carry more, but what load balancers add to it is some 100.
pub const LONGEST: usize = 2048;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;

/// What was read is no PROXY header, or one that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY header")]
pub struct NoHeader;

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it takes.
    pub length: usize,
    /// Where the connection comes from; `None` when it is the proxy's own (LOCAL, UNKNOWN).
    pub source: Option<SocketAddr>,
}

/// Looks for a header at the start of `bytes`; `None` while more bytes are needed to tell.
///
/// # Errors
/// [`NoHeader`], at the first byte that says so.
pub fn scan(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let begins = |start: &[u8]| {
        let n = bytes.len().min(start.len());
        bytes[..n] == start[..n]
    };
    if begins(V2_START) {
        let Some(fixed) = bytes.get(..V2_FIXED) else { return Ok(None) };
        let length = V2_FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        if length > LONGEST {
            return Err(NoHeader);
        }
        let Some(header) = bytes.get(..length) else { return Ok(None) };
        let header = v2::Header::try_from(header).map_err(|_| NoHeader)?;
        let source = match (header.command, header.addresses) {
            (v2::Command::Proxy, v2::Addresses::IPv4(a)) => Some((a.source_address, a.source_port).into()),
            (v2::Command::Proxy, v2::Addresses::IPv6(a)) => Some((a.source_address, a.source_port).into()),
            _ => None,
        };
        return Ok(Some(Header { length, source }));
    }
    if begins(V1_START) {
        let Some(end) = memchr(b'\n', bytes) else {
            return if bytes.len() < LONGEST_V1 { Ok(None) } else { Err(NoHeader) };
        };
        if end >= LONGEST_V1 {
            return Err(NoHeader);
        }
        let header = v1::Header::try_from(&bytes[..=end]).map_err(|_| NoHeader)?;
        let source = match header.addresses {
            v1::Addresses::Tcp4(a) => Some((a.source_address, a.source_port).into()),
            v1::Addresses::Tcp6(a) => Some((a.source_address, a.source_port).into()),
            v1::Addresses::Unknown => None,
        };
        return Ok(Some(Header { length: end + 1, source }));
    }
    Err(NoHeader)
}

/// Appends a header of version 2 for a connection from `source`, which came in at `destination`.
pub fn write(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    out.extend_from_slice(V2_START);
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[0x21, 0x11, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            let v6 = |ip| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            out.extend_from_slice(&[0x21, 0x21, 0, 36]);
            out.extend_from_slice(&v6(from).octets());
            out.extend_from_slice(&v6(to).octets());
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

/// The header of version 2 for a connection of the proxy's own: the server takes the proxy's address.
pub const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[cfg(test)]
mod tests {
    use super::*;

    fn written(source: &str, destination: &str) -> Vec<u8> {
        let mut out = Vec::new();
        write(source.parse().unwrap(), destination.parse().unwrap(), &mut out);
        out
    }

    #[test]
    fn what_is_written_is_read_cut_at_every_byte() {
        let cases = [
            (written("192.0.2.1:5", "198.51.100.1:4222"), Some("192.0.2.1:5")),
            (written("[::ffff:192.0.2.1]:5", "[::ffff:198.51.100.1]:4222"), Some("192.0.2.1:5")),
            (written("[2001:db8::1]:5", "[2001:db8::2]:4222"), Some("[2001:db8::1]:5")),
            (written("[2001:db8::1]:5", "198.51.100.1:4222"), Some("[2001:db8::1]:5")),
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 5 4222\r\n".to_vec(), Some("192.0.2.1:5")),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 5 4222\r\n".to_vec(), Some("[2001:db8::1]:5")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (LOCAL.to_vec(), None),
        ];
        for (header, source) in cases {
            let expected = Header { length: header.len(), source: source.map(|s| s.parse().unwrap()) };
            for cut in 0..header.len() {
                assert_eq!(scan(&header[..cut]), Ok(None), "{header:?} cut at {cut}");
            }
            assert_eq!(scan(&header), Ok(Some(expected)), "{header:?}");
            let more = [&header[..], b"CONNECT {}\r\n"].concat();
            assert_eq!(scan(&more), Ok(Some(expected)), "{header:?}");
        }
    }

    #[test]
    fn anything_else_is_seen_at_once_and_nothing_is_unbounded() {
        for wrong in [
            &b"CONNECT {}\r\n"[..],
            b"GET / HTTP/1.1\r\n",
            b"\r\n\r\nx",
            b"PROXY TCP4 192.0.2.1\r\n",
            b"PROXY TCP4 a b c d\r\n",
            b"PROXY FOO\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 5 99999\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x01x",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        ] {
            assert_eq!(scan(wrong), Err(NoHeader), "{wrong:?}");
        }
        let endless = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
        assert_eq!(scan(&endless), Err(NoHeader));
    }
}
