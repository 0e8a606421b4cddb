"""HOST:PORT. The Responses API by LiteLLM."""

import sys
from typing import Any

import litellm
from report import FUNCTION, ONE_TOOL, report

OPTIONS: Any = {
    "model": "openai/gpt-5",
    "api_base": f"http://{sys.argv[1]}/v1",
    "api_key": "none",
    "tools": [FUNCTION, ONE_TOOL],
}


def found(response: Any) -> tuple[list[str], str]:
    calls = [item for item in response.output if item.type == "image_generation_call"]
    return [call.result for call in calls], response.output_text


plain = litellm.responses(input="a fox", **OPTIONS)
*_, last = litellm.responses(input="a fox", stream=True, **OPTIONS)
fox = {"role": "user", "content": "a fox"}
bluer = {"role": "user", "content": "make it bluer"}
items = [item.model_dump() for item in last.response.output]
again = litellm.responses(input=[fox, *items, bluer], **OPTIONS)
report(plain=found(plain), streamed=found(last.response), again=found(again))
