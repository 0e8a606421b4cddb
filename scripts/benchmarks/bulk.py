"""Benchmark of files of many items: items and megabytes a second, and peak memory.

The peers, each in a process of its own, from a file to a file: `jq -c .`, which reads and writes
the JSON and converts nothing; a script with json and base64, which writes each image after its
length; and the converter in a loop over the lines, which writes each message after its length.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from rounds import Figure, print_row

import imagecall
from imagecall.wire.varint import write_varint

SIZES: Final = {"600 B": (384, 200_000, 30_000), "1.3 MB": (1_000_000, 400, 60)}
"""Bytes of the image, and numbers of items, of each file; the second number is that of --quick."""

MIB: Final = 1024 * 1024


def write_items(path: Path, image_bytes: int, count: int) -> None:
    """Writes a file of items with random images."""
    images = [b64encode(os.urandom(image_bytes)).decode() for _ in range(8)]
    with path.open("w") as file:
        for number in range(count):
            item = {"type": "image_generation_call", "id": f"ig_{number:032x}"}
            item |= {"status": "completed", "result": images[number % 8]}
            file.write(json.dumps(item) + "\n")


def plain(source: str, target: str) -> None:
    """Converts as users do without this package."""
    from base64 import b64decode

    with open(source, "rb") as lines, open(target, "wb") as file:
        for line in lines:
            image = b64decode(json.loads(line)["result"])
            file.write(write_varint(len(image)) + image)


def loop(source: str, target: str) -> None:
    """Converts by the converter, and nothing else."""
    with open(source, "rb") as lines, open(target, "wb") as file:
        for line in lines:
            message = imagecall.serialized_from_json(line)
            file.write(write_varint(len(message)) + message)


def commands(source: Path, target: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields the names and commands of the candidates."""
    own = [sys.executable, __file__, str(source), str(target)]
    convert = [str(Path(sys.executable).with_name("imagecall")), "convert", "--lines", str(source)]
    yield "loop", [*own, "--peer", "loop"]
    yield "json and base64", [*own, "--peer", "plain"]
    if jq := shutil.which("jq"):
        yield "jq", [jq, "-c", ".", str(source)]
    for jobs in (1, 2):
        yield f"--jobs {jobs}", [*convert, "-o", f"{target}.binpb", "--jobs", str(jobs)]
    yield "to Parquet", [*convert, "-o", f"{target}.parquet"]
    yield "and back", [*convert[:2], f"{target}.parquet", "-o", f"{target}.jsonl"]


class Run(NamedTuple):
    """Time of a command, and processor time of all its processes, in seconds."""

    seconds: float
    cpu: float


def run_of(command: list[str], output: Path) -> Run:
    """Runs a command, whose standard output goes to a file."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with output.open("wb") as file:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE)
        _, error = process.communicate()
        seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(error.decode())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds, cpu)


def peak_of(command: list[str]) -> int:
    """Peak memory of the largest process of a command, in a process that has no other children."""
    program = f"import subprocess; subprocess.run({command!r}, capture_output=True, check=True)"
    program += "; import resource; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return int(run.stdout) * 1024


def measure(name: str, image_bytes: int, count: int, rounds: int) -> None:
    """Prints a row for each candidate: the best of some rounds, in which they take turns."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.jsonl", Path(folder) / "out"
        write_items(source, image_bytes, count)
        size = source.stat().st_size
        candidates = dict(commands(source, target))
        runs: dict[str, list[Run]] = {candidate: [] for candidate in candidates}
        for _ in range(rounds):
            for candidate, command in candidates.items():
                runs[candidate].append(run_of(command, Path(f"{target}.stdout")))
        print(f"\n{count:,} items of {name}, {size / MIB:,.0f} MiB")
        loop_seconds, loop_cpu = map(min, zip(*runs["loop"], strict=True))
        for candidate, command in candidates.items():
            seconds, cpu = map(min, zip(*runs[candidate], strict=True))
            figures: dict[str, Figure] = {
                "of the loop": loop_seconds / seconds,
                "by processor time": loop_cpu / cpu,
                "MiB/s": f"{size / MIB / seconds:,.0f}",
            }
            if candidate != "jq":
                figures["MiB at the peak"] = f"{peak_of(command) / MIB:,.0f}"
            print_row(f"{candidate}, {name}", f"{count / seconds:,.0f} items/s", figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller files, less sure figures")
    parser.add_argument("--peer", choices=["loop", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        return {"loop": loop, "plain": plain}[options.peer](*options.paths)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; peak: the largest process")
    for name, (image_bytes, count, few) in SIZES.items():
        measure(name, image_bytes, few if options.quick else count, 1 if options.quick else 3)
    return None


if __name__ == "__main__":
    main()
