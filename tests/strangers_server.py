"""An image server of somebody else."""

import io
import json
from typing import Any

from PIL import Image

from tests.json_server import JsonHandler, start


class StrangersServer:
    """An image server with OpenAI's own fields only. `seeds`: whether it takes one. Remembers requests."""

    def __init__(self) -> None:
        self.seeds = False
        self.refusal = 400  # status of a request with a seed
        self.asked: list[dict[str, Any]] = []
        self.faults: list[int | str] = []  # statuses or bodies of the next answers
        outer = self

        class Handler(JsonHandler):
            def do_GET(self) -> None:
                if self.path == "/v1/models":
                    self.send(200, {"object": "list", "data": [{"id": "painter", "object": "model"}]})
                else:
                    content = outer.picture()
                    self.send_response(200)
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def do_POST(self) -> None:
                body = json.loads(self.read())
                outer.asked.append(body)
                fault = outer.faults.pop(0) if outer.faults else None
                if isinstance(fault, int):
                    self.send(fault, {"error": {"message": "planted", "type": "x", "param": None, "code": None}})
                elif isinstance(fault, str):
                    self.send_text(200, fault)
                elif "seed" in body and not outer.seeds:
                    error = {"message": "Unknown parameter: 'seed'.", "type": "x", "param": "seed", "code": None}
                    self.send(outer.refusal, {"error": error})
                else:
                    self.send(200, {"created": 0, "data": [{"url": f"{outer.url}/files/1.jpg"}]})

        self.server = start(Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @staticmethod
    def picture() -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (200, 10, 10)).save(buffer, format="JPEG")
        return buffer.getvalue()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
