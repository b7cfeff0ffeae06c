//! Sessions that have not lived for long, by worker: one look a second instead of a timer for each of them.

use std::{cell::RefCell, mem, sync::Arc, time::Duration};

use tokio::{task::yield_now, time::sleep};

use crate::relay::registry::Handle;

/// A session is grown up after at least this, and at most twice as long.
const LOOK: Duration = Duration::from_secs(1);

/// After so many the worker does something else.
const AT_ONCE: usize = 64;

thread_local! {
    /// Those that have come since the last look, and those that were there then.
    static YOUNG: RefCell<[Vec<Arc<Handle>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Takes in a session of this worker.
pub fn enter(handle: Arc<Handle>) {
    YOUNG.with_borrow_mut(|[newest, _]| newest.push(handle));
}

/// Those that were there at the last look already.
fn look() -> Vec<Arc<Handle>> {
    YOUNG.with_borrow_mut(|[newest, older]| mem::replace(older, mem::take(newest)))
}

/// Tells the sessions of this worker when they have grown up, for as long as it runs.
pub async fn grow_up() {
    loop {
        sleep(LOOK).await;
        for some in look().chunks(AT_ONCE) {
            some.iter().for_each(|handle| handle.grow_up());
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grown_up_at_the_second_look() {
        let handle = Arc::<Handle>::default();
        enter(Arc::clone(&handle));
        assert!(look().is_empty(), "it may have come a moment ago");
        let [grown] = &look()[..] else { panic!("one was there") };
        grown.grow_up();
        assert!(handle.is_grown_up() && !handle.told_to_end());
        assert!(look().is_empty());
    }
}
