"""Channels to a server, with or without TLS, and the metadata that authenticates a call."""

from collections.abc import Sequence
from typing import Any

import grpc

from imagecall.rpc.addresses import ServerAddress, server_address
from imagecall.rpc.client_tls import WITHOUT_FILES, ClientTls
from imagecall.rpc.pem import read_pem


def credentials_of(
    address: ServerAddress, tls: ClientTls = WITHOUT_FILES
) -> grpc.ChannelCredentials | None:
    """Credentials for a channel to an address; None without TLS.

    Without a CA file of its own, a client trusts the CAs of gRPC, or of the file that the
    environment variable GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.

    Raises OSError with a sentence for a missing or faulty file.
    """
    if not address.tls:
        return None
    if tls.files:
        tls.context()  # gRPC itself reports no fault of a file.
    read = [read_pem(path) if path else None for path in (tls.ca, tls.key, tls.cert)]
    return grpc.ssl_channel_credentials(*read)


def server_of(address: str, tls: ClientTls | None) -> ServerAddress:
    """Reads an address: grpcs:// or `tls` mean TLS; any other target of gRPC stays unchanged.

    Raises ValueError for grpc:// with `tls`, and for no HOST:PORT after a scheme.
    """
    if not address.startswith(("grpc://", "grpcs://")):
        return ServerAddress(address, tls is not None)
    found = server_address(address)
    if tls and not found.tls:
        raise ValueError(f"{address!r} has no TLS: grpcs:// has")
    return found


def name_options(tls: ClientTls) -> list[tuple[str, Any]]:
    """Options of a channel for the name that the server's certificate must have."""
    return [("grpc.ssl_target_name_override", tls.name)] if tls.name else []


def aio_channel(
    target: str,
    credentials: grpc.ChannelCredentials | None,
    options: Sequence[tuple[str, Any]],
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
) -> grpc.aio.Channel:
    """Channel of grpc.aio, without TLS if there are no credentials."""
    if credentials:
        return grpc.aio.secure_channel(target, credentials, options, interceptors=interceptors)
    return grpc.aio.insecure_channel(target, options, interceptors=interceptors)


def thread_channel(
    target: str,
    credentials: grpc.ChannelCredentials | None,
    options: Sequence[tuple[str, Any]],
) -> grpc.Channel:
    """Channel whose calls block the thread, without TLS if there are no credentials."""
    if credentials:
        return grpc.secure_channel(target, credentials, options)
    return grpc.insecure_channel(target, options)


def blocking_channel(
    address: ServerAddress, tls: ClientTls, options: Sequence[tuple[str, Any]] = ()
) -> grpc.Channel:
    """Blocking channel to an address. Raises OSError for a faulty file of TLS."""
    named = [*options, *name_options(tls)]
    return thread_channel(address.target, credentials_of(address, tls), named)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a bearer token (RFC 6750); none for an empty token."""
    return (("authorization", f"Bearer {token}"),) if token else ()
