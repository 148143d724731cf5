"""TLS towards clients: TLS 1.2 at least, HTTP/1.1, and a certificate that can be renewed while the listener stays."""

from __future__ import annotations

import ssl

from gateway.config.snapshot import Tls


def listener_context(tls: Tls) -> ssl.SSLContext:
    """A context that shows this certificate. Raises OSError (ssl.SSLError too) when the files cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(tls.certificate_file, tls.key_file, password="")  # never asked of a terminal
    return context


class RenewableTls:
    """What a listener is given for good. Each handshake goes on with the context that is current when it begins."""

    def __init__(self, current: ssl.SSLContext) -> None:
        self._current = current
        self.listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # shows nothing itself
        self.listening.minimum_version = ssl.TLSVersion.TLSv1_2
        self.listening.set_alpn_protocols(["http/1.1"])
        self.listening.sni_callback = self._go_on  # OpenSSL calls it for clients that name no server too

    def renew(self, current: ssl.SSLContext) -> None:
        """From the next handshake on; open connections keep theirs."""
        self._current = current

    def _go_on(self, handshake: ssl.SSLObject, _server_name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = self._current
