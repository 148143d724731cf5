"""Which proxy is on the way to an account: as it is written, or as the environment says."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from gateway.config.http_proxy import proxy_of_environment
from gateway.config.snapshot import HttpProxy, Secret

if TYPE_CHECKING:
    from conftest import Folder

OPENAI = "https://api.openai.com/v1"
AT = "config/gateway.yaml:4: accounts.openai.proxy_url: "
HOW = "a proxy is written as http://[user:password@]host[:port], with special characters of the password as %40"


def account(folder: Folder, line: str = "") -> None:
    folder.write("gateway.yaml", f"accounts:\n  openai:\n    api_key: x\n    {line}\n")


def basic(credentials: str) -> Secret:
    return Secret("Basic " + b64encode(credentials.encode()).decode())


WRITTEN = [
    ("host and port", "http://proxy:3128", HttpProxy("proxy", 3128)),
    ("a slash behind it", "http://proxy:3128/", HttpProxy("proxy", 3128)),
    ("no port", "http://proxy.example", HttpProxy("proxy.example", 80)),
    ("an IPv6 address", "http://[::1]:3128", HttpProxy("::1", 3128)),
    ("a user with a password", "http://me:word@proxy:3128", HttpProxy("proxy", 3128, basic("me:word"))),
    ("a password of special characters", "http://m%C3%A9:p%40ss%3Aword%25@proxy:1", HttpProxy("proxy", 1, basic("mé:p@ss:word%"))),
    ("a user without a password", "http://me@proxy:3128", HttpProxy("proxy", 3128, basic("me:"))),
    ("nothing", "", None),
]


@pytest.mark.parametrize("written, proxy", [row[1:] for row in WRITTEN], ids=[row[0] for row in WRITTEN])
def test_a_proxy_is_an_address_that_may_have_credentials(folder: Folder, written: str, proxy: HttpProxy | None) -> None:
    account(folder, f"proxy_url: '{written}'")
    assert folder.good().settings.accounts[0].http_proxy == proxy
    assert folder.texts() == []
    folder.write("proxy", written + "\n")
    account(folder, "proxy_url: file:config/proxy")
    assert folder.good().settings.accounts[0].http_proxy == proxy


NOT_WRITTEN_SO = [
    ("TLS to the proxy", "https://me:s3cret@proxy", f"this version speaks plain HTTP with proxies, not https://; {HOW}"),
    ("SOCKS", "socks5h://me:s3cret@proxy", f"this version speaks plain HTTP with proxies, not socks5h://; {HOW}"),
    ("no scheme", "me:s3cret@proxy:3128", HOW),
    ("a path", "http://me:s3cret@proxy/s3cret", HOW),
    ("a query", "http://proxy?s3cret", HOW),
    ("no host", "http://:3128", HOW),
    ("a port that is none", "http://me:s3cret@proxy:99999", HOW),
    ("port 0", "http://me:s3cret@proxy:0", HOW),
    ("a password with a bracket", "http://me:[s3cret@proxy", HOW),
    ("a space", "http://me:s3 cret@proxy", HOW),
]


@pytest.mark.parametrize("written, said", [row[1:] for row in NOT_WRITTEN_SO], ids=[row[0] for row in NOT_WRITTEN_SO])
def test_what_cannot_be_a_proxy_is_told_without_its_password(folder: Folder, written: str, said: str) -> None:
    account(folder, f"proxy_url: '{written}'")
    assert folder.texts() == [AT + said]
    folder.write("proxy", written)
    account(folder, "proxy_url: file:config/proxy")
    assert folder.texts() == [f"{AT}what the file it names holds cannot be used: {said}"]
    account(folder)
    folder.env = {"HTTPS_PROXY": written if "://" in written else f"ftp://{written}"}
    where = "config/gateway.yaml:2: accounts.openai: "
    assert folder.texts() == [f"{where}HTTPS_PROXY of the environment cannot be used: {said}"]


def test_a_number_is_no_proxy_and_a_file_must_be_there(folder: Folder) -> None:
    account(folder, "proxy_url: 3128")
    assert folder.texts() == [AT + HOW]
    account(folder, "proxy_url: file:config/nowhere")
    assert folder.texts() == [AT + "there is no file 'config/nowhere'"]


def test_a_proxys_password_never_shows(folder: Folder) -> None:
    account(folder, "proxy_url: http://me:s3cret@proxy")
    shown = repr(folder.good().settings)
    assert "host='proxy'" in shown
    assert "s3cret" not in shown
    assert b64encode(b"me:s3cret").decode() not in shown


def test_what_is_written_wins_over_the_environment(folder: Folder) -> None:
    folder.env = {"HTTPS_PROXY": "http://proxy:3128"}
    for line, proxy in (
        ("", HttpProxy("proxy", 3128)),
        ("proxy_url: ''", None),
        ("proxy_url: null", None),
        ("proxy_url: http://other:1", HttpProxy("other", 1)),
    ):
        account(folder, line)
        assert folder.good().settings.accounts[0].http_proxy == proxy
        assert folder.texts() == []


PROXY = {"HTTPS_PROXY": "http://proxy:3128"}
INTERNAL = "https://llm.internal:8443/v1"
ENVIRONMENTS: list[tuple[str, dict[str, str], str, str | None]] = [
    ("nothing is said", {}, OPENAI, None),
    ("in capitals", PROXY, OPENAI, "HTTPS_PROXY"),
    ("in small letters", {"https_proxy": "http://proxy:3128"}, OPENAI, "https_proxy"),
    ("empty in capitals", {"HTTPS_PROXY": "", "https_proxy": "http://proxy:3128"}, OPENAI, "https_proxy"),
    ("without its scheme", {"HTTPS_PROXY": "proxy:3128"}, OPENAI, "HTTPS_PROXY"),
    ("of http for an https address", {"HTTP_PROXY": "http://proxy:3128"}, OPENAI, None),
    ("of http for an http address", {"HTTP_PROXY": "http://proxy:3128"}, "http://llm.internal/v1", "HTTP_PROXY"),
    ("of https for an http address", PROXY, "http://llm.internal/v1", None),
    ("for localhost", PROXY, "https://localhost:8443/v1", None),
    ("for 127.0.0.1", PROXY, "https://127.0.0.1:8443/v1", None),
    ("for ::1", PROXY, "https://[::1]:8443/v1", None),
    ("for a name that only begins like it", PROXY, "https://127.example/v1", "HTTPS_PROXY"),
    ("not for all", PROXY | {"NO_PROXY": "*"}, OPENAI, None),
    ("not for the name", PROXY | {"NO_PROXY": "api.openai.com"}, OPENAI, None),
    ("not for the name, in small letters", PROXY | {"no_proxy": "API.OpenAI.com"}, OPENAI, None),
    ("not for the domain", PROXY | {"NO_PROXY": "localhost, openai.com"}, OPENAI, None),
    ("not for the domain, with a dot", PROXY | {"NO_PROXY": "localhost .openai.com"}, OPENAI, None),
    ("not for the domain, with an asterisk", PROXY | {"NO_PROXY": "*.openai.com"}, OPENAI, None),
    ("not for names that end so", PROXY | {"NO_PROXY": "penai.com,,.,*."}, OPENAI, "HTTPS_PROXY"),
    ("not for the name and its port", PROXY | {"NO_PROXY": "api.openai.com:443"}, OPENAI, None),
    ("not for the domain and its port", PROXY | {"NO_PROXY": ".internal:8443"}, INTERNAL, None),
    ("not for another port", PROXY | {"NO_PROXY": "llm.internal:443,*:443"}, INTERNAL, "HTTPS_PROXY"),
    ("not for the address", PROXY | {"NO_PROXY": "10.1.2.3"}, "https://10.1.2.3/v1", None),
    ("not for the address and its port", PROXY | {"NO_PROXY": "10.1.2.3:443"}, "https://10.1.2.3/v1", None),
    ("not for the network", PROXY | {"NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3/v1", None),
    ("not for another network", PROXY | {"NO_PROXY": "10.0.0.0/16"}, "https://10.1.2.3/v1", "HTTPS_PROXY"),
    ("not for the IPv6 network", PROXY | {"NO_PROXY": "fd00::/8"}, "https://[fd00::1]/v1", None),
    ("not for the IPv6 address and its port", PROXY | {"NO_PROXY": "[fd00::1]:8443"}, "https://[fd00::1]:8443/v1", None),
    ("not for another port of the IPv6 address", PROXY | {"NO_PROXY": "[fd00::1]:443"}, "https://[fd00::1]:8443/v1", "HTTPS_PROXY"),
    ("not for an address that ends so", PROXY | {"NO_PROXY": "1.2.3"}, "https://10.1.2.3/v1", "HTTPS_PROXY"),
]


@pytest.mark.parametrize("env, base_url, variable", [row[1:] for row in ENVIRONMENTS], ids=[row[0] for row in ENVIRONMENTS])
def test_the_environment_names_a_proxy(env: dict[str, str], base_url: str, variable: str | None) -> None:
    assert proxy_of_environment(base_url, env) == (None if variable is None else (variable, "http://proxy:3128"))
