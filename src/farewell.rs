//! The last word to a client, and closing so that it can be read.
//!
//! Closing a socket with unread bytes in it makes the kernel send RST, which may destroy what was sent just before. So:
//! write, shut down the write side, read until the client's own end or a short timeout, close. The words and the FIN behind
//! them are one packet.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use crate::{socket, stream::Stream};

/// How long a client may take to close after it has been told to. Every official client closes within milliseconds.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are read and thrown away meanwhile, at most.
const MOST_DISCARDED: usize = 1024 * 1024;

/// Writes `last_word` (which may be empty), ends the stream with FIN, and waits for the client's end.
pub async fn say(mut stream: Stream, last_word: &[u8]) {
    let deadline = Instant::now() + LINGER;
    let spoken = async {
        let sent = match &stream {
            Stream::Plain(tcp) if !last_word.is_empty() => socket::send_before_the_end(tcp, last_word)?,
            _ => 0,
        };
        stream.write_all(&last_word[sent..]).await?;
        stream.shutdown().await
    };
    if !matches!(timeout_at(deadline, spoken).await, Ok(Ok(()))) {
        return;
    }
    let mut discarded = 0;
    let mut rest = [0; 512];
    while discarded < MOST_DISCARDED {
        match timeout_at(deadline, stream.read(&mut rest)).await {
            Ok(Ok(n)) if n > 0 => discarded += n,
            _ => return,
        }
    }
}
