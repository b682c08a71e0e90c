"""Pictures from the openai package through LiteLLM's proxy (litellm_proxy.yaml)."""

import base64
import io
import os

from openai import OpenAI
from PIL import Image

client = OpenAI(
    base_url=os.environ.get("LITELLM_PROXY_URL", "http://127.0.0.1:4000") + "/v1",
    api_key=os.environ["LITELLM_MASTER_KEY"],  # the proxy's own: it does not start without one
)


def describe(base64_text: str) -> str:
    """Media type and size of a picture."""
    with Image.open(io.BytesIO(base64.b64decode(base64_text))) as picture:
        return f"{picture.get_format_mimetype()} {picture.width}x{picture.height}"


def draw(name: str, **options: object) -> None:
    """Draw and print what came."""
    answer = client.images.generate(model="circles", prompt="three red circles", **options)  # type: ignore[call-overload]
    print(f"{name}: {', '.join(describe(image.b64_json) for image in answer.data)}")


draw("defaults")
draw("n 2, size 128x96, webp, seed", n=2, size="128x96", output_format="webp", extra_body={"seed": 1})
