"""The server of the gRPC door: its services, its limits in gRPC's core, and how it stops."""

from typing import Any, Final

import grpc
from grpc_channelz.v1 import channelz as grpc_channelz
from grpc_channelz.v1 import channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection as grpc_reflection
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from imagecall.doors.grpc.boundary import Boundary
from imagecall.doors.grpc.services import ConversionServicer, GenerationServicer
from imagecall.doors.grpc.shards import Shards
from imagecall.generation.backend import Backend
from imagecall.observing.observer import Observer
from imagecall.server.admission import Admission
from imagecall.server.certificates import Certificates
from imagecall.server.limits import Limits
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
"""What a request may have in any case, for batches and chunks: what gRPC takes by default."""

_OVERHEAD_BYTES: Final = 64 * 1024
"""What a request may have around its JSON, so that a JSON past its limit is refused by us."""

_METADATA_OVERHEAD_BYTES: Final = 8 * 1024
"""What may stand beside the metadata, such as the name of the method. gRPC itself takes this, and
twice our limit, so that what is past the limit is mostly refused by us, with details."""

_HANDSHAKE_MS: Final = 20_000
"""How long a client may take for the handshakes, or to answer a ping."""

_KEEPALIVE_MS: Final = 60_000
_PINGS_MS: Final = 10_000
"""How often a client without calls may ping; gRPC's default of 5 minutes surprises many."""

_CONNECTION_MS: Final = 10 * 60_000
"""After how long a client is told to connect anew, and so finds replicas that came meanwhile."""

_CALLS_OF_A_CONNECTION: Final = 100
"""How many calls a connection may have past the limit of all, so that they are told of it, where
that limit is a small one."""

_MOST_CALLS_OF_A_CONNECTION: Final = 128
"""How many it may have in any case: further ones wait at the client. One that resets its calls at
once can keep others waiting for as many."""


class GrpcServer:
    """A server of the services on one address, with health.

    Args:
        address: HOST:PORT; port 0 takes a free one.
        backend: what generates images. It is not closed with the server.
        admission: which calls are taken, and with which limits.
        certificates: for TLS. None: there is none.
        reflection: whether clients are told the schema.
        channelz: whether clients are told of connections.
        share_port: whether others may listen on the same port already; see Shards.
        observer: what sees the calls. None: nobody wants to know.
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
        self._address = address
        self._credentials = certificates.for_grpc if certificates else None
        self._health = health.aio.HealthServicer()
        self._boundary = Boundary(admission, observer)
        limits = admission.limits
        self._shards = Shards(self._boundary, _options(limits), limits.connections, share_port)
        boundary: Any = self._boundary  # The generated functions declare a server.
        conversion = ConversionServicer(limits)
        generation = GenerationServicer(backend, admission.asks)
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
        """Listens; returns HOST:PORT with the port that it got. Raises OSError."""
        bound = await self._shards.start(self._address, self._credentials)
        for service in _SERVICES:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def drain(self) -> None:
        """Reports NOT_SERVING. Calls are still taken."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Reports NOT_SERVING, takes no new connections and then no new calls, and gives those in
        progress `grace` seconds."""
        await self.drain()
        await self._shards.close(grace)
        self._boundary.stopping.set()
        await self._shards.stop(grace)


def _options(limits: Limits) -> list[tuple[str, int]]:
    """What the server asks of gRPC's core; see grpc/impl/channel_arg_names.h there."""
    metadata = 2 * limits.metadata_bytes + _METADATA_OVERHEAD_BYTES
    streams = min(limits.calls + _CALLS_OF_A_CONNECTION, _MOST_CALLS_OF_A_CONNECTION)
    return [
        ("grpc.max_receive_message_length", max(limits.json_bytes, _USUAL_BYTES) + _OVERHEAD_BYTES),
        ("grpc.max_concurrent_streams", streams),
        ("grpc.max_metadata_size", metadata),
        ("grpc.absolute_max_metadata_size", metadata),
        ("grpc.max_connection_idle_ms", round(limits.idle_seconds * 1000)),
        # Calls in progress end on the old connection, however long they take.
        ("grpc.max_connection_age_ms", _CONNECTION_MS),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        # A connection whose other end is gone without a word is noticed.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _HANDSHAKE_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", _PINGS_MS),
        ("grpc.keepalive_permit_without_calls", 1),  # If not, that is two hours without calls.
    ]


def _add_reflection(names: list[str], boundary: Any) -> None:
    """Reflection as v1alpha, which grpcio has, and as v1, which is the same under another name."""
    servicer = grpc_reflection.aio.ReflectionServicer(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, boundary)  # type: ignore[no-untyped-call]
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    boundary.add_registered_method_handlers(_REFLECTION_V1, {"ServerReflectionInfo": handler})
