"""Parquet: rows of JSON, or of serialized messages, read in batches and written in row groups."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from imagecall.bulk import records
from imagecall.bulk.columns import CALL, DOCUMENT, FACTS, MESSAGES, values
from imagecall.bulk.faults import Fault
from imagecall.bulk.inputs import STANDARD_INPUT
from imagecall.bulk.records import Batch, Record, batches

_JSON: Final = "json"
_MAX_BATCH_BYTES: Final = 1024 * 1024
_MAX_BATCH_ROWS: Final = 2000
_MAX_READ_BYTES: Final = 1024 * 1024
_MAX_GROUP_BYTES: Final = 16 * 1024 * 1024


def read_parquet(name: str, column: str | None) -> Iterator[Batch]:
    """Yields the rows of a file, numbered from 1, each with JSON or a serialized message.

    Args:
        name: path of the file.
        column: name of the column of JSON. None: the columns "call" and "document", which have
            messages; else "json"; else the only column.

    Raises OSError for standard input. A file or a column that cannot be read is a fault.
    """
    if name == STANDARD_INPUT:
        raise OSError("Parquet is read from a file, not from standard input")
    try:
        with pq.ParquetFile(name, buffer_size=_MAX_READ_BYTES, pre_buffer=False) as file:
            names = [column] if column else _columns(file.schema_arrow.names)
            for batch in batches(_records(file, names)):
                batch.is_json = not set(names) <= {CALL, DOCUMENT}
                yield batch
    except (pa.ArrowException, OSError, TypeError, KeyError) as error:
        yield Batch(faults=[Fault(0, "", "UNREADABLE", _sentence(error))])


def _records(file: pq.ParquetFile, names: Sequence[str]) -> Iterator[Record | Fault]:
    """Yields the rows; a row group that cannot be read to its end is a fault."""
    if missing := set(names) - set(file.schema_arrow.names):
        raise KeyError(f"there is no column {', '.join(missing)} in the file")
    options: Any = {"columns": [*names], "use_threads": False}
    start = 1
    for number in range(file.num_row_groups):
        first, group = start, file.metadata.row_group(number)
        try:
            for rows in file.iter_batches(_rows_at_once(group), row_groups=[number], **options):
                numbers = range(first, first + rows.num_rows)
                columns = [values(rows.column(name)) for name in names]
                del rows  # They may be large, as may a value: no local holds either.
                yield from map(_record, numbers, *columns)
                first = numbers.stop
        except (pa.ArrowException, OSError) as error:
            yield Fault(first, "", "UNREADABLE", _sentence(error))
        start += group.num_rows


def _record(number: int, *row: bytes | None) -> Record | Fault:
    """Record of the first value of a row."""
    value = next((each for each in row if each is not None), None)
    if value is None:
        return Fault(number, "", "NO_VALUE", "the row is null")
    if len(value) > records.MAX_RECORD_BYTES:
        return records.too_large(number)
    return Record(number, value)


def _columns(names: Sequence[str]) -> list[str]:
    """Columns to read, of those of a file. Raises KeyError if the choice is not clear."""
    if messages := [name for name in (CALL, DOCUMENT) if name in names]:
        return messages
    if _JSON in names:
        return [_JSON]
    if len(names) == 1:
        return [*names]
    raise KeyError(f"name the column of JSON by --column: {', '.join(names)}")


def _rows_at_once(group: pq.RowGroupMetaData) -> int:
    """Rows of a row group that have about a mebibyte."""
    row_bytes: int = group.total_byte_size // max(1, group.num_rows)
    return max(1, min(_MAX_BATCH_ROWS, _MAX_BATCH_BYTES // max(1, row_bytes)))


def _sentence(error: Exception) -> str:
    return str(error.args[0] if isinstance(error, KeyError) else error).split("\n")[0]


class ParquetWriter:
    """Writer of rows in the schema `MESSAGES`, in row groups of at most 16 MiB, or of a batch."""

    def __init__(self, file: pa.NativeFile) -> None:
        options: Any = {"compression": "zstd", "use_dictionary": ["status", "format"]}
        options["write_statistics"] = (
            FACTS.names
        )  # Those of a message are copies of whole messages.
        self._writer = pq.ParquetWriter(file, MESSAGES, **options)
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0

    def write(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Writes rows, once there are enough for a row group."""
        for rows in batches:
            if self._pending_bytes + rows.nbytes > _MAX_GROUP_BYTES:
                self._flush()
            self._pending.append(rows)
            self._pending_bytes += rows.nbytes
        if self._pending_bytes >= _MAX_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Writes the rest of the rows, and the end of the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_batches(self._pending))
            self._pending, self._pending_bytes = [], 0
            pa.default_memory_pool().release_unused()


@contextmanager
def parquet_writer(file: BinaryIO) -> Iterator[ParquetWriter]:
    """Writes Parquet to a file, which is complete at the end of the context."""
    # Arrow copies what it writes to a file of Python, and opens no pipe.
    with pa.OSFile(file.name, "wb") if file.seekable() else pa.PythonFile(file, "w") as sink:
        writer = ParquetWriter(sink)
        yield writer
        writer.close()
