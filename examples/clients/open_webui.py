"""Pictures through Open WebUI, by both of its engines: its settings are changed and its route is called as its page does it.

Needs an Open WebUI that nobody has signed up to yet: the first user is its administrator.
"""

import io
import json
import os
from typing import Any

import httpx
from PIL import Image

SERVER = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
PROMPT = "three red circles"

web = httpx.Client(base_url=os.environ.get("OPEN_WEBUI_URL", "http://127.0.0.1:8080"), timeout=300)


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Call Open WebUI's API; a refusal is shown with its reason."""
    answer = web.request(method, f"/api/v1{path}", json=body)
    if answer.is_error:
        raise SystemExit(f"{method} {path}: {answer.status_code} {answer.text}")
    return answer.json()


def choose(**settings: Any) -> None:
    """Change the settings of Admin Panel → Settings → Images."""
    call("POST", "/images/config/update", call("GET", "/images/config") | settings)


def draw(name: str, **options: Any) -> None:
    """Draw and print what Open WebUI has stored."""
    found = []
    for file in call("POST", "/images/generations", {"prompt": PROMPT, **options}):
        content = web.get(file["url"]).raise_for_status()
        with Image.open(io.BytesIO(content.content)) as picture:
            model = json.loads(picture.info["focusdiff"])["model"]  # our server's note in the file
            found.append(f"{content.headers['content-type']} {picture.width}x{picture.height} by {model}")
    print(f"{name}: {', '.join(found)}")


user = call("POST", "/auths/signup", {"name": "Admin", "email": "admin@example.org", "password": "three-Red-circles-1"})
web.headers["authorization"] = f"Bearer {user['token']}"
print(f"Open WebUI {web.get('/api/version').json()['version']}")

openai = {"IMAGE_GENERATION_ENGINE": "openai", "IMAGES_OPENAI_API_BASE_URL": SERVER, "IMAGES_OPENAI_API_KEY": "none"}
choose(ENABLE_IMAGE_GENERATION=True, **openai)
draw("openai, defaults")
choose(IMAGE_GENERATION_MODEL="tiny", IMAGE_SIZE="64x64")
draw("openai, tiny, size 64x64")
choose(IMAGE_GENERATION_MODEL="gpt-image-1", IMAGE_SIZE="auto")
draw("openai, gpt-image-1, size auto")

# with a slash at the end, as in the page's example
web_ui = {"IMAGE_GENERATION_ENGINE": "automatic1111", "AUTOMATIC1111_BASE_URL": SERVER.removesuffix("v1")}
choose(IMAGE_GENERATION_MODEL="", IMAGE_SIZE="512x512", **web_ui)
print(f"automatic1111, models: {', '.join(model['id'] for model in call('GET', '/images/models'))}")
draw("automatic1111, defaults")
choose(IMAGE_GENERATION_MODEL="tiny", IMAGE_SIZE="64x64")
draw("automatic1111, tiny, size 64x64, n 2", n=2)
