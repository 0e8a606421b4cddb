"""Conversion of many records of many files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from imagecall.bulk.conversion import (
    Reading,
    delimited,
    first_message,
    json_lines,
    json_of,
    messages_of,
)
from imagecall.bulk.delimited import read_delimited
from imagecall.bulk.faults import Fault
from imagecall.bulk.inputs import opened, read_json, unreadable
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


class Output(NamedTuple):
    """Converted records of a batch as they are written, and the faults of the others.

    Attributes:
        source: number of the file among the inputs.
        pieces: bytes of the output.
        done: count of the converted records.
    """

    source: int
    pieces: list[bytes]
    done: int
    faults: list[Fault]


class Input(NamedTuple):
    """File that is converted; path of its output, None for standard output."""

    name: str
    output: Path | None


@dataclass(frozen=True)
class Task:
    """Conversion of batches from one format to another.

    Attributes:
        lines: True to read JSON as JSON Lines. False: as what the start of the file is.
    """

    source: Format
    target: Format
    reading: Reading
    lines: bool = False

    def __call__(self, batch: Batch) -> Output:
        """Converts a batch, in any process."""
        messages = messages_of(self.reading, batch) if self.source == "json" else batch
        if self.target == "binary":
            return self._output(messages, delimited(messages.texts))
        texts = json_of(messages)
        return self._output(texts, json_lines(texts.texts))

    def batches(self, inputs: Sequence[Input]) -> Iterator[Batch]:
        """Yields the records of the inputs, of each at least an empty batch."""
        message = ""
        output: object = self  # Equal to no output.
        for source, each in enumerate(inputs):
            message = message if each.output == output else ""
            output = each.output
            for batch in chain(self._read(each.name), [Batch()]):
                if self.source == "json":
                    message = message or first_message(self.reading, batch)
                yield replace(batch, source=source, message=message)

    def _read(self, name: str) -> Iterator[Batch]:
        return read_json(name, lines=self.lines) if self.source == "json" else read_binary(name)

    @staticmethod
    def _output(batch: Batch, pieces: list[bytes]) -> Output:
        return Output(batch.source, pieces, len(batch.texts), batch.faults)


def convert(task: Task, inputs: Sequence[Input], jobs: int) -> Iterator[Output]:
    """Converts files and writes their outputs; yields what was written.

    Consecutive inputs with the same output are written to it one after the other. Raises OSError.
    """
    outputs = in_order(task, task.batches(inputs), jobs)
    for path, of_path in groupby(outputs, lambda output: inputs[output.source].output):
        with written(path) as file:
            for output in of_path:
                file.writelines(output.pieces)
                yield output


def read_binary(name: str) -> Iterator[Batch]:
    """Yields the messages of a file, as `read_delimited` does."""
    try:
        with opened(name) as stream:
            yield from batches(read_delimited(stream))
    except OSError as error:
        yield unreadable(error)
