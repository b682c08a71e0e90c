"""Change of a model's logits and codes when the decoder's matrices are rounded; with fp8, keys and values, too."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.attention import Rows
from model.decoder import Decoder
from model.decoder_weights import matrix_shapes
from model.janus import Janus
from model.prompt import unconditional_row
from model.quantization import QUANTIZATIONS, Quantization
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
        open_janus: opens the model anew: its matrices are freed as they are rounded.
        prompts: token ids, one for each picture.
        codes: int64 [pictures, places], what a picture has before each place.
    """
    janus = open_janus()
    expected = _guided(janus, None, prompts, codes)
    drawn = _drawn(janus, expected)
    likely = filtered(expected, janus.sampling).log_softmax(-1)
    shapes = matrix_shapes(janus.network)
    floats = sum(2 * outputs * inputs for outputs, inputs in shapes)
    del janus
    for quantization in QUANTIZATIONS:
        rounded = open_janus()
        logits = _guided(rounded, quantization, prompts, codes)
        error = (logits - expected).var(-1).mean() / expected.var(-1).mean()
        own = filtered(logits, rounded.sampling).log_softmax(-1)
        both = own.isfinite() & likely.isfinite()
        apart = torch.where(both, likely.exp() * (likely - own), 0.0).sum(-1)
        same = (_drawn(rounded, logits) == drawn).float().mean(-1)
        size = sum(quantized_bytes(outputs, inputs, quantization) for outputs, inputs in shapes) / floats
        yield Rounding(quantization, size, float(error.sqrt()), float(apart.mean()), mean(same.tolist()))
        del rounded


def _guided(janus: Janus, quantization: Quantization | None, prompts: Sequence[Sequence[int]], codes: Tensor) -> Tensor:
    """Guided logits [pictures, places, V]; a picture's codes are fed in one step of the decoder."""
    decoder = Decoder(janus, native=False, quantization=quantization, release=True)
    places = codes.shape[1]
    parts = []
    for prompt, own in zip(prompts, codes, strict=True):
        prefixes = decoder.prefill([prompt, unconditional_row(len(prompt), janus.ids)])
        cache = decoder.cache(len(prefixes), len(prompt) + places)
        for row, prefix in enumerate(prefixes):
            cache.begin(row, prefix)
        fed = range(len(prompt), len(prompt) + places - 1)
        rows = Rows.of([row for row in (0, 1) for _ in fed], [*fed, *fed], janus.device)
        after = decoder.step(own[:-1].repeat(2), rows, cache).view(2, places - 1, -1)
        given, free = (torch.cat([prefix.logits[None], logits]) for prefix, logits in zip(prefixes, after, strict=True))
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
