//! Reads a stream of S2.
//!
//! A block is passed on once all of it is there and its checksum is right. What is kept meanwhile is one block at most:
//! as it comes, or, once it is there, what the reader has no room for.

use crate::protocol::s2::{
    CHECKSUM, COMPRESSED, HEADER, IDENTIFIER, MOST_OF_BLOCK, SKIPPED_FROM, STREAM, UNCOMPRESSED, checksum,
};

/// The most bytes of a block of a leafnode that is not in yet. INFO and CONNECT are a few KiB; longer blocks wait.
const MOST_BEFORE_IN: usize = 64 * 1024;

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The other end speaks something else.
    #[error("the S2 stream does not begin with its identifier")]
    NotS2,
    /// Larger than [`MOST_OF_BLOCK`].
    #[error("a block of the S2 stream is larger than 4 MiB")]
    TooLarge,
    /// None of those that may be skipped.
    #[error("a chunk of the S2 stream is of an unknown type")]
    UnknownChunk,
    /// Its length, or what is in it.
    #[error("a block of the S2 stream is broken")]
    Corrupt,
    /// Of what is in it, before compression.
    #[error("a block of the S2 stream does not have its checksum")]
    Checksum,
}

/// What one call of [`Decoder::decode`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the stream that need not be kept.
    pub taken: usize,
    /// Bytes that were written.
    pub given: usize,
}

/// Where the stream is.
#[derive(Debug)]
pub struct Decoder {
    /// The chunk that is not there whole, from its header on.
    chunk: Vec<u8>,
    /// So many bytes of a chunk that is skipped are still to come.
    skips: usize,
    /// The bytes of a block for which there was no room, from `at` on.
    block: Vec<u8>,
    at: usize,
    /// The identifier has been read.
    begun: bool,
    most: usize,
    stalled: bool,
    /// What is wrong behind the bytes that the last call has written.
    failed: Option<Violation>,
}

/// The chunk that begins here.
enum Next {
    /// Its end is not known yet.
    Unknown,
    /// So many bytes of it are to be skipped, its header included.
    Skip(usize),
    /// So many bytes have to be there, its header included.
    Whole(usize),
    /// It is larger than what may be read now.
    Waits,
}

impl Default for Decoder {
    /// Of a leafnode that is not in yet.
    fn default() -> Self {
        let (chunk, skips, block, at, begun, stalled, failed) = Default::default();
        Self { chunk, skips, block, at, begun, most: MOST_BEFORE_IN, stalled, failed }
    }
}

impl Decoder {
    /// The leafnode is in.
    pub fn let_in(&mut self) {
        self.most = MOST_OF_BLOCK;
    }

    /// Whether there is more to be written, or to be told, without more of the stream.
    pub fn has_more(&self) -> bool {
        !self.block.is_empty() || self.failed.is_some()
    }

