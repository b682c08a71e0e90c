"""Judge pictures while others are drawn."""

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from tqdm import tqdm

from bench.judging.judgements import Judgements
from bench.pictures.picture import Picture
from bench.pictures.run_folder import open_picture
from pairs.judges.opening import OpenedJudge


class Judging:
    """Judges picture files on a thread of its own; leaving the `with` block waits until all are judged.

    Args:
        judge: scores the pictures.
        judgements: where scores are kept, and which pictures have one.
        images: folder of the pictures.
        total: pictures of the run.

    Raises:
        RunError: a picture cannot be read, when the block is left.
    """

    def __init__(self, judge: OpenedJudge, judgements: Judgements, images: Path, *, total: int) -> None:
        self._judge, self._judgements, self._images = judge, judgements, images
        self._queue: SimpleQueue[Picture | None] = SimpleQueue()
        self._error: Exception | None = None
        self._stopped = False
        self._bar = tqdm(total=total, initial=len(judgements.scores), desc="judged", position=1, disable=None)
        self._thread = threading.Thread(target=self._run, name="judge")

    def put(self, picture: Picture) -> None:
        """Judge a picture whose file is complete; from any thread."""
        self._queue.put(picture)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = error is not None
        self._queue.put(None)
        self._thread.join()
        self._bar.close()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        _lower_priority()
        waiting: list[Picture] = []
        while (picture := self._queue.get()) is not None:
            waiting.append(picture)
            if len(waiting) >= self._judge.at_once or self._queue.empty():
                self._score(waiting)
                waiting = []
        self._score(waiting)

    def _score(self, pictures: Sequence[Picture]) -> None:
        if not pictures or self._stopped:
            return
        try:
            images = [open_picture(self._images / picture.file)[0] for picture in pictures]
            found = self._judge.judge(images, [picture.prompt for picture in pictures])
            known = {picture.file: one.score for picture, one in zip(pictures, found, strict=True) if one is not None}
            self._judgements.add(known)
            self._bar.update(len(known))
        except Exception as error:  # raised when the block is left
            self._error, self._stopped = error, True


def _lower_priority() -> None:
    """Let the threads that draw go first.

    Each operation of the engine ends with the slowest of its threads, so a judge that takes half a core from one slows all.
    """
    if sys.platform == "linux":  # elsewhere, this would be the whole process's priority
        os.nice(10)
