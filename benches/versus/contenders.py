"""The servers that are compared: how each is installed, configured, started and stopped.

Each runs as a user would run it, on one CPU, with the fewest threads it can do with. Where it has
several ways to do that, each way is a contender of its own. They listen on 127.0.0.1 only.
"""

import ctypes
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILT = HERE / "target"
TRACKERS = BUILT / "trackers"
DEBIAN = BUILT / "debian"
NPM = BUILT / "npm"
AQUATIC_VERSION = "0.9.0"
# Compiled as throng's release is; without their metrics, which cost time and are off anyway.
AQUATIC_FEATURES = {
    "aquatic_udp": "mimalloc,io-uring",
    "aquatic_http": "mimalloc",
    "aquatic_ws": "mimalloc",
}
REFERENCE = "bittorrent-tracker"
REFERENCE_VERSION = "11.2.3"
RELEASE = {"CARGO_PROFILE_RELEASE_LTO": "fat", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "1"}

# Seconds for a start or a stop.
PATIENCE = 20
# No peer may expire, and nothing be swept, while it is measured.
LONG = 24 * 3600

# Swarms and peers of another seed are others; who needs to know them names the same.
SEED = 1

# A request for a connection id (BEP 15), of transaction "ping".
CONNECT = struct.pack(">QI4s", 0x41727101980, 0, b"ping")

UDP, HTTP, CLOSE, WS, IDLE = "udp", "http", "http-close", "ws", "ws-idle"


class Unavailable(Exception):
    """A contender that cannot take part here, and why."""


def build(jobs):
    """Builds throng and the programs beside this file."""
    command = ["cargo", "build", "--release", "--locked"]
    if jobs:
        command += ["--jobs", str(jobs)]
    subprocess.run(command, cwd=ROOT, check=True)
    subprocess.run(command + ["--manifest-path", str(HERE / "Cargo.toml")], cwd=ROOT, check=True)


def throng_program():
    return ROOT / "target" / "release" / "throng"


def own_program(name):
    return BUILT / "release" / name


class Contender:
    """A server: started by `start`, and then a process that can be asked what it has used."""

    name = ""
    tests = ()
    # How it is set up, for the report.
    setup = ""
    # Whether it is started as nobody, where we are root.
    unprivileged = False
    # Whether its replies have a habit that `throng load` has to be told to permit.
    lenient = False
    # Whether it replies to WebRTC answers, which is to no use and costs it something.
    replies_to_answers = False

    def __init__(self, test, options, folder):
        self.test, self.options, self.folder = test, options, folder
        self.port = free_port()
        self.process = None

    @classmethod
    def install(cls, jobs):
        """Makes its program available, or raises Unavailable."""

    def command(self):
        """Its command line, after any files it needs have been written to `self.folder`."""
        raise NotImplementedError

    def environment(self):
        return {}

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        pinned = ["taskset", "--cpu-list", str(self.options.server_cpu), *map(str, self.command())]
        self.log = self.folder / "output"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                pinned,
                cwd=self.folder,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user="nobody" if self.unprivileged and os.geteuid() == 0 else None,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if self.answers():
                return
            time.sleep(0.05)
        self.stop()
        raise Unavailable(f"{self.name} does not serve: {self.said()}")

    def answers(self):
        """Whether it serves, asked as a client would."""
        try:
            if self.test == UDP:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.settimeout(0.2)
                    client.connect(("127.0.0.1", self.port))
                    client.send(CONNECT)
                    return client.recv(64)[4:8] == CONNECT[12:]
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.2):
                return True
        except OSError:
            return False

    def said(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-5:]) or "it said nothing"

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def cpu_seconds(self):
        """User and system time of all its threads."""
        text = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        # Fields 14 and 15 of proc(5); the second, a name, may have anything in its brackets.
        user, system = text.rsplit(") ", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self):
        if not self.alive():
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Throng(Contender):
    name = "throng"
    tests = (UDP, HTTP, CLOSE, WS, IDLE)
    setup = "workers=1, room for all peers and connections, else as shipped"

    def command(self):
        settings = {
            "workers": 1,
            "udp.listen": self.address if self.test == UDP else "[]",
            "http.listen": self.address if self.test != UDP else "[]",
            "http.max_connections_per_address": 0,
            "admin.listen": [],
            "state_dir": self.folder,
            # Bounds, not reserves.
            "swarm.memory": "16GiB",
            "swarm.max_peers_per_swarm": 1_000_000,
            "log.level": "warn",
        }
        command = [throng_program(), "run"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        return command


class Aquatic(Contender):
    program = ""
    lenient = True

    @classmethod
    def install(cls, jobs):
        if (TRACKERS / "bin" / cls.program).exists():
            return
        command = ["cargo", "install", "--locked", "--root", TRACKERS]
        command += ["--target-dir", BUILT / "aquatic", f"{cls.program}@{AQUATIC_VERSION}"]
        command += ["--no-default-features", "--features", AQUATIC_FEATURES[cls.program]]
        if jobs:
            command += ["--jobs", str(jobs)]
        try:
            # Not from ROOT: its configuration is not theirs.
            subprocess.run(command, cwd=BUILT, check=True, env={**os.environ, **RELEASE})
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"{cls.program} cannot be built") from error

    def configuration(self):
        raise NotImplementedError

    def command(self):
        path = self.folder / "config.toml"
        path.write_text(self.configuration())
        return [TRACKERS / "bin" / self.program, "-c", path]


