"""Settings of a client, the same for both clients."""

import json
import re
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

import grpc

from imagecall.errors import ConversionError, FileError, GenerationError, ImagecallError
from imagecall.generation.assembly import MAX_IMAGE_BYTES
from imagecall.rpc.channel import bearer, credentials_of, name_options, server_of
from imagecall.rpc.client_tls import WITHOUT_FILES, ClientTls
from imagecall.rpc.handshake import call_error
from imagecall.v1.image_generation_service_pb2 import DESCRIPTOR

_RETRY_BYTES: Final = 64 * 1024 * 1024
"""Largest request that gRPC keeps, in bytes, to send it anew if it never left on a connection."""

_CONNECTIONS: Final = 8
_MAX_CALLS: Final = _CONNECTIONS * 64
"""Default of the calls in progress: servers limit the calls of a connection, our own to 64."""

_METADATA_NAME: Final = re.compile(r"(?!grpc-)[0-9a-z_.-]+")
_BINARY: Final = "-bin"

SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": DESCRIPTOR.services_by_name["ImageGenerationService"].full_name}
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ]
    }
)
"""gRPC service config (gRFC A6) with retries, for channels of your own.

The clients do without: gRPC also repeats a call whose connection broke in its first second, which
may have been billed.
"""

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]
"""Metadata of a call: names in lower case, bytes for a name that ends with -bin."""

_Interceptor = TypeVar("_Interceptor")


class Client(Generic[_Interceptor]):
    """Settings that both clients have.

    Args:
        address: HOST:PORT of the server, or grpcs://HOST:PORT for TLS; or another target of gRPC,
            such as dns:///HOST:PORT.
        tls: TLS with these files, which are read once. None: TLS only for grpcs://.
        credentials: credentials of the channels, in place of `tls`.
        token: bearer token that the server requires. "": the server requires none.
        metadata: metadata of each call; that of a call itself replaces values of the same name.
        interceptors: interceptors of gRPC, around each call.
        service_config: gRPC's service config as JSON, such as a policy for load balancing. A retry
            policy in it may repeat calls that are billed.
        connections: most connections to the server; calls in progress at once share them.
        max_calls: most calls in progress; further calls wait, within their timeout.
        max_image_bytes: limit of an image, and of any other value that comes in chunks.
        options: further options of the channels, placed before the client's own.

    Raises ConversionError, which is a ValueError too, for a faulty address or metadata; FileError,
    which is an OSError too, for a faulty file of TLS.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: ClientTls | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
        metadata: Metadata = (),
        interceptors: Sequence[_Interceptor] = (),
        service_config: str = "{}",
        connections: int = _CONNECTIONS,
        max_calls: int = _MAX_CALLS,
        max_image_bytes: int = MAX_IMAGE_BYTES,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        if connections < 1 or max_calls < 1:
            raise refused("a client has at least one connection and one call in progress")
        try:
            server = server_of(address, tls)
            self._credentials = credentials or credentials_of(server, tls or WITHOUT_FILES)
        except ValueError as error:
            raise refused(str(error)) from None
        except OSError as error:
            raise FileError(str(error)) from None
        self._target = server.target
        self._options = [
            *options,
            *name_options(tls or WITHOUT_FILES),
            ("grpc.service_config", service_config),
            ("grpc.max_receive_message_length", -1),  # GenerateImage answers in one message.
            ("grpc.per_rpc_retry_buffer_size", _RETRY_BYTES),  # Requests may contain images.
            ("grpc.use_local_subchannel_pool", 1),  # Else all channels share a connection.
        ]
        self._metadata = _merged(_merged((), bearer(token)), metadata)
        self._interceptors = tuple(interceptors)
        self._slots = [number % connections for number in reversed(range(max_calls))]
        self._max_image_bytes = max_image_bytes
        self._closed = False
        self._pools: dict[Any, Any] = {}

    def _call_metadata(self, metadata: Metadata) -> Metadata:
        """Returns the metadata of a call. Raises ConversionError for faulty metadata."""
        return _merged(self._metadata, metadata) if metadata else self._metadata

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    def _closed_error(self, *, may_be_billed: bool = False) -> ImagecallError:
        message = "the client is closed"
        return GenerationError("", message, code="CANCELLED", may_be_billed=may_be_billed)

    def _queue_error(self) -> ImagecallError:
        message = (
            f"the time of the call ended in the queue: {len(self._slots)} calls are in progress"
        )
        return GenerationError("", message, code="DEADLINE_EXCEEDED")

    def _error(self, error: grpc.RpcError) -> ImagecallError:
        return call_error(error, self._target, tls=self._credentials is not None)


def refused(message: str) -> ConversionError:
    """Error for an argument that a client refuses."""
    return ConversionError("", "", message, "INVALID_ARGUMENT")


def _merged(metadata: Metadata, own: Metadata) -> Metadata:
    """Returns metadata in which the values of `own` replace those of the same name."""
    for name, value in own:
        _check_metadata(name, value)
    names = {name for name, _ in own}
    return (*((name, value) for name, value in metadata if name not in names), *own)


def _check_metadata(name: str, value: str | bytes) -> None:
    """Raises ConversionError for metadata that gRPC cannot send. Its value may be a secret."""
    if not _METADATA_NAME.fullmatch(name):
        raise refused("a name of metadata is empty, or has characters that are not allowed")
    if name.endswith(_BINARY):
        if not isinstance(value, bytes):
            raise refused(f"the metadata {name} must be bytes")
    elif not isinstance(value, str) or not (value.isascii() and value.isprintable()):
        raise refused(f"the metadata {name} must be printable ASCII")
