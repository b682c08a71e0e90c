"""Memory that operations take, counted on tensors that have none."""

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_BEFORE = "before"  # kind of what an operation finds


@dataclass
class _Storage:
    """A storage that is alive, whatever holds it."""

    alive: weakref.ref[torch.UntypedStorage]
    kind: str
    size: int = 0


class Ledger(TorchDispatchMode):
    """Bytes of the fake tensors that operations make while it is entered, those of autograd included.

    A tensor counts from the operation that makes it until nothing holds its storage. Views share the storage of what
    they are views of; what was there before does not count.

    held: bytes by kind that are held now.
    peak: bytes by kind at the moment when most were held.

    Args:
        kind: of a tensor; a storage has the kind of the first tensor that uses it.
    """

    def __init__(self, kind: Callable[[Tensor], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._kind = kind
        self._storages: dict[int, _Storage] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, FakeTensor):
                self._add(tensor, _BEFORE)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, FakeTensor):
                self._add(tensor, self._kind(tensor))
        return result

    def __enter__(self) -> "Ledger":
        self._resize = resize = torch.UntypedStorage.resize_

        def resized(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
            resize(storage, size)  # FSDP frees gathered weights so, without an operation
            self._resized(storage._cdata, size)
            return storage

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign,assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]

    def _add(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            self._storages[key] = _Storage(weakref.ref(storage, partial(self._freed, key)), kind)
            self._resized(key, storage.nbytes())

    def _resized(self, key: int, size: int) -> None:
        found = self._storages.get(key)
        if found is not None and found.kind != _BEFORE:
            self.held[found.kind] += size - found.size
            found.size = size
            if self.held.total() > self.peak.total():
                self.peak = self.held.copy()

    def _freed(self, key: int, _: object) -> None:
        found = self._storages.pop(key)
        self.held[found.kind] -= found.size
