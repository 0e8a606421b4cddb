"""`imagecall extract`: writes the images in items and documents, and in many of them, to files."""

import argparse
import sys
from pathlib import Path

from imagecall.bulk.extraction import Extraction
from imagecall.bulk.faults import FaultLog
from imagecall.bulk.image_files import DEFAULT_NAME, ImageFiles, name_fault
from imagecall.bulk.inputs import inputs, read_json
from imagecall.bulk.kinds import RECORD_KINDS
from imagecall.bulk.outputs import check_report
from imagecall.commands.codes import EPILOG, exit_code
from imagecall.commands.status_line import print_line
from imagecall.errors import printable


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.epilog = EPILOG
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="JSON, JSON Lines, output of the Batch API or a saved stream of events; a folder of "
        "them; - or none: standard input (Parquet: imagecall convert makes JSON Lines of it)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        required=True,
        help="folder of the images, made if it is missing",
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        default=DEFAULT_NAME,
        help="name of each file, of {id}, {n} (number among the images of the id) and {ext} "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace files that are there from before"
    )
    parser.add_argument(
        "--partial-images", action="store_true", help="write the partial images of events too"
    )
    parser.add_argument(
        "--kind",
        choices=RECORD_KINDS,
        help="kind of every record (default: found by the keys of each)",
    )
    parser.add_argument(
        "--lines",
        action="store_true",
        help="read every file as JSON Lines (default: found by its name and content)",
    )
    parser.add_argument(
        "--errors",
        type=Path,
        metavar="FILE",
        help="write what was refused, and what had no image, as JSON Lines, to a file of its own",
    )


def fault(options: argparse.Namespace) -> str | None:
    """Sentence about a faulty --name; None for a right one."""
    return name_fault(options.name)


def run(options: argparse.Namespace) -> int:
    """Writes the images, and a line for each."""
    named = inputs(options.files)
    if options.errors:
        check_report(options.errors, named.names, [])
    with FaultLog(options.errors, print_line) as log:
        files = ImageFiles(options.output, options.name, options.force)
        extraction = Extraction(files, log, options.kind, options.partial_images)
        for name in named.names:
            for batch in read_json(name, lines=options.lines):
                for line in extraction.take(name, batch):
                    print(printable(line))
        sys.stdout.flush()
        log.finish()
        print_line(f"{extraction.summary()}{named.summary()}")
    return exit_code(extraction.written + extraction.present, extraction.refused)
