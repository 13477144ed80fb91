// The dashboard: what the tracker does now, and what it did in the last quarter of an hour.
//
// Everything comes from the listener that served the page, as JSON: see README.md. What comes is
// shown as text and never as markup. Nothing here grows: of samples the newest 900 are kept, of
// tables as many rows as are shown.
//
// In this order: words for numbers, samples, charts, workers, figures, findings, tables, the
// connection, the token, the colours.

/* global uPlot */

// As many as the tracker keeps; one a second.
const KEPT = 900;
// A chart of less than a minute would look like noise.
const SPAN_SECONDS_MIN = 60;
const TABLES_EVERY_MS = 15_000;
// There is an event every second.
const STALLED_MS = 5_000;
const PAUSE_MS_MIN = 1_000;
const PAUSE_MS_MAX = 15_000;
const SWARMS_SHOWN = 25;
const CLIENTS_SHOWN = 17;
// With more workers than this, each is a column instead of a line.
const LINES_MAX = 6;
const COLUMNS_MAX = 64;
// From here on a worker or the memory has nothing left; the findings say so as well.
const HIGH = 0.9;

const byId = (id) => document.getElementById(id);

/** A storage of the browser; nothing is kept where it is forbidden. */
function storage(name) {
    try {
        return window[name];
    } catch {
        return { getItem: () => null, setItem() {}, removeItem() {} };
    }
}

const remembered = storage("localStorage");

/** Sets a text, without work for the browser if it is there already. */
function put(node, text) {
    if (node.textContent !== text) node.textContent = text;
}

/** An element with a class and a text. */
function make(tag, name, text = "") {
    const node = document.createElement(tag);
    if (name) node.className = name;
    node.textContent = text;
    return node;
}

/** A mark of a colour, as the lines look that it stands for. */
function mark(name, look = "area") {
    const node = make("i");
    node.style.setProperty("--colour", `var(--${name})`);
    node.dataset.look = look;
    return node;
}

// ------------------------------------------------------------------------------------------------
// Words for numbers. A format makes three parts of a number: digits, what belongs to them, and the
// unit. Three digits are enough, and always three means that nothing moves.

const NBSP = "\u00a0";
const MICRO = "\u00b5";
const UNKNOWN = ["\u2013", "", ""];

const isKnown = (value) => typeof value === "number" && Number.isFinite(value);
const share = (part, whole) => (isKnown(part) && whole > 0 ? part / whole : null);

function digits(value) {
    const size = Math.abs(value);
    return value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

/** In the unit in which there are one to three digits before the point. */
function scaled(value, base, units) {
    let step = 0;
    while (step < units.length - 1 && Number(digits(value)) >= base) {
        value /= base;
        step += 1;
    }
    return [digits(value), units[step]];
}

function count(value) {
    if (!isKnown(value)) return UNKNOWN;
    if (value < 9_999.5) return [Math.round(value).toLocaleString("en"), "", ""];
    return [...scaled(value / 1_000, 1_000, ["k", "M", "G", "T"]), ""];
}

function rate(value) {
    if (!isKnown(value)) return UNKNOWN;
    const slow = value > 0 && value < 9.95;
    const [number, scale] = slow ? [value.toFixed(1), ""] : count(value);
    return [number, scale, "/s"];
}

function bytes(value) {
    if (!isKnown(value)) return UNKNOWN;
    if (value < 1_024) return [value.toFixed(0), "", `${NBSP}B`];
    const [number, unit] = scaled(value / 1_024, 1_024, ["KiB", "MiB", "GiB", "TiB"]);
    return [number, "", NBSP + unit];
}

function byteRate(value) {
    const [number, scale, unit] = bytes(value);
    return [number, scale, unit && `${unit}/s`];
}

function duration(seconds) {
    if (!isKnown(seconds)) return UNKNOWN;
    const [number, unit] = scaled(seconds * 1e6, 1_000, [`${MICRO}s`, "ms", "s"]);
    return [number, "", NBSP + unit];
}

function percent(value) {
    if (!isKnown(value)) return UNKNOWN;
    const hundredths = 100 * value;
    const short = hundredths === 0 || hundredths >= 9.95;
    return [hundredths.toFixed(short ? 0 : 1), "", `${NBSP}%`];
}

const words = (format, value) => format(value).join("");

/** For an axis: without the zeros that say nothing. */
function brief(format, value) {
    const [number, ...rest] = format(value);
    return [number.includes(".") ? number.replace(/\.?0+$/, "") : number, ...rest].join("");
}

/** A span of time in its two largest units. */
function age(seconds) {
    if (!isKnown(seconds) || seconds < 0) return UNKNOWN[0];
    const parts = [];
    let left = Math.floor(seconds);
    for (const [unit, size] of [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]]) {
        const whole = Math.floor(left / size);
        left -= whole * size;
        if (whole > 0 || parts.length > 0 || size === 1) parts.push(`${whole}${NBSP}${unit}`);
    }
    return parts.slice(0, 2).join(" ");
}

