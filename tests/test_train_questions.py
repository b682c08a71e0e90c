"""Questions of long prompts, written by a model at a server that fails now and then."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pairs.judges.vlm.questions import LONG
from tests.ended import Ended
from tests.json_server import JsonHandler, start
from train.command import main


def prompt(name: str, words: int = LONG + 1) -> str:
    return " ".join([name, *("very",) * (words - 1)])


class Writer:
    """A model that asks for the name of a prompt; it does not answer "stubborn" in JSON.

    gone: prompts for which the endpoint fails.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.gone: set[str] = set()
        outer = self

        class Handler(JsonHandler):
            def do_POST(self) -> None:
                (part,) = json.loads(self.read())["messages"][0]["content"]
                found = re.search(r'description: "(\w+) ', part["text"])
                assert found is not None
                name = found[1]
                outer.asked[name] += 1
                if name in outer.gone:
                    self.send(500, {"error": {"message": "planted"}})
                    return
                said = json.dumps({"questions": [f"Is it {name}? ", "Is it very?", "Is it very?"]})
                said = "I would rather not." if name == "stubborn" else f"```json\n{said}\n```"
                message = {"role": "assistant", "content": said}
                self.send(
                    200,
                    {
                        "id": "1", "object": "chat.completion", "created": 1, "model": "writer",
                        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
                    },
                )  # fmt: skip

        self.server = start(Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def writer() -> Iterator[Writer]:
    writer = Writer()
    yield writer
    writer.server.shutdown()
    writer.server.server_close()


def test_long_prompts_get_questions_once(writer: Writer, tmp_path: Path, command: Callable[..., Ended]) -> None:
    """Prompts written by hand, short ones and those with questions are left; what failed is asked for again."""
    data, out = tmp_path / "pairs.json", tmp_path / "new" / "questions.json"
    rows = [
        {"prompt1": prompt("red"), "prompt2": prompt("blue")},
        {"prompt1": prompt("short", LONG), "prompt2": prompt("red")},
        {"prompt1": prompt("lost"), "prompt2": prompt("stubborn")},
        {"prompt1": None, "prompt2": prompt("own")},
    ]
    data.write_text(json.dumps(rows))
    out.parent.mkdir()
    out.write_text(json.dumps({prompt("own"): ["By hand?"]}))
    call = ("questions", data, "--writer", writer.url, "--writer-model", "writer", "--prices", "1000", "2000")
    writer.gone = {"lost"}
    ended = command(main, *call, "--out", out)
    assert ended.code == 2
    assert re.search(r"1 of 4 long prompts have no questions \(.*planted.*give the same command again", ended.err)
    expected = {
        prompt("own"): ["By hand?"],
        prompt("red"): ["Is it red?", "Is it very?"],
        prompt("blue"): ["Is it blue?", "Is it very?"],
    }
    assert json.loads(out.read_text()) == expected
    assert writer.asked == {"red": 1, "blue": 1, "stubborn": 1, "lost": 3}

    writer.gone = set()
    ended = command(main, *call, "--out", out)
    assert ended.code == 0, ended.err
    assert json.loads(out.read_text()) == expected | {prompt("lost"): ["Is it lost?", "Is it very?"]}
    assert writer.asked == {"red": 1, "blue": 1, "stubborn": 2, "lost": 4}
    said = ended.out.splitlines()
    assert said[0].endswith("questions.json: 4 prompts, 7 questions")
    assert said[1].startswith("  1 more got no usable answer")
    assert said[2] == "writer writer: 2 calls, 200 + 20 tokens, $0.24"


def test_a_file_that_has_no_questions_is_not_overwritten(
    writer: Writer, tmp_path: Path, command: Callable[..., Ended]
) -> None:
    data, out = tmp_path / "prompts.txt", tmp_path / "questions.json"
    data.write_text(prompt("red") + "\n")
    out.write_text("something else")
    ended = command(main, "questions", data, "--writer", writer.url, "--writer-model", "writer", "--out", out)
    assert ended.code == 2
    assert "questions.json cannot be read as JSON" in ended.err
    assert out.read_text() == "something else"
    assert not writer.asked
