//! `/metrics`: every counter of every worker, and what the kernel counts, in Prometheus text.
//!
//! The series are a closed set: names and labels come from the tables in `tracker` and from the
//! configuration, never from peers.

use std::collections::HashSet;
use std::fmt;
use std::fmt::Write;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::certificates::End;
use super::kernel::{Reading, Watched};
use crate::tracker::counters::{Counters, Description, Kind, LATENCY_BOUNDS};

/// How the text is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// OpenMetrics 1.0, which Prometheus asks for.
    Open,
    /// The older text format of Prometheus, for everybody who asks for nothing in particular.
    Classic,
}

impl Form {
    /// What a request's `Accept` field asks for.
    #[must_use]
    pub fn accepted(field: &str) -> Self {
        let opens = |part: &str| part.trim().starts_with("application/openmetrics-text");
        if field.split(',').any(opens) { Self::Open } else { Self::Classic }
    }

    /// The content type of a text in this form.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What is rendered.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The counters of each worker.
    pub workers: Vec<Counters>,
    /// What the kernel said last.
    pub kernel: Reading,
    /// The sockets that it counts for, in their order.
    pub watched: Vec<Watched>,
    /// The CPU time of the hottest worker in the last second, divided by the mean of all.
    pub hottest_ratio: Option<f64>,
    /// When the process started: seconds since 1970.
    pub started: f64,
    /// Files that the process may open.
    pub files_max: Option<u64>,
    /// When the certificates end.
    pub certificates: Vec<End>,
}

/// Renders everything.
///
/// # Errors
/// If the library refuses a value, which it has no reason for.
pub fn render(snapshot: &Snapshot, form: Form) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process(snapshot.clone())));
    let ours = registry.sub_registry_with_prefix("throng");
    ours.register_collector(Box::new(Workers(snapshot.workers.clone())));
    ours.register_collector(Box::new(Kernel(snapshot.clone())));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    if form == Form::Classic { classic(&text) } else { Ok(text) }
}

/// The same in the older format: a counter is described under the name that its samples have, units
/// are not described, and the end is the end.
fn classic(open: &str) -> Result<String, fmt::Error> {
    let names = open.lines().filter_map(|line| {
        line.strip_prefix("# TYPE ").and_then(|rest| rest.strip_suffix(" counter"))
    });
    let counters: HashSet<&str> = names.collect();
    let mut text = String::new();
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("UNIT" | "EOF"), ..) => {}
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                writeln!(text, "# {what} {name}_total {rest}")?;
            }
            _ => writeln!(text, "{line}")?,
        }
    }
    Ok(text)
}

/// The counters of each worker.
#[derive(Debug)]
struct Workers(Vec<Counters>);

