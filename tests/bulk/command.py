"""Runs of the command line in the process of a test, and records of many kinds."""

import contextlib
import io
import json
from base64 import b64encode
from pathlib import Path
from typing import Any, NamedTuple

from imagecall.commands.main import main

PNG = b"\x89PNG\r\n\x1a\n" + bytes(60)
JPEG = b"\xff\xd8\xff\xe0" + bytes(60)


class Done(NamedTuple):
    """Outcome of a command."""

    code: int
    out: str
    err: str


def run(*arguments: str | Path) -> Done:
    """Runs a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(str(end.code))
    return Done(code, out.getvalue(), err.getvalue())


def item(id: str | None = "ig_1", image: bytes | None = PNG, **keys: Any) -> dict[str, Any]:
    """Item with an image."""
    result = None if image is None else b64encode(image).decode()
    value = {"type": "image_generation_call", "id": id, "status": "completed", "result": result}
    return {key: value for key, value in value.items() if key != "id" or id is not None} | keys


def response(*items: Any, **keys: Any) -> dict[str, Any]:
    """Response with these items."""
    return {"id": "resp_1", "object": "response", "output": [*items], **keys}


def batch_response(body: Any, status: int = 200) -> dict[str, Any]:
    """Line of the output of the Batch API."""
    answer = {"status_code": status, "request_id": "req_1", "body": body}
    return {"id": "batch_req_1", "custom_id": "request-1", "response": answer, "error": None}


def event(name: str, **keys: Any) -> dict[str, Any]:
    """Event of a stream."""
    return {"type": f"response.{name}", "sequence_number": 1, **keys}


def sse(*events: Any, end: str = "\n") -> bytes:
    """Stream of server-sent events, as APIs send it."""
    text = "".join(
        f"event: {each['type']}{end}data: {json.dumps(each)}{end}{end}" for each in events
    )
    return f": heartbeat{end}{end}{text}data: [DONE]{end}{end}".encode()


def lines(*values: Any) -> bytes:
    """JSON Lines; bytes are a line as they are."""
    return b"".join(
        (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n"
        for value in values
    )


def rows(path: Path) -> list[dict[str, Any]]:
    """Values of JSON Lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]
