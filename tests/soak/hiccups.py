"""Delays of an idle process: the share of the machine in a measured delay.

Other load on a shared machine delays every process: read figures in milliseconds with this one.
"""

import sys
import threading
import time
from typing import Final

from tests.soak.beside import ready, report

_SLEEP_SECONDS: Final = 0.005


def _main() -> None:
    told = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        told.set()

    threading.Thread(target=listen, daemon=True).start()
    ready()
    milliseconds = []
    while not told.is_set():
        start = time.monotonic()
        time.sleep(_SLEEP_SECONDS)
        milliseconds.append((time.monotonic() - start - _SLEEP_SECONDS) * 1000)
    report(milliseconds=milliseconds)


if __name__ == "__main__":
    _main()
