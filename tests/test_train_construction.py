"""Construction of pairs from edits, against a server that looks at the pictures and fails now and then."""

import base64
import io
import json
import re
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.checkpoints.load import load
from tests.ended import Ended
from tests.json_server import JsonHandler, start
from train.command import main
from train.data.listed import open_pairs

COLOURS = {
    (200, 0, 0): "red", (0, 0, 200): "blue", (0, 150, 0): "green", (9, 9, 9): "black", (250, 250, 250): "white",
    (120, 120, 120): "grey",
}  # fmt: skip


class Vision:
    """Vision models "writer" and "verifier" that see the colour of each picture.

    The writer mistakes green pictures at its first attempt, black ones always, and talks about white ones. The first
    request for anything is answered with status 500 or not at all, and repeated by the client.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.requests: Counter[bytes] = Counter()
        self.gone = False
        self.lock = threading.Lock()
        outer = self

        class Handler(JsonHandler):
            def do_POST(self) -> None:
                content = self.read()
                with outer.lock:
                    outer.requests[content] += 1
                    first = outer.requests[content] == 1
                if first and zlib.crc32(content) % 2 and not outer.gone:
                    self.close_connection = True  # no answer at all
                elif first or outer.gone:
                    self.send(500, {"error": {"message": "planted"}})
                else:
                    self.send(200, outer.answer(json.loads(content)))

        self.server = start(Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        *pictures, question = body["messages"][0]["content"]
        said = self.say(body["model"], [colour(one["image_url"]["url"]) for one in pictures], question["text"])
        return {
            "id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }  # fmt: skip

    def say(self, model: str, colours: list[str], question: str) -> str:
        if "three booleans" in question:
            assert model == "writer"
            with self.lock:
                self.asked[question] += 1
            before, after = colours
            return json.dumps({"follows": before != after, "unchanged": True, "natural": after != "grey"})
        if "one caption" in question:
            assert model == "writer"
            before, after = colours
            if before == "white":
                return "I would rather not."
            wrong = before == "black" or (before == "green" and "earlier attempt" not in question)
            texts = {"before": f"a {before} square", "after": f"a {after} square"}
            if wrong:
                texts = {"before": texts["after"], "after": texts["before"]}
            return f"Here it is:\n```json\n{json.dumps(texts)}\n```"
        assert model == "verifier"
        if "structure" in question:
            assert not colours
            return "Yes."
        (seen,) = colours
        return "yes" if f"a {seen} square" in question else "No, it does not."


def colour(url: str) -> str:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        pixel = picture.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return COLOURS[pixel[0], pixel[1], pixel[2]]


@pytest.fixture
def vision() -> Iterator[Vision]:
    vision = Vision()
    yield vision
    vision.server.shutdown()
    vision.server.server_close()


EDITS = [
    ("red", "blue"), ("green", "red"), ("black", "red"), ("white", "red"), ("red", "red"), ("red", "grey"),
    ("blue", "missing"), ("blue", "green"),
]  # fmt: skip
OUTCOMES = ["kept", "kept", "not verified", "unusable answer", "filtered", "filtered", "unreadable picture", "kept"]


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    for pixel, name in COLOURS.items():
        Image.new("RGB", (32, 32), pixel).save(tmp_path / f"{name}.png")
    rows = [
        {"before": f"{before}.png", "after": f"{after}.png", "instruction": f"edit {number}: make it {after}"}
        for number, (before, after) in enumerate(EDITS)
    ]
    (tmp_path / "edits.json").write_text(json.dumps(rows))
    return tmp_path / "edits.json"


def outcomes(out: Path) -> dict[int, str]:
    return {row["edit"]: row["outcome"] for row in map(json.loads, (out / "results.jsonl").read_text().splitlines())}


def test_each_edit_is_kept_or_discarded_for_its_reason_despite_faults(
    edits: Path, vision: Vision, command: Callable[..., Ended], small_folder: Path
) -> None:
    out = edits.parent / "out"
    call = ("construct", edits, "--writer", vision.url, "--writer-model", "writer", "--verifier-model", "verifier")
    ended = command(main, *call, "--out", out, "--prices", "1000", "2000")
    assert ended.code == 0, ended.err
    assert outcomes(out) == dict(enumerate(OUTCOMES))
    pairs, report = open_pairs(out / "pairs.json", load(small_folder, device="cpu"))
    assert [pairs.prompts(index) for index in range(3)] == [
        ("a red square", "a blue square"), ("a green square", "a red square"), ("a blue square", "a green square"),
    ]  # fmt: skip
    assert (report.pairs, report.with_pictures) == (3, 3)
    assert [one.getpixel((0, 0)) for one in pairs.pictures(1)] == [(0, 150, 0), (200, 0, 0)]
    lines = ended.out.splitlines()
    assert lines[0] == "8 of 8 edits done"
    assert "  3 kept (38%)" in lines
    assert "  1 of the kept ones had their captions written twice" in lines
    # filter: 7; captions: 1 for each of the two plain ones, 2 for green, black and white
    assert "writer writer: 15 calls, 1,500 + 150 tokens, $1.80" in lines
    # three kept ones, structure and 4 matches each; three wrong attempts, which end at the first match
    assert "verifier verifier: 21 calls, 2,100 + 210 tokens, $2.52" in lines


def test_a_stopped_construction_goes_on_without_asking_again(
    edits: Path, vision: Vision, command: Callable[..., Ended]
) -> None:
    """The endpoint goes away, then a line is cut off as by a kill; another list of edits is refused."""
    out = edits.parent / "out"
    call = ("construct", edits, "--writer", vision.url, "--writer-model", "writer", "--verifier-model", "verifier")
    call = (*call, "--out", out, "--concurrency", "1")  # type: ignore[assignment]
    answer = vision.answer

    def gone_after_three(body: dict[str, Any]) -> dict[str, Any]:
        vision.gone = vision.gone or len(vision.asked) > 3
        return answer(body)

    vision.answer = gone_after_three  # type: ignore[method-assign]
    ended = command(main, *call)
    assert ended.code == 2
    assert re.search(r"\d of 8 edits have no result \(.*planted.*give the same command again", ended.err)
    first = outcomes(out)
    assert 0 < len(first) < 8
    log = out / "results.jsonl"
    log.write_text(log.read_text()[:-20])
    vision.answer, vision.gone = answer, False  # type: ignore[method-assign]
    cut = list(first)[-1]
    before = vision.asked.copy()
    ended = command(main, *call)
    assert ended.code == 0, ended.err
    assert outcomes(out) == dict(enumerate(OUTCOMES))
    again = vision.asked - before
    finished = [
        question for question in before if int(question.split("edit ")[1].split(":")[0]) in first.keys() - {cut}
    ]
    assert finished
    assert not set(finished) & set(again)
    edits.write_text(edits.read_text().replace("edit 0", "edit zero"))
    assert "belongs to other edits" in command(main, *call).err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "cannot be read as JSON"),
        ("[]", "must be a JSON list with at least one object"),
        ('[{"before": "a.png", "after": 3, "instruction": "x"}]', "row 0: must be an object with the texts before"),
    ],
)
def test_an_unusable_list_is_one_line_and_exit_code_2(
    tmp_path: Path, command: Callable[..., Ended], content: str, said: str
) -> None:
    file = tmp_path / "edits.json"
    file.write_text(content)
    call = ("construct", file, "--writer", "http://127.0.0.1:9/v1", "--writer-model", "w", "--verifier-model", "v")
    ended = command(main, *call, "--out", tmp_path / "out")
    assert ended.code == 2
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
