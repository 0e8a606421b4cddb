"""Many items: files of records, kinds of records, their conversion, and the images in them.

The public functions convert columns of Arrow, and need pyarrow: `pip install 'imagecall[bulk]'`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imagecall.bulk.arrow import calls_from_json, image_of, json_from_calls

__all__ = ["calls_from_json", "image_of", "json_from_calls"]


def __getattr__(name: str) -> object:
    """Imports the public functions when they are used: the commands run without pyarrow."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from imagecall.bulk import arrow

    return getattr(arrow, name)