impl Collector for Workers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        let help = "The version that runs, as a label.";
        gauges(&mut encoder, ("build_info", help, None), [(build, 1.0)])?;

        let cells: Vec<_> = self.0.iter().map(Counters::cells).collect();
        for (metric, description) in Counters::DESCRIPTIONS.iter().enumerate() {
            let (kind, unit) = match description.kind {
                Kind::Counter => (MetricType::Counter, None),
                Kind::Time => (MetricType::Counter, Some(&Unit::Seconds)),
                Kind::Gauge => (MetricType::Gauge, None),
                Kind::Histogram => (MetricType::Histogram, Some(&Unit::Seconds)),
            };
            let Description { name, help, .. } = description;
            let mut family = encoder.encode_descriptor(name, help, unit, kind)?;
            for (worker, cells) in cells.iter().enumerate() {
                let worker = worker.to_string();
                if description.kind == Kind::Histogram {
                    let series = [("worker", worker.as_str())];
                    encode_latencies(cells[metric], family.encode_family(&series)?)?;
                    continue;
                }
                for (cell, &value) in cells[metric].iter().enumerate() {
                    let mut labels = description.labels.of(cell);
                    labels.push(("worker", &worker));
                    let series = family.encode_family(&labels)?;
                    match description.kind {
                        Kind::Counter => ConstCounter::new(value).encode(series)?,
                        Kind::Time => ConstCounter::new(seconds(value)).encode(series)?,
                        Kind::Gauge | Kind::Histogram => ConstGauge::new(value).encode(series)?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// What the kernel counts.
#[derive(Debug)]
struct Kernel(Snapshot);

impl Collector for Kernel {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self(Snapshot { kernel, watched, hottest_ratio, certificates, .. }) = self;
        let names: Vec<String> =
            (0..kernel.threads.len().max(watched.len())).map(|worker| worker.to_string()).collect();
        let socket = |watched: &'_ Watched| {
            [("listener", watched.listener.clone()), ("worker", watched.worker.to_string())]
        };
        let sockets = || watched.iter().zip(kernel.sockets.iter().copied());
        counters(
            &mut encoder,
            ("udp_socket_drops", "Datagrams that the kernel dropped at this socket.", None),
            sockets().filter_map(|(of, now)| Some((socket(of), real(now?.drops)))),
        )?;
        gauges(
            &mut encoder,
            ("udp_socket_waiting_bytes", "Bytes that wait at this socket to be read.", None),
            sockets().filter_map(|(of, now)| Some((socket(of), real(now?.waiting_bytes)))),
        )?;
        let families = ["ipv4", "ipv6"].map(|family| [("family", family)]);
        counters(
            &mut encoder,
            (
                "kernel_udp_buffer_errors",
                "Datagrams that the kernel dropped for lack of room, at all sockets here.",
                None,
            ),
            families
                .into_iter()
                .zip(kernel.udp_buffer_errors)
                .filter_map(|(labels, value)| Some((labels, real(value?)))),
        )?;
        for (name, help, value) in [
            (
                "kernel_listen_overflows",
                "Connections refused by a full accept queue, at all listeners here.",
                kernel.listen_overflows,
            ),
            (
                "kernel_listen_drops",
                "Connections that no listener here could accept.",
                kernel.listen_drops,
            ),
        ] {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            value.map_or(Ok(()), |value| ConstCounter::new(value).encode(counter))?;
        }
        let threads = || names.iter().zip(kernel.threads.iter().copied());
        counters(
            &mut encoder,
            ("worker_cpu", "Time that this worker ran.", Some(&Unit::Seconds)),
            threads()
                .filter_map(|(name, time)| Some(([("worker", name.as_str())], seconds(time?.ran)))),
        )?;
        counters(
            &mut encoder,
            (
                "worker_waiting",
                "Time that this worker was ready to run and something else had its CPU.",
                Some(&Unit::Seconds),
            ),
            threads().filter_map(|(name, time)| {
                Some(([("worker", name.as_str())], seconds(time?.waited)))
            }),
        )?;
        let help = "CPU time of the hottest worker in the last second, divided by the mean of all.";
        let gauge =
            encoder.encode_descriptor("hottest_worker_ratio", help, None, MetricType::Gauge)?;
        hottest_ratio.map_or(Ok(()), |ratio| ConstGauge::new(ratio).encode(gauge))?;
        let certificate = |End { path, at }: &End| {
            // Whole seconds, far below 2^53.
            let (file, at) = (path.display().to_string(), u64::try_from(*at).unwrap_or(0));
            ([("file", file)], real(at))
        };
        gauges(
            &mut encoder,
            (
                "certificate_end_timestamp",
                "When the certificate in this file ends, since unix epoch.",
                Some(&Unit::Seconds),
            ),
            certificates.iter().map(certificate),
        )
    }
}

/// What monitors expect of every process, under the names that they know.
#[derive(Debug)]
struct Process(Snapshot);

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self(Snapshot { kernel, started, files_max, .. }) = self;
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
                kernel.resident_bytes.map(real),
            ),
            ("process_open_fds", "Number of open file descriptors.", kernel.open_files.map(real)),
            ("process_max_fds", "Maximum number of open file descriptors.", files_max.map(real)),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
                Some(*started),
            ),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            value.map_or(Ok(()), |value| ConstGauge::new(value).encode(gauge))?;
        }
        Ok(())
    }
}

type Name<'a> = (&'a str, &'a str, Option<&'a Unit>);

