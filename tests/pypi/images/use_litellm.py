"""HOST:PORT. The Images API by LiteLLM; prints the images, plain and edited, as JSON."""

import asyncio
import base64
import io
import json
import sys
from typing import Any

import litellm

OPTIONS: Any = {
    "model": "openai/gpt-image-1",
    "api_base": f"http://{sys.argv[1]}/v1",
    "api_key": "none",
    "size": "1024x1024",
}


async def images() -> dict[str, list[str]]:
    plain = litellm.image_generation(prompt="a fox", n=2, **OPTIONS)
    later = await litellm.aimage_generation(prompt="a fox", **OPTIONS)
    file = io.BytesIO(base64.b64decode(plain.data[0].b64_json))
    file.name = "fox.png"
    edited = litellm.image_edit(image=[file], prompt="bluer", **OPTIONS)
    return {
        "plain": [image.b64_json for image in plain.data],
        "later": [image.b64_json for image in later.data],
        "edited": [image.b64_json for image in edited.data],
        "tokens": [plain.usage.total_tokens],
    }


print(json.dumps(asyncio.run(images())))
