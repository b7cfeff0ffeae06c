//! The ports file: tells whoever let weir choose its ports where it listens.

use std::{io, net::SocketAddr, path::Path};

/// Writes the file beside `path` and renames it, so that a reader never sees half of it.
pub fn write(path: &Path, listeners: &[SocketAddr], monitor: Option<SocketAddr>) -> io::Result<()> {
    let listeners: Vec<_> = listeners.iter().map(SocketAddr::to_string).collect();
    let ports = serde_json::json!({
        "listeners": listeners,
        "monitor": monitor.map(|address| address.to_string()),
        "pid": std::process::id(),
    });
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, ports.to_string())?;
    std::fs::rename(&beside, path)
}
