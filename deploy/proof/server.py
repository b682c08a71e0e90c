"""The server in the container as its clients see it, and the same picture drawn without it."""

import base64
import io
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from openai import OpenAI
from PIL import Image

from deploy.proof.engine import ROOT

_PROMPT, _SEED = "three red circles", 7


def client(url: str) -> OpenAI:
    """OpenAI's client, without retries: a lost request must be seen."""
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=400)


def pictures(client: OpenAI, *, count: int, seed: int) -> list[bytes]:
    """PNG files of `count` pictures of the tiny model."""
    answer = client.images.generate(prompt=_PROMPT, model="tiny", n=count, extra_body={"seed": seed})
    return [base64.b64decode(one.b64_json or "") for one in answer.data or ()]


def draw(url: str) -> bytes:
    """Pixels of a picture that the server draws."""
    (file,) = pictures(client(url), count=1, seed=_SEED)
    return _pixels(io.BytesIO(file))


def draw_outside(folder: Path) -> bytes:
    """Pixels of the same picture, drawn by this commit on this machine without a server or a container."""
    command = [sys.executable, "-m", "serve.generate_command", _PROMPT, "--seed", str(_SEED), "--out", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120, stderr=subprocess.DEVNULL)
    (file,) = folder.glob(f"*-{_SEED}.png")
    return _pixels(file)


def _pixels(file: Path | io.BytesIO) -> bytes:
    with Image.open(file) as picture:
        return picture.convert("RGB").tobytes()


def read(url: str) -> bytes:
    """Body of a page."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
    return body


def answers(url: str) -> bool:
    """Whether a page is served with status 200."""
    try:
        read(url)
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
