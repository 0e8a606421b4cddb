"""Round trip of a million lines, a tenth of them broken, by the command; see scripts/bulk-check.

python -m tests.bulk.million [--lines N]
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Final

from tests.json_value import json_value

MAX_PEAK: Final = 300 * 1024
"""Most kibibytes of a process."""

BROKEN: Final = (
    (b'{"type":"image_generation_call","id":5}', "/id", "WRONG_TYPE"),
    (b'{"type":"image_generation_call","id":"\xff"}', "/id", "NOT_UTF8"),
    (b'{"type":"image_generation_call","id":"a', "/id", "NOT_JSON"),
    (b'{"type":"x","a":1,"a":2}', "/a", "DUPLICATE_KEY"),
    (b"[]", "", "WRONG_TYPE"),
)


def records(count: int) -> Iterator[bytes | tuple[bytes, str, str]]:
    """Yields lines of items; every tenth is broken, and comes with its pointer and reason."""
    choose = random.Random(1)
    for number in range(count):
        if number % 10 == 9:
            yield BROKEN[number // 10 % len(BROKEN)]
            continue
        item = {"type": "image_generation_call", "id": f"ig_{number}", "status": "completed"}
        item["result"] = b64encode(choose.randbytes(number % 400)).decode()
        extra = {"seed": number / 8, "size": "auto"} if number % 3 == 0 else {}
        yield json.dumps(item | extra).encode()


def convert(folder: Path, *arguments: str) -> None:
    """Runs the command. Raises AssertionError for another exit code than 0 or 3."""
    start = time.monotonic()
    command = [sys.executable, "-m", "imagecall", "convert", "--jobs", "2", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak < MAX_PEAK, f"a process has {peak:,} KiB"
    summary = done.stderr.splitlines()[-1]
    print(f"{time.monotonic() - start:.1f} s, {peak // 1024} MiB: {summary}", flush=True)


def compare(count: int, folder: Path, output: str) -> None:
    """Raises AssertionError if a line is lost, doubled or another value."""
    good = (line for line in records(count) if isinstance(line, bytes))
    with (folder / output).open("rb") as lines:
        for expected, line in zip_longest(good, lines):
            assert expected is not None
            assert line is not None
            assert json_value(expected) == json_value(line)


def compare_faults(count: int, folder: Path) -> None:
    """Raises AssertionError if the report has other faults than the broken lines."""
    wanted = Counter(
        (number, *record[1:])
        for number, record in enumerate(records(count), 1)
        if not isinstance(record, bytes)
    )
    with (folder / "faults.jsonl").open() as lines:
        rows = map(json.loads, lines)
        assert Counter((row["line"], row["pointer"], row["reason"]) for row in rows) == wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    count = parser.parse_args().lines
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "in.jsonl").open("wb") as file:
            for record in records(count):
                file.write((record if isinstance(record, bytes) else record[0]) + b"\n")
        for output in ("out.binpb", "out.parquet"):
            convert(folder, "in.jsonl", "-o", output, "--errors", "faults.jsonl")
            compare_faults(count, folder)
            convert(folder, "--lines", output, "-o", "back.jsonl")
            compare(count, folder, "back.jsonl")
    print("2 passed, 0 failed")


if __name__ == "__main__":
    main()
