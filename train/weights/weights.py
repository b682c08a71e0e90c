"""The weights of a run, whatever holds them."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import JanusForConditionalGeneration

from train.ranks import Ranks
from train.weights.parameters import decoder_parameters
from train.weights.reference import Reference


class Weights(Protocol):
    """The trained weights of one process.

    network: transformers' Janus that is trained.
    logits: its image logits; called as `ImageLogits`.
    parameters: those trained, by name.
    sharded: whether each process has only a part of every trained parameter.
    """

    network: JanusForConditionalGeneration
    logits: nn.Module
    parameters: dict[str, nn.Parameter]
    sharded: bool

    def publish(self) -> None:
        """Bring the network that is served and saved up to date with the present weights."""

    def backward(self, *, last: bool) -> AbstractContextManager[None]:
        """Context of a micro-batch; the gradients of all processes are averaged at the end of the `last` one."""

    def reference(self) -> Reference:
        """The present weights, as a reference."""

    def state_dict(self) -> dict[str, Tensor]:
        """Trained weights by name; empty if the served checkpoint holds them."""

    def load_state_dict(self, state: Mapping[str, Tensor], served: Mapping[str, Tensor]) -> None:
        """Restore the weights from `state_dict` and from the served checkpoint."""


def copy_of(network: JanusForConditionalGeneration, dtype: torch.dtype) -> JanusForConditionalGeneration:
    """Copy of what draws pictures, in another dtype; everything else is shared with the network."""
    model = network.model
    shared: list[nn.Module] = [model.vqmodel, model.vision_model, model.aligner, network.lm_head]
    copied = copy.deepcopy(network, {id(module): module for module in shared})
    for parameter in decoder_parameters(copied).values():
        parameter.data = parameter.data.to(dtype)
    return copied


def replicated(logits: nn.Module, ranks: Ranks) -> nn.Module:
    """Let DDP average the gradients, if there are several processes."""
    return DistributedDataParallel(logits) if ranks.count > 1 else logits


@contextmanager
def averaged(logits: nn.Module, *, last: bool) -> Iterator[None]:
    """Context in which DDP averages gradients only if this is the `last` micro-batch."""
    if last or not isinstance(logits, DistributedDataParallel):
        yield
    else:
        with logits.no_sync():
            yield


def checkpoint_activations(network: JanusForConditionalGeneration) -> None:
    """Keep only each block's input for the backward pass."""
    network.activation_checkpointing_enable()
    network.train()  # transformers checkpoints in training mode only; a Janus has no dropout


def restore(parameters: Mapping[str, nn.Parameter], state: Mapping[str, Any]) -> None:
    """Copy saved values into parameters of the same names."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])
