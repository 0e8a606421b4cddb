"""The observer that the settings ask for."""

import os
from typing import Final

from imagecall.observing.observer import Observer

_TO: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")


def observer_from(metrics: bool, traces: bool, log_calls: bool) -> Observer | None:
    """The observer of calls; None if nothing is to be observed.

    Raises OSError with a sentence if a package is not installed, or a variable is faulty.
    """
    if not (metrics or traces):
        return Observer(log_calls=True) if log_calls else None
    try:
        from imagecall.observing.metrics import Metrics
        from imagecall.observing.otlp import MetricsSender, resource
        from imagecall.observing.spans import Spans
    except ModuleNotFoundError as error:
        raise OSError(
            "--metrics and --traces need what is not installed "
            f"({error.name}): pip install 'imagecall[observe]'"
        ) from None
    counters = spans = None
    who = resource()
    try:
        if metrics:
            counters = Metrics()
            if any(os.environ.get(name) for name in _TO):
                counters.send_with(MetricsSender(counters, who))
        if traces:
            spans = Spans(who)
    except ValueError as error:
        raise OSError(f"a variable OTEL_... is faulty: {error}") from None
    return Observer(counters, spans, log_calls=log_calls)
