"""A folder scored: verdicts on drawn squares, resuming after a kill, and what is missing, damaged or another's."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from bench.detection.errors import GenEvalError
from bench.detection.metadata import read_metadata
from bench.detection.results import read_results
from bench.detection.scoring import score_folder
from bench.detection.verdict import Thresholds
from tests.geneval_scenes import SCORER, Square, prompt, save_folder

ROOT = Path(__file__).parent.parent
DOG, CAT = {"class": "dog", "count": 1}, {"class": "cat", "count": 1}
RED_DOG: list[Square] = [("dog", "red", 0, 0)]
SIDE_BY_SIDE: list[Square] = [("dog", "red", 0, 20), ("cat", "blue", 40, 20)]
SWAPPED: list[Square] = [("dog", "blue", 40, 20), ("cat", "red", 0, 20)]
PROMPTS = [
    (prompt([DOG], "single_object"), [RED_DOG, [], SIDE_BY_SIDE]),
    (prompt([DOG, CAT]), [RED_DOG, SIDE_BY_SIDE, SWAPPED]),
    (prompt([DOG | {"color": "red"}], "colors"), [RED_DOG, SIDE_BY_SIDE, SWAPPED]),
    (prompt([CAT, DOG | {"position": ["left of", 0]}], "position"), [RED_DOG, SIDE_BY_SIDE, SWAPPED]),
    (prompt([DOG | {"color": "red"}, CAT | {"color": "blue"}], "color_attr"), [RED_DOG, SIDE_BY_SIDE, SWAPPED]),
    (prompt([DOG], "counting", exclude=[DOG | {"count": 2}]), [RED_DOG, [], [*RED_DOG, ("dog", "blue", 40, 40)]]),
]
CORRECT = ["TfT", "fTT", "TTf", "fTf", "fTf", "Tff"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    save_folder(folder, PROMPTS)
    return folder


def test_verdicts_on_drawn_squares(folder: Path, tmp_path: Path) -> None:
    results = score_folder(folder, tmp_path / "results.jsonl", SCORER, per_prompt=3)
    assert "".join("T" if result.correct else "f" for result in results) == "".join(CORRECT)
    assert all(result.correct == (not result.reason) for result in results)
    assert read_results(tmp_path / "results.jsonl") == results


def test_lines_have_the_official_fields_and_the_scorer(folder: Path, tmp_path: Path) -> None:
    score_folder(folder, tmp_path / "results.jsonl", SCORER, per_prompt=3)
    line = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[4])
    assert list(line)[:7] == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert line["filename"] == str(folder / "00001" / "samples" / "0001.png")
    assert line["metadata"] == (folder / "00001" / "metadata.jsonl").read_text()
    assert json.loads(line["details"]) == {"cat": [[40, 20, 56, 36, 0.95]], "dog": [[0, 20, 16, 36, 0.95]]}
    assert line["scorer"] == SCORER.identity
    assert SCORER.identity["detector"] == "squares"
    assert SCORER.identity["confidence"] == 0.3


def test_a_run_cut_off_anywhere_ends_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Whole lines are kept, and the cut one is judged again, in the batch it was in."""
    whole = tmp_path / "whole.jsonl"
    results = score_folder(folder, whole, SCORER, per_prompt=3)
    content = whole.read_bytes()
    cut = tmp_path / "cut.jsonl"
    ends = [at for at, byte in enumerate(content) if byte == ord("\n")]
    for left in [0, 1, 5, 12, 13, *range(20, len(content), 501), ends[0], ends[3], ends[3] + 1, ends[4] + 1]:
        cut.write_bytes(content[:left])
        assert score_folder(folder, cut, SCORER, per_prompt=3) == results
        assert cut.read_bytes() == content


