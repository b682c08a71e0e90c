"""Compile and load the C functions for the CPU.

Needs a C compiler on the machine; without one, PyTorch's operations compute the same. The library is compiled once
for each kind of processor and kept in the user's cache directory.
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

from torch import Tensor

logger = logging.getLogger("focusdiff")

# each file's additional flags: sampler.c must round as PyTorch's operations do, so that codes are equal
_SOURCES = {"step.c": (), "sampler.c": ("-ffp-contract=off",), "pixels.c": ()}
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math")


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
    """Load the C functions, compiling them first if necessary; None if they cannot be compiled or loaded here."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or platform.system() != "Linux":
        logger.info("the C functions need Linux and a C compiler: using PyTorch's operations instead")
        return None
    try:
        file = _cache_folder() / f"native-{_fingerprint(compiler)}.so"
        if not file.exists():
            _compile(compiler, file)
        library = ctypes.CDLL(str(file))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        logger.info("cannot compile or load the C functions (%s): using PyTorch's operations instead", error)
        return None
    library.step_scratch.restype = library.sample_scratch.restype = library.sample.restype = ctypes.c_int64
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
    library.sample.argtypes = [*[ctypes.c_void_p] * 3, ctypes.c_int64]
    library.convolve_scratch.restype = ctypes.c_int64
    library.convolve_scratch.argtypes = [ctypes.c_int64] * 4
    library.convolve.restype = None
    library.convolve.argtypes = [*[ctypes.c_void_p] * 4, ctypes.c_int64]
    return library


def _cache_folder() -> Path:
    """Per-user cache directory, not writable by others."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "focusdiff"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _fingerprint(compiler: str) -> str:
    """Hash of everything the library depends on: sources, flags, compiler version and CPU features."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=20).stdout
    abilities = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))
    ]
    headers = [header.read_bytes() for header in sorted(Path(__file__).parent.glob("*.h"))]
    parts = [" ".join(_FLAGS).encode(), version, "".join(abilities[:1]).encode(), *headers]
    for name, flags in _SOURCES.items():
        parts += [Path(__file__).with_name(name).read_bytes(), " ".join(flags).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _compile(compiler: str, file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        partial = Path(folder) / file.name
        objects = [partial.with_name(name).with_suffix(".o") for name in _SOURCES]
        commands = [
            [compiler, *_FLAGS, *flags, "-c", str(Path(__file__).with_name(name)), "-o", str(compiled)]
            for (name, flags), compiled in zip(_SOURCES.items(), objects, strict=True)
        ]
        commands.append([compiler, *_FLAGS, "-shared", *map(str, objects), "-o", str(partial), "-lm"])
        for command in commands:
            subprocess.run(command, capture_output=True, check=True, timeout=120)
        partial.replace(file)
