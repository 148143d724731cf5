"""Running commands: in this process where only the output matters, as users do where processes matter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import pytest
from typer.testing import CliRunner

from gateway.cli.app import app

TIMEOUT_S = 120  # of any process that a test starts
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "GATEWAY_"))}


class Started:
    """A command that runs beside the test."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen

    def line(self, beginning: str, stream: str = "stdout") -> str:
        """The next line of its output that begins so. The test fails when the output ends before."""
        source: IO[str] = getattr(self.popen, stream)
        seen = []
        for line in source:
            seen.append(line)
            if line.startswith(beginning):
                return line.rstrip("\n")
        raise AssertionError(f"no line begins with {beginning!r}: {seen}")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal; exit status, and the rest of stdout and stderr."""
        self.popen.send_signal(number)
        out, err = self.popen.communicate(timeout=TIMEOUT_S)
        return self.popen.returncode, out, err


Call = Callable[..., Any]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., Started]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder of a user who has set nothing. Afterwards nothing may be left of it in the process table or the temp folder."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - ENVIRONMENT.keys():
        monkeypatch.delenv(name)
    with TemporaryDirectory(prefix="gw-") as temporary:  # short, since Unix sockets are made in it
        monkeypatch.setenv("TMPDIR", temporary)
        yield tmp_path
        assert processes_in(tmp_path) + processes_in(Path(temporary)) == []
        assert list(Path(temporary).glob("gateway-demo-*")) == []


@pytest.fixture
def call(home: Path) -> Call:
    """A command in this process: an object with exit_code, stdout and stderr."""
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """A command as a process of its own; it is ended when the test has not."""
    started: list[Started] = []

    def start(*arguments: str, **environment: str) -> Started:
        popen = subprocess.Popen(
            [sys.executable, "-m", "gateway", *arguments],
            cwd=home,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(Started(popen))
        return started[-1]

    yield start
    for one in started:
        if one.popen.poll() is None:
            one.end()


@pytest.fixture
def run(start: Start) -> Run:
    """A command as a process of its own, waited for."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        popen = start(*arguments, **environment).popen
        out, err = popen.communicate(timeout=TIMEOUT_S)
        return subprocess.CompletedProcess(popen.args, popen.returncode, out, err)

    return run


def processes_in(folder: Path) -> list[str]:
    """Command lines of the other processes that work below this folder or name it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            works_in = os.readlink(process / "cwd")
        except OSError:  # it has ended, or is somebody else's
            continue
        if int(process.name) != os.getpid() and line and str(folder) in f"{line} {works_in}":
            found.append(line)
    return found
