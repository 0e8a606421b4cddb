"""Order to the embedded backend: a checked request, and the test card to draw for it."""

import hashlib

from imagecall.backends.embedded.fault_injection import KEY, Faults, faults_of
from imagecall.backends.embedded.image_settings import settings_of
from imagecall.backends.embedded.prompt import input_images, prompt_of
from imagecall.backends.embedded.refusals import allows_image, refuse_unsupported
from imagecall.backends.embedded.test_card.card import Card
from imagecall.generation.request import extra_values, request_to_json
from imagecall.v1.image_request_pb2 import ImageRequest


class Order:
    """A checked request. Raises ConversionError for a request that cannot be fulfilled.

    Attributes:
        body: request as the JSON body of a POST /responses.
        digest: SHA-256 of the body, in hexadecimal.
        has_tools: true if the request has tools.
        faults: failures and sizes that the request selects.
        draws: True if the answer has an image; else it has only a message.
        settings: settings of the image tool.
        card: test card that the image shows.
    """

    def __init__(self, request: ImageRequest) -> None:
        self.body = request_to_json(request, stream=False)
        self.digest = hashlib.sha256(self.body).hexdigest()
        self.has_tools = bool(request.tools)
        values = extra_values(request)
        self.faults: Faults = faults_of(values.get(KEY, b"{}"))
        refuse_unsupported(values)
        self.draws = allows_image(values)
        self.settings = settings_of(request.tools, needed=self.draws)
        self.card = Card(
            prompt=prompt_of(request),
            width=self.settings.width,
            height=self.settings.height,
            quality=self.settings.quality,
            transparent=self.settings.background == "transparent",
            output_format=self.settings.output_format,
            compression=self.settings.compression,
            inputs=tuple(input_images(request)),
        )
        self.card_digest = hashlib.sha256(repr(self.card).encode()).hexdigest()

    @property
    def succeeds(self) -> bool:
        """True if the response does not fail."""
        return self.faults.ending in ("completed", "none", "cut")

    @property
    def has_image(self) -> bool:
        """True if the answer has a complete image."""
        return self.draws and self.succeeds
