//! The process as the kernel sees it, under the names that every Prometheus client uses
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>). It is read only at a scrape.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::process::{Resource, getrlimit};

/// Times in `/proc/<pid>/stat` are in hundredths of a second on every processor that we build for (proc_pid_stat(5), `USER_HZ`).
const TICKS: f64 = 100.0;

/// The most bytes of one file of `/proc` that are read. `/proc/stat` has a line for each processor and one for all interrupts.
const MOST: u64 = 256 * 1024;

/// Unknown values are left out, for example if `/proc` is not mounted.
#[derive(Debug)]
pub(super) struct Process {
    proc: PathBuf,
    /// It does not change.
    started: OnceLock<Option<f64>>,
}

/// What `/proc/self/stat` says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    virtual_bytes: u64,
    /// Seconds after the machine's start.
    started: f64,
}

// === impl Process ===

impl Process {
    pub(super) fn new() -> Self {
        Self::at(Path::new("/proc"))
    }

    fn at(proc: &Path) -> Self {
        Self { proc: proc.to_owned(), started: OnceLock::new() }
    }

    fn read(&self, name: &str) -> Option<String> {
        let mut text = String::new();
        File::open(self.proc.join(name)).ok()?.take(MOST).read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn resident_bytes(&self) -> Option<u64> {
        let status = self.read("self/status")?;
        let kib: u64 = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())?;
        Some(kib * 1024)
    }

    /// Without the descriptor of this look itself.
    fn open_descriptors(&self) -> Option<u64> {
        let open = fs::read_dir(self.proc.join("self/fd")).ok()?.count();
        Some((open as u64).saturating_sub(1))
    }

    fn started(&self, stat: &Stat) -> Option<f64> {
        *self.started.get_or_init(|| {
            let machine = self.read("stat")?;
            let boot: f64 = machine.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
            Some(boot + stat.started)
        })
    }
}

impl Stat {
    /// `4242 (a name) S ...`: the name may have any character, so fields are counted from the last bracket on.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        // The first is number 3 in proc_pid_stat(5).
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        #[allow(clippy::cast_precision_loss)] // a metric
        let seconds = |ticks: u64| ticks as f64 / TICKS;
        Some(Self { cpu_seconds: seconds(field(14)? + field(15)?), started: seconds(field(22)?), virtual_bytes: field(23)? })
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let stat = self.read("self/stat").as_deref().and_then(Stat::parse);
        if let Some(stat) = stat {
            counter(&mut encoder, "process_cpu", "Processor time used, by user and system", &Unit::Seconds, stat.cpu_seconds)?;
            gauge(&mut encoder, "process_virtual_memory", "Size of the address space", Some(&Unit::Bytes), stat.virtual_bytes)?;
        }
        if let Some(started) = stat.and_then(|stat| self.started(&stat)) {
            gauge(&mut encoder, "process_start_time", "When the process began, in Unix time", Some(&Unit::Seconds), started)?;
        }
        if let Some(bytes) = self.resident_bytes() {
            gauge(&mut encoder, "process_resident_memory", "Memory that the process has now", Some(&Unit::Bytes), bytes)?;
        }
        if let Some(open) = self.open_descriptors() {
            gauge(&mut encoder, "process_open_fds", "Open file descriptors", None, open)?;
        }
        // If there is no limit, there is no number.
        if let Some(most) = getrlimit(Resource::Nofile).current {
            gauge(&mut encoder, "process_max_fds", "The most file descriptors that may be open", None, most)?;
        }
        Ok(())
    }
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: &Unit,
    value: impl EncodeCounterValue + Clone,
) -> Result<(), fmt::Error> {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, Some(unit), counter.metric_type())?)
}

pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: impl EncodeGaugeValue + Clone,
) -> Result<(), fmt::Error> {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    fn text(process: Process) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(process));
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_name_with_brackets_and_blanks_moves_no_field() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 5 0 1234 8192000 300 18446744073709551615 1 1 0";
        let stat = Stat { cpu_seconds: 2.0, virtual_bytes: 8_192_000, started: 12.34 };
        assert_eq!(Stat::parse(text), Some(stat));
        for broken in ["", "42", "42 (x)", "42 (x) S 1 2", "42 (x) S 1 42 42 0 -1 4194560 100 0 0 0 x 50 0 0 20 0 5 0 1234 8192000"] {
            assert_eq!(Stat::parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn this_process_is_seen_by_the_usual_names() {
        let text = text(Process::new());
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.split(' ').next() == Some(name));
            line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") <= value("process_max_fds"));
        assert!(value("process_start_time_seconds") > 1_600_000_000.0);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let folder = crate::folder::new();
        let names = |text: &str| text.lines().filter(|line| line.starts_with("# TYPE ")).count();
        assert_eq!(names(&text(Process::at(folder.path()))), usize::from(getrlimit(Resource::Nofile).current.is_some()));
    }
}
