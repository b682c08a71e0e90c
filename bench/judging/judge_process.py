"""The exact judge in a process of its own.

It computes in Python. On a thread it would hold the interpreter's lock for milliseconds, several times in each step of the
engine.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from PIL import Image

from pairs.judges.errors import JudgeError
from pairs.judges.judge import Judge, Judgement
from pairs.judges.opening import OpenedJudge
from serve.child_process import ChildProcess, ProcessEnded


@dataclass(frozen=True, eq=False)
class _Pictures:
    """Pictures, and the prompt of each."""

    images: Sequence[Image.Image]
    prompts: Sequence[str]


class JudgeProcess:
    """A judge (`pairs.judges.judge.Judge`) that another process calls, one call after the other.

    Args:
        judge: can be pickled.
    """

    def __init__(self, judge: Judge) -> None:
        self._process = ChildProcess(_run, name="judge")
        self._process.send(judge)

    def __call__(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Judgement | None]:
        """Judge like the judge itself.

        Raises:
            JudgeError: the process has ended.
            Exception: what the judge raised.
        """
        self._process.send(_Pictures(images, prompts))
        try:
            answer = self._process.receive()
        except ProcessEnded as error:
            raise JudgeError(f"the judge's process ended {error}") from None
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, list)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.close()


@contextmanager
def judged_apart(judge: OpenedJudge) -> Iterator[OpenedJudge]:
    """The judge for a `with` block: the exact one in a process of its own, others as they are.

    Those wait for a server, or compute outside of Python.
    """
    if judge.identity["judge"] != "exact":
        yield judge
        return
    process = JudgeProcess(judge.judge)
    try:
        yield replace(judge, judge=process)
    finally:
        process.close()


def _run(connection: "Connection[object, object]") -> None:
    """Everything the process does: receive a judge, then answer calls until the other end is gone."""
    with suppress(EOFError, OSError):
        judge: Judge = connection.recv()  # type: ignore[assignment]
        while True:
            pictures = connection.recv()
            assert isinstance(pictures, _Pictures)
            try:
                connection.send(judge(pictures.images, pictures.prompts))
            except Exception as error:
                connection.send(error)
