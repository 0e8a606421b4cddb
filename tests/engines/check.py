"""Runs the programs of Ray Data and Spark, kills a worker of each, and compares what they wrote.

The time of each stands beside that of one process, which does the same without an engine.

python check.py [--short]
"""

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from imagecall.bulk import CALLS_SCHEMA, calls_from_json, save_images

HERE: Final = Path(__file__).parent
ENGINES: Final = {
    "ray_data": re.compile(r"^ray::.*MapBatches"),
    "spark": re.compile(r"pyspark[./]daemon"),
}
"""Programs, with the command line of the workers that are killed."""

PNG: Final = b"\x89PNG\r\n\x1a\n"
BROKEN: Final = '{"type":"image_generation_call","id":'
SMALL: Final = "small.jsonl"
LARGE: Final = "large.parquet"


def texts(count: int, image_bytes: int) -> Iterator[str]:
    """Yields items, a tenth of them broken, each image once."""
    choose = random.Random(1)
    for number in range(count):
        item = {"type": "image_generation_call", "id": f"ig_{number}", "status": "completed"}
        image = PNG + choose.randbytes(image_bytes)
        yield (
            BROKEN if number % 10 == 9 else json.dumps(item | {"result": b64encode(image).decode()})
        )


def write_inputs(folder: Path, small: int, large: int) -> None:
    """Writes JSON Lines of small items, and Parquet of large ones."""
    with (folder / SMALL).open("w") as file:
        file.writelines(f"{text}\n" for text in texts(small, 350))
    schema = pa.schema([("json", pa.string())])
    with pq.ParquetWriter(folder / LARGE, schema, use_dictionary=False) as writer:
        for text in texts(large, 1_000_000):
            writer.write_batch(pa.record_batch([[text]], schema=schema))


def run(engine: str, source: Path, target: Path) -> tuple[float, int]:
    """Runs a program; returns its seconds, and the number of workers that were killed."""
    command = [sys.executable, str(HERE / f"{engine}.py"), str(source), str(target)]
    command += ["--images", str(target) + ".images"]
    start = time.monotonic()
    log = target.with_suffix(".log")
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        killed = 0
        while process.poll() is None:
            if not killed and list(Path(f"{target}.images").glob("*")):
                killed += kill_worker(process.pid, ENGINES[engine])
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{engine} failed:\n{log.read_text()[-5000:]}")
    return time.monotonic() - start, killed


def rows_of(source: Path) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file of JSON Lines, or of Parquet."""
    if source.suffix == ".parquet":
        yield from pq.ParquetFile(source).iter_batches(16)
        return
    with source.open() as file:
        while texts := [*islice(file, 2000)]:
            yield pa.record_batch({"json": texts})


def run_alone(source: Path, target: Path) -> float:
    """Converts a file and writes its images in this process; returns the seconds."""
    start = time.monotonic()
    with pq.ParquetWriter(target, CALLS_SCHEMA) as writer:
        for rows in rows_of(source):
            calls = calls_from_json(rows)
            save_images(calls, f"{target}.images")
            writer.write_batch(calls)
    return time.monotonic() - start


def kill_worker(root: int, pattern: re.Pattern[str]) -> int:
    """Kills a worker below a process that has work; returns 1 if there was one."""
    parents, commands = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            commands[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")
            parents[int(path.name)] = int(stat[1])
        except OSError:  # The process has ended.
            continue
    leaves = [pid for pid in parents if pid not in parents.values() and below(pid, root, parents)]
    for pid in leaves:
        if pattern.search(commands[pid]):
            os.kill(pid, signal.SIGKILL)
            return 1
    return 0


def below(pid: int, root: int, parents: dict[int, int]) -> bool:
    """True for a process that the root started, or a process that it started."""
    while pid in parents:
        pid = parents[pid]
        if pid == root:
            return True
    return False


def compare(target: Path, count: int) -> None:
    """Raises AssertionError if an item is lost, doubled or changed, or an image is."""
    rows = ds.dataset(target, partitioning="hive").to_table(["id", "sha256", "reason", "refused"])
    reasons = Counter(rows["reason"].to_pylist())
    assert reasons == {None: count - count // 10, "NOT_JSON": count // 10}, reasons
    ids = Counter(rows["id"].to_pylist())
    assert ids.pop(None) == count // 10
    assert ids == {f"ig_{n}": 1 for n in range(count) if n % 10 != 9}
    images = list(Path(f"{target}.images").iterdir())
    names = {path.stem for path in images}
    assert names == set(rows["sha256"].to_pylist()) - {None}
    for path in images[:100]:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a tenth of the items")
    parser.add_argument("engine", nargs="*", choices=[[], *ENGINES])
    options = parser.parse_args()
    small, large = (20_000, 40) if options.short else (200_000, 400)
    passed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, small, large)
        alone = {s: run_alone(folder / s, folder / f"alone-{s}.out") for s in (SMALL, LARGE)}
        for engine in options.engine or ENGINES:
            for source, count in ((SMALL, small), (LARGE, large)):
                target = folder / f"{engine}-{source}.out"
                seconds, killed = run(engine, folder / source, target)
                compare(target, count)
                assert killed, f"{engine} had no worker to kill"
                passed += 1
                times = f"{seconds:.1f} s; one process: {alone[source]:.1f} s"
                print(f"{engine}: {count:,} of {source}, a worker killed: {times}", flush=True)
    print(f"{passed} passed, 0 failed")


if __name__ == "__main__":
    main()
