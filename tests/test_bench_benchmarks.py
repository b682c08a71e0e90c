"""Benchmarks: the folders that official evaluators read, and their results read back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.benchmarks.benchmark import BenchmarkError
from bench.benchmarks.dpg_bench import DpgBench
from bench.benchmarks.geneval import GenEval
from bench.benchmarks.geneval2 import GenEval2
from bench.benchmarks.opening import open_benchmark
from bench.benchmarks.t2i_compbench import T2ICompBench
from bench.benchmarks.wise import Wise
from bench.detection.errors import GenEvalError
from bench.measurements.measurement import Number
from tests.coloured_generator import ColouredGenerator
from tests.locked_runs import draw_run


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def json_lines(file: Path, rows: Sequence[object]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def values(numbers: Sequence[Number]) -> dict[str, float]:
    return {number.name: number.value for number in numbers}


GENEVAL = [
    {"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": "a photo of a cow"},
    {
        "tag": "counting",
        "include": [{"class": "cup", "count": 2}],
        "exclude": [{"class": "cup", "count": 3}],
        "prompt": "a photo of two cups",
    },
]


@pytest.fixture
def geneval(tmp_path: Path) -> GenEval:
    return GenEval([json_lines(tmp_path / "evaluation_metadata.jsonl", GENEVAL)])


def test_genevals_folder(geneval: GenEval, tmp_path: Path) -> None:
    images = draw_run(geneval, ColouredGenerator(), tmp_path / "run").images
    samples = [f"{p:05d}/samples/{i:04d}.png" for p in range(2) for i in range(4)]
    assert files(images) == sorted([*samples, "00000/metadata.jsonl", "00001/metadata.jsonl"])
    assert [json.loads((images / f"0000{p}" / "metadata.jsonl").read_text()) for p in range(2)] == GENEVAL
    assert len({picture.seeds for picture in geneval.pictures}) == 8


def geneval_results(correct: Sequence[Sequence[bool]], digits: int = 4) -> list[dict[str, Any]]:
    return [
        {
            "filename": f"images/{p:05d}/samples/{i:0{digits}d}.png",
            "tag": GENEVAL[p]["tag"],
            "prompt": GENEVAL[p]["prompt"],
            "correct": right,
            "reason": "",
            "metadata": json.dumps(GENEVAL[p]),
            "details": "{}",
        }
        for p, own in enumerate(correct)
        for i, right in enumerate(own)
    ]


@pytest.mark.parametrize("digits", [4, 5])
def test_genevals_overall_score_is_the_mean_over_tags(geneval: GenEval, tmp_path: Path, digits: int) -> None:
    rows = geneval_results([[True, True, True, False], [False, True, False, False]], digits)
    found = geneval.read_results([json_lines(tmp_path / "results.jsonl", rows)])
    assert values(found) == {"single_object": 0.75, "counting": 0.25, "overall": 0.5}


def test_geneval_results_that_lack_a_picture_are_refused(geneval: GenEval, tmp_path: Path) -> None:
    rows = geneval_results([[True] * 4, [True] * 4])
    with pytest.raises(BenchmarkError, match=r"results\.jsonl lacks picture '00001/samples/0003\.png'"):
        geneval.read_results([json_lines(tmp_path / "results.jsonl", rows[:-1])])
    with pytest.raises(BenchmarkError, match=r"has twice: picture '00000/samples/0000\.png'"):
        geneval.read_results([json_lines(tmp_path / "results.jsonl", [*rows, rows[0]])])
    rows[2]["correct"] = "yes"
    with pytest.raises(GenEvalError, match=r"results\.jsonl:3: .*correct"):
        geneval.read_results([json_lines(tmp_path / "results.jsonl", rows)])


def t2i_compbench(folder: Path) -> T2ICompBench:
    (folder / "color_val.txt").write_bytes(b"a red cup.\r\na green bench")
    (folder / "complex_val.txt").write_bytes(b"The red hat was on the rack.\r\n")
    benchmark = open_benchmark("t2i-compbench", [str(folder)], seed=0)
    assert isinstance(benchmark, T2ICompBench)
    return benchmark


def test_t2i_compbenchs_folder(tmp_path: Path) -> None:
    """Prompts keep their full stop and lose the carriage return; numbers run over the category."""
    images = draw_run(t2i_compbench(tmp_path), ColouredGenerator(), tmp_path / "run").images
    assert files(images) == sorted(
        [f"color/samples/a red cup._{n:06d}.png" for n in range(10)]
        + [f"color/samples/a green bench_{n:06d}.png" for n in range(10, 20)]
        + [f"complex/samples/The red hat was on the rack._{n:06d}.png" for n in range(10)]
    )


def test_t2i_compbenchs_scores_are_means_over_pictures(tmp_path: Path) -> None:
    benchmark = t2i_compbench(tmp_path)
    images = draw_run(benchmark, ColouredGenerator(), tmp_path / "run").images
    answers = [{"question_id": n, "answer": f"{n / 20:.4f}"} for n in range(20)]  # the evaluator writes text
    result = images / "color" / "annotation_blip" / "vqa_result.json"
    result.parent.mkdir()
    result.write_text(json.dumps(answers))
    assert values(benchmark.read_results([images])) == {"color": pytest.approx(0.475)}
    draw_run(benchmark, ColouredGenerator(), tmp_path / "run")  # the evaluator's files do not disturb it
    result.write_text(json.dumps(answers[:-1]))
    with pytest.raises(BenchmarkError, match="has 19 answers for 20 pictures"):
        benchmark.read_results([images])
    result.unlink()
    with pytest.raises(BenchmarkError, match="has no results of an evaluator"):
        benchmark.read_results([images])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("colour_val.txt", "a cup", "must be named CATEGORY_val.txt"),
        ("color_val.txt", "a cup\na/b", "line 2: a prompt must be text without /"),
        ("color_val.txt", "a cup\n\nx", "line 2: a prompt must be text"),
        ("color_val.txt", "x" * 240, "line 1: the prompt is too long"),
        ("color_val.txt", "", "is empty"),
    ],
)
def test_a_prompts_file_that_t2i_compbench_cannot_use_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BenchmarkError, match=said):
        T2ICompBench([tmp_path / name])


def dpg_bench(folder: Path, *items: str) -> DpgBench:
    prompts = folder / "items"
    prompts.mkdir()
    for item in items:
        (prompts / f"{item}.txt").write_text(f" a description of {item}\n")
    benchmark = open_benchmark("dpg-bench", [str(prompts)], seed=0)
    assert isinstance(benchmark, DpgBench)
    return benchmark


SUMMARY = """Model: images
L1 category scores:
\tentity: 66.5
\tglobal: 50.0
L2 category scores:
\tentity - whole: 66.5
Image path: images
Save results to: x
DPG-Bench score: 62.5
"""


def test_dpg_benchs_result_file(tmp_path: Path) -> None:
    """The official evaluator never scores partiprompts97, and prints percentages."""
    benchmark = dpg_bench(tmp_path, "0", "partiprompts97", "vrd1")
    rows = "images/0.png, 1.0, 0.5, 0.5, 0.0, 0.5\nimages/vrd1.png, 1.0, 1.0, 0.5, 0.5, 0.75\n"
    file = tmp_path / "results.txt"
    file.write_text(rows + SUMMARY)
    assert values(benchmark.read_results([file])) == {"overall": 0.625, "entity": 0.665, "global": 0.5}
    file.write_text(rows.splitlines()[0] + "\n" + SUMMARY)
    with pytest.raises(BenchmarkError, match="lacks item 'vrd1'"):
        benchmark.read_results([file])
    file.write_text(rows)
    with pytest.raises(BenchmarkError, match="has no line 'DPG-Bench score"):
        benchmark.read_results([file])


GENEVAL2 = [
    {
        "prompt": "two green cups",
        "atom_count": 3,
        "vqa_list": [["How many cups are in the image?", "two"], ["Are the cups green?", "Yes"]],
        "skills": ["count", "attribute"],
    },
    {"prompt": "a pig", "atom_count": 4, "vqa_list": [["Are there pigs?", "Yes"]], "skills": ["object"]},
]


def test_geneval2s_folder_and_scores(tmp_path: Path) -> None:
    benchmark = GenEval2([json_lines(tmp_path / "geneval2_data.jsonl", GENEVAL2)])
    images = draw_run(benchmark, ColouredGenerator(), tmp_path / "run").images
    assert files(images) == ["00000.png", "00001.png", "image_paths.json"]
    paths = json.loads((images / "image_paths.json").read_text())
    assert {prompt: Path(path).name for prompt, path in paths.items()} == {
        "two green cups": "00000.png",
        "a pig": "00001.png",
    }
    assert all(Path(path).exists() for path in paths.values())
    scores = tmp_path / "scores.json"
    scores.write_text("[[0.25, 1.0], [0.9]]")
    found = values(benchmark.read_results([scores]))
    assert found["Soft-TIFA GM"] == pytest.approx((0.5 + 0.9) / 2)
    assert found["Soft-TIFA AM"] == pytest.approx((0.625 + 0.9) / 2)
    assert found["AM count"] == 0.25
    assert found["GM of 4 atoms"] == pytest.approx(0.9)
    scores.write_text("[[0.25], [0.9]]")
    with pytest.raises(BenchmarkError, match="prompt 1 has 1 scores for 2 questions"):
        benchmark.read_results([scores])
    scores.write_text("[[0.25, 2], [0.9]]")
    with pytest.raises(BenchmarkError, match=r"scores\.json: 0\.1: Input should be less than or equal to 1"):
        benchmark.read_results([scores])


def wise(folder: Path, numbers: Sequence[int]) -> Wise:
    file = folder / "cultural_common_sense.json"
    file.write_text(json.dumps([{"prompt_id": n, "Prompt": f"prompt {n}", "Category": "x"} for n in numbers]))
    return Wise([file])


LASTS = (400, 567, 700, 800, 900, 1000)  # prompt_ids, of the paper's categories


def test_wises_folder(tmp_path: Path) -> None:
    images = draw_run(wise(tmp_path, (3, 1)), ColouredGenerator(), tmp_path / "run").images
    assert files(images) == ["1.png", "3.png"]


def test_wises_score_weighs_grades_and_categories_as_the_paper_does(tmp_path: Path) -> None:
    grades = [(2, 2, 2), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 1, 0), (0, 0, 0)]
    rows = [
        {"prompt_id": n, "Subcategory": "x", "consistency": c, "realism": r, "aesthetic_quality": a}
        for n, (c, r, a) in zip(LASTS, grades, strict=True)
    ]
    found = values(wise(tmp_path, LASTS).read_results([json_lines(tmp_path / "scores.jsonl", rows)]))
    each = [1, 0.35, 0.1, 0.05, 0.8, 0]
    assert list(found.values())[:6] == pytest.approx(each)
    weights = (0.4, 0.167, 0.133, 0.1, 0.1, 0.1)
    assert found["overall"] == pytest.approx(sum(w * value for w, value in zip(weights, each, strict=True)))


def test_wise_verified_has_other_categories_and_weights(tmp_path: Path) -> None:
    numbers = (400, 520, 640, 760, 880, 1000)
    rows = [
        {"prompt_id": n, "Subcategory": "x", "score": score}
        for n, score in zip(numbers, (1, 0, 1, 0, 0, 1), strict=True)
    ]
    benchmark = wise(tmp_path, numbers)
    found = values(benchmark.read_results([json_lines(tmp_path / "scores.jsonl", rows)]))
    assert found["overall"] == pytest.approx(0.4 + 2 * 0.12)
    with pytest.raises(BenchmarkError, match="lacks prompt_id 1000"):
        benchmark.read_results([json_lines(tmp_path / "scores.jsonl", rows[:-1])])
    rows[0]["score"] = 2
    with pytest.raises(BenchmarkError, match=r"row 1: score"):
        benchmark.read_results([json_lines(tmp_path / "scores.jsonl", rows)])
