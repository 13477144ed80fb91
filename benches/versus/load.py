"""The load generator, `throng load`: how it is called and how its report is read. Nothing else
here knows its options or its JSON."""

import dataclasses
import json

from contenders import CLOSE, IDLE, SEED, UDP, WS, throng_program

IDLE_PEERS_PER_SWARM = 10


@dataclasses.dataclass
class Measured:
    """What came of one run."""

    # Right replies in the measured time; in the test of WebSockets, offers that reached a peer.
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
    # Requests without a reply, and answers that did not reach the offerer.
    lost: int
    # What was wrong, by name; nothing must be.
    errors: dict
    # Growth of the server's resident memory for each connection (WebSocket).
    bytes_per_connection: float | None


def command(contender, options, seconds, fill=False):
    """The command line that loads `contender` for `seconds`, after every peer once if `fill`."""
    words = ["taskset", "--cpu-list", options.load_cpu, throng_program(), "load"]
    words += [{UDP: "udp", WS: "ws", IDLE: "ws"}.get(contender.test, "http"), contender.address]
    words += ["--seed", SEED, "--threads", 1, "--duration", f"{round(seconds * 1000)}ms"]
    words += ["--pid", contender.process.pid, "--quiet", "--json"]
    if contender.lenient:
        words.append("--lenient")
    if contender.test in (WS, IDLE):
        words += webtorrent(contender, options)
        return [str(word) for word in words]
    words += ["--swarms", options.swarms, "--peers", options.peers]
    words += ["--skew", options.skew, "--num-want", options.num_want]
    if contender.test == UDP:
        words += ["--in-flight", options.in_flight]
    else:
        words += ["--connections", options.connections]
    if contender.test == CLOSE:
        words.append("--close")
    if fill:
        words.append("--fill")
    return [str(word) for word in words]


def webtorrent(contender, options):
    """What the tests of WebSockets have of their own; every connection joins before."""
    # With thousands of announces under way each of them takes a while.
    words = ["--timeout", "30s"]
    if contender.test == IDLE:
        # One torrent each, in swarms that are alike.
        swarms = max(1, options.idle_connections // IDLE_PEERS_PER_SWARM)
        words += ["--idle", "--connections", options.idle_connections]
        return words + ["--swarms", swarms, "--skew", 1]
    if contender.replies_to_answers:
        words.append("--answers-replied")
    words += ["--connections", options.web_connections, "--swarms", options.web_swarms]
    return words + ["--skew", options.skew, "--offers", options.offers]


def read(text):
    """What a run printed."""
    report = json.loads(text)
    # None of them where nothing was asked.
    announces = report["actions"].get("announce", {"per_second": 0})
    relay = report["relay"]
    counted = relay["offers"] if relay else announces
    errors = {"interrupted": report["interrupted"], **report["faults"]}
    # A reply that came twice because its request was repeated, or late, was paid for and is right.
    # An answer that a server had no room to wait for is among the lost ones.
    tolerated = {"late", "answer_refused"}
    return Measured(
        replies=round(counted["per_second"] * report["seconds"]),
        seconds=report["seconds"],
        cpu_seconds=report["cpu"]["seconds"],
        load_cpu_seconds=report["own_cpu_seconds"],
        reply_bytes=report["bytes_received"] / max(1, report["total"]["replies"]),
        filled=report["fill"]["announces"] if report["fill"] else 0,
        lost=report["lost"],
        errors={name: count for name, count in errors.items() if name not in tolerated},
        bytes_per_connection=relay and relay["bytes_per_connection"],
    )