class AquaticUdp(Aquatic):
    name = "aquatic_udp"
    program = "aquatic_udp"
    tests = (UDP,)
    io_uring = "true"
    setup = "io_uring, socket_workers = 1: one thread does everything"

    def configuration(self):
        return f"""
socket_workers = 1
[network]
address = "{self.address}"
use_io_uring = {self.io_uring}
[protocol]
max_response_peers = {self.options.num_want}
[cleaning]
torrent_cleaning_interval = {LONG}
max_peer_age = {LONG}
"""


class AquaticUdpMio(AquaticUdp):
    name = "aquatic_udp_mio"
    io_uring = "false"
    setup = "mio (epoll), socket_workers = 1: one thread does everything"


class AquaticHttp(Aquatic):
    name = "aquatic_http"
    program = "aquatic_http"
    tests = (HTTP, CLOSE)
    setup = "socket_workers = 1 and swarm_workers = 1, the least it has; keep_alive by test"

    def configuration(self):
        return f"""
socket_workers = 1
swarm_workers = 1
[network]
address = "{self.address}"
keep_alive = {"true" if self.test == HTTP else "false"}
[protocol]
max_peers = {self.options.num_want}
[cleaning]
torrent_cleaning_interval = {LONG}
max_peer_age = {LONG}
max_connection_idle = {LONG}
"""


class AquaticWs(Aquatic):
    name = "aquatic_ws"
    program = "aquatic_ws"
    tests = (WS, IDLE)
    replies_to_answers = True
    setup = "socket_workers = 1 and swarm_workers = 1, the least it has"

    def configuration(self):
        return f"""
socket_workers = 1
swarm_workers = 1
[network]
address = "{self.address}"
[cleaning]
torrent_cleaning_interval = {LONG}
max_peer_age = {LONG}
connection_cleaning_interval = {LONG}
max_connection_idle = {LONG}
"""


class Reference(Contender):
    """What browsers' trackers are measured by: webtorrent's own, in JavaScript."""

    name = "bittorrent-tracker"
    tests = (WS, IDLE)
    setup = f"{REFERENCE} {REFERENCE_VERSION} of npm, in node; one thread serves"

    @classmethod
    def install(cls, jobs):
        if not shutil.which("node") or not shutil.which("npm"):
            raise Unavailable("no node or no npm")
        if (NPM / "node_modules" / REFERENCE).exists():
            return
        NPM.mkdir(parents=True, exist_ok=True)
        # Scripts of packages are not run. The native part that `ws` profits from comes compiled.
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
        command += ["--prefix", NPM, f"{REFERENCE}@{REFERENCE_VERSION}"]
        try:
            subprocess.run(command, cwd=NPM, check=True, stdout=subprocess.DEVNULL)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"{REFERENCE} cannot be fetched with npm") from error

    def command(self):
        return ["node", HERE / "reference.mjs", NPM / "node_modules", self.port]


