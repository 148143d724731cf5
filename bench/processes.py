"""Processes that are started, watched and ended, and what the kernel says they used."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
STOP_TIMEOUT_S = 30.0
IDLE_FOR_S = 0.2  # no tick of CPU for so long: nothing is left to do
IDLE_TIMEOUT_S = 10.0


class StartError(Exception):
    """Why a process did not come up; a sentence with the end of what it said."""


class Process:
    """A child with its output in files below `folder`."""

    def __init__(self, folder: Path, name: str, argv: list[str], env: Mapping[str, str] | None = None) -> None:
        self.name, self.out, self.log = name, folder / f"{name}.out", folder / f"{name}.log"
        with self.out.open("wb") as out, self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                argv, env={**os.environ, **(env or {})}, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=log,
                start_new_session=True,  # Ctrl-C ends the bench, which ends the rest in order
            )  # fmt: skip
        self.pid = self.popen.pid

    def first_line(self, timeout_s: float = 60.0) -> str:
        """The first line it prints. Raises StartError when there is none."""
        self._until(lambda: "\n" in self.out.read_text(), timeout_s, "printed nothing")
        return self.out.read_text().splitlines()[0]

    def listens(self, port: int, timeout_s: float = 60.0) -> None:
        """Wait until it takes connections. Raises StartError when it does not."""
        self._until(lambda: _connects(port), timeout_s, f"does not listen on port {port}")

    def _until(self, question: Callable[[], bool], timeout_s: float, what: str) -> None:
        end_s = time.monotonic() + timeout_s
        while not question():
            if self.popen.poll() is not None:
                raise StartError(f"{self.name} ended with status {self.popen.returncode}: {self._last_words()}")
            if time.monotonic() > end_s:
                raise StartError(f"{self.name} {what} within {timeout_s:.0f} s: {self._last_words()}")
            time.sleep(0.02)

    def _last_words(self) -> str:
        return (self.log.read_text(errors="replace") or self.out.read_text(errors="replace"))[-800:].strip()

    def stop(self) -> None:
        """SIGTERM; what does not end is killed, with the rest of its session, which holds nobody else."""
        self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.popen.wait()


@contextmanager
def running(folder: Path, name: str, argv: list[str], env: Mapping[str, str] | None = None) -> Iterator[Process]:
    """A process that ends with the block."""
    with ExitStack() as stack:
        process = Process(folder, name, argv, env)
        stack.callback(process.stop)
        yield process


def free_port() -> int:
    """A port that nobody had a moment ago, for programs that cannot be given port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _connects(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def runs_module(pid: int, module: str) -> bool:
    """Whether this is `python -m module`."""
    return module in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")


def cpu_us(pids: Iterable[int]) -> int:
    """CPU time, user and system, since the processes began."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) * TICK_US
    return total


def pss_kib(pids: Iterable[int]) -> int:
    """Memory, what is shared counted in shares."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def wait_idle(pids: Iterable[int]) -> None:
    """Until these processes use no CPU: what they had to do behind a measurement belongs to it. Gives up after 10 s."""
    watched = tuple(pids)
    end_s, spent, since_s = time.monotonic() + IDLE_TIMEOUT_S, cpu_us(watched), time.monotonic()
    while watched and time.monotonic() < end_s and time.monotonic() - since_s < IDLE_FOR_S:
        time.sleep(0.05)
        now = cpu_us(watched)
        if now != spent:
            spent, since_s = now, time.monotonic()


def line_of(pipe_fd: int, timeout_s: float) -> str:
    """A line from a pipe, or what there is when the time is over."""
    text, end_s = b"", time.monotonic() + timeout_s
    while b"\n" not in text and select.select([pipe_fd], [], [], max(0.0, end_s - time.monotonic()))[0]:
        more = os.read(pipe_fd, 65_536)
        if not more:
            break
        text += more
    return text.decode()
