//! How a tracker looks in a terminal of 80 columns and 24 lines, or more.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Paragraph, RenderDirection, Row, Sparkline, Table, Wrap};

use super::Screen;
use super::source::{Sample, Worker};

/// Columns between two halves.
const GAP: u16 = 2;
/// Lines of drops, latency and traffic.
const DROPS_LINES: u16 = 6;
/// Lines of a smaller terminal are cut.
const WORKERS_SHOWN: u16 = 6;
/// Columns of an info_hash, whole.
const HASH_COLUMNS: u16 = 40;

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let workers = screen.news.as_ref().map_or(0, |news| news.workers.len());
    let workers = u16::try_from(workers).unwrap_or(u16::MAX).clamp(1, WORKERS_SHOWN);
    let [head, rates, load, rest, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(7),
        Constraint::Length((workers + 2).max(DROPS_LINES + 1)),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(frame, head, screen);
    let empty = Sample::default();
    let sample = screen.news.as_ref().map_or(&empty, |news| &news.sample);
    let [left, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(GAP).areas(rates);
    draw_announces(frame, left, screen, sample);
    draw_swarms(frame, right, sample);
    let all: &[Worker] = screen.news.as_ref().map_or(&[], |news| &news.workers);
    let [left, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(GAP).areas(load);
    draw_workers(frame, left, all);
    draw_drops(frame, right, sample);
    let [left, right] =
        Layout::horizontal([Constraint::Length(HASH_COLUMNS + 20), Constraint::Min(0)]).areas(rest);
    // Findings are for reading: they get the width where there is some, else the larger part.
    if frame.area().width >= 120 {
        draw_largest(frame, left, screen);
        draw_findings(frame, right, screen);
    } else {
        let [above, below] =
            Layout::vertical([Constraint::Percentage(40), Constraint::Percentage(60)]).areas(rest);
        draw_largest(frame, above, screen);
        draw_findings(frame, below, screen);
    }
    let keys = if screen.is_live() { "q: quit" } else { "q: quit    the figures are old" };
    frame.render_widget(Line::from(keys).dim(), foot);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let mut words = vec![Span::from("throng ").bold()];
    if let Some(status) = &screen.status {
        let now = screen.news.as_ref().and_then(|news| news.sample.time).unwrap_or(status.started);
        let up = span(whole(now - status.started));
        let workers = status.workers;
        words.push(format!("{}  up {up}  {workers} workers  ", status.version).into());
    }
    words.push(Span::from(screen.target.clone()).dim());
    let state = match &screen.trouble {
        Some(trouble) => Span::from(format!("  {trouble}")).red(),
        None if screen.is_live() => Span::from("  live").green(),
        None => Span::from("  waiting").yellow(),
    };
    words.push(state);
    frame.render_widget(Line::from(words), area);
}

fn draw_announces(frame: &mut Frame<'_>, area: Rect, screen: &Screen, sample: &Sample) {
    let block = boxed("announces/s");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let [figures, chart] =
        Layout::vertical([Constraint::Length(3), Constraint::Min(0)]).areas(inside);
    let text = Text::from(vec![
        pair("all", rate(Some(sample.announces())), "UDP", rate(sample.udp_announces)),
        pair("HTTP", rate(sample.http_announces), "WS", rate(sample.web_announces)),
        pair("connects", rate(sample.connects), "scrapes", rate(sample.scrapes)),
    ]);
    frame.render_widget(text, figures);
    let shown = screen.announces.iter().rev().take(usize::from(chart.width)).copied();
    let newest_right = Sparkline::default()
        .data(shown.collect::<Vec<_>>())
        .direction(RenderDirection::RightToLeft)
        .style(Style::new().fg(Color::Cyan));
    frame.render_widget(newest_right, chart);
}

fn draw_swarms(frame: &mut Frame<'_>, area: Rect, sample: &Sample) {
    let peers = sample.seeders.zip(sample.leechers).map(|(seeders, leechers)| seeders + leechers);
    let used = sample.store_bytes.zip(sample.store_budget_bytes);
    let used = used.map_or_else(
        || "-".to_owned(),
        |(used, budget)| format!("{} of {}", bytes(Some(used)), bytes(Some(budget))),
    );
    let text = Text::from(vec![
        pair("swarms", count(sample.swarms), "peers", count(peers)),
        pair("seeders", count(sample.seeders), "leechers", count(sample.leechers)),
        pair("IPv6", count(sample.ipv6_peers), "WebSocket", count(sample.web_peers)),
        wide("store", &used),
        pair("process", bytes(sample.resident_bytes), "evicted/s", rate(sample.evicted)),
    ]);
    frame.render_widget(Paragraph::new(text).block(boxed("swarms")), area);
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, workers: &[Worker]) {
    let rows = workers.iter().enumerate().map(|(index, worker)| {
        let load =
            worker.load.map_or_else(|| "-".to_owned(), |load| format!("{:.0}%", load * 100.0));
        let style = match worker.load {
            Some(load) if load > 0.9 => Style::new().fg(Color::Red),
            Some(load) if load > 0.7 => Style::new().fg(Color::Yellow),
            _ => Style::new(),
        };
        let waiting =
            worker.waiting.map_or_else(|| "-".to_owned(), |part| format!("{:.0}%", part * 100.0));
        Row::new([
            index.to_string(),
            load,
            waiting,
            rate(Some(worker.requests)),
            count_of(worker.peers),
            rate(Some(worker.drops)),
        ])
        .style(style)
    });
    let widths = [3, 5, 5, 7, 7, 6].map(Constraint::Length);
    let head = Row::new(["#", "CPU", "wait", "req/s", "peers", "drop/s"]).style(Style::new().dim());
    frame.render_widget(Table::new(rows, widths).header(head).block(boxed("workers")), area);
}

fn draw_drops(frame: &mut Frame<'_>, area: Rect, sample: &Sample) {
    let lost = |value: Option<f64>| {
        let text = Span::from(format!("{:>9}", rate(value)));
        if value.is_some_and(|value| value > 0.0) { text.yellow() } else { text }
    };
    let text = Text::from(vec![
        Line::from(vec![
            name("drops/s"),
            lost(sample.drops),
            name("  refused/s"),
            lost(sample.refusals),
        ]),
        Line::from(vec![
            name("kernel/s"),
            lost(sample.kernel_drops),
            name("  UDP p99"),
            format!("{:>9}", time(sample.udp_p99)).into(),
        ]),
        pair("in", per_second(sample.received_bytes), "out", per_second(sample.sent_bytes)),
        pair("HTTP", count(sample.http_connections), "WS", count(sample.web_connections)),
        pair("UDP p50", time(sample.udp_p50), "HTTP p99", time(sample.http_p99)),
        pair("offers/s", rate(sample.offers), "answers/s", rate(sample.answers)),
    ]);
    frame.render_widget(Paragraph::new(text).block(boxed("drops, latency, traffic")), area);
}

fn draw_largest(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let rows = screen.swarms.iter().map(|swarm| {
        Row::new([
            swarm.info_hash.clone(),
            count_of(swarm.seeders.into()),
            count_of(swarm.leechers.into()),
            count_of(swarm.completed.into()),
        ])
    });
    let widths = [HASH_COLUMNS, 10, 10, 10].map(Constraint::Length);
    let head =
        Row::new(["info_hash", "seeders", "leechers", "completed"]).style(Style::new().dim());
    let alone = screen.sizes.iter().find(|size| size.peers == 1).map_or(0, |size| size.swarms);
    let title = format!("largest swarms ({} have one peer)", count_of(alone));
    frame.render_widget(Table::new(rows, widths).header(head).block(boxed(&title)), area);
}

fn draw_findings(frame: &mut Frame<'_>, area: Rect, screen: &Screen) {
    let findings = screen.news.as_ref().map_or(&[][..], |news| &news.findings);
    let mut lines = Vec::new();
    for finding in findings {
        let colour = if finding.level == "problem" { Color::Red } else { Color::Yellow };
        let style = Style::new().fg(colour).add_modifier(Modifier::BOLD);
        let title = Span::styled(format!("{}: ", finding.title), style);
        lines.push(Line::from(vec![title, finding.detail.clone().into()]));
        lines.extend(finding.remedy.as_ref().map(|remedy| Line::from(format!("  {remedy}")).dim()));
    }
    if lines.is_empty() {
        let text = if screen.news.is_some() { "nothing is wrong" } else { "nothing is known yet" };
        lines.push(Line::from(text).green());
    }
    let text = Paragraph::new(lines).wrap(Wrap { trim: false }).block(boxed("findings"));
    frame.render_widget(text, area);
}

fn boxed(title: &str) -> Block<'_> {
    Block::new().borders(Borders::TOP).title(format!(" {title} ").bold())
}

fn name(text: &str) -> Span<'static> {
    Span::from(format!("{text:<10}")).dim()
}

