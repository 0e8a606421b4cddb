"""Construction of the observer that the settings require."""

from typing import TYPE_CHECKING

from imagecall.observing.observer import Observer

if TYPE_CHECKING:
    from imagecall.observing.metrics import Metrics
    from imagecall.observing.traces import Traces


def observer_from(metrics: bool, traces: bool, log_calls: bool) -> Observer | None:
    """Builds the observer of calls; returns None if all three settings are off.

    Raises OSError with a sentence if a package is missing, or an OTEL_... variable is faulty.
    """
    if not (metrics or traces or log_calls):
        return None
    try:
        return Observer(
            _metrics() if metrics else None,
            _traces() if traces else None,
            log_calls=log_calls,
        )
    except ModuleNotFoundError as error:
        raise OSError(
            "--metrics and --traces need a package that is not installed "
            f"({error.name}): pip install 'imagecall[observe]'"
        ) from None
    except ValueError as error:
        raise OSError(f"a variable OTEL_... is faulty: {error}") from None


def _metrics() -> "Metrics":
    from imagecall.observing.metrics import Metrics

    return Metrics()


def _traces() -> "Traces":
    from imagecall.observing.traces import Traces

    return Traces()
