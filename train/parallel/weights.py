"""The weights that are trained: where they are, and how the engine that draws gets them."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import JanusForConditionalGeneration

from model.janus import Janus
from model.likelihood import image_logits
from serve.engine.engine import Engine
from train.parallel.ranks import Ranks
from train.parameters import decoder_parameters, unfreeze_decoder


class ImageLogits(nn.Module):
    """`model.likelihood.image_logits` as a module, since DDP and FSDP act on the forward pass of one.

    Args:
        network: transformers' Janus.
    """

    def __init__(self, network: JanusForConditionalGeneration) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, mask: Tensor, codes: Tensor, prompts: Tensor | None = None) -> Tensor:
        return image_logits(self.network, ids, mask, codes, prompts=prompts)


class Weights(Protocol):
    """The trained weights of one process.

    network: transformers' Janus that is trained.
    logits: its image logits; called as `ImageLogits`.
    sharded: whether each process has only a part of every trained parameter.
    """

    network: JanusForConditionalGeneration
    logits: nn.Module
    sharded: bool

    def refresh(self, engine: Engine) -> None:
        """Let the engine draw with the present weights."""

    @contextmanager
    def backward(self, *, last: bool) -> Iterator[None]:
        """Forward and backward pass of a micro-batch; the gradients of all processes are averaged by the `last` one."""

    def frozen_copy(self) -> tuple[JanusForConditionalGeneration, nn.Module]:
        """Network with a copy of the present weights, without gradients, and its image logits."""


class SharedWeights:
    """All weights in this process, shared with the engine; gradients are averaged by DDP if there are several.

    Args:
        janus: the engine's; its network is trained.
        ranks: the processes of the run.
    """

    sharded = False

    def __init__(self, janus: Janus, ranks: Ranks) -> None:
        self.network = janus.network
        unfreeze_decoder(self.network)
        self.logits: nn.Module = ImageLogits(self.network)
        if ranks.count > 1:
            self.logits = DistributedDataParallel(self.logits)

    def refresh(self, engine: Engine) -> None:
        engine.load_weights(self.network)

    @contextmanager
    def backward(self, *, last: bool) -> Iterator[None]:
        if last or not isinstance(self.logits, DistributedDataParallel):
            yield
        else:
            with self.logits.no_sync():
                yield

    def frozen_copy(self) -> tuple[JanusForConditionalGeneration, nn.Module]:
        network = _copy_of(self.network).requires_grad_(False).eval()
        return network, ImageLogits(network)


class ShardedWeights:
    """A part of every trained parameter in each process (FSDP2); the engine's network is another, and is copied to.

    Args:
        janus: the engine's; its weights are the first ones.
        ranks: the processes of the run.
    """

    sharded = True

    def __init__(self, janus: Janus, ranks: Ranks) -> None:
        self._served, self._ranks = janus.network.requires_grad_(False), ranks
        self.network = _copy_of(janus.network)
        unfreeze_decoder(self.network)
        # the logits are a view, and nothing changes them in place
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        self.logits: nn.Module = self._shard(self.network)

    @torch.no_grad()
    def refresh(self, engine: Engine) -> None:
        served = decoder_parameters(self._served)
        for name, parameter in decoder_parameters(self.network).items():
            served[name].copy_(whole(parameter))
        engine.load_weights(self._served)

    @contextmanager
    def backward(self, *, last: bool) -> Iterator[None]:
        yield  # gradients are reduced after every micro-batch, since whole ones may not fit

    def frozen_copy(self) -> tuple[JanusForConditionalGeneration, nn.Module]:
        network = _copy_of(self._served).requires_grad_(False).eval()
        return network, self._shard(network)

    def _shard(self, network: JanusForConditionalGeneration) -> nn.Module:
        mesh = init_device_mesh(network.device.type, (self._ranks.count,))
        sharded = set(decoder_parameters(network).values())
        rest = {parameter for parameter in network.parameters() if parameter not in sharded}
        for layer in network.model.language_model.layers:
            fully_shard(layer, mesh=mesh)
        logits = ImageLogits(network)
        fully_shard(logits, mesh=mesh, ignored_params=rest)
        return logits


def open_weights(janus: Janus, ranks: Ranks) -> Weights:
    """The weights of a run of this kind."""
    return ShardedWeights(janus, ranks) if ranks.kind == "fsdp" else SharedWeights(janus, ranks)


def _copy_of(network: JanusForConditionalGeneration) -> JanusForConditionalGeneration:
    """Copy of the trained part; everything else is shared with the network."""
    shared: list[nn.Module] = [network.model.vqmodel, network.model.vision_model, network.model.aligner]
    return copy.deepcopy(network, {id(module): module for module in shared})


def whole(parameter: Tensor) -> Tensor:
    """All of a tensor of which each process has a part; any other tensor unchanged."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
