//! Compression and decompression of messages, each on its own (RFC 7692, `no_context_takeover` on both sides).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The end of every compressed message, which is not sent in its frames.
const TAIL: &[u8] = &[0, 0, 0xff, 0xff];

/// The most idle decompressors that a worker keeps, of some 43 KiB each. While more messages are in progress there are
/// more.
const MOST_SPARE: usize = 4;

/// The most decompressors that clients of a worker hold which are not in yet, in the middle of a message that is long
/// or has several frames: 2.7 MiB. The next one's bytes wait.
pub(super) const MOST_NOT_IN: usize = 64;

/// The compressor and the decompressors of a worker's WebSockets. A WebSocket needs one only while a message is in
/// progress.
#[derive(Debug, Default)]
pub struct DeflatePool {
    compress: Option<Compress>,
    /// The last message, compressed.
    compressed: Vec<u8>,
    spare: Vec<Decompress>,
    /// The decompressors that are in use, and those of them that clients hold which are not in yet.
    in_use: Arc<AtomicUsize>,
    held_before_in: Arc<AtomicUsize>,
}

/// One of those that a count is of.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl DeflatePool {
    /// Compresses a message; `None` if that makes it no shorter.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        reason = "the compressor counts bytes of `message`, so `done` is at most its length"
    )]
    pub(super) fn compress(&mut self, message: &[u8]) -> Option<&[u8]> {
        let compress = self.compress.get_or_insert_with(|| Compress::new(Compression::fast(), false));
        compress.reset();
        self.compressed.clear();
        let mut done = 0;
        loop {
            // Mostly enough for one pass: incompressible data grows by a few bytes for each 32 KiB.
            self.compressed.reserve((message.len() - done) + 64);
            let before = compress.total_in();
            compress.compress_vec(&message[done..], &mut self.compressed, FlushCompress::Sync).ok()?;
            done += (compress.total_in() - before) as usize;
            if done == message.len() && self.compressed.len() < self.compressed.capacity() {
                break;
            }
        }
        self.compressed.strip_suffix(TAIL).filter(|compressed| compressed.len() < message.len())
    }

    pub(super) fn inflater(&mut self) -> Inflater {
        let state = self.spare.pop().unwrap_or_else(|| Decompress::new(false));
        Inflater { state, ended: false, full: false, _counted: [Some(Counted::new(&self.in_use)), None] }
    }

    /// One for a message that comes in pieces. `None` while clients that are not in yet hold as many as they may, and
    /// this client `is_in` neither.
    pub(super) fn inflater_of_pieces(&mut self, is_in: bool) -> Option<Inflater> {
        if !is_in && self.held_before_in.load(Relaxed) >= MOST_NOT_IN {
            return None;
        }
        let mut inflater = self.inflater();
        if !is_in {
            inflater._counted[1] = Some(Counted::new(&self.held_before_in));
        }
        Some(inflater)
    }

    /// How many decompressors are in use.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.in_use.load(Relaxed)
    }

    pub(super) fn give_back(&mut self, inflater: Inflater) {
        if self.spare.len() < MOST_SPARE {
            let mut state = inflater.state;
            state.reset(false);
            self.spare.push(state);
        }
    }
}

/// Decompresses one message.
#[derive(Debug)]
pub(super) struct Inflater {
    state: Decompress,
    /// A final block has been read; bytes behind it are padding.
    ended: bool,
    /// The last call produced output, so the next may produce more without more input.
    full: bool,
    _counted: [Option<Counted>; 2],
}

impl Inflater {
    /// Decompresses some of `input` into `out`; returns how many bytes were read and written.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "the totals only grow, by no more than the lengths of `input` and `out`"
    )]
    pub(super) fn inflate(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize), flate2::DecompressError> {
        if self.ended {
            self.full = false;
            return Ok((input.len(), 0));
        }
        let (total_in, total_out) = (self.state.total_in(), self.state.total_out());
        let status = self.state.decompress(input, out, FlushDecompress::Sync)?;
        let taken = (self.state.total_in() - total_in) as usize;
        let given = (self.state.total_out() - total_out) as usize;
        self.ended = status == Status::StreamEnd;
        // Output that leaves space may be everything, or everything until the window of 32 KiB wraps: the next call
        // tells.
        self.full = !self.ended && given > 0;
        Ok((taken, given))
    }

    /// The end of a message that no frame carries, from its byte `at` on.
    pub(super) fn tail(at: usize) -> &'static [u8] {
        TAIL.get(at..).unwrap_or_default()
    }

    /// Whether there may be more output without more input.
    pub(super) fn has_more(&self) -> bool {
        self.full
    }

    /// The number of bytes written so far.
    pub(super) fn given(&self) -> u64 {
        self.state.total_out()
    }
}
