"""Table of the sizes at which a value counts as large, with the reason for each.

Every size at which the code takes another path is here, and in no other module. Limits, above which
a value is refused, are settings, or are in the module that refuses. The tests run over the entries
of `TABLE`: one byte below, at, and one byte above each.
"""

from typing import Final

ASIDE: Final = 32 * 1024
"""Shortest JSON string that is set aside unparsed, and shortest text that is searched for one.

Below 32 KiB the search costs more than the copies that it avoids.
"""

MEDIUM: Final = 4 * 1024
"""Longest text that stays in a message of a stream if the texts together are too large."""

FOLLOWED: Final = 16 * 1024
"""Shortest string of a server-sent event that is decoded while it arrives.

Also the length of the slices in which received bytes are searched for the ends of events, which
takes a millisecond.
"""

COUNTED_TEXT: Final = 40_000
"""Longest JSON text whose values are not counted: it cannot have the 10,000 keys of an object."""

PIECE: Final = 64 * 1024
"""Shortest image that is a piece of its own in a text, encoded when the text is joined.

Also the shortest piece for which `fair_turn` is awaited: handling one takes longer than the turn.
"""

SCANNED: Final = 256 * 1024
"""Length of the slices in which a JSON text is searched for its strings: a millisecond's work."""

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
"""Length of the chunks of a value in a stream: a quarter of the largest message of clients."""

TWICE: Final = 8 * 1024 * 1024
"""Shortest base64 of a text that is decoded twice: to check it, and slice by slice into a message.

The image then takes its own size in place of twice. Below 8 MiB a copy takes less time.
"""

OFFLOAD: Final = 32 * 1024
"""Shortest text or message that is offloaded to a worker thread.

So much text of many small values takes up to 50 milliseconds.
"""

MESSAGE: Final = 3 * 1024 * 1024
"""Longest answer that is sent in one message of a stream.

With tags and lengths, the message stays below the 4 MiB that clients accept by default.
"""

HELD: Final = 6 * SLICE
"""Longest part of a large string that is held back before it is streamed: 4.5 MiB.

Until then, a string that proves not to be base64 can still be passed on as text.
"""

TABLE: Final = {
    name: value for name, value in tuple(globals().items()) if name.isupper() and name != "TABLE"
}
"""Sizes by name."""
