"""Judge pictures while others are drawn."""

import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from tqdm import tqdm

from bench.judging.judgements import Judgements, Score
from bench.pictures.picture import Picture
from bench.pictures.picture_file import PictureFile
from pairs.judges.opening import OpenedJudge

logger = logging.getLogger("focusdiff")


class Judging:
    """Judges picture files on a thread of its own; leaving the `with` block waits until all are judged.

    Args:
        judge: scores the pictures.
        judgements: where scores are kept, and which pictures have one.
        images: folder of the pictures.
        total: pictures of the run.

    Raises:
        RunError: a picture cannot be read; this and all other errors are logged at once, and raised when the block is
            left, so that pictures are drawn to the end.
        JudgementError: the first 100 scores of a vision-language model are equal; likewise.
    """

    def __init__(self, judge: OpenedJudge, judgements: Judgements, images: Path, *, total: int) -> None:
        self._judge, self._judgements, self._images = judge, judgements, images
        self._queue: SimpleQueue[Picture | None] = SimpleQueue()
        self._error: Exception | None = None
        self._stopped = False
        self._ended = threading.Event()  # Thread.join takes a thread for dead once Ctrl-C has interrupted it
        self._bar = tqdm(total=total, desc="judged", position=1, disable=None)
        self._thread = threading.Thread(target=self._run, name="judge")

    def put(self, picture: Picture) -> None:
        """Judge a picture whose file is complete, unless it has a score; from any thread."""
        self._queue.put(picture)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        try:
            if error is None:
                self._ended.wait()
        finally:
            if not self._ended.is_set():  # drawing has failed, or Ctrl-C ended the wait
                self._stopped = True
                self._judge.stop()
                self._queue.put(None)
            self._thread.join()
            self._bar.close()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        _lower_priority()
        try:
            self._judge_all()
        except Exception as error:  # raised when the block is left
            logger.error("nothing more is judged: %s", error)
            self._error = error
        finally:
            self._ended.set()

    def _judge_all(self) -> None:
        waiting: list[tuple[Picture, PictureFile]] = []
        while (picture := self._queue.get()) is not None and not self._stopped:
            file = PictureFile(self._images / picture.file)
            if self._judgements.recall(picture.file, file.sha256):
                self._bar.update()
            else:
                waiting.append((picture, file))
            if len(waiting) >= self._judge.at_once or self._queue.empty():
                self._score(waiting)
                waiting = []
        self._score(waiting)

    def _score(self, waiting: Sequence[tuple[Picture, PictureFile]]) -> None:
        if not waiting or self._stopped:
            return
        found = self._judge.judge([file.picture() for _, file in waiting], [picture.prompt for picture, _ in waiting])
        scores = [
            Score(file=picture.file, sha256=file.sha256, score=one.score)
            for (picture, file), one in zip(waiting, found, strict=True)
            if one is not None
        ]
        self._judgements.add(scores)
        self._bar.update(len(scores))
        if self._judge.identity["judge"] != "exact":  # whose scores of a weak model are often 0
            self._judgements.check()


def _lower_priority() -> None:
    """Let the threads that draw go first."""
    if sys.platform == "linux":  # elsewhere, this would be the whole process's priority
        os.nice(10)
