//! A buffer that all sessions of a worker use in turn.

use std::cell::Cell;

/// A value that is built at its first use and lent to one user at a time.
pub struct Scratch<T>(Cell<Option<T>>);

impl<T> Default for Scratch<T> {
    fn default() -> Self {
        Self(Cell::new(None))
    }
}

impl<T: Default> Scratch<T> {
    /// Lends the value to `work`. It is taken out meanwhile: should `work` come back here it gets another value, where
    /// a `RefCell` would panic.
    #[inline]
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.0.take().unwrap_or_default();
        let result = work(&mut value);
        self.0.set(Some(value));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_user_at_the_same_time_gets_a_value_of_its_own() {
        let scratch = Scratch::<Vec<u8>>::default();
        scratch.with(|outer| {
            outer.push(1);
            scratch.with(|inner| inner.push(2));
            assert_eq!(*outer, [1]);
        });
        scratch.with(|value| assert_eq!(*value, [1], "the value of the first user is kept"));
    }
}
