"""Pictures of a checkpoint, by the engine of this process."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from bench.pictures.errors import GenerationError
from bench.pictures.generator import Drawings, Drawn
from bench.pictures.picture import Part
from model.checkpoints.fingerprint import fingerprint
from model.errors import PromptError
from model.janus import Janus
from model.quantization import Quantization
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Failed, Finished
from serve.engine.job import Job
from train.provenance import provenance


class EngineGenerator:
    """Draws with a checkpoint's own sampling settings.

    Args:
        janus: the checkpoint.
        slots: guided pictures drawn at once.
        quantization: see `serve.engine.engine.Engine`.
    """

    def __init__(self, janus: Janus, *, slots: int, quantization: Quantization | None = None) -> None:
        self._janus, self._slots, self._quantization = janus, slots, quantization
        self._weights = fingerprint(janus)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Model, digest of its weights, how they are rounded, sampling settings, and the judge of its training."""
        judge = self._janus.reward_judge
        return {
            "generator": "checkpoint",
            "model": self._janus.name,
            "weights": self._weights,
            "quantization": self._quantization,
            "sampling": self._janus.sampling.as_dict(),
            **({} if judge is None else {"reward judge": dict(judge)}),
        }

    @property
    def provenance(self) -> Mapping[str, Any]:
        return provenance(device=self._janus.device, dtype=self._janus.dtype)

    def draw(self, parts: Sequence[Part]) -> Drawings:
        """Draw each part (`bench.pictures.generator.Generator`); neighbours with one prompt share its prefill."""
        jobs: dict[Job, list[Part]] = {}
        for prompt, group in groupby(parts, key=lambda part: part.prompt):
            own = list(group)
            try:
                tokens = self._janus.encode(prompt)
            except PromptError as error:
                raise GenerationError(f"{own[0].picture.file}: {error}") from None
            jobs[Job(tokens, None, tuple(part.seed for part in own), self._janus.sampling)] = own
        engine = Engine(self._janus, slots=max(1, min(self._slots, len(parts))), quantization=self._quantization)
        for job, event in draw(engine, jobs):
            part = jobs[job][event.index]
            if isinstance(event, Failed):
                raise GenerationError(f"{part.picture.file} cannot be drawn: {event.reason}")
            assert isinstance(event, Finished)
            yield Drawn(part, event.picture, event.codes)
