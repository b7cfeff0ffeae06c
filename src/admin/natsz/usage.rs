//! What the process uses of the machine: `cpu` and `mem`.

use std::{
    fs,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use crate::telemetry::process::STARTED;

/// The usage of the CPU is measured over at least this, whoever asks how often.
const MEASURED_OVER: Duration = Duration::from_secs(1);

/// Measures the usage of the CPU between two questions.
#[derive(Debug, Default)]
pub struct Usage(Mutex<Option<Measured>>);

#[derive(Debug, Clone, Copy)]
struct Measured {
    at: Instant,
    used: Duration,
    percent: f64,
}

impl Usage {
    /// How much of one core the process has used between the last questions, or since its begin at the first one, in
    /// percent: two busy cores are 200.
    pub fn cpu_percent(&self) -> f64 {
        let (now, used) = (Instant::now(), used_cpu());
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (over, used_meanwhile) = match *last {
            Some(last) if now.saturating_duration_since(last.at) < MEASURED_OVER => return last.percent,
            Some(last) => (now.saturating_duration_since(last.at), used.saturating_sub(last.used)),
            None => (STARTED.elapsed().unwrap_or_default().max(Duration::from_millis(1)), used),
        };
        // One digit is enough, and what nats-server reads from ps has.
        let percent = (used_meanwhile.as_secs_f64() / over.as_secs_f64() * 1000.0).round() / 10.0;
        *last = Some(Measured { at: now, used, percent });
        percent
    }
}

fn used_cpu() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap_or(0), used.tv_nsec.try_into().unwrap_or(0))
}

/// How many cores the process may use.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The resident memory of the process in bytes; 0 where the system does not tell.
pub fn resident_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0_u64) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_right_behind_another_gets_the_same_answer() {
        let usage = Usage::default();
        let first = usage.cpu_percent();
        assert!(first >= 0.0);
        let measured = usage.0.lock().unwrap().unwrap();
        assert_eq!(usage.cpu_percent().to_bits(), first.to_bits());
        *usage.0.lock().unwrap() = Some(Measured { at: measured.at.checked_sub(MEASURED_OVER).unwrap(), ..measured });
        usage.cpu_percent();
        assert!(usage.0.lock().unwrap().unwrap().at >= measured.at);
        assert!(resident_memory() > 1024 * 1024);
    }
}
