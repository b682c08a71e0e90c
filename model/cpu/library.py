"""Load the C functions for the CPU.

An installed wheel brings libraries that were built ahead (`model/cpu/build.py`) and takes the fastest that this
processor can run. A checkout compiles one for this very processor at first use and keeps it in the user's cache
directory. With neither, PyTorch's operations compute the same.
"""

import ctypes
import logging
import os
import platform
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from torch import Tensor  # importing torch also loads its OpenMP runtime, which the libraries need

from model.cpu.build import find_compiler
from model.cpu.compilation import compile_library, fingerprint
from model.cpu.levels import levels_of

logger = logging.getLogger("focusdiff")

_BUILT = Path(__file__).with_name("built")
_CPUINFO = Path("/proc/cpuinfo")


def addresses(tensors: Sequence[Tensor]) -> list[ctypes.c_void_p]:
    """Data pointers of contiguous tensors, which the caller must keep alive."""
    assert all(tensor.is_contiguous() for tensor in tensors)
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def pointers(names: str) -> list[tuple[str, type[ctypes.c_void_p]]]:
    """Pointer fields of a C structure, from space-separated names."""
    return [(name, ctypes.c_void_p) for name in names.split()]


def numbers(names: str) -> list[tuple[str, type[ctypes.c_int64]]]:
    """int64 fields of a C structure, from space-separated names."""
    return [(name, ctypes.c_int64) for name in names.split()]


@lru_cache(maxsize=1)
def native_library() -> ctypes.CDLL | None:
    """Load the C functions, compiling them first if none were built ahead; None if that fails here, too."""
    for find in (_built_ahead, _compiled_here) if platform.system() == "Linux" else ():
        try:
            file = find()
            if file is not None:
                return open_library(file)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            logger.info("cannot compile or load the C functions: %s", error)
    logger.info("the C functions need Linux and a C compiler: using PyTorch's operations instead")
    return None


def open_library(file: Path) -> ctypes.CDLL:
    """Load a library and declare its functions; raises OSError if it cannot be loaded."""
    library = ctypes.CDLL(str(file))
    library.request_tiles.restype = None
    library.request_tiles.argtypes = library.integers_together.argtypes = []
    library.integers_together.restype = ctypes.c_int64
    library.step_scratch.restype = library.sample_scratch.restype = library.draw.restype = ctypes.c_int64
    library.step_scratch.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3]
    library.sample_scratch.argtypes = [ctypes.c_int64]
    library.step.restype = None
    library.step.argtypes = [
        *[ctypes.c_void_p] * 3,
        ctypes.c_int64,
        *[ctypes.c_void_p] * 3,
        ctypes.c_int64,
        *[ctypes.c_void_p] * 3,
        ctypes.c_int64,
    ]
    library.draw.argtypes = [*[ctypes.c_void_p] * 3, ctypes.c_int64]
    library.feed.restype = library.confirm.restype = None
    library.feed.argtypes = library.confirm.argtypes = [ctypes.c_void_p]
    library.convolve_scratch.restype = ctypes.c_int64
    library.convolve_scratch.argtypes = [ctypes.c_int64] * 4
    library.convolve.restype = None
    library.convolve.argtypes = [*[ctypes.c_void_p] * 4, ctypes.c_int64]
    library.request_tiles()
    return library


def _built_ahead() -> Path | None:
    """The fastest library in the package that this processor can run, if there is one."""
    levels = levels_of(platform.machine(), _CPUINFO.read_text())
    files = (_BUILT / f"{level.name}.so" for level in levels)
    return next((file for file in files if file.exists()), None)


def _compiled_here() -> Path | None:
    """Library compiled for this processor, now or earlier; None without a C compiler."""
    compiler = find_compiler()
    if compiler is None:
        return None
    file = _cache_folder() / f"native-{fingerprint(compiler, _CPUINFO.read_text())}.so"
    if not file.exists():
        compile_library(compiler, file, options=("-march=native",))
    return file


def _cache_folder() -> Path:
    """Per-user cache directory, not writable by others."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "focusdiff"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
