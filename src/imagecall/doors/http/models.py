"""List of the models, which applications show or by which they check the address and the key."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from imagecall.access.admission import Admission
from imagecall.doors.http.errors import JSON
from imagecall.errors import GenerationError, quoted

MODELS_PATHS: Final = ("/v1/models", "/api/v1/models")
"""Paths of OpenAI's API, and of OpenRouter's."""

_OWNER: Final = "imagecall"
_CREATED: Final = 0
"""Time of creation of a model, which the server does not know."""


class Models:
    """Endpoints of the models. They need a token if calls do.

    Args:
        admission: checks the token.
        names: ids of the models.
    """

    def __init__(self, admission: Admission, names: Sequence[str]) -> None:
        self._admission = admission
        self._names = tuple(dict.fromkeys(names))

    async def list(self, request: Request) -> Response:
        """GET /v1/models: lists the models."""
        self._check(request)
        return _json({"object": "list", "data": [_model(name) for name in self._names]})

    async def retrieve(self, request: Request) -> Response:
        """GET /v1/models/{id}: describes a model, or answers 404."""
        self._check(request)
        name = request.path_params["name"]
        if name not in self._names:
            message = f"there is no model {quoted(name)}; GET {MODELS_PATHS[0]} lists the models"
            raise GenerationError("", message, code="NOT_FOUND")
        return _json(_model(name))

    def _check(self, request: Request) -> None:
        self._admission.holder(request.headers.get("authorization", ""))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": _OWNER}


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type=JSON)
