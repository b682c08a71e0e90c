"""Pictures of every arm that were labelled by eye: does a picture that the judge accepts show what its prompt says?

pictures.png  pictures, ten in a row, in an order that does not tell their arms
labels.json   for each: arm, seed, prompt, the judge's score, and whether the picture shows its prompt: null, until
              somebody has looked
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.checkpoints.load import load
from pairs.contact_sheet import contact_sheet
from pairs.files import write_atomically
from pairs.miniature import miniature_cases
from serve.engine.engine import Engine
from train.ablation.ablation import Ablation
from train.ablation.run import PRIMARY, SETTINGS
from train.ablation.scores import pictures_of, score_cases
from train.recipe import RecipeError

_ACCEPTED = 0.5  # least score of a picture that the judge accepts
_IN_A_ROW = 10


@dataclass(frozen=True)
class Label:
    """One picture, and whether it shows its prompt; None if nobody has looked."""

    arm: str
    seed: int
    prompt: str
    score: float
    shown: bool | None

    @property
    def accepted(self) -> bool:
        """Whether the judge says that the picture shows its prompt."""
        return self.score >= _ACCEPTED


def draw_pictures(ablation: Ablation, seed: int, count: int, folder: Path) -> None:
    """Draw pictures of random test cases by every arm, to be labelled.

    Args:
        ablation: its runs with this seed are trained.
        seed: of the runs.
        count: pictures of each arm.
        folder: gets both files.

    Raises:
        RecipeError: the trained weights of an arm are not among the ablation's runs.
    """
    rng = np.random.default_rng(seed)
    every = miniature_cases("test")
    drawn: list[tuple[Label, Image.Image]] = []
    for arm in ablation.arms:
        cases = [every[number] for number in rng.choice(len(every), count, replace=False)]
        engine = Engine(load(ablation.checkpoint(arm, seed), device="cpu"), slots=2 * count)
        scores = score_cases(engine, cases, SETTINGS[PRIMARY], seeds=(0,))
        for number, which in enumerate(rng.integers(2, size=count)):
            score = round(float(scores.own[number, which, 0]), 4)
            label = Label(arm, seed, cases[number].prompts[which], score, None)
            drawn.append((label, pictures_of(engine, scores, number)[which]))
    drawn = [drawn[number] for number in rng.permutation(len(drawn))]
    pictures = [picture for _, picture in drawn]
    rows = [pictures[first : first + _IN_A_ROW] for first in range(0, len(pictures), _IN_A_ROW)]
    sheet = contact_sheet(rows, side=pictures[0].width, gap=0)
    lines = ",\n".join(json.dumps(asdict(label)) for label, _ in drawn)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "pictures.png", lambda partial: sheet.save(partial, format="PNG"))
    write_atomically(folder / "labels.json", lambda partial: partial.write_text(f"[\n{lines}\n]\n"))


def read_labels(folder: Path) -> list[Label]:
    """Labels of a folder.

    Raises:
        RecipeError: they cannot be read, or a picture has no label yet.
    """
    file = folder / "labels.json"
    try:
        labels = [Label(**one) for one in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(f"{file} has no readable labels: {error}") from None
    for number, label in enumerate(labels):
        if not isinstance(label.shown, bool):
            place = f"row {number // _IN_A_ROW + 1}, column {number % _IN_A_ROW + 1} of pictures.png"
            raise RecipeError(f'{file}: "shown" of {label.prompt!r} ({place}) must be true or false')
    return labels


def label_lines(labels: Sequence[Label]) -> Iterator[str]:
    """A Markdown table of how many pictures of each arm the judge accepts and people do, and the differences."""
    yield "| arm | pictures | accepted by the judge | of these shown | refused by the judge | of these shown |"
    yield "|---|---|---|---|---|---|"
    for arm in sorted({label.arm for label in labels}):
        yield _row(arm, [label for label in labels if label.arm == arm])
    yield _row("all", labels)
    differing = [label for label in labels if label.accepted != label.shown]
    if differing:
        yield ""
    for label in differing:
        said = "shown" if label.shown else "not shown"
        yield f"- {label.arm}, {label.prompt!r}: judged {label.score:.2f}, but {said}"


def _row(name: str, labels: Sequence[Label]) -> str:
    cells = [str(len(labels))]
    for accepted in (True, False):
        own = [label for label in labels if label.accepted == accepted]
        cells += [str(len(own)), str(sum(bool(label.shown) for label in own))]
    return f"| {name} | {' | '.join(cells)} |"
