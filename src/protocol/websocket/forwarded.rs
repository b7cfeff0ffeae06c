//! `X-Forwarded-For`: where a client that comes through an HTTP proxy really is.

use std::net::{IpAddr, SocketAddr};

/// The client's address in a header that came from a proxy we trust: the last one that is not a trusted proxy's own, since only
/// trusted proxies wrote what stands behind it. `None` when the header has no address there.
pub fn client(header: &[u8], is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut client = None;
    for entry in header.rsplit(|&byte| byte == b',') {
        // Behind what is no address nobody vouches for anything.
        let Some(address) = address(entry.trim_ascii()) else { break };
        client = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// An address, with or without a port: some proxies add it.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?;
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    let with_port = || entry.parse().ok().map(|address: SocketAddr| address.ip());
    bare.parse().ok().or_else(with_port).map(|ip: IpAddr| ip.to_canonical())
}