/// Two figures beside each other, in 38 columns.
fn pair(one: &str, figure: String, other: &str, beside: String) -> Line<'static> {
    let (other, beside) = (name(&format!("  {other}")), Span::from(format!("{beside:>9}")));
    Line::from(vec![name(one), format!("{figure:>9}").into(), other, beside])
}

fn wide(one: &str, figure: &str) -> Line<'static> {
    Line::from(vec![name(one), format!("{figure:>28}").into()])
}

/// A number without its fraction; 0 for what is none.
pub(super) fn whole(value: f64) -> u64 {
    // As `as` has it: within the bounds, and 0 for what is no number.
    format!("{:.0}", value.max(0.0)).parse().unwrap_or(0)
}

fn unknown() -> String {
    "-".to_owned()
}

/// A rate, to three digits or so.
fn rate(value: Option<f64>) -> String {
    value.map_or_else(unknown, |value| {
        if value > 0.0 && value < 10.0 { format!("{value:.1}") } else { short(value) }
    })
}

fn count(value: Option<f64>) -> String {
    value.map_or_else(unknown, short)
}

fn count_of(value: u64) -> String {
    if value < 10_000 {
        value.to_string()
    } else {
        value.to_string().parse().map_or_else(|_| unknown(), short)
    }
}

/// "12.3k", "4.56M".
fn short(value: f64) -> String {
    scaled(value, 1_000.0, ["", "k", "M", "G", "T"])
}

