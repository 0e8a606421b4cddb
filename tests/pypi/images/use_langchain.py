"""HOST:PORT. The Images API by LangChain's DallEAPIWrapper; prints the images, as JSON."""

import json
import sys

from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

wrapper = DallEAPIWrapper(base_url=f"http://{sys.argv[1]}/v1", api_key="none", n=2)
urls = wrapper.run("a fox").split("\n")
print(json.dumps({"plain": [url.removeprefix("data:image/png;base64,") for url in urls]}))
