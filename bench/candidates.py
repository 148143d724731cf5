"""Who takes part: how each is configured, started and told apart from what works beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from processes import StartError, descendants, free_port, running, runs_module

TOOLS = Path(__file__).resolve().parent / "tools"
KEY = "sk-tenant-0"
TEAMS, TEAMS_MANY = 10, 10_000
LUA_PARTS = (
    "/usr/lib/nginx/modules/ndk_http_module.so", "/usr/lib/nginx/modules/ngx_http_lua_module.so", "/usr/share/lua/5.1/nginx/redis.lua",
    "/usr/share/lua/5.1/resty/core.lua",
)  # fmt: skip


def team_keys(teams: int) -> list[str]:
    """Keys of one length. The first thousand numbers are those the Lua peer knows."""
    first = 0 if teams <= TEAMS else 10_000
    return [f"sk-tenant-{first + number}" for number in range(teams)]


@dataclass(frozen=True)
class Upstream:
    """The stub's address, with TLS or without."""

    port: int
    ca_file: Path | None = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self.ca_file else f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Candidate:
    """Something calls can be sent to, and whose CPU to count."""

    name: str
    port: int
    keys: Path  # one team's key a line
    worker: Callable[[], Sequence[int]]  # pids of what carries calls
    beside: Callable[[], Sequence[int]] = tuple  # pids of what works for it elsewhere: books, Redis
    heavy: bool = False  # a hundred times slower: it gets fewer connections and streams, and no growth


@dataclass(frozen=True)
class Setting:
    """Where candidates are started."""

    upstream: Upstream
    stub_port: int  # the upstream's plain port
    pythons: Sequence[str]  # interpreters that have the gateway; the first one counts
    litellm: str | None  # its command


def keys_file(folder: Path, teams: int) -> Path:
    path = folder / f"keys-{teams}"
    path.write_text("".join(f"{key}\n" for key in team_keys(teams)))
    return path


def configure(folder: Path, upstream: Upstream | None = None, teams: int = 1) -> Path:
    """A configuration folder of the gateway: teams with one key and three limits each, which are wide enough."""
    config = folder / "config"
    (config / "teams").mkdir(parents=True)
    account = {"base_url": f"{upstream.url if upstream else 'http://127.0.0.1:9'}/v1", "api_key": "sk-upstream", "connections_max": 4_096}
    if upstream and upstream.ca_file:
        account["ca_file"] = str(upstream.ca_file)
    (config / "gateway.yaml").write_text(
        json.dumps(
            {
                "proxy": {"listen": "127.0.0.1:0"}, "admin": {"listen": "127.0.0.1:0"}, "accounts": {"openai": account},
                "journal": {"folder": f"{folder}/journal"}, "ledger": f"sqlite:{folder}/ledger.db",
            }
        )
    )  # fmt: skip
    for number, key in enumerate(team_keys(teams)):
        team = {
            "team": f"bench-{number}", "tier": "tier-5", "models": ["*"],
            "keys": [{"id": f"bench-{number}", "hash": f"sha256:{sha256(key.encode()).hexdigest()}"}],
            "limits": {"gpt-4o-mini": {"rpm": 25_000_000, "rpd": 25_000_000, "tpm": 30_000_000_000}},
        }  # fmt: skip
        (config / "teams" / f"bench-{number}.yaml").write_text(json.dumps(team))
    return config


@contextmanager
def gateway(setting: Setting, folder: Path, *, python: str = "", name: str = "gateway", teams: int = TEAMS) -> Iterator[Candidate]:
    """The gateway as users start it."""
    config = configure(folder, setting.upstream, teams)
    argv = [python or setting.pythons[0], "-m", "gateway", "serve", "--config", str(config)]
    with running(folder, "gateway", argv) as process:
        said = process.first_line(180)
        if not said.startswith("gateway: ready on http://127.0.0.1:"):
            raise StartError(f"the gateway said {said!r}")
        port = int(said.split()[3].rpartition(":")[2])

        def role(module: str) -> Callable[[], Sequence[int]]:
            """A role with what works below it: a worker's journal is synced by a process of its own."""
            return lambda: [below for pid in descendants(process.pid) if runs_module(pid, module) for below in descendants(pid)]

        yield Candidate(name, port, keys_file(folder, teams), role("gateway.worker"), role("gateway.books"))


@contextmanager
def direct(setting: Setting, folder: Path) -> Iterator[Candidate]:
    """Nothing in between. The load generator speaks no TLS, so this is always the plain port."""
    yield Candidate("direct", setting.stub_port, keys_file(folder, TEAMS), tuple)


