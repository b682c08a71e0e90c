"""A vision-language model as judge: its question, the score of an answer, and failures."""

import base64
import io
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from pairs.judges.vlm.endpoint import VlmJudge, yes_probability
from tests.json_server import JsonHandler, start


def test_probabilities_of_all_spellings_are_added() -> None:
    told = {"Yes": math.log(0.5), "yes": math.log(0.1), "No": math.log(0.2), "Maybe": math.log(0.05)}
    assert yes_probability(told) == pytest.approx(0.6 / 0.8)


def test_a_missing_word_counts_as_the_least_probable_one_listed() -> None:
    told = {"No": math.log(0.9), "a": math.log(0.01), "b": math.log(0.001)}
    assert yes_probability(told) == pytest.approx(0.001 / 0.901)
    assert yes_probability({"a": -1.0, "b": -2.0}) is None


class Endpoint:
    """Chat completions server whose probability of yes is the red level of the picture's first pixel."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.fail = False
        outer = self

        class Handler(JsonHandler):
            def do_POST(self) -> None:
                self.send(*outer.answer(json.loads(self.read())))

        self.server = start(Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        picture, question = body["messages"][0]["content"]
        self.questions.append(question["text"])
        if self.fail or "broken" in question["text"]:
            return 400, {"error": {"message": "planted", "type": "x", "param": None, "code": None}}
        assert (body["temperature"], body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (0, 1, True, 20)
        file = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"))
        red = Image.open(io.BytesIO(file)).getpixel((0, 0))[0] / 255  # type: ignore[index]
        told = [{"token": word, "logprob": math.log(p), "bytes": None} for word, p in (("Yes", red), (" no", 1 - red))]
        content = [{**told[0], "top_logprobs": told}]
        choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "Yes"}}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return 200, answer | {"choices": [choice | {"logprobs": {"content": content, "refusal": None}}]}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


def test_each_picture_is_asked_about_its_own_prompt(endpoint: Endpoint) -> None:
    reds = [20 * i + 10 for i in range(12)]
    images = [Image.new("RGB", (8, 8), (red, 0, 0)) for red in reds]
    judged = VlmJudge(endpoint.url, "vlm")(images, [f"picture {red}" for red in reds])
    assert [one and one.score for one in judged] == pytest.approx([red / 255 for red in reds])
    asked = 'Does this image match the description "picture 10", please directly respond with yes or no'
    assert asked in endpoint.questions
    assert len(set(endpoint.questions)) == 12


def test_a_failed_judgement_is_none_and_the_others_stand(endpoint: Endpoint) -> None:
    red = Image.new("RGB", (8, 8), (51, 0, 0))
    judged = VlmJudge(endpoint.url, "vlm")([red, red], ["broken", "whole"])
    assert judged[0] is None
    assert judged[1] is not None
    assert judged[1].score == pytest.approx(0.2)


def test_an_unreachable_endpoint_gives_failed_judgements() -> None:
    judge = VlmJudge("http://127.0.0.1:9/v1", "vlm", seconds=2)
    assert judge([Image.new("RGB", (8, 8))], ["a"]) == [None]
