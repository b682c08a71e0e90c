"""Cores for the judge and the writers of pictures, beside the engine."""

import os


def let_threads_sleep() -> None:
    """Let the engine's threads sleep while they wait for each other; before torch is imported.

    They then leave cores to the writers, and to other programs.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def leave_a_core() -> None:
    """Draw with one thread fewer, if there are several, for a judge that computes on this machine, too.

    Each operation of the engine ends with the slowest of its threads: a judge that takes a part of one core slows all. On
    two cores, 480 pictures of the tiny model were drawn and judged in 36 seconds with one thread, and 38 with two.
    """
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
