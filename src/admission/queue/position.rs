//! How many of those who came before one still wait for their turn: exact, whoever has left meanwhile, and in logarithmic time.

/// One for each that came, in that order: a Fenwick tree of those that are there. 4 bytes each, until none of the earlier half is there.
#[derive(Debug, Default)]
pub struct Positions {
    /// The first place that `tree` knows of; nobody has an earlier one.
    first: u64,
    /// `tree[n - 1]` is how many of the `n & -n` places up to the `n`th are taken.
    tree: Vec<u32>,
    len: usize,
}

/// So many places are not worth forgetting.
const FEW: usize = 1024;

/// The places that `tree[n - 1]` counts.
fn span(n: usize) -> usize {
    n & n.wrapping_neg()
}

impl Positions {
    /// How many are there.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes a place behind all others.
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

    /// Gives a place back that is taken.
    pub fn give_back(&mut self, place: u64) {
        self.each_span(place, |taken| *taken -= 1);
        self.len -= 1;
    }

    /// Takes a place that was given back.
    pub fn take_again(&mut self, place: u64) {
        self.each_span(place, |taken| *taken += 1);
        self.len += 1;
    }

    fn each_span(&mut self, place: u64, change: impl Fn(&mut u32)) {
        let mut n = (place - self.first) as usize + 1;
        while n <= self.tree.len() {
            change(&mut self.tree[n - 1]);
            n += span(n);
        }
    }

    /// How many are taken before this one.
    pub fn before(&self, place: u64) -> usize {
        let mut n = place.saturating_sub(self.first) as usize;
        let mut taken = 0;
        while n > 0 {
            taken += self.tree[n - 1] as usize;
            n -= span(n);
        }
        taken
    }

    /// Whether it is time to ask who is first: [`Positions::forget`] frees what is before that.
    pub fn are_many(&self) -> bool {
        self.tree.len() >= FEW && self.tree.len().is_power_of_two()
    }

    /// Forgets all places before the first that is taken, if they are half of all.
    pub fn forget(&mut self, first: u64) {
        let gone = (first - self.first) as usize;
        if gone < self.tree.len() / 2 {
            return;
        }
        let positions = self.first + gone as u64..self.first + self.tree.len() as u64;
        let taken: Vec<bool> = positions.map(|place| self.before(place + 1) > self.before(place)).collect();
        *self = Self { first, ..Self::default() };
        for taken in taken {
            let place = self.take();
            if !taken {
                self.give_back(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list of places.
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
            for (before, &place) in there.iter().enumerate() {
                prop_assert_eq!(positions.before(place), before);
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
