"""The load generator, `throng load`: how it is called and how its report is read. Nothing else
here knows its options or its JSON."""

import dataclasses
import json

from contenders import CLOSE, SEED, UDP, throng_program


@dataclasses.dataclass
class Measured:
    """What came of one run."""

    # Right replies in the measured time.
    replies: int
    # Length of the measured time.
    seconds: float
    # CPU time of the server meanwhile.
    cpu_seconds: float
    # That of the load generator itself: near `seconds`, it was the limit.
    load_cpu_seconds: float
    # Mean size of a reply: a datagram, or an HTTP response with its head.
    reply_bytes: float
    # Peers that announced before the measured time.
    filled: int
    # What was wrong, by name; nothing must be.
    errors: dict


def command(contender, options, seconds, fill=False):
    """The command line that loads `contender` for `seconds`, after every peer once if `fill`."""
    words = ["taskset", "--cpu-list", options.load_cpu, throng_program(), "load"]
    words += ["udp" if contender.test == UDP else "http", contender.address]
    words += ["--seed", SEED, "--swarms", options.swarms, "--peers", options.peers]
    words += ["--skew", options.skew, "--num-want", options.num_want]
    words += ["--threads", 1, "--duration", f"{round(seconds * 1000)}ms"]
    words += ["--pid", contender.process.pid, "--quiet", "--json"]
    if contender.test == UDP:
        words += ["--in-flight", options.in_flight]
    else:
        words += ["--connections", options.connections]
    if contender.test == CLOSE:
        words.append("--close")
    if contender.lenient:
        words.append("--lenient")
    if fill:
        words.append("--fill")
    return [str(word) for word in words]


def read(text):
    """What a run printed."""
    report = json.loads(text)
    announces = report["actions"]["announce"]
    errors = {"lost": report["lost"], "interrupted": report["interrupted"], **report["faults"]}
    # A reply that came twice because its request was repeated, or late, was paid for and is right.
    tolerated = {"lost", "late"}
    return Measured(
        replies=round(announces["per_second"] * report["seconds"]),
        seconds=report["seconds"],
        cpu_seconds=report["cpu"]["seconds"],
        load_cpu_seconds=report["own_cpu_seconds"],
        reply_bytes=report["bytes_received"] / max(1, report["total"]["replies"]),
        filled=report["fill"]["announces"] if report["fill"] else 0,
        errors={name: count for name, count in errors.items() if name not in tolerated},
    )
