"""Reader of server-sent events as real servers send them, with strings of many megabytes inside.

The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html: lines that end
with CR, LF or both, comments, `data:` with or without a space, several data lines in an event, a
byte order mark at the start. Beyond that format, the last event may lack its blank line.

A large string under one of the configured keys is moved out of the event's text on arrival: see
imagecall.backends.http_api.large_base64. Its use is chosen once it is known to be large.
"""

import re
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from imagecall.backends.http_api.large_base64 import LargeBase64, NotBase64, Use
from imagecall.errors import damaged_answer, too_large_answer
from imagecall.sizes import FOLLOWED

_BLANK: Final = re.compile(rb"[\r\n]+")
_LF: Final = ord("\n")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_DATA: Final = b"data:"
_BACKSLASH: Final = b"\\"
_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")
"""Ends of lines as spaces: in JSON they mean the same, outside of strings, which have none."""

_MAX_LINES: Final = 10_000
"""Most lines of an event: even a short line takes time."""

_BEFORE_A_STRING: Final = 256
"""Bytes before a string in which its key is searched."""


@dataclass
class SseEvent:
    """A server-sent event.

    Attributes:
        name: value of the `event:` line; "" if there is none.
        data: data of the event, with a marker in the place of each large string.
        large: large strings of the event.
    """

    name: str = ""
    data: bytes = b""
    large: list[LargeBase64] = field(default_factory=list)


Reading: TypeAlias = Generator[bytes | SseEvent, None, int]
"""Generator of pieces of a string, and events; returns the position after the read bytes."""

Choose = Callable[[str, bytes], Use]
"""Function that chooses the use of a large string: event name, data before the string."""


class LineEnds:
    """Ends of lines in received bytes. LF and CR are searched for apart, which is faster."""

    def __init__(self, received: bytes) -> None:
        self._received = received
        self._lf = self._cr = -1

    def after(self, position: int) -> int:
        """Offset of the first end of a line from `position` on; the length if there is none."""
        if self._lf < position:
            self._lf = self._find(b"\n", position)
        if self._cr < position:
            self._cr = self._find(b"\r", position)
        return min(self._lf, self._cr)

    def _find(self, mark: bytes, position: int) -> int:
        offset = self._received.find(mark, position)
        return len(self._received) if offset < 0 else offset


class Reader(Protocol):
    """Reader of an answer: true once it has ended, and while a large string arrives."""

    ended: bool

    @property
    def in_string(self) -> bool: ...


def slices(received: bytes, reader: Reader) -> Iterator[bytes]:
    """Received bytes in pieces that delay other calls only briefly, until the reader has ended."""
    position = 0
    while position < len(received) and not reader.ended:
        end = len(received) if reader.in_string else position + FOLLOWED
        yield received[position:end]
        position = end


