//! A compressed message in one short frame: nothing of it is decompressed before all of it is there, so that a client
//! that stops in the middle holds its bytes and no decompressor.

use crate::protocol::websocket::{DeflatePool, deflate::Inflater, mask::copy_masked};

/// The longest that is kept, in bytes. A CONNECT with a JWT is shorter.
pub(super) const LONGEST_WHOLE: usize = 4096;

/// From so many bytes of content on, or of content that was decompressed once more, a client that is not in keeps its
/// decompressor all the same. What weir reads of one that waits is less; beginning anew again and again would cost more
/// the longer the content is and the smaller the reads are.
const LONG: u64 = 16 * 1024;

/// Output that has been given before is decompressed again into as many bytes at a time.
const AGAIN: usize = 1024;

/// The bytes are no compressed ones.
#[derive(Debug)]
pub(super) struct Broken;

/// One message.
#[derive(Debug, Default)]
pub(super) struct WholeMessage {
    /// Without its mask, as far as it has come.
    bytes: Vec<u8>,
    /// How many bytes of its content have been read.
    given: u64,
    /// How many have been decompressed once more, since a read began anew.
    again: u64,
    /// Where its decompressor is.
    progress: Option<Progress>,
}

#[derive(Debug)]
struct Progress {
    inflater: Inflater,
    /// How many bytes of the message have been taken, with the tail that no frame carries.
    taken: usize,
}

impl Progress {
    /// Decompresses into `room`. Returns how many bytes came, and whether these were the last ones.
    fn read(&mut self, bytes: &[u8], room: &mut [u8]) -> Result<(usize, bool), Broken> {
        let mut given: usize = 0;
        loop {
            let input = match bytes.get(self.taken..) {
                Some(rest @ [_, ..]) => rest,
                _ => Inflater::tail(self.taken.saturating_sub(bytes.len())),
            };
            if input.is_empty() && !self.inflater.has_more() {
                return Ok((given, true));
            }
            let free = room.get_mut(given..).unwrap_or_default();
            if free.is_empty() {
                return Ok((given, false));
            }
            let (took, gave) = self.inflater.inflate(input, free).map_err(|_| Broken)?;
            if took == 0 && gave == 0 && !input.is_empty() {
                return Err(Broken);
            }
            self.taken = self.taken.saturating_add(took);
            given = given.saturating_add(gave);
        }
    }
}

impl WholeMessage {
    /// Takes bytes that came behind `mask`, whose first byte is that of the next one.
    pub(super) fn push(&mut self, bytes: &[u8], mut mask: [u8; 4]) {
        let had = self.bytes.len();
        self.bytes.resize(had.saturating_add(bytes.len()), 0);
        copy_masked(&mut mask, bytes, self.bytes.get_mut(had..).unwrap_or_default());
    }

    /// The number of bytes read so far.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// Reads some of its content, once all of it is there. Returns how many bytes, and whether they were the last ones.
    ///
    /// A client that `is_in` keeps its decompressor until then. That of another one goes back, and its next read begins
    /// anew: a client that waits, for its turn for example, holds none.
    pub(super) fn read(
        &mut self,
        room: &mut [u8],
        pool: &mut DeflatePool,
        is_in: bool,
    ) -> Result<(usize, bool), Broken> {
        let mut progress = match self.progress.take() {
            Some(progress) => progress,
            None => {
                let mut anew = Progress { inflater: pool.inflater(), taken: 0 };
                let mut again = self.given;
                while again > 0 {
                    let mut bytes = [0; AGAIN];
                    let most = usize::try_from(again).unwrap_or(AGAIN).min(AGAIN);
                    let (gave, _) = anew.read(&self.bytes, bytes.get_mut(..most).unwrap_or_default())?;
                    again = again.saturating_sub(gave as u64);
                    self.again = self.again.saturating_add(gave as u64);
                }
                anew
            }
        };
        let (gave, is_over) = progress.read(&self.bytes, room)?;
        self.given = self.given.saturating_add(gave as u64);
        if is_over || !is_in && self.given.max(self.again) < LONG {
            pool.give_back(progress.inflater);
        } else {
            self.progress = Some(progress);
        }
        Ok((gave, is_over))
    }
}
