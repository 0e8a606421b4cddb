"""Construction of the observer that the settings require."""

from typing import TYPE_CHECKING

from imagecall.observing.observer import Observer

if TYPE_CHECKING:
    from imagecall.observing.metrics import Metrics
    from imagecall.observing.traces import Traces


def observer_from(metrics: bool, traces: bool, log_calls: bool) -> Observer | None:
    """Builds the observer of calls; returns None if all three settings are off.

    Raises ModuleNotFoundError for a package of the extra `observe`, and OSError with a sentence for
    a faulty variable OTEL_...
    """
    if not (metrics or traces or log_calls):
        return None
    try:
        return Observer(
            _metrics() if metrics else None,
            _traces() if traces else None,
            log_calls=log_calls,
        )
    except ValueError as error:
        raise OSError(f"a variable OTEL_... is faulty: {error}") from None


def _metrics() -> "Metrics":
    from imagecall.observing.metrics import Metrics

    return Metrics()


def _traces() -> "Traces":
    from imagecall.observing.traces import Traces

    return Traces()
