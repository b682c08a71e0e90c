"""The processes of a run, and what they tell each other."""

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from train.errors import TrainingError

Kind = Literal["none", "ddp", "fsdp"]
T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    kind: "none" for a single process, "ddp" if each has all weights, "fsdp" if each has a part of them.
    rank: number of this process.
    count: number of processes.
    """

    kind: Kind = "none"
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of a sequence; the shares of all, in order of rank, are the sequence."""
        bounds = [len(items) * rank // self.count for rank in (self.rank, self.rank + 1)]
        return items[bounds[0] : bounds[1]]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order of rank."""
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def broadcast(self, value: T) -> T:
        """The first process's value."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def together(self, work: Callable[[], T]) -> list[T]:
        """Do work in all processes; returns their results, in order of rank.

        Raises:
            TrainingError: another process failed. A process that fails itself raises its own error.
        """
        try:
            result, said = work(), ""
        except Exception as error:
            if self.count > 1:
                self.gather((None, f"process {self.rank}: {error}"))
            raise
        gathered = self.gather((result, said))
        if failures := [text for _, text in gathered if text]:
            raise TrainingError(failures[0])
        return [value for value, _ in gathered]

    def at_first(self, work: Callable[[], object]) -> None:
        """Do work in the first process, while the others wait; raises as `together` does."""

        def first_only() -> None:
            if self.first:
                work()

        self.together(first_only)


ALONE = Ranks()


def join(kind: Kind, *, processes: int | None = None) -> Ranks:
    """Find the other processes of the run; what was asked for is what runs, or nothing does.

    Args:
        kind: as asked for.
        processes: the number asked for; None takes what torchrun started.

    Raises:
        TrainingError: torchrun did not start this process as asked for.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if kind == "none":
        if started > 1 or (processes or 1) > 1:
            raise TrainingError(f"{max(started, processes or 1)} processes need --parallel ddp or --parallel fsdp")
        return ALONE
    if "RANK" not in os.environ:
        raise TrainingError(
            f"--parallel {kind} needs processes started by torchrun: "
            f"torchrun --nproc-per-node {processes or 8} -m train.command grpo --parallel {kind} …"
        )
    if processes is not None and processes != started:
        raise TrainingError(f"--processes {processes}, but torchrun started {started}")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    assert dist.get_world_size() == started
    return Ranks(kind, dist.get_rank(), started)


def leave() -> None:
    """Part from the other processes, if there are any."""
    if not dist.is_initialized():
        return
    dist.destroy_process_group()
    # PyTorch caches the meshes of sharded weights, and a mesh keeps its process group. A thread of the group that
    # still frees a tensor while the interpreter ends would abort the process.
    for item in gc.get_objects():
        if type(item) is DeviceMesh:
            getattr(item, "_pg_registry", {}).clear()
    gc.collect()