const timeOfDay = (options) => {
    const format = new Intl.DateTimeFormat("en-GB", { hourCycle: "h23", ...options });
    return (seconds) => format.format(1_000 * seconds);
};
const clock = timeOfDay({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
const clockMinutes = timeOfDay({ hour: "2-digit", minute: "2-digit" });
const day = timeOfDay({ day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

// ------------------------------------------------------------------------------------------------
// Samples: a column for each thing that is measured, all of one length, at most KEPT.

let columns = { time: [] };
let status = null;
let newest = { workers: [], findings: null };

/** Adds a sample. Of a clock that was set back only what is earlier stays. */
function push(sample) {
    const { time } = columns;
    if (!isKnown(sample.time)) return;
    while (time.length > 0 && time.at(-1) >= sample.time) {
        for (const column of Object.values(columns)) column.pop();
    }
    for (const [name, column] of Object.entries(columns)) {
        column.push(isKnown(sample[name]) ? sample[name] : null);
        if (column.length > KEPT) column.shift();
    }
}

/** Takes over what the tracker remembers instead of what is here. */
function replace(samples) {
    if (!Array.isArray(samples?.time)) throw new Error("it sent no samples");
    const names = Object.keys(samples);
    columns = Object.fromEntries(names.map((name) => [name, []]));
    const row = {};
    for (let index = 0; index < samples.time.length; index += 1) {
        for (const name of names) row[name] = samples[name][index];
        push(row);
    }
}

const last = (name) => columns[name]?.at(-1) ?? null;

/** The sum of what is known of these columns. */
function sum(...names) {
    const values = names.map(last).filter(isKnown);
    return values.length > 0 ? values.reduce((total, value) => total + value, 0) : null;
}

// ------------------------------------------------------------------------------------------------
// Charts.

const UDP = "udp";
const HTTP = "http";
const WEB = "web";

// `look` is an area, a line, a thin line, a dashed one, or `stack`: on top of those before. `axis`
// is the format of the axis if it is another. `widest` is how many characters a value has at most,
// so that no legend moves.
const CHARTS = [
    {
        id: "announces", format: rate, axis: count, scale: "count", widest: 7,
        series: [
            { column: "udp_announces", name: "UDP", colour: UDP, look: "stack" },
            { column: "http_announces", name: "HTTP", colour: HTTP, look: "stack" },
            { column: "web_announces", name: "WebSocket", colour: WEB, look: "stack" },
        ],
    },
    {
        id: "latency", format: duration, scale: "decades", widest: 7, unknown: "no requests",
        series: [
            { column: "udp_p50", name: "UDP", colour: UDP, look: "thin" },
            { column: "udp_p99", name: "p99", colour: UDP, look: "line" },
            { column: "http_p50", name: "HTTP", colour: HTTP, look: "thin" },
            { column: "http_p99", name: "p99", colour: HTTP, look: "line" },
        ],
    },
    {
        id: "peers", format: count, scale: "count", widest: 6,
        series: [
            { column: "seeders", name: "seeders", colour: UDP, look: "stack" },
            { column: "leechers", name: "leechers", colour: "violet", look: "stack" },
            { column: "swarms", name: "swarms", colour: "slate", look: "dash", right: true },
        ],
    },
    {
        id: "load", format: percent, scale: "share", widest: 5,
        series: [
            { column: "load_mean", name: "mean", colour: UDP, look: "area" },
            { column: "load_max", name: "hottest", colour: UDP, look: "thin" },
            { column: "waiting_max", name: "waited for a CPU", colour: "rose", look: "line" },
        ],
    },
    {
        id: "drops", format: rate, axis: count, scale: "count", widest: 7, zero: "none",
        series: [
            { column: "drops", name: "no answer", colour: "violet", look: "line" },
            { column: "kernel_drops", name: "kernel", colour: "rose", look: "line" },
            { column: "refusals", name: "refused", colour: "slate", look: "line" },
        ],
    },
    {
        id: "memory", format: bytes, scale: "bytes", widest: 8,
        series: [
            { column: "store_bytes", name: "swarms", colour: UDP, look: "area" },
            { column: "store_budget_bytes", name: "budget", colour: "slate", look: "dash" },
            { column: "resident_bytes", name: "process", colour: "violet", look: "line" },
        ],
    },
    {
        id: "traffic", format: byteRate, axis: bytes, scale: "bytes", widest: 10,
        series: [
            { column: "received_bytes", name: "in", colour: WEB, look: "area" },
            { column: "sent_bytes", name: "out", colour: "violet", look: "area" },
        ],
    },
    {
        id: "connections", format: count, scale: "count", widest: 6,
        series: [
            { column: "http_connections", name: "HTTP", colour: HTTP, look: "area" },
            { column: "web_connections", name: "WebSocket", colour: WEB, look: "area" },
        ],
    },
];

const LOOKS = {
    stack: { width: 1.25, fill: 0.3 },
    area: { width: 1.5, fill: 0.14 },
    line: { width: 1.5 },
    thin: { width: 1.25, alpha: 0.6 },
    dash: { width: 1.5, dash: [5, 4] },
};

// A step of a scale is such that there are three or four up to the top, and the top is one of them.
const SCALES = {
    count: {
        step(max) {
            const least = max / 4;
            const power = 10 ** Math.floor(Math.log10(least));
            return Math.max(1, power * [1, 2, 5, 10].find((factor) => factor * power >= least));
        },
        max: (max) => Math.max(max, 4),
    },
    bytes: {
        step: (max) => 2 ** Math.ceil(Math.log2(max / 4)),
        max: (max) => Math.max(max, 4_096),
    },
    // The kernel counts a wait when it ends, so for one second it may be more than that.
    share: { step: () => 0.25, max: () => 1 },
    decades: {},
};

const decade = (exponent) => Number(`1e${exponent}`);

/** From where to where a scale goes for what is between two values. */
function rangeOf(scale, min, max) {
    if (scale === "decades") {
        if (!(min > 0)) return [1e-5, 1e-2];
        const [low, high] = [Math.floor(Math.log10(min)), Math.ceil(Math.log10(max))];
        return [decade(low), decade(Math.max(high, low + 1))];
    }
    const reached = SCALES[scale].max(max ?? 0);
    const step = SCALES[scale].step(reached);
    return [0, step * Math.ceil(reached / step - 1e-9)];
}

/** Where an axis has its lines. */
function stepsOf(scale, min, max) {
    if (scale === "decades") {
        const [low, high] = [Math.round(Math.log10(min)), Math.round(Math.log10(max))];
        return Array.from({ length: high - low + 1 }, (_, index) => decade(low + index));
    }
    const step = SCALES[scale].step(max);
    return Array.from({ length: Math.round(max / step) + 1 }, (_, index) => index * step);
}

/** The time that charts show. */
function timeRange() {
    const to = last("time") ?? Date.now() / 1_000;
    const known = to - (columns.time[0] ?? to);
    return [to - Math.min(KEPT, Math.max(SPAN_SECONDS_MIN, known)), to];
}

/** Seconds between two words on the axis of time, so that each has room. */
function timeStep(min, max, width) {
    const steps = [15, 30, 60, 120, 180, 300];
    return steps.find((step) => ((max - min) / step) * 64 <= width) ?? 300;
}

class Chart {
    constructor(spec) {
        this.spec = spec;
        this.off = new Set();
        this.uplot = null;
        const panel = byId(spec.id);
        this.plot = panel.querySelector(".plot");
        this.at = panel.querySelector("time");
        this.note = this.plot.appendChild(make("p", "note"));
        const legend = panel.querySelector(".legend");
        this.values = spec.series.map((series) => legend.appendChild(this.entry(series)).lastChild);
        this.makeSlider(panel.querySelector("h3").textContent);
        // What draws inside is positioned absolutely, so its size never changes what is observed.
        new ResizeObserver(() => this.fit()).observe(this.plot);
    }

    /** A part of the legend, which switches its series off and on. */
    entry(series) {
        const entry = make("button");
        entry.type = "button";
        entry.setAttribute("aria-pressed", "true");
        const { colour: name, look } = series;
        entry.append(mark(name, look), make("span", "name", series.name), make("span", "value"));
        entry.lastChild.style.setProperty("--widest", `${this.spec.widest}ch`);
        entry.addEventListener("click", () => {
            if (!this.off.delete(series)) this.off.add(series);
            entry.setAttribute("aria-pressed", String(!this.off.has(series)));
            this.draw();
        });
        return entry;
    }

    /** Lets keys move the cursor of all charts. */
    makeSlider(title) {
        const { plot } = this;
        plot.tabIndex = 0;
        plot.setAttribute("role", "slider");
        plot.setAttribute("aria-label", `${title}: moment`);
        for (const value of ["min", "max", "now"]) plot.setAttribute(`aria-value${value}`, "0");
        plot.addEventListener("keydown", (event) => this.press(event));
        plot.addEventListener("focus", () => this.label());
        plot.addEventListener("blur", () => this.point(null));
    }

    press(event) {
        const moves = { ArrowLeft: -1, ArrowRight: 1, PageDown: -30, PageUp: 30 };
        const ends = { Home: -Infinity, End: Infinity };
        const move = moves[event.key] ?? ends[event.key];
        const end = columns.time.length - 1;
        if (event.altKey || event.ctrlKey || event.metaKey || !this.uplot || end < 0) return;
        if (event.key === "Escape") this.point(null);
        if (move === undefined) return;
        event.preventDefault();
        const from = this.uplot.cursor.idx ?? end;
        this.point(Math.min(end, Math.max(0, from + move)));
    }

    /** Puts the cursor of all charts on a sample, or away. */
    point(index) {
        const left = index === null ? -10 : this.uplot?.valToPos(columns.time[index], "x");
        this.uplot?.setCursor({ left, top: index === null ? -10 : 0 }, true, true);
    }

    fit() {
        const { clientWidth: width, clientHeight: height } = this.plot;
        if (width === 0 || height === 0) return;
        if (this.uplot) {
            this.uplot.setSize({ width, height });
        } else {
            this.uplot = new uPlot(this.options(width, height), this.data(), this.plot);
            this.label();
        }
    }

    /** Columns as the chart draws them: stacked, and without what is switched off. */
    data() {
        const { time } = columns;
        const decades = this.spec.scale === "decades";
        let below = null;
        const lines = this.spec.series.map((series) => {
            const column = columns[series.column] ?? new Array(time.length).fill(null);
            const isOff = this.off.has(series);
            if (series.look !== "stack") {
                if (isOff) return new Array(time.length).fill(null);
                return decades ? column.map((value) => (value > 0 ? value : null)) : column;
            }
            const under = below;
            below = column.map((value, index) => {
                const base = under?.[index] ?? null;
                return value === null || isOff ? base : (base ?? 0) + value;
            });
            return below;
        });
        return [time, ...lines.reverse()];
    }

    options(width, height) {
        const { spec } = this;
        const side = (scale, on) => ({ range: (_, min, max) => rangeOf(scale, min, max), ...on });
        const scales = {
            x: { time: true, range: timeRange },
            y: side(spec.scale, { distr: spec.scale === "decades" ? 3 : 1 }),
        };
        if (spec.series.some((series) => series.right)) scales.right = side("count");
        // What comes first is drawn last, and so stays visible where nothing lies on top of it.
        const lines = spec.series.map((series) => this.line(series)).reverse();
        const place = (series) => lines.length - spec.series.indexOf(series);
        const stacked = spec.series.filter((series) => series.look === "stack");
        const bands = stacked.slice(1).map((series, index) => ({
            series: [place(series), place(stacked[index])],
            fill: () => this.colour(series, LOOKS.stack.fill),
        }));
        return {
            width,
            height,
            scales,
            bands,
            padding: [10, scales.right ? 0 : 10, 0, 0],
            legend: { show: false },
            cursor: {
                y: false,
                drag: { x: false, y: false, setScale: false },
                points: { size: 6, width: 0 },
                sync: { key: "throng" },
            },
            axes: this.axes(scales),
            series: [{}, ...lines],
            hooks: { setCursor: [() => this.label()] },
        };
    }

    axes(scales) {
        const plain = {
            font: `11px ${getComputedStyle(document.body).fontFamily}`,
            stroke: () => colour("muted"),
            ticks: { show: false },
            filter: (_, splits) => splits,
        };
        const side = (scale, kind, format, place) => ({
            ...plain,
            ...place,
            scale,
            gap: 6,
            splits: (_, axis, min, max) => stepsOf(kind, min, max),
            values: (_, splits) => splits.map((value) => brief(format, value)),
        });
        const axes = [
            {
                ...plain,
                size: 20,
                gap: 3,
                grid: { show: false },
                splits: (uplot, _, min, max) => {
                    const width = uplot.bbox.width / devicePixelRatio;
                    const step = timeStep(min, max, width);
                    // Nearer to an end a word would be cut off, or run into others.
                    const margin = ((step < 60 ? 30 : 19) / width) * (max - min);
                    const places = [];
                    let at = step * Math.ceil((min + margin) / step);
                    for (; at <= max - margin; at += step) places.push(at);
                    return places;
                },
                values: (_, splits) => {
                    const whole = splits.every((seconds) => seconds % 60 === 0);
                    return splits.map(whole ? clockMinutes : clock);
                },
            },
            side("y", this.spec.scale, this.spec.axis ?? this.spec.format, {
                size: 56,
                grid: { stroke: () => colour("grid"), width: 1 },
            }),
        ];
        if (scales.right) {
            axes.push(side("right", "count", count, { side: 1, size: 44, grid: { show: false } }));
        }
        return axes;
    }

    line(series) {
        const { width, fill, alpha = 1, dash } = LOOKS[series.look];
        return {
            scale: series.right ? "right" : "y",
            stroke: () => this.colour(series, alpha),
            fill: fill && (() => this.colour(series, fill)),
            width,
            dash,
            points: {
                show: false,
                size: 4,
                fill: () => this.colour(series, alpha),
                // A line needs two values in a row: one that stands alone would not be seen.
                filter: (uplot, index) => {
                    const values = uplot.data[index];
                    const alone = (value, at) =>
                        value !== null && (values[at - 1] ?? values[at + 1] ?? null) === null;
                    return values.flatMap((value, at) => (alone(value, at) ? [at] : []));
                },
            },
        };
    }

    colour(series, alpha) {
        return this.off.has(series) ? "transparent" : colour(series.colour, alpha);
    }

    draw() {
        if (!this.uplot) return;
        this.uplot.setData(this.data());
        this.explain();
        this.label();
    }

    /** Says what was where the cursor is, or what is now. */
    label() {
        const end = columns.time.length - 1;
        const cursor = this.uplot?.cursor;
        const pointed = cursor?.left >= 0 && cursor.idx <= end ? cursor.idx : null;
        const index = pointed ?? end;
        const { spec, plot } = this;
        put(this.at, pointed === null ? "" : clock(columns.time[pointed]));
        const texts = spec.series.map(({ column }, at) => {
            const text = words(spec.format, columns[column]?.[index]);
            put(this.values[at], text);
            return `${spec.series[at].name} ${text}`;
        });
        if (document.activeElement === plot) {
            plot.setAttribute("aria-valuenow", String(Math.max(0, index)));
            plot.setAttribute("aria-valuemax", String(Math.max(0, end)));
            const when = index >= 0 ? clock(columns.time[index]) : "";
            plot.setAttribute("aria-valuetext", `${when}: ${texts.join(", ")}`);
        }
    }

    /** Says why nothing is to be seen. */
    explain() {
        const { series, unknown = "not known", zero = "" } = this.spec;
        const values = series.flatMap(({ column }) => columns[column] ?? []);
        if (columns.time.length === 0 || values.some((value) => value !== null && value !== 0)) {
            put(this.note, "");
        } else {
            put(this.note, values.every((value) => value === null) ? unknown : zero);
        }
    }
}

// ------------------------------------------------------------------------------------------------
// A bar for each worker.

const workers = {
    box: byId("bars"),
    nodes: [],
    /** The worker that is pointed at; else the words are about the hottest. */
    picked: null,

    show(list) {
        if (list.length !== this.nodes.length) this.build(list.length);
        list.forEach((worker, index) => {
            const node = this.nodes[index];
            const load = Math.min(1, Math.max(0, worker.load ?? 0));
            const waiting = Math.min(1 - load, Math.max(0, worker.waiting ?? 0));
            node.style.setProperty("--load", load.toFixed(4));
            node.style.setProperty("--waiting", waiting.toFixed(4));
            node.toggleAttribute("data-hot", load >= HIGH);
            if (list.length > LINES_MAX) return;
            const texts = [
                words(percent, worker.load),
                words(rate, worker.requests),
                `${words(count, worker.peers)} peers`,
            ];
            [...node.children].slice(2).forEach((span, at) => put(span, texts[at]));
        });
        this.say(list);
    },

    build(amount) {
        const many = amount > LINES_MAX;
        const rows = Math.ceil(amount / COLUMNS_MAX);
        const across = Math.ceil(amount / Math.max(1, rows));
        this.picked = null;
        this.box.className = `bars ${many ? "many" : "few"}${across > 24 ? " dense" : ""}`;
        this.box.style.setProperty("--columns", across);
        this.nodes = Array.from({ length: amount }, (_, index) => this.bar(index, many));
        this.box.replaceChildren(...this.nodes);
        const role = many ? "slider" : "list";
        this.box.setAttribute("role", role);
        this.box.setAttribute("aria-label", many ? "Worker" : "Workers");
        this.box.toggleAttribute("tabindex", many);
        if (many) {
            this.box.tabIndex = 0;
            this.box.setAttribute("aria-valuemin", "0");
            this.box.setAttribute("aria-valuenow", "0");
            this.box.setAttribute("aria-valuemax", String(amount - 1));
        }
        const meanings = [["udp", "load"], ["rose", "waited for a CPU"]];
        byId("workers-words").replaceChildren(...meanings.map(([name, meaning]) => {
            const part = make("span", "meaning");
            part.append(mark(name), meaning);
            return part;
        }));
    },

    bar(index, many) {
        const node = make("div", "worker");
        const track = make("div", "track");
        track.append(make("div", "fill"), make("div", "wait"));
        node.append(make("span", "name", String(index)), track);
        if (many) {
            node.addEventListener("pointerenter", () => this.pick(index));
        } else {
            node.setAttribute("role", "listitem");
            node.append(make("span", "load"), make("span", "requests"), make("span", "peers"));
        }
        return node;
    },

    pick(index) {
        this.nodes[this.picked]?.removeAttribute("data-picked");
        this.picked = index;
        this.nodes[index]?.setAttribute("data-picked", "");
        this.say(newest.workers);
    },

    press(event) {
        const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
        const end = this.nodes.length - 1;
        if (end < LINES_MAX || event.altKey || event.ctrlKey || event.metaKey) return;
        if (event.key === "Escape") this.pick(null);
        if (moves[event.key] === undefined) return;
        event.preventDefault();
        const to = (this.picked ?? hottest(newest.workers)) + moves[event.key];
        this.pick(Math.min(end, Math.max(0, to)));
    },

    /** In words the worker that is pointed at, or the hottest. Lines have words of their own. */
    say(list) {
        const index = this.picked ?? hottest(list);
        const worker = list[index];
        if (!worker || list.length <= LINES_MAX) return;
        const who = `${this.picked === null ? "hottest" : "worker"} ${index}`;
        const text = `${who}: load ${words(percent, worker.load)}, `
            + `waits ${words(percent, worker.waiting)}, ${words(rate, worker.requests)}, `
            + `${words(count, worker.peers)} peers`;
        this.box.setAttribute("aria-valuenow", String(index));
        this.box.setAttribute("aria-valuetext", text);
        put(byId("workers-words"), text);
    },
};

/** Which worker has the greatest load. */
function hottest(list) {
    const loads = list.map((worker) => worker.load ?? -1);
    return loads.reduce((best, load, index) => (load > loads[best] ? index : best), 0);
}

workers.box.addEventListener("pointerleave", () => workers.pick(null));
workers.box.addEventListener("blur", () => workers.pick(null));
workers.box.addEventListener("keydown", (event) => workers.press(event));

// ------------------------------------------------------------------------------------------------
// The figures on top.

function figure(name, [number, scale, unit], more) {
    const value = byId(`figure-${name}`);
    if (!value.dataset.ready) {
        value.replaceChildren(new Text(), make("small"));
        value.dataset.ready = "yes";
    }
    if (value.firstChild.data !== number + scale) value.firstChild.data = number + scale;
    put(value.lastChild, unit);
    put(byId(`more-${name}`), more || NBSP);
}

function meter(name, value) {
    const node = byId(`meter-${name}`);
    node.style.setProperty("--share", Math.min(1, value ?? 0).toFixed(4));
    node.toggleAttribute("data-high", value >= HIGH);
}

function showFigures() {
    const announces = sum("udp_announces", "http_announces", "web_announces");
    const peers = sum("seeders", "leechers");
    const used = share(last("store_bytes"), last("store_budget_bytes"));
    const overUdp = isKnown(last("udp_p99"));
    const [p50, p99] = overUdp ? ["udp_p50", "udp_p99"] : ["http_p50", "http_p99"];
    const of = (format, name) => words(format, last(name));
    const latencies = [isKnown(last(p50)) && `p50 ${of(duration, p50)}`,
        overUdp && isKnown(last("http_p99")) && `HTTP ${of(duration, "http_p99")}`];
    const each = share(peers, last("swarms"));
    const hot = newest.workers.length > 1 ? `worker ${hottest(newest.workers)}, ` : "";

    figure("announces", rate(announces), `UDP ${of(count, "udp_announces")}, `
        + `HTTP ${of(count, "http_announces")}, web ${of(count, "web_announces")}`);
    figure("peers", count(peers),
        `${of(count, "seeders")} seed, ${of(count, "leechers")} leech`);
    figure("swarms", count(last("swarms")), isKnown(each) ? `${digits(each)} peers in each` : "");
    figure("latency", duration(last(p99)), latencies.filter(Boolean).join(", "));
    figure("load", percent(last("load_max")), `${hot}mean ${of(percent, "load_mean")}`);
    figure("memory", percent(used),
        `${of(bytes, "store_bytes")} of ${of(bytes, "store_budget_bytes")}`);
    meter("load", last("load_max"));
    meter("memory", used);
    if (status) {
        const seconds = (last("time") ?? Date.now() / 1_000) - status.started;
        figure("uptime", [age(seconds), "", ""], `since ${day(status.started)}`);
    }
    put(byId("clock"), isKnown(last("time")) ? clock(last("time")) : "");
    showTitle(announces);
}

function showTitle(announces) {
    const found = newest.findings?.length ?? 0;
    const mark = document.body.dataset.state === "lost" ? "not live: " : found ? `(${found}) ` : "";
    document.title = `${mark}${isKnown(announces) ? `${words(rate, announces)} - ` : ""}throng`;
}

const RATES = [
    ["Connects", "connects", rate], ["Scrapes", "scrapes", rate],
    ["Offers", "offers", rate], ["Answers", "answers", rate],
    ["Completed", "completed", rate], ["Peers evicted", "evicted", rate],
    ["IPv4 peers", "ipv4_peers", count], ["IPv6 peers", "ipv6_peers", count],
    ["WebSocket peers", "web_peers", count], ["In mailboxes", "mailbox_bytes", bytes],
].map(([name, column, format]) => {
    const line = make("div");
    line.append(make("dt", "", name), make("dd"));
    byId("rates").append(line);
    return { column, format, node: line.lastChild };
});

function showRates() {
    for (const { column, format, node } of RATES) put(node, words(format, last(column)));
}

// ------------------------------------------------------------------------------------------------
// What is wrong, in words.

let findingsShown = "";

function showFindings(findings) {
    if (!Array.isArray(findings)) return;
    // Most of the time nothing has changed, and the list may have been selected to be copied.
    const text = JSON.stringify(findings);
    if (text === findingsShown) return;
    findingsShown = text;
    const list = byId("findings");
    list.replaceChildren(...findings.map(finding));
    list.hidden = findings.length === 0;
    const calm = byId("calm");
    calm.hidden = findings.length > 0;
    calm.replaceChildren(make("b", "", "Nothing to report."),
        " Load, memory, queues and drops of the last minute are as they should be.");
    byId("health").dataset.level = findings[0]?.level ?? "ok";
    // Numbers change every second: only what is wrong is read out.
    const titles = findings.map(({ level, title }) => `${level}: ${title}`);
    put(byId("health-summary"), titles.join(", ") || "nothing to report");
}

function finding({ level, title, detail, remedy }) {
    const item = make("li");
    item.dataset.level = level === "problem" ? "problem" : "warning";
    const text = make("p", "words");
    text.append(...marked(detail));
    if (remedy) {
        const way = make("span", "remedy");
        way.append(...marked(remedy));
        text.append(way);
    }
    item.append(make("span", "level", level === "problem" ? "Problem" : "Warning"),
        make("span", "title", String(title)), text);
    return item;
}

/** What stands between backticks is what one types. */
function marked(text) {
    const parts = String(text).split("`");
    return parts.map((part, index) => (index % 2 === 1 ? make("code", "", part) : part));
}

// ------------------------------------------------------------------------------------------------
// Tables, which are fetched now and then.

class Table {
    constructor(id, path, list, cells, none) {
        const panel = byId(id);
        this.path = path;
        this.list = list;
        this.cells = cells;
        this.none = none;
        this.word = panel.querySelector(".word");
        this.table = panel.querySelector("table");
        this.body = panel.querySelector("tbody");
        this.classes = [...panel.querySelectorAll("thead th")].map((head) => head.className);
    }

    async load() {
        try {
            const answer = await (await request(this.path)).json();
            const rows = this.list(answer);
            this.show(rows.map(this.cells));
            this.say(rows.length > 0 ? "" : this.none);
        } catch (error) {
            if (error instanceof Unauthorized) askForToken();
            this.say(`Not available: ${reason(error)}.`);
        }
    }

    say(text) {
        put(this.word, text);
        this.word.hidden = text === "";
        this.table.hidden = text !== "";
    }

    /** Uses the rows that are there, so that nothing jumps and what is selected stays so. */
    show(rows) {
        while (this.body.rows.length < rows.length) {
            const row = this.body.insertRow();
            for (const name of this.classes) row.insertCell().className = name;
        }
        while (this.body.rows.length > rows.length) this.body.deleteRow(-1);
        rows.forEach(({ texts, bars }, at) => {
            const { cells, style } = this.body.rows[at];
            texts.forEach((text, index) => put(cells[index], text));
            // Where there is no room for all of it.
            cells[0].title = texts[0];
            for (const [name, part] of Object.entries(bars)) {
                style.setProperty(`--${name}`, (part ?? 0).toFixed(4));
            }
        });
    }
}

const tables = [
    new Table(
        "swarms", `/api/v1/swarms?limit=${SWARMS_SHOWN}`,
        ({ swarms }) => sized(swarms),
        ({ info_hash, seeders, leechers, completed, largest }) => ({
            texts: [String(info_hash), words(count, seeders + leechers),
                ...[seeders, leechers, completed].map((number) => words(count, number))],
            bars: { seeders: share(seeders, largest), leechers: share(leechers, largest) },
        }),
        "No swarm has a peer.",
    ),
    new Table(
        "clients", "/api/v1/clients",
        ({ clients }) => shares(clients),
        ({ name, version, peers, part, ofMost }) => ({
            texts: [String(name), String(version), words(count, peers), words(percent, part)],
            bars: { share: ofMost },
        }),
        "No peer has said which client it is.",
    ),
];

/** The swarms that are shown, each with the peers of the largest. */
function sized(swarms) {
    const shown = swarms.slice(0, SWARMS_SHOWN);
    const largest = Math.max(...shown.map(({ seeders, leechers }) => seeders + leechers));
    return shown.map((swarm) => ({ ...swarm, largest }));
}

/** The clients that are shown, each with its part of all peers and of those of the first. */
function shares(clients) {
    const total = (list) => list.reduce((peers, client) => peers + client.peers, 0);
    const all = total(clients);
    const rest = clients.slice(CLIENTS_SHOWN);
    const hint = byId("clients-rest");
    hint.hidden = rest.length === 0;
    put(hint, `and ${rest.length} more with ${words(count, total(rest))} peers`);
    const shown = clients.slice(0, CLIENTS_SHOWN);
    const most = shown[0]?.peers;
    return shown.map((client) => {
        const { peers } = client;
        return { ...client, part: share(peers, all), ofMost: share(peers, most) };
    });
}

let tablesLoaded = -Infinity;

/** Loads the tables if somebody looks and they are old. */
function loadTables() {
    const now = performance.now();
    if (document.hidden || document.body.dataset.state !== "live") return;
    if (now - tablesLoaded < TABLES_EVERY_MS) return;
    tablesLoaded = now;
    for (const table of tables) table.load();
}

// ------------------------------------------------------------------------------------------------
// The connection.

class Unauthorized extends Error {}

const reason = (error) =>
    error instanceof TypeError ? "the tracker does not answer" : error.message;

async function request(path, signal) {
    const token = sessionStorage.getItem("token");
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const response = await fetch(path, { headers, signal, cache: "no-store" });
    if (response.status === 401) throw new Unauthorized("a token is needed");
    if (!response.ok) throw new Error(`the tracker answered ${response.status}`);
    return response;
}

/** Server-sent events: name and data of each, as they come. */
async function* eventsOf(body, heard) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        heard();
        const blocks = (text + value).split(/\r?\n\r?\n/);
        text = blocks.pop();
        for (const block of blocks) {
            const event = { name: "message", data: [] };
            for (const line of block.split(/\r?\n/)) {
                const [, field, rest] = /^(\w*):? ?(.*)$/.exec(line) ?? [];
                if (field === "event") event.name = rest;
                if (field === "data") event.data.push(rest);
            }
            if (event.data.length > 0) yield { name: event.name, data: event.data.join("\n") };
        }
    }
}

/** Follows the tracker until it is lost, which is an error. */
async function follow(live) {
    const control = new AbortController();
    let heardAt = Date.now();
    const watch = setInterval(() => {
        if (Date.now() - heardAt > STALLED_MS) control.abort(new Error("nothing was heard"));
    }, 1_000);
    try {
        // Events first: what happens while the samples come is told by an event.
        const events = await request("/api/v1/events", control.signal);
        const paths = ["/api/v1/samples", "/api/v1/status"];
        const answers = paths.map(async (path) => (await request(path, control.signal)).json());
        const [samples, about] = await Promise.all(answers);
        replace(samples);
        status = about;
        showStatus();
        show();
        for await (const { name, data } of eventsOf(events.body, () => (heardAt = Date.now()))) {
            if (name !== "sample") continue;
            const news = JSON.parse(data);
            push(news.sample);
            newest = { workers: news.workers ?? [], findings: news.findings ?? [] };
            live();
            show();
            loadTables();
        }
        throw new Error("the tracker ended the connection");
    } finally {
        clearInterval(watch);
        control.abort();
    }
}

/** Follows the tracker for ever. */
async function run() {
    let pause = PAUSE_MS_MIN;
    for (;;) {
        try {
            await follow(() => {
                pause = PAUSE_MS_MIN;
                setState("live");
            });
        } catch (error) {
            if (error instanceof Unauthorized) {
                await askForToken();
                continue;
            }
            setState("lost", reason(error));
        }
        await wait(pause);
        pause = Math.min(2 * pause, PAUSE_MS_MAX);
    }
}

/** Counts down; ends early if somebody wants to try at once, or looks at the page again. */
async function wait(milliseconds) {
    const until = Date.now() + milliseconds;
    let hurry = false;
    const now = () => (hurry = !document.hidden);
    byId("retry").addEventListener("click", now);
    document.addEventListener("visibilitychange", now);
    addEventListener("online", now);
    while (!hurry && Date.now() < until) {
        const left = Math.ceil((until - Date.now()) / 1_000);
        put(byId("lost-pause"), `Trying again in ${left}${NBSP}s.`);
        await new Promise((resolve) => setTimeout(resolve, 200));
    }
    put(byId("lost-pause"), "Trying again now.");
    byId("retry").removeEventListener("click", now);
    document.removeEventListener("visibilitychange", now);
    removeEventListener("online", now);
}

const STATES = { live: "Live", connecting: "Connecting", lost: "Not live", locked: "Locked" };

function setState(state, why = "") {
    document.body.dataset.state = state;
    byId("live").dataset.state = state;
    put(byId("live-word"), STATES[state]);
    byId("lost").hidden = state !== "lost";
    if (state === "lost") {
        const time = last("time");
        const old = isKnown(time) ? ` What you see is from ${clock(time)}.` : "";
        put(byId("lost-words"), `Not live: ${why}.${old}`);
        showTitle(null);
    }
}

/** Shows everything that there is, if somebody looks. */
function show() {
    document.body.dataset.samples = columns.time.length;
    if (document.hidden) return;
    showFigures();
    showRates();
    showFindings(newest.findings);
    workers.show(newest.workers);
    for (const chart of charts) chart.draw();
}

function showStatus() {
    const { version, workers: amount, listeners } = status;
    put(byId("build"), `${version}, ${amount} worker${amount === 1 ? "" : "s"}`);
    const places = Array.isArray(listeners) ? listeners.join(", ") : "";
    put(byId("listeners"), places && `Listens on ${places}`);
}

// ------------------------------------------------------------------------------------------------
// The token.

let asking = null;

/** Asks for a token, once whoever needs it; resolves when there is one. */
function askForToken() {
    asking ??= new Promise((resolve) => {
        const refused = sessionStorage.getItem("token") !== null;
        sessionStorage.removeItem("token");
        gateSays(refused ? "The tracker did not take that token." : "", refused);
        byId("gate").hidden = false;
        byId("main").hidden = true;
        setState("locked");
        byId("token").focus();
        byId("gate-form").onsubmit = (event) => {
            event.preventDefault();
            const token = byId("token").value.trim();
            if (!/^[\x21-\x7e]+$/.test(token)) {
                gateSays("A token has no spaces, and letters of ASCII only.", true);
                return;
            }
            sessionStorage.setItem("token", token);
            byId("token").value = "";
            byId("gate").hidden = true;
            byId("main").hidden = false;
            setState("connecting");
            asking = null;
            tablesLoaded = -Infinity;
            resolve();
        };
    });
    return asking;
}

function gateSays(text, bad) {
    const node = byId("gate-words");
    node.dataset.first ??= node.textContent;
    put(node, text || node.dataset.first);
    node.toggleAttribute("data-bad", bad);
}

// ------------------------------------------------------------------------------------------------
// Colours. Style sheets know them; a canvas must be told.

const THEMES = { auto: "Auto", light: "Light", dark: "Dark" };
const resolved = new Map();
const probe = document.body.appendChild(make("span"));
probe.hidden = true;

/** A colour of the style sheet as a canvas takes it. */
function colour(name, alpha = 1) {
    const key = `${name} ${alpha}`;
    if (!resolved.has(key)) {
        probe.style.color = `var(--${name})`;
        const [red, green, blue] = getComputedStyle(probe).color.match(/[\d.]+/g);
        resolved.set(key, `rgba(${red}, ${green}, ${blue}, ${alpha})`);
    }
    return resolved.get(key);
}

function repaint() {
    resolved.clear();
    for (const chart of charts) chart.uplot?.redraw(false);
}

function setTheme(theme) {
    const root = document.documentElement;
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    put(byId("theme-word"), THEMES[theme]);
    byId("theme").setAttribute("aria-label", `Colours: ${theme}`);
    byId("theme").title = `Colours: ${theme}`;
}

let theme = remembered.getItem("theme");
if (!(theme in THEMES)) theme = "auto";
setTheme(theme);

byId("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    remembered.setItem("theme", theme);
    setTheme(theme);
    repaint();
});

// ------------------------------------------------------------------------------------------------
// The beginning.

const charts = CHARTS.map((spec) => new Chart(spec));

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
document.addEventListener("visibilitychange", () => {
    show();
    loadTables();
});
setInterval(loadTables, 1_000);
setState("connecting");
run();
