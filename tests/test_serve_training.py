"""`GET /v1/training` and the page's curves: the values of the run that is followed, as the run wrote them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pairs.smoothing import running_mean
from serve.backends.registry import Registry
from tests.thread_backend import ThreadBackend
from train.curve import Curve
from ui.api import Curve as ShownCurve
from ui.training import curves, points

Make = Callable[..., tuple[FastAPI, Registry]]


def test_the_curve_of_the_followed_run(make_app: Make, small_backend: ThreadBackend, tmp_path: Path) -> None:
    """Empty before the first checkpoint; then every value, and null where a step has none."""
    run = tmp_path / "pair"
    app, _ = make_app(small_backend, watch=run)
    with TestClient(app) as client:
        assert client.get("/v1/training").json() == {"run": "pair", "steps": [], "values": {}}
        run.mkdir()
        curve = Curve(run)
        curve.add(1, {"reward": 0.25, "kl": 0.5})
        curve.add(2, {"reward": 0.75})
        curve.write()
        expected = {"run": "pair", "steps": [1, 2], "values": {"reward": [0.25, 0.75], "kl": [0.5, None]}}
        assert client.get("/v1/training").json() == expected


def test_without_a_followed_run_there_is_none(make_app: Make, small_backend: ThreadBackend) -> None:
    app, _ = make_app(small_backend)
    with TestClient(app) as client:
        answer = client.get("/v1/training")
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == "no training run is followed: start the server with --watch FOLDER"


def test_a_plot_spans_its_values() -> None:
    """From the lower left to the upper right of 240 × 72; an even line lies at the bottom."""
    assert points([(10, 1.0), (20, 2.0), (30, 5.0)], 1.0, 5.0) == "0.0,72.0 120.0,54.0 240.0,0.0"
    assert points([(1, 3.0), (2, 3.0)], 3.0, 3.0) == "0.0,72.0 240.0,72.0"
    assert points([(5, 3.0)], 3.0, 3.0) == "0.0,72.0"


def test_a_running_mean_by_hand() -> None:
    assert running_mean([0.0, 3.0, 6.0, 1.0], reach=1) == pytest.approx([1.5, 3.0, 10 / 3, 3.5])
    assert running_mean([2.0]) == [2.0]


def test_only_known_values_are_drawn() -> None:
    shown = curves(ShownCurve("run", [1, 2, 3], {"reward": [0.1, None, 0.3], "kl": [None] * 3, "seconds": [1, 2, 3]}))
    assert shown.count("<svg") == 1
    assert "reward <b>0.2</b>" in shown  # smoothed
    assert "0.0,72.0 240.0,0.0" in shown
    assert "3 steps" in shown
    assert curves(ShownCurve("run", [], {})) == "<p>No checkpoint yet.</p>"
