"""Change of a model's logits and codes when the decoder's matrices are rounded."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.decoder_weights import matrix_shapes, round_matrices
from model.janus import Janus
from model.likelihood import image_logits
from model.prompt import unconditional_row
from model.quantization import QUANTIZATIONS
from model.quantized_matrix import quantized_bytes
from model.sampling import filtered, guide, sample
from pairs.scores import Mean, mean


class Rounding(NamedTuple):
    """Change by one way of rounding. At every place, the codes before it are the float model's.

    size: bytes of the rounded matrices ÷ bytes of those in bfloat16.
    error: standard deviation over the codes of what guided logits change ÷ that of the logits.
    divergence: Kullback–Leibler divergence of the filtered distribution from the float model's, in nats; codes that only the
        float model keeps do not count.
    same: share of places whose code is the same with the same noise, over pictures.
    """

    name: str
    size: float
    error: float
    divergence: float
    same: Mean


def measure_rounding(
    open_janus: Callable[[], Janus], prompts: Sequence[Sequence[int]], codes: Tensor
) -> Iterator[Rounding]:
    """Compare each way of rounding with the float model.

    Args:
        open_janus: opens the model anew: its matrices are rounded in place.
        prompts: token ids, one for each picture.
        codes: int64 [pictures, places], what a picture has before each place.
    """
    janus = open_janus()
    expected = _guided(janus, prompts, codes)
    drawn = _drawn(janus, expected)
    likely = filtered(expected, janus.sampling).log_softmax(-1)
    shapes = matrix_shapes(janus.network)
    floats = sum(2 * outputs * inputs for outputs, inputs in shapes)
    del janus
    for quantization in QUANTIZATIONS:
        rounded = open_janus()
        round_matrices(rounded.network, quantization)
        logits = _guided(rounded, prompts, codes)
        error = (logits - expected).var(-1).mean() / expected.var(-1).mean()
        own = filtered(logits, rounded.sampling).log_softmax(-1)
        both = own.isfinite() & likely.isfinite()
        apart = torch.where(both, likely.exp() * (likely - own), 0.0).sum(-1)
        same = (_drawn(rounded, logits) == drawn).float().mean(-1)
        size = sum(quantized_bytes(outputs, inputs, quantization) for outputs, inputs in shapes) / floats
        yield Rounding(quantization, size, float(error.sqrt()), float(apart.mean()), mean(same.tolist()))
        del rounded


@torch.inference_mode()
def _guided(janus: Janus, prompts: Sequence[Sequence[int]], codes: Tensor) -> Tensor:
    """Guided logits [pictures, places, V]."""
    parts = []
    for prompt, own in zip(prompts, codes, strict=True):
        rows = torch.tensor([list(prompt), unconditional_row(len(prompt), janus.ids)])
        given, free = image_logits(janus.network, rows, torch.ones_like(rows), own.expand(2, -1))
        parts.append(guide(given, free, janus.sampling.guidance_scale))
    return torch.stack(parts)


def _drawn(janus: Janus, logits: Tensor) -> Tensor:
    """Codes [pictures, places] that are drawn of these logits, with the noise of a seed for each picture."""
    places = torch.arange(logits.shape[1])
    return torch.stack(
        [
            sample(own, janus.sampling, seeds=torch.full_like(places, seed), positions=places)
            for seed, own in enumerate(logits)
        ]
    )
