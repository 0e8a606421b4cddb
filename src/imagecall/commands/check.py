"""`imagecall check`: checks a server of the schema by the suite of conformance."""

import argparse
import asyncio
import os
import textwrap
from pathlib import Path
from typing import Final

import grpc

from imagecall.access.setting import number, seconds
from imagecall.commands.arguments import (
    add_image_options,
    client_tls,
    key_and_json,
    server,
    tls_fault,
    utf8,
)
from imagecall.conformance.report import as_json, as_junit, row, summary
from imagecall.conformance.session import CheckSettings, Session
from imagecall.conformance.suite import FAILED, RULES, Outcome
from imagecall.conformance.suite import run as checked
from imagecall.rpc.addresses import ServerAddress
from imagecall.rpc.channel import aio_channel, bearer, credentials_of, name_options
from imagecall.server.settings import TOKEN, ClientTlsSettings, add_settings

_DEFAULTS: Final = CheckSettings()
_UNLIMITED: Final = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
_MOST_IMAGES: Final = 100_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Checks a server of imagecall.v1 by ordinary requests, and prints a row for each rule.\n"
        "The rules are in proto/README.md, under the heading Writing a service."
    )
    names = " ".join(rule.name for rule in RULES)
    rules = textwrap.fill(
        names, 78, break_on_hyphens=False, initial_indent="  ", subsequent_indent="  "
    )
    parser.epilog = (
        f"rules:\n{rules}\n\n"
        "exit codes:\n"
        "  0  no rule failed\n"
        "  1  a rule failed, or the server cannot be reached\n"
        "  2  wrong usage, such as a file that cannot be read\n"
    )
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        type=server,
        help="grpc://HOST:PORT, or grpcs://HOST:PORT with TLS; $IMAGECALL_TOKEN holds the token, "
        "if the server requires one",
    )
    _add_report_options(parser)
    _add_request_options(parser)
    add_settings(parser, ClientTlsSettings)


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose the rules and the reports."""
    parser.add_argument(
        "--only",
        metavar="RULE",
        action="append",
        default=[],
        choices=[rule.name for rule in RULES],
        help="check this rule only; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--junit", metavar="FILE", type=Path, help="write JUnit XML to this file")


def _add_request_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the requests, and of their number and time."""
    parser.add_argument(
        "--max-images",
        metavar="N",
        type=number(0, _MOST_IMAGES),
        default=_DEFAULTS.max_images,
        help="most images to ask for; rules that need more are skipped (default: %(default)s, "
        "enough for all)",
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        type=utf8,
        default=_DEFAULTS.prompt,
        help="description of the images (default: %(default)s)",
    )
    add_image_options(parser)
    parser.add_argument(
        "--slow",
        metavar="KEY=JSON",
        type=key_and_json,
        action="append",
        default=[],
        help="key with which an image takes some seconds, for the rules of deadline and "
        "cancellation; may be repeated",
    )
    parser.add_argument(
        "--tolerance",
        metavar="SECONDS",
        type=seconds(),
        default=_DEFAULTS.tolerance,
        help="time in which a deadline and a cancellation take effect; the best of three attempts "
        "counts (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds(),
        default=_DEFAULTS.timeout,
        help="longest time of a call (default: %(default)g)",
    )


def fault(options: argparse.Namespace) -> str | None:
    """Sentence about options that contradict each other; None if none do."""
    return tls_fault(options, options.address)


def run(options: argparse.Namespace) -> int:
    """Prints the report; returns the exit code. Raises ImagecallError, SettingError, OSError."""
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    address: ServerAddress = options.address
    tls = client_tls(options)
    channel_options = [*name_options(tls), *_UNLIMITED]
    outcomes: list[Outcome] = []
    async with aio_channel(
        address.target, credentials_of(address, tls), channel_options
    ) as channel:
        session = _session(options, channel)
        async for outcome in checked(session, options.only):
            outcomes.append(outcome)
            if not options.json:
                print(row(outcome), flush=True)
    if options.json:
        print(as_json(outcomes, address.target, session.images))
    else:
        print(summary(outcomes, session.images))
    if options.junit:
        options.junit.write_bytes(as_junit(outcomes, address.target))
    return int(any(outcome.result == FAILED for outcome in outcomes))


def _session(options: argparse.Namespace, channel: grpc.aio.Channel) -> Session:
    settings = CheckSettings(
        max_images=options.max_images,
        prompt=options.prompt,
        model=options.model or "",
        size=options.size or "",
        quality=options.quality or "",
        extra=options.set,
        slow=options.slow,
        tolerance=options.tolerance,
        timeout=options.timeout,
    )
    address: ServerAddress = options.address
    token = bearer(os.environ.get(TOKEN, ""))
    return Session(channel, settings, token, address.target, address.tls)
