"""The best of several pictures over HTTP, chosen by a judge behind an endpoint that scores a picture by its red level."""

import base64
import io
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from serve.backends.protocol import Backend
from tests.vlm_endpoint import VlmEndpoint

PROMPT = "three red circles"


@pytest.fixture
def serve(either_backend: Backend, make_app: Callable[..., Any], endpoint: VlmEndpoint) -> Callable[..., TestClient]:
    judge = {"judge": endpoint.url, "judge_model": "red", "judge_seconds": 5}
    return lambda **settings: TestClient(
        make_app(either_backend, **{**judge, **settings})[0], raise_server_exceptions=False
    )


def post(client: TestClient, **fields: Any) -> Any:
    return client.post("/v1/images/generations", json={"prompt": PROMPT, **fields})


def red_level(entry: dict[str, Any]) -> float:
    pixel = Image.open(io.BytesIO(base64.b64decode(entry["b64_json"]))).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel[0] / 255


def test_the_best_pictures_are_answered_best_first(serve: Callable[..., TestClient]) -> None:
    """The same pictures as without a judge, in the order of their red levels."""
    client = serve()
    plain = post(client, n=6, seed=20).json()
    assert {entry["score"] for entry in plain["data"]} == {None}
    best = post(client, n=2, best_of=6, seed=20).json()
    ranked = sorted(plain["data"], key=red_level, reverse=True)  # equal ones in the order of their seeds
    assert ranked[0] != plain["data"][0]
    assert red_level(ranked[1]) > red_level(ranked[-1])
    assert [(entry["seed"], entry["b64_json"]) for entry in best["data"]] == [
        (entry["seed"], entry["b64_json"]) for entry in ranked[:2]
    ]
    assert [entry["score"] for entry in best["data"]] == pytest.approx(
        [red_level(entry) for entry in ranked[:2]], abs=0.01
    )
    assert best["usage"] == plain["usage"]  # all that was drawn


def test_each_candidate_has_its_own_seed(serve: Callable[..., TestClient]) -> None:
    client = serve()
    answer = post(client, n=3, best_of=3, seed=[9, 5, 7]).json()
    assert sorted(entry["seed"] for entry in answer["data"]) == [5, 7, 9]
    refused = post(client, best_of=3, seed=[9])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "seed")
    assert "3" in refused.json()["error"]["message"]


def test_pictures_without_a_judgement_come_last(serve: Callable[..., TestClient], endpoint: VlmEndpoint) -> None:
    client = serve()
    endpoint.faults = {"": [400, 400]}
    data = post(client, n=4, best_of=4, seed=1).json()["data"]
    assert [entry["score"] is None for entry in data] == [False, False, True, True]
    assert data[0]["score"] >= data[1]["score"]


def test_a_judge_that_scores_nothing_is_an_error_of_the_server(
    serve: Callable[..., TestClient], endpoint: VlmEndpoint
) -> None:
    endpoint.faults = {"": [400, 400]}
    answer = post(serve(), best_of=2)
    assert answer.status_code == 503
    assert "red could judge none of the 2 pictures" in answer.json()["error"]["message"]


def test_a_judge_that_is_slower_than_the_request_may_take(
    serve: Callable[..., TestClient], endpoint: VlmEndpoint
) -> None:
    endpoint.faults = {"": ["hang"] * 20}
    answer = post(serve(request_seconds=3, judge_seconds=30), best_of=2)
    assert answer.status_code == 504


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n": 3, "best_of": 2}, "at least n (3)"),
        ({"best_of": 0}, "greater than or equal to 1"),
        ({"best_of": 11}, "less than or equal to 10"),
        ({"best_of": 2, "stream": True}, "cannot be streamed"),
    ],
)
def test_refusals_name_the_field(serve: Callable[..., TestClient], fields: dict[str, Any], reason: str) -> None:
    answer = post(serve(), **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "best_of")
    assert reason in answer.json()["error"]["message"]


def test_without_a_judge_it_is_refused(serve: Callable[..., TestClient]) -> None:
    answer = post(serve(judge=None, judge_model=None), best_of=2)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "best_of")
    assert "--judge" in answer.json()["error"]["message"]


def test_all_drawn_pictures_count_for_the_rate_limit(serve: Callable[..., TestClient]) -> None:
    client = serve(rate_limit="5/minute")
    assert post(client, best_of=4).status_code == 200
    assert post(client, best_of=2).status_code == 429
