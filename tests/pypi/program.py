"""Uses the SDKs of an earlier time against an HTTP door, and prints what came, as JSON."""

import json
import sys
import warnings
from typing import Any

import openai
import openrouter

warnings.simplefilter("ignore")  # pydantic's, for values that the models of that time lack.
ADDRESS = sys.argv[1]
TOOL: Any = {"type": "image_generation", "size": "1024x1024", "quality": "low"}
BLUER: Any = {"type": "message", "role": "user", "content": "make it bluer"}


def use_openai() -> dict[str, Any]:
    client = openai.OpenAI(base_url=f"http://{ADDRESS}/v1", api_key="none", max_retries=0)
    plain = client.responses.create(model="m", input="a fox", tools=[TOOL])
    with client.responses.stream(model="m", input="a fox", tools=[TOOL]) as stream:
        types = [event.type for event in stream]
        final = stream.get_final_response()
    again: Any = [plain.output[0], BLUER]
    edited: Any = client.responses.create(model="m", input=again, tools=[TOOL])
    first: Any = plain.output[0]
    last: Any = final.output[0]
    try:
        client.responses.create(model="m", input="")
    except openai.BadRequestError as error:
        refused = error.status_code
    return {
        "results": [first.result, last.result, edited.output[0].result],
        "types": types,
        "refused": refused,
    }


def use_openrouter() -> dict[str, Any]:
    """No tool: the SDK of that time knows none for images."""
    client: Any = openrouter.OpenRouter(api_key="none", server_url=f"http://{ADDRESS}/api/v1")
    send = client.beta.responses.send
    plain = send(model="m", input="a fox")
    with send(model="m", input="a fox", stream=True) as stream:
        events = list(stream)
    edited = send(model="m", input=[plain.output[0].model_dump(by_alias=True), BLUER])
    try:
        send(model="m", input="")
    except openrouter.errors.BadRequestResponseError as error:
        refused = error.status_code
    final = events[-1].response.output[0]
    return {
        "results": [plain.output[0].result, final.result, edited.output[0].result],
        "types": [event.type for event in events],
        "refused": refused,
    }


print(json.dumps({"openai": use_openai(), "openrouter": use_openrouter()}))
