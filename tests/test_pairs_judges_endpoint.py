"""A vision-language model behind an endpoint: its score, faults, time limit, concurrency, and the cache of answers."""

import json
import math
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from pairs.judges.errors import JudgeError
from pairs.judges.vlm.answers import yes_probability
from pairs.judges.vlm.cache import CachedVlm
from pairs.judges.vlm.endpoint import EndpointVlm
from tests.vlm_endpoint import VlmEndpoint, answer, picture


def test_probabilities_of_all_spellings_are_added() -> None:
    told = [("Yes", 0.5), ("yes", 0.1), (" Yes", 0.05), ("No", 0.2), ("Yesterday", 0.1), ("nO", 0.01)]
    assert yes_probability([(token, math.log(p)) for token, p in told]) == pytest.approx(0.65 / 0.85)


def test_a_missing_word_has_the_bound_of_its_probability() -> None:
    """A missing word has at most the probability of the least likely token, and at most what all tokens leave."""
    told = [("No", math.log(0.9)), ("a", math.log(0.01)), ("b", math.log(0.001))]
    assert yes_probability(told) == pytest.approx(0.001 / 0.901)
    assert yes_probability([("Yes", math.log(0.9))]) == pytest.approx(0.9 / 1.0)
    assert yes_probability([("Yes", 0.0)]) == pytest.approx(1.0)
    assert yes_probability([("a", -1.0), ("b", -2.0)]) is None


def test_each_question_is_asked_of_its_own_picture(endpoint: VlmEndpoint) -> None:
    reds = [20 * i + 10 for i in range(12)]
    questions = [f"Is it {red}?" for red in reds]
    found = EndpointVlm(endpoint.url, "vlm").yes([picture(red) for red in reds], questions)
    assert found == pytest.approx([red / 255 for red in reds])
    assert endpoint.questions == dict.fromkeys(questions, 1)
    assert endpoint.models == {"vlm"}


@pytest.mark.parametrize(
    "faults",
    [[500, 503], [429, 429], [408], [409], ["close"]],
    ids=["server errors", "too many requests", "timeout", "conflict", "no answer"],
)
def test_what_may_pass_is_asked_again(endpoint: VlmEndpoint, faults: list[int | str]) -> None:
    endpoint.faults["?"] = list(faults)
    assert EndpointVlm(endpoint.url, "vlm").yes([picture(51)], ["Is it?"]) == [pytest.approx(0.2)]
    assert endpoint.questions["Is it?"] == len(faults) + 1


NOT_FINITE = json.dumps(answer(0.5)).replace(str(math.log(0.5)), "NaN")


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        ([500, 500, 500], 3),
        ([400], 1),
        ([401], 1),
        (["<html>Bad gateway</html>"], 1),
        ([json.dumps(answer(0.5))[:-20]], 1),
        ([json.dumps(answer(0.5) | {"choices": []})], 1),
        (['{"choices": [{"message": {"content": "Yes"}, "logprobs": null}]}'], 1),
        (['{"choices": [{"logprobs": {"content": [{"top_logprobs": []}]}}]}'], 1),
        ([NOT_FINITE], 1),
        ([json.dumps(answer(0.0, more={"A": 0.5})).replace(" no", "The")], 1),
    ],
    ids=[
        "server errors", "bad request", "no key", "HTML", "cut JSON", "no choices", "no log-probabilities",
        "no alternatives", "not a number", "neither word",
    ],
)  # fmt: skip
def test_what_fails_is_none_and_the_others_stand(endpoint: VlmEndpoint, faults: list[int | str], requests: int) -> None:
    endpoint.faults["broken"] = list(faults)
    found = EndpointVlm(endpoint.url, "vlm").yes([picture(51)] * 3, ["whole", "broken", "sound"])
    assert found == [pytest.approx(0.2), None, pytest.approx(0.2)]
    assert endpoint.questions["broken"] == requests


