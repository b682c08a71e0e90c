"""How well a checkpoint follows unseen prompts of the procedural world, by category and guidance.

    prompts → generate → judge → results.jsonl → table

Every judged picture is one line of the results file, so a run that was stopped goes on.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from model.generate import generate
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from pairs.caption import Wording, describe
from pairs.exact_judge import ExactJudge
from pairs.files import write_atomically
from pairs.scene import CATEGORIES, Category, Scene
from pairs.scores import Mean, mean
from pairs.world import World

_STREAM = 20_250_605  # of random numbers; training draws from another


@dataclass(frozen=True)
class Case:
    """One test prompt; `held_out` says whether it contains a combination kept out of training."""

    index: int
    category: Category
    scene: Scene
    caption: str
    held_out: bool


Key = tuple[str, float, int]  # prompt, guidance scale, seed


@dataclass(frozen=True)
class Picture:
    """One picture to make and judge."""

    case: Case
    guidance_scale: float
    seed: int

    @property
    def key(self) -> Key:
        """What tells it from the others in the results file."""
        return self.case.caption, self.guidance_scale, self.seed


@dataclass(frozen=True)
class Result:
    """A picture's score (None where its prompt cannot be judged) and a digest of its codes."""

    score: float | None
    digest: str


def unseen_cases(world: World, per_category: int) -> list[Case]:
    """Unseen prompts, the same for every checkpoint: scenes of the test split, 40 % held-out combinations."""
    cases: list[Case] = []
    captions: set[str] = set()
    for number, category in enumerate(CATEGORIES):
        rng = np.random.default_rng([_STREAM, number])
        before = len(cases)
        while len(cases) < before + per_category:
            held_out = (len(cases) - before) % 5 < 2
            scene = world.sample_held_out(rng, category) if held_out else world.sample(rng, category, "test")
            caption = describe(scene, Wording.draw(rng, category))
            if caption not in captions:
                captions.add(caption)
                cases.append(Case(len(cases), category, scene, caption, world.is_held_out(scene)))
    return cases


def judge_pictures(janus: Janus, pictures: Sequence[Picture], results: Path, *, batch: int) -> dict[Key, Result]:
    """Results of the pictures by key; those already in `results` are not made again.

    Raises:
        ValueError: the file belongs to another checkpoint.
    """
    done = _resume(results, {"model": janus.name, "weights": fingerprint(janus), "sampling": janus.recipe.as_dict()})
    judge, image_tokenizer = ExactJudge(), ImageTokenizer(janus)
    missing = [picture for picture in pictures if picture.key not in done]
    with open(results, "a") as file, tqdm(total=len(missing), desc="pictures", disable=None) as bar:
        for part in _batches(missing, batch):
            codes = _codes(janus, part)
            images = [Image.fromarray(image) for image in image_tokenizer.images(codes).numpy()]
            judgements = judge(images, [picture.case.caption for picture in part])
            for picture, judgement, row in zip(part, judgements, codes, strict=True):
                score = None if judgement is None else judgement.score
                done[picture.key] = result = Result(score, sha256(row.numpy().tobytes()).hexdigest()[:16])
                factors = {} if judgement is None else {k: round(v, 4) for k, v in judgement.factors.items()}
                place = dict(zip(("prompt", "guidance_scale", "seed"), picture.key, strict=True))
                file.write(json.dumps(place | asdict(result) | {"factors": factors}) + "\n")
            file.flush()
            bar.update(len(part))
    return done


def _resume(results: Path, identity: Mapping[str, Any]) -> dict[Key, Result]:
    """What a results file holds already; a new one, or one that was killed, is made ready to be added to."""
    lines = results.read_text().split("\n") if results.exists() else [""]
    whole = lines[:-1]  # what a kill cut short stands after the last line's end
    if not whole:
        whole = [json.dumps(identity)]
    elif whole[0] != json.dumps(identity):
        raise ValueError(f"{results} belongs to another checkpoint or recipe; choose another --out")
    results.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(results, lambda partial: partial.write_text("".join(line + "\n" for line in whole)))
    rows = [json.loads(line) for line in whole[1:]]
    return {(row["prompt"], row["guidance_scale"], row["seed"]): Result(row["score"], row["digest"]) for row in rows}


def _batches(pictures: Sequence[Picture], size: int) -> Iterator[Sequence[Picture]]:
    """Runs of one guidance scale, prompts of like length together."""
    for scale in sorted({picture.guidance_scale for picture in pictures}):
        group = sorted(
            (p for p in pictures if p.guidance_scale == scale), key=lambda p: (len(p.case.caption.split()), p.key)
        )
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _codes(janus: Janus, pictures: Sequence[Picture]) -> Tensor:
    """Codes of pictures that share a guidance scale: [N, tokens]."""
    return generate(
        janus,
        [picture.case.caption for picture in pictures],
        seeds=[picture.seed for picture in pictures],
        guidance_scale=pictures[0].guidance_scale,
    ).cpu()


def fingerprint(janus: Janus) -> float:
    """A number that changes with the weights."""
    return float(sum(parameter.double().abs().sum() for parameter in janus.network.parameters()))


def table(cases: Sequence[Case], results: Mapping[Key, Result], scales: Sequence[float], seeds: range) -> str:
    """Mean score per category, of held-out and other prompts, and overall; a column for each guidance scale."""

    def cell(chosen: Sequence[Case], scale: float) -> Mean:
        # a prompt's pictures are alike: the standard error is over prompts, not over pictures
        return mean(mean(results[(case.caption, scale, seed)].score for seed in seeds).value for case in chosen)

    def gain(scale: float) -> Mean:
        # by prompt: its pictures at two scales have the same noise, and much else in common
        return mean(cell([case], scale).value - cell([case], scales[0]).value for case in cases)

    def different(scale: float) -> int:
        """Prompts whose pictures differ from each other in at least one code."""
        return sum(len({results[(case.caption, scale, seed)].digest for seed in seeds}) == len(seeds) for case in cases)

    rows: list[tuple[str, Sequence[Case]]] = [(c, [case for case in cases if case.category == c]) for c in CATEGORIES]
    rows.append(("held-out combinations", [case for case in cases if case.held_out]))
    rows.append(("other unseen scenes", [case for case in cases if not case.held_out]))
    rows.append(("overall", cases))
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
    counts = "".join(f"  {f'{different(scale)} of {len(cases)}':15s}" for scale in scales)
    lines.append(f"{f'all {len(seeds)} pictures differ':24s}{counts}")
    return "\n".join(lines)
