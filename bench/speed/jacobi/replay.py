"""Windows of a model with random weights add as many codes as those of a trained model did.

A random model's own guesses are nearly always wrong.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from bench.speed.jacobi.recording import Additions, Recording
from model.attention import Rows
from model.kv_cache import KVCache
from serve.engine.engine import Engine

_CERTAIN = 1e4  # added to a code's logit; noise is below 25


class Replay:
    """A decoder's step whose logits make as many guesses right as in a recording.

    The step, the sampler and the choice of widths are the engine's own. How many codes a window adds is drawn from the
    recorded windows of the same width that began at the same height of the picture.

    Args:
        engine: draws guided images only.
        recorded: of another model, of any grid.
        prompt_tokens: of all conditional prompts.
    """

    def __init__(self, engine: Engine, recorded: Recording, *, prompt_tokens: int) -> None:
        self._step, self._prompt_tokens = engine.decoder.step, prompt_tokens
        self._additions = Additions(recorded, engine.janus.image_tokens)

    def __call__(self, codes: Tensor, rows: Rows, cache: KVCache) -> Tensor:
        """Compute like `Decoder.step`."""
        if not rows.windowed:
            return self._step(codes, rows, cache)
        # NumPy's operations: a step empties the caches, and each of PyTorch's would then take a tenth of a millisecond
        fed, index, positions = (one.numpy()[: rows.count].tolist() for one in (codes, rows.index, rows.positions))
        logits = self._step(codes, rows, cache)
        numbers = logits.numpy()
        for start, stop in _runs(index):
            if index[start] % 2 == 0 and stop - start > 1:  # the conditional row
                added = self._additions.draw(stop - start, positions[start] + 1 - self._prompt_tokens)
                for place in range(start, min(start + added, stop - 1)):
                    numbers[place, fed[place + 1]] += _CERTAIN if place + 1 < start + added else -_CERTAIN
        return logits


@contextmanager
def replaying(engine: Engine, recorded: Recording, *, prompt_tokens: int) -> Iterator[None]:
    """Let an engine's decoder be a `Replay` inside the context."""
    engine.decoder.step = Replay(engine, recorded, prompt_tokens=prompt_tokens)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del engine.decoder.step


def _runs(index: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Starts and stops of equal neighbours."""
    start = 0
    for stop in range(1, len(index) + 1):
        if stop == len(index) or index[stop] != index[start]:
            yield start, stop
            start = stop
