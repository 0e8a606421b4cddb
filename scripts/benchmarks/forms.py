"""Benchmark of legal but unusual forms, each as a ratio to the plain form of the same size.

A row is a cliff that was there once: no form may cost many times what the plain form costs.
`read` is serialized_from_json, `write` json_from_serialized, or the same for events and documents.
"""

import argparse
import base64
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

import jiter
from rounds import measured, print_row, time_of

import imagecall

_START: Final = b'{"type":"image_generation_call","id":"ig_0df93c0bb83a72f20068c979","result":"'
_END: Final = b'","status":"completed"}'
_PARTIAL: Final = (
    b'{"type":"response.image_generation_call.partial_image","item_id":"ig_1","output_index":0,'
    b'"sequence_number":3,"partial_image_index":0,"partial_image_b64":"'
)
_SIZES: Final = {"88 B": 66, "8 KB": 6_000, "100 KB": 75_000, "2 MB": 1_500_000}
_IMAGE: Final = random.Random(1).randbytes(1_500_001)


class Row(NamedTuple):
    """Form, the plain form of the same size, and the number of plain forms that the form equals.

    `parse` only parses the form's JSON, as the converter does first. None: nothing is parsed.
    """

    name: str
    form: Callable[[], object]
    plain: Callable[[], object]
    units: float = 1
    parse: Callable[[], object] | None = None


def _reads(name: str, form: bytes, plain: bytes, units: float = 1) -> Iterator[Row]:
    """Rows of an item's text: read, and written from the message that it is."""
    read, write = imagecall.serialized_from_json, imagecall.json_from_serialized
    wire, plain_wire = read(form), read(plain)
    parse = partial(jiter.from_json, form)
    yield Row(f"read   {name}", lambda: read(form), lambda: read(plain), units, parse)
    yield Row(f"write  {name}", lambda: write(wire), lambda: write(plain_wire), units)


def _of_base64(label: str, size: int) -> Iterator[Row]:
    text = base64.b64encode(_IMAGE[:size])
    short = base64.b64encode(_IMAGE[: size + 1]).rstrip(b"=")
    lines = b"\\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    plain = _START + text + _END
    for name, form in {
        r"escaped \/": text.replace(b"/", b"\\/"),
        "one escape": text[:40] + b"\\u002b" + text[41:],
        r"escaped \u002b": text.replace(b"+", b"\\u002b"),
        "data: URL": b"data:image/png;base64," + text,
        "unpadded": short,
        "base64url": text.translate(bytes.maketrans(b"+/", b"-_")),
        "line breaks": lines,
    }.items():
        yield from _reads(f"{name}, {label}", _START + form + _END, plain)
    prompt = b',"revised_prompt":"%b"}' % (b"A fox. " * 1000)
    yield from _reads(f"7 KB after it, {label}", plain[:-1] + prompt, plain)


def _of_texts() -> Iterator[Row]:
    words = b"A fox that paints a lighthouse, seen from the sea; oils. " * 600
    for size in (1024, 2048, 4096, 8192, 16384, 32000):
        image = _START + base64.b64encode(_IMAGE[: size // 4 * 3]) + _END
        prompt = words[: size - 30]
        for key in ("revised_prompt", "note"):
            form = _START[:-11] + b',"%b":"%b"}' % (key.encode(), prompt)
            yield from _reads(f"{key} of {size:,} B", form, image)


def _of_extras() -> Iterator[Row]:
    plain = _START + base64.b64encode(_IMAGE[:66]) + _END
    for count in (1, 10, 100, 1000, 9000):
        extras = b"".join(b',"key%d":"value %d"' % (at, at) for at in range(count))
        yield from _reads(f"{count:,} extra keys", plain[:-1] + extras + b"}", plain)
    nested = b"[" + b",".join(b'{"a":%d,"b":[true,"x"]}' % at for at in range(400)) + b"]"
    image = _START + base64.b64encode(_IMAGE[: len(nested) // 4 * 3]) + _END
    yield from _reads("nested extra, 10 KB", plain[:-1] + b',"x":' + nested + b"}", image)


def _of_events(label: str, size: int) -> Iterator[Row]:
    text = base64.b64encode(_IMAGE[:size])
    item, form = _START + text + _END, _PARTIAL + text + b'"}'
    event, call = imagecall.event_from_json(form), imagecall.from_json(item)
    read, write = imagecall.event_from_json, imagecall.event_to_json
    name = f"partial image, {label}"
    yield Row(f"read   {name}", lambda: read(form), lambda: imagecall.from_json(item))
    yield Row(f"write  {name}", lambda: write(event), lambda: imagecall.to_json(call))


def _of_documents() -> Iterator[Row]:
    text = base64.b64encode(_IMAGE[:-1])
    texts = {}
    for count in (4, 16):
        items = b",".join([_START + text + _END] * count)
        texts[count] = b'{"id":"resp_1","object":"response","output":[' + items + b"]}"
    few, many = texts.values()
    one, two = (imagecall.document_from_json(text, kind="response") for text in (few, many))

    def read(text: bytes) -> object:
        return imagecall.document_from_json(text, kind="response")

    name = "16 images of 2 MB, per image, against 4"
    yield Row(f"read   {name}", lambda: read(many), lambda: read(few), 4)
    write = imagecall.document_to_json
    yield Row(f"write  {name}", lambda: write(two), lambda: write(one), 4)
    whole, part = bytearray(write(two)), bytearray(write(one))
    yield Row("a copy of these bytes, the same", lambda: bytes(whole), lambda: bytes(part), 4)


def rows() -> Iterator[Row]:
    """Rows of the table, in its order."""
    for label, size in _SIZES.items():
        yield from _of_base64(label, size)
        yield from _of_events(label, size)
    yield from _of_texts()
    yield from _of_extras()
    yield from _of_documents()


def measure_forms(seconds: float, only: str = "") -> None:
    """Prints each form as a multiple of the plain form."""
    for row in rows():
        if only not in row.name:
            continue
        parser = {"parser": row.parse} if row.parse else {}
        rounds = measured({"form": row.form, "plain": row.plain} | parser, seconds)
        figures = {"times plain": rounds.ratio("form", "plain").per(row.units)}
        if row.parse:
            figures["parsing the JSON alone"] = rounds.ratio("parser", "plain").per(row.units)
        print_row(row.name, time_of(rounds.seconds("form")), figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less time, less sure figures")
    parser.add_argument("--only", default="", help="only rows whose name has this text")
    options = parser.parse_args()
    measure_forms(0.05 if options.quick else 0.5, options.only)


if __name__ == "__main__":
    main()
