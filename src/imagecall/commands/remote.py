"""Conversions by a running server, for the command line."""

import argparse
import os
from typing import Any, Final

import grpc

from imagecall.conversion.document import KINDS
from imagecall.json.diagnosis import diagnose
from imagecall.rpc.addresses import ServerAddress
from imagecall.rpc.channel import bearer, blocking_channel
from imagecall.rpc.status import error_of
from imagecall.server.settings import TOKEN
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.document_pb2 import Document
from imagecall.v1.image_generation_call_pb2 import ImageGenerationCall

_UNLIMITED: Final = [("grpc.max_receive_message_length", -1)]
_SECONDS: Final = 60.0


def parse_json(
    server: ServerAddress, data: bytes, options: argparse.Namespace
) -> ImageGenerationCall | Document:
    """Parses JSON on a server. Raises the server's ConversionError, or ConnectionError."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise diagnose(data) from None
    with blocking_channel(server, _UNLIMITED) as channel:
        stub = ConversionServiceStub(channel)
        try:
            if options.document:
                kind: Any = KINDS[options.document]
                request = pb.ParseDocumentRequest(json=text, kind=kind)
                return stub.ParseDocument(request, timeout=_SECONDS, metadata=_metadata()).document
            profile = pb.Profile.Value(f"PROFILE_{(options.profile or 'unspecified').upper()}")
            parse = pb.ParseCallRequest(json=text, variant=options.variant, profile=profile)
            return stub.ParseCall(parse, timeout=_SECONDS, metadata=_metadata()).call
        except grpc.RpcError as error:
            raise _translated(error, server) from None


def format_json(server: ServerAddress, message: ImageGenerationCall | Document) -> bytes:
    """Formats a message as JSON on a server. Raises its ConversionError, or ConnectionError."""
    with blocking_channel(server, _UNLIMITED) as channel:
        stub = ConversionServiceStub(channel)
        try:
            if isinstance(message, Document):
                request = pb.FormatDocumentRequest(document=message)
                return stub.FormatDocument(
                    request, timeout=_SECONDS, metadata=_metadata()
                ).json.encode()
            call = pb.FormatCallRequest(call=message)
            return stub.FormatCall(call, timeout=_SECONDS, metadata=_metadata()).json.encode()
        except grpc.RpcError as error:
            raise _translated(error, server) from None


def _metadata() -> tuple[tuple[str, str], ...]:
    return bearer(os.environ.get(TOKEN, ""))


def _translated(error: grpc.RpcError, server: ServerAddress) -> Exception:
    """Returns the ConversionError of a status, or else a ConnectionError."""
    failure = error_of(error)
    return (
        failure
        if failure.reason
        else ConnectionError(f"{server.target}: {failure.code}: {failure}")
    )
