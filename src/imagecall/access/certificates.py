"""TLS certificates of a server, and CA certificates for those of clients, reloaded on change.

A connection keeps the certificate of its handshake; each new handshake uses the current files.
"""

import ssl
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from imagecall.access.watched_files import WatchedFiles
from imagecall.rpc.pem import load_authorities, load_pair, read_pem


class _Loaded(NamedTuple):
    certificate: bytes
    key: bytes
    authorities: bytes | None
    context: ssl.SSLContext


class Certificates:
    """Certificates of both doors, reloaded. Raises OSError with a sentence if a file is faulty.

    Args:
        certificate: file of the certificate chain, PEM.
        key: file of the private key, PEM.
        authorities: file of the CA certificates for those of clients, PEM. None: clients need no
            certificate.
    """

    def __init__(self, certificate: Path, key: Path, authorities: Path | None = None) -> None:
        self._certificate, self._key, self._authorities = certificate, key, authorities
        paths = [certificate, key, *([authorities] if authorities else [])]
        self._files = WatchedFiles(paths, self._load)

    def for_grpc(self) -> grpc.ServerCredentials:
        """Credentials for one gRPC server; each server needs its own."""
        current = self._files.get()

        def fetch() -> Any:
            nonlocal current
            loaded = self._files.get()
            if loaded is current:
                return None  # Nothing has changed.
            current = loaded
            return _configuration(loaded)

        required = self._authorities is not None
        return grpc.dynamic_ssl_server_credentials(_configuration(current), fetch, required)

    def for_http(self) -> ssl.SSLContext:
        """TLS context for the HTTP door; each handshake switches to the current one."""
        context = self._load().context

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            connection.context = self._files.get().context

        context.sni_callback = choose
        return context

    def _load(self) -> _Loaded:
        certificate, key = read_pem(self._certificate), read_pem(self._key)
        authorities = read_pem(self._authorities) if self._authorities else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        load_pair(context, self._certificate, self._key)
        if self._authorities:
            context.verify_mode = ssl.CERT_REQUIRED
            load_authorities(context, self._authorities)
        return _Loaded(certificate, key, authorities, context)


def _configuration(loaded: _Loaded) -> Any:
    pair = [(loaded.key, loaded.certificate)]
    return grpc.ssl_server_certificate_configuration(pair, loaded.authorities)
