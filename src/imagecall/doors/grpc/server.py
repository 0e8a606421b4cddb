"""Server of the gRPC door: its services, its limits in gRPC's core, and its shutdown."""

import logging
from typing import Any, Final

import grpc
from grpc_channelz.v1 import channelz as grpc_channelz
from grpc_channelz.v1 import channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection as grpc_reflection
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from imagecall.access.admission import Admission
from imagecall.access.certificates import Certificates
from imagecall.access.limits import Limits
from imagecall.access.ports import not_free
from imagecall.conversion.batch import uncounted
from imagecall.doors.grpc.boundary import Boundary
from imagecall.doors.grpc.services import ConversionServicer, GenerationServicer
from imagecall.generation.backend import Backend
from imagecall.observing.observer import Observer
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1 import conversion_service_pb2_grpc as pb_grpc
from imagecall.v1 import image_generation_service_pb2 as generation_pb
from imagecall.v1 import image_generation_service_pb2_grpc as generation_pb_grpc

_SERVICES: Final = [
    service.full_name
    for file in (pb.DESCRIPTOR, generation_pb.DESCRIPTOR)
    for service in file.services_by_name.values()
]
_CHANNELZ: Final = "grpc.channelz.v1.Channelz"
_REFLECTION_V1: Final = "grpc.reflection.v1.ServerReflection"
_USUAL_BYTES: Final = 4 * 1024 * 1024
"""Lowest limit of a request's size, for batches and chunks: gRPC's default."""

_OVERHEAD_BYTES: Final = 64 * 1024
"""Allowance for a request around its JSON, so that the door, not the core, refuses large JSON."""

_METADATA_OVERHEAD_BYTES: Final = 8 * 1024
"""Allowance for headers beside the metadata, such as the method's name. The core's limit is this
plus twice the metadata limit, so that the door refuses most excess itself, with details."""

_HANDSHAKE_MS: Final = 20_000
"""Timeout of a client's handshakes, and of its answer to a ping."""

_KEEPALIVE_MS: Final = 60_000
_PINGS_MS: Final = 10_000
"""Shortest time between pings of a client without calls; gRPC's default is 5 minutes."""

_CONNECTION_MS: Final = 10 * 60_000
"""Age at which the core closes a connection (GOAWAY), so that its client finds new replicas."""

_IDENTITY_ONLY: Final = 1
"""Set of the compression algorithms that are accepted: a request of 1 MB could stand for 1 GB."""

_CALLS_OF_A_CONNECTION: Final = 64
"""Concurrent HTTP/2 streams per connection; further calls wait at the client."""

_ENDING_CALLS_OF_A_CONNECTION: Final = 64
"""Further calls of a connection that are over for the client, answered or reset, but not yet for
Python. All calls in progress may end at once. With a lower limit, the core refuses calls of a
client that makes hundreds; with a higher one, it recovers more slowly from a flood of resets."""

_PENDING_CALLS: Final = 100_000
"""Calls that may wait for Python; above this limit, by default 1,000, the core cancels some."""

_LOGGER: Final = "grpc._cython.cygrpc"
_DISCONNECTED: Final = "ExecuteBatchError raised in core"
"""Start of the message that gRPC logs if a client disconnects before it has received its answer."""