class Opentracker(Contender):
    """Debian's build: IPv4, and it serves only what is in its whitelist."""

    name = "opentracker"
    # It closes every connection.
    tests = (UDP, CLOSE)
    # As root it would itself become nobody, and then outlive us if we are killed.
    unprivileged = True
    lenient = True
    setup = "Debian's build, every hash in its whitelist; one thread serves"
    udp_workers = 0

    @classmethod
    def program(cls):
        return shutil.which("opentracker") or DEBIAN / "usr" / "bin" / "opentracker"

    @classmethod
    def install(cls, jobs):
        if pathlib.Path(cls.program()).exists():
            return
        # Unpacked and not installed: that needs no privilege, and starts no service.
        if not shutil.which("apt-get"):
            raise Unavailable("no opentracker, and no apt-get to fetch it with")
        DEBIAN.mkdir(parents=True, exist_ok=True)
        try:
            packages = ["opentracker", "libowfat0"]
            subprocess.run(["apt-get", "download", "-qq", *packages], cwd=DEBIAN, check=True)
            for package in DEBIAN.glob("*.deb"):
                subprocess.run(["dpkg-deb", "--extract", package, DEBIAN], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable("opentracker cannot be fetched with apt-get download") from error

    def environment(self):
        libraries = sorted({str(path.parent) for path in DEBIAN.rglob("libowfat.so*")})
        return {"LD_LIBRARY_PATH": ":".join(libraries)} if libraries else {}

    def command(self):
        whitelist = self.folder / "whitelist"
        hashes = subprocess.run(
            [own_program("hashes"), "--seed", str(SEED), "--swarms", str(self.options.swarms)],
            check=True,
            stdout=subprocess.PIPE,
        )
        whitelist.write_bytes(hashes.stdout)
        self.some_hash = bytes.fromhex(hashes.stdout.split(None, 1)[0].decode())
        # It must be able to read there as nobody.
        self.folder.chmod(0o755)
        path = self.folder / "opentracker.conf"
        lines = [
            f"listen.udp.workers {self.udp_workers}",
            f"listen.tcp_udp {self.address}",
            f"access.whitelist {whitelist}",
        ]
        path.write_text("\n".join(lines) + "\n")
        return [self.program(), "-f", path]

    def answers(self):
        """Its list is read while it serves already: until then it refuses every hash. It refuses
        nobody who leaves, so a peer has to come and go."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(0.2)
                client.connect(("127.0.0.1", self.port))
                client.send(CONNECT)
                connection_id = client.recv(64)[8:16]
                started, stopped = 2, 3
                return all(
                    self.accepts(client, connection_id, event) for event in (started, stopped)
                )
        except OSError:
            return False

    def accepts(self, client, connection_id, event):
        """Whether an announce is answered with more than the 8 bytes of a refusal."""
        announce, none, one = 1, 0, 1
        client.send(
            struct.pack(
                ">8sI4s20s20sQQQIIIiH",
                connection_id, announce, b"list", self.some_hash, b"-TH0001-is-it-there?",
                none, one, none, event, none, none, one, 30_000,
            )
        )
        return len(client.recv(2_048)) >= 20


class OpentrackerWorker(Opentracker):
    name = "opentracker_worker"
    tests = (UDP,)
    setup = "Debian's build, every hash in its whitelist; listen.udp.workers 1"
    udp_workers = 1


class Echo(Contender):
    """Answers every announce with one fixed reply: the cost of the packets alone."""

    name = "bare_echo"
    tests = (UDP, HTTP, CLOSE)
    setup = "one thread, one fixed reply of the mean size of throng's"
    # Bytes of its replies; set before it starts.
    reply_bytes = 200

    def command(self):
        form = {UDP: ["udp"], HTTP: ["http"], CLOSE: ["http", "--close"]}[self.test]
        size = ["--port", self.port, "--bytes", self.reply_bytes]
        return [own_program("echo"), *form, *size]


ALL = [
    Throng,
    AquaticUdp,
    AquaticUdpMio,
    AquaticHttp,
    AquaticWs,
    Reference,
    Opentracker,
    OpentrackerWorker,
    Echo,
]


def die_with_parent():
    """Between fork and exec: if this script is killed, so is the child."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def free_port():
    """A port that is free over UDP and TCP."""
    for _ in range(100):
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise OSError("no free port")
