//! `X-Forwarded-For`: the address of a client that connects through an HTTP proxy.

use std::net::{IpAddr, SocketAddr};

/// The client's address in a header from a trusted proxy: the last address that is not a trusted proxy's own, since only
/// trusted proxies wrote what stands behind it. `None` if the header has no address in that place.
pub fn client(header: &[u8], is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut client = None;
    for entry in header.rsplit(|&byte| byte == b',') {
        // Nobody vouches for entries before one that is not an address.
        let Some(address) = address(entry.trim_ascii()) else { break };
        client = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// Reads an address. It may have a port, which some proxies add.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?;
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    let with_port = || entry.parse().ok().map(|address: SocketAddr| address.ip());
    bare.parse().ok().or_else(with_port).map(|ip: IpAddr| ip.to_canonical())
}
