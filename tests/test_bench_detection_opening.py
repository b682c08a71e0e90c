"""A scorer opened from tiny random checkpoints, in mmdetection's input size, scores a folder and is named in it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.command import main
from bench.detection.colours import load_colours
from bench.detection.detector import load_detector
from bench.detection.errors import GenEvalError
from bench.detection.opening import open_scorer
from bench.detection.results import read_results
from bench.detection.scoring import score_folder
from bench.detection.summary import summarise
from bench.detection.verdict import Thresholds
from bench.measurements.measurement import Measurement
from tests.ended import Ended
from tests.geneval_scenes import prompt, save_folder
from tests.tiny_clip import save_tiny_clip
from tests.tiny_mask2former import save_tiny_mask2former

LOW = Thresholds(confidence=0.05, counting=0.1)  # random weights are not confident
PROMPTS = [prompt([{"class": name, "count": 1, "color": "red"}], "colors") for name in ("dog", "skis")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_mask2former(folder / "tiny-mask2former")
    save_tiny_clip(folder / "tiny-clip")
    return folder


def test_results_name_the_models_and_their_weights(folder: Path, tmp_path: Path) -> None:
    detector, clip = str(folder / "tiny-mask2former"), str(folder / "tiny-clip")
    scorer = open_scorer(detector, clip, device="cpu", thresholds=LOW, batch=2)
    save_folder(tmp_path / "pictures", [(one, [[("dog", "red", 0, 0)], []]) for one in PROMPTS])
    score_folder(tmp_path / "pictures", tmp_path / "results.jsonl", scorer, per_prompt=2)
    results = read_results(tmp_path / "results.jsonl")
    assert summarise(results).scorer == {
        "detector": "tiny-mask2former",
        "detector weights": load_detector(detector, device="cpu").identity["detector weights"],
        "detector input": "800 to 1333",
        "clip": "tiny-clip",
        "clip weights": load_colours(clip, device="cpu").identity["clip weights"],
        "confidence": 0.05,
        "counting": 0.1,
        "max_objects": 16,
        "max_overlap": 1.0,
        "position": 0.1,
    }
    scores = [box[4] for one in results for boxes in json.loads(one.details).values() for box in boxes]
    assert (
        0.05 < min(scores) < LOW.counting
    )  # the tag is not counting: the lower threshold applies, also in the detector


def test_the_command_draws_scores_and_names_the_scorer(
    folder: Path, tmp_path: Path, small_folder: Path, command: Callable[..., Ended]
) -> None:
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text(json.dumps({"tag": "counting", "include": [{"class": "cup", "count": 2}], "prompt": "two cups"}))
    arguments = ("geneval", "--prompts", prompts, "--out", tmp_path / "run", "--model", small_folder, "--device", "cpu")
    models = ("--score", "--detector", folder / "tiny-mask2former", "--clip", folder / "tiny-clip")
    ended = command(main, *arguments, *models)
    assert ended.code == 0, ended.err
    assert "overall" in ended.out
    found = Measurement.read(tmp_path / "run" / "numbers" / "tiny-mask2former-and-tiny-clip.json")
    assert found.workload["scorer"] == "tiny-mask2former and tiny-clip"
    assert [number.count for number in found.numbers] == [4, 4]


def test_models_in_each_others_place_are_refused(folder: Path) -> None:
    with pytest.raises(GenEvalError, match="must be a mask2former checkpoint, not clip"):
        open_scorer(str(folder / "tiny-clip"), str(folder / "tiny-clip"), device="cpu")
    with pytest.raises(GenEvalError, match="must be a clip checkpoint, not mask2former"):
        open_scorer(str(folder / "tiny-mask2former"), str(folder / "tiny-mask2former"), device="cpu")
