"""Paths of the Responses API at the HTTP door, and of the responses that it stores."""

from typing import Final

from starlette.requests import Request

API: Final = "/v1/responses"
"""Path of the Responses API."""

IMAGES_API: Final = "/v1/images/generations"
"""Path of the Images API."""

PATHS: Final = (
    API,
    "/api/v1/responses",
    "/api/alpha/responses",
    "/api/v1/api/alpha/responses",
)
"""Paths of the API: OpenAI's, OpenRouter's, and those of OpenRouter's first SDKs."""

STORED_PATHS: Final = tuple(f"{path}/{{id}}" for path in PATHS)
"""Paths of a stored response."""

CANCEL_PATHS: Final = tuple(f"{path}/cancel" for path in STORED_PATHS)

_BEGINNINGS: Final = tuple(f"{path}/" for path in PATHS)


def is_of_stored(request: Request) -> bool:
    """Returns True for a request that concerns a stored response.

    A GET of such a request is a call, with a token and admission; no such request is billed.
    """
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", "")).startswith(_BEGINNINGS)
