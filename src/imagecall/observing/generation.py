"""Observation of a generation of images, by OpenTelemetry's conventions for generative AI.

A `Generation` holds names, numbers, sizes and times: no prompt, image, token or key.
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

OPERATION: Final = "generate_content"
"""Value of gen_ai.operation.name."""

OK: Final = "ok"
NO_IMAGE: Final = "no_image"
FINAL: Final = "final"
PARTIAL: Final = "partial"
MODEL: Final = "model"
IMAGE_TOOL: Final = "image_tool"
INPUT: Final = "input"
OUTPUT: Final = "output"

UNSUCCESSFUL: Final = ("failed", "incomplete", "cancelled")
"""Statuses of a response that are outcomes of a generation, if the call itself succeeds."""

_PROVIDERS: Final = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "openrouter.ai": "openrouter",
}
"""Value of gen_ai.provider.name by the host of an API; other APIs have the name of their host."""

_LONGEST_NAME: Final = 128


class Generation:
    """Figures of one generation of images.

    Args:
        provider: value of gen_ai.provider.name.
        model: model of the request; "" without one.

    Attributes:
        response_model: model of the response; "" without one.
        status: status of the response, once the answer is complete.
        reason: reason of the failure; "" without one.
        seconds: duration.
        tokens: tokens by consumer (MODEL, IMAGE_TOOL) and type (INPUT, OUTPUT).
        cost: price in the credits of the API. None: the response has none.
        images: images by stage (FINAL, PARTIAL) and format.
        image_bytes: bytes of images, by the same keys.
        seconds_to: time to the first image of each stage.
        items: items by variant.
    """

    def __init__(self, provider: str, model: str) -> None:
        self.provider = provider
        self.request_model = printable_name(model)
        self.response_model = ""
        self.status: str | None = None
        self.reason = ""
        self.seconds = 0.0
        self.tokens: dict[tuple[str, str], int] = {}
        self.cost: float | None = None
        self.images: Counter[tuple[str, str]] = Counter()
        self.image_bytes: Counter[tuple[str, str]] = Counter()
        self.seconds_to: dict[str, float] = {}
        self.items: Counter[str] = Counter()
        self._start = time.perf_counter()

    def add_image(self, stage: str, image_format: str, size: int) -> None:
        """Counts an image that has just arrived."""
        self.images[stage, image_format] += 1
        self.image_bytes[stage, image_format] += size
        self.seconds_to.setdefault(stage, time.perf_counter() - self._start)

    def end(self) -> None:
        """Sets the duration."""
        self.seconds = time.perf_counter() - self._start

    @property
    def outcome(self) -> str:
        """Outcome: "ok", "no_image", one of UNSUCCESSFUL, or the reason of the failure."""
        if self.reason:
            return self.reason
        if self.status in UNSUCCESSFUL:
            return self.status
        return OK if FINAL in self.seconds_to else NO_IMAGE

    def attributes(self) -> dict[str, str | int | float]:
        """Returns the attributes of a span."""
        figures: Mapping[str, str | int | float | None] = {
            "gen_ai.operation.name": OPERATION,
            "gen_ai.provider.name": self.provider,
            "gen_ai.request.model": self.request_model or None,
            "gen_ai.response.model": self.response_model or None,
            "gen_ai.output.type": "image",
            "gen_ai.usage.input_tokens": self._tokens(INPUT),
            "gen_ai.usage.output_tokens": self._tokens(OUTPUT),
            "imagecall.outcome": self.outcome,
            "imagecall.cost_credits": self.cost,
            "imagecall.images": self._of_stage(self.images, FINAL),
            "imagecall.image_bytes": self._of_stage(self.image_bytes, FINAL),
            "imagecall.partial_images": self._of_stage(self.images, PARTIAL),
            "imagecall.time_to_first_partial_image_seconds": self.seconds_to.get(PARTIAL),
            "imagecall.time_to_final_image_seconds": self.seconds_to.get(FINAL),
        }
        return {name: value for name, value in figures.items() if value is not None}

    def log_fields(self) -> dict[str, str | int | float]:
        """Returns the fields of the log line; an absent model or price is ""."""
        return {
            "model": self.response_model,
            "images": self._of_stage(self.images, FINAL),
            "cost_credits": "" if self.cost is None else self.cost,
        }

    def _tokens(self, kind: str) -> int | None:
        """Returns the tokens of a type, of the model and of the image tool together."""
        counts = [count for (_, token_type), count in self.tokens.items() if token_type == kind]
        return sum(counts) if counts else None

    @staticmethod
    def _of_stage(counts: Counter[tuple[str, str]], stage: str) -> int:
        return sum(count for (image_stage, _), count in counts.items() if image_stage == stage)


def printable_name(model: str) -> str:
    """Returns a model's name for labels and attributes: printable, at most 128 characters."""
    return "".join(c if c.isprintable() else "?" for c in model[:_LONGEST_NAME])


def provider_of(backend: str) -> str:
    """Returns the value of gen_ai.provider.name for a value of the setting `backend`."""
    url = backend.removeprefix("images+")
    host = urlsplit(url).hostname or ""
    if not url.startswith(("http://", "https://")):
        return "imagecall"
    return next((name for end, name in _PROVIDERS.items() if f".{host}".endswith(f".{end}")), host)
