"""A chat completions server on this machine, with log-probabilities and faults."""

import base64
import io
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from tests.json_server import JsonHandler, start


class VlmEndpoint:
    """A model whose probability of yes is the red level of the picture's first pixel.

    faults: by a part of the question, what the first requests about it get instead of an answer: a status, "close" for
        none at all, "hang" or "trickle" for one that comes too late, or the body of an answer with status 200.
    questions: number of requests by question.
    """

    def __init__(self) -> None:
        self.faults: dict[str, list[int | str]] = {}
        self.questions: Counter[str] = Counter()
        self.models: set[str] = set()
        self.keys: set[str] = set()
        self.meeting: threading.Barrier | None = None  # requests are answered when so many are there
        self.present = self.most_present = 0
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        outer = self

        class Handler(JsonHandler):
            def do_POST(self) -> None:
                with outer.counted():
                    outer.handle(self, json.loads(self.read()))

        self.server = start(Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self.lock:
            self.present += 1
            self.most_present = max(self.most_present, self.present)
        if self.meeting is not None:
            self.meeting.wait(timeout=60)
        yield
        with self.lock:
            self.present -= 1

    def handle(self, handler: JsonHandler, body: dict[str, Any]) -> None:
        picture, question = body["messages"][0]["content"]
        with self.lock:
            self.questions[question["text"]] += 1
            self.models.add(body["model"])
            self.keys.add(handler.headers["authorization"].removeprefix("Bearer "))
            left = next((faults for part, faults in self.faults.items() if part in question["text"]), [])
            fault = left.pop(0) if left else None
        assert (body["temperature"], body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (0, 1, True, 20)
        if fault == "close":
            handler.close_connection = True
        elif isinstance(fault, int):
            handler.send(fault, {"error": {"message": "planted", "type": "x", "param": None, "code": None}})
        elif fault == "hang":
            self.stopped.wait(5)
            handler.close_connection = True
        elif fault == "trickle":
            self.trickle(handler, json.dumps(answer(self.red(picture))))
        elif isinstance(fault, str):
            handler.send_text(200, fault)
        else:
            handler.send(200, answer(self.red(picture)))

    def trickle(self, handler: JsonHandler, text: str) -> None:
        """Send a good answer, but a space every tenth of a second first, for five seconds."""
        content = b" " * 50 + text.encode()
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        for _ in range(50):
            if self.stopped.wait(0.1):
                break
            handler.wfile.write(b" ")
        handler.wfile.write(text.encode())

    def red(self, picture: dict[str, Any]) -> float:
        file = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"))
        return int(Image.open(io.BytesIO(file)).getpixel((0, 0))[0]) / 255  # type: ignore[index]

    def close(self) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()


def answer(yes: float, *, more: dict[str, float] | None = None) -> dict[str, Any]:
    """A chat completion with the probabilities of "Yes", of " no", and of other tokens."""
    told = [
        {"token": word, "logprob": math.log(p), "bytes": None}
        for word, p in {"Yes": yes, " no": 1 - yes, **(more or {})}.items()
        if p
    ]
    content = [{**told[0], "top_logprobs": told}]
    choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "Yes"}}
    return {
        "id": "1", "object": "chat.completion", "created": int(time.time()), "model": "vlm",
        "choices": [choice | {"logprobs": {"content": content, "refusal": None}}],
    }  # fmt: skip


def picture(red: int) -> Image.Image:
    """A picture whose probability of yes is red / 255."""
    return Image.new("RGB", (8, 8), (red, 0, 0))
