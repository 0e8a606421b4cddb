"""Test cards: they are what they say, the same every time, and no prompt or input breaks them."""

import io
import struct
import subprocess
import sys
import zlib
from ast import literal_eval
from dataclasses import replace
from itertools import pairwise, product

import pytest
from PIL import Image, ImageChops, ImageStat

from imagecall.backends.embedded.test_card.caption import readable, wrap
from imagecall.backends.embedded.test_card.card import Card, draw
from imagecall.backends.embedded.test_card.padding import pad

FOX = Card("a red fox in the snow", 320, 256, "medium", False, "png", None)
FORMATS = ["png", "jpeg", "webp"]


def decoded(file: bytes) -> Image.Image:
    """The picture of a file that decodes without complaint."""
    Image.open(io.BytesIO(file)).verify()
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def difference(first: bytes, second: bytes) -> float:
    """The mean difference of two pictures, 0 to 255."""
    images = (decoded(first).convert("RGB"), decoded(second).convert("RGB"))
    return sum(ImageStat.Stat(ImageChops.difference(*images)).mean) / 3


def png_header(width: int, height: int) -> bytes:
    """A PNG file that says it has a size, and has no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (header, data, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def test_another_process_draws_the_same_files() -> None:
    cards = [
        replace(FOX, output_format=output_format, transparent=transparent, inputs=(draw(FOX),))
        for output_format, transparent in product(FORMATS, (False, True))
    ]
    program = (
        "from imagecall.backends.embedded.test_card.card import Card, draw\n"
        f"print([draw(card) for card in {cards!r}])"
    )
    other = subprocess.run(
        [sys.executable, "-"], input=program.encode(), capture_output=True, check=True
    )
    assert literal_eval(other.stdout.decode()) == [draw(card) for card in cards]


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("quality", ["low", "medium", "high"])
@pytest.mark.parametrize(
    "size", [(16, 16), (16, 4096), (4096, 16), (95, 96), (96, 96), (256, 256), (384, 256)]
)
def test_a_file_has_the_size_and_format_of_its_card(
    size: tuple[int, int], quality: str, output_format: str
) -> None:
    width, height = size
    card = replace(FOX, width=width, height=height, quality=quality, output_format=output_format)
    for sharpness in (0.1, 0.9, 1.0):
        image = decoded(draw(card, sharpness))
        assert image.size == size
        assert image.format == output_format.upper()
        assert image.mode == "RGB"


@pytest.mark.parametrize(
    ("size", "output_format"),
    [((4096, 4096), "png"), ((1536, 1024), "jpeg"), ((1536, 1024), "webp")],
)
def test_a_large_card_is_drawn(size: tuple[int, int], output_format: str) -> None:
    width, height = size
    card = replace(FOX, width=width, height=height, quality="high", output_format=output_format)
    image = decoded(draw(replace(card, inputs=(draw(FOX),))))
    assert (image.size, image.format) == (size, output_format.upper())


@pytest.mark.parametrize("prompt", ["logo of a green leaf", "a lighthouse at night", "a fox"])
@pytest.mark.parametrize("output_format", ["png", "webp"])
@pytest.mark.parametrize("sharpness", [0.25, 1.0])
def test_a_transparent_card_is_transparent_around_its_subject(
    prompt: str, output_format: str, sharpness: float
) -> None:
    card = replace(FOX, prompt=prompt, transparent=True, output_format=output_format)
    alpha = decoded(draw(card, sharpness)).getchannel("A")
    corners = [(x, y) for x in (0, card.width - 1) for y in (0, card.height - 1)]
    assert {alpha.getpixel(corner) for corner in corners} == {0}
    assert alpha.getextrema() == (0, 255)


def test_a_jpeg_card_is_never_transparent() -> None:
    opaque = replace(FOX, output_format="jpeg")
    assert draw(replace(opaque, transparent=True)) == draw(opaque)


@pytest.mark.parametrize("size", [(16, 16), (256, 256), (16, 1024)])
@pytest.mark.parametrize("prompt", ["a red fox in the snow", "something abstract"])
def test_partial_images_come_nearer_to_the_final_one(prompt: str, size: tuple[int, int]) -> None:
    card = replace(FOX, prompt=prompt, width=size[0], height=size[1])
    final = draw(card)
    distances = [difference(draw(card, sharpness), final) for sharpness in (0.25, 0.5, 0.75)]
    assert all(nearer < farther for farther, nearer in pairwise([*distances, 0.0]))


@pytest.mark.parametrize("size", [(16, 16), (96, 64), (256, 256)])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("output_format", FORMATS)
def test_partial_images_are_smaller_files(
    size: tuple[int, int], transparent: bool, output_format: str
) -> None:
    for prompt in ("a red fox", "a lighthouse at night by the sea", "zzz"):
        card = Card(prompt, *size, "medium", transparent, output_format, None)
        final = len(draw(card))
        assert all(len(draw(card, sharpness)) < final for sharpness in (0.25, 0.5, 0.75))


def test_a_higher_quality_has_finer_detail() -> None:
    files = [draw(replace(FOX, quality=quality)) for quality in ("low", "medium", "high")]
    scenes = [decoded(file).crop((0, 0, 320, 160)) for file in files]
    colours = [len(scene.getcolors(2**24) or ()) for scene in scenes]
    assert all(fewer < more for fewer, more in pairwise(colours))
    assert all(difference(a, b) > 1 for a, b in pairwise(files))


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_compression_is_the_quality_of_the_encoder(output_format: str) -> None:
    card = replace(FOX, output_format=output_format)
    sizes = [len(draw(replace(card, compression=value))) for value in (0, 50, 90, 100)]
    assert sizes == sorted(sizes)
    assert draw(replace(card, compression=90)) == draw(card)


def test_other_prompts_give_other_scenes() -> None:
    prompts = ["one thing", "another thing", "a red cat", "a blue cat", "a blue cat at night"]
    scenes = [
        decoded(draw(replace(FOX, prompt=prompt))).crop((0, 0, 320, 150)) for prompt in prompts
    ]
    assert len({scene.tobytes() for scene in scenes}) == len(prompts)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " \n\t ",
        "fox " * 25_000,
        "x" * 100_000,
        "\N{FOX FACE}" * 50,
        "a cat \N{CAT FACE}\N{ZERO WIDTH JOINER}\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}",
        "".join(map(chr, range(32))) + "\x7f\x85",
        "\u05e9\u05dc\u05d5\u05dd \u202e fox",
        "\u732b\u304c\u3044\u308b",
        "e" + "\N{COMBINING ACUTE ACCENT}" * 500,
        "lone \ud800 surrogate",
        "line\nafter\r\nline",
    ],
    ids=lambda prompt: ascii(prompt[:12]),
)
@pytest.mark.parametrize("size", [(16, 16), (96, 96), (100, 1000), (512, 256)])
def test_any_prompt_is_drawn(prompt: str, size: tuple[int, int]) -> None:
    card = replace(FOX, prompt=prompt, width=size[0], height=size[1])
    assert decoded(draw(card)).size == size


@pytest.mark.parametrize(
    ("prompt", "caption"),
    [
        ("a fox", '"a fox"'),
        ("a\n  fox\x00", '"a fox"'),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", '"cafe"'),
        ("", "(an empty prompt)"),
        ("\N{FOX FACE}", "(a prompt in characters that this font lacks)"),
        ("a fox \N{FOX FACE}", '"a fox \N{REPLACEMENT CHARACTER}"'),
        ("\N{COMBINING ACUTE ACCENT}", "(a prompt of unseen characters)"),
    ],
)
def test_the_caption_shows_the_prompt_as_far_as_the_font_can(prompt: str, caption: str) -> None:
    assert readable(prompt) == caption


def test_what_is_cut_off_ends_in_an_ellipsis() -> None:
    assert wrap("some words that are many", 12, 60, 2)[-1].endswith("...")
    assert wrap("short", 12, 60, 2) == ["short"]


@pytest.mark.parametrize("output_format", FORMATS)
def test_inputs_are_shown(output_format: str) -> None:
    first = draw(replace(FOX, output_format=output_format))
    second = draw(replace(FOX, prompt="a house at night", output_format=output_format))
    cards = [replace(FOX, inputs=inputs) for inputs in ((), (first,), (second,), (first, second))]
    assert len({draw(card) for card in cards}) == len(cards)


def test_what_cannot_be_decoded_is_a_question_mark() -> None:
    whole = draw(FOX)
    question_mark = draw(replace(FOX, inputs=(b"",)))
    broken = [
        b"no image",
        whole[:100],
        whole[: len(whole) // 2],
        whole.replace(b"IDAT", b"IDAX"),
        draw(replace(FOX, output_format="webp"))[:200],
        b"\xff\xd8\xff",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"<svg></svg>",
    ]
    for file in broken:
        assert draw(replace(FOX, inputs=(file,))) == question_mark
    assert draw(replace(FOX, inputs=(whole,))) != question_mark


def test_damaged_inputs_never_raise() -> None:
    for output_format in FORMATS:
        file = draw(replace(FOX, width=64, height=64, output_format=output_format))
        for place in range(0, len(file), max(1, len(file) // 40)):
            damaged = file[:place] + bytes([file[place] ^ 0x55]) + file[place + 1 :]
            assert draw(replace(FOX, width=128, height=128, quality="low", inputs=(damaged,)))


@pytest.mark.parametrize("size", [(7000, 7000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_not_decoded(size: tuple[int, int]) -> None:
    bomb = png_header(*size)
    assert draw(replace(FOX, inputs=(bomb,))) == draw(replace(FOX, inputs=(b"",)))


def test_a_gif_bomb_is_not_decoded() -> None:
    image = b",\0\0\0\0" + struct.pack("<HH", 65535, 65535) + b"\0\x08\x01\0\0"
    bomb = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0" + image + b";"
    assert draw(replace(FOX, inputs=(bomb,))) == draw(replace(FOX, inputs=(b"",)))


def test_only_the_first_inputs_are_shown_and_the_others_counted() -> None:
    file = draw(FOX)
    cards = [replace(FOX, inputs=(file,) * count) for count in (4, 5, 6)]
    assert len({draw(card) for card in cards}) == len(cards)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 15},
        {"height": 4097},
        {"quality": "auto"},
        {"output_format": "gif"},
        {"compression": 101},
    ],
    ids=str,
)
def test_a_card_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(change.values())))):
        Card(**{**vars(FOX), **change})


@pytest.mark.parametrize("sharpness", [0.0, -1.0, 1.1, float("nan")])
def test_a_sharpness_that_cannot_be_is_refused(sharpness: float) -> None:
    with pytest.raises(ValueError, match="sharpness"):
        draw(FOX, sharpness)


LEAST = {"png": 12, "jpeg": 1, "webp": 26}


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("transparent", [False, True])
def test_a_padded_file_has_the_size_and_the_same_pixels(
    output_format: str, transparent: bool
) -> None:
    file = draw(replace(FOX, output_format=output_format, transparent=transparent))
    before = decoded(file)
    for extra in (0, *range(26, 40), 65_536, 65_537, 65_538, 65_540, 3_000_001):
        padded = pad(file, len(file) + extra)
        assert len(padded) == len(file) + extra
        after = decoded(padded)
        assert (before.format, before.mode, before.size) == (after.format, after.mode, after.size)
        assert before.tobytes() == after.tobytes(), extra


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_least_padding_is_stated_and_works(output_format: str) -> None:
    file = draw(replace(FOX, output_format=output_format))
    least = LEAST[output_format]
    assert decoded(pad(file, len(file) + least)).tobytes() == decoded(file).tobytes()
    with pytest.raises(ValueError, match=f"{len(file):,}"):
        pad(file, len(file) - 1)
    if least > 2:
        with pytest.raises(ValueError, match=f"{len(file) + least:,}"):
            pad(file, len(file) + least - 2)


@pytest.mark.parametrize("output_format", FORMATS)
def test_every_short_padding_is_exact_or_refused(output_format: str) -> None:
    file = draw(replace(FOX, width=16, height=16, output_format=output_format))
    for extra in range(60):
        try:
            padded = pad(file, len(file) + extra)
        except ValueError:
            assert extra < LEAST[output_format] + 1
        else:
            assert len(padded) == len(file) + extra
            assert decoded(padded).tobytes() == decoded(file).tobytes()


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_padded_file_can_be_padded_again(output_format: str) -> None:
    file = draw(replace(FOX, output_format=output_format))
    twice = pad(pad(file, len(file) + 100), len(file) + 300)
    assert len(twice) == len(file) + 300
    assert decoded(twice).tobytes() == decoded(file).tobytes()


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_any_kind_of_webp_is_padded(mode: str, lossless: bool) -> None:
    buffer = io.BytesIO()
    decoded(draw(replace(FOX, transparent=mode == "RGBA"))).save(buffer, "WEBP", lossless=lossless)
    file = buffer.getvalue()
    before, after = decoded(file), decoded(pad(file, len(file) + 1000))
    assert (before.mode, before.tobytes()) == (after.mode, after.tobytes())


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_file_is_padded_to_64_mebibytes(output_format: str) -> None:
    file = draw(replace(FOX, output_format=output_format))
    padded = pad(file, 64 * 1024 * 1024)
    assert len(padded) == 64 * 1024 * 1024
    assert decoded(padded).tobytes() == decoded(file).tobytes()


def test_what_is_no_image_is_not_padded() -> None:
    with pytest.raises(ValueError, match="no known format"):
        pad(b"text", 100)
