"""The listening sockets: bound here, or given to this process by systemd or by the release before it.

They outlive every role: connections wait in their queues while a worker starts. A Unix socket's file is removed by whoever made it.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable, MutableMapping
from contextlib import suppress

import structlog

from gateway.config.snapshot import Listen, Settings

QUEUE_MAX = 2_048  # connections that wait for a worker; the system's own maximum (net.core.somaxconn) may be less
UNSENT_BYTES_MAX = 131_072  # taken by the kernel for one client that does not read; it would take 4 MiB, and ask OpenAI for as much
FIRST_FD_OF_SYSTEMD = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
ADMIN_SOCKET_MODE = 0o660

_log = structlog.get_logger("gateway.serve")


class ServeError(Exception):
    """Why the gateway cannot start; a sentence for its operator."""


class Listener:
    """One address with its socket. `ours`: made by this gateway, and so its file is removed at the end."""

    def __init__(self, listening: socket.socket, *, ours: bool) -> None:
        listening.setblocking(False)
        listening.set_inheritable(False)  # roles are passed theirs by number
        self.socket, self.ours = listening, ours
        self._path: str = listening.getsockname() if listening.family == socket.AF_UNIX else ""
        self._file = _identity(self._path) if self._path else None

    @property
    def fd(self) -> int:
        """What a role is passed."""
        return self.socket.fileno()

    def url(self, *, tls: bool) -> str:
        """As clients name it: http://127.0.0.1:8080, https://[::1]:8080, unix:/run/gateway.sock."""
        if self._path:
            return f"unix:{self._path}"
        host, port = self.socket.getsockname()[:2]
        return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def is_at(self, listen: Listen) -> bool:
        """Whether it listens where `listen` says; port 0 is any port."""
        if listen.path or self._path:
            return bool(listen.path and self._path) and os.path.abspath(listen.path) == os.path.abspath(self._path)
        host, port = self.socket.getsockname()[:2]
        if self.socket.family != _family(listen) or listen.port not in (0, port):
            return False
        try:
            found = socket.getaddrinfo(listen.host, port, self.socket.family, socket.SOCK_STREAM)
        except OSError:
            return False
        return any(address[0] == host for *_, address in found)

    def close(self) -> None:
        """Listen no longer here. A role that was passed the socket still does; a file that another gateway has replaced stays."""
        if self.ours and self._path and self._file == _identity(self._path):
            with suppress(FileNotFoundError):
                os.unlink(self._path)
        self.ours = False
        self.socket.close()


class Listeners:
    """Those of the proxy, in the order of its addresses, and that of the admin port."""

    def __init__(self, settings: Settings, given: list[Listener]) -> None:
        """Takes from `given` what listens where it must, closes the rest, and binds what is missing. ServeError when it cannot."""
        self.proxy: list[Listener] = []
        listen = settings.proxy.listen
        try:
            for address in listen:
                self.proxy.append(_take(given, address) or _bind(address, settings.proxy.socket_mode, beside=listen))
            self.admin = _take(given, settings.admin.listen) or _bind(settings.admin.listen, ADMIN_SOCKET_MODE)
        except BaseException:
            self.close_proxy()
            raise
        for unused in given:
            _log.warning("listener_not_used", address=unused.url(tls=False), advice="name it in proxy.listen or admin.listen")
            unused.close()

    def close_proxy(self) -> None:
        """Let nobody in any more but who waits in a queue: workers have their own hold on the sockets."""
        for listener in self.proxy:
            listener.close()

    def close(self) -> None:
        """All of them."""
        self.close_proxy()
        self.admin.close()


def given_by_systemd(env: MutableMapping[str, str]) -> list[Listener]:
    """The sockets of a `gateway.socket` unit; its variables are taken out of `env`, since they are not for our children.

    Source: sd_listen_fds(3). ServeError when one is no listening stream socket.
    """
    meant_for, count = env.pop("LISTEN_PID", ""), env.pop("LISTEN_FDS", "")
    env.pop("LISTEN_FDNAMES", None)
    if meant_for != str(os.getpid()) or not count.isdigit():
        return []
    return [listening_at(fd, ours=False) for fd in range(FIRST_FD_OF_SYSTEMD, FIRST_FD_OF_SYSTEMD + int(count))]


def listening_at(fd: int, *, ours: bool) -> Listener:
    """The socket that this process was started with. ServeError when there is none that listens."""
    try:
        given = socket.socket(fileno=fd)
        listens = given.type == socket.SOCK_STREAM and given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ServeError(f"file descriptor {fd} was passed to listen on and is no socket: {error.strerror}") from error
    if not listens:
        given.close()
        raise ServeError(f"file descriptor {fd} was passed to listen on, and does not listen: ListenStream= of systemd is needed")
    return Listener(given, ours=ours)


def _take(given: list[Listener], listen: Listen) -> Listener | None:
    found = next((listener for listener in given if listener.is_at(listen)), None)
    if found is not None:
        given.remove(found)
    return found


def _bind(listen: Listen, socket_mode: int, beside: Iterable[Listen] = ()) -> Listener:
    where = f"unix:{listen.path}" if listen.path else f"{listen.host}:{listen.port}"
    listening = socket.socket(socket.AF_UNIX if listen.path else _family(listen), socket.SOCK_STREAM)
    try:
        if listen.path:
            _remove_stale(listen.path)
            before = os.umask(0o777 & ~socket_mode)  # not chmod after: until then anybody could connect, or nobody
            try:
                listening.bind(listen.path)
            finally:
                os.umask(before)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if listening.family == socket.AF_INET6:
                ipv4_has_its_own = any(other.port == listen.port and _family(other) == socket.AF_INET for other in beside if not other.path)
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv4_has_its_own)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
            listening.bind((listen.host, listen.port))
        listening.listen(QUEUE_MAX)
    except OSError as error:
        listening.close()
        advice = "Is another gateway running? Change `listen` in gateway.yaml."
        raise ServeError(f"cannot listen on {where}: {error.strerror or error}. {advice}") from error
    return Listener(listening, ours=True)


def _remove_stale(path: str) -> None:
    """The file of a gateway that was killed. OSError when somebody listens there, or it is no socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(0, "there is a file which is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its queue is full: somebody listens
    raise FileExistsError(0, "another process listens there")


def _family(listen: Listen) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in listen.host else socket.AF_INET


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
