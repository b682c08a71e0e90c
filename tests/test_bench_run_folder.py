"""The folder of a run: its lock, and what is refused in it."""

import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from bench.benchmarks.paircomp import PairComp
from bench.command import main
from bench.pictures.errors import RunError
from bench.pictures.run_lock import RunLock
from pairs.picture_file import encode, read_metadata
from tests.coloured_generator import SIDE, ColouredGenerator
from tests.ended import Ended
from tests.locked_runs import draw_run, hold
from tests.three_cases import CASES, cases_file, content, paircomp

__all__ = ["cases_file", "paircomp"]  # fixtures


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def cut_at_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-12])  # the end chunk, after all pixels


def flip(path: Path) -> None:
    """Change a bit of the pixels."""
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 10] ^= 1
    path.write_bytes(content)


def recode(path: Path) -> None:
    """A JPEG with the same settings."""
    metadata = read_metadata(path)
    assert metadata is not None
    path.write_bytes(encode(Image.new("RGB", (SIDE, SIDE)), metadata, format="jpeg"))


def replace(path: Path) -> None:
    Image.new("RGB", (SIDE, SIDE)).save(path)


def another(path: Path) -> None:
    path.with_name("9_0_0.png").write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut, r"1_0_0\.png is damaged, or no picture"),
        (cut_at_the_end, r"1_0_0\.png is damaged, or no picture"),
        (flip, r"1_0_0\.png is damaged, or no picture"),
        (recode, r"1_0_0\.png is damaged, or no picture \(unknown format\)"),
        (replace, r"1_0_0\.png was made with other settings"),
        (another, r"9_0_0\.png is no file of this run"),
    ],
)
def test_a_damaged_or_foreign_picture_is_named(
    paircomp: PairComp, tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    run = draw_run(paircomp, ColouredGenerator(), tmp_path / "run")
    whole = content(run.images)
    harm(run.images / "1_0_0.png")
    with pytest.raises(RunError, match=said):
        draw_run(paircomp, ColouredGenerator(), tmp_path / "run")
    for name in content(run.images).keys() - whole.keys() | {"1_0_0.png"}:
        (run.images / name).unlink()
    generator = ColouredGenerator()
    draw_run(paircomp, generator, tmp_path / "run")
    assert [part.picture.file for part in generator.drawn] == ["1_0_0.png"]
    assert content(run.images) == whole


def test_pictures_of_a_finished_run_are_not_decoded(
    paircomp: PairComp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels would be loaded to be decoded."""
    draw_run(paircomp, ColouredGenerator(), tmp_path / "run")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda picture: pytest.fail("decoded"))
    draw_run(paircomp, ColouredGenerator(after=0, stop=AssertionError()), tmp_path / "run")


def test_a_folder_is_used_by_one_command_at_a_time(
    command: Callable[..., Ended], cases_file: Path, tmp_path: Path
) -> None:
    """The first still draws when the second starts; a report writes there, too. A killed one holds nothing."""
    arguments = ("paircomp", "--prompts", cases_file, "--model", "tiny-base", "--device", "cpu")
    out = ("--out", tmp_path / "run")
    with RunLock(tmp_path / "run"):
        for refused in (command(main, *arguments, *out), command(main, *arguments, *out, "--batch", "2")):
            assert refused.code == 2
            assert f"{tmp_path / 'run'} is in use by another command" in refused.err
    assert command(main, *arguments, *out).code == 0
    with RunLock(tmp_path / "run"):
        assert "is in use by another command" in command(main, "report", tmp_path / "run").err
    assert command(main, "report", tmp_path / "run").code == 0
    assert "--scorer needs --results" in command(main, "report", tmp_path / "run", "--scorer", "x").err


def test_a_lock_ends_with_its_process_and_a_folder_that_was_only_locked_is_a_new_run(
    paircomp: PairComp, tmp_path: Path
) -> None:
    holding = multiprocessing.get_context("forkserver").Process(target=hold, args=(tmp_path / "run",))
    holding.start()
    while not (tmp_path / "run" / "held").exists():
        time.sleep(0.001)
    with pytest.raises(RunError, match="is in use by another command"):
        draw_run(paircomp, ColouredGenerator(), tmp_path / "run")
    holding.kill()
    holding.join()
    draw_run(paircomp, ColouredGenerator(), tmp_path / "run")


def test_what_a_kill_left_half_written_is_cleared_away(paircomp: PairComp, tmp_path: Path) -> None:
    run = draw_run(paircomp, ColouredGenerator(), tmp_path / "run")
    whole = content(run.images)
    (run.images / ".1_0_0.png.partial").write_bytes(b"\x89PNG")
    draw_run(paircomp, ColouredGenerator(), tmp_path / "run")
    assert content(run.images) == whole


def test_a_run_with_other_settings_is_refused_and_the_setting_named(paircomp: PairComp, tmp_path: Path) -> None:
    draw_run(paircomp, ColouredGenerator(), tmp_path / "run")
    before = content(tmp_path / "run")
    with pytest.raises(RunError, match=r"manifest\.json: generator\.model is 'colours', but now 'others'"):
        draw_run(paircomp, ColouredGenerator(model="others"), tmp_path / "run")
    with pytest.raises(RunError, match=r"benchmark\.seed is 0, but now 1"):
        draw_run(PairComp(paircomp.prompt_files, seed=1), ColouredGenerator(), tmp_path / "run")
    other = tmp_path / "other.json"
    other.write_text(json.dumps(CASES[:2]))
    with pytest.raises(RunError, match=r"benchmark\.prompts is \['PairComp.json'\], but now \['other.json'\]"):
        draw_run(PairComp([other]), ColouredGenerator(), tmp_path / "run")
    assert content(tmp_path / "run") == before


def test_a_folder_of_something_else_is_refused(paircomp: PairComp, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="not empty and is not a run"):
        draw_run(paircomp, ColouredGenerator(), tmp_path / "run")
    assert content(tmp_path / "run") == {"thesis.tex": b"x"}
