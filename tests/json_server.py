"""A real HTTP server on this machine whose handlers answer with JSON."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JsonHandler(BaseHTTPRequestHandler):
    """Handler that reads and sends JSON, and logs nothing."""

    def read(self) -> bytes:
        """Body of the request."""
        return self.rfile.read(int(self.headers["content-length"]))

    def send(self, status: int, body: dict[str, Any]) -> None:
        """Answer; after an error, `openai` clients repeat the request at once."""
        self.send_text(status, json.dumps(body))

    def send_text(self, status: int, body: str) -> None:
        """Answer with a body that need not be JSON."""
        content = body.encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


def start(handler: type[JsonHandler]) -> ThreadingHTTPServer:
    """Serve in a thread on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # seconds until it sees its end
    return server
