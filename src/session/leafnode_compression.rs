//! Agreeing on S2 with a leafnode, as a nats-server that takes leafnodes does (`negotiateLeafCompression`): INFO offers
//! a mode, a leafnode that wants it answers with an INFO of its own, and from there on both directions are S2. In it
//! the leafnode reads INFO once more, and its CONNECT follows.

use std::io;

use tokio::time::Instant;

use crate::{
    net::{s2::S2, stream::Stream, timer::timeout_at},
    protocol::{
        client_preface::PrefaceError,
        control_line::{ServerLine, server_line},
        info::Info,
        s2::Mode,
    },
    session::{
        client_tls::Lost,
        downstream::{Unfinished, send_info, unreadable},
    },
};

/// The most bytes of a leafnode's INFO. It has the addresses of its cluster's servers, of some 20 bytes each.
const MOST_OF_INFO: usize = 64 * 1024;

const INFO: &[u8] = b"INFO";

/// Reads what the leafnode answers to `info`, which it was `sent` then. Returns the stream on which its CONNECT comes,
/// and what has been read of that.
///
/// # Errors
/// [`Lost`].
pub(super) async fn agree(
    mode: Mode,
    mut stream: Stream,
    info: &[u8],
    (sent, by): (Instant, Instant),
) -> Result<(Stream, Vec<u8>), Lost> {
    let mut said = Vec::new();
    let line = loop {
        if !begins_info(&said) {
            return Ok((stream, said));
        }
        if let Some(end) = memchr::memchr(b'\n', &said) {
            let behind = said.split_off(end.saturating_add(1));
            break std::mem::replace(&mut said, behind);
        }
        if said.len() > MOST_OF_INFO {
            return Err(Lost::new(stream, Unfinished::Wrong(PrefaceError::TooLong)));
        }
        let read = stream.read_once::<1024, _>(|bytes| match bytes {
            [] => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => {
                said.extend_from_slice(bytes);
                Ok(())
            }
        });
        let unfinished = match timeout_at(by, read).await {
            Ok(Ok(())) => continue,
            Err(_) => Unfinished::TimedOut,
            Ok(Err(err)) if err.kind() == io::ErrorKind::InvalidData => Unfinished::Wrong(unreadable(&stream)),
            Ok(Err(_)) if said.is_empty() => Unfinished::Probe,
            Ok(Err(_)) => Unfinished::Gone,
        };
        return Err(Lost::new(stream, unfinished));
    };
    let named = match server_line(&line) {
        ServerLine::Info(json) => Info::parse(json).ok().map(|info| info.compression().unwrap_or_default()),
        _ => None,
    };
    match named.map(|named| mode.with_leafnode(&named)) {
        Some(Ok(None)) => Ok((stream, said)),
        Some(Ok(Some(both))) => {
            let mut stream = Stream::from(S2::new(stream, both, said, sent.elapsed()));
            match send_info(&mut stream, info, by).await {
                Ok(()) => Ok((stream, Vec::new())),
                Err(unfinished) => Err(Lost::new(stream, unfinished)),
            }
        }
        Some(Err(_)) | None => Err(Lost::new(stream, Unfinished::Wrong(PrefaceError::NotS2))),
    }
}

/// Whether these bytes are those of an INFO, as far as they go.
fn begins_info(bytes: &[u8]) -> bool {
    let verb = bytes.get(..INFO.len()).unwrap_or(bytes);
    INFO.get(..verb.len()).is_some_and(|info| info.eq_ignore_ascii_case(verb))
}
