"""Padding of image files to an exact size, with the same pixels.

Each format has a place for bytes that decoders skip: private chunks in PNG (section 5.4 of its
specification), comments in JPEG (ITU-T T.81, B.2.4.5), unknown chunks in WebP (RFC 9649, 2.7.1.6).
"""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Final

from imagecall.formats import image_format

# libpng refuses chunks beyond 8 MB by default, so that one long chunk would not do.
_PNG_CHUNK_BYTES: Final = 1024 * 1024
_PNG_CHUNK_FRAME: Final = 12  # length, type and CRC
_PNG_TYPE: Final = b"paDd"  # ancillary, private, safe to copy
_IEND: Final = b"\0\0\0\0IEND\xaeB`\x82"
_JPEG_SEGMENT_BYTES: Final = 2 + 0xFFFF  # marker, and the largest length of two bytes
_RIFF_HEADER: Final = 12
_CHUNK_HEADER: Final = 8
_PIECE_BYTES: Final = 1024 * 1024
_VP8X_BYTES: Final = 18
_ALPHA: Final = 0x10


def pad(image: bytes, size: int) -> bytes:
    """Pads an image file to exactly `size` bytes.

    `image` is a PNG, JPEG or WebP file of n bytes. Possible sizes are n, and from n + 12 for PNG,
    from n for JPEG, and from n + 26 for WebP (n + 8 in the extended format); n + 1 also for WebP.
    Since chunks of WebP have even sizes, a file of odd size ends in a byte after the RIFF data,
    which readers skip. Raises ValueError for another size, with the possible sizes, and for
    another format.
    """
    extra = size - len(image)
    if extra == 0:
        return image
    match image_format(image):
        case "png":
            return _joined(_padded_png(image, extra))
        case "jpeg":
            return _joined(_padded_jpeg(image, extra))
        case "webp":
            return _joined(_padded_webp(image, extra))
        case other:
            raise ValueError(f"the image is {other or 'of no known format'}, not png, jpeg or webp")


def _joined(pieces: Iterable[bytes]) -> bytes:
    """Joins pieces by separate writes, so that copying does not block other threads for long."""
    file = io.BytesIO()
    for piece in pieces:
        file.write(piece)
    return file.getvalue()


def _demand(image: bytes, extra: int, least: int) -> None:
    if extra < least:
        size = len(image)
        wanted = size + extra
        raise ValueError(f"{wanted:,} bytes: possible are {size:,}, and {size + least:,} or more")


def _padded_png(image: bytes, extra: int) -> Iterator[bytes]:
    _demand(image, extra, _PNG_CHUNK_FRAME)
    end = image.rfind(_IEND)
    if end < 0:
        raise ValueError("the PNG file has no IEND chunk")
    count = -(-extra // (_PNG_CHUNK_BYTES + _PNG_CHUNK_FRAME))
    share, longer = divmod(extra, count)
    yield image[:end]
    yield from repeat(_png_chunk(share), count - longer)
    yield from repeat(_png_chunk(share + 1), longer)
    yield image[end:]


def _png_chunk(size: int) -> bytes:
    body = _PNG_TYPE + bytes(size - _PNG_CHUNK_FRAME)
    return (
        struct.pack(">I", len(body) - len(_PNG_TYPE)) + body + struct.pack(">I", zlib.crc32(body))
    )


def _padded_jpeg(image: bytes, extra: int) -> Iterator[bytes]:
    _demand(image, extra, 0)
    place = 2
    if image[2:4] == b"\xff\xe0":  # the JFIF header has to come first
        place = 4 + int.from_bytes(image[4:6], "big")
    full, rest = divmod(extra, _JPEG_SEGMENT_BYTES)
    # T.81, B.1.1.2: any number of bytes FF may stand before a marker. A comment has four bytes.
    yield image[:place]
    yield from repeat(_jpeg_comment(_JPEG_SEGMENT_BYTES), full)
    yield b"\xff" * rest if rest < 4 else _jpeg_comment(rest)
    yield image[place:]


def _jpeg_comment(size: int) -> bytes:
    return b"\xff\xfe" + struct.pack(">H", size - 2) + bytes(size - 4)


def _padded_webp(image: bytes, extra: int) -> Iterator[bytes]:
    extended = image[_RIFF_HEADER : _RIFF_HEADER + 4] == b"VP8X"
    header = b"" if extended else _vp8x(image)
    trailing = b"\0" * (extra % 2)
    extra -= len(trailing)
    if extra == 0:
        yield image + trailing
        return
    _demand(image, extra, len(header) + _CHUNK_HEADER)
    length = extra - len(header) - _CHUNK_HEADER
    yield b"RIFF" + struct.pack("<I", len(image) + extra - 8) + b"WEBP"
    yield header + image[_RIFF_HEADER:]
    yield b"PADD" + struct.pack("<I", length)
    full, rest = divmod(length, _PIECE_BYTES)
    yield from repeat(bytes(_PIECE_BYTES), full)
    yield bytes(rest) + trailing


def _vp8x(image: bytes) -> bytes:
    """Chunk that marks a file as extended, since only extended files may hold unknown chunks."""
    kind = image[_RIFF_HEADER : _RIFF_HEADER + 4]
    data = image[_RIFF_HEADER + _CHUNK_HEADER :]
    if kind == b"VP8L":  # RFC 9649, 3.4: signature, then 14 bits, 14 bits, and one for alpha
        bits = int.from_bytes(data[1:5], "little")
        width, height, alpha = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bits >> 28 & 1
    else:  # RFC 6386, 9.1: frame tag, start code, then the size in 14 of 16 bits each
        sides = struct.unpack_from("<HH", data, 6)
        width, height, alpha = sides[0] & 0x3FFF, sides[1] & 0x3FFF, 0
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    flags = struct.pack("<I", _ALPHA if alpha else 0)
    return b"VP8X" + struct.pack("<I", _VP8X_BYTES - _CHUNK_HEADER) + flags + canvas
