"""A kernel that refuses the n-th call of a kind that threads of one name make, and no other.

The program runs under a seccomp filter that hands calls of the one kind to this script
(seccomp_unotify(2)), which counts them by thread and lets each of them pass or fail. strace can
make calls fail, too, but counts the calls of each thread for itself and cannot be told to spare
one: what the main thread tries first at the start would fail before any worker exists.
"""

import collections
import ctypes
import errno
import fcntl
import functools
import os
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time

PR_SET_NO_NEW_PRIVS = 38
# With the last, nothing but the end of a thread disturbs it while it waits (Linux 5.19): else it
# would ask anew, and be counted twice.
SET_MODE_FILTER, NEW_LISTENER, WAIT_KILLABLE = 1, 1 << 3, 1 << 5
ALLOW, USER_NOTIF = 0x7FFF_0000, 0x7FC0_0000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
# _IOWR('!', 0, struct seccomp_notif), _IOWR('!', 1, struct seccomp_notif_resp).
RECEIVE, ANSWER = 0xC050_2100, 0xC018_2101
NOTICE_BYTES = 80
GO_ON = 1
POLL_MILLIS = 100
LAUNCH_SECONDS = 10
MAIN, UNNAMED = "main", "unnamed"

libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def number_of(call):
    """The number of that system call on this machine, from the C library's headers."""
    text = f"#include <sys/syscall.h>\nSYS_{call}\n"
    out = subprocess.run(["cc", "-E", "-P", "-"], input=text, stdout=subprocess.PIPE, text=True,
                         check=True).stdout
    return int(out.split()[-1])


def checked(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def syscall(number, *arguments):
    words = [ctypes.c_ulong(word) if isinstance(word, int) else word for word in arguments]
    return checked(libc.syscall(ctypes.c_long(number), *words))


def launch(words):
    """SECCOMP CALL PROGRAM ...: becomes PROGRAM, whose calls of the number CALL are watched."""
    seccomp, call = int(words[0]), int(words[1])
    code = b"".join([
        struct.pack("HBBI", LOAD_WORD, 0, 0, 0),
        struct.pack("HBBI", JUMP_IF_EQUAL, 0, 1, call),
        struct.pack("HBBI", RETURN, 0, 0, USER_NOTIF),
        struct.pack("HBBI", RETURN, 0, 0, ALLOW),
    ])
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(held))
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    syscall(seccomp, SET_MODE_FILTER, NEW_LISTENER | WAIT_KILLABLE, program)
    # Until whoever watches has taken the listener, which ends with this program.
    os.kill(os.getpid(), signal.SIGSTOP)
    os.execv(words[2], words[2:])


def launcher(call, command):
    """The command that runs `command` with calls of the kind `call` watched."""
    numbers = [str(number_of("seccomp")), str(number_of(call))]
    return [sys.executable, "-B", os.path.abspath(__file__), *numbers, *command]


class Watch:
    """Counts the calls of a process that was started by a `launcher`, and fails one of them.

    `name` is that of the threads whose call fails, `number` which of theirs it is, from 1. A name's
    own number is written N; the first thread is `main`, those without a name are `unnamed`.
    """

    def __init__(self, pid, program, name=None, number=0, error="EIO"):
        self.pid, self.program = pid, os.path.realpath(program)
        self.wanted, self.code = (name, number), getattr(errno, error)
        self.calls = collections.Counter()
        self.refused = False
        self.failure = None
        self.begun = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def end(self):
        """Waits for the last call; the process has ended."""
        self.thread.join()
        if self.failure:
            raise self.failure

    def _run(self):
        try:
            listener = self._take_listener()
            try:
                self._serve(listener)
            finally:
                os.close(listener)
        except (OSError, subprocess.CalledProcessError) as failure:
            self.failure = failure

    def _take_listener(self):
        folder = f"/proc/{self.pid}/fd"
        deadline = time.monotonic() + LAUNCH_SECONDS
        while time.monotonic() < deadline:
            for fd in os.listdir(folder):
                try:
                    target = os.readlink(f"{folder}/{fd}")
                except FileNotFoundError:
                    continue
                if "seccomp" in target:
                    pidfd = os.pidfd_open(self.pid)
                    taken = syscall(number_of("pidfd_getfd"), pidfd, int(fd), 0)
                    os.close(pidfd)
                    return taken
            time.sleep(0.01)
        raise TimeoutError("the launcher has no listener")

    def _serve(self, listener):
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while True:
            ready = poll.poll(POLL_MILLIS)
            if not self.begun:
                self._wake()
            for _, events in ready:
                if events & select.POLLIN:
                    self._answer(listener)
                elif events & (select.POLLHUP | select.POLLERR):
                    return

    def _wake(self):
        """Lets the launcher go on once it has stopped."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
            if file.read().rpartition(") ")[2].startswith("T"):
                os.kill(self.pid, signal.SIGCONT)
                self.begun = True

    def _answer(self, listener):
        notice = bytearray(NOTICE_BYTES)
        try:
            fcntl.ioctl(listener, RECEIVE, notice)
        except OSError as failure:
            # The thread ended, or was interrupted and asks anew.
            if failure.errno in (errno.ENOENT, errno.EINTR):
                return
            raise
        identity, thread = struct.unpack_from("QI", notice)
        refuse = self._counts_as_wanted(thread)
        code, flags = (-self.code, 0) if refuse else (0, GO_ON)
        try:
            fcntl.ioctl(listener, ANSWER, struct.pack("QqiI", identity, 0, code, flags))
        except OSError as failure:
            if failure.errno not in (errno.ENOENT, errno.EINTR):
                raise
            return
        self.refused |= refuse

    def _counts_as_wanted(self, thread):
        try:
            # The launcher's own calls are none of the program's.
            if thread == self.pid and os.readlink(f"/proc/{thread}/exe") != self.program:
                return False
            with open(f"/proc/{self.pid}/task/{thread}/comm", encoding="ascii",
                      errors="replace") as file:
                name = file.read().strip()
        except OSError:
            return False
        if thread == self.pid:
            name = MAIN
        elif name == os.path.basename(self.program):
            name = UNNAMED
        else:
            name = re.sub(r"\d+$", "N", name)
        self.calls[name] += 1
        return (name, self.calls[name]) == self.wanted


if __name__ == "__main__":
    launch(sys.argv[1:])