    /// Whether the next block is too large for a leafnode that is not in yet.
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// The bytes of memory that are held for a block.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.chunk.capacity() + self.block.capacity()
    }

    /// Reads `raw`, which goes on where the last call stopped to take, and writes to `out` until either is at its end.
    ///
    /// # Errors
    /// [`Violation`], and nothing can be read behind it.
    pub fn decode(&mut self, raw: &[u8], out: &mut [u8]) -> Result<Step, Violation> {
        if let Some(violation) = self.failed {
            return Err(violation);
        }
        let mut step = Step { taken: 0, given: 0 };
        match self.advance(raw, out, (&mut step.taken, &mut step.given)) {
            Err(violation) if step.given == 0 => return Err(violation),
            // What stands before it counts.
            Err(violation) => self.failed = Some(violation),
            Ok(()) => {}
        }
        Ok(step)
    }

    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "`taken` and `given` count bytes of `raw` and `out`"
    )]
    fn advance(
        &mut self,
        raw: &[u8],
        out: &mut [u8],
        (taken, given): (&mut usize, &mut usize),
    ) -> Result<(), Violation> {
        self.stalled = false;
        loop {
            *given += self.give(&mut out[*given..]);
            if self.has_more() || *given == out.len() {
                break;
            }
            let rest = &raw[*taken..];
            let skipped = self.skips.min(rest.len());
            self.skips -= skipped;
            *taken += skipped;
            let rest = &rest[skipped..];
            if rest.is_empty() {
                // With the last byte of a short chunk its length may have become known.
                match self.next(&self.chunk)? {
                    Next::Whole(length) if length == self.chunk.len() => {
                        *given += self.collected(length, &mut out[*given..])?;
                        continue;
                    }
                    _ => break,
                }
            }
            // Mostly a chunk is there whole, and is read where it is.
            if self.chunk.is_empty() {
                match self.next(rest)? {
                    Next::Whole(length) if length <= rest.len() => {
                        let Some(written) = self.whole(&rest[..length], &mut out[*given..], *given > 0)? else { break };
                        *given += written;
                        *taken += length;
                        continue;
                    }
                    Next::Skip(length) => {
                        self.skips = length;
                        continue;
                    }
                    Next::Waits => {
                        self.stalled = true;
                        break;
                    }
                    Next::Whole(_) | Next::Unknown => {}
                }
            }
            match self.next(&self.chunk)? {
                Next::Waits => {
                    self.stalled = true;
                    break;
                }
                Next::Skip(length) => {
                    self.skips = length - self.chunk.len();
                    self.chunk = Vec::new();
                }
                Next::Unknown => {
                    self.chunk.push(rest[0]);
                    *taken += 1;
                }
                Next::Whole(length) => {
                    let missing = (length - self.chunk.len()).min(rest.len());
                    self.collect(&rest[..missing], length);
                    *taken += missing;
                    *given += self.collected(length, &mut out[*given..])?;
                }
            }
        }
        Ok(())
    }

    /// Keeps `bytes` of a chunk of this length. No more memory is taken than twice what has come, or than the chunk
    /// needs.
    fn collect(&mut self, bytes: &[u8], length: usize) {
        let needed = self.chunk.len().saturating_add(bytes.len());
        if needed > self.chunk.capacity() {
            let wanted = needed.saturating_mul(2).min(length).max(needed);
            self.chunk.reserve_exact(wanted.saturating_sub(self.chunk.len()));
        }
        self.chunk.extend_from_slice(bytes);
    }

    /// Reads the chunk that was collected, if it is whole.
    fn collected(&mut self, length: usize, out: &mut [u8]) -> Result<usize, Violation> {
        if self.chunk.len() < length {
            return Ok(0);
        }
        let chunk = std::mem::take(&mut self.chunk);
        if chunk.first() != Some(&UNCOMPRESSED) {
            return Ok(self.whole(&chunk, out, false)?.unwrap_or(0));
        }
        // Its bytes stay where they are.
        let (sum, data) = block(&chunk)?;
        check(sum, data)?;
        (self.block, self.at) = (chunk, HEADER.saturating_add(CHECKSUM));
        Ok(self.give(out))
    }

    /// Writes what there was no room for.
    fn give(&mut self, out: &mut [u8]) -> usize {
        let rest = self.block.get(self.at..).unwrap_or_default();
        let given = rest.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..given), rest.get(..given)) {
            to.copy_from_slice(from);
        }
        self.at = self.at.saturating_add(given);
        if self.at >= self.block.len() {
            (self.block, self.at) = (Vec::new(), 0);
        }
        given
    }

    /// What begins with these bytes.
    fn next(&self, bytes: &[u8]) -> Result<Next, Violation> {
        let Some(&kind) = bytes.first() else { return Ok(Next::Unknown) };
        if !self.begun && kind != IDENTIFIER {
            return Err(Violation::NotS2);
        }
        let &[_, low, middle, high, ref body @ ..] = bytes else { return Ok(Next::Unknown) };
        let length = usize::try_from(u32::from_le_bytes([low, middle, high, 0])).unwrap_or(usize::MAX);
        let whole = HEADER.saturating_add(length);
        let size = match kind {
            IDENTIFIER if whole != STREAM.len() => return Err(Violation::NotS2),
            IDENTIFIER => return Ok(Next::Whole(whole)),
            SKIPPED_FROM.. => return Ok(Next::Skip(whole)),
            COMPRESSED | UNCOMPRESSED if length < CHECKSUM => return Err(Violation::Corrupt),
            UNCOMPRESSED => length.saturating_sub(CHECKSUM),
            COMPRESSED => {
                // The size stands in at most five bytes; in a shorter chunk all of it is there.
                let enough = length.min(CHECKSUM.saturating_add(5));
                if body.len() < enough {
                    return Ok(Next::Unknown);
                }
                let data = body.get(CHECKSUM..enough).unwrap_or_default();
                let (size, _) = minlz::s2::decode_len(data).map_err(|_| Violation::Corrupt)?;
                let longest = minlz::s2::max_encoded_len(size).map_err(|_| Violation::TooLarge)?;
                // No encoder makes a block so much longer than it was.
                if size <= MOST_OF_BLOCK && length.saturating_sub(CHECKSUM) > longest {
                    return Err(Violation::Corrupt);
                }
                size
            }
            _ => return Err(Violation::UnknownChunk),
        };
        match size {
            _ if size > MOST_OF_BLOCK => Err(Violation::TooLarge),
            _ if size > self.most => Ok(Next::Waits),
            _ => Ok(Next::Whole(whole)),
        }
    }

    /// Reads a whole chunk. `None` where there is no room for it behind what is in `out` already.
    fn whole(&mut self, chunk: &[u8], out: &mut [u8], may_wait: bool) -> Result<Option<usize>, Violation> {
        if chunk.first() == Some(&IDENTIFIER) {
            if chunk != STREAM {
                return Err(Violation::NotS2);
            }
            self.begun = true;
            return Ok(Some(0));
        }
        let is_compressed = chunk.first() == Some(&COMPRESSED);
        let (sum, data) = block(chunk)?;
        let size = match is_compressed {
            true => minlz::s2::decode_len(data).map_err(|_| Violation::Corrupt)?.0,
            false => data.len(),
        };
        match out.get_mut(..size) {
            Some(out) => {
                match is_compressed {
                    true => drop(minlz::s2::decode_into(out, data).map_err(|_| Violation::Corrupt)?),
                    false => out.copy_from_slice(data),
                }
                check(sum, out)?;
                Ok(Some(size))
            }
            None if may_wait => Ok(None),
            None => {
                let block = match is_compressed {
                    true => minlz::s2::decode(data).map_err(|_| Violation::Corrupt)?,
                    false => data.to_vec(),
                };
                check(sum, &block)?;
                (self.block, self.at) = (block, 0);
                Ok(Some(self.give(out)))
            }
        }
    }
}

/// The checksum of a block, and its data.
fn block(chunk: &[u8]) -> Result<(u32, &[u8]), Violation> {
    let (sum, data) = chunk.get(HEADER..).and_then(|body| body.split_first_chunk()).ok_or(Violation::Corrupt)?;
    Ok((u32::from_le_bytes(*sum), data))
}

fn check(sum: u32, bytes: &[u8]) -> Result<(), Violation> {
    if checksum(bytes) == sum { Ok(()) } else { Err(Violation::Checksum) }
}
