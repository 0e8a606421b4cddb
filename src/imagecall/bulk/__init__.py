"""Many items: files of records, kinds of records, their conversion, and the images in them.

The public functions convert columns of Arrow, and need pyarrow: `pip install 'imagecall[bulk]'`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imagecall.bulk.arrow import CALLS_SCHEMA, calls_from_json, image_of, json_from_calls
    from imagecall.bulk.image_store import save_images

__all__ = ["CALLS_SCHEMA", "calls_from_json", "image_of", "json_from_calls", "save_images"]


def __getattr__(name: str) -> object:
    """Imports the public functions when they are used: the commands run without pyarrow."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from imagecall.bulk import arrow, image_store

    return getattr(image_store if name == "save_images" else arrow, name)
