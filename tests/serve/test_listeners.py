"""Where the gateway listens: what is bound, what is taken over, and whose file is removed."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.config.snapshot import Account, AdminSettings, Listen, ProxySettings, Secret, Settings
from gateway.serve.listeners import Listener, Listeners, ServeError, given_by_systemd, listening_at

ANY = Listen("127.0.0.1", 0)
ACCOUNTS = (Account("openai", "http://h/v1", Secret("sk-up")),)


def settings(*listen: Listen, admin: Listen = ANY, socket_mode: int = 0o660) -> Settings:
    return Settings(ProxySettings(listen, socket_mode=socket_mode), AdminSettings(admin, Secret("")), ACCOUNTS)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(
    stack: ExitStack, *listen: Listen, admin: Listen = ANY, given: list[Listener] | None = None, socket_mode: int = 0o660
) -> Listeners:
    made = Listeners(settings(*listen, admin=admin, socket_mode=socket_mode), given if given is not None else [])
    stack.callback(made.close)
    return made


@pytest.fixture
def ipv6() -> None:
    """Machines without it do not run these."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


def connects(to: Listener, family: socket.AddressFamily, host: str) -> bool:
    with socket.socket(family) as client:
        try:
            client.connect((host, to.socket.getsockname()[1]))
        except ConnectionRefusedError:
            return False
    return True


@pytest.mark.usefixtures("ipv6")
def test_ipv6_is_named_in_brackets_and_all_of_it_takes_ipv4_too(stack: ExitStack) -> None:
    one, every = opened(stack, Listen("::1", 0), Listen("::", 0)).proxy
    port = one.socket.getsockname()[1]
    assert (one.url(tls=False), one.url(tls=True)) == (f"http://[::1]:{port}", f"https://[::1]:{port}")
    assert connects(one, socket.AF_INET6, "::1")
    assert not connects(one, socket.AF_INET, "127.0.0.1")
    assert connects(every, socket.AF_INET6, "::1")
    assert connects(every, socket.AF_INET, "127.0.0.1")


@pytest.mark.usefixtures("ipv6")
def test_an_ipv4_address_beside_it_keeps_its_own(stack: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for order in ((Listen("::", port), Listen("0.0.0.0", port)), (Listen("0.0.0.0", port), Listen("::", port))):
        made = opened(stack, *order)
        families = {(connects(listener, socket.AF_INET, "127.0.0.1"), listener.socket.family) for listener in made.proxy}
        assert families == {(True, socket.AF_INET), (True, socket.AF_INET6)}  # by one of them
        made.close()


def test_an_address_that_is_taken_or_not_ours_says_which(stack: ExitStack) -> None:
    taken = opened(stack, ANY).proxy[0].socket.getsockname()[1]
    with pytest.raises(ServeError, match=rf"cannot listen on 127\.0\.0\.1:{taken}: Address already in use\. .*Change `listen`"):
        Listeners(settings(Listen("127.0.0.1", taken)), [])
    with pytest.raises(ServeError, match=r"cannot listen on 192\.0\.2\.1:1"):  # TEST-NET-1: nobody's
        Listeners(settings(Listen("192.0.2.1", 1)), [])


def test_what_was_bound_before_a_failure_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    with pytest.raises(ServeError):
        Listeners(settings(Listen("", 0, str(path)), Listen("192.0.2.1", 1)), [])
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o660, 0o600, 0o666])
def test_a_unix_socket_has_its_mode_whatever_the_umask_and_goes_with_the_gateway(tmp_path: Path, stack: ExitStack, mode: int) -> None:
    path, admin = tmp_path / "gw.sock", tmp_path / "admin.sock"
    before = os.umask(0o077)
    stack.callback(os.umask, before)
    made = opened(stack, Listen("", 0, str(path)), admin=Listen("", 0, str(admin)), socket_mode=mode)
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(admin.stat().st_mode)) == (mode, 0o660)
    assert os.umask(0o077) == 0o077, "it is the process's own again"
    assert made.proxy[0].url(tls=True) == f"unix:{path}"
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_gateway_that_was_killed_is_replaced(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "gw.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    opened(stack, Listen("", 0, str(path)))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.mark.parametrize("queue", [8, 0], ids=["which has room in its queue", "whose queue is full"])
def test_a_socket_where_another_listens_is_not_taken_from_it(tmp_path: Path, stack: ExitStack, queue: int) -> None:
    path = tmp_path / "gw.sock"
    other = stack.enter_context(socket.socket(socket.AF_UNIX))
    other.bind(str(path))
    other.listen(queue)
    for _ in range(0 if queue else 1):
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
    with pytest.raises(ServeError, match="another process listens there"):
        Listeners(settings(Listen("", 0, str(path))), [])
    assert path.is_socket()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("ledger")
    with pytest.raises(ServeError, match="no socket"):
        Listeners(settings(Listen("", 0, str(path))), [])
    assert path.read_text() == "ledger"


def test_a_file_that_another_gateway_has_put_there_stays(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "gw.sock"
    first = opened(stack, Listen("", 0, str(path)))
    path.unlink()
    opened(stack, Listen("", 0, str(path)))
    first.close()
    assert path.is_socket()


def test_sockets_of_the_release_before_are_taken_by_their_address_in_order(tmp_path: Path, stack: ExitStack) -> None:
    listen = (ANY, Listen("", 0, str(tmp_path / "gw.sock")), Listen("localhost", 0))
    before = opened(stack, *listen)
    kept = [listening_at(os.dup(listener.fd), ours=True) for listener in (*before.proxy, before.admin)]
    names = [listener.socket.getsockname() for listener in kept]
    after = opened(stack, *listen, given=kept)
    assert [listener.socket.getsockname() for listener in (*after.proxy, after.admin)] == names


def test_a_socket_at_an_address_that_is_not_named_any_more_is_closed(stack: ExitStack) -> None:
    before = opened(stack, ANY)
    port = before.proxy[0].socket.getsockname()[1]
    other = Listen("127.0.0.1", 1 if port != 1 else 2)
    given = [listening_at(os.dup(before.proxy[0].fd), ours=True)]
    assert not given[0].is_at(other)
    assert not given[0].is_at(Listen("0.0.0.0", port))
    assert not given[0].is_at(Listen("", 0, "/run/gw.sock"))
    after = opened(stack, Listen("127.0.0.2", 0), admin=Listen("127.0.0.3", 0), given=given)
    assert after.proxy[0].socket.getsockname()[0] == "127.0.0.2"
    before.close()
    assert not connects_to(port)


def connects_to(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_sockets_of_another_process_are_not_ours() -> None:
    env = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "gateway", "HOME": "/"}
    assert given_by_systemd(env) == []
    assert env == {"HOME": "/"}, "they are not for our children either"
    assert given_by_systemd({}) == []


def test_a_descriptor_that_does_not_listen_is_named(stack: ExitStack) -> None:
    reading, writing = os.pipe()
    stack.callback(os.close, writing)
    stack.callback(os.close, reading)
    with pytest.raises(ServeError, match=rf"file descriptor {reading} .* no socket"):
        listening_at(reading, ours=False)
    with pytest.raises(ServeError, match="does not listen: ListenStream="):
        listening_at(os.dup(stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).fileno()), ours=False)


def test_what_systemd_made_stays_when_we_go(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / "gw.sock"
    systemd = stack.enter_context(socket.socket(socket.AF_UNIX))
    systemd.bind(str(path))
    systemd.listen()
    made = opened(stack, Listen("", 0, str(path)), given=[listening_at(os.dup(systemd.fileno()), ours=False)])
    made.close()
    assert path.is_socket()