class GrpcServer:
    """gRPC server of the services and of health on one address.

    Args:
        address: HOST:PORT; port 0 selects a free one.
        backend: generates images. The server does not close the backend.
        admission: admits calls within its limits.
        certificates: for TLS. None: no TLS.
        reflection: serves gRPC reflection, which gives clients the schema.
        channelz: serves gRPC channelz, which gives clients figures of connections.
        share_port: allows other processes to listen on the same port.
        observer: records the calls. None: calls are not recorded.
    """

    def __init__(
        self,
        address: str,
        backend: Backend,
        admission: Admission | None = None,
        *,
        certificates: Certificates | None = None,
        reflection: bool = True,
        channelz: bool = False,
        share_port: bool = False,
        observer: Observer | None = None,
    ) -> None:
        admission = admission or Admission()
        logging.getLogger(_LOGGER).addFilter(_is_fault)
        self._address = address
        self._certificates = certificates
        self._health = health.aio.HealthServicer()
        self._boundary = Boundary(admission, observer)
        limits = admission.limits
        self._server = grpc.aio.server(options=_options(limits, share_port))
        self._server.add_generic_rpc_handlers((self._boundary,))
        boundary: Any = self._boundary  # The generated functions declare a server.
        count = observer.count_item if observer else uncounted
        conversion = ConversionServicer(limits, count)
        generation = GenerationServicer(backend, admission.needs_token)
        pb_grpc.add_ConversionServiceServicer_to_server(conversion, boundary)
        generation_pb_grpc.add_ImageGenerationServiceServicer_to_server(generation, boundary)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, boundary)
        names = [*_SERVICES, health.SERVICE_NAME]
        if channelz:
            servicer = grpc_channelz.aio.ChannelzServicer()
            channelz_pb2_grpc.add_ChannelzServicer_to_server(servicer, boundary)
            names.append(_CHANNELZ)
        if reflection:
            _add_reflection([*names, grpc_reflection.SERVICE_NAME], boundary)

    async def start(self) -> str:
        """Listens; returns HOST:PORT with the port that was bound. Raises OSError."""
        port = self._listen()
        await self._server.start()
        for service in _SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return f"{self._address.rpartition(':')[0]}:{port}"

    def _listen(self) -> int:
        """Binds the address, and returns its port. Raises OSError."""
        try:
            if self._certificates:
                credentials = self._certificates.for_grpc()
                return self._server.add_secure_port(self._address, credentials)
            return self._server.add_insecure_port(self._address)
        except RuntimeError:
            raise not_free(self._address) from None

    async def drain(self) -> None:
        """Reports NOT_SERVING. New calls are still accepted."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Reports NOT_SERVING, refuses new calls, and gives those in progress `grace` seconds.

        A call that arrives at this moment ends with UNAVAILABLE or CANCELLED (grpc/grpc#41785).
        """
        await self.drain()
        self._boundary.stopping.set()
        await self._server.stop(grace)


def _is_fault(record: logging.LogRecord) -> bool:
    """Returns False for the record of a client that has disconnected."""
    return not str(record.msg).startswith(_DISCONNECTED)


def _options(limits: Limits, share_port: bool) -> list[tuple[str, int]]:
    """Returns the options of gRPC's core; its grpc/impl/channel_arg_names.h describes them."""
    metadata = 2 * limits.metadata_bytes + _METADATA_OVERHEAD_BYTES
    return [
        ("grpc.so_reuseport", int(share_port)),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.max_concurrent_streams", _CALLS_OF_A_CONNECTION),
        ("grpc.http2.max_deallocating_streams", _ENDING_CALLS_OF_A_CONNECTION),
        ("grpc.server.max_pending_requests", _PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _PENDING_CALLS),
        ("grpc.max_receive_message_length", max(limits.json_bytes, _USUAL_BYTES) + _OVERHEAD_BYTES),
        ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
        ("grpc.max_metadata_size", metadata),
        ("grpc.absolute_max_metadata_size", metadata),
        ("grpc.max_connection_idle_ms", round(limits.idle_seconds * 1000)),
        # Calls in progress end on the old connection, however long they take.
        ("grpc.max_connection_age_ms", _CONNECTION_MS),
        # Python cannot end a call whose client receives nothing: the end of its connection does.
        ("grpc.max_connection_age_grace_ms", round(limits.call_seconds * 1000)),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        # Detects a client that disappeared without closing its connection.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _HANDSHAKE_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", _PINGS_MS),
        ("grpc.keepalive_permit_without_calls", 1),  # The default: two hours without calls.
    ]


def _add_reflection(names: list[str], boundary: Any) -> None:
    """Adds reflection as v1alpha, which grpcio has, and as v1, which differs only in its name."""
    servicer = grpc_reflection.aio.ReflectionServicer(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, boundary)  # type: ignore[no-untyped-call]
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    boundary.add_registered_method_handlers(_REFLECTION_V1, {"ServerReflectionInfo": handler})
