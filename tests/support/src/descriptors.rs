//! The open descriptors of a process: TCP sockets with both addresses, and the others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One open descriptor.
#[derive(Debug, Clone)]
pub enum Descriptor {
    /// A TCP socket in the kernel's table: local address, peer (port 0 for a listening socket), state.
    Tcp { local: SocketAddr, peer: SocketAddr, state: &'static str },
    /// Anything else, by its name in `/proc`.
    Other(String),
}

/// All descriptors of a process, without those that are closed while this reads them.
pub fn of(pid: u32) -> Vec<Descriptor> {
    // Descriptors are read before the table of sockets, so that a socket accepted in between is in neither.
    let dir = format!("/proc/{pid}/fd");
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{dir}: {e}"));
    let names = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let names: Vec<_> = names.map(|name| name.display().to_string()).collect();
    let sockets = sockets();
    let inode = |name: &str| name.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok();
    let known = |name: String| inode(&name).and_then(|n| sockets.get(&n).cloned()).unwrap_or(Descriptor::Other(name));
    names.into_iter().map(known).collect()
}

/// The machine's TCP sockets, by inode.
fn sockets() -> HashMap<u64, Descriptor> {
    let text = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    text.iter().flat_map(|table| table.lines().skip(1)).filter_map(row).collect()
}

fn row(line: &str) -> Option<(u64, Descriptor)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let state = match *fields.get(3)? {
        "01" => "established",
        "02" => "connecting",
        "08" => "ended by the peer",
        "0A" => "listening",
        _ => "ending",
    };
    Some((fields.get(9)?.parse().ok()?, Descriptor::Tcp { local: end(fields[1])?, peer: end(fields[2])?, state }))
}

/// Parses `0100007F:1F90`: the words of the address are in the machine's byte order, the port is a plain hexadecimal
/// number.
fn end(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        _ => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?)).to_canonical()
        }
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}
