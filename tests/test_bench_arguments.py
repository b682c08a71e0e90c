"""Arguments of benchmarks: what is out of range, missing, or taken by none of the parts that are chosen."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.command import main
from tests.ended import Ended


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--batch", "0"), "--batch must be at least 1"),
        (("--seed", "-1"), "--seed must be at least 0"),
        (("--server", "http://x/v1", "--diffusers", "y"), "only one of --server, --diffusers"),
        (("--model", "tiny-base", "--server", "http://x/v1"), "only one of --model, --server"),
        (("--best-of", "0"), "--best-of must be at least 1"),
        (("--steps", "0", "--diffusers", "x"), "--steps must be at least 1"),
        (("--steps", "3"), "--steps needs --diffusers"),
        (("--server-key", "x"), "--server-key needs --server"),
        (("--name", "x"), "--name needs --pictures"),
        (("--quantization", "int8", "--server", "http://x/v1"), "--quantization needs --model"),
        (("--dtype", "float32", "--server", "http://x/v1"), "--dtype needs --model or --diffusers"),
        (("--top-k", "3", "--diffusers", "x"), "--top-k needs --model or --server"),
        (("--tokenizer", "x", "--diffusers", "x"), "--tokenizer needs --model"),
        (("--seed", "3", "--pictures", "x", "--name", "y"), "--seed needs --model, --server or --diffusers"),
        (("--best-of", "2", "--pictures", "x", "--name", "y"), "--best-of needs --model, --server or --diffusers"),
        (("--selector", "http://x/v1"), "--selector needs --best-of"),
        (("--selector-key", "x"), "--selector-key needs --best-of"),
        (("--best-of", "2", "--selector", "http://x/v1"), "--selector-model must name the model at http://x/v1"),
        (
            ("--best-of", "2", "--selector-key", "x"),
            "--selector-key needs --selector to be an endpoint's URL, not exact",
        ),
        (("--judge-model", "x"), "--judge-model needs --judge to be an endpoint's URL, not exact"),
        (("--judge-key", "x"), "--judge-key needs --judge to be an endpoint's URL, not exact"),
        (("--pictures", "x"), "--pictures needs --name"),
        (("--prompts", "/no/such.json"), "/no/such.json: No such file"),
    ],
)
def test_a_bad_argument_is_named(
    command: Callable[..., Ended], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    ended = command(main, "paircomp", "--out", tmp_path / "run", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--clip", "x"), "--clip needs --score"),
        (("--device", "cpu", "--server", "http://x/v1"), "--device needs --model, --diffusers or --score"),
        (("--device", "cpu", "--server", "http://x/v1", "--score"), "no-such.jsonl: No such file"),
    ],
)
def test_the_scorer_of_geneval_takes_options_too(
    command: Callable[..., Ended], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    ended = command(main, "geneval", "--prompts", tmp_path / "no-such.jsonl", "--out", tmp_path / "run", *arguments)
    assert ended.code == 2
    assert said in ended.err
