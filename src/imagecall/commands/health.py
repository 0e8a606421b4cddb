"""`imagecall health`: checks the health of a server, for probes."""

import argparse
import os
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from imagecall.access.setting import seconds
from imagecall.commands.arguments import client_tls, server, tls_fault
from imagecall.errors import GenerationError, ImagecallError, quoted
from imagecall.rpc.addresses import ServerAddress
from imagecall.rpc.channel import bearer, blocking_channel
from imagecall.rpc.handshake import call_error
from imagecall.server.settings import TOKEN, ClientTlsSettings, ServerSettings, add_settings

_SERVING = HealthCheckResponse.SERVING


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Calls grpc.health.v1.Health of a server, for probes."
    parser.epilog = (
        "exit codes:\n"
        "  0  the server is SERVING\n"
        "  1  the server is not SERVING, or does not answer in time\n"
        "  2  wrong usage, such as a file that cannot be read\n"
    )
    parser.add_argument(
        "address",
        nargs="?",
        metavar="ADDRESS",
        type=server,
        default=ServerAddress(ServerSettings.grpc),
        help="HOST:PORT, or grpcs://HOST:PORT with TLS; $IMAGECALL_TOKEN holds the token, if the "
        f"server requires one (default: {ServerSettings.grpc})",
    )
    parser.add_argument(
        "--service",
        metavar="NAME",
        default="",
        help="service, such as imagecall.v1.ImageGenerationService (default: the whole server)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds(),
        default=5.0,
        help="longest wait for the answer (default: 5)",
    )
    add_settings(parser, ClientTlsSettings)


def fault(options: argparse.Namespace) -> str | None:
    """Sentence about options that contradict each other; None if none do."""
    return tls_fault(options, options.address)


def run(options: argparse.Namespace) -> int:
    """Prints the status; returns the exit code. Raises ImagecallError for a failed call."""
    address: ServerAddress = options.address
    with blocking_channel(address, client_tls(options)) as channel:
        stub: Any = HealthStub(channel)
        try:
            answer = stub.Check(
                HealthCheckRequest(service=options.service),
                timeout=options.timeout,
                metadata=bearer(os.environ.get(TOKEN, "")),
            )
        except grpc.RpcError as error:
            raise _named(call_error(error, address.target, tls=address.tls), options) from None
    print(HealthCheckResponse.ServingStatus.Name(answer.status))
    return 0 if answer.status == _SERVING else 1


def _named(error: ImagecallError, options: argparse.Namespace) -> ImagecallError:
    """Returns the error, with a sentence in place of the empty message of a health service."""
    if error.code != "NOT_FOUND" or str(error):
        return error
    message = f"{options.address.target} has no service {quoted(options.service)}"
    return GenerationError("", message, code=error.code)
