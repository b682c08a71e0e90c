"""Provenance of measured numbers: commit, command, machine, device, dtype."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch


def provenance(*, device: object, dtype: object) -> dict[str, str | int]:
    """Commit, command and machine of a measured result; `commit` ends in "-dirty" if files differ from it."""
    return {
        "commit": _commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *_without_keys(sys.argv[1:])]),
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "machine": platform.machine(),
        "processor": _processor(device),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _processor(device: object) -> str:
    """Model name of the GPU, or of the processor if it draws itself; "unknown" where the system does not tell."""
    if str(device).startswith("cuda"):
        return torch.cuda.get_device_name(str(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")


def _without_keys(arguments: Sequence[str]) -> list[str]:
    """Arguments with the values of --…-key hidden: provenance is published."""
    hidden = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, equals, _ = argument.partition("=")
        if before.startswith("--") and before.endswith("-key"):
            hidden.append("…")
        else:
            hidden.append(f"{name}=…" if equals and name.startswith("--") and name.endswith("-key") else argument)
    return hidden


def _commit() -> str:
    """Commit of the repository that holds this file; "unknown" outside one."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
