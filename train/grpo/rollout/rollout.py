"""Draw and judge the samples of a plan with the serving engine."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import torch
from PIL import Image
from torch import Tensor

from model.params import SamplingParams
from pairs.judges.judge import Judge
from pairs.judges.settings import AT_ONCE
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Failed, Finished
from serve.engine.job import Job
from train.data.codes import CodeCache
from train.data.pairs import PairSource
from train.errors import TrainingError
from train.grpo.recipe import GRPORecipe
from train.grpo.rollout.judging import Judging
from train.grpo.rollout.plan import PairPlan
from train.grpo.rollout.samples import Places, Samples


@dataclass(frozen=True)
class Drawn:
    """Samples that are drawn, and whose judgements are under way; fields as of `Samples`."""

    plans: tuple[PairPlan, ...]
    codes: Tensor
    rollout_logprobs: Tensor
    judging: Judging

    def samples(self) -> Samples:
        """The samples, once all judgements are there; raises what the judge raised."""
        try:
            rewards = self.judging.rewards(len(self.codes))
        finally:
            self.judging.close()
        return Samples(self.plans, self.codes, self.rollout_logprobs, rewards)

    def close(self) -> None:
        """Judge no more."""
        self.judging.close()


class Rollout:
    """Draws samples with the present weights of an engine.

    Finished pictures are judged while others are drawn. Ground truth is judged as the picture that its codes decode
    to, so that codes, picture and reward belong together.

    Args:
        engine: made with `logprobs`.
        source: pairs of the plans.
        codes: of the ground-truth pictures.
        judge: called in a thread of its own, until `close`.
        recipe: sampling settings and the reward.
        judged_at_once: pictures per call of the judge.
    """

    def __init__(
        self,
        engine: Engine,
        source: PairSource,
        codes: CodeCache,
        judge: Judge,
        recipe: GRPORecipe,
        *,
        judged_at_once: int = AT_ONCE,
    ) -> None:
        self._engine, self._source, self._codes, self._judge = engine, source, codes, judge
        self._params: SamplingParams = recipe.rollout.params
        self._reward, self._judged_at_once = recipe.judge.reward, judged_at_once
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="judge")

    def close(self) -> None:
        """End the judge's thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def begin(self, plans: Sequence[PairPlan]) -> Drawn:
        """Draw all samples of the plans, one plan for each pair; some may not be judged yet.

        Raises:
            TrainingError: a picture cannot be drawn, since a logit is not finite.
        """
        places, janus = Places.of(plans), self._engine.janus
        count = len(places.pair)
        codes = torch.zeros(count, janus.image_tokens, dtype=torch.int64)
        logprobs = torch.zeros(count, janus.image_tokens, dtype=torch.float32)
        prompts = [plans[pair].prompts[own] for pair, own in zip(places.pair, places.prompt, strict=True)]
        judging = Judging(self._judge, self._thread, reward=self._reward, at_once=self._judged_at_once)
        try:
            for place in (~places.is_rollout).nonzero()[:, 0].tolist():
                pair = plans[int(places.pair[place])]
                codes[place] = self._codes.codes(self._source.pictures(pair.index)[int(places.picture[place])])
                (pixels,) = self._engine.image_tokenizer.images(codes[place : place + 1]).cpu().numpy()
                judging.submit(place, Image.fromarray(pixels), prompts[place])
            jobs: dict[Job, list[int]] = {}  # places of each job's pictures
            groups, rollouts = places.groups("prompt").tolist(), places.is_rollout.nonzero()[:, 0].tolist()
            for _, members in groupby(rollouts, key=groups.__getitem__):
                own = list(members)
                seeds = tuple(places.seed[own].tolist())
                jobs[Job(janus.encode(prompts[own[0]]), None, seeds, self._params)] = own
            for job, event in draw(self._engine, jobs):
                if isinstance(event, Failed):
                    raise TrainingError(f"{prompts[jobs[job][0]]!r} cannot be drawn: {event.reason}")
                assert isinstance(event, Finished)
                place = jobs[job][event.index]
                codes[place], logprobs[place] = torch.tensor(event.codes), torch.tensor(event.logprobs)
                judging.submit(place, event.picture, prompts[place])
            judging.flush()
            return Drawn(tuple(plans), codes, logprobs, judging)
        except BaseException:
            judging.close()
            raise
