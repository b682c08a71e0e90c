"""Options of commands."""

from collections.abc import Callable
from typing import Any

import pytest

from bench.command import main as bench
from tests.ended import Ended
from train.command import main as train


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(bench, ["paircomp", "--out", "x", "--judge-k", "sk-1"]), (train, ["grpo", "--judge-ke=sk-1"])],
)
def test_a_keys_option_cannot_be_abbreviated(
    command: Callable[..., Ended], main: Callable[[], None], arguments: list[Any]
) -> None:
    """Or a published manifest would show the key."""
    ended = command(main, *arguments)
    assert ended.code == 2
    assert "unrecognized arguments: --judge-k" in ended.err
