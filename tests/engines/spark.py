"""Spark: JSON Lines or Parquet to Parquet, in `refused=false` and `refused=true`.

python spark.py [--images FOLDER] [--column NAME] SOURCE TARGET
"""

import argparse
from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from imagecall.bulk import CALLS_SCHEMA, calls_from_json, save_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--images", help="folder of the images, as fsspec names it")
    parser.add_argument("--column", default="json", help="column of JSON in Parquet")
    options = parser.parse_args()
    spark = (
        SparkSession.builder.master("local[2,4]")  # 4 attempts of a task, as on a cluster.
        .config("spark.driver.memory", "2g")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "2000")
        .config("spark.sql.execution.arrow.maxBytesPerBatch", str(32 * 1024 * 1024))
        .config("spark.sql.files.maxPartitionBytes", str(64 * 1024 * 1024))
        .getOrCreate()
    )
    if options.source.endswith(".jsonl"):
        rows, column = spark.read.text(options.source), "value"
    else:
        column = options.column
        rows = spark.read.parquet(options.source).select(column)
    images = options.images

    def convert(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            calls = calls_from_json(batch, column)
            if images is not None:
                save_images(calls, images)
            yield calls.append_column("refused", calls["reason"].is_valid())

    schema = from_arrow_schema(CALLS_SCHEMA.append(pa.field("refused", pa.bool_())))
    calls = rows.mapInArrow(convert, schema)
    calls.write.partitionBy("refused").mode("overwrite").parquet(options.target)
    spark.stop()


if __name__ == "__main__":
    main()
