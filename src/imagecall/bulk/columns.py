"""Columns of Arrow: texts and messages, each copied once, and the schema of converted records."""

from array import array
from collections import deque
from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from imagecall.bulk.conversion import is_document
from imagecall.bulk.facts import Facts, facts_of

CALL: Final = "call"
DOCUMENT: Final = "document"

FACTS: Final = pa.schema(
    [
        ("id", pa.string()),
        ("status", pa.string()),
        ("format", pa.string()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
    ]
)
"""Columns of the facts of an item."""

MESSAGES: Final = pa.schema([(CALL, pa.binary()), (DOCUMENT, pa.binary()), *FACTS])
"""Columns of a converted record: an ImageGenerationCall or a Document, and the facts of an item."""

_MAX_COPIED_BYTES: Final = 1024 * 1024
_MAX_COLUMN_BYTES: Final = 2**31 - 1


def values(column: pa.Array) -> Iterator[bytes | None]:
    """Yields the values of a column of text or bytes, copied a mebibyte at a time.

    Raises TypeError for a column of another type.
    """
    types = (pa.types.is_string, pa.types.is_binary)
    large = (pa.types.is_large_string, pa.types.is_large_binary)
    if any(is_type(column.type) for is_type in types):
        column = column.view(pa.binary())
    elif any(is_type(column.type) for is_type in large):
        column = column.view(pa.large_binary())
    else:
        raise TypeError(f"the column must be of text or bytes, not {column.type}")
    rows = max(1, _MAX_COPIED_BYTES * len(column) // max(1, column.nbytes))
    slices = deque(column.slice(start, rows) for start in range(0, len(column), rows))
    del column  # Neither the column nor a value outlives its turn here: each may be large.
    while slices:
        copies = slices.popleft().to_pylist()[::-1]
        while copies:
            yield copies.pop()


class BytesColumn:
    """Column of texts or bytes under construction; the values are copied once, at the end."""

    def __init__(self) -> None:
        self._values: list[bytes] = []
        self._offsets = array("i", [0])
        self._is_valid: list[bool] = []

    def add(self, value: bytes | None) -> None:
        """Adds a value. Raises ValueError if the column would have more than 2 GiB."""
        end = self._offsets[-1] + len(value or b"")
        if end > _MAX_COLUMN_BYTES:
            raise ValueError("the batch has more than 2 GiB in a column: make batches smaller")
        if value:
            self._values.append(value)
        self._offsets.append(end)
        self._is_valid.append(value is not None)

    def finish(self, type: pa.DataType) -> pa.Array:
        """Returns the column, of type pa.binary() or pa.string()."""
        validity = pa.array(self._is_valid, pa.bool_()).buffers()[1]
        buffers = [validity, pa.py_buffer(self._offsets), pa.py_buffer(b"".join(self._values))]
        return pa.Array.from_buffers(type, len(self._is_valid), buffers)


class MessageColumns:
    """Columns of converted records under construction, in the schema `MESSAGES`."""

    def __init__(self) -> None:
        self._calls, self._documents = BytesColumn(), BytesColumn()
        self._facts: list[Facts] = []

    def add(self, message: bytes | None) -> None:
        """Adds a serialized message; None for a row without one. Raises ConversionError."""
        is_call = message is not None and not is_document(message)
        facts = facts_of(message) if message is not None and is_call else Facts()
        self._calls.add(message if is_call else None)
        self._documents.add(None if is_call else message)
        self._facts.append(facts)

    def finish(self) -> pa.RecordBatch:
        """Returns the rows."""
        columns = zip(*self._facts, strict=True) if self._facts else [()] * len(FACTS)
        facts = [pa.array(each, field.type) for each, field in zip(columns, FACTS, strict=True)]
        messages = [each.finish(pa.binary()) for each in (self._calls, self._documents)]
        return pa.RecordBatch.from_arrays([*messages, *facts], schema=MESSAGES)
