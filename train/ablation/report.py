"""The report of an ablation: tables in Markdown, from the results that are there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pairs.caption import parse
from pairs.miniature import miniature_cases
from pairs.scene import CATEGORIES
from pairs.world import World
from train.ablation.results import Result
from train.ablation.run import PRIMARY, SETTINGS
from train.ablation.statistics import Difference, difference, holm
from train.ablation.study import Study
from train.tiny.recipe import load_recipe

_LEVEL = 0.05


@dataclass(frozen=True)
class Contrast:
    """Two arms compared by s_g of the primary settings, on the categories that were trained.

    arithmetic: gain of s_a.
    adjusted: p-value after Holm's procedure for the family.
    """

    family: str
    after: str
    before: str
    gain: Difference
    arithmetic: Difference
    adjusted: float

    @property
    def verdict(self) -> str:
        """`after` is "better" or "worse" than `before`, or the difference is "not resolved"."""
        if self.adjusted >= _LEVEL:
            return "not resolved"
        return "better" if self.gain.value > 0 else "worse"


class Report:
    """Tables of an ablation.

    Args:
        study: its arms and contrasts.
        results: of each arm, in order of the seeds.
    """

    def __init__(self, study: Study, results: Mapping[str, Sequence[Result]]) -> None:
        self._study = study
        self._results = {arm: results[arm] for arm in study.arms if results.get(arm)}
        cases = miniature_cases("test")
        world = World(load_recipe("tiny").held_out)
        self._by_case = np.array([case.category for case in cases])
        self._trained = self._by_case != study.left_out
        self._held_out = np.array([world.is_held_out(parse(case.prompts[0]).scene) for case in cases])

    def contrasts(self) -> list[Contrast]:
        """The declared contrasts of which both arms have at least two seeds in common."""
        found: list[Contrast] = []
        for family, pairs in self._study.contrasts.items():
            gains = {pair: gain for pair in pairs if (gain := self.gains(*pair)) is not None}
            adjusted = holm({" ".join(pair): gain.p_value for pair, (gain, _) in gains.items()})
            found += [Contrast(family, *pair, *both, adjusted[" ".join(pair)]) for pair, both in gains.items()]
        return found

    def gains(self, after: str, before: str) -> tuple[Difference, Difference] | None:
        """Gains of s_g and s_a over the seeds that both arms have, if these are at least two; the start has every seed."""
        runs = {arm: {one.seed: one for one in self._results.get(arm, ())} for arm in (after, before)}
        for arm in (after, before):
            if self._study.arms[arm].method == "none" and runs[arm]:
                (only,) = runs[arm].values()
                runs[arm] = dict.fromkeys(self._study.seeds, only)
        seeds = sorted(runs[after].keys() & runs[before].keys())
        if len(seeds) < 2:
            return None

        def gain(measure: Callable[[Result], NDArray[np.float64]]) -> Difference:
            both = (np.stack([measure(runs[arm][seed])[self._trained] for seed in seeds]) for arm in (after, before))
            return difference(*both)

        return gain(lambda one: one.s_g(PRIMARY)), gain(lambda one: one.s_a(PRIMARY))

    def lines(self) -> Iterator[str]:
        """Markdown."""
        yield from _table(
            ["arm", "", "seeds", "s_g", "s_a", "s_a − s_g", "noticed", *(f"s_g, {name}" for name in self._settings)],
            [self._scores(arm) for arm in self._results],
        )
        yield ""
        yield from _table(
            ["s_g", *CATEGORIES],
            [[arm, *self._by_category(results)] for arm, results in self._results.items()],
        )
        yield ""
        yield from _table(
            [
                "arm",
                "held-out combinations",
                "diversity",
                "KL from the start",
                "with / without prompt",
            ],
            [self._side_effects(arm) for arm in self._results],
        )
        yield ""
        yield from _table(
            ["arm", "rate factor", "core-minutes", "updates", "rollouts", "ground truth", "judge calls"],
            [self._cost(arm) for arm in self._results],
        )
        yield ""
        yield from _table(
            ["contrast", "gain of s_g", "95 %", "p", "Holm", "smallest detectable", "", "gain of s_a"],
            [_contrast_row(one) for one in self.contrasts()],
        )

    @property
    def _settings(self) -> list[str]:
        return [name for name in (*SETTINGS, "served") if name != PRIMARY]

    def _by_category(self, results: Sequence[Result]) -> list[str]:
        chosen = [self._by_case == category for category in CATEGORIES]
        return [_spread([float(one.s_g(PRIMARY)[mask].mean()) for one in results]) for mask in chosen]

    def _scores(self, arm: str) -> list[str]:
        results, trained = self._results[arm], self._trained

        def cell(measure: Callable[[Result], NDArray[np.float64]]) -> str:
            return _spread([float(measure(one)[trained].mean()) for one in results])

        return [
            arm,
            self._study.arms[arm].about,
            str(len(results)),
            cell(lambda one: one.s_g(PRIMARY)),
            cell(lambda one: one.s_a(PRIMARY)),
            cell(lambda one: one.s_a(PRIMARY) - one.s_g(PRIMARY)),
            cell(lambda one: one.scores[PRIMARY][1].astype(float)),
            *(cell(lambda one, name=name: one.s_g(name)) for name in self._settings),  # type: ignore[misc]
        ]

    def _side_effects(self, arm: str) -> list[str]:
        results = self._results[arm]
        held_out = self._held_out & self._trained
        return [
            arm,
            _spread([float(one.s_g(PRIMARY)[held_out].mean()) for one in results]),
            _spread([one.diversity[PRIMARY] for one in results]),
            _spread([one.drift for one in results]),
            f"{np.mean([one.given_prompt for one in results]):.3f} / {np.mean([one.unconditional for one in results]):.3f}",
        ]

    def _cost(self, arm: str) -> list[str]:
        costs = [one.cost for one in self._results[arm]]
        counts = ("updates", "rollouts", "pictures", "judge_calls")
        means = [np.mean([getattr(cost, name) for cost in costs]) for name in counts]
        minutes = np.mean([cost.core_minutes for cost in costs])
        return [arm, f"{self._results[arm][0].factor:g}", f"{minutes:.1f}", *(f"{mean:.0f}" for mean in means)]


def _contrast_row(one: Contrast) -> list[str]:
    low, high = one.gain.interval
    return [
        f"{one.after} − {one.before}",
        f"{one.gain.value:+.3f}",
        f"{low:+.3f} to {high:+.3f}",
        f"{one.gain.p_value:.3g}",
        f"{one.adjusted:.3g}",
        f"{one.gain.smallest_detectable:.3f}",
        one.verdict,
        f"{one.arithmetic.value:+.3f} ± {one.arithmetic.standard_error:.3f}",
    ]


def _spread(values: Sequence[float]) -> str:
    """Mean over seeds, and their standard deviation if there are several."""
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
