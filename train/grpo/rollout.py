"""Draw and judge the samples of a plan with the serving engine."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from model.params import SamplingParams
from pairs.judge import Judge
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished, Preview
from serve.engine.job import Job
from train.data.codes import CodeCache
from train.data.pairs import PairSource
from train.errors import TrainingError
from train.grpo.judging import Judging
from train.grpo.plan import PairPlan
from train.grpo.recipe import GRPORecipe
from train.grpo.samples import Places, Samples


class Rollout:
    """Draws samples with the present weights of an engine.

    Finished pictures are judged while others are drawn. Ground truth is judged as the picture that its codes decode
    to, so that codes, picture and reward belong together.

    Args:
        engine: made with `logprobs`.
        source: pairs of the plans.
        codes: of the ground-truth pictures.
        judge: called in a thread of its own.
        recipe: sampling settings and the reward.
    """

    def __init__(self, engine: Engine, source: PairSource, codes: CodeCache, judge: Judge, recipe: GRPORecipe) -> None:
        self._engine, self._source, self._codes, self._judge = engine, source, codes, judge
        self._params: SamplingParams = recipe.rollout.params
        self._reward = recipe.judge.reward

    def __call__(self, plans: Sequence[PairPlan], *, on_step: Callable[[int], object] = lambda codes: None) -> Samples:
        """Draw and judge all samples of the plans.

        Args:
            plans: one for each pair.
            on_step: see `serve.engine.draw.draw`.

        Raises:
            TrainingError: a picture cannot be drawn, since a logit is not finite.
        """
        places = Places.of(plans)
        count = len(places.pair)
        janus = self._engine.janus
        codes = torch.zeros(count, janus.image_tokens, dtype=torch.int64)
        logprobs = torch.zeros(count, janus.image_tokens, dtype=torch.float32)
        judging = Judging(self._judge, reward=self._reward)
        try:
            jobs: dict[Job, int] = {}  # place of each job's first sample
            start = 0
            for pair in plans:
                for prompt, seeds in zip(pair.prompts, pair.seeds, strict=True):
                    if seeds:
                        jobs[Job(janus.encode(prompt), None, seeds, self._params)] = start
                    start += len(seeds)
                truth = range(start, start + len(pair.ground_truth))
                start = truth.stop
                if truth:
                    own = torch.stack([self._codes.codes(picture) for picture in self._source.pictures(pair.index)])
                    codes[truth.start : truth.stop] = own[[entry.picture for entry in pair.ground_truth]]
            for place in (~places.is_rollout).nonzero()[:, 0].tolist():
                picture = Image.fromarray(self._engine.image_tokenizer.images(codes[place : place + 1])[0].numpy())
                judging.submit(place, picture, plans[int(places.pair[place])].prompts[int(places.prompt[place])])
            prompts = dict(zip(jobs, _prompts(plans), strict=True))
            for job, event in draw(self._engine, jobs, on_step=on_step):
                if isinstance(event, Preview):
                    continue
                if not isinstance(event, Finished):
                    raise TrainingError(f"{prompts[job]!r} cannot be drawn: {event.reason}")
                place = jobs[job] + event.index
                codes[place] = torch.tensor(event.codes)
                logprobs[place] = torch.tensor(event.logprobs)
                judging.submit(place, event.picture, prompts[job])
            return Samples(tuple(plans), codes, logprobs, judging.rewards(count))
        finally:
            judging.close()


def _prompts(plans: Sequence[PairPlan]) -> list[str]:
    """Prompt of each job: those with at least one rollout."""
    return [prompt for pair in plans for prompt, seeds in zip(pair.prompts, pair.seeds, strict=True) if seeds]
