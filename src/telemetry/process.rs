//! What Prometheus' own clients tell of a process, by their names, read when it is asked for.

use std::fmt::Error;
use std::fs;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use crate::time::{Clocks, Timestamp, Uptime};

/// A clock's rounding, which is no step of it.
const ROUNDING: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Figures {
    /// As last told. The kernel knows it by the uptime, so it moves with each step of the wall
    /// clock, and with nothing else: one that wavered would look like restarts.
    started: Mutex<Timestamp>,
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut add = |name: &str, help: &str, metric: &dyn EncodeMetric| {
            let kind = metric.metric_type();
            metric.encode(encoder.encode_descriptor(name, help, None, kind)?)
        };
        if let Some(stat) = Stat::read() {
            let cpu = ConstCounter::new(stat.cpu_seconds);
            add("process_cpu_seconds", "User and system CPU time", &cpu)?;
            let resident = ConstGauge::new(stat.resident_bytes);
            add(
                "process_resident_memory_bytes",
                "Resident memory",
                &resident,
            )?;
            let virtual_bytes = ConstGauge::new(stat.virtual_bytes);
            add(
                "process_virtual_memory_bytes",
                "Virtual memory",
                &virtual_bytes,
            )?;
            let threads = ConstGauge::new(stat.threads);
            add("process_threads", "Threads", &threads)?;
            let started = ConstGauge::new(self.started(&stat).0 as f64 / 1000.0);
            let help = "When the process began, since the epoch";
            add("process_start_time_seconds", help, &started)?;
        }
        if let Some(open) = open_descriptors() {
            let open = ConstGauge::new(open);
            add("process_open_fds", "Open file descriptors", &open)?;
        }
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            let help = "The most file descriptors that may be open";
            add("process_max_fds", help, &ConstGauge::new(limit))?;
        }
        Ok(())
    }
}

impl Figures {
    fn started(&self, stat: &Stat) -> Timestamp {
        let lived = Clocks::default().uptime().since(stat.started);
        let told = Clocks::default().now().saturating_sub(lived);
        let mut last = self.started.lock();
        if told.since(*last).max(last.since(told)) > ROUNDING {
            *last = told;
        }
        *last
    }
}

/// Of proc(5)'s `stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    started: Uptime,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Stat {
    fn read() -> Option<Stat> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        Stat::parse(&text, clock_ticks_per_second(), page_size() as u64)
    }

    fn parse(text: &str, ticks: u64, page: u64) -> Option<Stat> {
        // The second field is a name that may have anything in it, in brackets.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| -> Option<u64> { fields.get(number - 3)?.parse().ok() };
        let cpu = field(14)? + field(15)?;
        Some(Stat {
            cpu_seconds: cpu as f64 / ticks as f64,
            threads: field(20)?,
            started: Uptime(field(22)?.saturating_mul(1000) / ticks.max(1)),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)?.saturating_mul(page),
        })
    }
}

/// Without the one that the folder is read by.
fn open_descriptors() -> Option<u64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(open.saturating_sub(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_is_no_field() {
        let fields = "S 1 2 3 0 -1 4194560 5 6 7 8 250 50 0 0 20 0 9 0 700 4096 3 184";
        let stat = Stat::parse(&format!("42 (a) b (c)) {fields}"), 100, 4096);
        let expected = Stat {
            cpu_seconds: 3.0,
            threads: 9,
            started: Uptime(7000),
            virtual_bytes: 4096,
            resident_bytes: 12_288,
        };
        assert_eq!(stat, Some(expected));
        assert_eq!(Stat::parse("42 (slmd) S 1", 100, 4096), None);
    }
}
