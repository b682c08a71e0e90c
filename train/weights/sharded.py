"""Weights of which each process has a part (FSDP2)."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import JanusForConditionalGeneration

from model.janus import Janus
from train.ranks import Ranks
from train.weights.image_logits import ImageLogits
from train.weights.parameters import decoder_parameters, unfreeze_decoder
from train.weights.recipe import WeightsRecipe
from train.weights.reference import CopyReference, Reference
from train.weights.weights import checkpoint_activations, copy_of, restore


class ShardedWeights:
    """A part of every trained parameter in each process; the engine's network is whole, and is copied to.

    The trained parameters and their gradients are in float32. In bfloat16, the decoder's blocks are gathered and
    computed in bfloat16.

    Args:
        janus: the engine's; its weights are the first ones.
        ranks: the processes of the run.
        recipe: precision; no adapters.
    """

    sharded = True

    def __init__(self, janus: Janus, ranks: Ranks, recipe: WeightsRecipe) -> None:
        assert recipe.lora is None
        self._served, self._ranks, self._precision = janus.network.requires_grad_(False), ranks, recipe.precision
        self._dtype = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
        self.network = copy_of(janus.network, torch.float32)
        unfreeze_decoder(self.network)
        if recipe.activation_checkpointing:
            checkpoint_activations(self.network)
        # the logits are a view, and nothing changes them in place
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        self.logits: nn.Module = self._shard(self.network)
        self.parameters = decoder_parameters(self.network)

    @torch.no_grad()
    def publish(self) -> None:
        served = decoder_parameters(self._served)
        for name, parameter in self.parameters.items():
            served[name].copy_(whole(parameter))

    @contextmanager
    def backward(self, *, last: bool) -> Iterator[None]:
        yield  # gradients are reduced after every micro-batch, since whole ones may not fit

    def reference(self) -> Reference:
        network = copy_of(self._served, self._dtype).requires_grad_(False).eval()
        return CopyReference(self.network, network, self._shard(network))

    def state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], served: Mapping[str, Tensor]) -> None:
        restore(self.parameters, state)

    def _shard(self, network: JanusForConditionalGeneration) -> ImageLogits:
        mesh = init_device_mesh(network.device.type, (self._ranks.count,))
        sharded = set(decoder_parameters(network).values())
        rest = {parameter for parameter in network.parameters() if parameter not in sharded}
        policy = MixedPrecisionPolicy(param_dtype=self._dtype, reduce_dtype=torch.float32)
        for layer in network.model.language_model.layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        logits = ImageLogits(network, self._precision)
        # the root, too: after a pass without gradient, no backward pass would shard it again
        fully_shard(logits, mesh=mesh, ignored_params=rest, reshard_after_forward=True)
        return logits


def whole(parameter: Tensor) -> Tensor:
    """All of a tensor of which each process has a part; any other tensor unchanged."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
