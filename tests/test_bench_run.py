"""Runs of benchmarks: what they leave, and how they go on when they are stopped."""

import json
import re
import time
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from bench.benchmarks.benchmark import BenchmarkError
from bench.benchmarks.dpg_bench import DpgBench
from bench.benchmarks.opening import benchmark_of, open_benchmark
from bench.benchmarks.paircomp import PairComp
from bench.command import main
from bench.pictures.errors import GenerationError
from pairs.picture_file import read_metadata
from tests.coloured_generator import SIDE, ColouredGenerator, colour
from tests.forked_command import ForkedCommand
from tests.locked_runs import draw_run
from tests.three_cases import CASES, cases_file, content, paircomp

__all__ = ["cases_file", "paircomp"]  # fixtures


def test_pictures_have_the_official_names_and_both_prompts_of_a_case_the_same_seeds(paircomp: PairComp) -> None:
    pictures = {picture.file: (picture.prompt, picture.seeds) for picture in paircomp.pictures}
    assert len(pictures) == 12
    assert pictures["1_0_1.png"] == ('a red sign that says "SUN"', (3,))
    assert pictures["1_1_1.png"] == ('a red sign that says "RUN"', (3,))
    assert len({seeds for _, seeds in pictures.values()}) == 6


def test_a_stopped_run_goes_on_and_ends_with_the_same_files(paircomp: PairComp, tmp_path: Path) -> None:
    whole = draw_run(paircomp, ColouredGenerator(), tmp_path / "whole")
    drawn = []
    for after in (5, 3, None):
        generator = ColouredGenerator(after=after, stop=KeyboardInterrupt())
        with suppress(KeyboardInterrupt):
            draw_run(paircomp, generator, tmp_path / "stopped")
        drawn += [part.picture.file for part in generator.drawn]
    assert sorted(drawn) == sorted(picture.file for picture in paircomp.pictures)  # none twice, none lost
    assert content(tmp_path / "stopped" / "images") == content(whole.images)
    assert (tmp_path / "stopped" / "manifest.json").read_bytes() == (tmp_path / "whole" / "manifest.json").read_bytes()


def test_a_picture_carries_its_settings(paircomp: PairComp, tmp_path: Path) -> None:
    run = draw_run(paircomp, ColouredGenerator(), tmp_path / "run")
    assert read_metadata(run.images / "2_1_0.png") == {
        "prompt": "a yellow heart",
        "seeds": [4],
        "generator": "colours",
        "model": "colours",
        "sampling": {"guidance_scale": 2.0},
    }


def test_four_seeds_make_a_grid_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "7.txt").write_text(" a long description \n")
    run = draw_run(DpgBench([tmp_path / "7.txt"], seed=10), ColouredGenerator(), tmp_path / "run")
    with Image.open(run.images / "7.png") as grid:
        assert grid.size == (2 * SIDE, 2 * SIDE)
        corners = [(0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE)]
        assert [grid.getpixel(corner) for corner in corners] == [
            colour("a long description", seed) for seed in range(10, 14)
        ]


def test_a_generator_that_fails_loses_no_picture(paircomp: PairComp, tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match="the server is gone"):
        draw_run(paircomp, ColouredGenerator(after=7, stop=GenerationError("the server is gone")), tmp_path / "run")
    assert len(list((tmp_path / "run" / "images").iterdir())) == 7


def test_a_run_knows_its_benchmark_without_the_original_prompts(paircomp: PairComp, tmp_path: Path) -> None:
    draw_run(paircomp, ColouredGenerator(), tmp_path / "run")
    paircomp.prompt_files[0].unlink()
    found = benchmark_of(tmp_path / "run")
    assert isinstance(found, PairComp)
    assert found.cases == paircomp.cases
    (tmp_path / "run" / "prompts" / "PairComp.json").write_text(json.dumps(CASES[:2]))
    with pytest.raises(BenchmarkError, match="the prompts have changed"):
        benchmark_of(tmp_path / "run")


def test_a_run_killed_three_times_has_the_same_bytes_as_an_undisturbed_one(tmp_path: Path) -> None:
    """Real processes, ended by SIGKILL while they draw and judge."""
    colours = ("red", "blue", "green", "yellow", "purple", "orange")
    prompts = tmp_path / "cases.json"
    prompts.write_text(
        json.dumps(
            [
                {"category": "Color difference", "caption1": f"two {one} stars", "caption2": f"two {other} stars"}
                for one, other in combinations(colours, 2)
            ]
        )
    )

    def start(name: str) -> ForkedCommand:
        arguments = ("--prompts", prompts, "--batch", "2", "--model", "tiny-base", "--device", "cpu")
        return ForkedCommand(main, "paircomp", *arguments, "--out", tmp_path / name, log=tmp_path / f"{name}.log")

    undisturbed = start("whole")
    assert undisturbed.wait() == 0, undisturbed.printed
    images = tmp_path / "killed" / "images"
    kept: dict[str, bytes] = {}
    for pictures in (6, 18, 30):
        process = start("killed")
        while len(list(images.glob("[0-9]*.png"))) < pictures:
            assert process.running, process.printed
            time.sleep(0.001)
        process.kill()
        left = {name: text for name, text in content(images).items() if not name.startswith(".")}
        assert len(left) < 60
        assert {name: left[name] for name in kept} == kept
        kept = left
    last = start("killed")
    assert last.wait() == 0, last.printed
    whole, killed = content(tmp_path / "whole"), content(tmp_path / "killed")
    pictures_of_whole = [name for name in whole if name.startswith("images/")]
    assert len(pictures_of_whole) == 60
    for name in ("scores/exact.json", *pictures_of_whole):
        assert killed[name] == whole[name]
    judged = [json.loads(line)["file"] for line in killed["judgements/exact.jsonl"].decode().splitlines()[1:]]
    assert len(judged) == len(set(judged)) == 60


def test_a_full_disk_is_an_error_that_names_the_file_and_the_run_goes_on(tmp_path: Path) -> None:
    """A file size limit simulates a full disk: noise of 300 × 300 pixels does not fit, all other files do."""
    prompts, drawn = tmp_path / "prompts.json", tmp_path / "drawn"
    prompts.write_text(json.dumps([{"prompt_id": number, "Prompt": "noise"} for number in (1, 2, 3)]))
    drawn.mkdir()
    for number in (1, 2, 3):
        Image.effect_noise((300, 300), 200).convert("RGB").save(drawn / f"{number}.png")
    arguments = ("wise", "--prompts", prompts, "--pictures", drawn, "--name", "noise", "--out", tmp_path / "run")
    full = ForkedCommand(main, *arguments, log=tmp_path / "log", file_bytes=50_000)
    assert full.wait() == 2, full.printed
    assert re.search(r"error: .*run/images/\.?\d\.png", full.printed)
    assert "Traceback" not in full.printed
    assert ForkedCommand(main, *arguments, log=tmp_path / "log").wait() == 0
    assert sorted(path.name for path in (tmp_path / "run" / "images").iterdir()) == ["1.png", "2.png", "3.png"]


@pytest.mark.parametrize("name", ["geneval", "t2i-compbench", "dpg-bench", "geneval2", "wise"])
def test_another_benchmarks_prompts_are_refused(name: str, cases_file: Path) -> None:
    with pytest.raises(ValueError, match=r"PairComp\.json"):
        open_benchmark(name, [str(cases_file)], seed=0)
