"""From a model's source to a backend that draws it, if there is memory for it."""

import gc
from collections.abc import Callable
from dataclasses import replace

import torch

from model.checkpoint import choose_device, load
from model.errors import CheckpointError, NoRoom
from model.footprint import Footprint, available_bytes, measure
from serve.backend import LocalBackend
from serve.config import ModelSource, Settings

_GIB = 2**30


class LocalLoader:
    """Loads models into this process; called from one thread at a time.

    Args:
        settings: device, dtype, slots, queue and memory.
        on_death: called once an engine has failed.
    """

    def __init__(self, settings: Settings, *, on_death: Callable[[], None]) -> None:
        self._settings = settings
        self._on_death = on_death
        self._taken: dict[int, int] = {}  # bytes by the identity of a backend that is open

    def __call__(self, source: ModelSource) -> LocalBackend:
        """A backend for a model.

        Raises:
            NoRoom: it needs more memory than there is.
            CheckpointError: it cannot be loaded, or has no tokenizer.
        """
        settings = self._settings
        device = choose_device(settings.device)
        needs = measure(source.source, dtype=settings.dtype, device=device, revision=source.revision)
        if settings.int8:  # while they are made the floats are still there
            needs = replace(needs, weights=needs.weights * 5 // 4)
        self._check(source, needs, device)
        janus = load(
            source.source,
            device=settings.device,
            dtype=settings.dtype,  # type: ignore[arg-type]  # checked by load
            tokenizer=source.tokenizer,
            overlay=source.weights,
            revision=source.revision,
        )
        if janus.tokenizer is None:
            raise CheckpointError(f"{source.name} has no tokenizer; name one with --tokenizer")
        backend = LocalBackend(
            replace(janus, name=source.name),
            images=settings.slots,
            queue_limit=settings.queue,
            int8=settings.int8,
            on_death=self._on_death,
            on_close=lambda: self._taken.pop(id(backend), None),
        )
        self._taken[id(backend)] = backend.held_bytes
        return backend

    def _check(self, source: ModelSource, needs: Footprint, device: torch.device) -> None:
        """Refuse a model that would not fit beside those that are there."""
        wanted = needs.total(self._settings.slots)
        room = self._room(device)
        if wanted > room:
            gc.collect()  # what was unloaded may still wait to be freed
            if device.type == "cuda":
                torch.cuda.empty_cache()
            room = self._room(device)
        if wanted > room:
            raise NoRoom(
                f"{source.name} needs {wanted / _GIB:.2f} GiB ({needs.weights / _GIB:.2f} of weights and "
                f"{needs.per_image / _GIB:.3f} for each of {self._settings.slots} images), and there are "
                f"{max(0, room) / _GIB:.2f} left: give fewer --slots or unload another model"
            )

    def _room(self, device: torch.device) -> int:
        room = available_bytes(device)
        if self._settings.memory_gib is not None:
            room = min(room, int(self._settings.memory_gib * _GIB) - sum(self._taken.values()))
        return room
