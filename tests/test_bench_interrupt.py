"""Ctrl-C: commands in real processes end at once, though a server holds their requests, and their runs go on later."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from bench.command import main
from tests.forked_command import ForkedCommand
from tests.json_server import JsonHandler, start
from tests.strangers_server import StrangersServer
from tests.vlm_endpoint import answer

PROMPTS = 12
FREE = 5  # requests that are answered at once


class HoldingServer:
    """Draws pictures and judges them: some requests of each kind at once, others when they are released."""

    def __init__(self) -> None:
        self.held = 0
        self.released = threading.Event()
        self.left = {"/v1/images/generations": FREE, "/v1/chat/completions": FREE}
        lock = threading.Lock()
        picture = {"b64_json": base64.b64encode(StrangersServer.picture()).decode()}
        answers = {"/v1/images/generations": {"created": 0, "data": [picture]}, "/v1/chat/completions": answer(0.5)}
        outer = self

        class Handler(JsonHandler):
            def do_GET(self) -> None:
                self.send(200, {"object": "list", "data": [{"id": "painter", "object": "model", "sampling": {}}]})

            def do_POST(self) -> None:
                self.read()
                with lock:
                    outer.left[self.path] -= 1
                    holding = outer.left[self.path] < 0
                    outer.held += holding
                if holding:
                    outer.released.wait()
                with suppress(OSError):  # the client has gone
                    self.send(200, answers[self.path])

        self.server = start(Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[HoldingServer]:
    server = HoldingServer()
    yield server
    server.close()


def interrupted(command: ForkedCommand, server: HoldingServer, kept: Callable[[], int] = lambda: FREE) -> str:
    """Send Ctrl-C once the command has kept the free answers and waits for held ones; return its output.

    The command must end while they are held.
    """
    while not server.held or kept() < FREE:
        assert command.running, command.printed
        time.sleep(0.001)
    command.interrupt()
    assert command.wait() == 130, command.printed
    assert not server.released.is_set()
    return command.printed


def test_a_server_that_draws(server: HoldingServer, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"prompt_id": n, "Prompt": f"prompt {n}"} for n in range(1, PROMPTS + 1)]))
    arguments = ("wise", "--prompts", prompts, "--server", server.url, "--batch", "3", "--out", tmp_path / "run")
    images = tmp_path / "run" / "images"
    command = ForkedCommand(main, *arguments, log=tmp_path / "log")
    assert interrupted(command, server, lambda: len(list(images.glob("[0-9]*.png")))) == "interrupted\n"
    kept = {path.name: path.stat().st_mtime_ns for path in images.iterdir()}
    assert len(kept) == FREE
    server.released.set()
    last = ForkedCommand(main, *arguments, log=tmp_path / "last")
    assert last.wait() == 0, last.printed
    assert len(list(images.iterdir())) == PROMPTS
    assert {name: (images / name).stat().st_mtime_ns for name in kept} == kept


def test_a_judge_at_an_endpoint(server: HoldingServer, tmp_path: Path) -> None:
    """All pictures are there; the command waits for the judge alone."""
    cases, drawn = tmp_path / "cases.json", tmp_path / "drawn"
    cases.write_text(
        json.dumps([{"category": "c", "caption1": f"{n} cats", "caption2": f"{n} dogs"} for n in range(3)])
    )
    drawn.mkdir()
    for case in range(3):
        for place in ("0_0", "0_1", "1_0", "1_1"):
            Image.effect_noise((32, 32), 200).save(drawn / f"{case}_{place}.png")
    arguments = ("paircomp", "--prompts", cases, "--pictures", drawn, "--name", "cats", "--out", tmp_path / "run")
    judge = ("--judge", server.url, "--judge-model", "vlm", "--judge-at-once", "2")
    printed = interrupted(ForkedCommand(main, *arguments, *judge, log=tmp_path / "log"), server)
    assert printed == "interrupted\n"
    judgements = tmp_path / "run" / "judgements" / "vlm.jsonl"
    kept = judgements.read_text().splitlines()
    assert len(kept) in (1 + FREE, FREE)  # after the identity; an answer is lost with one that it was to be kept with
    server.released.set()
    last = ForkedCommand(main, *arguments, *judge, log=tmp_path / "last")
    assert last.wait() == 0, last.printed
    assert judgements.read_text().splitlines()[: len(kept)] == kept
    assert "judge vlm" in last.printed


def test_a_selector_at_an_endpoint(server: HoldingServer, tmp_path: Path) -> None:
    """Candidates of a server, which holds the selector's questions."""
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"prompt_id": 1, "Prompt": "a cat"}]))
    drawing = ("--server", server.url, "--batch", "2", "--best-of", "2")
    choosing = ("--selector", server.url, "--selector-model", "vlm", "--selector-at-once", "1")
    server.left["/v1/chat/completions"] = 0
    command = ForkedCommand(
        main, "wise", "--prompts", prompts, *drawing, *choosing, "--out", tmp_path / "run", log=tmp_path / "log"
    )
    assert interrupted(command, server) == "interrupted\n"
