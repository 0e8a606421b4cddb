"""Order to the embedded backend: a checked request, and the test card to draw for it."""

import hashlib
from dataclasses import replace
from typing import Final

from imagecall.backends.embedded.fault_injection import KEY, Faults, faults_of
from imagecall.backends.embedded.image_settings import settings_of
from imagecall.backends.embedded.prompt import input_images, prompt_of
from imagecall.backends.embedded.refusals import allows_image, refuse_unsupported
from imagecall.backends.embedded.test_card.card import Card
from imagecall.generation.request import extra_values, request_to_json
from imagecall.turns import take_turn
from imagecall.v1.image_request_pb2 import ImageRequest

_SHOWN_CHARACTERS: Final = 10_000
"""Length of the start of a prompt that determines the picture, in characters."""


class Order:
    """A checked request. Raises ConversionError for a request that cannot be fulfilled.

    Attributes:
        body: request as the JSON body of a POST /responses.
        size: length of the body, in bytes.
        digest: SHA-256 of the body, in hexadecimal.
        has_tools: true if the request has tools.
        faults: failures and sizes that the request selects.
        draws: True if the answer has an image; else it has only a message.
        settings: settings of the image tool.
        prompt: text to draw.
        card: test card that the image shows.
    """

    def __init__(self, request: ImageRequest) -> None:
        self.body = request_to_json(request, stream=False)
        self.size = len(self.body)
        self.digest = hashlib.sha256(self.body).hexdigest()
        self.has_tools = bool(request.tools)
        values = extra_values(request)
        self.faults: Faults = faults_of(values.get(KEY, b"{}"))
        refuse_unsupported(values)
        self.draws = allows_image(values)
        self.settings = settings_of(request.tools, needed=self.draws)
        self.prompt = prompt_of(request)
        self.card = Card(
            prompt=self.prompt[:_SHOWN_CHARACTERS],
            width=self.settings.width,
            height=self.settings.height,
            quality=self.settings.quality,
            transparent=self.settings.background == "transparent",
            output_format=self.settings.output_format,
            compression=self.settings.compression,
            inputs=tuple(input_images(request)),
        )
        self.card_digest = _digest(self.card)

    @property
    def succeeds(self) -> bool:
        """True if the response does not fail."""
        return self.faults.ending in ("completed", "none", "cut")

    @property
    def has_image(self) -> bool:
        """True if the answer has a complete image."""
        return self.draws and self.succeeds


def _digest(card: Card) -> str:
    """SHA-256 of all that a card shows, in hexadecimal."""
    digest = hashlib.sha256(repr(replace(card, prompt="", inputs=())).encode())
    for value in (card.prompt.encode(errors="surrogatepass"), *card.inputs):
        take_turn()
        digest.update(len(value).to_bytes(8))
        digest.update(value)
    return digest.hexdigest()
