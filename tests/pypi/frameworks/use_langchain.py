"""HOST:PORT. A chat model of LangChain, whose second turn names the first image by its id."""

import sys
from functools import reduce
from operator import add
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from report import FUNCTION, ONE_TOOL, report

model = ChatOpenAI(
    model="gpt-5",
    base_url=f"http://{sys.argv[1]}/v1",
    api_key="none",
    use_responses_api=True,
    max_retries=0,
).bind_tools([FUNCTION, ONE_TOOL])


def found(message: Any) -> tuple[list[str], str]:
    images = [block for block in message.content_blocks if block["type"] == "image"]
    return [image["base64"] for image in images], message.text


plain = model.invoke("a fox")
streamed = reduce(add, model.stream("a fox"))
again = model.invoke([HumanMessage("a fox"), streamed, HumanMessage("make it bluer")])
report(plain=found(plain), streamed=found(streamed), again=found(again))
