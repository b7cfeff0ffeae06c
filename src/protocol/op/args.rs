//! The arguments of operations with a payload, read byte by byte. Only the sizes at their end matter for framing.

use serde::{Deserialize, Serialize};

/// The most digits of a size, leading zeros included: nats-server's `parseSize` rejects longer ones.
pub const MAX_DIGITS: usize = 9;

/// The arguments read so far, of a line that is cut by the end of a chunk or that [`super::fast_path`] does not handle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Args {
    /// How many words have begun. It saturates at 255; no operation has more than 4.
    words: u8,
    in_word: bool,
    /// The last word and the one before it, read as sizes.
    last: Size,
    previous: Size,
}

/// A word read as a size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Size {
    value: u32,
    digits: u8,
    bad: bool,
}

impl Size {
    #[expect(clippy::arithmetic_side_effects, reason = "nine digits fit u32")]
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

    fn is_sound(self) -> bool {
        let bound = 10_u32.checked_pow(self.digits.into());
        usize::from(self.digits) <= MAX_DIGITS && bound.is_some_and(|bound| self.value < bound)
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

    /// Whether it can be what [`Self::push`] makes.
    pub(super) fn is_sound(&self) -> bool {
        self.last.is_sound() && self.previous.is_sound()
    }

    /// The last word as a size.
    pub(super) fn size(&self) -> Option<u32> {
        self.last.get()
    }

    /// The last two words as sizes: of the headers, and of headers and payload together.
    pub(super) fn sizes(&self) -> Option<(u32, u32)> {
        Some((self.previous.get()?, self.last.get()?))
    }
}