@pytest.mark.parametrize("fault", ["hang", "trickle"])
def test_an_answer_that_does_not_come_in_time_is_none(endpoint: VlmEndpoint, fault: str) -> None:
    """A server that sends a byte now and then never exceeds the client's own limit, which is on each wait."""
    endpoint.faults["?"] = [fault] * 3
    assert EndpointVlm(endpoint.url, "vlm", seconds=0.3).yes([picture(51)], ["Is it?"]) == [None]


def test_questions_that_are_stopped_have_no_answer_and_none_are_asked_later(endpoint: VlmEndpoint) -> None:
    """The endpoint holds its answer until the end of the test."""
    endpoint.meeting = threading.Barrier(2)
    vlm, found = EndpointVlm(endpoint.url, "vlm"), list[float | None]()
    asking = threading.Thread(target=lambda: found.extend(vlm.yes([picture(51)], ["Is it?"])))
    asking.start()
    while not endpoint.present:
        time.sleep(0.001)
    vlm.stop()
    asking.join()
    assert found == [None]
    assert vlm.yes([picture(51)], ["Is it now?"]) == [None]
    endpoint.meeting.wait()
    assert "Is it now?" not in endpoint.questions


def test_an_unreachable_endpoint_gives_no_answers() -> None:
    assert EndpointVlm("http://127.0.0.1:9/v1", "vlm", seconds=2).yes([picture(0)], ["a"]) == [None]


def test_as_many_questions_are_asked_at_once_as_allowed(endpoint: VlmEndpoint) -> None:
    """Each request waits until three are there: with fewer at once none would be answered."""
    endpoint.meeting = threading.Barrier(3)
    found = EndpointVlm(endpoint.url, "vlm", at_once=3).yes([picture(255)] * 9, [f"{i}?" for i in range(9)])
    assert found == [pytest.approx(1.0)] * 9
    assert endpoint.most_present == 3


def test_a_cached_answer_is_not_asked_for_again(endpoint: VlmEndpoint, tmp_path: Path) -> None:
    """Another model, question or picture is; so is what failed."""
    vlm = EndpointVlm(endpoint.url, "vlm")

    def ask(model: str, image: Image.Image, question: str) -> int:
        """Number of requests that a question takes."""
        before = endpoint.questions.total()
        assert CachedVlm(vlm, tmp_path / "new" / "cache.sqlite", model=model).yes([image], [question]) == [
            pytest.approx(image.getpixel((0, 0))[0] / 255)  # type: ignore[index]
        ]
        return endpoint.questions.total() - before

    assert ask("a", picture(51), "Is it?") == 1
    assert ask("a", picture(51), "Is it?") == 0
    assert ask("b", picture(51), "Is it?") == 1
    assert ask("a", picture(51), "Is it not?") == 1
    assert ask("a", picture(102), "Is it?") == 1
    assert ask("a", Image.new("RGB", (4, 16), (51, 0, 0)), "Is it?") == 1  # the same bytes in another shape
    endpoint.faults["new"] = [400]
    cached = CachedVlm(vlm, tmp_path / "new" / "cache.sqlite", model="a")
    pictures, questions = [picture(51), picture(51), picture(102)], ["Is it?", "Is it new?", "Is it?"]
    assert cached.yes(pictures, questions) == [pytest.approx(0.2), None, pytest.approx(0.4)]
    assert cached.yes(pictures, questions) == [pytest.approx(0.2), pytest.approx(0.2), pytest.approx(0.4)]
    assert endpoint.questions["Is it new?"] == 2


def test_a_file_that_is_no_cache_is_named(endpoint: VlmEndpoint, tmp_path: Path) -> None:
    text, other = tmp_path / "text.sqlite", tmp_path / "other.sqlite"
    text.write_text("not a database, but long enough to be taken for one" * 20)
    database = sqlite3.connect(other)
    database.execute("CREATE TABLE answers (something TEXT)")
    database.close()
    for file in (text, other):
        with pytest.raises(JudgeError, match=f"{file.name}: is no cache"):
            CachedVlm(EndpointVlm(endpoint.url, "vlm"), file, model="a")
