"""Metrics for Prometheus: what is counted, and the state of server and models."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from tests.thread_backend import ThreadBackend

IMAGES = "/v1/images/generations"
STATES = ("ready", "loading", "unreachable", "draining", "dead")


def sample(text: str, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if one.name == f"focusdiff_{name}" and labels.items() <= one.labels.items():
                return one.value
    return None


def test_metrics_count_what_happened(small_backend: ThreadBackend, make_app: Callable[..., Any]) -> None:
    client = TestClient(make_app(small_backend)[0])
    client.post(IMAGES, json={"prompt": "a star", "n": 3})
    client.post(IMAGES, json={"prompt": "a star", "stream": True, "partial_images": 2})
    client.post(IMAGES, json={"prompt": ""})
    client.get("/no/such/path")
    text = client.get("/metrics").text
    model = {"model": "small"}
    assert sample(text, "accepted_images_total", **model) == 4
    assert sample(text, "images_total", **model) == 4
    assert sample(text, "codes_total", **model) == 4 * 64
    assert sample(text, "image_seconds_count", **model) == 4
    assert sample(text, "draw_seconds_count", **model) == 4
    assert sample(text, "queue_wait_seconds_count", **model) == 4
    assert sample(text, "first_preview_seconds_count", **model) == 1
    assert sample(text, "slots", **model) == 16
    assert sample(text, "queue_limit", **model) == 256
    assert sample(text, "running_images", **model) == 0
    assert sample(text, "http_answers_total", route=IMAGES, status="200") == 2
    assert sample(text, "http_answers_total", route=IMAGES, status="400") == 1
    assert sample(text, "http_answers_total", route="none", status="404") == 1
    assert sample(text, "model_info", **model, source="small", image_size="64", image_tokens="64") == 1
    wait, drawn, latency = (sample(text, f"{name}_seconds_sum", **model) for name in ("queue_wait", "draw", "image"))
    assert wait is not None
    assert drawn is not None
    assert wait > 0
    assert drawn > 0
    assert latency == pytest.approx(wait + drawn)


def test_the_process_that_started_last_and_its_memory_are_seen(
    small_backend: ThreadBackend, make_app: Callable[..., Any]
) -> None:
    values = {}
    for line in TestClient(make_app(small_backend)[0]).get("/metrics").text.splitlines():
        name, _, value = line.partition(" ")
        values[name] = value
    assert time.time() - 3600 < float(values["process_start_time_seconds"]) < time.time()
    assert float(values["process_resident_memory_bytes"]) > 2**20


def test_counters_of_a_model_start_at_zero(small_backend: ThreadBackend, make_app: Callable[..., Any]) -> None:
    """Prometheus sees a rise from 0 to 1, but not a counter that appears with 1."""
    text = TestClient(make_app(small_backend)[0]).get("/metrics").text
    for name in ("accepted_images", "images", "codes", "queue_full"):
        assert sample(text, f"{name}_total", model="small") == 0
    for cause in ("not finite", "deadline", "engine died", "stopping"):
        assert sample(text, "failures_total", model="small", cause=cause) == 0


def test_a_request_that_one_of_two_queues_refuses_is_not_accepted(
    small_backend: ThreadBackend, make_app: Callable[..., Any]
) -> None:
    """The first model has taken both of its jobs when the second one's queue is found full."""
    other = ThreadBackend(replace(small_backend.engine.janus, name="other"), queue_limit=1)
    client = TestClient(make_app(small_backend, other)[0])
    body = {"prompts": ["a star", "a heart"], "models": ["small", "other"]}
    assert client.post("/v1/images/pairs", json=body).status_code == 429
    text = client.get("/metrics").text
    other.close()
    assert [sample(text, "accepted_images_total", model=name) for name in ("small", "other")] == [0, 0]
    assert [sample(text, "queue_full_total", model=name) for name in ("small", "other")] == [0, 1]


def test_state_and_readiness_follow_the_server(small_backend: ThreadBackend, make_app: Callable[..., Any]) -> None:
    app, registry = make_app(small_backend)
    client = TestClient(app)

    def seen() -> tuple[float | None, list[str]]:
        text = client.get("/metrics").text
        return sample(text, "ready", model="small"), [one for one in STATES if sample(text, "state", state=one) == 1]

    assert seen() == (1, ["ready"])
    registry.loading = True  # another model is to come; this one already draws
    assert seen() == (1, ["loading"])
    registry.drain()
    assert seen() == (0, ["draining"])
    small_backend.kill()
    while small_backend.state != "dead":
        time.sleep(0.01)
    assert seen() == (0, ["dead"])