fn bytes(value: Option<f64>) -> String {
    value.map_or_else(unknown, |value| scaled(value, 1_024.0, ["", "KiB", "MiB", "GiB", "TiB"]))
}

fn per_second(value: Option<f64>) -> String {
    value.map_or_else(unknown, |value| {
        scaled(value, 1_000.0, ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"])
    })
}

fn scaled(mut value: f64, step: f64, units: [&str; 5]) -> String {
    let mut unit = 0;
    while value >= step * 0.9995 && unit < units.len() - 1 {
        value /= step;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", units[unit])
}

fn time(seconds: Option<f64>) -> String {
    seconds.map_or_else(unknown, |seconds| match seconds {
        seconds if seconds < 1e-3 => format!("{:.0}us", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{:.1}ms", seconds * 1e3),
        seconds => format!("{seconds:.1}s"),
    })
}

/// "3d 4h", "2h 5m", "12s".
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {}m", minutes % 60),
        (days, hours, _) => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::source::{Finding, Heard, News, Size, Status, Swarm, Swarms};
    use super::*;

    fn drawn(screen: &Screen, columns: u16, lines: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).expect("memory");
        terminal.draw(|frame| draw(frame, screen)).expect("memory");
        let buffer = terminal.backend().buffer();
        let line = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..lines).map(|y| line(y).trim_end().to_owned()).collect()
    }

    fn screen() -> Screen {
        let mut screen = Screen::new("127.0.0.1:6970".to_owned());
        let version = "1.2.3".to_owned();
        screen.take(Heard::Status(Status { version, started: 1_000.0, workers: 2 }));
        let worker = Worker {
            load: Some(0.954),
            waiting: None,
            requests: 123_456.0,
            peers: 1_234_567,
            drops: 0.0,
        };
        let finding = Finding {
            level: "warning".to_owned(),
            title: "receive buffers".to_owned(),
            detail: "the kernel dropped 1,204 datagrams in the last minute".to_owned(),
            remedy: Some("raise net.core.rmem_max".to_owned()),
        };
        for announces in 1..=300_u32 {
            let sample = Sample {
                time: Some(1_000.0 + 3_600.0),
                udp_announces: Some(f64::from(announces) * 1_000.0),
                http_announces: Some(20.0),
                kernel_drops: Some(12.5),
                udp_p99: Some(0.000_25),
                swarms: Some(9_999.0),
                seeders: Some(1e6),
                leechers: Some(2e6),
                store_bytes: Some(3e9),
                store_budget_bytes: Some(4.0 * 1_073_741_824.0),
                ..Sample::default()
            };
            let (workers, findings) = (vec![worker.clone(), worker.clone()], vec![finding.clone()]);
            screen.take(Heard::News(Box::new(News { sample, workers, findings })));
        }
        let swarm = |n: u32| Swarm {
            info_hash: format!("{n:040x}"),
            seeders: 5 * n,
            leechers: n,
            completed: 77,
        };
        let swarms = (1..=20).rev().map(swarm).collect();
        screen
            .take(Heard::Swarms(Swarms { swarms, sizes: vec![Size { peers: 1, swarms: 4_321 }] }));
        screen
    }

    #[test]
    fn everything_is_on_a_screen_of_80_columns_and_24_lines() {
        let lines = drawn(&screen(), 80, 24);
        let text = lines.join("\n");
        for wanted in [
            "throng 1.2.3  up 1h 0m  2 workers  127.0.0.1:6970  live",
            "300k",
            "10.0k",
            "3.00M",
            "2.79GiB of 4.00GiB",
            "95%",
            "123k",
            "1.23M",
            "250us",
            "kernel/s         12",
            "receive buffers: the kernel dropped 1,204 datagrams in the last minute",
            "raise net.core.rmem_max",
            "largest swarms (4321 have one peer)",
            &format!("{:040x}", 20),
            "q: quit",
        ] {
            assert!(text.contains(wanted), "{wanted}:\n{text}");
        }
        assert_eq!(screen().announces.len(), super::super::HISTORY);
    }

    #[test]
    fn a_terminal_of_any_size_is_drawn_on() {
        for (columns, lines) in [(1, 1), (10, 3), (40, 12), (80, 24), (200, 60)] {
            drawn(&screen(), columns, lines);
            drawn(&Screen::new("x".to_owned()), columns, lines);
        }
    }

    #[test]
    fn what_is_not_known_is_a_dash_and_trouble_is_told() {
        let mut screen = Screen::new("127.0.0.1:6970".to_owned());
        let text = drawn(&screen, 80, 24).join("\n");
        assert!(text.contains("waiting") && text.contains("nothing is known yet"), "{text}");
        screen.take(Heard::Trouble("Connection refused".to_owned()));
        let text = drawn(&screen, 80, 24).join("\n");
        assert!(text.contains("Connection refused") && text.contains("figures are old"), "{text}");
    }

    #[test]
    fn figures_are_short() {
        let shorts = [0.0, 7.0, 999.4, 999.6, 1_000.0, 12_345.0, 999_600.0, 1.5e9].map(short);
        assert_eq!(shorts, ["0", "7", "999", "1.00k", "1.00k", "12.3k", "1.00M", "1.50G"]);
        assert_eq!(
            [0.0, 0.04, 3.21, 10.0].map(|value| rate(Some(value))),
            ["0", "0.0", "3.2", "10"]
        );
        assert_eq!(bytes(Some(1_536.0)), "1.50KiB");
        assert_eq!([1e-5, 0.0123, 2.5].map(|value| time(Some(value))), ["10us", "12.3ms", "2.5s"]);
        assert_eq!([5, 65, 3_700, 90_000].map(span), ["5s", "1m 5s", "1h 1m", "1d 1h"]);
        assert_eq!([f64::NAN, -1.0, 2.6].map(whole), [0, 0, 3]);
    }
}
