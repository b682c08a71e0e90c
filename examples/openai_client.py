"""Pictures from any OpenAI client: start `make serve`, then `python examples/openai_client.py`."""

import base64
import os
from pathlib import Path

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),  # the server needs none unless it was started with --api-keys
)
answer = client.images.generate(prompt="three red circles", n=2, extra_body={"seed": 1})
for number, image in enumerate(answer.data or []):
    Path(f"circles-{number}.png").write_bytes(base64.b64decode(image.b64_json or ""))

# previews while it is drawn
for event in client.images.generate(prompt="a blue star at night", stream=True, partial_images=3):
    name = "star.png" if event.type == "image_generation.completed" else f"star-{event.partial_image_index}.png"
    Path(name).write_bytes(base64.b64decode(event.b64_json))
    print(name)
