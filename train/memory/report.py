"""The report of `--plan`."""

import argparse
import sys
from collections.abc import Callable

import torch

from model.checkpoints.hub import find_folder
from model.device import choose_dtype
from train.errors import TrainingError
from train.memory.plan import MemoryPlan, short
from train.memory.weightless import WeightlessJanus
from train.ranks import ALONE, Ranks

Planning = Callable[[WeightlessJanus, Ranks, torch.device], MemoryPlan]


def report(arguments: argparse.Namespace, plan: Planning) -> None:
    """Print the memory of the run that a command line describes; exit with code 1 if it is more than a GPU has.

    Args:
        arguments: of `focusdiff-train grpo` or `sft`.
        plan: computes the memory from the model, the processes and the device.

    Raises:
        ValueError: the run cannot be planned, or cannot take place; the message names the argument or field.
    """
    if arguments.device.partition(":")[0] not in ("auto", "cuda"):
        raise ValueError(f"--plan computes the memory of GPUs: --device must be auto or cuda, not {arguments.device}")
    if arguments.gpu_memory <= 0:
        raise ValueError(f"--gpu-memory must be above 0, not {arguments.gpu_memory:g}")
    device, ranks = torch.device("cuda"), planned_ranks(arguments.parallel, arguments.processes)
    name, folder = find_folder(arguments.model, arguments.revision, weights=False)
    dtype = choose_dtype(arguments.dtype, device, torch.bfloat16)
    janus = WeightlessJanus.of(name, folder, dtype, prompt_tokens=arguments.prompt_tokens)
    processes = f"{ranks.kind} in {ranks.count} processes" if ranks.kind != "none" else "one process"
    prompts = f"prompts of up to {janus.prompt_tokens} tokens"
    found = plan(janus, ranks, device)
    print(f"{name} in {short(dtype)}, recipe {arguments.recipe}, {processes}, {prompts}")
    for line in found.lines(arguments.gpu_memory):
        print(line)
    if not found.fits(arguments.gpu_memory):
        sys.exit(1)


def planned_ranks(kind: str, processes: int | None) -> Ranks:
    """The first of the processes that are asked for; torchrun need not have started them.

    Raises:
        TrainingError: their number is missing, or does not suit their kind.
    """
    if kind == "none":
        if processes not in (None, 1):
            raise TrainingError(f"{processes} processes need --parallel ddp or --parallel fsdp")
        return ALONE
    if processes is None or processes < 1:
        raise TrainingError(f"--plan needs the number of processes with --parallel {kind}: --processes 8")
    return Ranks("ddp" if kind == "ddp" else "fsdp", 0, processes)
