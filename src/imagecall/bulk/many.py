"""Conversion of many records of many files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TypeAlias

from imagecall.bulk.conversion import (
    Reading,
    delimited,
    first_message,
    json_lines,
    json_of,
    messages_of,
)
from imagecall.bulk.delimited import read_delimited
from imagecall.bulk.faults import Fault, fault_of, is_read
from imagecall.bulk.inputs import Format, opened, read_json, size_of, unreadable
from imagecall.bulk.jobs import in_order
from imagecall.bulk.outputs import written
from imagecall.bulk.records import Batch, batches
from imagecall.errors import ConversionError

_MAX_ALONE_BYTES: Final = 24 * 1024 * 1024
"""Most bytes of inputs that one process converts before another one would have started."""

Content: TypeAlias = list[Any]
"""Converted records: pieces of bytes, or for Parquet a pyarrow.RecordBatch. Empty once written."""


class Output(NamedTuple):
    """Converted records of a batch as they are written, and the faults of the others.

    Attributes:
        source: number of the file among the inputs.
        content: the converted records.
        done: count of the converted records.
        read_bytes: bytes of the records that were read.
    """

    source: int
    content: Content
    done: int
    faults: list[Fault]
    read_bytes: int


class Input(NamedTuple):
    """File that is converted.

    Attributes:
        name: path of the file; "-" for standard input.
        format: format of the file.
        output: path of the output. None: standard output.
    """

    name: str
    format: Format
    output: Path | None


@dataclass(frozen=True)
class Task:
    """Conversion of batches to one format.

    Attributes:
        lines: True to read JSON as JSON Lines. False: as what the start of the file is.
        column: column of JSON in Parquet. None: found.
    """

    target: Format
    reading: Reading
    lines: bool = False
    column: str | None = None

    def __call__(self, batch: Batch) -> Output:
        """Converts a batch, in any process."""
        read_bytes = batch.size
        batch = batch.split()
        messages = messages_of(self.reading, batch) if batch.is_json else batch
        content: Content
        match self.target:
            case "json":
                messages = json_of(messages)
                content = json_lines(messages.texts)
            case "binary":
                content = delimited(messages.texts)
            case "parquet":
                messages, content = _rows_of(messages)
        done = len(messages.texts)
        batch.texts = ()  # The batch lives until the next is there, and its texts may be large.
        return Output(batch.source, content, done, messages.faults, read_bytes)

    def batches(self, inputs: Sequence[Input]) -> Iterator[Batch]:
        """Yields the records of the inputs: for each at least one batch, which may be empty."""
        message = ""
        output: object = self  # Equal to no output.
        for source, each in enumerate(inputs):
            message = message if each.output == output else ""
            output = each.output
            for batch in chain(self._read(each), [Batch()]):
                if batch.is_json and self.target != "parquet":  # Parquet has a column for each.
                    message = message or first_message(self.reading, batch)
                batch.source, batch.message = source, message
                yield batch

    def _read(self, source: Input) -> Iterator[Batch]:
        match source.format:
            case "json":
                return read_json(source.name, lines=self.lines)
            case "binary":
                return read_binary(source.name)
            case "parquet":
                from imagecall.bulk.parquet import read_parquet

                return read_parquet(source.name, self.column)


def convert(task: Task, inputs: Sequence[Input], jobs: int) -> Iterator[Output]:
    """Converts files and writes their outputs; yields what was written.

    Consecutive inputs with the same output are written to it one after the other. Raises OSError.

    Args:
        jobs: most processes that convert. Small files are converted by this one.
    """
    sizes = [size_of(each.name) for each in inputs]
    is_small = None not in sizes and sum(filter(None, sizes)) <= _MAX_ALONE_BYTES
    with closing(in_order(task, task.batches(inputs), 1 if is_small else jobs)) as outputs:
        for path, of_path in groupby(outputs, lambda output: inputs[output.source].output):
            yield from _written(of_path, path, task.target)


def _written(outputs: Iterator[Output], path: Path | None, target: Format) -> Iterator[Output]:
    """Writes a file, and yields what was written.

    No file is made, and none is replaced, if faults are all that there is.
    """
    is_faulty, is_complete = False, True
    for output in outputs:
        if output.done:
            outputs = chain([output], outputs)
            break
        is_faulty |= bool(output.faults)
        is_complete &= is_read(output.faults)
        yield output
    else:
        if is_faulty:
            return
    with written(path) as whole, _writer(whole.file, target) as write:
        whole.is_complete = is_complete
        for output in outputs:
            write(output.content)
            output.content.clear()  # The output may live until the next is there.
            whole.is_complete &= is_read(output.faults)
            yield output


@contextmanager
def _writer(file: BinaryIO, target: Format) -> Iterator[Callable[[Content], object]]:
    if target != "parquet":
        yield file.writelines
        return
    from imagecall.bulk.parquet import parquet_writer

    with parquet_writer(file) as writer:
        yield writer.write


def _rows_of(batch: Batch) -> tuple[Batch, Content]:
    """Rows of serialized messages; a message without facts becomes a fault."""
    from imagecall.bulk.columns import MessageColumns

    columns = MessageColumns()
    numbers: list[int] = []
    messages: list[bytes] = []
    faults = [*batch.faults]
    for number, message in batch.records:
        try:
            columns.add(message)
            numbers.append(number)
            messages.append(message)
        except ConversionError as error:
            faults.append(fault_of(error, number))
    return replace(batch, numbers=numbers, texts=messages, faults=faults), [columns.finish()]


def read_binary(name: str) -> Iterator[Batch]:
    """Yields the messages of a file, as `read_delimited` does."""
    try:
        with opened(name) as stream:
            for batch in batches(read_delimited(stream)):
                batch.is_json = False
                yield batch
    except OSError as error:
        yield unreadable(error)
