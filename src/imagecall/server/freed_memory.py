"""Return of freed memory to the system while a server is quiet."""

import asyncio
import ctypes
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

_TRIM_SECONDS: Final = 5.0
_MAX_GROWTH_BYTES: Final = 32 * 1024 * 1024
"""Growth since the last return of freed memory, from which on memory is returned again."""


async def return_freed_memory(is_quiet: Callable[[], bool]) -> None:
    """Returns freed memory to the system, every few seconds if no large call is in progress.

    Freed memory in the middle of a heap stays with the process otherwise.
    """
    is_linux = sys.platform.startswith("linux")
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if is_linux else None
    last_bytes = _resident_bytes() if trim else 0
    while trim:
        await asyncio.sleep(_TRIM_SECONDS)
        if is_quiet() and _resident_bytes() > last_bytes + _MAX_GROWTH_BYTES:
            await asyncio.to_thread(trim, 0)
            last_bytes = _resident_bytes()


def _resident_bytes() -> int:
    """Returns the memory of this process, by proc(5)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
