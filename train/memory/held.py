"""Memory that a run holds from start to end."""

from collections.abc import Iterable, Iterator

import torch

from model.checkpoints.footprint import Footprint
from train.memory.plan import Part, counted, short
from train.memory.weightless import WeightlessJanus, storages
from train.ranks import Ranks
from train.weights.weights import Weights


def weight_parts(
    janus: WeightlessJanus,
    weights: Weights,
    served: Footprint,
    optimizers: Iterable[torch.optim.Optimizer],
    ranks: Ranks,
) -> Iterator[Part]:
    """The model, what is trained of it, and what training adds to that."""
    numbers = sum(parameter.numel() for parameter in janus.network.parameters())
    yield Part("held", "served weights", served.weights, f"{counted(numbers)} numbers in {short(janus.dtype)}, tables")
    trained, engine = storages(weights.parameters.values()), storages(janus.network.parameters())
    beside = {key: size for key, size in trained.items() if key not in engine}
    count = sum(parameter.numel() for parameter in weights.parameters.values())
    share = f", 1/{ranks.count} of them" if weights.sharded else ""
    yield Part("held", "trained weights", sum(beside.values()), f"{counted(count)} numbers in float32{share}")
    frozen = storages(weights.network.parameters()).items()
    rest = sum(size for key, size in frozen if key not in trained and key not in engine)
    yield Part("held", "frozen weights", rest, "what the adapters are added to")
    size = sum(trained.values())
    yield Part("held", "gradients", size, f"of {counted(count)} numbers in float32{share}")
    yield Part("held", "buckets", size if ranks.kind == "ddp" and ranks.count > 1 else 0, "gradients that DDP sends")
    kinds = ", ".join(type(optimizer).__name__ for optimizer in optimizers)
    yield Part("held", "optimizer", optimizer_bytes(janus, weights, optimizers), f"state of {kinds}")


def optimizer_bytes(janus: WeightlessJanus, weights: Weights, optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Bytes of the optimizers' state, which their first step makes."""
    with janus.mode:
        for parameter in weights.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    state = [value for optimizer in optimizers for own in optimizer.state.values() for value in own.values()]
    return sum(storages(state).values())
