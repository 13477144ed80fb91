//! `/metrics`: every counter of every worker, in Prometheus text.
//!
//! The series are a closed set: names and labels come from the tables in `tracker`, never from
//! peers.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::tracker::counters::{Counters, Kind};

/// The content type of OpenMetrics text, which Prometheus asks for.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Renders the counters of all workers.
pub fn render(workers: &[Counters]) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("throng");
    registry.register_collector(Box::new(Workers(workers.to_vec())));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Workers(Vec<Counters>);

impl Collector for Workers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        let info = ConstGauge::new(1_u64);
        let mut family = encoder.encode_descriptor(
            "build",
            "The version that runs, as a label",
            None,
            MetricType::Gauge,
        )?;
        info.encode(family.encode_family(&build)?)?;

        let cells: Vec<_> = self.0.iter().map(Counters::cells).collect();
        for (metric, description) in Counters::DESCRIPTIONS.iter().enumerate() {
            let kind = match description.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            // The library ends the sentence itself.
            let help = description.help.trim_end_matches('.');
            let mut family = encoder.encode_descriptor(description.name, help, None, kind)?;
            for (worker, cells) in cells.iter().enumerate() {
                for (cell, &value) in cells[metric].iter().enumerate() {
                    let worker = worker.to_string();
                    let mut labels = description.labels.of(cell);
                    labels.push(("worker", &worker));
                    let series = family.encode_family(&labels)?;
                    match description.kind {
                        Kind::Counter => ConstCounter::new(value).encode(series)?,
                        Kind::Gauge => ConstGauge::new(value).encode(series)?,
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_described_once_and_has_its_series_for_each_worker() {
        let text = render(&[Counters::default(), Counters::from_words(1..)]).expect("rendered");
        for description in Counters::DESCRIPTIONS {
            let name = format!("throng_{}", description.name);
            let helps = text.matches(&format!("# HELP {name} ")).count();
            assert_eq!(helps, 1, "{name}");
            let suffix = if description.kind == Kind::Counter { "_total" } else { "" };
            let series = text.matches(&format!("\n{name}{suffix}{{")).count();
            assert_eq!(series, 2 * description.labels.cells(), "{name}");
        }
        let first = "throng_requests_total{transport=\"udp\",family=\"ipv4\",action=\"connect\",\
                     worker=\"1\"} 1\n";
        assert!(text.contains(first), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
