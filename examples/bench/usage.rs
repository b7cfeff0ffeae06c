//! What a process has used: CPU time and memory, its children's included (nginx does its work in them).

use std::fs;

use crate::Outcome;

/// `USER_HZ`: the unit of times in `/proc`, 100 per second on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The process and its children.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
}

/// User and system time of all threads, in seconds, in steps of 10 ms.
pub(crate) fn cpu_seconds(pids: &[u32]) -> Outcome<f64> {
    let mut ticks = 0;
    for pid in pids.iter().flat_map(|&pid| family(pid)) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in parentheses, may hold blanks; utime and stime are the 14th and 15th fields of all.
        let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?;
        for field in fields.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<u64>()?;
        }
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
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
