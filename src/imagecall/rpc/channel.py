"""Channels to a server, with or without TLS, and the metadata that authenticates a call."""

from collections.abc import Sequence
from typing import Any

import grpc

from imagecall.rpc.addresses import ServerAddress


def credentials_of(address: ServerAddress) -> grpc.ChannelCredentials | None:
    """Credentials for a channel to an address; None without TLS.

    Trusts the certificate authorities of gRPC, or of the file that the environment variable
    GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.
    """
    return grpc.ssl_channel_credentials() if address.tls else None


def aio_channel(
    target: str,
    credentials: grpc.ChannelCredentials | None,
    options: Sequence[tuple[str, Any]],
) -> grpc.aio.Channel:
    """Channel of grpc.aio, without TLS if there are no credentials."""
    if credentials:
        return grpc.aio.secure_channel(target, credentials, options)
    return grpc.aio.insecure_channel(target, options)


def blocking_channel(address: ServerAddress, options: Sequence[tuple[str, Any]]) -> grpc.Channel:
    """Channel whose calls block the thread."""
    if credentials := credentials_of(address):
        return grpc.secure_channel(address.target, credentials, options)
    return grpc.insecure_channel(address.target, options)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a bearer token (RFC 6750); none for an empty token."""
    return (("authorization", f"Bearer {token}"),) if token else ()
