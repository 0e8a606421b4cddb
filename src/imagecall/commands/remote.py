"""Conversions by a running server, for the command line."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc

from imagecall.commands.arguments import client_tls
from imagecall.conversion.document import KINDS, Kind
from imagecall.json.diagnosis import diagnose
from imagecall.rpc.addresses import ServerAddress
from imagecall.rpc.channel import bearer, blocking_channel
from imagecall.rpc.handshake import call_error
from imagecall.server.settings import TOKEN
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall

_UNLIMITED: Final = [("grpc.max_receive_message_length", -1)]
_SECONDS: Final = 60.0


def parse_json(
    data: bytes, kind: Kind | None, options: argparse.Namespace
) -> ImageGenerationCall | Document:
    """Parses a document of a kind, or an item, on the server of the options.

    Raises ImagecallError.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise diagnose(data) from None
    with _service(options) as stub:
        if kind:
            number: Any = KINDS[kind]
            request = pb.ParseDocumentRequest(json=text, kind=number)
            document: Document = stub.ParseDocument(request, **_options()).document
            return document
        profile = pb.Profile.Value(f"PROFILE_{(options.profile or 'unspecified').upper()}")
        parse = pb.ParseCallRequest(json=text, variant=options.variant, profile=profile)
        call: ImageGenerationCall = stub.ParseCall(parse, **_options()).call
        return call


def format_json(message: ImageGenerationCall | Document, options: argparse.Namespace) -> bytes:
    """Formats a message as JSON on the server of the options. Raises ImagecallError."""
    with _service(options) as stub:
        if isinstance(message, Document):
            request = pb.FormatDocumentRequest(document=message)
            json: str = stub.FormatDocument(request, **_options()).json
        else:
            json = stub.FormatCall(pb.FormatCallRequest(call=message), **_options()).json
        return json.encode()


@contextmanager
def _service(options: argparse.Namespace) -> Iterator[Any]:
    """Yields the stub of the service. Raises ImagecallError for a failed call."""
    server: ServerAddress = options.server
    with blocking_channel(server, client_tls(options), _UNLIMITED) as channel:
        try:
            yield ConversionServiceStub(channel)
        except grpc.RpcError as error:
            raise call_error(error, server.target, tls=server.tls) from None


def _options() -> dict[str, Any]:
    return {"timeout": _SECONDS, "metadata": bearer(os.environ.get(TOKEN, ""))}
