"""Page for trying the API, and its content security policy.

The policy names the digests of the page's own script and style: no other script or style runs.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from html import escape
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_BACKEND: Final = b'data-backend="%b"'
_INLINE: Final = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


def page_of(backend: str) -> Callable[[Request], Awaitable[Response]]:
    """Returns the endpoint of the page, which names the backend that it uses."""
    text = files("imagecall.doors.http").joinpath("page.html").read_bytes()
    text = text.replace(_BACKEND % b"", _BACKEND % escape(backend).encode(), 1)
    headers = {"Content-Security-Policy": _policy(text), "X-Content-Type-Options": "nosniff"}

    async def page(request: Request) -> Response:
        return Response(text, media_type="text/html", headers=headers)

    return page


def _policy(text: bytes) -> str:
    digests = {
        kind.decode(): b64encode(hashlib.sha256(content).digest()).decode()
        for kind, content in _INLINE.findall(text)
    }
    own = "".join(f"{kind}-src 'sha256-{digest}'; " for kind, digest in digests.items())
    return (
        f"default-src 'none'; {own}img-src data: blob:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
