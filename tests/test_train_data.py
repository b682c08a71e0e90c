"""Data sets from files: what is read, what is skipped and why, and training on what is left."""

import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.checkpoints.load import load
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from tests.ended import Ended
from tests.vlm_endpoint import VlmEndpoint
from train.command import main
from train.data.codes import square
from train.data.listed import open_pairs
from train.errors import DataError

COLOURS = ((200, 0, 0), (0, 0, 200), (0, 200, 0), (9, 9, 9))


@pytest.fixture(scope="module")
def janus(small_folder: Path) -> Janus:
    return load(small_folder, device="cpu")


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (80, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


def mean_colour(picture: Image.Image) -> tuple[int, ...]:
    return tuple(int(value) for value in np.asarray(picture).mean((0, 1)))


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Names of four picture files in `tmp_path`, one of each of COLOURS."""
    for number, colour in enumerate(COLOURS):
        (tmp_path / f"{number}.png").write_bytes(png(colour))
    return [f"{number}.png" for number in range(len(COLOURS))]


def json_list(folder: Path, rows: list[Any]) -> Path:
    file = folder / "pairs.json"
    file.write_text(json.dumps(rows))
    return file


def pair(prompt1: object, prompt2: object, image1: object, image2: object) -> dict[str, object]:
    return {"prompt1": prompt1, "prompt2": prompt2, "image1": image1, "image2": image2}


def test_each_invalid_row_is_skipped_for_its_own_reason(tmp_path: Path, janus: Janus, pictures: list[str]) -> None:
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:-40])
    (tmp_path / "text.png").write_text("no picture")
    rows: list[Any] = [
        pair("a red star", "a blue star", *pictures[:2]),
        pair("a red star", " a red star ", *pictures[:2]),
        pair("a red star", "", *pictures[:2]),
        pair("a red star", None, *pictures[:2]),
        pair("a red star", 3, *pictures[:2]),
        pair("a red star", "a blue star " * 200, *pictures[:2]),
        pair("a red star", "a blue star", pictures[0], "none.png"),
        pair("a red star", "a blue star", pictures[0], "cut.png"),
        pair("a red star", "a blue star", "text.png", pictures[1]),
        {"prompt1": "a red star", "prompt2": "a blue star"},
        {"prompt": "a green star", "image": pictures[2]},
    ]
    pairs, report = open_pairs(json_list(tmp_path, rows), janus)
    assert [pairs.prompts(index) for index in range(len(pairs))] == [("a red star", "a blue star"), ("a green star",)]
    assert [[mean_colour(one) for one in pairs.pictures(index)] for index in range(2)] == [
        [COLOURS[0], COLOURS[1]],
        [COLOURS[2]],
    ]
    assert (report.rows, report.pairs, report.singles, report.with_pictures) == (11, 1, 1, 2)
    places = {reason: [int(place.rpartition(" ")[2]) for place in told] for reason, told in report.skipped.items()}
    long = next(reason for reason in places if "at most" in reason)
    assert places == {
        "both prompts are the same": [1],
        "prompt 2 is empty": [2],
        "prompt 2 is missing": [3],
        "prompt 2 is not text": [4],
        long: [5],
        "the file of picture 2 does not exist": [6],
        "picture 2 cannot be read (OSError)": [7],
        "picture 1 cannot be read (UnidentifiedImageError)": [8],
        "picture 1 is missing": [9],
    }


def test_every_pair_of_a_json_list_is_read_in_order(tmp_path: Path, janus: Janus) -> None:
    """The released trainer reads the first half only."""
    file = json_list(tmp_path, [{"prompt1": f"{n} red stars", "prompt2": f"{n} blue stars"} for n in range(7)])
    pairs, report = open_pairs(file, janus)
    assert [pairs.prompts(index)[0] for index in range(len(pairs))] == [f"{n} red stars" for n in range(7)]
    assert not pairs.has_pictures
    assert (report.pairs, report.with_pictures, report.skipped) == (7, 0, {})


def test_a_prompt_file_is_unpaired_prompts(tmp_path: Path, janus: Janus) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a red star\r\n\n  two blue stars \n")
    pairs, _ = open_pairs(file, janus)
    assert [pairs.prompts(index) for index in range(len(pairs))] == [("a red star",), ("two blue stars",)]
    assert not pairs.has_pictures


def write_parquet(file: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), file)


TEXTS = (["a red star", "a green star"], ["a blue star", "a black star"])


@pytest.mark.parametrize("kind", ["bytes", "struct", "paths"])
def test_columns_of_parquet_shards_are_recognised(
    tmp_path: Path, janus: Janus, pictures: list[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Two shards with a column more that is neither; pictures as bytes, as `datasets.Image`, or as paths."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    made: dict[str, Callable[[int], object]] = {
        "bytes": lambda number: png(COLOURS[number]),
        "struct": lambda number: {"bytes": png(COLOURS[number]), "path": None},
        "paths": lambda number: pictures[number],
    }
    for shard in range(2):
        numbers = (2 * shard, 2 * shard + 1)
        columns: dict[str, list[Any]] = {
            "edit_type": ["colour"],
            "caption_before": [TEXTS[0][shard]],
            "img_before": [made[kind](numbers[0])],
            "caption_after": [TEXTS[1][shard]],
            "img_after": [made[kind](numbers[1])],
        }
        write_parquet(tmp_path / f"part-{shard}.parquet", columns)
    pairs, report = open_pairs(tmp_path, janus)
    assert [pairs.prompts(index) for index in range(2)] == list(zip(*TEXTS, strict=True))
    assert [[mean_colour(one) for one in pairs.pictures(index)] for index in range(2)] == [
        [COLOURS[0], COLOURS[1]],
        [COLOURS[2], COLOURS[3]],
    ]
    assert "prompt 'caption_before' with picture 'img_before'" in report.source
    swapped, _ = open_pairs(
        tmp_path,
        janus,
        prompt_columns=("caption_after", "caption_before"),
        image_columns=("img_after", "img_before"),
    )
    assert swapped.prompts(0) == (TEXTS[1][0], TEXTS[0][0])
    assert mean_colour(swapped.pictures(0)[0]) == COLOURS[1]
    assert swapped.fingerprint != pairs.fingerprint


def test_columns_that_cannot_be_told_are_listed(tmp_path: Path, janus: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    file = tmp_path / "three.parquet"
    write_parquet(file, {"caption_a": ["x"], "caption_b": ["y"], "caption_c": ["z"], "number": [1]})
    with pytest.raises(DataError, match=r"cannot tell.*'caption_a' \(string\).*'number' \(int64\).*--prompt-columns"):
        open_pairs(file, janus)
    with pytest.raises(DataError, match="no column 'caption_d'; there are 'caption_a'"):
        open_pairs(file, janus, prompt_columns=("caption_a", "caption_d"))
    with pytest.raises(DataError, match="not 2 and 1"):
        open_pairs(file, janus, prompt_columns=("caption_a", "caption_b"), image_columns=("caption_c",))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"[", "is not JSON"),
        ("a.json", b"{}", "must be a JSON list of objects, not dict"),
        ("a.json", b"[[]]", "row 0 must be an object, not list"),
        ("a.json", b"\xff", "is not JSON"),
        ("a.txt", b"\xff", "is not UTF-8 text"),
        ("a.txt", b"\n", "no row can be trained on"),
        ("a.csv", b"", "must be a .json or .txt file"),
        ("a.parquet", b"nothing", "cannot be read as Parquet"),
    ],
)
def test_an_unusable_file_is_one_line_and_exit_code_2(
    tmp_path: Path, small_folder: Path, command: Callable[..., Ended], name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    ended = command(main, "data", tmp_path / name, "--model", small_folder)
    assert ended.code == 2
    assert said in ended.err.splitlines()[-1]
    assert name in ended.err.splitlines()[-1]


def test_a_run_trains_on_pairs_from_a_file(
    tmp_path: Path, small_folder: Path, janus: Janus, pictures: list[str], endpoint: VlmEndpoint,
    command: Callable[..., Ended],
) -> None:  # fmt: skip
    """Ground truth is the codes of the file's pictures; other data in the same folder is refused."""
    file = json_list(tmp_path, [pair("a red star", "a blue star", *pictures[:2]), {"prompt": "no", "image": "no.png"}])
    toml = tmp_path / "short.toml"
    toml.write_text(
        "steps = 1\n[rollout]\npairs = 1\nsamples = 2\nguidance_scale = 2.0\n[ground_truth]\nuse = 'positive'\n"
        "[update]\nlearning_rate = [{ at = 0.0, value = 1e-3 }]\n[output]\ngrid_every = 0\n"
    )
    call = ("grpo", "--model", small_folder, "--recipe", toml, "--data", file, "--out", tmp_path / "run")
    call = (*call, "--judge", endpoint.url, "--judge-model", "vlm")  # type: ignore[assignment]
    ended = command(main, *call)
    assert ended.code == 0, ended.err
    assert "1 pairs and 0 single prompts are valid" in ended.out
    with closing(sqlite3.connect(tmp_path / "run" / "codes.sqlite")) as database:
        used = {tuple(np.frombuffer(row[0], dtype=np.int32)) for row in database.execute("SELECT codes FROM codes")}
    expected, tokenizer = set(), ImageTokenizer(janus)
    for name in pictures[:2]:
        with Image.open(tmp_path / name) as picture:
            pixels = torch.from_numpy(np.array(square(picture, 64))).permute(2, 0, 1)[None].float() / 127.5 - 1
        expected.add(tuple(tokenizer.encode(pixels)[0].tolist()))
    assert used == expected
    file.write_text(file.read_text().replace("a red star", "a green star"))
    refused = command(main, *call)
    assert refused.code == 2
    assert "this run has data" in refused.err


def test_the_command_prints_the_report(tmp_path: Path, small_folder: Path, command: Callable[..., Ended]) -> None:
    file = json_list(tmp_path, [{"prompt1": "a red star", "prompt2": "a red star"}, {"prompt": "a star"}])
    ended = command(main, "data", file, "--model", small_folder)
    assert ended.code == 0
    assert ended.out.splitlines() == [
        f"{file}: 2 rows. 0 pairs and 1 single prompts are valid, 0 of them with pictures; 1 are skipped",
        f"  1 × both prompts are the same ({file}, row 0)",
    ]
