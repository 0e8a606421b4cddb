"""Description of the door in OpenAPI 3.1, made from the routes and from the schema's messages."""

import re
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from typing import Any, Final

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import imagecall
from imagecall.conversion.fields import key_of, spellings
from imagecall.conversion.images import IMAGE_RESULT
from imagecall.conversion.plan import is_union
from imagecall.doors.http.errors import JSON
from imagecall.doors.http.images.body import COUNT, IMAGE_KEYS, MASK, STREAM
from imagecall.doors.http.images.form import FORM
from imagecall.doors.http.images.request import OF_THE_REQUEST
from imagecall.generation.images_api import MAX_IMAGES, SETTINGS
from imagecall.v1 import options_pb2
from imagecall.v1.image_generation_tool_pb2 import Tool
from imagecall.v1.image_response_pb2 import Usage
from imagecall.v1.output_image_generation_call_pb2 import OutputImageGenerationCall

OPENAPI_PATH: Final = "/openapi.json"
_SSE: Final = "text/event-stream"
_Schema = dict[str, Any]

_TYPES: Final = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BOOL: "boolean",
    FieldDescriptor.TYPE_DOUBLE: "number",
    FieldDescriptor.TYPE_INT32: "integer",
    FieldDescriptor.TYPE_INT64: "integer",
}
_STRING: Final[_Schema] = {"type": "string"}
_BASE64: Final[_Schema] = {"type": "string", "contentEncoding": "base64"}
_PARAMETER: Final = re.compile(r"{(\w+)}")
_INCLUDE: Final[_Schema] = {
    "name": "include[]",
    "in": "query",
    "schema": {"type": "array", "items": _STRING},
}
_FILE: Final[_Schema] = {"type": "string", "contentMediaType": "application/octet-stream"}


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _schema_of(field: FieldDescriptor) -> _Schema:
    """Returns the schema of a field's JSON value."""
    if field.message_type is not None and field.message_type.full_name == IMAGE_RESULT:
        schema: _Schema = {"type": ["string", "null"]}
    elif field.message_type is not None:
        schema = _message(field.message_type)
    elif field.enum_type is not None:
        schema = {
            "type": "string",
            "examples": [each for each in spellings(field.enum_type) if each],
        }
    else:
        schema = {"type": _TYPES[field.type]}
    return {"type": "array", "items": schema} if field.is_repeated else schema


@cache
def _message(descriptor: Descriptor) -> _Schema:
    """Returns the schema of the JSON object of a message, or of the objects of a union."""
    if is_union(descriptor):
        variants = [
            _message(field.message_type)
            for field in descriptor.fields
            if not field.GetOptions().Extensions[options_pb2.json_variant].fallback
        ]
        return {"anyOf": [*variants, {"type": "object", "required": ["type"]}]}
    tag = descriptor.GetOptions().Extensions[options_pb2.json_object].type
    properties = {
        key_of(field).name: _schema_of(field)
        for field in descriptor.fields
        if key_of(field).name and not key_of(field).role
    }
    if not tag:
        return {"type": "object", "properties": properties}
    properties = {"type": {"const": tag}} | properties
    return {"type": "object", "properties": properties, "required": ["type"]}


def _object(required: Iterable[str] = (), **properties: Any) -> _Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _images_request(**images: Any) -> _Schema:
    settings = {key: _schema_of(field) for key, field in SETTINGS.items()}
    values: _Schema = {
        "prompt": {"type": "string", "minLength": 1},
        **settings,
        COUNT: {"type": "integer", "minimum": 1, "maximum": MAX_IMAGES, "default": 1},
        STREAM: {"type": "boolean", "default": False},
        "response_format": {"const": "b64_json"},
        **{key: {} for key in OF_THE_REQUEST},
    }
    return _object(["prompt"], **values, **images)


def _components() -> _Schema:
    return _of_responses() | _of_images() | _of_models() | _of_both()


def _of_responses() -> _Schema:
    """Schemas of the Responses API, and of its stored responses."""
    output = {"anyOf": [_message(OutputImageGenerationCall.DESCRIPTOR), {"type": "object"}]}
    return {
        "ResponsesRequest": _object(
            model=_STRING,
            input={"anyOf": [_STRING, {"type": "array", "items": {"type": "object"}}]},
            tools={"type": "array", "items": _message(Tool.DESCRIPTOR)},
            stream={"type": ["boolean", "null"]},
        ),
        "Response": _object(
            ["id", "object", "status", "output"],
            id=_STRING,
            object={"const": "response"},
            status=_STRING,
            output={"type": "array", "items": output},
            usage={"anyOf": [_ref("Usage"), {"type": "null"}]},
        ),
        "Deleted": _object(
            ["id", "object", "deleted"],
            id=_STRING,
            object={"const": "response"},
            deleted={"type": "boolean"},
        ),
    }


