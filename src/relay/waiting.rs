//! Bytes that a session has read and that the other side does not take yet, and how many of them all sessions hold.
//!
//! A session holds those of one read at most. The more all sessions hold, the less is read at a time: a read is no
//! larger than what may have to be held. Nobody is closed for it, since what is not read waits in the kernel's buffers
//! and at last at the sender.

use std::{
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// The largest read in bytes.
pub const LARGE_READ: usize = 256 * 1024;

/// The size of a read in bytes, until the bytes flow: reads fill up and the other side takes all of them. What the
/// other side does not take is held by the session, so a slow side is not read from in large pieces.
pub const SMALL_READ: usize = 32 * 1024;

/// The size of a read while much is held.
const LEAST_READ: usize = 4 * 1024;

/// From this many held bytes on no read is large: 128 sessions that stall in the middle of a large read. Transfers that
/// are only a little faster on one side hold some of it now and then.
const NO_LARGE_READ_FROM: u64 = 32 * 1024 * 1024;

/// From this many held bytes on all reads are of the least size: 10,000 sessions that stall then hold another 40 MiB.
const LEAST_READ_FROM: u64 = 2 * NO_LARGE_READ_FROM;

/// Bytes of memory that all sessions hold. A counter of the process, since a session has no room for a reference to it.
/// It is written only when a side does not take what it is given, and when it has taken it at last.
static HELD: Held = Held(AtomicU64::new(0));

/// On a cache line of its own: each read of a relay looks at it.
#[repr(align(64))]
#[derive(Debug)]
struct Held(AtomicU64);

/// How many bytes all sessions hold for sides that do not take them.
pub fn held_bytes() -> u64 {
    HELD.0.load(Relaxed)
}

/// How many bytes the next read may take; `flows` says that the last ones were many and all went on at once.
#[inline]
pub fn most_to_read(flows: bool) -> usize {
    most_with(flows, held_bytes())
}

#[inline]
fn most_with(flows: bool, held: u64) -> usize {
    if held >= LEAST_READ_FROM {
        LEAST_READ
    } else if flows && held < NO_LARGE_READ_FROM {
        LARGE_READ
    } else {
        SMALL_READ
    }
}

/// The bytes that one direction of a session holds. Without any it takes no memory.
#[derive(Debug, Default)]
pub struct Waiting(Vec<u8>);

impl Waiting {
    /// Holds these, too.
    pub fn push(&mut self, bytes: &[u8]) {
        self.change(|held| held.extend_from_slice(bytes));
    }

    /// The other side has taken the first `n` bytes. Memory that they leave empty is given back once it is most of it.
    pub fn taken(&mut self, n: usize) {
        self.change(|held| {
            held.drain(..n.min(held.len()));
            if held.len() <= held.capacity() / 4 {
                held.shrink_to_fit();
            }
        });
    }

    /// The other side has taken all of them.
    pub fn all_taken(&mut self) {
        self.change(|held| *held = Vec::new());
    }

    /// What counts is the memory, so that it need not be kept beside the bytes.
    fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let before = self.0.capacity() as u64;
        change(&mut self.0);
        let after = self.0.capacity() as u64;
        if after > before {
            HELD.0.fetch_add(after.saturating_sub(before), Relaxed);
        } else if before > after {
            HELD.0.fetch_sub(before.saturating_sub(after), Relaxed);
        }
    }
}

impl Deref for Waiting {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.0.capacity() > 0 {
            self.all_taken();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_is_held_the_less_is_read() {
        const MIB: u64 = 1024 * 1024;
        for (held, flowing, not_flowing) in [
            (0, LARGE_READ, SMALL_READ),
            (31 * MIB, LARGE_READ, SMALL_READ),
            (32 * MIB, SMALL_READ, SMALL_READ),
            (63 * MIB, SMALL_READ, SMALL_READ),
            (64 * MIB, LEAST_READ, LEAST_READ),
            (u64::MAX, LEAST_READ, LEAST_READ),
        ] {
            assert_eq!((most_with(true, held), most_with(false, held)), (flowing, not_flowing), "{held}");
        }
    }

    #[test]
    fn memory_is_given_back_as_the_bytes_go() {
        let mut waiting = Waiting::default();
        waiting.push(&[7; 1000]);
        waiting.push(&[8; 1000]);
        waiting.taken(1000);
        assert!(waiting.len() == 1000 && waiting.iter().all(|byte| *byte == 8));
        waiting.taken(900);
        assert_eq!((waiting.len(), waiting.0.capacity()), (100, 100));
        waiting.taken(100);
        assert_eq!((waiting.len(), waiting.0.capacity()), (0, 0));
        waiting.push(&[9; 10]);
        waiting.all_taken();
        assert_eq!((waiting.len(), waiting.0.capacity()), (0, 0));
    }
}
