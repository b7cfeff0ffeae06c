//! The arguments of operations that carry a payload, of which only the sizes at their end matter here.

/// Most digits of a size: nats-server's `parseSize` calls longer ones bad, leading zeros or not.
pub(super) const MAX_DIGITS: usize = 9;

/// Reads them byte by byte: for lines that are cut by the end of a chunk, or unusual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Args {
    /// How many words have begun; three says "three or more" to nobody, so it saturates far above what any operation has.
    words: u8,
    in_word: bool,
    /// The number that the last word is, and the one before it.
    last: Size,
    previous: Size,
}

/// What a word says as a size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Size {
    value: u32,
    digits: u8,
    bad: bool,
}

impl Size {
    fn push(&mut self, byte: u8) {
        self.bad |= !byte.is_ascii_digit() || usize::from(self.digits) == MAX_DIGITS;
        if !self.bad {
            self.value = self.value * 10 + u32::from(byte - b'0');
            self.digits += 1;
        }
    }

    fn get(self) -> Option<u32> {
        (!self.bad && self.digits > 0).then_some(self.value)
    }
}

impl Args {
    pub(super) fn push(&mut self, byte: u8) {
        if matches!(byte, b' ' | b'\t') {
            self.in_word = false;
            return;
        }
        if !self.in_word {
            self.in_word = true;
            self.words = self.words.saturating_add(1);
            self.previous = std::mem::take(&mut self.last);
        }
        self.last.push(byte);
    }

    pub(super) fn words(&self) -> u8 {
        self.words
    }

    /// The size that the last word is.
    pub(super) fn size(&self) -> Option<u32> {
        self.last.get()
    }

    /// The sizes that the last two words are: of the headers, and of headers and payload together.
    pub(super) fn sizes(&self) -> Option<(u32, u32)> {
        Some((self.previous.get()?, self.last.get()?))
    }
}
