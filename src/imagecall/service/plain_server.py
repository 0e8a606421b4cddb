"""Adds a backend to a server of grpcio that its program has made: of grpc.aio, or with threads."""

from typing import Any, Final

import grpc

from imagecall.access.admission import Admission
from imagecall.doors.grpc.boundary import Boundary
from imagecall.doors.grpc.services import GenerationServicer
from imagecall.generation.backend import Backend
from imagecall.json.text import MAX_BYTES
from imagecall.service.threaded_servicer import ThreadedServicer
from imagecall.v1.image_generation_service_pb2_grpc import (
    add_ImageGenerationServiceServicer_to_server,
)

SERVER_OPTIONS: Final = (("grpc.max_receive_message_length", MAX_BYTES),)
"""Options of a server that takes requests with images: gRPC's own limit is 4 MiB."""


def add_to_server(backend: Backend, server: grpc.Server | grpc.aio.Server) -> None:
    """Adds imagecall.v1.ImageGenerationService to a server, before the server starts.

    A server with threads runs the backend on an event loop in a thread, one for the whole process.
    The server does not close the backend.
    """
    if not isinstance(server, grpc.aio.Server):
        add_ImageGenerationServiceServicer_to_server(ThreadedServicer(backend), server)
        return
    boundary: Any = Boundary(Admission())  # The generated function declares a server.
    add_ImageGenerationServiceServicer_to_server(GenerationServicer(backend, False), boundary)
    server.add_generic_rpc_handlers((boundary,))
