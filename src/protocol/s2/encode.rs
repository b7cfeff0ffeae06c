//! Writes a stream of S2.

use std::fmt;

use crate::protocol::s2::{COMPRESSED, Level, STREAM, UNCOMPRESSED, checksum};

/// The most bytes that go into one block.
pub const MOST_WRITTEN: usize = 64 * 1024;

/// Blocks with fewer bytes than this are written with [`Level::Better`] instead of [`Level::Best`], which clears tables
/// of 4.5 MiB for each block, however short that is.
const LEAST_FOR_BEST: usize = 16 * 1024;

/// The tables of the levels. They are made when a level is first used, and serve one block at a time.
#[derive(Default)]
pub struct Compressor(minlz::s2::Encoder);

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compressor")
    }
}

/// Begins a stream.
pub fn begin(out: &mut Vec<u8>) {
    out.extend_from_slice(STREAM);
}

impl Compressor {
    /// Appends a chunk with `bytes`, of which there are at most [`MOST_WRITTEN`].
    pub fn block(&mut self, level: Level, bytes: &[u8], out: &mut Vec<u8>) {
        debug_assert!(bytes.len() <= MOST_WRITTEN);
        let compressed = match level {
            Level::Uncompressed => None,
            Level::Fast => Some(self.0.encode(bytes)),
            Level::Best if bytes.len() >= LEAST_FOR_BEST => Some(self.0.encode_best(bytes)),
            Level::Better | Level::Best => Some(self.0.encode_better(bytes)),
        };
        let (kind, data) = match &compressed {
            Some(compressed) if compressed.len() < bytes.len() => (COMPRESSED, &**compressed),
            _ => (UNCOMPRESSED, bytes),
        };
        let checksum = checksum(bytes).to_le_bytes();
        let length = u32::try_from(checksum.len().saturating_add(data.len())).unwrap_or(u32::MAX).to_le_bytes();
        let [low, middle, high, _] = length;
        out.extend_from_slice(&[kind, low, middle, high]);
        out.extend_from_slice(&checksum);
        out.extend_from_slice(data);
    }
}
