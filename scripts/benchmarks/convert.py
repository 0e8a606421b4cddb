"""Benchmark of conversions: each peer as a ratio to this package in the same interleaved rounds.

The peers: google's json_format on a message with the four keys as fields (bytes for the result),
which writes as compactly as we do; betterproto 2.0.0b7 on that message; openai's pydantic model,
which makes no protobuf; and the floor, which knows where the image is: base64, and one copy of the
image between constant bytes. "by hand" is Python written for items of just these four keys, with
this status, and of few bytes; it refuses what it would lose, without a reason. "ours" is
serialized_from_json and to_json; "by message" goes from and to bytes through a message object; "by
bytes" is json_from_serialized, which starts from bytes, as "by hand" does, where the other peers
start from a message.

A ratio of 2 means that the peer takes twice as long; quartiles are in brackets. Figures come with
the C allocator's defaults, as in a user's process, and with freed memory kept, as in
`imagecall serve`.
"""

import argparse
import base64
import gc
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import betterproto
import jiter
import openai.types.responses.response_output_item as openai_items
import pybase64
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from rounds import measured, print_row, time_of

import imagecall
from imagecall.allocator import keep_freed_memory
from imagecall.json.text import quote

TYPE = "image_generation_call"
KEYS = {"type", "id", "result", "status"}
COMPLETED = b"\x18\x02"
"""Field of the status "completed"."""

SIZES = {
    "null": 0,
    "88 B": 88,
    "1 KB": 1024,
    "100 KB": 100_000,
    "2 MB": 2_000_000,
    "8 MB": 8_000_000,
}
MIB = 1024 * 1024


def _flat_message() -> type[Any]:
    """Returns a message type with the item's keys as fields, as users of json_format write."""
    file = descriptor_pb2.FileDescriptorProto(name="flat.proto", package="flat", syntax="proto3")
    message = file.message_type.add(name="Item")
    field = descriptor_pb2.FieldDescriptorProto
    for number, name in enumerate(("type", "id", "result", "status"), 1):
        kind = field.TYPE_BYTES if name == "result" else field.TYPE_STRING
        message.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("flat.Item"))


Flat = _flat_message()


@dataclass
class BetterprotoItem(betterproto.Message):
    type: str = betterproto.string_field(1)
    id: str = betterproto.string_field(2)
    result: bytes = betterproto.bytes_field(3)
    status: str = betterproto.string_field(4)


