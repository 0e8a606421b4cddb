"""The table of sizes: from which length on something is treated as large, and why.

Every length from which another path is taken stands here, and in no other module. Limits, past
which something is refused, are settings, or stand where the refusal is. The tests run over the
entries of `TABLE`: one below, at, and one above each.
"""

from typing import Final

ASIDE: Final = 2 * 1024
"""Shortest JSON string that is set aside unparsed, and shortest text that is searched for one.

Below 2 KiB the search costs more than the copies that it saves.
"""

TAIL: Final = 4 * 1024
"""Length of the end of a text in which the first guess expects the end of its only large string.

An item has a few hundred bytes behind its image; a guess that is wrong costs a second search.
"""

MEDIUM: Final = 4 * 1024
"""Longest text that stays in a message of a stream whose texts are too large together."""

FOLLOWED: Final = 16 * 1024
"""Shortest string of a server-sent event that is decoded while it arrives.

Also the length in which received bytes are searched for the ends of events, a millisecond's work.
"""

SMALL_BODY: Final = 16 * 1024
"""Longest body of an HTTP request that is not counted while it is read.

It takes less memory than its connection.
"""

COUNTED_TEXT: Final = 40_000
"""Longest JSON text whose values are not counted: it cannot have the 10,000 keys of an object."""

PIECE: Final = 64 * 1024
"""Shortest image that stands in a text as a piece of its own, encoded when the text is joined.

Also the shortest piece for which a turn of the event loop is awaited: handling one takes longer
than the turn.
"""

APART: Final = 256 * 1024
"""Shortest value that is kept apart from its protobuf message.

Below 256 KiB a copy is quicker than the splicing. Also the longest text that stays in a message of
a stream, and the shortest message whose fields are counted before it is parsed.
"""

SLICE: Final = 768 * 1024
"""Length of the slices of an image that are encoded or decoded at once: 1 MiB of base64.

A multiple of 3, so that only the last slice has padding.
"""

CHUNK: Final = 1024 * 1024
"""Length of the chunks of a value in a stream of messages, a quarter of what clients take."""

OFFLOAD: Final = 1024 * 1024
"""Shortest text or message that is converted in a worker thread: it takes milliseconds."""

MESSAGE: Final = 3 * 1024 * 1024
"""Longest answer that goes in one message of a stream.

With the little that stands around it, a message stays below the 4 MiB that clients take by default.
"""

HELD: Final = 6 * SLICE
"""Longest part of a large string that is held back before it is streamed: 4.5 MiB.

A string that proves to be no base64 can still be passed on as text until then.
"""

TABLE: Final = {
    name: value for name, value in tuple(globals().items()) if name.isupper() and name != "TABLE"
}
"""The sizes by name."""
