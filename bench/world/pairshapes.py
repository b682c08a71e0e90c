"""Scores of a checkpoint on unseen prompts of the procedural world, by category and guidance scale.

    prompts → draw → judge → results.jsonl → table

Every judged picture is one line of the results file, from which a stopped run resumes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from bench.json_lines import JsonLines, OtherIdentity, read_json_lines
from bench.pictures.codes import pack_codes
from model.checkpoints.fingerprint import fingerprint
from model.janus import Janus
from model.quantization import Quantization
from pairs.caption import Wording, describe
from pairs.judges.opening import OpenedJudge
from pairs.scene import CATEGORIES, Category, Scene
from pairs.scores import Mean, mean
from pairs.world import World
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job

PromptSet = Literal["validation", "test"]
_STREAMS: dict[PromptSet, int] = {"test": 20_250_605, "validation": 20_260_605}  # seeds; training uses others


@dataclass(frozen=True)
class UnseenPrompt:
    """A test prompt; `held_out` says whether it contains a combination held out of training."""

    index: int
    category: Category
    scene: Scene
    caption: str
    held_out: bool


Key = tuple[str, float, int]  # prompt, guidance scale, seed


@dataclass(frozen=True)
class Picture:
    """A picture to draw and judge."""

    prompt: UnseenPrompt
    guidance_scale: float
    seed: int

    @property
    def key(self) -> Key:
        """Unique key in the results file."""
        return self.prompt.caption, self.guidance_scale, self.seed


@dataclass(frozen=True)
class Result:
    """Score of a picture (None if the judgement failed) and its codes, as `pack_codes` writes them."""

    score: float | None
    codes: str


def unseen_prompts(world: World, per_category: int, prompt_set: PromptSet = "test") -> list[UnseenPrompt]:
    """Sample prompts of the world's test split, the same for every checkpoint.

    40 % are sampled to contain a held-out combination. Choices are made on the validation set and reported on the
    test set, once.
    """
    prompts: list[UnseenPrompt] = []
    captions: set[str] = set()
    for number, category in enumerate(CATEGORIES):
        rng = np.random.default_rng([_STREAMS[prompt_set], number])
        before = len(prompts)
        while len(prompts) < before + per_category:
            held_out = (len(prompts) - before) % 5 < 2
            scene = world.sample_held_out(rng, category) if held_out else world.sample(rng, category, "test")
            caption = describe(scene, Wording.sample(rng, category))
            if caption not in captions:
                captions.add(caption)
                prompts.append(UnseenPrompt(len(prompts), category, scene, caption, world.is_held_out(scene)))
    return prompts


def judge_pictures(
    janus: Janus,
    pictures: Sequence[Picture],
    results: Path,
    *,
    judge: OpenedJudge,
    slots: int,
    quantization: Quantization | None = None,
) -> dict[Key, Result]:
    """Draw and judge pictures, except those already judged in `results`; one whose judgement failed is drawn again.

    Args:
        janus: the model.
        pictures: pictures to judge.
        results: JSON lines file; pictures are appended as soon as they are judged.
        judge: scores the pictures.
        slots: guided pictures drawn at once.
        quantization: see `serve.engine.engine.Engine`.

    Returns:
        Results by key.

    Raises:
        ValueError: the file belongs to another checkpoint or judge, or a picture cannot be drawn.
    """
    identity: dict[str, Any] = {
        "model": janus.name,
        "weights": fingerprint(janus),
        "sampling": janus.sampling.as_dict(),
    }
    try:
        lines = JsonLines(results, identity | dict(judge.identity))
    except OtherIdentity:
        raise ValueError(
            f"{results} belongs to another checkpoint, judge or other settings; choose another --out"
        ) from None
    earlier = _results(results, lines.rows)
    done = {key: result for key, result in earlier.items() if result.score is not None}
    in_pytorch = janus.device.type == "cpu" and quantization not in (None, "int8")  # no C function computes these
    engine = Engine(janus, slots=slots, native=not in_pytorch, quantization=quantization)
    missing = {_job(picture, janus): picture for picture in pictures if picture.key not in done}
    drawn: list[tuple[Picture, Finished]] = []
    with tqdm(total=len(missing), desc="pictures", disable=None) as bar:
        for number, (job, event) in enumerate(draw(engine, missing), start=1):
            picture = missing[job]
            if not isinstance(event, Finished):
                raise ValueError(f"{janus.name} cannot draw {picture.prompt.caption!r}, seed {picture.seed}: {event}")
            drawn.append((picture, event))
            if len(drawn) < judge.at_once and number < len(missing):
                continue
            rows = []
            judgements = judge.judge([one.picture for _, one in drawn], [one.prompt.caption for one, _ in drawn])
            for (one, finished), judgement in zip(drawn, judgements, strict=True):
                codes = pack_codes(finished.codes)
                done[one.key] = result = Result(None if judgement is None else judgement.score, codes)
                factors = {} if judgement is None else {k: round(v, 4) for k, v in judgement.factors.items()}
                key = dict(zip(("prompt", "guidance_scale", "seed"), one.key, strict=True))
                rows.append(key | asdict(result) | {"factors": factors})
            lines.append(rows)
            bar.update(len(drawn))
            drawn = []
    return done


def _job(picture: Picture, janus: Janus) -> Job:
    params = janus.sampling.override(guidance_scale=picture.guidance_scale)
    return Job(janus.encode(picture.prompt.caption), None, (picture.seed,), params)


def read_results(file: Path) -> tuple[dict[str, Any], dict[Key, Result]]:
    """Read a results file: its first line, which identifies the checkpoint, and its results by key.

    Raises:
        ValueError: it is not a results file.
    """
    identity, rows = read_json_lines(file)
    return identity, _results(file, rows)


def _results(file: Path, rows: Sequence[Mapping[str, Any]]) -> dict[Key, Result]:
    try:
        return {(row["prompt"], row["guidance_scale"], row["seed"]): Result(row["score"], row["codes"]) for row in rows}
    except (KeyError, TypeError):
        raise ValueError(f"{file} is not a results file of this version") from None


def table(prompts: Sequence[UnseenPrompt], results: Mapping[Key, Result], scales: Sequence[float], seeds: range) -> str:
    """Table of mean scores by category, for held-out and other prompts, and overall; one column per scale."""

    def cell(chosen: Sequence[UnseenPrompt], scale: float) -> Mean:
        # pictures of one prompt are correlated, so the standard error is over prompts
        return mean(mean(results[(prompt.caption, scale, seed)].score for seed in seeds).value for prompt in chosen)

    def gain(scale: float) -> Mean:
        # paired by prompt: its pictures at two scales share their noise and are correlated
        return mean(cell([prompt], scale).value - cell([prompt], scales[0]).value for prompt in prompts)

    def different(scale: float) -> int:
        """Number of prompts whose pictures all differ from each other in at least one code."""
        return sum(
            len({results[(prompt.caption, scale, seed)].codes for seed in seeds}) == len(seeds) for prompt in prompts
        )

    rows: list[tuple[str, Sequence[UnseenPrompt]]] = [
        (c, [prompt for prompt in prompts if prompt.category == c]) for c in CATEGORIES
    ]
    rows.append(("held-out combinations", [prompt for prompt in prompts if prompt.held_out]))
    rows.append(("other unseen scenes", [prompt for prompt in prompts if not prompt.held_out]))
    rows.append(("overall", prompts))
    lines = [f"{'judge mean ± s.e.':24s}" + "".join(f"  guidance {scale:<6g}" for scale in scales)]
    for name, chosen in rows:
        if chosen:
            lines.append(f"{name:24s}" + "".join(f"  {cell(chosen, scale)!s:15s}" for scale in scales))
    if len(scales) > 1:
        lines.append(
            f"{f'gain over guidance {scales[0]:g}':24s}" + "".join(f"  {gain(scale)!s:15s}" for scale in scales)
        )
    worst = {scale: min(cell(chosen, scale).value for _, chosen in rows[: len(CATEGORIES)]) for scale in scales}
    lines.append(f"{'worst category':24s}" + "".join(f"  {worst[scale]:<15.3f}" for scale in scales))
    counts = "".join(f"  {f'{different(scale)} of {len(prompts)}':15s}" for scale in scales)
    lines.append(f"{f'all {len(seeds)} pictures differ':24s}{counts}")
    return "\n".join(lines)
