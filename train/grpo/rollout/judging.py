"""Rewards: pictures are judged in a thread while others are drawn."""

from concurrent.futures import Executor, Future
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from pairs.judges.judge import Judge, Judgement


class Judging:
    """Rewards of the pictures of one step.

    Args:
        judge: called in the thread.
        thread: judges the pictures of several steps in the order in which they were submitted.
        reward: the judge's score, or the mean of its factors where it gives any.
        at_once: pictures per call.
    """

    def __init__(self, judge: Judge, thread: Executor, *, reward: Literal["score", "factors"], at_once: int) -> None:
        self._judge, self._thread, self._reward, self._at_once = judge, thread, reward, at_once
        self._waiting: list[tuple[int, Image.Image, str]] = []
        self._calls: list[tuple[list[int], Future[list[Judgement | None]]]] = []

    def submit(self, place: int, picture: Image.Image, prompt: str) -> None:
        """Judge a picture; its reward will be at `place`."""
        self._waiting.append((place, picture, prompt))
        if len(self._waiting) == self._at_once:
            self.flush()

    def flush(self) -> None:
        """Judge what was submitted, without waiting for more."""
        if self._waiting:
            places, pictures, prompts = map(list, zip(*self._waiting, strict=True))
            self._calls.append((places, self._thread.submit(self._judge, pictures, prompts)))
            self._waiting = []

    def rewards(self, count: int) -> Tensor:
        """Wait for all judgements: rewards float32 [count], NaN where a judgement failed."""
        self.flush()
        rewards = torch.full((count,), torch.nan)
        for places, call in self._calls:
            for place, judgement in zip(places, call.result(), strict=True):
                if judgement is not None:
                    rewards[place] = reward_of(judgement, self._reward)
        return rewards

    def close(self) -> None:
        """Judge no more: what has not begun is dropped."""
        for _, call in self._calls:
            call.cancel()


def reward_of(judgement: Judgement, reward: Literal["score", "factors"]) -> float:
    """Reward in [0, 1] of a judgement; a judge without factors is rewarded by its score."""
    if reward == "score" or not judgement.factors:
        return judgement.score
    return sum(judgement.factors.values()) / len(judgement.factors)
