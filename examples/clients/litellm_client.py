"""Pictures from LiteLLM's library."""

import base64
import io
import os
from typing import Any

import litellm
from PIL import Image

SERVER = {
    "api_base": os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    "api_key": os.environ.get("OPENAI_API_KEY", "none"),  # the server needs none unless it was started with --api-keys
}


def draw(name: str, **options: Any) -> None:
    """Draw and print what came."""
    answer = litellm.image_generation(prompt="three red circles", **options, **SERVER)
    found = []
    for image in answer.data:
        with Image.open(io.BytesIO(base64.b64decode(image.b64_json))) as picture:
            found.append(f"{picture.get_format_mimetype()} {picture.width}x{picture.height}")
    print(f"{name}: {', '.join(found)}")


litellm.suppress_debug_info = True
draw("hosted_vllm, defaults", model="hosted_vllm/tiny")
draw("hosted_vllm, n 2, response_format", model="hosted_vllm/tiny", n=2, response_format="b64_json")
draw("openai, defaults", model="openai/tiny")
draw("openai, size 128x96, webp, seed", model="openai/tiny", size="128x96", output_format="webp", seed=1)
try:
    draw("openai, response_format", model="openai/tiny", response_format="b64_json")
except litellm.UnsupportedParamsError:
    print("openai, response_format: LiteLLM refuses it before it asks the server")
