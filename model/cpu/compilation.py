"""Compile the C functions to a shared library. Imports no torch, so that builds of the package can use it."""

import hashlib
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_FOLDER = Path(__file__).parent
# each file's additional flags: loops of step.c are so short that they take up to 10 % longer where the alignment is left to
# chance; sampler.c must round as PyTorch's operations do, so that codes are equal
_SOURCES = {"step.c": ("-falign-loops=64",), "sampler.c": ("-ffp-contract=off",), "pixels.c": ()}
_FLAGS = ("-O3", "-fopenmp", "-fPIC", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math")


def compile_library(compiler: str, file: Path, *, options: Sequence[str]) -> None:
    """Compile the C functions to `file`, which appears complete or not at all.

    Args:
        compiler: path of the C compiler.
        file: the library, in a folder that exists.
        options: the compiler's, for the processor: `-march=native`, or those of a level (`model.cpu.levels`).

    Raises:
        subprocess.SubprocessError: the compiler failed or took too long.
    """
    flags = (*_FLAGS, *options)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        partial = Path(folder) / file.name
        objects = [partial.with_name(name).with_suffix(".o") for name in _SOURCES]
        commands = [
            [compiler, *flags, *more, "-c", str(_FOLDER / name), "-o", str(compiled)]
            for (name, more), compiled in zip(_SOURCES.items(), objects, strict=True)
        ]
        commands.append([compiler, *flags, "-shared", *map(str, objects), "-o", str(partial), "-lm"])
        for command in commands:
            subprocess.run(command, capture_output=True, check=True, timeout=120)
        partial.replace(file)


def architecture_of(compiler: str) -> str:
    """Machine type that a compiler compiles for, as `uname -m` prints it: x86_64, aarch64, …"""
    target = subprocess.run([compiler, "-dumpmachine"], capture_output=True, check=True, text=True, timeout=20).stdout
    return target.partition("-")[0].strip()


def fingerprint(compiler: str, cpuinfo: str) -> str:
    """Hash of everything that a library for this processor depends on: sources, flags, compiler, CPU features."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=20).stdout
    abilities = [line for line in cpuinfo.splitlines() if line.startswith(("flags", "Features"))]
    headers = [header.read_bytes() for header in sorted(_FOLDER.glob("*.h"))]
    parts = [" ".join(_FLAGS).encode(), version, "".join(abilities[:1]).encode(), *headers]
    for name, flags in _SOURCES.items():
        parts += [(_FOLDER / name).read_bytes(), " ".join(flags).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
