"""A configuration folder to write into, called `config` as users call it, and a shipped one beside it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.config.files import read_bytes
from gateway.config.load import Loaded, load
from gateway.config.problems import Problem
from gateway.config.settings import Purpose

GATEWAY = """\
accounts:
  openai:
    api_key: sk-upstream
"""
TIERS = """\
start: tier-1
tiers:
  tier-1: {}
  tier-2: {spent_usd: "50", days: 7}
default_limits:
  tier-1: {rpm: 500}
"""
CARD = """\
model: gpt-4o
snapshots: [gpt-4o-2024-08-06]
prices:
  - effective_from: 2024-10-02
    source: a test
    usd_per_million_tokens: {text: {input: "2.50", cached: "1.25", output: "10.00"}}
limits:
  tier-1: {rpm: 500, tpm: 30000}
"""
TEAM = """\
team: voice
tier: tier-1
models: [gpt-4o]
"""


@dataclass
class Folder:
    """Files of one configuration; `reads` are the paths the loader opened."""

    root: Path = Path("config")
    env: Mapping[str, str] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def _read(self, path: Path) -> bytes:
        self.reads.append(str(path))
        return read_bytes(path)

    def load(self, previous: Loaded | None = None, purpose: Purpose = "check") -> Loaded | list[Problem]:
        self.reads.clear()
        return load(self.root, self.env, previous, purpose=purpose, shipped=Path("shipped"), read=self._read)

    def good(self, previous: Loaded | None = None, purpose: Purpose = "check") -> Loaded:
        loaded = self.load(previous, purpose)
        assert isinstance(loaded, Loaded), "\n".join(problem.text() for problem in loaded)
        return loaded

    def texts(self, purpose: Purpose = "check") -> list[str]:
        loaded = self.load(purpose=purpose)
        return [problem.text() for problem in (loaded.warnings if isinstance(loaded, Loaded) else loaded)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A small configuration that loads without a word."""
    monkeypatch.chdir(tmp_path)
    Path("shipped").mkdir()
    folder = Folder()
    for name, text in (("gateway.yaml", GATEWAY), ("tiers.yaml", TIERS), ("models/gpt-4o.yaml", CARD), ("teams/voice.yaml", TEAM)):
        folder.write(name, text)
    return folder


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """Certificates and keys, by what they are."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("pem")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    for name in ("ours", "other"):
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=x"),
            *("-keyout", f"{name}.key", "-out", f"{name}.crt"),
        )
    openssl("pkcs8", "-topk8", "-in", "ours.key", "-out", "locked.key", "-passout", "pass:word")
    openssl("req", "-x509", "-newkey", "rsa:512", "-nodes", "-subj", "/CN=x", "-keyout", "weak.key", "-out", "weak.crt")
    (folder / "ca.cnf").write_text("[ca]\ndefault_ca = us\n[us]\ndatabase = index\ndefault_md = sha256\ndefault_crl_days = 2\n")
    (folder / "index").touch()
    openssl("ca", "-gencrl", "-config", "ca.cnf", "-keyfile", "ours.key", "-cert", "ours.crt", "-out", "revoked.crl")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    cut = files["ours.crt"][:300]
    return files | {"whole and half.crt": files["ours.crt"] + cut, "half.crt": cut, "both.pem": files["ours.crt"] + files["ours.key"]}
