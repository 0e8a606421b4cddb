"""Records of a file in batches: lines of JSON, server-sent events, an array, or one document.

A byte order mark at the start of a file is left out, as are blank lines. A record larger than a
limit is a fault, and the rest of the file is read.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import BufferedReader
from itertools import chain, count
from typing import Final, NamedTuple

import jiter

from imagecall.bulk.faults import Fault
from imagecall.json.text import elements

MAX_RECORD_BYTES: Final = 48 * 1024 * 1024
"""Largest record. Up to five copies of a record are in memory while it is converted."""

_MAX_BATCH_BYTES: Final = 512 * 1024
_MAX_BATCH_RECORDS: Final = 2000
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_SSE_LINE: Final = re.compile(rb"(?:data|event|id|retry)?:")
_SSE_END: Final = b"[DONE]"
_EVENT_NAME: Final = re.compile(rb"response\.[a-z0-9_.]+")
_SPACES_LOOKED_AT: Final = 16
_SPACES: Final = b" \t\r\n"
_FOREIGN: Final = {
    b"\x1f\x8b": "gzip data: gunzip -c FILE | imagecall ...",
    b"\x28\xb5\x2f\xfd": "zstd data: zstd -dc FILE | imagecall ...",
    b"BZh": "bzip2 data: bunzip2 -c FILE | imagecall ...",
    b"\xfd7zXZ": "xz data: xz -dc FILE | imagecall ...",
    b"PK\x03\x04": "a ZIP archive: unzip -p FILE | imagecall ...",
    b"PAR1": "Parquet: imagecall convert --from parquet --to json FILE | imagecall ...",
    b"\xff\xfe": "UTF-16: iconv -f UTF-16 -t UTF-8 FILE | imagecall ...",
    b"\xfe\xff": "UTF-16: iconv -f UTF-16 -t UTF-8 FILE | imagecall ...",
}
"""First bytes of files that are not read, with a phrase for each."""


class Record(NamedTuple):
    """JSON text, or a serialized message, and its first line or its number in the file, from 1."""

    line: int
    data: bytes


_BLANK: Final = Record(0, b"")


@dataclass
class Batch:
    """Some consecutive records of a file, and the faults found while they were read.

    Attributes:
        numbers: first line, or number in the file, of each record.
        texts: data of each record.
        lines: whole lines, each with its line feed, which `split` makes records of: a process
            receives them much faster than records.
        first: number of the first of these lines.
        source: number of the file among the inputs.
        message: name of the message that each record becomes; "" for any.
        is_json: True if the texts are JSON, False if they are serialized messages.
    """

    numbers: Sequence[int] = ()
    texts: Sequence[bytes] = ()
    lines: bytes = b""
    first: int = 1
    faults: list[Fault] = field(default_factory=list)
    source: int = 0
    message: str = ""
    is_json: bool = True

    @property
    def size(self) -> int:
        """Bytes of the records."""
        return len(self.lines) + sum(map(len, self.texts))

    def split(self) -> "Batch":
        """Batch with the lines as records, but for blank ones; the batch itself without lines."""
        if not self.lines:
            return self
        texts = self.lines.split(b"\n")[:-1]
        numbers: Sequence[int] = range(self.first, self.first + len(texts))
        if not all(map(bytes.strip, texts)):
            numbers = [number for number, text in zip(numbers, texts, strict=True) if text.strip()]
            texts = [text for text in texts if text.strip()]
        return replace(self, numbers=numbers, texts=texts, lines=b"")

    @property
    def records(self) -> Iterable[tuple[int, bytes]]:
        """Number and data of each record."""
        return zip(self.numbers, self.texts, strict=True)


def foreign(head: bytes) -> str:
    """Sentence for the start of a file of another format; "" for a file that can be read."""
    for start, phrase in _FOREIGN.items():
        if head.startswith(start):
            return f"the file is {phrase}"
    return ""


def json_records(stream: BufferedReader, head: bytes, *, lines: bool) -> Iterator[Batch]:
    """Reads JSON Lines, server-sent events or one document: with `lines`, JSON Lines.

    `head` is the start of the file, which is still to be read from the stream.
    """
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if not lines and _SSE_LINE.match(text):
        return batches(_events(_lines(stream)))
    if not lines and _is_document(text):
        return batches(_whole(stream))
    return _line_batches(stream)


def batches(records: Iterable[Record | Fault]) -> Iterator[Batch]:
    """Collects records into batches of about half a mebibyte."""
    size = 0
    collected: list[Record] = []
    faults: list[Fault] = []
    for record in records:
        if isinstance(record, Fault):
            faults.append(record)
            continue
        collected.append(record)
        size += len(record.data)
        if size >= _MAX_BATCH_BYTES or len(collected) >= _MAX_BATCH_RECORDS:
            batch = _batch(collected, faults)
            collected, faults, size = [], [], 0
            del record  # It may be large: the batch alone holds it.
            yield batch
    if collected or faults:
        yield _batch(collected, faults)


def _batch(records: Sequence[Record], faults: list[Fault]) -> Batch:
    numbers = [record.line for record in records]
    return Batch(numbers, [record.data for record in records], faults=faults)


def too_large(line: int) -> Fault:
    """Fault of a record that is larger than the limit."""
    return Fault(line, "", "TOO_LARGE", f"the record has more than {MAX_RECORD_BYTES:,} bytes")


def _is_document(text: bytes) -> bool:
    """True for the start of one document on several lines; False for that of JSON Lines."""
    if text.startswith(b"["):
        return True
    first, _, rest = text.partition(b"\n")
    second = rest.lstrip(b"\r\n")[:1]
    if not second:
        return first.strip() == b"{"
    try:
        jiter.from_json(first)
    except ValueError:
        return second != b"{"
    return False


def _line_batches(stream: BufferedReader) -> Iterator[Batch]:
    """Yields the lines of a file."""
    number, size = 1, 0
    begun = bytearray()  # Of the line that has begun.
    mark = _BYTE_ORDER_MARK
    for block in chain(iter(partial(stream.read1, _MAX_BATCH_BYTES), b""), [b"\n"]):
        first, line_feed, others = block.removeprefix(mark).partition(b"\n")
        mark = b""
        size += len(first)
        if size <= MAX_RECORD_BYTES:
            begun += first
        if not line_feed:
            continue
        end = others.rfind(b"\n") + 1
        if size <= _MAX_BATCH_BYTES:
            yield Batch(lines=b"".join([begun, b"\n", others[:end]]), first=number)
        elif size <= MAX_RECORD_BYTES:  # A long line is no part of `lines`: `split` would copy it.
            yield Batch([number], [_taken(begun)])
            yield Batch(lines=others[:end], first=number + 1)
        else:
            fault = too_large(number)
            yield Batch(lines=others[:end], first=number + 1, faults=[fault])
        number += 1 + others.count(b"\n")
        begun, size = bytearray(others[end:]), len(others) - end


def _taken(line: bytearray) -> bytes:
    """Bytes of a line, which is empty afterwards: it may be large."""
    data = bytes(line)
    line.clear()
    return data


def _lines(stream: BufferedReader) -> Iterator[Record | Fault]:
    """Yields the lines, without white space at their ends."""
    for batch in _line_batches(stream):
        yield from batch.faults
        texts = chain(batch.texts, batch.lines.split(b"\n")[:-1])
        for number, text in zip(chain(batch.numbers, count(batch.first)), texts, strict=False):
            yield Record(number, text.rstrip(_SPACES))


def _whole(stream: BufferedReader) -> Iterator[Record | Fault]:
    data = stream.read(MAX_RECORD_BYTES + 1)
    if len(data) > MAX_RECORD_BYTES:
        yield too_large(1)
        return
    data = data.removeprefix(_BYTE_ORDER_MARK).strip(_SPACES)
    try:
        records = elements(data) if data.startswith(b"[") else [data]
    except ValueError:
        records = [data]
    yield from map(Record, count(1), records)


def _events(lines: Iterable[Record | Fault]) -> Iterator[Record | Fault]:
    """Yields the data of server-sent events, each with its first line of data.

    The format: https://html.spec.whatwg.org/multipage/server-sent-events.html. The last event may
    lack its blank line, as may events that were picked out of a log. The end mark [DONE] is left
    out. The type of an event may be in its `event:` line only.
    """
    line, size = 0, 0
    name, data = b"", list[bytes]()
    for record in chain(_split_at_returns(lines), [_BLANK]):
        if isinstance(record, Fault):
            yield record
            continue
        field_name, _, value = record.data.partition(b":")
        if field_name == b"data":
            if data and _is_next(data[-1], value):
                yield from _event(line, size, b"", data)
                line, size = 0, 0
            line = line or record.line
            size += len(value) + 1
            data += [value] if size <= MAX_RECORD_BYTES else []
        elif field_name == b"event":
            name = value.strip()
        elif not record.data:
            yield from _event(line, size, name, data)
            line, size, name = 0, 0, b""


def _split_at_returns(lines: Iterable[Record | Fault]) -> Iterator[Record | Fault]:
    """Splits lines at carriage returns, which end a line of server-sent events too."""
    for record in lines:
        if isinstance(record, Fault) or b"\r" not in record.data:
            yield record
        else:
            yield from (Record(record.line, part) for part in record.data.split(b"\r"))


def _is_next(last: bytes, first: bytes) -> bool:
    """True if the second line of data begins another JSON text than the first ends."""
    is_end = last.endswith(b"}") or last.strip() == _SSE_END
    return is_end and first[:_SPACES_LOOKED_AT].lstrip().startswith((b"{", _SSE_END))


def _typed(name: bytes, data: bytes) -> bytes:
    """Data of an event, with its name as the type if the data has none; else unchanged."""
    if not _EVENT_NAME.fullmatch(name) or data.startswith(b'{"type"'):
        return data
    try:
        value = jiter.from_json(data)
    except ValueError:
        return data
    if not isinstance(value, dict) or "type" in value:
        return data
    return b'{"type":"%b"%b%b' % (name, b"," if value else b"", data[1:])


def _event(line: int, size: int, name: bytes, data: list[bytes]) -> Iterator[Record | Fault]:
    """Yields an event of this name, whose lines of data it takes."""
    text = b"\n".join(data).strip()
    data.clear()
    if size > MAX_RECORD_BYTES:
        yield too_large(line)
    elif text and text != _SSE_END:
        yield Record(line, _typed(name, text))
