"""Images of converted rows in a folder of any filesystem, such as S3, by fsspec."""

import pyarrow as pa

from imagecall.bulk.arrow import image_of

_NO_FORMAT = "bin"


def save_images(calls: pa.RecordBatch, folder: str) -> None:
    """Writes the images of rows of `calls_from_json` as SHA256.FORMAT.

    The name depends on the image alone: a task that an engine runs again writes the same files.

    Args:
        calls: rows with the columns "call", "sha256" and "format".
        folder: folder as fsspec names it, such as s3://bucket/images.
    """
    import fsspec  # It loads an event loop.

    filesystem, path = fsspec.core.url_to_fs(folder)
    filesystem.makedirs(path, exist_ok=True)
    for call, digest, format in zip(calls["call"], calls["sha256"], calls["format"], strict=True):
        if digest.is_valid:
            name = f"{path}/{digest}.{format.as_py() or _NO_FORMAT}"
            filesystem.pipe_file(name, bytes(image_of(call)))  # type: ignore[arg-type]
