"""The generator that draws through servers which speak OpenAI's API."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.pictures.errors import GenerationError
from bench.pictures.from_engine import EngineGenerator
from bench.pictures.from_server import ServerGenerator
from model.checkpoints.load import load
from model.janus import Janus
from tests.drawn_parts import PARTS, drawn
from tests.strangers_server import StrangersServer
from tests.thread_backend import ThreadBackend

UNSET: dict[str, float | int | None] = dict.fromkeys(("guidance_scale", "temperature", "top_k", "top_p"))


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


def test_our_own_server_as_a_strangers(janus: Janus, serve_on_socket: Callable[..., Any]) -> None:
    """Requests at the same time; pixels may differ by one level with the pictures decoded beside them."""
    with serve_on_socket(ThreadBackend(janus, slots=4)) as served:
        generator = ServerGenerator(f"{served.url}/v1", None, key="none", at_once=4, sampling=UNSET)
        assert generator.settings == {
            "generator": "server",
            "model": "small",
            "seeded": True,
            "sampling": janus.sampling.as_dict(),
        }
        found = drawn(generator)
        expected = drawn(EngineGenerator(janus, slots=1))
        for part in PARTS:
            pair = [np.asarray(one[part].image, dtype=np.int16) for one in (found, expected)]
            assert np.abs(pair[0] - pair[1]).max() <= 1
        warm = ServerGenerator(f"{served.url}/v1", "small", key="none", at_once=4, sampling=UNSET | {"temperature": 0})
        assert warm.settings["sampling"]["temperature"] == 0
        with pytest.raises(GenerationError, match=r"has no list of models \(most servers have it under /v1\)"):
            ServerGenerator(served.url, None, key="none", at_once=4, sampling=UNSET)
        with pytest.raises(GenerationError, match="--server-model must be one of small, not 'other'"):
            ServerGenerator(f"{served.url}/v1", "other", key="none", at_once=4, sampling=UNSET)


@pytest.fixture
def stranger() -> Iterator[StrangersServer]:
    server = StrangersServer()
    yield server
    server.close()


def generator_of(stranger: StrangersServer) -> ServerGenerator:
    return ServerGenerator(f"{stranger.url}/v1", None, key="none", at_once=2, sampling=UNSET)


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_seeds_draws_without_and_the_settings_say_so(
    stranger: StrangersServer, status: int
) -> None:
    stranger.refusal = status
    generator = generator_of(stranger)
    assert generator.settings["seeded"] is False
    found = drawn(generator)
    assert {one.image.size for one in found.values()} == {(16, 16)}  # by links, in JPEG
    assert all("seed" not in body for body in stranger.asked[1:])
    assert sorted(body["prompt"] for body in stranger.asked[1:]) == sorted(part.prompt for part in PARTS)


def test_a_server_that_takes_seeds_gets_them(stranger: StrangersServer) -> None:
    stranger.seeds = True
    generator = generator_of(stranger)
    assert generator.settings["seeded"] is True
    drawn(generator)
    assert sorted(body["seed"] for body in stranger.asked[1:]) == sorted(part.seed for part in PARTS)


def test_a_busy_server_is_asked_again(stranger: StrangersServer) -> None:
    generator = generator_of(stranger)
    stranger.faults = [429, 503, 500]
    assert len(drawn(generator)) == len(PARTS)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (400, r"png: .* refuses it: .*planted"),
        ('{"created": 0, "data": []}', "answered without a picture"),
        ('{"created": 0, "data": [{}]}', "neither b64_json nor url"),
        ('{"created": 0, "data": [{"b64_json": "?"}]}', "b64_json that is no base64"),
        (
            json.dumps({"created": 0, "data": [{"b64_json": base64.b64encode(b"GIF89a").decode()}]}),
            "a file that is no picture",
        ),
    ],
)
def test_an_answer_without_a_picture_is_an_error_that_names_the_server(
    stranger: StrangersServer, fault: int | str, said: str
) -> None:
    generator = generator_of(stranger)
    stranger.faults = [fault]
    with pytest.raises(GenerationError, match=said):
        drawn(generator)


def test_a_server_that_goes_away_is_an_error(stranger: StrangersServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.pictures.from_server._RETRIES", 0)
    generator = generator_of(stranger)
    stranger.close()
    with pytest.raises(GenerationError, match=f"{stranger.url}/v1 is gone"):
        drawn(generator)
