//! S2 as two nats-servers speak it behind their INFOs: which of the modes holds, and the chunks of the stream.
//!
//! A stream is chunks of a type (1 byte), a length (3 bytes, the lowest first) and so many bytes: an identifier, which
//! comes first and may come again, blocks of data with a checksum, and what may be skipped (Snappy's framing format,
//! with the blocks of S2).

pub mod decode;
pub mod encode;
mod mode;
#[cfg(test)]
mod tests;

pub use mode::{Level, Mode};

/// A chunk's type and length.
const HEADER: usize = 4;
const CHECKSUM: usize = 4;

/// The types of chunks. Those from here to 0x7f have no meaning yet, and none may skip them; all above may be skipped.
const COMPRESSED: u8 = 0x00;
const UNCOMPRESSED: u8 = 0x01;
const SKIPPED_FROM: u8 = 0x80;
const IDENTIFIER: u8 = 0xff;

const STREAM: &[u8; 10] = b"\xff\x06\x00\x00S2sTwO";

/// The most bytes of one block before compression (`maxBlockSize` of nats-server's library). nats-server itself writes
/// blocks of at most 1 MiB.
pub const MOST_OF_BLOCK: usize = 4 * 1024 * 1024;

/// The checksum of a block's bytes before compression.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
