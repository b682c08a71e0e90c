"""A page of a run of PairComp that opens offline: one file, pictures included.

Cases are ordered by s_g, the worst first; the judge, the category and the overlay of differing codes are chosen there.
With a second run, both runs' pictures of a case are side by side, ordered by what it lost.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from bench.benchmarks.paircomp import IMAGES, picture_file
from bench.pictures.codes import unpack_codes
from bench.pictures.picture_file import PictureFile
from bench.report.paircomp_run import PairCompRun, differences
from bench.report.paircomp_scores import measures_of
from bench.report.published import SOURCE, has_published_categories, published
from pairs.difference import CodeDifference
from pairs.files import write_atomically
from pairs.paircomp import Case
from pairs.words import marked

_SIDE = 192  # most pixels of a picture on the page, across and down
_QUALITY = 85


@dataclass(frozen=True)
class Shown:
    """A run's pictures of a case, as data URLs, and its scores by judge."""

    pictures: tuple[tuple[str, ...], ...]  # of each prompt
    overlays: tuple[str, ...]  # of each image, over either prompt's picture; "" without codes
    scores: Mapping[str, Sequence[float]]

    @property
    def s_g(self) -> Mapping[str, float]:
        """By judge."""
        return {judge: measures_of(scores)["s_g"] for judge, scores in self.scores.items()}


def write_page(file: Path, run: PairCompRun, other: PairCompRun | None = None) -> None:
    """Write the page.

    Args:
        file: HTML.
        run: whose failures are shown.
        other: run to compare with, of the same cases.

    Raises:
        RunError: the runs have different cases, or a picture is missing or damaged.
    """
    minus = {} if other is None else differences(run, other)
    environment = Environment(loader=PackageLoader("bench.report"), autoescape=True, undefined=StrictUndefined)
    stream = environment.get_template("page.html").stream(
        run=run,
        other=other,
        cases=({"case": case, "marked": marked(*case.prompts), **_shown(case, run, other)} for case in run.cases),
        categories=list(dict.fromkeys(case.category for case in run.cases)),
        differences=minus,
        published=published() if has_published_categories({case.category for case in run.cases}) else {},
        source=SOURCE,
    )
    stream.enable_buffering(50)
    write_atomically(file, lambda partial: stream.dump(str(partial), encoding="utf-8"))


def _shown(case: Case, run: PairCompRun, other: PairCompRun | None) -> dict[str, Any]:
    return {"shown": _case(case, run), "compared": None if other is None else _case(case, other)}


def _case(case: Case, run: PairCompRun) -> Shown:
    files = [
        [PictureFile(run.images / picture_file(case.number, prompt, image)) for image in range(IMAGES)]
        for prompt in (0, 1)
    ]
    codes = [[file.metadata.get("codes", [None])[0] for file in row] for row in files]
    return Shown(
        tuple(tuple(_url(file.picture()) for file in row) for row in files),
        tuple(_overlay(first, second) for first, second in zip(*codes, strict=True)),
        {judge.name: judge.scores[case.number] for judge in run.judges if case.number in judge.scores},
    )


def _url(picture: Image.Image) -> str:
    small = max(picture.size) <= _SIDE
    if not small:
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return _data_url(picture, lossless=small)


def _overlay(first: str | None, second: str | None) -> str:
    if first is None or second is None:
        return ""
    return _data_url(CodeDifference.of(*(unpack_codes(one).tolist() for one in (first, second))).overlay(_SIDE))


def _data_url(picture: Image.Image, *, lossless: bool = True) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", lossless=lossless, quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