/// A gauge under a name, with a help text and perhaps a unit.
fn gauges<L: prometheus_client::encoding::EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): Name<'_>,
    series: impl IntoIterator<Item = (L, f64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in series {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// The same for a counter.
fn counters<L: prometheus_client::encoding::EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): Name<'_>,
    series: impl IntoIterator<Item = (L, f64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    for (labels, value) in series {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// The cells of [`record_latency`](crate::tracker::counters::record_latency) as a histogram.
fn encode_latencies(cells: &[u64], mut series: MetricEncoder<'_>) -> fmt::Result {
    let Some((&sum, counts)) = cells.split_last() else { return Ok(()) };
    let bounds = LATENCY_BOUNDS.iter().map(|&bound| seconds(bound)).chain([f64::INFINITY]);
    let classes: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
    series.encode_histogram::<NoLabelSet>(seconds(sum), counts.iter().sum(), &classes, None)
}

/// Seconds of nanoseconds.
#[must_use]
pub fn seconds(nanoseconds: u64) -> f64 {
    real(nanoseconds) / 1e9
}

/// A count as monitors have it.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, and then nearly")]
pub const fn real(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::control::kernel::Reader;

    fn snapshot() -> Snapshot {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let watched = vec![Watched::new(1, &socket).expect("a socket")];
        let mut counters = Counters::from_words(1..);
        counters.udp_batch = std::array::from_fn(|class| class as u64);
        Snapshot {
            workers: vec![Counters::default(), counters],
            kernel: Reader::new(watched.clone(), 2).read(),
            watched,
            hottest_ratio: Some(1.5),
            started: 1.7e9,
            files_max: Some(1_024),
            certificates: vec![End { path: "/etc/it.pem".into(), at: 1_800_000_000 }],
        }
    }

    #[test]
    fn every_metric_is_described_once_and_has_its_series_for_each_worker() {
        let text = render(&snapshot(), Form::Open).expect("rendered");
        for description in Counters::DESCRIPTIONS {
            let unit = match description.kind {
                Kind::Time | Kind::Histogram => "_seconds",
                Kind::Counter | Kind::Gauge => "",
            };
            let name = format!("throng_{}{unit}", description.name);
            let helps = text.matches(&format!("# HELP {name} ")).count();
            assert_eq!(helps, 1, "{name}");
            let (suffix, cells) = match description.kind {
                Kind::Counter | Kind::Time => ("_total", description.labels.cells()),
                Kind::Gauge => ("", description.labels.cells()),
                Kind::Histogram => ("_bucket", LATENCY_BOUNDS.len() + 1),
            };
            let series = text.matches(&format!("\n{name}{suffix}{{")).count();
            assert_eq!(series, 2 * cells, "{name}");
        }
        let first = "throng_requests_total{transport=\"udp\",family=\"ipv4\",action=\"connect\",\
                     worker=\"1\"} 1\n";
        assert!(text.contains(first), "{text}");
        let end = "throng_certificate_end_timestamp_seconds{file=\"/etc/it.pem\"} 1800000000";
        assert!(text.contains(end), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn histograms_add_up() {
        let text = render(&snapshot(), Form::Open).expect("rendered");
        // Of the second worker, whose classes 0 to 16 hold as many as their number.
        let value = |start: &str, label: &str| -> f64 {
            let line = text
                .lines()
                .filter(|line| line.starts_with(&format!("throng_udp_batch_seconds_{start}{{")))
                .find(|line| line.contains(label) && line.contains("worker=\"1\""));
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
            value.unwrap_or_else(|| panic!("no {start} with {label} in {text}"))
        };
        assert_eq!(value("bucket", "le=\"1.0\""), f64::from((0..=15).sum::<u32>()));
        assert_eq!(value("bucket", "le=\"+Inf\""), f64::from((0..=16).sum::<u32>()));
        assert_eq!(value("count", ""), 136.0);
        assert_eq!(value("sum", ""), 17e-9);
    }

    #[test]
    fn the_older_form_describes_what_it_shows() {
        let text = render(&snapshot(), Form::Classic).expect("rendered");
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
        let mut described = None;
        let mut samples = 0;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                described = rest.split_once(' ');
                continue;
            }
            if line.starts_with("# HELP ") {
                continue;
            }
            let (name, kind) = described.expect("described before it is shown");
            let shown = line.split(['{', ' ']).next().expect("a name");
            let fits = match kind {
                "histogram" => shown
                    .strip_prefix(name)
                    .is_some_and(|suffix| ["_bucket", "_sum", "_count"].contains(&suffix)),
                "counter" => shown == name && name.ends_with("_total"),
                _ => shown == name,
            };
            assert!(fits, "{line} is no {kind} {name}");
            samples += 1;
        }
        assert!(samples > 2 * Counters::WORDS);
    }

    #[test]
    fn everybody_gets_the_form_that_he_asks_for() {
        for (field, form) in [
            ("", Form::Classic),
            ("*/*", Form::Classic),
            ("text/plain;version=0.0.4;q=0.3,*/*;q=0.2", Form::Classic),
            ("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3", Form::Open),
            ("text/html, application/openmetrics-text", Form::Open),
        ] {
            assert_eq!(Form::accepted(field), form, "{field}");
        }
    }
}
