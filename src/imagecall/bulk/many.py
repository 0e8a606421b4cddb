"""Conversion of many records of many files, with counts and progress."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias

from imagecall.bulk.conversion import MessageName, Reading, delimited, json_lines, json_of, messages_of
from imagecall.bulk.delimited import read_delimited
from imagecall.bulk.faults import Fault, FaultLog
from imagecall.bulk.inputs import opened, read_json
from imagecall.bulk.jobs import in_order
from imagecall.bulk.outputs import written
from imagecall.bulk.records import Batch, batches

Format: TypeAlias = Literal["json", "binary"]

SUFFIXES: Final[dict[str, Format]] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".sse": "json",
    ".binpb": "binary",
    ".pb": "binary",
}
"""Format of each end of a file's name."""

_PROGRESS_SECONDS: Final = 0.2


@dataclass
class Output:
    """Converted records of a batch, as they are written, and the faults of the others."""

    data: bytes
    done: int
    faults: list[Fault]
    message: MessageName | None = None


@dataclass(frozen=True)
class Task:
    """Conversion of a batch from one format to another, for a process of its own."""

    source: Format
    target: Format
    reading: Reading

    def __call__(self, batch: Batch) -> Output:
        message: MessageName | None = None
        if self.source == "json":
            batch, message = messages_of(self.reading, batch)
        if self.target == "binary":
            return Output(delimited(batch.records), len(batch.records), batch.faults, message)
        texts = json_of(batch)
        return Output(json_lines(texts.records), len(texts.records), texts.faults, message)
