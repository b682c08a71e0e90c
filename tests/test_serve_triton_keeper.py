"""An engine that is loaded again after its death, with loads that fail."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from model.errors import NoRoom
from serve.settings.engine import EngineSettings
from serve.settings.model_source import ModelSource
from serve.triton.engine_keeper import EngineKeeper


@dataclass(eq=False)
class Loaded:
    """Stands in for a backend: alive until a test says otherwise."""

    state: str = "ready"
    closed: int = 0

    def close(self) -> None:
        self.closed += 1


@dataclass
class Loads:
    """Results of the loads to come, and the backends of those that succeeded."""

    results: list[Exception | Loaded]
    done: list[Loaded] = field(default_factory=list)
    on_death: Callable[[], None] = lambda: None

    def loader(self, settings: EngineSettings, *, on_death: Callable[[], None]) -> Any:
        self.on_death = on_death
        return self

    def __call__(self, source: ModelSource) -> Loaded:
        assert all(earlier.closed for earlier in self.done), "a dead engine's memory counts as taken until it is closed"
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        self.done.append(result)
        return result

    def stop(self) -> None:
        pass

    def kill(self, backend: Loaded) -> None:
        backend.state = "dead"
        self.on_death()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    loads = Loads([Loaded()])
    monkeypatch.setattr("serve.triton.engine_keeper.ProcessLoader", loads.loader)
    monkeypatch.setattr("serve.triton.engine_keeper._PAUSE", 0.01)
    return loads


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize(
    "error", [NoRoom("there are 0.02 GiB left"), RuntimeError("OutOfMemoryError: CUDA"), OSError(5)]
)
def test_loading_is_tried_until_it_succeeds(loads: Loads, error: Exception) -> None:
    keeper = EngineKeeper(EngineSettings())
    first, second = loads.done[0], Loaded()
    loads.results += [error, error, second]
    loads.kill(first)
    wait_until(lambda: keeper.backend is second)  # type: ignore[comparison-overlap]
    keeper.close()
    assert (first.closed, second.closed) == (1, 1)


def test_an_engine_that_dies_again_is_replaced_again(loads: Loads) -> None:
    keeper = EngineKeeper(EngineSettings())
    for _ in range(3):
        present = keeper.backend
        loads.results.append(Loaded())
        loads.kill(present)  # type: ignore[arg-type]
        wait_until(lambda before=present: keeper.backend is not before)  # type: ignore[misc]
    keeper.close()


def test_closing_ends_the_attempts(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.triton.engine_keeper._PAUSE", 3600.0)
    keeper = EngineKeeper(EngineSettings())
    loads.kill(loads.done[0])
    keeper.close()
    assert loads.done[0].closed >= 1


def test_a_model_that_cannot_be_loaded_at_the_start_is_refused(loads: Loads) -> None:
    loads.results[:] = [NoRoom("there are 0.02 GiB left")]
    with pytest.raises(NoRoom):
        EngineKeeper(EngineSettings())