def _of_images() -> _Schema:
    """Schemas of the Images API."""
    image: _Schema = {
        "anyOf": [
            _STRING,
            _object(image_url={"anyOf": [_STRING, _object(["url"], url=_STRING)]}),
            _object(["file_id"], file_id=_STRING),
        ]
    }
    images = {key: {"anyOf": [image, {"type": "array", "items": image}]} for key in IMAGE_KEYS}
    files = {"image": _FILE, "image[]": {"type": "array", "items": _FILE}, MASK: _FILE}
    return {
        "ImagesRequest": _images_request(**images, **{MASK: image}),
        "ImagesForm": _images_request(**files),
        "ImagesResponse": _object(
            ["created", "data"],
            created={"type": "integer"},
            data={"type": "array", "items": _ref("Image")},
            usage=_ref("Usage"),
            size=_STRING,
            quality=_STRING,
            background=_STRING,
            output_format=_STRING,
        ),
        "Image": _object(b64_json=_BASE64, url=_STRING, media_type=_STRING, revised_prompt=_STRING),
    }


def _of_models() -> _Schema:
    """Schemas of the list of models."""
    return {
        "Model": _object(
            ["id", "object", "created", "owned_by"],
            id=_STRING,
            object={"const": "model"},
            created={"type": "integer"},
            owned_by=_STRING,
        ),
        "Models": _object(
            ["object", "data"],
            object={"const": "list"},
            data={"type": "array", "items": _ref("Model")},
        ),
    }


def _of_both() -> _Schema:
    """Schemas of both APIs, and of the server's own endpoints."""
    return {
        "Usage": _message(Usage.DESCRIPTOR),
        "Error": _object(
            ["error"],
            error=_object(
                ["code", "message"],
                code={"type": "integer"},
                message=_STRING,
                type=_STRING,
                param={"type": ["string", "null"]},
            ),
        ),
        "Health": _object(["status"], status={"enum": ["SERVING", "NOT_SERVING"]}),
        "Item": {"type": "object", "required": ["type"]},
        "Converted": _object(
            ["text", "variant", "message_bytes", "json_bytes"],
            text=_STRING,
            variant=_STRING,
            message_bytes={"type": "integer"},
            json_bytes={"type": "integer"},
        ),
    }


_SUMMARIES: Final[dict[str, tuple[str, dict[str, _Schema], dict[str, _Schema]]]] = {
    "responses": (
        "Generates a response with images",
        {JSON: _ref("ResponsesRequest")},
        {JSON: _ref("Response"), _SSE: _STRING},
    ),
    "generations": (
        "Generates images",
        {JSON: _ref("ImagesRequest")},
        {JSON: _ref("ImagesResponse"), _SSE: _STRING},
    ),
    "edits": (
        "Edits images",
        {FORM: _ref("ImagesForm"), JSON: _ref("ImagesRequest")},
        {JSON: _ref("ImagesResponse"), _SSE: _STRING},
    ),
    "get": ("Returns a stored response", {}, {JSON: _ref("Response")}),
    "cancel": ("Cancels a response in the background", {}, {JSON: _ref("Response")}),
    "delete": ("Deletes a stored response", {}, {JSON: _ref("Deleted")}),
    "convert": (
        "Converts an item to protobuf text",
        {JSON: _ref("Item")},
        {JSON: _ref("Converted")},
    ),
    "list": ("Lists the models", {}, {JSON: _ref("Models")}),
    "retrieve": ("Describes a model", {}, {JSON: _ref("Model")}),
    "health": ("Reports whether the server takes calls", {}, {JSON: _ref("Health")}),
    "page": ("Serves a page to try the API", {}, {"text/html": _STRING}),
    "openapi": ("Describes the door", {}, {JSON: {"type": "object"}}),
}
"""Summary of each endpoint, and its request and answer by media type, by the endpoint's name."""


def description(routes: Iterable[Route], needs_token: bool) -> bytes:
    """Returns the description of the routes, as JSON."""
    paths: dict[str, _Schema] = {}
    for route in routes:
        path = route.path.replace(":path}", "}")
        for method in sorted((route.methods or set()) - {"HEAD"}):
            operation = _operation(route.name, path)
            operation["operationId"] = f"{method.lower()}{path}"
            paths.setdefault(path, {})[method.lower()] = operation
    token = {"bearer": {"type": "http", "scheme": "bearer"}}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "imagecall", "version": imagecall.__version__},
        "paths": paths,
        "components": {"schemas": _components(), "securitySchemes": token},
        **({"security": [{"bearer": []}]} if needs_token else {}),
    }
    return msgspec.json.encode(document)


def _operation(name: str, path: str) -> _Schema:
    summary, request, answer = _SUMMARIES[name]
    operation: _Schema = {
        "summary": summary,
        "responses": {
            "200": {"description": "Success", "content": _content(answer)},
            "default": {"description": "Error", "content": _content({JSON: _ref("Error")})},
        },
    }
    if request:
        operation["requestBody"] = {"required": True, "content": _content(request)}
    if names := _PARAMETER.findall(path):
        operation["parameters"] = [
            {"name": each, "in": "path", "required": True, "schema": _STRING} for each in names
        ]
    if name == "get":
        operation["parameters"].append(_INCLUDE)
    return operation


def _content(schemas: dict[str, _Schema]) -> _Schema:
    return {media_type: {"schema": schema} for media_type, schema in schemas.items()}


def endpoint(needs_token: bool) -> Callable[[Request], Awaitable[Response]]:
    """Returns the endpoint GET /openapi.json, which describes the routes of its app."""

    async def openapi(request: Request) -> Response:
        routes = [route for route in request.app.routes if isinstance(route, Route)]
        return Response(description(routes, needs_token), media_type=JSON)

    return openapi
