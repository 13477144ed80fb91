"""What the rounds say: medians, spreads and ratios, as Markdown, JSON and SVG."""

import html
import json
import statistics

TITLES = {
    "udp": "UDP announces",
    "http": "HTTP announces, connections kept alive",
    "http-close": "HTTP announces, a connection each",
    "ws": "WebSocket peers that offer and answer",
    "ws-idle": "Idle WebSocket connections",
    "stores": "Swarm stores in process",
}
# What is counted.
UNITS = {"ws": "relayed offers"}
OURS = "throng"


def spread(values):
    """Median, least and most."""
    return statistics.median(values), min(values), max(values)


def rate(measured):
    return measured["replies"] / measured["cpu_seconds"]


def ratios(ours, other):
    """What throng does for each that the other does, round by round."""
    return [rate(mine) / rate(its) for mine, its in zip(ours["rounds"], other["rounds"])]


def number(value):
    return f"{value:,.0f}"


def with_spread(values, form):
    median, least, most = map(form, spread(values))
    return f"{median} ({least} to {most})"


def servers_table(result, unit):
    """One test's servers as a Markdown table."""
    ours = next((server for server in result["servers"] if server["name"] == OURS), None)
    lines = [
        f"| server | {unit} per CPU-second: median (least to most) | throng is x times that |"
        f" {unit}/s | busy | bytes per peer |",
        "|---|---|---|---|---|---|",
    ]
    for server in result["servers"]:
        rounds = server["rounds"]
        per_second = statistics.median(it["replies"] / it["seconds"] for it in rounds)
        busy = statistics.median(it["cpu_seconds"] / it["seconds"] for it in rounds)
        times = "-"
        if ours and server is not ours:
            times = with_spread(ratios(ours, server), lambda value: f"{value:.2f}")
        memory = server["bytes_per_peer"]
        cells = [
            server["name"],
            with_spread([rate(it) for it in rounds], number),
            times,
            number(per_second),
            f"{busy:.2f}",
            "-" if memory is None else f"{memory:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def idle_table(result):
    """What connections cost as a Markdown table."""
    ours = next((server for server in result["servers"] if server["name"] == OURS), None)
    lines = [
        "| server | connections | bytes per idle connection: median (least to most) |"
        " throng has x of that |",
        "|---|---|---|---|",
    ]
    for server in result["servers"]:
        each, part = server["bytes_per_connection"], "-"
        if ours and server is not ours:
            part = f"{spread(ours['bytes_per_connection'])[0] / spread(each)[0]:.2f}"
        connections = number(server["connections"])
        cells = [server["name"], connections, with_spread(each, number), part]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def stores_table(result):
    lines = [
        "| store | ns per announce: median (least to most) | ns per insertion | bytes per peer |"
        " peers per reply |",
        "|---|---|---|---|---|",
    ]
    for store in result["stores"]:
        cells = [
            store["store"],
            with_spread(store["announce_ns"], number),
            number(store["insert_ns"]),
            f"{store['bytes_per_peer']:.1f}",
            f"{store['peers_per_reply']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(results):
    """The whole report."""
    machine, options = results["machine"], results["options"]
    lines = [
        "# throng beside other trackers",
        "",
        f"{results['date']}, commit {machine['commit']}, {machine['cpu']}, {machine['cpus']} CPUs,"
        f" Linux {machine['kernel']}.",
        "",
        f"{number(options['peers'])} peers in {number(options['swarms'])} swarms (floor(S * u^"
        f"{options['skew']:g})), num_want {options['num_want']}; {options['rounds']} rounds of"
        f" {options['seconds']:g} s each, interleaved; servers on CPU {options['server_cpu']}, load"
        f" on CPU {options['load_cpu']}.",
        f"WebSocket: {number(options['web_connections'])} connections in"
        f" {number(options['web_swarms'])} swarms, {options['offers']} offers an announce.",
    ]
    for test, result in results["tests"].items():
        lines += ["", f"## {TITLES[test]}", ""]
        if test == "stores":
            lines += stores_table(result)
        elif test == "ws-idle":
            lines += idle_table(result)
        else:
            lines += servers_table(result, UNITS.get(test, "replies"))
        for server in result.get("servers", []):
            lines += ["" if server is result["servers"][0] else None]
            lines += [f"- {server['name']}: {server['setup']}"]
        for name, why in result.get("skipped", {}).items():
            lines += [f"- {name} did not take part: {why}"]
        for warning in result.get("warnings", []):
            lines += [f"- Beware: {warning}"]
    return "\n".join(line for line in lines if line is not None) + "\n"


# Greys that can be read on white and on black; the system's fonts.
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600 }
.value { font-variant-numeric: tabular-nums }
.ours { fill: #2f81f7 } .other { fill: #8c959f }
.spread { stroke: #57606a; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #adb5bd } .spread { stroke: #adb5bd }
}
"""
WIDTH, LEFT, RIGHT, ROW, TOP = 720, 150, 110, 30, 48


def svg(title, unit, bars):
    """Horizontal bars: (name, median, least, most) each."""
    largest = max(most for _, _, _, most in bars) or 1
    scale = (WIDTH - LEFT - RIGHT) / largest
    height = TOP + ROW * len(bars) + 12
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{html.escape(title)}, {html.escape(unit)}</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="12" y="24">{html.escape(title)} '
        f'<tspan font-weight="400">({html.escape(unit)})</tspan></text>',
    ]
    for index, (name, median, least, most) in enumerate(bars):
        top = TOP + ROW * index
        middle, end = top + ROW / 2 - 4, LEFT + most * scale
        kind = "ours" if name.startswith(OURS) else "other"
        out.append(
            f'<text x="{LEFT - 10}" y="{middle + 4.5:.1f}" text-anchor="end">'
            f"{html.escape(name)}</text>"
            f'<rect class="{kind}" x="{LEFT}" y="{top}" width="{median * scale:.1f}"'
            f' height="{ROW - 8}" rx="2"/>'
        )
        if most > least:
            out.append(
                f'<path class="spread" d="M{LEFT + least * scale:.1f} {middle:.1f}H{end:.1f}'
                f'M{LEFT + least * scale:.1f} {middle - 4:.1f}v8M{end:.1f} {middle - 4:.1f}v8"/>'
            )
        out.append(
            f'<text class="value" x="{end + 8:.1f}" y="{middle + 4.5:.1f}">{number(median)}</text>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"


def plots(results):
    """File name and content of every plot."""
    for test, result in results["tests"].items():
        if test == "stores":
            bars = [(it["store"], *spread(it["announce_ns"])) for it in result["stores"]]
            yield "stores.svg", svg(TITLES[test], "ns per announce, less is better", bars)
            memory = {it["store"]: it["bytes_per_peer"] for it in result["stores"]}
            # Prepared for or not, it is the same store.
            memory.pop("throng_unbatched", None)
        elif test == "ws-idle":
            each = [(it["name"], *spread(it["bytes_per_connection"])) for it in result["servers"]]
            unit = "bytes per connection, less is better"
            yield "ws-idle.svg", svg(TITLES[test], unit, each)
            continue
        else:
            servers = result["servers"]
            bars = [(it["name"], *spread([rate(one) for one in it["rounds"]])) for it in servers]
            unit = f"{UNITS.get(test, 'replies')} per CPU-second, more is better"
            yield f"{test}.svg", svg(TITLES[test], unit, bars)
            memory = {it["name"]: it["bytes_per_peer"] for it in servers if it["bytes_per_peer"]}
        bars = [(name, each, each, each) for name, each in memory.items()]
        if bars:
            title = f"Memory, {TITLES[test]}"
            yield f"{test}-memory.svg", svg(title, "bytes per peer, less is better", bars)


def write(results, folder):
    """Everything into `folder`; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(results)
    (folder / "report.md").write_text(text)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for name, content in plots(results):
        (folder / name).write_text(content)
    return text
