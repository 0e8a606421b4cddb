"""Ray Data: JSON Lines or Parquet to Parquet, in `refused=false` and `refused=true`.

python ray_data.py [--images FOLDER] [--column NAME] SOURCE TARGET
"""

import argparse
from functools import partial

import pyarrow as pa
import ray

from imagecall.bulk import calls_from_json, save_images


def convert(table: pa.Table, column: str, images: str | None) -> pa.Table:
    """Converts the rows of a block."""
    return pa.Table.from_batches(
        [converted(batch, column, images) for batch in table.combine_chunks().to_batches()]
    )


def converted(batch: pa.RecordBatch, column: str, images: str | None) -> pa.RecordBatch:
    """Converts a batch, writes its images, and marks the rows that are refused."""
    calls = calls_from_json(batch, column)
    if images is not None:
        save_images(calls, images)
    return calls.append_column("refused", calls["reason"].is_valid())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--images", help="folder of the images, as fsspec names it")
    parser.add_argument("--column", default="json", help="column of JSON in Parquet")
    options = parser.parse_args()
    ray.init(include_dashboard=False, log_to_driver=False)
    if options.source.endswith(".jsonl"):
        rows, column = ray.data.read_text(options.source), "text"
    else:
        column = options.column
        rows = ray.data.read_parquet(options.source, columns=[column])
    rows.map_batches(
        partial(convert, column=column, images=options.images),
        batch_format="pyarrow",
        batch_size=None,  # A block, which Ray keeps below 128 MiB.
        zero_copy_batch=True,
    ).write_parquet(options.target, partition_cols=["refused"], mode="overwrite")


if __name__ == "__main__":
    main()
