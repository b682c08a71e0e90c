"""The decode step as one C function, where the machine has a compiler.

PyTorch's operations are made for many rows. For the few rows of a step most of its time goes into
calls and into threads that meet and part. `cpu_step.c` computes the same in one go (docs/performance.md);
it is compiled once for each processor and kept among the user's cached files.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.attention import Rows
from model.kv_cache import KVCache

if TYPE_CHECKING:
    from model.decoder import DecoderWeights

logger = logging.getLogger("focusdiff")

_SOURCE = Path(__file__).with_suffix(".c")
_FLAGS = (
    "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math",
)  # fmt: skip


def _pointers(names: str) -> list[tuple[str, type[ctypes.c_void_p]]]:
    return [(name, ctypes.c_void_p) for name in names.split()]


def _numbers(names: str) -> list[tuple[str, type[ctypes.c_int64]]]:
    return [(name, ctypes.c_int64) for name in names.split()]


class _Layer(ctypes.Structure):
    _fields_ = _pointers("attention_norm qkv out mlp_norm gate_up down")


class _Model(ctypes.Structure):
    _fields_ = [
        *_pointers("layers inputs norm head_in head_in_bias head_out head_out_bias turns"),
        *_numbers("layer_count hidden heads kv_heads head_dim intermediate head_hidden vocabulary positions"),
        ("epsilon", ctypes.c_float),
    ]


class _Cache(ctypes.Structure):
    _fields_ = [*_pointers("keys values"), *_numbers("rows length")]


class CpuStep:
    """The step over fixed weights.

    Args:
        weights: float32 on the CPU, each contiguous; they may change in place, not move.
        turns: cosines and signed sines [2, positions, head_dim], float32.
        heads: of the queries.
        kv_heads: of keys and values.
        epsilon: of the norms.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        weights: "DecoderWeights",
        turns: Tensor,
        *,
        heads: int,
        kv_heads: int,
        epsilon: float,
    ) -> None:
        self._library = library
        self._held = (weights, turns)  # C knows addresses only
        self._layers = (_Layer * len(weights.layers))(
            *(_Layer(*_addresses([getattr(one, name) for name, _ in _Layer._fields_])) for one in weights.layers)
        )
        named = [weights.inputs, weights.norm, weights.head_in, weights.head_in_bias, weights.head_out]
        self._model = _Model(
            ctypes.cast(self._layers, ctypes.c_void_p),
            *_addresses([*named, weights.head_out_bias, turns]),
            len(weights.layers),
            weights.inputs.shape[1],
            heads,
            kv_heads,
            turns.shape[-1],
            weights.layers[0].down.shape[1],
            weights.head_in.shape[0],
            weights.head_out.shape[0],
            turns.shape[1],
            epsilon,
        )

    def __call__(self, codes: Tensor, rows: Rows, cache: KVCache) -> Tensor:
        """See `Decoder.step`; every row has at least one token in the cache."""
        count, threads = len(codes), torch.get_num_threads()
        logits = torch.empty(count, self._model.vocabulary)
        length = cache.length
        scratch = torch.empty(self._library.scratch_size(ctypes.byref(self._model), count, length, threads))
        where = _Cache(*_addresses([cache.keys, cache.values]), cache.rows, length)
        self._library.step(
            ctypes.byref(self._model),
            ctypes.byref(where),
            count,
            *_addresses([codes, rows.index, rows.positions, logits, scratch]),
            threads,
        )
        return logits


def _addresses(tensors: Sequence[Tensor]) -> list[ctypes.c_void_p]:
    assert all(tensor.is_contiguous() for tensor in tensors)
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


@lru_cache(maxsize=1)
def compiled_library() -> ctypes.CDLL | None:
    """The C function, compiled if it has not been for this processor; None where that cannot be done."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or platform.system() != "Linux":
        logger.info("no C compiler: a step is made of PyTorch's operations")
        return None
    try:
        file = _cache_folder() / f"cpu_step-{_fingerprint(compiler)}.so"
        if not file.exists():
            _compile(compiler, file)
        library = ctypes.CDLL(str(file))
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("the C step cannot be compiled (%s): a step is made of PyTorch's operations", error)
        return None
    library.scratch_size.restype = ctypes.c_int64
    library.scratch_size.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3]
    library.step.restype = None
    library.step.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 5, ctypes.c_int64]
    return library


def _cache_folder() -> Path:
    """The user's own; nobody else may put a library there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "focusdiff"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _fingerprint(compiler: str) -> str:
    """Of everything that the library depends on: source, flags, compiler, and what the processor can do."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=20).stdout
    abilities = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))
    ]
    parts = (_SOURCE.read_bytes(), " ".join(_FLAGS).encode(), version, "".join(abilities[:1]).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _compile(compiler: str, file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        partial = Path(folder) / file.name
        command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(partial), "-lm"]
        subprocess.run(command, capture_output=True, check=True, timeout=120)
        partial.replace(file)