def _nginx(setting: Setting, folder: Path, template: str) -> tuple[list[str], int]:
    upstream, port = setting.upstream, free_port()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (folder / "temporary_paths.conf").write_text("".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds))
    verify = f"proxy_ssl_verify on; proxy_ssl_trusted_certificate {upstream.ca_file}; proxy_ssl_name localhost; proxy_ssl_server_name on;\n"
    (folder / "upstream_tls.conf").write_text(verify if upstream.ca_file else "")
    text = (TOOLS / template).read_text()
    for name, value in {"PORT": port, "UPSTREAM_PORT": upstream.port, "SCHEME": "https" if upstream.ca_file else "http"}.items():
        text = text.replace(f"@{name}@", str(value))
    (folder / "nginx.conf").write_text(text)
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"], port


@contextmanager
def nginx_plain(setting: Setting, folder: Path) -> Iterator[Candidate]:
    """nginx as a relay."""
    argv, port = _nginx(setting, folder, "nginx_plain.conf")
    with running(folder, "nginx", argv) as process:
        process.listens(port)
        yield Candidate("nginx, plain", port, keys_file(folder, TEAMS), lambda: descendants(process.pid))


@contextmanager
def nginx_lua(setting: Setting, folder: Path) -> Iterator[Candidate]:
    """nginx with keys, three limits in Redis and usage booked, by Lua."""
    redis_port = free_port()
    with running(folder, "redis", ["redis-server", "--port", str(redis_port), "--save", "", "--bind", "127.0.0.1"]) as redis:
        redis.listens(redis_port)
        for name in ("gw.lua", "limiter.lua"):
            shutil.copy(TOOLS / name, folder)
        env = {"GW_LUA": str(folder / "limiter.lua"), "GW_REDIS_PORT": str(redis_port)}
        argv, port = _nginx(setting, folder, "nginx_lua.conf")
        with running(folder, "nginx", argv, env) as process:
            process.listens(port)
            keys = keys_file(folder, TEAMS)
            yield Candidate("nginx + Lua + Redis", port, keys, lambda: descendants(process.pid), lambda: [redis.pid])


@contextmanager
def aiohttp_proxy(setting: Setting, folder: Path) -> Iterator[Candidate]:
    """aiohttp's server and client and nothing else."""
    port, upstream = free_port(), setting.upstream
    argv = [setting.pythons[0], str(TOOLS / "aiohttp_proxy.py"), str(port), upstream.url]
    with running(folder, "aiohttp", [*argv, *([str(upstream.ca_file)] if upstream.ca_file else [])]) as process:
        process.listens(port)
        yield Candidate("aiohttp, plain", port, keys_file(folder, TEAMS), lambda: [process.pid])


@contextmanager
def litellm(setting: Setting, folder: Path) -> Iterator[Candidate]:
    """LiteLLM's proxy with one model and a master key; virtual keys would need a Postgres. It asks nobody on the network."""
    port, upstream = free_port(), setting.upstream
    route = {"model": "openai/gpt-4o-mini", "api_base": f"{upstream.url}/v1", "api_key": "sk-upstream"}
    config = {
        "model_list": [{"model_name": "gpt-4o-mini", "litellm_params": route}],
        "litellm_settings": {"telemetry": False} | ({"ssl_verify": str(upstream.ca_file)} if upstream.ca_file else {}),
        "general_settings": {"master_key": KEY, "disable_spend_logs": True},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "DISABLE_ADMIN_UI": "True",
        "NO_DOCS": "True", "HOME": str(folder),
    } | ({"SSL_CERT_FILE": str(upstream.ca_file)} if upstream.ca_file else {})  # fmt: skip
    argv = [setting.litellm or "litellm", "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with running(folder, "litellm", argv, env) as process:
        process.listens(port, 180)
        keys = keys_file(folder, 1)
        yield Candidate("LiteLLM", port, keys, lambda: descendants(process.pid), heavy=True)


def missing_nginx(_: Setting) -> str | None:
    return None if shutil.which("nginx") else "nginx is not installed"


def missing_lua(setting: Setting) -> str | None:
    absent = [part for part in LUA_PARTS if not Path(part).exists()]
    if shutil.which("redis-server") is None:
        return "redis-server is not installed"
    return missing_nginx(setting) or (f"not there: {', '.join(absent)} (see tools/nginx_lua.conf)" if absent else None)


def missing_litellm(setting: Setting) -> str | None:
    return None if setting.litellm else "not installed: --install-litellm makes an environment for it (1 GB), --litellm names its command"


def present(_: Setting) -> str | None:
    return None


CANDIDATES = {  # name on the command line: how it is started, and why it cannot be
    "direct": (direct, present),
    "nginx": (nginx_plain, missing_nginx),
    "nginx-lua": (nginx_lua, missing_lua),
    "gateway": (gateway, present),
    "aiohttp": (aiohttp_proxy, present),
    "litellm": (litellm, missing_litellm),
}


@contextmanager
def stub(folder: Path, program: Path, pem: Path | None) -> Iterator[tuple[int, int]]:
    """The upstream; its ports, plain and TLS (0: none)."""
    with running(folder, "stub", [str(program), *(["-t", str(pem)] if pem else []), "0"]) as process:
        ports = json.loads(process.first_line())
        yield ports["port"], ports["tls_port"]
