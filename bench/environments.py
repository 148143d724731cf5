"""Interpreters: one that has the gateway, one that has LiteLLM, and what is known of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
Say = Callable[[str], None]

FACTS = """
import json, platform, sys, sysconfig, timeit, gateway
arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
speed = min(timeit.repeat("for i in range(1000): d[i & 63] = [i, d.get(i & 31)]; s += i & 7", "d = {}; s = 0", number=2000, repeat=5))
optimised = "--enable-optimizations" in arguments
print(json.dumps([platform.python_version(), optimised, sys.executable, speed * 1e9 / 2e6, gateway.__file__, sys.base_prefix]))
"""


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gateway-bench"


def program(name: str) -> str:
    """A program as it is found from any folder: what it serves is started elsewhere."""
    return str(Path(name).absolute()) if os.sep in name else shutil.which(name) or name


def has_gateway(python: str) -> bool:
    """Whether this interpreter can serve, from wherever it is started."""
    try:
        return subprocess.run([python, "-c", "import gateway.worker, aiohttp"], cwd="/", capture_output=True).returncode == 0
    except OSError:
        return False


def gateway_python(say: Say) -> str:
    """The running interpreter, else one of an environment with this checkout installed."""
    if has_gateway(sys.executable):
        return sys.executable
    folder = _cache() / "gateway"
    python = folder / "bin" / "python"
    base = shutil.which("python3", path="/usr/bin:/bin") or sys.executable  # the distribution's is the one users have
    say(f"{sys.executable} does not have the gateway: it is installed in {folder}")
    if not python.exists():
        subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-e", str(CHECKOUT)], check=True)
    return str(python)


def litellm_command() -> str | None:
    """The one that an earlier run has installed."""
    command = _cache() / "litellm" / "bin" / "litellm"
    return str(command) if command.exists() else None


def install_litellm(say: Say) -> str:
    """LiteLLM's proxy from PyPI in an environment of its own, unless it is there."""
    folder = _cache() / "litellm"
    if litellm_command() is None:
        say(f"installing LiteLLM in {folder}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "litellm[proxy]"], check=True)
    command = litellm_command()
    assert command is not None
    return command


def python_facts(python: str) -> str:
    """Version, whether it was built with PGO as far as it says, and how fast it is at what all programs do."""
    said = subprocess.run([python, "-c", FACTS], check=True, capture_output=True, cwd="/").stdout
    version, optimised, executable, loop_ns, package, prefix = json.loads(said)
    built = "built with PGO" if optimised else "built without --enable-optimizations, so without PGO"
    if not optimised and prefix == "/usr":
        built = "the distribution's build (Debian makes its own with PGO)"
    where = "" if Path(package).is_relative_to(CHECKOUT) else f"; NOT this checkout's gateway but {package}"
    return f"Python {version} ({executable}), {built}; {loop_ns:.0f} ns a turn of a loop{where}"
