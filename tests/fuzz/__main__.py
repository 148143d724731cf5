"""Fuzz the targets: `python -m tests.fuzz [--seconds N] [--target T]... [--jobs N] [--keep]`.

A find is written into the target's corpus folder, named by what it was and by its bytes, and fails the run.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha1
from importlib.util import find_spec
from pathlib import Path

try:
    from .kept import CORPUS, write_seeds
    from .table import TARGETS
    from .target import Target
except ModuleNotFoundError as error:
    if (error.name or "").startswith(("gateway", "tests")):
        raise
    raise SystemExit(f"{error.name} is not installed. The targets need the extras `test` and `fuzz`: pip install '.[test,fuzz]'") from None

ROOT = Path(__file__).parent.parent.parent
INPUT_TIMEOUT_S = 60  # milliseconds, or a second of those that grow; the machine may be ten times slower than it should
MEMORY_MB_MAX = 1_024  # the process takes about 100
SHORTER = 3  # for growth there are few things to try: its targets have a third of the time
STARTING_S = 300  # for reading the corpus and for libFuzzer's own end, beyond the seconds asked for
NO_ATHERIS = (
    f"atheris is not installed for this Python ({sys.version.split()[0]}). It is the extra `fuzz`: pip install '.[test,fuzz]'. "
    "It has wheels for some versions of CPython only; use one of those: the fuzzer must run in CI, so this fails."
)
_STATE = re.compile(r"cov: (\d+) ft: (\d+)")
_EXECUTED = re.compile(r"stat::number_of_executed_units: *(\d+)")
_KEPT_BY_LIBFUZZER = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Run:
    """What one run of a target gave."""

    executions: int
    edges: int
    features: int
    finds: tuple[Path, ...]
    said: str  # the end of libFuzzer's output, when it found something
    failed: bool


def main() -> int:
    """0 when nothing was found, 1 when something was, 2 without atheris."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz every reader of foreign bytes.")
    parser.add_argument("--seconds", type=int, default=15, help="for each target (15)")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; may be given again")
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time (1)")
    parser.add_argument("--seed", type=int, default=1, help="of what is tried, in its order (1); 0: another each time")
    parser.add_argument("--keep", action="store_true", help="put what reached new code into the corpus, minimised")
    asked = parser.parse_args()
    if find_spec("atheris") is None:
        print(NO_ATHERIS, file=sys.stderr)
        return 2
    targets = [TARGETS[name] for name in asked.target or TARGETS]
    failed = False
    with ThreadPoolExecutor(asked.jobs) as jobs:
        runs = jobs.map(
            lambda target: fuzz(target, asked.seconds // (SHORTER if target.is_growth else 1) or 1, asked.seed, keep=asked.keep), targets
        )
        for target, run in zip(targets, runs, strict=True):
            numbers = f"{run.executions:9,} runs {run.edges:5} edges {run.features:6} features {len(run.finds)} finds"
            print(f"{target.name:24} {numbers}", flush=True)
            if run.failed:
                failed = True
                print(run.said, *(f"kept as {find.relative_to(ROOT)}" for find in run.finds), sep="\n", flush=True)
    return 1 if failed else 0


def fuzz(target: Target, seconds: int, seed: int, *, keep: bool = False) -> Run:
    """Run libFuzzer on one target in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        new, seeds, artifacts, corpus = (Path(folder, "new"), Path(folder, "seeds"), Path(folder, "found"), CORPUS / target.name)
        for each in (new, seeds, artifacts, corpus):
            each.mkdir(parents=True, exist_ok=True)
        write_seeds(target, seeds)
        folders = [str(new), str(corpus), str(seeds)]
        bounds = [
            f"-seed={seed}",
            f"-max_len={target.input_bytes_max}",
            f"-timeout={INPUT_TIMEOUT_S}",
            f"-rss_limit_mb={MEMORY_MB_MAX}",
            "-report_slow_units=3600",
        ]
        code, said = _libfuzzer(target, [*bounds, f"-max_total_time={seconds}", f"-artifact_prefix={artifacts}/", *folders], seconds)
        finds = tuple(_keep_find(path, corpus) for path in sorted(artifacts.iterdir()))
        if keep and not code:
            _minimise(target, bounds, new, corpus, seeds)
    states, executed = _STATE.findall(said), _EXECUTED.findall(said)
    edges, features = map(int, states[-1]) if states else (0, 0)
    return Run(int(executed[-1]) if executed else 0, edges, features, finds, _end_of(said), failed=bool(code or finds or not states))


def _libfuzzer(target: Target, arguments: list[str], seconds: int) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.fuzz.child", target.name, "-print_final_stats=1", *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds + STARTING_S, check=False
        )
    except subprocess.TimeoutExpired as late:
        return 1, f"{(late.stdout or b'').decode(errors='replace')}\nlibFuzzer itself did not end in time"
    return done.returncode, done.stdout.decode(errors="replace")


def _keep_find(artifact: Path, corpus: Path) -> Path:
    """Into the corpus, under a name that is the same whoever finds it: crash-, timeout-, oom- and a digest of its bytes."""
    kind = artifact.name.partition("-")[0]
    kept = corpus / f"{kind}-{sha1(artifact.read_bytes()).hexdigest()[:12]}"
    shutil.copyfile(artifact, kept)
    return kept


def _minimise(target: Target, bounds: list[str], new: Path, corpus: Path, seeds: Path) -> None:
    """What is named by hand stays; of the rest, the few that reach what these and the seeds do not."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        named = Path(folder, "named")
        merged = Path(folder, "merged")
        shutil.copytree(seeds, merged)
        named.mkdir()
        for path in corpus.iterdir():
            if not _KEPT_BY_LIBFUZZER.fullmatch(path.name):
                shutil.copyfile(path, merged / path.name)
        given = {path.name for path in merged.iterdir()}
        code, said = _libfuzzer(target, [*bounds, "-merge=1", str(merged), str(corpus), str(new)], STARTING_S)
        if code:
            raise RuntimeError(f"{target.name} could not be minimised\n{_end_of(said)}")
        for path in corpus.iterdir():
            if _KEPT_BY_LIBFUZZER.fullmatch(path.name):
                path.unlink()
        for path in merged.iterdir():
            if path.name not in given:
                shutil.copyfile(path, corpus / path.name)


def _end_of(said: str) -> str:
    """The part that tells what was broken, and where."""
    lines = [line for line in said.splitlines() if not line.startswith(("#", "stat::", "NEW_FUNC", "INFO: ", '"'))]
    return "\n".join(lines[-60:])


if __name__ == "__main__":
    sys.exit(main())
