//! What this weir's connection to its fleet is like, for whoever shows it, and the wish to be heard at once.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use strum::{EnumCount, IntoStaticStr, VariantArray};

/// What is counted of the messages and writes of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Counted {
    /// Beats that this weir has published.
    BeatSent,
    /// Beats of other weirs that were understood.
    BeatHeard,
    /// Messages that were not understood, or that no peer can have sent.
    Invalid,
    /// Questions whether a silent weir is still connected.
    Probe,
    /// Writes to the bucket that the servers have acknowledged.
    Written,
    /// Writes that came after another weir's, and are made anew.
    Conflict,
    /// Writes of which nobody knows whether they were made.
    Unknown,
    /// Writes that the servers answer they do not make.
    Rejected,
    /// Changes in the bucket that were seen, own ones included.
    Seen,
}

/// The numbers of this weir's own beats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnBeats {
    /// The last one that was begun.
    pub begun: u64,
    /// The last one that the servers have brought back. What others published before it has mostly come as well.
    pub came_back: u64,
}

/// The state of the connection.
#[derive(Debug, Default)]
pub struct LinkState {
    is_up: AtomicBool,
    wants_split: AtomicBool,
    counts: [AtomicU64; Counted::COUNT],
    bytes: [AtomicU64; 2],
    bucket: Mutex<BucketState>,
    begun: AtomicU64,
    came_back: AtomicU64,
    beats: Wake,
    leases: Wake,
}

/// Whether leases are in force, since when, and why not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketState {
    pub is_in_force: bool,
    /// In words, where they are not and that is known.
    pub why_not: Option<String>,
    /// Since when it is so; `None` before it was known.
    pub since: Option<Instant>,
}

impl LinkState {
    /// Whether a server has let this weir in.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Relaxed)
    }

    pub fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Relaxed);
    }

    pub fn count(&self, what: Counted) {
        self.counts[what as usize].fetch_add(1, Relaxed);
    }

    /// How many of each there were, by name.
    pub fn counts(&self) -> impl Iterator<Item = (Counted, u64)> {
        Counted::VARIANTS.iter().map(|what| (*what, self.counts[*what as usize].load(Relaxed)))
    }

    /// Bytes of beats were published.
    pub fn sent(&self, bytes: usize) {
        self.bytes[0].fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes of messages of other weirs came.
    pub fn heard(&self, bytes: usize) {
        self.bytes[1].fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes published, and bytes heard.
    pub fn bytes(&self) -> [u64; 2] {
        [self.bytes[0].load(Relaxed), self.bytes[1].load(Relaxed)]
    }

    /// This weir's beat with this number is made from now on: it tells what the weir has from here on, and no earlier.
    pub fn begin_beat(&self, n: u64) {
        self.begun.store(n, Relaxed);
    }

    /// A beat of this weir has come back. A number that is made up counts no more than the last one.
    pub fn beat_came_back(&self, n: u64) {
        self.came_back.fetch_max(n.min(self.begun.load(Relaxed)), Relaxed);
    }

    pub fn own_beats(&self) -> OwnBeats {
        OwnBeats { begun: self.begun.load(Relaxed), came_back: self.came_back.load(Relaxed) }
    }

    /// Whether leases are in force from now on, and why not. Returns whether that is a change, or the first word.
    pub fn set_bucket(&self, why_not: Option<String>, now: Instant) -> bool {
        let mut bucket = self.bucket_state();
        let is_in_force = why_not.is_none();
        let is_change = bucket.since.is_none() || bucket.is_in_force != is_in_force;
        if is_change {
            bucket.since = Some(now);
        }
        (bucket.is_in_force, bucket.why_not) = (is_in_force, why_not);
        is_change
    }

    fn bucket_state(&self) -> MutexGuard<'_, BucketState> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn bucket(&self) -> BucketState {
        self.bucket_state().clone()
    }

    /// Whether leases are in force.
    pub fn has_bucket(&self) -> bool {
        self.bucket_state().is_in_force
    }

    /// Whether the configuration wants leases, and not the split.
    pub fn wants_leases(&self) -> bool {
        !self.wants_split.load(Relaxed)
    }

    pub fn want_leases(&self, wanted: bool) {
        self.wants_split.store(!wanted, Relaxed);
        self.leases.wake();
    }

    /// Wakes whoever publishes beats: something has happened that peers should hear at once.
    pub fn beats(&self) -> &Wake {
        &self.beats
    }

    /// Wakes whoever writes leases: one is wanted, or to be given back.
    pub fn leases(&self) -> &Wake {
        &self.leases
    }
}

type Call = Box<dyn Fn() + Send + Sync>;

/// Wakes a task, whatever it runs on. Before somebody listens it does nothing.
#[derive(Default)]
pub struct Wake(OnceLock<Call>);

impl Wake {
    /// Calls this from now on. The first caller stays.
    pub fn calls(&self, call: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(call));
    }

    pub fn wake(&self) {
        if let Some(call) = self.0.get() {
            call();
        }
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    #[test]
    fn a_change_of_the_bucket_is_told_once_and_keeps_its_time() {
        let began = Instant::now();
        let state = LinkState::default();
        let later = |s| began + Duration::from_secs(s);
        assert!(state.set_bucket(Some("no answer".to_owned()), later(1)), "the first word is news");
        assert!(!state.set_bucket(Some("still no answer".to_owned()), later(2)) && !state.has_bucket());
        assert!(state.set_bucket(None, later(3)) && !state.set_bucket(None, later(4)));
        assert_eq!((state.bucket().since, state.has_bucket()), (Some(later(3)), true));
        assert!(state.set_bucket(Some("gone".to_owned()), later(5)));
    }

    #[test]
    fn no_beat_comes_back_that_was_not_begun() {
        let state = LinkState::default();
        state.begin_beat(7);
        let last_back = |n| {
            state.beat_came_back(n);
            state.own_beats().came_back
        };
        assert_eq!([last_back(5), last_back(4), last_back(1 << 40)], [5, 5, 7]);
        assert_eq!(state.own_beats().begun, 7);
    }

    #[test]
    fn whoever_listens_first_is_woken() {
        let (wake, woken) = (Wake::default(), Arc::<AtomicU64>::default());
        wake.wake();
        for _ in 0..2 {
            let woken = Arc::clone(&woken);
            wake.calls(move || {
                woken.fetch_add(1, Relaxed);
            });
        }
        wake.wake();
        assert_eq!(woken.load(Relaxed), 1);
    }
}
