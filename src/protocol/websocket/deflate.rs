//! Compressing and decompressing messages, each by itself (RFC 7692, `no_context_takeover` on both sides).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What every compressed message ends with, and no frame carries.
const TAIL: &[u8] = &[0, 0, 0xff, 0xff];

/// A worker's idle decompressors; each takes some 43 KiB. More are made when more messages are under way, and dropped after.
const MOST_SPARE: usize = 4;

/// What the WebSockets of a worker share, since each needs it only while it has a message under way.
#[derive(Debug, Default)]
pub struct DeflatePool {
    compress: Option<Compress>,
    /// The last message that was compressed.
    compressed: Vec<u8>,
    spare: Vec<Decompress>,
}

impl DeflatePool {
    /// `message` compressed; `None` when that saves nothing.
    pub(super) fn compress(&mut self, message: &[u8]) -> Option<&[u8]> {
        let compress = self.compress.get_or_insert_with(|| Compress::new(Compression::fast(), false));
        compress.reset();
        self.compressed.clear();
        let mut done = 0;
        loop {
            // Room for all at once, mostly: what does not shrink grows by some bytes for each 32 KiB.
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
        Inflater { state: self.spare.pop().unwrap_or_else(|| Decompress::new(false)), ended: false, full: false }
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
    /// A final block has come; what follows it is filling.
    ended: bool,
    /// Something came out last time, so there may be more.
    full: bool,
}

impl Inflater {
    /// Decompresses some of `input` into `out`; returns how much was taken and given.
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
        // Less than there was room for may be all there is, or all until the window of 32 KiB is full: asked again it tells.
        self.full = !self.ended && given > 0;
        Ok((taken, given))
    }

    /// The tail of the message, from its byte `at` on.
    pub(super) fn tail(at: usize) -> &'static [u8] {
        &TAIL[at..]
    }

    /// Whether there may be more without more input.
    pub(super) fn has_more(&self) -> bool {
        self.full
    }

    /// Bytes that came out so far.
    pub(super) fn given(&self) -> u64 {
        self.state.total_out()
    }
}
