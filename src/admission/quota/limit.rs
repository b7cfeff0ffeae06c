//! A count with a limit: the clients of a listener, the refusals under way, the clients that wait outside the queue.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

/// A number of permits that may be taken at once.
#[derive(Debug)]
pub struct Limit {
    /// The most permits at once.
    most: AtomicU32,
    in_use: AtomicU32,
    /// A limit of all its kind together, of which each permit takes one as well.
    whole: Option<Arc<Limit>>,
}

/// One permit of a [`Limit`], given back on drop.
#[derive(Debug)]
pub struct Permit {
    limit: Arc<Limit>,
}

impl Limit {
    /// With no permit taken.
    pub fn new(most: u32) -> Arc<Self> {
        Self::within(most, None)
    }

    /// The same as a part of a `whole`, if there is one: a permit takes one of both.
    pub fn within(most: u32, whole: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { most: AtomicU32::new(most), in_use: AtomicU32::new(0), whole })
    }

    /// A count without a limit.
    pub fn none() -> Arc<Self> {
        Self::new(u32::MAX)
    }

    /// There may be so many permits from now on. Those that are taken stay taken, also beyond it.
    pub fn set_most(&self, most: u32) {
        self.most.store(most, Relaxed);
    }

    /// Takes a permit, if there is one.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.take().then(|| Permit { limit: Arc::clone(self) })
    }

    fn take(&self) -> bool {
        if !self.count_one_more() {
            return false;
        }
        let has_room = self.whole.as_ref().is_none_or(|whole| whole.take());
        if !has_room {
            self.in_use.fetch_sub(1, Relaxed);
        }
        has_room
    }

    fn count_one_more(&self) -> bool {
        let most = self.most.load(Relaxed);
        let below = |n: u32| (n < most).then(|| n + 1);
        self.in_use.fetch_update(Relaxed, Relaxed, below).is_ok()
    }

    fn take_over(&self) {
        self.in_use.fetch_add(1, Relaxed);
        if let Some(whole) = &self.whole {
            whole.take_over();
        }
    }

    fn give_back(&self) {
        self.in_use.fetch_sub(1, Relaxed);
        if let Some(whole) = &self.whole {
            whole.give_back();
        }
    }

    /// Takes a permit whether there is one or not.
    pub fn acquire_over(self: &Arc<Self>) -> Permit {
        self.take_over();
        Permit { limit: Arc::clone(self) }
    }

    /// Makes a permit of another part of the same whole one of this part, if there is one.
    ///
    /// # Errors
    /// There is none: the permit stays what it was.
    pub fn exchange(self: &Arc<Self>, mut permit: Permit) -> Result<Permit, Permit> {
        debug_assert!(self.is_beside(&permit.limit), "permits are exchanged within one whole");
        if !self.count_one_more() {
            return Err(permit);
        }
        permit.limit.in_use.fetch_sub(1, Relaxed);
        permit.limit = Arc::clone(self);
        Ok(permit)
    }

    fn is_beside(&self, other: &Self) -> bool {
        let whole = |limit: &Self| limit.whole.as_ref().map(Arc::as_ptr);
        whole(self) == whole(other)
    }

    /// The most permits at once.
    pub fn most(&self) -> u32 {
        let most = self.most.load(Relaxed);
        self.whole.as_ref().map_or(most, |whole| whole.most().min(most))
    }

    /// Whether it has no permit left.
    pub fn is_full(&self) -> bool {
        self.in_use() >= self.most.load(Relaxed) || self.whole.as_ref().is_some_and(|whole| whole.is_full())
    }

    /// How many permits are taken.
    pub fn in_use(&self) -> u32 {
        self.in_use.load(Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_of_a_part_is_one_of_the_whole() {
        let whole = Limit::new(3);
        let [large, small] = [5, 1].map(|most| Limit::within(most, Some(Arc::clone(&whole))));
        assert_eq!((large.most(), small.most()), (3, 1));
        let permits: Vec<_> = (0..5).map_while(|_| large.try_acquire()).collect();
        assert_eq!((permits.len(), whole.in_use()), (3, 3));
        assert!(large.is_full() && small.is_full() && small.try_acquire().is_none());
        assert_eq!((large.in_use(), small.in_use()), (3, 0), "what the whole refuses is not counted in the part");
        let over = small.acquire_over();
        assert_eq!((small.in_use(), whole.in_use()), (1, 4));
        drop((permits, over));
        assert_eq!((large.in_use(), small.in_use(), whole.in_use()), (0, 0, 0));
        assert!(small.try_acquire().is_some());
    }

    #[test]
    fn a_permit_goes_to_another_part_of_the_same_whole() {
        let whole = Limit::new(1);
        let [from, to] = [1, 1].map(|most| Limit::within(most, Some(Arc::clone(&whole))));
        let permit = to.exchange(from.try_acquire().unwrap()).unwrap();
        assert_eq!((from.in_use(), to.in_use(), whole.in_use()), (0, 1, 1), "although the whole is full");
        let full = Limit::within(0, Some(Arc::clone(&whole)));
        let permit = full.exchange(permit).unwrap_err();
        assert_eq!((full.in_use(), to.in_use(), whole.in_use()), (0, 1, 1));
        drop(permit);
        assert_eq!((from.in_use(), to.in_use(), whole.in_use()), (0, 0, 0));
    }
}
