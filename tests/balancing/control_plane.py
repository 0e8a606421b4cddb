"""A small control plane: it tells xDS clients what stands in files, and nothing that changes.

A program, for an environment of its own: xds-protos overwrites files of other packages.

    python tests/balancing/control_plane.py FILE...
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import grpc
import yaml
from envoy.config.cluster.v3 import cluster_pb2  # noqa: F401
from envoy.config.endpoint.v3 import endpoint_pb2  # noqa: F401
from envoy.config.listener.v3 import listener_pb2  # noqa: F401
from envoy.config.route.v3 import route_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import (  # noqa: F401
    http_connection_manager_pb2,
)
from envoy.service.discovery.v3.ads_pb2_grpc import (
    AggregatedDiscoveryServiceServicer,
    add_AggregatedDiscoveryServiceServicer_to_server,
)
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.protobuf.json_format import ParseDict

_VERSION: Final = "1"


class ControlPlane(AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Serves discovery responses (ADS) over gRPC.

    Args:
        texts: discovery responses in YAML, of one type of resource each.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._answers = {}
        for text in texts:
            answer = ParseDict(yaml.safe_load(text), DiscoveryResponse())
            answer.version_info = answer.nonce = _VERSION
            answer.type_url = answer.resources[0].type_url
            self._answers[answer.type_url] = answer
        self._server = grpc.aio.server()
        add_AggregatedDiscoveryServiceServicer_to_server(self, self._server)

    async def start(self) -> int:
        """Listens on a free port of loopback, which it returns."""
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    async def serve(self) -> None:
        """Until the process ends."""
        await self._server.wait_for_termination()

    async def StreamAggregatedResources(
        self, requests: AsyncIterator[DiscoveryRequest], context: Any
    ) -> AsyncIterator[DiscoveryResponse]:
        """Answers what is asked for a first time; what follows on a type acknowledges that."""
        async for request in requests:
            assert not request.HasField("error_detail"), request.error_detail.message
            if not request.response_nonce:
                yield self._answers[request.type_url]


async def main(texts: list[str]) -> None:
    plane = ControlPlane(texts)
    print(await plane.start(), flush=True)
    await plane.serve()


if __name__ == "__main__":
    asyncio.run(main([Path(file).read_text() for file in sys.argv[1:]]))
