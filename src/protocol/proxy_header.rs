//! The PROXY protocol (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>): the real source address of a
//! connection that arrives through another proxy. weir reads versions 1 and 2, and writes version 2.

use std::net::{IpAddr, SocketAddr};

use memchr::memchr;
use ppp::{v1, v2};

/// The longest header of version 1 (specification, section 2.1).
const LONGEST_V1: usize = 107;
/// The longest header that weir reads. Version 2 allows more, but load balancers add only some 100 bytes to it.
pub const LONGEST: usize = 2048;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// So many bytes tell whether a header begins.
pub const LONGEST_START: usize = V2_START.len();
/// The fixed part of version 2: signature, version and command, family, length.
const V2_FIXED: usize = 16;

/// The bytes are not a PROXY header, or one that is longer than [`LONGEST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY header")]
pub struct NoHeader;

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// In bytes.
    pub length: usize,
    /// `None` for a connection of the proxy itself, such as a health check (LOCAL, UNKNOWN).
    pub source: Option<SocketAddr>,
}

/// Whether a header begins with these bytes; `None` if more bytes are needed to tell.
pub fn is_begun(bytes: &[u8]) -> Option<bool> {
    let starts = [V1_START, V2_START];
    let is_begun = starts.iter().any(|start| bytes.starts_with(start));
    let may_be = starts.iter().any(|start| start.starts_with(bytes));
    (is_begun || !may_be).then_some(is_begun)
}

/// Reads the header at the start of `bytes`; `None` if more bytes are needed.
///
/// # Errors
/// [`NoHeader`], at the first byte that no header has in its place.
pub fn scan(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let may_begin_with = |start: &[u8]| bytes.iter().zip(start).all(|(byte, expected)| byte == expected);
    match () {
        () if may_begin_with(V2_START) => scan_v2(bytes),
        () if may_begin_with(V1_START) => scan_v1(bytes),
        () => Err(NoHeader),
    }
}

fn scan_v2(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let Some([.., high, low]) = bytes.first_chunk::<V2_FIXED>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([*high, *low])).saturating_add(V2_FIXED);
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
    Ok(Some(Header { length, source }))
}

fn scan_v1(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let Some(header) = memchr(b'\n', bytes).and_then(|end| bytes.get(..=end)) else {
        return if bytes.len() < LONGEST_V1 { Ok(None) } else { Err(NoHeader) };
    };
    if header.len() > LONGEST_V1 {
        return Err(NoHeader);
    }
    let length = header.len();
    let header = v1::Header::try_from(header).map_err(|_| NoHeader)?;
    let source = match header.addresses {
        v1::Addresses::Tcp4(a) => Some((a.source_address, a.source_port).into()),
        v1::Addresses::Tcp6(a) => Some((a.source_address, a.source_port).into()),
        v1::Addresses::Unknown => None,
    };
    Ok(Some(Header { length, source }))
}

/// Appends a header of version 2 for a connection from `source` that weir accepted at `destination`.
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

/// The header of version 2 for a connection of weir itself: the server uses the address of the socket.
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
                let start = if header.starts_with(V1_START) { V1_START } else { V2_START };
                assert_eq!(is_begun(&header[..cut]), (cut >= start.len()).then_some(true), "{header:?} cut at {cut}");
            }
            assert_eq!(scan(&header), Ok(Some(expected)), "{header:?}");
            let more = [&header[..], b"CONNECT {}\r\n"].concat();
            assert_eq!(scan(&more), Ok(Some(expected)), "{header:?}");
        }
    }

    #[test]
    fn anything_else_is_seen_at_once_and_nothing_is_unbounded() {
        for other in [&b"PI"[..], b"PUB a 1\r\n", b"PROXYS", b"C", b"\r\nP", b"\x16\x03"] {
            assert_eq!(is_begun(other), Some(false), "{other:?}");
        }
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
