//! How many of the clients that came before a client still wait: exact whichever clients have left, and in logarithmic
//! time.

/// A position for each client that came, in that order, in a Fenwick tree. A position takes 4 bytes. The positions
/// before the first taken one are forgotten once they are half of all.
#[derive(Debug, Default)]
pub struct Positions {
    /// The first position in `tree`; no earlier one is taken.
    first: u64,
    /// `tree[n - 1]` is how many of the `n & -n` positions up to the `n`th are taken.
    tree: Vec<u32>,
    len: usize,
}

/// A tree with fewer positions than this is not worth shortening.
const FEW: usize = 1024;

/// How many positions `tree[n - 1]` counts.
fn span(n: usize) -> usize {
    n & n.wrapping_neg()
}

impl Positions {
    /// How many positions are taken.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes the position behind all others.
    pub fn take(&mut self) -> u64 {
        let n = self.tree.len() + 1;
        let (mut taken, mut part) = (1, 1);
        while part < span(n) {
            taken += self.tree[n - part - 1];
            part *= 2;
        }
        self.tree.push(taken);
        self.len += 1;
        self.first + self.tree.len() as u64 - 1
    }

    /// Gives a taken position back.
    pub fn give_back(&mut self, position: u64) {
        self.each_span(position, |taken| *taken -= 1);
        self.len -= 1;
    }

    /// Takes a position again that was given back.
    pub fn take_again(&mut self, position: u64) {
        self.each_span(position, |taken| *taken += 1);
        self.len += 1;
    }

    fn each_span(&mut self, position: u64, change: impl Fn(&mut u32)) {
        let mut n = (position - self.first) as usize + 1;
        while n <= self.tree.len() {
            change(&mut self.tree[n - 1]);
            n += span(n);
        }
    }

    /// How many positions before this one are taken.
    pub fn before(&self, position: u64) -> usize {
        let mut n = position.saturating_sub(self.first) as usize;
        let mut taken = 0;
        while n > 0 {
            taken += self.tree[n - 1] as usize;
            n -= span(n);
        }
        taken
    }

    /// Whether [`Positions::forget`] is due.
    pub fn are_many(&self) -> bool {
        self.tree.len() >= FEW && self.tree.len().is_power_of_two()
    }

    /// Forgets all positions before `first`, the first that is taken, if they are half of all.
    pub fn forget(&mut self, first: u64) {
        let gone = (first - self.first) as usize;
        if gone < self.tree.len() / 2 {
            return;
        }
        let positions = self.first + gone as u64..self.first + self.tree.len() as u64;
        let taken: Vec<bool> = positions.map(|position| self.before(position + 1) > self.before(position)).collect();
        *self = Self { first, ..Self::default() };
        for taken in taken {
            let position = self.take();
            if !taken {
                self.give_back(position);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Compares with a list of positions.
        #[test]
        fn it_counts_who_is_there(seed: u64, stay in 1..4000usize) {
            let (mut positions, mut there, mut rng) = (Positions::default(), Vec::new(), fastrand::Rng::with_seed(seed));
            for _ in 0..6000 {
                if there.len() < stay || rng.bool() {
                    there.push(positions.take());
                    if positions.are_many() {
                        positions.forget(there[0]);
                    }
                }
                let one = if rng.bool() { 0 } else { rng.usize(..there.len()) };
                if there.len() > stay || rng.u32(..4) == 0 {
                    positions.give_back(there.remove(one));
                } else {
                    positions.give_back(there[one]);
                    positions.take_again(there[one]);
                }
            }
            prop_assert_eq!(positions.len(), there.len());
            for (before, &position) in there.iter().enumerate() {
                prop_assert_eq!(positions.before(position), before);
            }
        }
    }

    #[test]
    fn those_who_have_gone_are_forgotten() {
        let mut positions = Positions::default();
        let mut last = positions.take();
        for _ in 0..1_000_000 {
            let next = positions.take();
            positions.give_back(last);
            last = next;
            if positions.are_many() {
                positions.forget(last);
            }
        }
        assert!(positions.tree.len() <= 2 * FEW && positions.before(last) == 0, "{}", positions.tree.len());
    }
}