class SseReader:
    """Reads a stream: `feed` the received bytes, then `finish`.

    Args:
        keys: JSON keys whose strings may be large.
        choose: chooses the use of a large string.
        max_bytes: largest event, without its streamed and skipped strings.
        max_held_bytes: most base64 in the large strings of an event that are held. None: they
            count as part of the event.
    """

    def __init__(
        self,
        keys: Iterable[str],
        choose: Choose,
        max_bytes: int,
        max_held_bytes: int | None = None,
    ) -> None:
        names = b"|".join(re.escape(key).encode() for key in sorted(keys))
        self._key = re.compile(rb'"(?:' + names + rb')"[ \t]*:[ \t]*"\Z')
        self._choose = choose
        self._max_bytes = max_bytes
        self._max_held_bytes = max_held_bytes
        self._started = False
        self._after_cr = False
        self._line = bytearray()
        self._string: LargeBase64 | None = None
        self._ended_in_escape = False
        self._next_look = FOLLOWED
        self._event = SseEvent()
        self._data: list[bytes] = []
        self._size = 0
        self._lines = 0

    def feed(self, received: bytes) -> Iterator[bytes | SseEvent]:
        """Reads received bytes; yields events, and pieces of a string with the use STREAM.

        Raises GenerationError: UPSTREAM_DAMAGED if a line ends within a large string, or if a
        string proves not to be base64 after pieces were streamed; UPSTREAM_ANSWER_TOO_LARGE.
        """
        position = 0
        ends = LineEnds(received)
        if self._after_cr and received:
            position = int(received[0] == _LF)
            self._after_cr = False
        while position < len(received):
            if self._string is not None:
                position = yield from self._read_string(self._string, received, position)
            else:
                position = yield from self._read_line(received, position, ends)

    @property
    def in_string(self) -> bool:
        """True while a large string arrives."""
        return self._string is not None

    @property
    def line(self) -> bytes:
        """Line so far, with a marker in the place of each large string."""
        return bytes(self._line)

    def finish(self) -> Iterator[SseEvent]:
        """Ends the stream; yields the last event if its blank line is missing.

        Raises GenerationError (UPSTREAM_DAMAGED) if the stream ends within a large string.
        """
        if self._string is not None:
            raise damaged_answer("the stream ends within a string")
        if self._line:
            yield from self._end_line()
        yield from self._end_line()

    def _read_line(self, received: bytes, position: int, ends: LineEnds) -> Reading:
        """Reads a line or a part of a line; returns the position after it.

        Blank lines that end no event are read in one step.
        """
        if not (self._line or self._data) and (blank := _BLANK.match(received, position)):
            self._begin_event()
            return blank.end()
        end = ends.after(position)
        self._line += memoryview(received)[position:end]
        self._check_size()
        if end == len(received):
            yield from self._look_for_string()
            return end
        yield from self._end_line()
        after = end + 1
        if received[end] != _LF:
            if after == len(received):
                self._after_cr = True
            elif received[after] == _LF:
                after += 1
        return after

    def _check_size(self) -> None:
        held_bytes = sum(string.size for string in self._event.large if string.use is Use.HOLD)
        size = self._size + len(self._line)
        if self._max_held_bytes is None:
            size += held_bytes
        elif held_bytes > self._max_held_bytes:
            raise too_large_answer("an image", self._max_held_bytes // 4 * 3)
        if size > self._max_bytes:
            raise too_large_answer("an event of the API's stream", self._max_bytes)

    def _end_line(self) -> Iterator[SseEvent]:
        line = bytes(self._line)
        self._line.clear()
        self._next_look = FOLLOWED
        if not self._started:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._started = True
        if line:
            self._lines += 1
            if self._lines > _MAX_LINES:
                raise too_large_answer("an event of the API's stream", _MAX_LINES, "lines")
            self._take_field(line)
        else:
            if self._data:
                self._event.data = b"\n".join(self._data)
                yield self._event
            self._begin_event()

    def _begin_event(self) -> None:
        self._event, self._data, self._size, self._lines = SseEvent(), [], 0, 0
        self._started = True

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
        elif name == b"event":
            self._event.name = value.decode(errors="replace")

    def _look_for_string(self) -> Iterator[bytes]:
        """Sets a large string aside, if the line so far ends within one."""
        line = self._line
        if len(line) < self._next_look:
            return
        self._next_look = len(line) + max(FOLLOWED, len(line) // 2)
        quote = line.rfind(b'"')
        if len(line) - quote < FOLLOWED or not line.startswith(_DATA):
            return
        before = bytes(line[max(0, quote - _BEFORE_A_STRING) : quote + 1])
        if not self._key.search(before):
            return
        beginning = bytes(line[quote + 1 :])
        del line[quote + 1 :]
        data = b"\n".join([*self._data, bytes(line[len(_DATA) :])])
        self._string = LargeBase64(self._choose(self._event.name, data))
        self._event.large.append(self._string)
        self._ended_in_escape = False
        self._ends_in_escape(beginning)
        yield from self._add(self._string, beginning)

    def _read_string(self, string: LargeBase64, received: bytes, position: int) -> Reading:
        """Reads a large string or a part of it; returns the position after it."""
        quote = received.find(b'"', position)
        end = quote if quote >= 0 else len(received)
        text = received[position:end] if end - position < len(received) else received
        if b"\n" in text or b"\r" in text:
            raise damaged_answer("a line ends within a string")
        if self._ends_in_escape(text) and quote >= 0:
            end, text, quote = end + 1, text + b'"', -1
            self._ended_in_escape = False
        yield from self._add(string, text)
        if quote < 0 or self._string is None:
            return end
        try:
            yield from string.end()
        except NotBase64 as error:
            self._give_back(string, error)
        else:
            self._line += string.text_marker
        self._string = None
        return end

    def _ends_in_escape(self, text: bytes) -> bool:
        """True if the string so far ends with a backslash that escapes the next character."""
        rest = text.rstrip(_BACKSLASH)
        before = self._ended_in_escape and not rest
        self._ended_in_escape = (len(text) - len(rest) + before) % 2 == 1
        return self._ended_in_escape

    def _add(self, string: LargeBase64, text: bytes) -> Iterator[bytes]:
        try:
            yield from string.add(text)
        except NotBase64 as error:
            self._give_back(string, error)
        self._check_size()

    def _give_back(self, string: LargeBase64, error: NotBase64) -> None:
        """Restores a string that is not base64 to the line, as ordinary text.

        Raises GenerationError (UPSTREAM_DAMAGED) if pieces of the string were streamed already.
        """
        if error.text is None:
            raise damaged_answer("an image is not base64 to its end")
        self._event.large.remove(string)
        self._line += error.text
        self._next_look = len(self._line) * 2
        self._string = None


class JsonReader:
    """Reads one JSON text, as the data of one event: `feed` the received bytes, then `finish`.

    Args:
        keys, choose, max_bytes, max_held_bytes: as of SseReader.
    """

    def __init__(
        self, keys: Iterable[str], choose: Choose, max_bytes: int, max_held_bytes: int
    ) -> None:
        self._reader = SseReader(keys, choose, max_bytes, max_held_bytes)
        self._last = b""
        self.ended = False
        self._feed(_DATA)

    @property
    def in_string(self) -> bool:
        """True while a large string arrives."""
        return self._reader.in_string

    @property
    def may_be_whole(self) -> bool:
        """True if the text so far ends as an object does."""
        return not self.in_string and self._last.endswith(b"}")

    @property
    def text(self) -> bytes:
        """Text so far, with a marker in the place of each large string."""
        return self._reader.line.removeprefix(_DATA)

    def feed(self, received: bytes) -> None:
        """Reads received bytes. Raises GenerationError as SseReader.feed does."""
        has_lines = b"\n" in received or b"\r" in received
        self._feed(received.translate(_SPACES) if has_lines else received)
        self._last = received.rstrip()[-1:] or self._last

    def finish(self) -> SseEvent:
        """Returns the text with its large strings. Raises GenerationError."""
        self.ended = True
        return next(self._reader.finish(), SseEvent())

    def _feed(self, received: bytes) -> None:
        for _ in self._reader.feed(received):
            raise AssertionError("a JSON text streams no pieces")
