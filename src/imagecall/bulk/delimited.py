"""Serialized messages in a file, each after its length as a varint.

That is the standard form of protobuf: writeDelimitedTo in Java, protodelim in Go.
"""

from collections.abc import Iterator
from io import BufferedReader
from itertools import count
from typing import Final

from imagecall.bulk import records
from imagecall.bulk.faults import Fault
from imagecall.bulk.records import Record

_MAX_LENGTH_BYTES: Final = 5
_SKIPPED: Final = 1024 * 1024


def read_delimited(stream: BufferedReader) -> Iterator[Record | Fault]:
    """Yields the messages of a file, numbered from 1, up to a place where it is no such file."""
    for number in count(1):
        try:
            length = _read_length(stream)
            if length is None:
                return
            if length <= records.MAX_RECORD_BYTES:
                yield Record(number, _read_message(stream, length))
            else:
                yield records.too_large(number)
                _skip(stream, length)
        except EOFError as error:
            yield Fault(number, "", "UNREADABLE", str(error))
            return


def _read_length(stream: BufferedReader) -> int | None:
    """Reads the length of a message; None at the end of the file. Raises EOFError for no length."""
    length = 0
    for index in range(_MAX_LENGTH_BYTES):
        byte = stream.read(1)
        if not byte:
            if index:
                raise EOFError("the file ends within the length of a message")
            return None
        length |= (byte[0] & 0x7F) << 7 * index
        if byte[0] < 0x80:
            return length
    raise EOFError("the file has no messages with their lengths: a length has more than 5 bytes")


def _read_message(stream: BufferedReader, length: int) -> bytes:
    """Reads a message. Raises EOFError if the file is shorter."""
    data = stream.read(length)
    if len(data) < length:
        raise EOFError("the file ends within a message")
    return data


def _skip(stream: BufferedReader, length: int) -> None:
    while length:
        length -= len(_read_message(stream, min(length, _SKIPPED)))
