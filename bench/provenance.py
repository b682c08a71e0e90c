"""What a printed number must carry: commit, command, machine, device, dtype."""

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch


def provenance(*, device: object, dtype: object) -> dict[str, str | int]:
    """Where and how a result came about; `commit` ends in "-dirty" where files differ from it."""
    return {
        "commit": _commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _commit() -> str:
    """Of the repository this file is in; "unknown" outside one."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