def test_a_finished_run_detects_nothing(folder: Path, tmp_path: Path) -> None:
    results = score_folder(folder, tmp_path / "results.jsonl", SCORER, per_prompt=3)
    never: Callable[..., list[list[object]]] = lambda pictures: pytest.fail("detects")  # noqa: E731
    assert score_folder(folder, tmp_path / "results.jsonl", replace(SCORER, detect=never), per_prompt=3) == results  # type: ignore[arg-type]


def run(code: str, *arguments: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_a_killed_process_loses_no_batch(folder: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom dataclasses import replace\n"
        "from bench.detection.scoring import score_folder\nfrom tests.geneval_scenes import SCORER, find\n"
        "calls = []\n"
        "def detect(pictures):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return find(pictures)\n"
        "score_folder(Path(sys.argv[1]), Path(sys.argv[2]), replace(SCORER, detect=detect), per_prompt=3)\n"
    )
    results = tmp_path / "results.jsonl"
    ended = run(code, folder, results)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(read_results(results)) == 2 * SCORER.batch
    undisturbed = score_folder(folder, tmp_path / "undisturbed.jsonl", SCORER, per_prompt=3)
    assert score_folder(folder, results, SCORER, per_prompt=3) == undisturbed
    assert results.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda folder: cut_off(folder / "00003/samples/0001.png"), r"00003/samples/0001\.png: .*truncated"),
    "no picture": (lambda folder: (folder / "00003/samples/0001.png").write_text("x"), r"0001\.png: is no picture"),
    "empty": (lambda folder: (folder / "00003/samples/0001.png").write_bytes(b""), r"0001\.png: is no picture"),
    "missing sample": (
        lambda folder: (folder / "00003/samples/0001.png").unlink(),
        r"00003/samples/0001\.png: missing \(1 of 3 are\)",
    ),
    "extra sample": (
        lambda folder: shutil.copy(folder / "00003/samples/0001.png", folder / "00003/samples/0003.png"),
        r"00003/samples/0003\.png: is one too many",
    ),
    "no samples": (lambda folder: shutil.rmtree(folder / "00003/samples"), r"samples/0000\.png: missing \(3 of 3"),
    "missing prompt": (lambda folder: shutil.rmtree(folder / "00003"), r"pictures/00003: missing"),
    "extra prompt": (lambda folder: (folder / "00009").mkdir(), r"pictures/00006: missing"),
    "no metadata": (lambda folder: (folder / "00003/metadata.jsonl").unlink(), r"00003/metadata\.jsonl: No such file"),
    "cut metadata": (
        lambda folder: cut_off(folder / "00003/metadata.jsonl"),
        r"00003/metadata\.jsonl: Invalid JSON",
    ),
    "other metadata": (
        lambda folder: (folder / "00003/metadata.jsonl").write_text('{"prompt": "a dog", "vqa_list": []}'),
        r"00003/metadata\.jsonl: tag: Field required",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_missing_or_damaged_is_named_and_earlier_results_stay(folder: Path, tmp_path: Path, case: str) -> None:
    damage, said = DAMAGED[case]
    results = tmp_path / "results.jsonl"
    whole = tmp_path / "whole.jsonl"
    score_folder(folder, whole, SCORER, per_prompt=3)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(folder)
    with pytest.raises(GenEvalError, match=said) as error:
        score_folder(folder, results, SCORER, per_prompt=3)
    assert "\n" not in str(error.value)
    assert whole.read_bytes().startswith(results.read_bytes() if results.exists() else b"")
    shutil.rmtree(folder)
    copy.rename(folder)
    score_folder(folder, results, SCORER, per_prompt=3)
    assert results.read_bytes() == whole.read_bytes()


def test_a_truncated_picture_stops_the_run_after_the_batches_before_it(folder: Path, tmp_path: Path) -> None:
    cut_off(folder / "00003/samples/0001.png")  # picture 10 of 18, in the third batch of 4
    with pytest.raises(GenEvalError):
        score_folder(folder, tmp_path / "results.jsonl", SCORER, per_prompt=3)
    assert len(read_results(tmp_path / "results.jsonl")) == 8


def test_results_of_another_scorer_folder_or_picture_are_left_as_they_are(folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    score_folder(folder, results, SCORER, per_prompt=3)
    before = results.read_bytes()

    def refused(said: str, scorer: object = SCORER, file: Path = results) -> None:
        with pytest.raises(GenEvalError, match=said):
            score_folder(folder, file, scorer, per_prompt=3)  # type: ignore[arg-type]

    lower = replace(SCORER, thresholds=Thresholds(counting=0.8))
    refused(r"results\.jsonl:1: .*another scorer \(counting: 0\.9, now 0\.8\)", lower)
    refused(r"another scorer \(detector: squares, now other\)", replace(SCORER, models={"detector": "other"}))
    shutil.rmtree(folder / "00005")
    refused(r"results\.jsonl:16: the folder has no 00005/samples/0000\.png")
    Image.new("RGB", (64, 64)).save(folder / "00002/samples/0000.png")
    refused(r"results\.jsonl:7: .*00002/samples/0000\.png has changed")
    assert results.read_bytes() == before
    results.write_bytes(before + before[: before.index(b"\n") + 1])
    shutil.rmtree(folder)
    save_folder(folder, PROMPTS)
    refused(r"results\.jsonl: a picture has two results")
    for content, said in (
        ("my notes", "notes:1: no result of GenEval"),
        ('{"a": 1}\n', "notes:1: no result of GenEval"),
    ):
        notes = tmp_path / "notes"
        notes.write_text(content)
        refused(said, file=notes)
        assert notes.read_text() == content


def test_a_folder_must_have_the_prompts_that_were_asked_for(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "evaluation_metadata.jsonl"
    lines = [metadata.as_json() + "\n" for metadata, _ in PROMPTS]
    file.write_text("".join(lines))
    asked = read_metadata(file)
    assert len(score_folder(folder, tmp_path / "results.jsonl", SCORER, per_prompt=3, prompts=asked)) == 18
    with pytest.raises(GenEvalError, match=r"00000/metadata\.jsonl: is not line 1 of the prompts"):
        score_folder(folder, tmp_path / "other.jsonl", SCORER, per_prompt=3, prompts=asked[::-1])
    with pytest.raises(GenEvalError, match=r"pictures/00005: is one too many"):
        score_folder(folder, tmp_path / "other.jsonl", SCORER, per_prompt=3, prompts=asked[:5])
    with pytest.raises(GenEvalError, match=r"pictures/00006: missing"):
        score_folder(folder, tmp_path / "other.jsonl", SCORER, per_prompt=3, prompts=[*asked, asked[0]])
    assert not (tmp_path / "other.jsonl").exists()


def test_a_picture_is_turned_as_its_exif_orientation_says(folder: Path, tmp_path: Path) -> None:
    """Turned by a quarter, a dog above a cat is left of it."""
    file = folder / "00003/samples/0000.png"
    picture = Image.open(folder / "00003/samples/0001.png").convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    picture.save(file, exif=exif)
    results = score_folder(folder, tmp_path / "results.jsonl", SCORER, per_prompt=3)
    assert results[9].correct


def test_a_full_disk_names_the_results_file_and_loses_no_line(folder: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk; it cuts a line in two."""
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from bench.detection.scoring import score_folder\nfrom tests.geneval_scenes import SCORER\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "score_folder(Path(sys.argv[1]), Path(sys.argv[2]), SCORER, per_prompt=3)\n"
    )
    results, whole = tmp_path / "results.jsonl", tmp_path / "whole.jsonl"
    ended = run(code, folder, results)
    assert ended.stderr.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{results}'"
    assert len(results.read_bytes()) == 5000
    score_folder(folder, results, SCORER, per_prompt=3)
    score_folder(folder, whole, SCORER, per_prompt=3)
    assert results.read_bytes() == whole.read_bytes()
