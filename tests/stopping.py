"""Stop supervised fine-tuning before a step, as a kill would."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from train.sft.batches import Batch, Batches


class Killed(BaseException):
    """Simulates a kill: no code under test catches a BaseException."""


@contextmanager
def stopping_at(stop_at: int | None) -> Iterator[None]:
    """Context in which the batch of a step raises `Killed`; None stops nothing."""
    batch = Batches.__getitem__

    def stopping(self: Batches, step: int) -> Batch:
        if step == stop_at:
            raise Killed
        return batch(self, step)

    with patch.object(Batches, "__getitem__", stopping):
        yield
