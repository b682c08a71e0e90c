"""The OpenAPI description against the server: schemathesis sends valid and invalid requests; examples work."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serve.backends.protocol import Backend
from tests.thread_backend import ThreadBackend


@pytest.mark.long
def test_schemathesis_finds_no_fault(
    either_backend: Backend, serve_on_socket: Callable[..., Any], tmp_path: Path
) -> None:
    """No status 5xx; statuses, content types, headers and bodies as documented; bad data and methods are refused."""
    # a valid request to this path starts a process that loads a model, so it gets none of those (test_serve_models.py)
    loading = "/admin/models"
    with serve_on_socket(either_backend, judge="exact", admin_key="admin") as served:
        for chosen in (["--exclude-path", loading], ["--include-path", loading, "--mode", "negative"]):
            command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json", *chosen]
            command += ["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"]
            command += ["--checks", "response_schema_conformance,response_headers_conformance"]
            command += ["--checks", "negative_data_rejection,unsupported_method"]
            command += ["--max-examples", "8", "--seed", "1", "--phases", "examples,coverage,fuzzing", "--no-color"]
            command += ["--request-timeout", "30", "--header", "Authorization: Bearer admin"]
            ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=280)
            assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]


def test_every_route_has_an_example_that_works(small_backend: ThreadBackend, make_app: Callable[..., Any]) -> None:
    app, _ = make_app(small_backend, judge="exact")
    client = TestClient(app)
    schema = client.get("/openapi.json").json()
    tried = 0
    for path, methods in schema["paths"].items():
        body = methods.get("post", {}).get("requestBody")
        if body is None:
            continue
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for example in schema["components"]["schemas"][name]["examples"]:
            known = {key: value for key, value in example.items() if key not in ("models", "model")}
            assert client.post(path, json=known).status_code == 200, (path, known)
            tried += 1
    assert tried >= 5
    assert client.get("/docs").status_code == 200
