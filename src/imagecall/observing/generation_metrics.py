"""Metrics of generations of images.

Names that begin with gen_ai are those of OpenTelemetry's conventions for generative AI.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from imagecall.errors import CODES
from imagecall.formats import MEDIA_TYPES
from imagecall.observing.generation import (
    FINAL,
    NO_IMAGE,
    OK,
    OPERATION,
    PARTIAL,
    UNSUCCESSFUL,
    Generation,
)

_SECONDS: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    163.84, 327.68,
)  # fmt: skip
"""Buckets of durations: those of the conventions, and two more, as images take minutes."""

_TOKENS: Final = tuple(4**power for power in range(14))
"""Buckets of tokens, of the conventions."""

OTHER: Final = "other"
"""Label of a model beyond the first models, and of an unknown format."""

URL: Final = "url"
"""Format of an image that the API sent as a URL only."""

_MOST_MODELS: Final = 50
"""Most pairs of a request's and a response's model that have series of their own."""

_FORMATS: Final = (*MEDIA_TYPES, OTHER, URL)
_OUTCOMES: Final = (
    OK,
    NO_IMAGE,
    *UNSUCCESSFUL,
    *(reason for reason in CODES if reason.startswith("UPSTREAM_")),
    "CALL_TOO_LONG",
    "CANCELLED",
)
"""Outcomes that are 0 from the start."""

_MODELS: Final = ("gen_ai_request_model", "gen_ai_response_model")
_OPERATION: Final = ("gen_ai_operation_name", "gen_ai_provider_name", *_MODELS)
_IMAGE: Final = ("imagecall_stage", "imagecall_format")


class Models:
    """Names of models as labels. As callers choose the names, the number of labels is bounded."""

    def __init__(self, most: int = _MOST_MODELS) -> None:
        self._most = most
        self._pairs: set[tuple[str, str]] = set()
        self._requested: set[str] = set()

    def labels(self, requested: str, answered: str) -> tuple[str, str]:
        """Returns the labels of a generation: its requested model, and the model of its response.

        The requested model of a failure has its own label only after a response to a request for
        that model.
        """
        if not answered:
            has_label = not requested or requested in self._requested
            return (requested if has_label else OTHER), ""
        pair = (requested, answered)
        if pair not in self._pairs:
            if len(self._pairs) >= self._most:
                return OTHER, OTHER
            self._pairs.add(pair)
            self._requested.add(requested)
        return pair


def _time_to_image(name: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(
        f"imagecall_time_to_{name}_image_seconds",
        f"Time from the request to the {name.replace('_', ' ')} image of the backend",
        _MODELS,
        registry=registry,
        buckets=_SECONDS,
    )


class GenerationMetrics:
    """Metrics of generations of images, in a registry."""

    def __init__(self, registry: CollectorRegistry, doors: tuple[str, ...]) -> None:
        self._models = Models()
        self._durations = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "Generations of images by the backend; error_type is the reason of a failure",
            (*_OPERATION, "error_type"),
            registry=registry,
            buckets=_SECONDS,
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a generation, of the model and of its image tool, as the API reports them",
            (*_OPERATION, "gen_ai_token_type", "imagecall_consumer"),
            registry=registry,
            buckets=_TOKENS,
        )
        self._cost = Counter(
            "imagecall_cost_credits",
            "Price of generations in the credits of the API, where its answer has a cost",
            _MODELS,
            registry=registry,
        )
        self._outcomes = Counter(
            "imagecall_generations",
            "Generations of images; the outcome is ok, no_image, the status of the response, or "
            "the reason of the failure",
            ("imagecall_door", "imagecall_outcome"),
            registry=registry,
        )
        self._images = Counter(
            "imagecall_images",
            "Images, final and partial, that the backend sent",
            _IMAGE,
            registry=registry,
        )
        self._image_bytes = Counter(
            "imagecall_image_bytes",
            "Bytes of images, final and partial, that the backend sent",
            _IMAGE,
            registry=registry,
        )
        self._times = {
            PARTIAL: _time_to_image("first_partial", registry),
            FINAL: _time_to_image("final", registry),
        }
        self._start(doors)

    def _start(self, doors: tuple[str, ...]) -> None:
        """Sets to 0 the series that alerts need."""
        for door in doors:
            for outcome in _OUTCOMES:
                self._outcomes.labels(door, outcome)
        for stage in (FINAL, PARTIAL):
            for image_format in _FORMATS:
                self._images.labels(stage, image_format)
                self._image_bytes.labels(stage, image_format)

    def add(self, door: str, generation: Generation) -> None:
        """Counts a generation."""
        models = self._models.labels(generation.request_model, generation.response_model)
        operation = (OPERATION, generation.provider, *models)
        self._outcomes.labels(door, generation.outcome).inc()
        self._durations.labels(*operation, generation.reason).observe(generation.seconds)
        for (consumer, kind), count in generation.tokens.items():
            self._tokens.labels(*operation, kind, consumer).observe(count)
        if generation.cost is not None:
            self._cost.labels(*models).inc(generation.cost)
        for key, count in generation.images.items():
            self._images.labels(*key).inc(count)
            self._image_bytes.labels(*key).inc(generation.image_bytes[key])
        for stage, seconds in generation.seconds_to.items():
            self._times[stage].labels(*models).observe(seconds)
