"""Memory that a micro-batch's forward and backward pass take beyond what is held."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from train.memory.ledger import Ledger
from train.memory.plan import Part
from train.memory.weightless import WeightlessJanus
from train.weights.weights import Weights


def update_parts(
    janus: WeightlessJanus, weights: Weights, loss: Callable[[], Tensor], *, pictures: int, rows: int
) -> Iterator[Part]:
    """Peak memory of a forward and backward pass, by part.

    Gradients are added to those of earlier micro-batches and freed, as they are in all but a step's first pass.

    Args:
        janus: the model.
        weights: trained.
        loss: forward pass of a micro-batch; its backward pass is added.
        pictures: in the micro-batch.
        rows: of the network's batch.
    """
    hooks = [
        parameter.register_post_accumulate_grad_hook(_drop)  # type: ignore[no-untyped-call]
        for parameter in weights.parameters.values()
    ]
    shapes = {parameter.shape for parameter in weights.network.parameters()}

    def kind(tensor: Tensor) -> str:
        # FSDP gathers weights, and adds up gradients, in tensors of one dimension
        if tensor.ndim < 2 or tensor.shape in shapes:
            return "weights"
        is_logits = tensor.shape[-1] == janus.codebook_size and tensor.numel() >= janus.image_tokens * tensor.shape[-1]
        return "logits" if is_logits else "activations"

    try:
        with janus.mode, Ledger(kind) as ledger:
            torch.autograd.backward(loss())
    finally:
        for hook in hooks:
            hook.remove()
    yield Part("updating", "activations", ledger.peak["activations"], f"of {rows} rows at once")
    size = 4 * pictures * janus.image_tokens * janus.codebook_size
    how = f"{ledger.peak['logits'] / size:.1f} × {pictures} × {janus.image_tokens} × {janus.codebook_size} in float32"
    yield Part("updating", "logits", ledger.peak["logits"], how)
    yield Part(
        "updating", "weights in use", ledger.peak["weights"], "gathered or cast for the pass, and their gradients"
    )


def _drop(parameter: Tensor) -> None:
    parameter.grad = None
