//! What this process itself was up to: whether its clients were where they are thought to be, or waited for its own threads.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::sleep;

/// How often a thread looks whether it is late.
const LOOK: Duration = Duration::from_millis(10);
/// CPU is looked at in pieces of this length: a storm may be over in one second and watched for a minute.
const WINDOW: Duration = Duration::from_millis(100);
/// From this part of what its threads can do, the process was busy in a window.
const BUSY: f64 = 0.8;

/// CPU time of this process so far.
pub(super) fn cpu_time() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

/// CPU time of this thread so far.
pub(super) fn thread_time() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

fn clock(which: ClockId) -> Duration {
    let time = clock_gettime(which);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// How late the threads that carry clients were with what there was to do.
#[derive(Debug, Default)]
pub(super) struct Lateness(AtomicU64);

impl Lateness {
    /// Looks for as long as this thread's runtime lives. A look waits in the same queue as the clients do.
    pub(super) async fn watch(&self) {
        loop {
            let due = Instant::now() + LOOK;
            sleep(LOOK).await;
            self.0.fetch_max(u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// The most that any of them was.
    pub(super) fn most(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }
}

/// The CPU that the process takes, window by window.
#[derive(Debug)]
pub(super) struct Cpu {
    threads: u32,
    window: (Instant, Duration),
    before: Duration,
    busy: Duration,
}

impl Cpu {
    /// Counts from now, for a process whose clients are carried by so many threads.
    pub(super) fn new(threads: usize) -> Self {
        let cpu = cpu_time();
        Self {
            threads: u32::try_from(threads).unwrap_or(u32::MAX).max(1),
            window: (Instant::now(), cpu),
            before: cpu,
            busy: Duration::ZERO,
        }
    }

    /// Looks again; to be called often.
    pub(super) fn look(&mut self) {
        let (now, cpu) = (Instant::now(), cpu_time());
        if now.duration_since(self.window.0) >= WINDOW {
            self.close(now, cpu);
        }
    }

    fn close(&mut self, now: Instant, cpu: Duration) {
        let (began, spent) = self.window;
        let length = now.saturating_duration_since(began);
        if cpu.saturating_sub(spent) > (length * self.threads).mul_f64(BUSY) {
            self.busy += length;
        }
        self.window = (now, cpu);
    }

    /// CPU in all, and for how long the process was busy.
    pub(super) fn end(mut self) -> (Duration, Duration) {
        let cpu = cpu_time();
        self.close(Instant::now(), cpu);
        (cpu.saturating_sub(self.before), self.busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_windows_count_in_which_all_threads_had_work() {
        let began = Instant::now();
        let ms = Duration::from_millis;
        let mut cpu = Cpu { threads: 2, window: (began, ms(500)), before: ms(500), busy: Duration::ZERO };
        for (at, spent) in [(100, 690), (200, 790), (1200, 800), (1300, 1000)] {
            cpu.close(began + ms(at), ms(spent));
        }
        assert_eq!(cpu.busy, ms(200), "the first and the last");
    }

    #[tokio::test]
    async fn a_thread_that_does_something_else_is_late() {
        let lateness = Lateness::default();
        let other = async {
            sleep(LOOK).await;
            std::thread::sleep(8 * LOOK);
            sleep(LOOK).await;
        };
        tokio::select! {
            () = lateness.watch() => {}
            () = other => {}
        }
        assert!(lateness.most() >= 6 * LOOK, "{:?}", lateness.most());
    }
}