def item(base64_bytes: int) -> bytes:
    """Returns an item whose result has `base64_bytes` bytes of base64."""
    result = b"null"
    if base64_bytes:
        result = b'"' + base64.b64encode(os.urandom(base64_bytes // 4 * 3)) + b'"'
    start = b'{"type":"image_generation_call","id":"ig_0df93c0bb83a72f20068c979","result":'
    return start + result + b',"status":"completed"}'


def read_by_hand(text: bytes) -> bytes:
    """Returns the serialized message of an item of less than 128 bytes."""
    value = jiter.from_json(text, allow_inf_nan=False, catch_duplicate_keys=True)
    if value.keys() != KEYS or value["type"] != TYPE or value["status"] != "completed":
        raise ValueError("the item has other keys or values")
    if value["result"].endswith("="):
        raise ValueError("unused bits of the base64 may be lost")
    result = _field(0x12, pybase64.b64decode(value["result"], None, True))
    return _field(0x2A, _field(0x0A, value["id"].encode()) + _field(0x12, result) + COMPLETED)


def _field(tag: int, value: bytes) -> bytes:
    return bytes((tag, len(value))) + value


def write_by_hand(data: bytes) -> bytes:
    """Returns the JSON of such a serialized item."""
    result = 4 + data[3]
    end = result + 2 + data[result + 1]
    starts = data[0], data[2], data[result], data[result + 2]
    if starts != (0x2A, 0x0A, 0x12, 0x12) or data[end:] != COMPLETED or len(data) != data[1] + 2:
        raise ValueError("the item has other fields")
    if data[result + 3] != end - result - 4:
        raise ValueError("the result has more than an image")
    keys = quote(str(data[4:result], "utf-8")), pybase64.b64encode(data[result + 4 : end])
    return b'{"type":"image_generation_call","id":%b,"result":"%b","status":"completed"}' % keys


def readers(text: bytes) -> dict[str, Callable[[], object]]:
    """Returns functions from JSON to a serialized message, by peer."""

    data = imagecall.serialized_from_json(text)
    image = imagecall.from_json(text).output_image_generation_call.result.image
    first = text.rfind(b":", 0, text.rfind(b",")) + 2
    last = text.rfind(b",") - 1
    start, _, end = data.partition(image) if image else (data, b"", b"")

    def floor() -> bytes:
        return b"".join((start, pybase64.b64decode(text[first:last], None, True), end))

    model = openai_items.ImageGenerationCall
    by_hand = {"by hand": lambda: read_by_hand(text)} if image and len(data) < 128 else {}
    return by_hand | {
        "ours": lambda: imagecall.serialized_from_json(text),
        "by message": lambda: imagecall.from_json(text).SerializeToString(),
        "json_format": lambda: json_format.Parse(text, Flat()).SerializeToString(),
        "betterproto": lambda: bytes(BetterprotoItem().from_json(text)),
        "openai": lambda: model.model_validate_json(text),
        "floor": floor if image else lambda: b"".join((start, end)),
    }


def writers(text: bytes) -> dict[str, Callable[[], object]]:
    """Returns functions from a message to JSON, by peer."""
    call = imagecall.from_json(text)
    data = call.SerializeToString()
    flat = json_format.Parse(text, Flat())
    better = BetterprotoItem().from_json(text)
    model = openai_items.ImageGenerationCall.model_validate_json(text)
    image = call.output_image_generation_call.result.image
    start, end = text.split(b'"result":')[0] + b'"result":"', b'","status":"completed"}'

    def floor() -> bytes:
        return b"".join((start, pybase64.b64encode(image), end))

    by_hand = {"by hand": lambda: write_by_hand(data)} if image and len(data) < 128 else {}
    return by_hand | {
        "ours": lambda: imagecall.to_json(call),
        "by message": lambda: imagecall.to_json(imagecall.ImageGenerationCall.FromString(data)),
        "by bytes": lambda: imagecall.json_from_serialized(data),
        "json_format": lambda: json_format.MessageToJson(flat, indent=None),
        "betterproto": lambda: better.to_json(),
        "openai": lambda: model.model_dump_json(),
        "floor": floor,
    }


def measure_times(seconds: float) -> None:
    """Prints the rows of times."""
    for direction, make in (("read", readers), ("write", writers)):
        for name, size in SIZES.items():
            rounds = measured(make(item(size)), seconds)
            ratios = {peer: rounds.ratio(peer, "ours") for peer in rounds if peer != "ours"}
            print_row(f"{direction} {name}", time_of(rounds.seconds("ours")), ratios)


def memory(field: str) -> int:
    """Returns a figure of /proc/self/status in bytes, such as VmHWM."""
    [size] = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(size) * 1024


def growth(run: Callable[[], object]) -> int:
    """Peak memory of a call, beyond the memory before it."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # Resets VmHWM to the current VmRSS.
    before = memory("VmRSS")
    run()
    return memory("VmHWM") - before


def measure_memory(name: str) -> None:
    """Prints the peak of one conversion of 64 MB, in this process."""
    text = item(64_000_000)
    small = item(88)
    direction, peer = name.split(":")
    make = readers if direction == "read" else writers
    make(small)[peer]()
    print(f"{growth(make(text)[peer]) / len(text):.2f}")


def in_new_process(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less time, less sure figures")
    parser.add_argument("--times", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.keep:
        keep_freed_memory()
    if options.times:
        return measure_times(options.times)
    if options.memory:
        return measure_memory(options.memory)
    packages = ("grpcio", "protobuf", "jiter", "pybase64", "betterproto", "openai")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; {versions}")
    seconds = "0.2" if options.quick else "2"
    print("\nTimes of peers as multiples of ours, freed memory kept (as imagecall serve does)")
    print(in_new_process("--keep", "--times", seconds), flush=True)
    print("\nThe same with the allocator's defaults (as in a user's process)")
    print(in_new_process("--times", seconds), flush=True)
    print("\nPeak memory beyond the input, as a multiple of its JSON")
    for direction in ("read", "write"):
        peaks = {
            peer: in_new_process("--memory", f"{direction}:{peer}")
            for peer in ("ours", "json_format", "openai", "floor")
        }
        print_row(f"{direction} 64 MB, peak memory", peaks.pop("ours"), peaks)
    return None


if __name__ == "__main__":
    main()
