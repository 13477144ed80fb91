//! `/stats.json`: totals for people and scripts.

use std::time::Duration;

use serde::Serialize;

use crate::tracker::counters::Counters;

/// The totals of all workers since start.
#[derive(Serialize)]
struct Stats {
    version: &'static str,
    uptime_seconds: u64,
    workers: usize,
    swarms: u64,
    seeders: ByFamily,
    leechers: ByFamily,
    completed: u64,
    requests: u64,
    replies: u64,
    refusals: u64,
    drops: u64,
    http_connections: u64,
    store_bytes: u64,
    store_budget_bytes: u64,
}

#[derive(Serialize)]
struct ByFamily {
    ipv4: u64,
    ipv6: u64,
}

impl From<[u64; 2]> for ByFamily {
    fn from([ipv4, ipv6]: [u64; 2]) -> Self {
        Self { ipv4, ipv6 }
    }
}

/// Renders the totals.
pub fn render(total: &Counters, workers: usize, uptime: Duration) -> String {
    let stats = Stats {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: uptime.as_secs(),
        workers,
        swarms: total.swarms[0],
        seeders: total.seeders.into(),
        leechers: total.leechers.into(),
        completed: total.completed[0],
        requests: total.requests.iter().sum(),
        replies: total.replies().iter().sum(),
        refusals: total.refusals.iter().sum(),
        drops: total.drops.iter().sum(),
        http_connections: total.http_connections[0],
        store_bytes: total.store_bytes[0],
        store_budget_bytes: total.store_budget_bytes[0],
    };
    serde_json::to_string(&stats).expect("numbers and fixed names")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_sums_over_all_labels() {
        let total = Counters { requests: [2; 24], seeders: [3, 4], ..Counters::default() };
        let text = render(&total, 2, Duration::from_secs(61));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["requests"], 48);
        assert_eq!(value["seeders"]["ipv6"], 4);
        assert_eq!((&value["workers"], &value["uptime_seconds"]), (&2.into(), &61.into()));
    }
}
