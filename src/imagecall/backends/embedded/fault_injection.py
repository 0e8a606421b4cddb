"""Fault injection: failures and sizes that the request key "embedded" selects."""

from typing import Annotated, Final, Literal

import msgspec

from imagecall.errors import (
    MAX_RETRY_SECONDS,
    ConversionError,
    GenerationError,
    pointer_to,
    reason_of_http_status,
)

KEY: Final = "embedded"
_MAX_IMAGE_BYTES: Final = 256 * 1024 * 1024


class Faults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Members of the request key "embedded"."""

    delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0
    """Seconds until the image or the failure, divided evenly among partial and final images."""
    http_status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    """HTTP status of the injected failure. None: no failure."""
    retry_after_seconds: Annotated[float, msgspec.Meta(ge=0, le=MAX_RETRY_SECONDS)] | None = None
    """Seconds after which the failure allows a retry. None: the failure has no such time."""
    midway: bool = False
    """True for a failure in the middle of the stream, not at its start."""
    ending: Literal["completed", "failed", "incomplete", "none", "cut"] = "completed"
    """End of the stream: a response status, "none" (no end event), or "cut" (within the image)."""
    image_bytes: Annotated[int, msgspec.Meta(ge=1, le=_MAX_IMAGE_BYTES)] | None = None
    """Exact size of the final image file. None: size as drawn. Partial images keep their size."""

    @property
    def fails_at_once(self) -> bool:
        """True if the failure comes before the first event of a stream."""
        return self.http_status is not None and not self.midway

    def fail(self, *, midway: bool) -> None:
        """Raises the GenerationError that the request selects for this moment, if any."""
        status = self.http_status
        if status is None or midway != self.midway:
            return
        head = "the API failed" if midway else f"the API answered {status}"
        raise GenerationError(
            reason_of_http_status(status),
            f"{head}: the request asked for a failure",
            retry_seconds=self.retry_after_seconds,
            may_be_billed=midway,
            metadata={} if midway else {"http_status": str(status)},
        )


def faults_of(raw: bytes) -> Faults:
    """Reads the value of the key, raw JSON text. Raises ConversionError: UNSUPPORTED."""
    try:
        return msgspec.json.decode(raw, type=Faults)
    except msgspec.ValidationError as error:
        description, _, path = str(error).partition(" - at `$.")
        pointer = pointer_to(KEY, *([path.rstrip("`")] if path else []))
        names = ", ".join(Faults.__struct_fields__)
        text = f'"{KEY}" has the members {names}, see the README: {description}'
        raise ConversionError("UNSUPPORTED", pointer, text) from None
