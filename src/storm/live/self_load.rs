//! The load of this process itself. If its threads were busy, the clients were late, and the report says so.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::sleep;

/// How often a thread measures its delay.
const INTERVAL: Duration = Duration::from_millis(10);
/// The CPU time is measured in windows of this length. A mean over the whole run would hide a busy second: a storm may
/// take one second of a run of one minute.
const WINDOW: Duration = Duration::from_millis(100);
/// The process counts as busy in a window if it used more than this share of what its threads can use.
const BUSY: f64 = 0.8;

/// The CPU time of this process so far.
pub(super) fn cpu_time() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

/// The CPU time of this thread so far.
pub(super) fn thread_time() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

fn clock(which: ClockId) -> Duration {
    let time = clock_gettime(which);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The longest delay between the time for which a task of a client thread was scheduled and the time at which it ran.
#[derive(Debug, Default)]
pub(super) struct WakeupDelay(AtomicU64);

impl WakeupDelay {
    /// Measures this thread's delay for ever. This task waits in the same run queue as the clients.
    pub(super) async fn measure(&self) {
        loop {
            let due = Instant::now() + INTERVAL;
            sleep(INTERVAL).await;
            self.0.fetch_max(u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// The longest delay of any thread.
    pub(super) fn longest(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }
}

/// Measures the CPU time of the process, window by window.
#[derive(Debug)]
pub(super) struct CpuMeter {
    threads: u32,
    /// When the window began, and the CPU time of the process at that time.
    window: (Instant, Duration),
    /// The CPU time of the process when the meter was made.
    before: Duration,
    /// The length of all windows in which the process was busy.
    busy: Duration,
}

impl CpuMeter {
    /// Measures from now on, for a process whose clients run on this many threads.
    pub(super) fn new(threads: usize) -> Self {
        let cpu = cpu_time();
        Self {
            threads: u32::try_from(threads).unwrap_or(u32::MAX).max(1),
            window: (Instant::now(), cpu),
            before: cpu,
            busy: Duration::ZERO,
        }
    }

    /// Ends the current window if it is long enough. To be called more often than the length of a window.
    pub(super) fn poll(&mut self) {
        let (now, cpu) = (Instant::now(), cpu_time());
        if now.duration_since(self.window.0) >= WINDOW {
            self.end_window(now, cpu);
        }
    }

    fn end_window(&mut self, now: Instant, cpu: Duration) {
        let (began, spent) = self.window;
        let length = now.saturating_duration_since(began);
        if cpu.saturating_sub(spent) > (length * self.threads).mul_f64(BUSY) {
            self.busy += length;
        }
        self.window = (now, cpu);
    }

    /// The CPU time since the meter was made, and for how long the process was busy.
    pub(super) fn finish(mut self) -> (Duration, Duration) {
        let cpu = cpu_time();
        self.end_window(Instant::now(), cpu);
        (cpu.saturating_sub(self.before), self.busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_windows_in_which_all_threads_had_work_count() {
        let began = Instant::now();
        let ms = Duration::from_millis;
        let mut meter = CpuMeter { threads: 2, window: (began, ms(500)), before: ms(500), busy: Duration::ZERO };
        for (at, spent) in [(100, 690), (200, 790), (1200, 800), (1300, 1000)] {
            meter.end_window(began + ms(at), ms(spent));
        }
        assert_eq!(meter.busy, ms(200), "the first and the last");
    }

    #[tokio::test]
    async fn a_busy_thread_is_late() {
        let delay = WakeupDelay::default();
        let other = async {
            sleep(INTERVAL).await;
            std::thread::sleep(8 * INTERVAL);
            sleep(INTERVAL).await;
        };
        tokio::select! {
            () = delay.measure() => {}
            () = other => {}
        }
        assert!(delay.longest() >= 6 * INTERVAL, "{:?}", delay.longest());
    }
}
