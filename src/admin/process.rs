//! What Prometheus' own client libraries tell of every process, under their names.

use std::{fmt, time::UNIX_EPOCH};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::telemetry::{process::STARTED, process_use::ProcessUse};

#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut single = |name: &str, help: &str, metric: &dyn Metric| metric.write(name, help, &mut encoder);
        let taken = ProcessUse::now();
        single(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds",
            &ConstCounter::new(taken.cpu_seconds),
        )?;
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory size in bytes", taken.resident_bytes.map(|n| n as f64)),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes", taken.virtual_bytes.map(|n| n as f64)),
            ("process_open_fds", "Number of open file descriptors", taken.open_files.map(|n| n as f64)),
            ("process_max_fds", "Maximum number of open file descriptors", taken.max_open_files.map(|n| n as f64)),
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
