"""Score files in the format of PairComp's authors, which their summary script reads.

{"0": [{"pair_idx": 0, "prompt_idx": 0, "image_idx": 0, "score": 0.93}, … four in all], "1": …}
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from bench.benchmarks.benchmark import BenchmarkError
from bench.benchmarks.paircomp import picture_file, places
from pairs.files import write_atomically
from pairs.paircomp import Case


class _Row(BaseModel):
    pair_idx: int
    prompt_idx: int
    image_idx: int
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


_CONTENT = TypeAdapter(dict[str, list[_Row]])


def write_scores(file: Path, cases: Sequence[Case], scores: Mapping[str, float]) -> None:
    """Write the scores of all complete cases: one that lacks a score would be averaged over fewer pictures.

    Args:
        file: JSON.
        cases: of the benchmark.
        scores: by picture file.
    """
    content = {}
    for case in cases:
        own = [(place, scores.get(picture_file(case.number, *place))) for place in places()]
        if all(score is not None for _, score in own):
            content[str(case.number)] = [
                {"pair_idx": case.number, "prompt_idx": prompt, "image_idx": image, "score": score}
                for (prompt, image), score in own
            ]
    text = json.dumps(content, indent=4)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda partial: partial.write_text(text))


def read_scores(file: Path, cases: Sequence[Case]) -> dict[int, tuple[float, ...]]:
    """Scores of the cases that a file has, each in the order of `places`.

    Raises:
        BenchmarkError: it is no score file, or has other cases or pictures; the message names the case.
    """
    try:
        content = _CONTENT.validate_json(file.read_bytes())
    except OSError as error:
        raise BenchmarkError(f"{file}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise BenchmarkError(f"{file}: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}") from None
    numbers = {str(case.number) for case in cases}
    found = {}
    for key, rows in content.items():
        if key not in numbers:
            raise BenchmarkError(f"{file}: case {key!r} is none of the benchmark's {len(cases)}")
        own = {(row.prompt_idx, row.image_idx): row.score for row in rows if row.pair_idx == int(key)}
        if len(rows) != len(own) or sorted(own) != sorted(places()):
            raise BenchmarkError(f"{file}: case {key} must have one score for each of its four pictures")
        found[int(key)] = tuple(own[place] for place in places())
    return found
