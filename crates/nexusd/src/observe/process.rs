//! The process's own figures, read from `/proc/self` at each scrape (proc(5)).

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Clock ticks in a second, as the kernel reports times to user space (`USER_HZ`, 100 on every architecture of ours).
const TICKS_PER_SECOND: f64 = 100.0;

/// Registers nothing by itself: each scrape reads the files anew.
#[derive(Debug)]
pub(super) struct ProcessCollector;

/// What is read. A file that cannot be read leaves its figures out.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    cpu_seconds: Option<f64>,
    threads: Option<i64>,
    resident_bytes: Option<i64>,
    virtual_bytes: Option<i64>,
    open_fds: Option<i64>,
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let figures = Figures::read();
        if let Some(seconds) = figures.cpu_seconds {
            let counter = ConstCounter::new(seconds);
            let encoder =
                encoder.encode_descriptor("process_cpu_seconds", "Processor time used", None, counter.metric_type())?;
            counter.encode(encoder)?;
        }
        let gauges = [
            ("process_threads", "Threads", figures.threads),
            ("process_resident_memory_bytes", "Resident memory", figures.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory", figures.virtual_bytes),
            ("process_open_fds", "Open descriptors", figures.open_fds),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                let gauge = ConstGauge::new(value);
                let encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
                gauge.encode(encoder)?;
            }
        }
        Ok(())
    }
}

impl Figures {
    fn read() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let fds = std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        Self {
            // One of them is the directory being read.
            open_fds: fds.and_then(|count| i64::try_from(count.saturating_sub(1)).ok()),
            ..Self::parse(&stat, &status)
        }
    }

    fn parse(stat: &str, status: &str) -> Self {
        // The name in brackets may hold anything, brackets and spaces too: count from the last one.
        let after: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        let ticks = |index: usize| after.get(index).and_then(|field| field.parse::<u32>().ok()).map(f64::from);
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.parse::<i64>().ok()?.checked_mul(1024)
        };
        Self {
            // utime and stime are fields 14 and 15 of the line, the 12th and 13th after the name.
            cpu_seconds: ticks(11).zip(ticks(12)).map(|(user, system)| (user + system) / TICKS_PER_SECOND),
            threads: after.get(17).and_then(|field| field.parse().ok()),
            resident_bytes: kib("VmRSS:"),
            virtual_bytes: kib("VmSize:"),
            open_fds: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_behind_a_hostile_name() {
        let stat =
            "7 (a) R 9 (b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 12 0 500 1000 200 18446744073709551615";
        let status = "Name:\tx\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let expected = Figures {
            cpu_seconds: Some(2.0),
            threads: Some(12),
            resident_bytes: Some(1024 * 1024),
            virtual_bytes: Some(2 * 1024 * 1024),
            open_fds: None,
        };
        assert_eq!(Figures::parse(stat, status), expected);
        assert_eq!(Figures::parse("", ""), Figures::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_very_process_has_figures() {
        let figures = Figures::read();
        assert!(figures.resident_bytes.unwrap() > 1024 * 1024);
        assert!(figures.open_fds.unwrap() >= 3);
        assert!(figures.threads.unwrap() >= 1);
    }
}
