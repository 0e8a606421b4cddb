"""Settings of the C allocator for messages of megabytes.

With its defaults, glibc returns the memory of each large message to the system and faults it in
again for the next one, which makes a conversion of 2 MB several times slower. A process with many
conversions can keep that memory instead. glibc also makes heaps for threads, up to eight per core,
and each heap stays as large as it ever was; two are enough, as one thread at a time holds the
GIL. Other C libraries are not configured.
"""

import ctypes
import sys
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # mallopt(3)
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_MMAP_THRESHOLD: Final = 16 * 1024 * 1024
"""Largest block that is kept: a kept block of 20 MB cannot serve a request for 21 MB."""

_KEPT_BYTES: Final = 64 * 1024 * 1024
_HEAPS: Final = 2


def keep_freed_memory() -> bool:
    """Keeps up to 64 MiB of freed memory in each of two heaps. Returns True if glibc accepts it."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    values = {
        _M_ARENA_MAX: _HEAPS,
        _M_MMAP_THRESHOLD: _MMAP_THRESHOLD,
        _M_TRIM_THRESHOLD: _KEPT_BYTES,
    }
    return all(mallopt(*value) for value in values.items())
