"""The keys of the models of openai and openrouter, beside the fields of the schema.

`python -m tests.upstream_fields` prints each key that no field is for and that UNTYPED does not
name, in the versions that are installed.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final, get_args

from google.protobuf.descriptor import Descriptor

from imagecall.conversion.fields import key_of
from imagecall.conversion.images import IMAGE_RESULT
from imagecall.conversion.plan import is_union
from imagecall.v1 import options_pb2
from imagecall.v1.image_generation_tool_pb2 import (
    ImageGenerationTool,
    OpenRouterImageGenerationTool,
)
from imagecall.v1.image_response_pb2 import ImageResponse
from imagecall.v1.output_image_generation_call_pb2 import (
    OutputImageGenerationCall,
    OutputImageGenerationCallItem,
    OutputImageGenerationServerToolItem,
)
from imagecall.v1.stream_event_pb2 import (
    ImageGenCallCompletedEvent,
    ImageGenCallGeneratingEvent,
    ImageGenCallInProgressEvent,
    ImageGenCallPartialImageEvent,
    OutputItemAddedEvent,
    OutputItemDoneEvent,
)

_OPENAI: Final = "openai.types.responses."
_OPENROUTER: Final = "openrouter.components."
MODELS: Final[Mapping[str, type[Any]]] = {
    _OPENAI + "tool.ImageGeneration": ImageGenerationTool,
    _OPENAI + "response_output_item.ImageGenerationCall": OutputImageGenerationCall,
    _OPENAI + "ResponseImageGenCallInProgressEvent": ImageGenCallInProgressEvent,
    _OPENAI + "ResponseImageGenCallGeneratingEvent": ImageGenCallGeneratingEvent,
    _OPENAI + "ResponseImageGenCallPartialImageEvent": ImageGenCallPartialImageEvent,
    _OPENAI + "ResponseImageGenCallCompletedEvent": ImageGenCallCompletedEvent,
    _OPENAI + "ResponseOutputItemAddedEvent": OutputItemAddedEvent,
    _OPENAI + "ResponseOutputItemDoneEvent": OutputItemDoneEvent,
    _OPENAI + "Response": ImageResponse,
    _OPENROUTER + "ImageGenerationServerTool": ImageGenerationTool,
    _OPENROUTER + "ImageGenerationServerToolOpenRouter": OpenRouterImageGenerationTool,
    _OPENROUTER + "OutputImageGenerationCallItem": OutputImageGenerationCallItem,
    _OPENROUTER + "OutputImageGenerationServerToolItem": OutputImageGenerationServerToolItem,
    _OPENROUTER + "ImageGenCallInProgressEvent": ImageGenCallInProgressEvent,
    _OPENROUTER + "ImageGenCallGeneratingEvent": ImageGenCallGeneratingEvent,
    _OPENROUTER + "ImageGenCallPartialImageEvent": ImageGenCallPartialImageEvent,
    _OPENROUTER + "ImageGenCallCompletedEvent": ImageGenCallCompletedEvent,
    _OPENROUTER + "StreamEventsResponseOutputItemAdded": OutputItemAddedEvent,
    _OPENROUTER + "StreamEventsResponseOutputItemDone": OutputItemDoneEvent,
    _OPENROUTER + "OpenResponsesResult": ImageResponse,
}
"""By the name of a model: the message that has its keys. Models in its keys are compared too."""

UNTYPED: Final[Mapping[str, Mapping[str, str]]] = {
    "ImageResponse": {
        "the calls are fields of their own": "output",
        "the same in every response": "object",
        "the request has it, which the response only repeats": """
            access_programs background conversation frequency_penalty image instructions
            max_output_tokens max_tool_calls metadata parallel_tool_calls presence_penalty
            previous_response_id prompt prompt_cache_key prompt_cache_options
            prompt_cache_retention reasoning safety_identifier service_tier store temperature text
            tool_choice tools top_logprobs top_p truncation user""",
        "no image is made or paid for by it; the document has it": """
            alignment completed_at created_at error_type input_transformations moderation
            openrouter_metadata output_text prompt_cache_diagnostics safeguard_results""",
    },
    "ResponseError": {"of one API only; an extra field has it": "metadata misalignment"},
    "Usage": {
        "a breakdown, of which each API has its own; an extra field has it": """
            cost_details input_tokens_details is_byok output_tokens_details
            server_tool_use_details""",
    },
    "ToolUsage": {"of another tool; an extra field has it": "web_search"},
}
"""By the name of a message, and the reason: the keys that have no field on purpose."""


def model_of(name: str) -> Any:
    """The model with a name, or None if there is none, as it was moved or removed."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute, None)
    except ModuleNotFoundError:
        return None


def findings() -> Iterator[str]:
    """A line for each model that is not there, and for each key that no field is for."""
    for name, message in MODELS.items():
        if (model := model_of(name)) is None:
            yield f"{name} is not there: where are its keys now?"
        else:
            yield from _untyped(name, model, message.DESCRIPTOR)


def _untyped(name: str, model: Any, descriptor: Descriptor) -> Iterator[str]:
    known = " ".join(UNTYPED.get(descriptor.name, {}).values()).split()
    fields = {key_of(field).name: field for field in descriptor.fields}
    tag = descriptor.GetOptions().Extensions[options_pb2.json_object].type
    for python_name, field in model.model_fields.items():
        key = field.alias or python_name
        if key in fields:
            inner = fields[key].message_type
            if inner and inner.full_name != IMAGE_RESULT and not is_union(inner):
                for part in _models(field.annotation):
                    yield from _untyped(f"{name}.{key}", part, inner)
        elif key not in known and not (tag and key == "type"):
            yield f"{name}.{key} has no field in {descriptor.name}"


def _models(annotation: Any) -> Iterator[Any]:
    """The models in a type, such as Optional[Usage]."""
    if hasattr(annotation, "model_fields"):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def main() -> None:
    """Prints the findings."""
    found = list(findings())
    versions = ", ".join(f"{package} {version(package)}" for package in ("openai", "openrouter"))
    print(f"{versions}: {len(found)} keys that the schema does not know")
    for line in found:
        print(f"  {line}")


if __name__ == "__main__":
    main()
