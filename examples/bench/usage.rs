//! CPU time, memory and descriptors of a process and its children (nginx works in its children).

use std::fs;

use crate::Outcome;

/// The process and its children.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
}

/// User and system time of all threads, in seconds: the sum that `/proc/PID/stat` shows only in steps of 10 ms. It
/// misses threads that have ended; no candidate ends one while it is measured.
pub(crate) fn cpu_seconds(pids: &[u32]) -> Outcome<f64> {
    let mut nanoseconds = 0;
    for pid in pids.iter().flat_map(|&pid| family(pid)) {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            nanoseconds +=
                text.split_whitespace().next().ok_or("/proc/PID/task/TID/schedstat is empty")?.parse::<u64>()?;
        }
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// Resident memory in KiB.
pub(crate) fn resident_kib(pid: u32) -> Outcome<f64> {
    let mut kib = 0;
    for pid in family(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        kib += line.trim().trim_end_matches(" kB").parse::<u64>()?;
    }
    Ok(kib as f64)
}

/// How many descriptors are open.
pub(crate) fn descriptors(pid: u32) -> Outcome<f64> {
    let mut open = 0;
    for pid in family(pid) {
        open += fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    }
    Ok(open as f64)
}
