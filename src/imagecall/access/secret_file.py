"""Files with secrets: text in UTF-8, with or without a byte order mark."""

from pathlib import Path


def read_secret(path: Path, content: str) -> str:
    """Reads the text of a file. Raises OSError with a sentence that names the `content`."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        raise OSError(f"the file of {content}, {path}, is not UTF-8") from None
    except OSError as error:
        raise OSError(f"the file of {content}, {path}, cannot be read: {error.strerror}") from None
    if not text:
        raise OSError(f"the file of {content}, {path}, is empty")
    return text
