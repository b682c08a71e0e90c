"""`focusdiff-generate`: files, settings in them, resuming, and one-line refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from model.checkpoints.load import load
from model.generate import generate
from model.image_tokenizer import ImageTokenizer
from pairs.picture_file import read_metadata
from serve.generate_command import main
from tests.ended import Ended
from tests.forked_command import ForkedCommand


@pytest.fixture
def refused(command: Callable[..., Ended]) -> Callable[..., str]:
    """Expects exit code 2 of the command, and returns its one-line error."""

    def call(*arguments: str | Path) -> str:
        ended = command(main, *arguments)
        assert ended.code == 2
        assert ended.err.count("\n") == 1, ended.err
        return ended.err

    return call


def test_pictures_grid_and_settings(tmp_path: Path, small_folder: Path, command: Callable[..., Ended]) -> None:
    out = tmp_path / "pictures"
    result = command(
        main,
        "three red circles",
        "--model",
        small_folder,
        "--n",
        "2",
        "--seed",
        "7",
        "--out",
        out,
        "--json",
        "--guidance-scale",
        "3",
    )
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert [row["seed"] for row in rows] == [7, 8]
    janus = load(small_folder, device="cpu")
    codes = generate(janus, ["three red circles"] * 2, seeds=[7, 8], guidance_scale=3)
    for row, pixels in zip(rows, ImageTokenizer(janus).images(codes).numpy(), strict=True):
        path = Path(row.pop("file"))
        assert read_metadata(path) == row
        assert row["guidance_scale"] == 3
        with Image.open(path) as picture:
            assert picture.tobytes() == pixels.tobytes()
    assert sorted(path.name for path in out.iterdir()) == [
        "grid.png", "three-red-circles-7.png", "three-red-circles-8.png",
    ]  # fmt: skip


def test_a_prompts_file_resumes_and_keeps_existing_pictures(
    tmp_path: Path, small_folder: Path, command: Callable[..., Ended]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a blue star"}\n\n{"prompt": "two green hearts", "seed": 4, "n": 2}\n')
    out = tmp_path / "out"
    call = ("--prompts", prompts, "--out", out, "--model", small_folder)
    assert command(main, *call).code == 0
    made = sorted(path for path in out.glob("0*.png"))
    assert [path.name for path in made] == [
        "00000-a-blue-star-0.png", "00001-two-green-hearts-4.png", "00001-two-green-hearts-5.png",
    ]  # fmt: skip
    before = [path.read_bytes() for path in made]
    made[1].unlink()
    stamp = made[0].stat().st_mtime_ns
    again = command(main, *call)
    assert "(1 new)" in again.err
    assert [path.read_bytes() for path in made] == before
    assert made[0].stat().st_mtime_ns == stamp
    other = command(main, *call, "--temperature", "0.5")
    assert other.code == 2
    assert "other settings" in other.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--n", "2"], "prompt"),
        ([""], "prompt"),
        (["red " * 400], "at most 256"),
        (["a star", "--n", "0"], "n must be"),
        (["a star", "--seed", "-1"], "error: seed must be"),
        (["a star", "--top-p", "2"], "top_p"),
        (["a star", "--model", "nothing"], "no model 'nothing'"),
        (["a star", "--batch", "0"], "--batch"),
        (["a star", "--n", "1001"], "--n must be"),
        (["a star", "--negative-prompt", " "], "--negative-prompt is empty"),
        (["a star", "--negative-prompt", " ", "--guidance-scale", "1"], "--negative-prompt is empty"),
        (["--prompts", "missing.jsonl"], "missing.jsonl"),
        (["--prompts", "/dev/null"], "/dev/null has no prompts"),
        (["a star", "--out", "/proc/nothing/here"], "/proc/nothing"),
    ],
)
def test_refusals_are_one_line_with_exit_code_2(
    tmp_path: Path, small_folder: Path, refused: Callable[..., str], arguments: list[str], named: str
) -> None:
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    model = [] if "--model" in arguments else ["--model", str(small_folder)]
    assert named in refused(*arguments, *out, *model)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": 3}', "{", '{"prompt": "a", "sed": 1}', '{"prompt": "a", "n": 0}', "[]", '{"prompt": "a", "seed": "7"}',
        '{"prompt": "a", "seed": [1.5]}', '{"prompt": "a", "seed": [1, 2]}', '{"prompt": "a", "seed": -1}',
        '{"prompt": ""}',
    ],
)  # fmt: skip
def test_a_bad_line_of_a_prompts_file_is_named(
    tmp_path: Path, small_folder: Path, refused: Callable[..., str], line: str
) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "a blue star"}\n\n' + line + "\n")
    said = refused("--prompts", prompts, "--out", tmp_path / "out", "--model", small_folder)
    assert f"{prompts}, line 3: " in said


def test_a_prompts_file_that_is_not_text_is_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_bytes(b'{"prompt": "\xff"}')
    assert f"{prompts} is not UTF-8 text" in refused("--prompts", prompts, "--out", tmp_path / "out")


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, small_folder: Path) -> None:
    """A file size limit simulates a full disk: the picture does not fit."""

    arguments = ("a star", "--seed", "1", "--model", small_folder, "--out", tmp_path / "out")
    full = ForkedCommand(main, *arguments, log=tmp_path / "log", file_bytes=500)
    assert full.wait() == 2, full.printed
    assert "a-star-1.png" in full.printed
    assert "Traceback" not in full.printed
    assert not list((tmp_path / "out").iterdir())
