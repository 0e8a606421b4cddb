"""What the settings ask to be seen."""

import argparse
import os
from typing import Final

from imagecall.observing.observer import Observer

_TO: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")


def observer_of(settings: argparse.Namespace) -> Observer | None:
    """What sees calls as the settings have it. None: nothing.

    Raises OSError with a sentence if what it needs is not installed, or a variable is faulty.
    """
    if not (settings.metrics or settings.traces):
        return Observer(log_calls=True) if settings.log_calls else None
    try:
        from imagecall.observing.metrics import Metrics
        from imagecall.observing.otlp import MetricsSender, resource
        from imagecall.observing.spans import Spans
    except ModuleNotFoundError as error:
        raise OSError(
            "--metrics and --traces need what is not installed "
            f"({error.name}): pip install 'imagecall[observe]'"
        ) from None
    metrics = spans = None
    who = resource()
    try:
        if settings.metrics:
            metrics = Metrics()
            if any(os.environ.get(name) for name in _TO):
                metrics.send_with(MetricsSender(metrics, who))
        if settings.traces:
            spans = Spans(who)
    except ValueError as error:
        raise OSError(f"a variable OTEL_... is faulty: {error}") from None
    return Observer(metrics, spans, log_calls=settings.log_calls)
