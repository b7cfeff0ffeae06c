//! What Prometheus' own client libraries tell of every process, under their names.

use std::{fmt, fs, time::UNIX_EPOCH};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

use crate::telemetry::process::STARTED;

#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut single = |name: &str, help: &str, metric: &dyn Metric| metric.write(name, help, &mut encoder);
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        single("process_cpu_seconds", "Total user and system CPU time spent in seconds", &ConstCounter::new(cpu))?;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let gauges = [
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes",
                kib("VmRSS:").map(|kib| kib as f64 * 1024.0),
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes",
                kib("VmSize:").map(|kib| kib as f64 * 1024.0),
            ),
            ("process_open_fds", "Number of open file descriptors", open_descriptors().map(|n| n as f64)),
            (
                "process_max_fds",
                "Maximum number of open file descriptors",
                getrlimit(Resource::Nofile).current.map(|n| n as f64),
            ),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds",
                STARTED.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64()),
            ),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                single(name, help, &ConstGauge::new(value))?;
            }
        }
        Ok(())
    }
}

trait Metric {
    fn write(&self, name: &str, help: &str, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result;
}

impl<M: EncodeMetric> Metric for M {
    fn write(&self, name: &str, help: &str, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

/// How many descriptors are open. Since Linux 6.2 the size of the folder is their number, and they need not be counted.
fn open_descriptors() -> Option<u64> {
    let folder = "/proc/self/fd";
    match fs::metadata(folder).ok()?.len() {
        // The folder itself is open while it is read.
        0 => Some((fs::read_dir(folder).ok()?.count() as u64).saturating_sub(1)),
        n => Some(n),
    }
}
