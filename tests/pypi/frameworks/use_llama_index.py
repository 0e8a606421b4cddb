"""HOST:PORT. The Responses API by LlamaIndex."""

import sys
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAIResponses
from report import FUNCTION, ONE_TOOL, report

model = OpenAIResponses(
    model="gpt-5",
    api_base=f"http://{sys.argv[1]}/v1",
    api_key="none",
    max_retries=0,
    built_in_tools=[FUNCTION, ONE_TOOL],
)


def found(message: Any) -> tuple[list[bytes], str]:
    images = [block for block in message.blocks if block.block_type == "image"]
    return [image.resolve_image().read() for image in images], message.content


fox, bluer = ChatMessage("a fox"), ChatMessage("make it bluer")
plain = model.chat([fox]).message
*_, last = model.stream_chat([fox])
again = model.chat([fox, last.message, bluer]).message
report(plain=found(plain), streamed=found(last.message), again=found(again))
