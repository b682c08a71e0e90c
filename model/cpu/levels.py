"""Levels of processors that the C functions are built ahead for, and which of them a processor has."""

from typing import NamedTuple


class Level(NamedTuple):
    """A set of instructions that a library may use.

    Attributes:
        name: the library's file name without suffix.
        architecture: machine type, as `uname -m` prints it.
        flags: words that /proc/cpuinfo has for a processor of this level.
        options: the compiler's, which allow it these instructions.
    """

    name: str
    architecture: str
    flags: frozenset[str]
    options: tuple[str, ...]


# Levels of the x86-64 psABI, section 3.1.1, in Linux' words: pni is SSE3, abm has LZCNT, xsave shows OSXSAVE.
_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
_V4_VNNI = _V4 | {"avx512_vnni"}
# VNNI multiplies and adds integers in one instruction; AVX2 and AVX-512 each have their own. AMX multiplies tiles of them.
LEVELS = (
    Level(
        "x86-64-v4-amx",
        "x86_64",
        _V4_VNNI | {"amx_tile", "amx_int8"},
        ("-march=x86-64-v4", "-mavx512vnni", "-mamx-tile", "-mamx-int8"),
    ),
    Level("x86-64-v4-vnni", "x86_64", _V4_VNNI, ("-march=x86-64-v4", "-mavx512vnni")),
    Level("x86-64-v4", "x86_64", _V4, ("-march=x86-64-v4",)),
    Level("x86-64-v3-vnni", "x86_64", _V3 | {"avx_vnni"}, ("-march=x86-64-v3", "-mavxvnni")),
    Level("x86-64-v3", "x86_64", _V3, ("-march=x86-64-v3",)),
    Level("x86-64-v2", "x86_64", _V2, ("-march=x86-64-v2",)),
    Level("armv8-a", "aarch64", frozenset({"fp", "asimd"}), ("-march=armv8-a",)),
)


def levels_of(architecture: str, cpuinfo: str) -> list[Level]:
    """Levels that a processor has, the fastest first.

    Args:
        architecture: machine type, as `uname -m` prints it.
        cpuinfo: text of /proc/cpuinfo.
    """
    lines = [line.partition(":")[2] for line in cpuinfo.splitlines() if line.startswith(("flags", "Features"))]
    flags = set(lines[0].split()) if lines else set()
    return [level for level in LEVELS if level.architecture == architecture and level.flags <= flags]
