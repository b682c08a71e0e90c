"""Pictures from LangChain for Python."""

import io
import json
import os
import urllib.request

from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper
from PIL import Image

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
API_KEY = os.environ.get("OPENAI_API_KEY", "none")  # the server needs none unless it was started with --api-keys


def describe(url: str) -> str:
    """Media type, size and model of the picture behind a link."""
    with urllib.request.urlopen(url, timeout=60) as answer, Image.open(io.BytesIO(answer.read())) as picture:
        model = json.loads(picture.info["focusdiff"])["model"]  # our server's note in the file
        return f"{answer.headers['content-type']} {picture.width}x{picture.height} by {model}"


def draw(name: str, client: DallEAPIWrapper) -> None:
    """Draw and print what came; LangChain answers with one link a line."""
    links = client.run("three red circles").splitlines()
    print(f"{name}: {', '.join(describe(link) for link in links)}")


draw("defaults", DallEAPIWrapper(base_url=BASE_URL, api_key=API_KEY))
draw(
    "dall-e-3, n 2, size 512x512",
    DallEAPIWrapper(base_url=BASE_URL, api_key=API_KEY, model="dall-e-3", n=2, size="512x512"),
)
