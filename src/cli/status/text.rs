//! The report for a person at 3 a.m.: what is wrong first, and each line within the page.

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};

use crate::app::status::{
    BackendReport, ConfigurationReport, GroupReport, LeasesReport, PodReport, PodsReport, PotReport, Report, VolumesReport,
};

/// The word for a class or a Pod whose name is not known.
const NAMELESS: &str = "(no name)";

/// Lines. A line that wraps is indented.
struct Page {
    text: String,
    width: usize,
}

pub(super) fn show(report: &Report, width: usize) -> String {
    let mut page = Page { text: String::new(), width };
    let now = report.now;
    page.line(0, &format!("keyferry {}, running for {}", report.version, span(now, report.started)));
    if let Some(configuration) = &report.configuration {
        page.configuration(configuration, now);
    }
    page.problems(&report.problems);
    page.pods(&report.pods_without_volume, now);
    page.volumes(&report.volumes, now);
    page.backends(&report.backends, now);
    page.memory(&report.memory);
    let waiting: Vec<_> = report.waiting.iter().map(|wait| format!("{} {}", wait.what, wait.mounts)).collect();
    page.line(0, &format!("Mounts that wait: {}", waiting.join(", ")));
    page.text
}

impl Page {
    /// A line, wrapped at blanks. The next lines are indented by two more.
    fn line(&mut self, indent: usize, text: &str) {
        let (mut column, mut first) = (indent, true);
        let _ = write!(self.text, "{:indent$}", "");
        for word in text.split(' ') {
            let length = word.chars().count();
            if !first && column + 1 + length > self.width {
                column = indent + 2;
                let _ = write!(self.text, "\n{:column$}", "");
            } else if !first {
                self.text.push(' ');
                column += 1;
            }
            // A word that is longer than a line, such as a path, is not broken, so that people can copy it.
            self.text.push_str(word);
            (column, first) = (column + length, false);
        }
        self.text.push('\n');
    }

    fn heading(&mut self, text: &str) {
        self.text.push('\n');
        self.line(0, text);
    }

    fn configuration(&mut self, configuration: &ConfigurationReport, now: Timestamp) {
        let ConfigurationReport { file, sha256, since, fault } = configuration;
        let hash = sha256.as_ref().map_or_else(|| "unknown".to_owned(), |hash| hash.chars().take(12).collect());
        self.line(0, &format!("Configuration {file}, sha256 {hash}, in force for {}", span(now, *since)));
        if let Some(fault) = fault {
            self.line(2, &format!("NOT CURRENT: {fault}"));
        }
    }

    fn problems(&mut self, problems: &[String]) {
        if problems.is_empty() {
            return;
        }
        self.heading(&format!("Problems ({})", problems.len()));
        for problem in problems {
            self.line(2, problem);
        }
    }

    fn pods(&mut self, report: &PodsReport, now: Timestamp) {
        let PodsReport { looked, unknown, pods, more } = report;
        match (looked, unknown) {
            (_, Some(why)) => self.heading(&format!("Pods without their volume: not known: {why}")),
            (None, None) => self.heading("Pods without their volume: not known yet: Keyferry looks at kubelet's folder soon"),
            (Some(looked), None) if pods.is_empty() => {
                self.heading(&format!("Pods without their volume: none ({} ago)", span(now, *looked)));
            }
            (Some(looked), None) => {
                self.heading(&format!("Pods without their volume ({} ago): delete each Pod, and the next one has it", span(now, *looked)));
                for pod in pods {
                    self.pod(pod);
                }
                if *more > 0 {
                    self.line(2, &format!("... and {more} more"));
                }
                if pods.iter().any(|pod| pod.name.is_none()) {
                    let columns = ":.metadata.namespace,:.metadata.name,:.metadata.uid";
                    self.line(2, &format!("by uid: kubectl get pods -A -o custom-columns={columns}"));
                }
            }
        }
    }

    fn pod(&mut self, pod: &PodReport) {
        let PodReport { uid, volume, namespace, name } = pod;
        match (namespace, name) {
            (Some(namespace), Some(name)) => {
                self.line(2, &format!("{namespace}/{name}, volume {volume} (kubectl delete pod -n {namespace} {name})"));
            }
            _ => self.line(2, &format!("uid {uid}, volume {volume}")),
        }
    }

    fn volumes(&mut self, report: &VolumesReport, now: Timestamp) {
        let VolumesReport { current, failing, stale, groups, more } = report;
        if groups.is_empty() {
            return self.heading("Volumes: no Pod asked for one in the last 10 minutes");
        }
        let out = if *stale > 0 { format!("{stale} stale, ") } else { String::new() };
        self.heading(&format!("Volumes: {failing} failing, {out}{current} current"));
        for group in groups {
            self.group(group, now);
        }
        if *more > 0 {
            self.line(2, &format!("... and {more} more classes"));
        }
    }

    fn group(&mut self, group: &GroupReport, now: Timestamp) {
        let GroupReport { namespace, class, state, code, volumes, stale, since, delivered, pods } = group;
        let class = if class.is_empty() { NAMELESS } else { class };
        let mut text = format!("{state:<7} {volumes:>4}  {namespace}/{class} for {}", span(now, *since));
        if let Some(code) = code {
            let _ = write!(text, ": {code}");
            match delivered {
                Some(delivered) => _ = write!(text, ", last delivered {} ago", span(now, *delivered)),
                None => text.push_str(", never delivered"),
            }
            let left_out = if *volumes > pods.len() { " ..." } else { "" };
            let _ = write!(text, " (Pods: {}{left_out})", pods.join(", "));
        }
        if let Some(stale) = stale {
            let _ = write!(text, ": a store is out, and the oldest answer is from {} ago", span(now, *stale));
        }
        self.line(2, &text);
    }

    fn backends(&mut self, backends: &[BackendReport], now: Timestamp) {
        self.heading("Backends");
        let (failing, fine): (Vec<_>, Vec<_>) = backends.iter().partition(|backend| !backend.healthy);
        for BackendReport { name, healthy, error, last_fault, leases } in failing.into_iter().chain(fine) {
            let state = if *healthy { "ok" } else { "FAILING" };
            let error = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            self.line(2, &format!("{name}: {state}{error}"));
            if let Some(last) = last_fault {
                let ago = seconds(last.seconds_ago);
                self.line(4, &format!("last fault {ago} ago: {} ({}, {})", last.text, last.fault, last.operation));
            }
            if let Some(LeasesReport { kept, failing, next_end }) = leases {
                let ends = next_end.map(|end| format!(", the next ends in {}", span(end, now))).unwrap_or_default();
                let failing = if *failing > 0 { format!(", {failing} NOT RENEWED") } else { String::new() };
                self.line(4, &format!("leases: {kept}{failing}{ends}"));
            }
        }
    }

    fn memory(&mut self, pots: &[PotReport]) {
        self.heading("Memory");
        for PotReport { pot, used, limit } in pots {
            self.line(2, &format!("{pot:<8} {:>9} of {:>9}", bytes(*used), bytes(*limit)));
        }
    }
}

/// The time from `earlier` to `later`, in the largest unit that is exact enough.
pub(in crate::cli) fn span(later: Timestamp, earlier: Timestamp) -> String {
    let between: SignedDuration = later.duration_since(earlier);
    seconds(u64::try_from(between.as_secs()).unwrap_or(0))
}

fn seconds(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn bytes(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..MIB => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / MIB),
    }
}
