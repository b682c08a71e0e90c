"""The server's judge, in a thread of its own. Imports no torch."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pairs.judges.opening import OpenedJudge
from serve.engine.events import Finished
from serve.http.errors import Unavailable

T = TypeVar("T")


class ServedJudge:
    """Judges for one request at a time, since the engines need the CPU cores as well.

    Args:
        opened: the judge.
    """

    def __init__(self, opened: OpenedJudge) -> None:
        self._opened = opened
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="judge")

    async def run(self, call: Callable[[OpenedJudge], T]) -> T:
        """Call a function with the judge in its thread. If cancelled while it waits for its turn, it is not called."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, self._opened)

    async def rank(self, pictures: Sequence[Finished], prompt: str) -> list[tuple[Finished, float | None]]:
        """Order pictures of one prompt by their scores.

        Returns:
            Pictures and scores in [0, 1], best first, equal ones in the given order; those that could not be
            judged last, with None.

        Raises:
            Unavailable: no picture could be judged.
        """
        images = [picture.picture for picture in pictures]
        judgements = await self.run(lambda opened: opened.judge(images, [prompt] * len(images)))
        scores = [None if judgement is None else judgement.score for judgement in judgements]
        if all(score is None for score in scores):
            raise Unavailable(f"{self._opened.name} could judge none of the {len(images)} pictures; try again later")
        ranked = zip(pictures, scores, strict=True)
        return sorted(ranked, key=lambda entry: -1.0 if entry[1] is None else entry[1], reverse=True)
