"""GenEval's score from results, computed as the official summary does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.detection.errors import GenEvalError
from bench.detection.metadata import TAGS
from bench.detection.results import Result


@dataclass(frozen=True)
class Share:
    """`correct` of `count` pictures or prompts."""

    correct: int
    count: int

    @property
    def value(self) -> float:
        """The share, from 0 to 1."""
        return self.correct / self.count

    def __str__(self) -> str:
        return f"{self.value:.2%} ({self.correct} of {self.count})"


@dataclass(frozen=True)
class Summary:
    """Scores of a results file.

    Args:
        tags: pictures that are correct, by tag.
        images: pictures that are correct.
        prompts: prompts with at least one correct picture; prompts of equal metadata are one.
        scorer: what judged all of them; None for official results.
    """

    tags: Mapping[str, Share]
    images: Share
    prompts: Share
    scorer: Mapping[str, Any] | None

    @property
    def score(self) -> float:
        """GenEval's score: the unweighted mean over the tags that occur."""
        return float(np.mean([share.value for share in self.tags.values()]))

    @property
    def missing_tags(self) -> tuple[str, ...]:
        """Tags without a picture: a score without them is not comparable with published ones."""
        return tuple(tag for tag in TAGS if tag not in self.tags)

    def __str__(self) -> str:
        lines = [f"{tag:15s} {share}" for tag, share in self.tags.items()]
        lines += [f"{'pictures':15s} {self.images}", f"{'prompts':15s} {self.prompts}"]
        lines.append(f"{'GenEval':15s} {self.score:.5f}")
        if self.missing_tags:
            lines.append(f"no picture of: {', '.join(self.missing_tags)}")
        scorer = self.scorer or {"scorer": "not named in the results"}
        return "\n".join([*lines, *(f"{name}: {value}" for name, value in scorer.items())])


def summarise(results: Sequence[Result]) -> Summary:
    """Summarise results, ours or of the official evaluation; tags in order of appearance.

    Raises:
        GenEvalError: there is no result, or several scorers made them.
    """
    if not results:
        raise GenEvalError("no results to summarise")
    scorer = results[0].scorer
    if any(result.scorer != scorer for result in results):
        raise GenEvalError("results of several scorers cannot be summarised together")
    tags: dict[str, list[bool]] = {}
    prompts: dict[str, bool] = {}
    for result in results:
        tags.setdefault(result.tag, []).append(result.correct)
        prompts[result.metadata] = prompts.get(result.metadata, False) or result.correct
    return Summary(
        tags={tag: Share(sum(correct), len(correct)) for tag, correct in tags.items()},
        images=Share(sum(result.correct for result in results), len(results)),
        prompts=Share(sum(prompts.values()), len(prompts)),
        scorer=scorer,
    )
