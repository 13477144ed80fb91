"""Processes that do not outlive the script that started them, and ports that nobody uses.

Every process is the leader of its own process group and is ended by that group's id, so that
nothing else on the machine can be hit.
"""

import os
import signal
import socket
import subprocess
import sys
import time


class Failure(Exception):
    """What did not hold; its text is for the reader of the log."""


def environment():
    """The caller's environment without proxies: they would send loopback requests elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith("THRONG__")
    }


class Child:
    """One process; its output goes to `NAME.stdout` and `NAME.stderr` in the folder."""

    def __init__(self, folder, name, command):
        self.name = name
        self.paths = [os.path.join(folder, f"{name}.{stream}") for stream in ("stdout", "stderr")]
        with open(self.paths[0], "wb") as stdout, open(self.paths[1], "wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=environment(),
                cwd=folder,
                preexec_fn=os.setsid,
            )

    def stdout(self):
        return self._read(self.paths[0])

    def stderr(self):
        return self._read(self.paths[1])

    @staticmethod
    def _read(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def running(self):
        return self.process.poll() is None

    def wait(self, seconds):
        """The exit code (negative: the signal that ended it), or a failure after `seconds`."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} still runs after {seconds} s") from None

    def end(self, how, seconds):
        """Sends the signal `how` to the process itself and waits for the exit code."""
        if self.running():
            self.process.send_signal(how)
        return self.wait(seconds)

    def kill(self):
        """Ends the whole group, whatever its state."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def tail(self):
        """The last lines it wrote, for messages."""
        lines = []
        for stream, text in (("stdout", self.stdout()), ("stderr", self.stderr())):
            lines += [f"    {self.name} {stream}: {line}" for line in text.splitlines()[-15:]]
        return "\n".join(lines)


class Children:
    """All processes of one script, within a time limit.

    Leaving the block kills what is left; leaving it by a failure also shows what they wrote.
    """

    def __init__(self, folder, limit_seconds):
        self.folder = folder
        self.limit_seconds = limit_seconds
        self.started = []

    def __enter__(self):
        def stop(number, _frame):
            name = signal.Signals(number).name
            reason = f"not done after {self.limit_seconds} s" if name == "SIGALRM" else name
            raise Failure(reason)

        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        signal.alarm(self.limit_seconds)
        return self

    def __exit__(self, kind, _failure, _trace):
        signal.alarm(0)
        if kind is not None:
            for tail in filter(None, [child.tail() for child in self.started]):
                print(tail, file=sys.stderr)
        for child in reversed(self.started):
            child.kill()

    def start(self, name, command):
        child = Child(self.folder, name, command)
        self.started.append(child)
        return child

    def run(self, name, command, seconds):
        """Starts `command` and waits for its end; returns the child and its exit code."""
        child = self.start(name, command)
        return child, child.wait(seconds)


def until(what, condition, seconds, children=()):
    """Polls `condition` until it returns something true, and returns that.

    `what` completes "waiting for ...". Fails after `seconds`, or at once when one of `children`
    has ended.
    """
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        for child in children:
            if not child.running():
                code = child.process.returncode
                raise Failure(f"waiting for {what}: {child.name} ended with {code}")
        if time.monotonic() > deadline:
            raise Failure(f"waiting for {what}: not within {seconds} s")
        time.sleep(0.05)


def free_ports(count):
    """Ports of 127.0.0.1 that are free for TCP and UDP, all different.

    They lie below the range from which the kernel gives ports to outgoing connections, so that
    none of ours takes one of them before it is bound.
    """
    ports, candidate = [], 20_000 + os.getpid() % 10_000
    while len(ports) < count:
        candidate += 1
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind(("127.0.0.1", candidate))
            ports.append(candidate)
        except OSError:
            if candidate > 31_000:
                raise Failure("no free ports") from None
    return ports


def expect(condition, message):
    """Fails with `message` unless `condition`."""
    if not condition:
        raise Failure(message)


def main(script, body):
    """Runs `body` and turns a failure into exit code 1 and its text."""
    try:
        body()
    except Failure as failure:
        print(f"{script}: FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"{script}: ok")
