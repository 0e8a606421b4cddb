"""Conversion of columns of Arrow, for programs and for engines such as Ray Data and Spark.

Each function gets a RecordBatch and returns one with a row for each row: a refused row has its
reason, and the others are converted. The functions are picklable, also as functools.partial.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import pyarrow as pa

from imagecall.bulk.columns import CALL, DOCUMENT, MESSAGES, BytesColumn, MessageColumns, values
from imagecall.bulk.conversion import Reading, json_of_message
from imagecall.bulk.facts import image_in
from imagecall.bulk.kinds import RecordKind
from imagecall.conversion.converter import CALLS, Profile
from imagecall.errors import ConversionError

JSON: Final = "json"

_FAULTS: Final = pa.schema(
    [("reason", pa.string()), ("pointer", pa.string()), ("message", pa.string())]
)
_NO_FAULT: Final = (None, None, None)
_NO_VALUE: Final = ("NO_VALUE", "", "the row is null")

CALLS_SCHEMA: Final = pa.schema([*MESSAGES, *_FAULTS])
"""Columns that `calls_from_json` returns."""

JSON_SCHEMA: Final = pa.schema([(JSON, pa.string()), *_FAULTS])
"""Columns that `json_from_calls` returns."""


def calls_from_json(
    batch: pa.RecordBatch,
    column: str = JSON,
    *,
    keep: Sequence[str] = (),
    kind: RecordKind | None = None,
    variant: str = CALLS.default,
    profile: Profile = Profile.WIRE,
) -> pa.RecordBatch:
    """Converts a column of JSON to serialized messages.

    Args:
        batch: rows with a column of JSON, as text or bytes.
        column: name of that column.
        keep: names of further columns that the result begins with, as they are.
        kind: kind of every row. None: found by the keys of each.
        variant: variant as which items are read.
        profile: strictness of the checks on items.

    Returns a batch with the columns of `keep` and those of `CALLS_SCHEMA`: "call", a serialized
    ImageGenerationCall, or "document", a serialized Document, for a request, a response, an event
    or a line of the Batch API; "id", "status", "format", "size" and "sha256" of an item and its
    image; "reason", "pointer" and "message" of a row that is refused, which has no more columns.

    Raises KeyError for an unknown column, TypeError for one of another type, and ValueError for a
    result of more than 2 GiB.
    """
    reading = Reading(kind, variant, profile is Profile.STRICT)
    messages = MessageColumns()
    faults: list[tuple[str | None, ...]] = []
    for text in values(batch.column(column)):
        try:
            messages.add(None if text is None else reading.serialized(text)[1])
            faults.append(_NO_VALUE if text is None else _NO_FAULT)
        except ConversionError as error:
            messages.add(None)
            faults.append(_fault(error))
    return _rows(batch, keep, CALLS_SCHEMA, [*messages.finish().columns, *_fault_columns(faults)])


def json_from_calls(
    batch: pa.RecordBatch, columns: Sequence[str] = (CALL, DOCUMENT), *, keep: Sequence[str] = ()
) -> pa.RecordBatch:
    """Converts columns of serialized messages to JSON: the inverse of `calls_from_json`.

    Of each row, the first column that has a value is converted. Returns a batch with the columns of
    `keep` and those of `JSON_SCHEMA`. Raises as `calls_from_json` does.
    """
    texts = BytesColumn()
    faults: list[tuple[str | None, ...]] = []
    for row in zip(*(values(batch.column(name)) for name in columns), strict=True):
        message = next((each for each in row if each is not None), None)
        try:
            texts.add(None if message is None else json_of_message(message))
            faults.append(_NO_VALUE if message is None else _NO_FAULT)
        except ConversionError as error:
            texts.add(None)
            faults.append(_fault(error))
    arrays = [texts.finish(pa.string()), *_fault_columns(faults)]
    return _rows(batch, keep, JSON_SCHEMA, arrays)


def image_of(call: bytes | pa.BinaryScalar) -> bytes | memoryview | None:
    """Image of a serialized ImageGenerationCall; None for none. Raises ConversionError.

    A large image is a view of the message, and no copy of it.
    """
    return image_in(call if isinstance(call, bytes) else call.as_py())


def _rows(
    batch: pa.RecordBatch, keep: Sequence[str], schema: pa.Schema, arrays: Sequence[pa.Array]
) -> pa.RecordBatch:
    if both := set(keep) & set(schema.names):
        raise ValueError(f"the result has columns of its own named {', '.join(sorted(both))}")
    kept = [batch.schema.field(name) for name in keep]
    columns = [*map(batch.column, keep), *arrays]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([*kept, *schema]))


def _fault(error: ConversionError) -> tuple[str, str, str]:
    return error.reason, error.pointer, str(error)


def _fault_columns(faults: Iterable[tuple[str | None, ...]]) -> list[pa.Array]:
    columns = [*zip(*faults, strict=True)] or [()] * len(_FAULTS)
    return [pa.array(each, pa.string()) for each in columns]
