"""The C allocator's settings for messages of megabytes.

With its defaults, glibc gives the memory of each large message back to the system and faults it in
again for the next, which makes a conversion of 2 MB several times slower. A process that
converts many can keep that memory instead. Elsewhere than on glibc nothing is changed.
"""

import ctypes
import sys
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # mallopt(3)
_M_MMAP_THRESHOLD: Final = -3
_LARGEST_MMAP_THRESHOLD: Final = 32 * 1024 * 1024
_KEPT_BYTES: Final = 256 * 1024 * 1024


def keep_freed_memory() -> bool:
    """Keeps up to 256 MiB of freed memory for the next message; whether that worked."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mmap_set = mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    return bool(mmap_set and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
