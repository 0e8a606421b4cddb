"""Extraction of the images of many records into files."""

from collections.abc import Iterator

from imagecall.bulk.faults import Fault, FaultLog, fault_of
from imagecall.bulk.image_files import ImageFiles, NotWritten
from imagecall.bulk.images import PlacedImage, images_in
from imagecall.bulk.kinds import RecordKind
from imagecall.bulk.records import Batch
from imagecall.errors import ConversionError
from imagecall.formats import image_format


class Extraction:
    """Writes the images of records, and counts.

    Args:
        files: writer of the images.
        log: receives what was refused, and what had no image.
        kind: kind of every record. None: found by the keys of each.
        partial_images: True to write the partial images of events too.

    Attributes:
        written: images whose file is new.
        present: images whose file was there already.
        repeated: images that came again in this run, as in the last event of a stream.
        empty: items and records without an image.
        refused: records that were refused, and images that could not be written.
        partial: partial images that were left out.
        events: events without an item that should have an image.
    """

    def __init__(
        self, files: ImageFiles, log: FaultLog, kind: RecordKind | None, partial_images: bool
    ) -> None:
        self._files = files
        self._log = log
        self._kind = kind
        self._partial_images = partial_images
        self.written = self.present = self.repeated = self.empty = self.refused = 0
        self.partial = self.events = 0

    def take(self, file: str, batch: Batch) -> Iterator[str]:
        """Writes the images of some records of a file; yields a line for each file."""
        self.refused += len(batch.faults)
        self._log.add(file, batch.faults)
        for line, text in batch.split().records:
            try:
                images = [*images_in(text, self._kind)]
            except ConversionError as error:
                self.refused += 1
                self._log.add(file, [fault_of(error, line)])
                continue
            self.events += not images
            for image in images:
                yield from self._write(file, line, image)

    def summary(self) -> str:
        """Line with the counts."""
        counts = [
            (self.written, "written"),
            (self.present, "there already"),
            (self.repeated, "repeated"),
            (self.empty, "without an image"),
            (self.partial, "partial images left out (--partial-images writes them)"),
            (self.events, "events without an image"),
            (self.refused, "refused"),
        ]
        return ", ".join(f"{n:,} {words}" for n, words in counts if n or words == "written")

    def _write(self, file: str, line: int, placed: PlacedImage) -> Iterator[str]:
        if placed.partial is not None and not self._partial_images:
            self.partial += 1
            return
        if placed.image is None:
            self.empty += 1
            self._log.add(file, [Fault(line, placed.pointer, "NO_IMAGE", placed.cause)])
            return
        label = "" if placed.partial is None else f"-partial{placed.partial}"
        try:
            path, state = self._files.write(placed.id, placed.image, label)
        except NotWritten as error:
            self.refused += 1
            self._log.add(file, [Fault(line, placed.pointer, "NOT_WRITTEN", str(error))])
            return
        self.written += state == "new"
        self.present += state == "there already"
        self.repeated += state == "repeated"
        if state != "repeated":
            form = image_format(placed.image) or "unknown format"
            there = "" if state == "new" else f", {state}"
            yield f"{path}: {form}, {len(placed.image):,} bytes{there}"
