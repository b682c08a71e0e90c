"""Change of a model's logits and codes when the decoder's matrices are rounded; with fp8 and int8, keys and values, too."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.attention import Rows
from model.decoder import Decoder
from model.params import SamplingParams
from model.prompt import SpecialIds, unconditional_row
from model.quantization import QUANTIZATIONS, Quantization
from model.quantized_matrix import quantized_bytes
from model.sampling import filtered, guide, sample
from pairs.scores import Mean, mean


class Subject(NamedTuple):
    """Model whose rounding is measured.

    decoder: opens its decoder with rounded matrices or float ones, in PyTorch's operations.
    shapes: outputs and inputs of the matrices.
    ids: special tokens.
    sampling: how codes are drawn.
    """

    decoder: Callable[[Quantization | None], Decoder]
    shapes: Sequence[tuple[int, int]]
    ids: SpecialIds
    sampling: SamplingParams


class Rounding(NamedTuple):
    """Change by one way of rounding. At every place, the codes before it are the float model's.

    size: bytes of the rounded matrices ÷ bytes of those in bfloat16.
    error: standard deviation over the codes of what guided logits change ÷ that of the logits.
    moved: total variation distance from the float model's filtered distribution: the probability that moves to other codes.
    same: share of places whose code is the same with the same noise, over pictures.
    """

    name: str
    size: float
    error: float
    moved: float
    same: Mean


def measure_rounding(subject: Subject, prompts: Sequence[Sequence[int]], codes: Tensor) -> Iterator[Rounding]:
    """Compare each way of rounding with the float model.

    Args:
        subject: the model.
        prompts: token ids, one for each picture.
        codes: int64 [pictures, places], what a picture has before each place.
    """
    expected = _guided(subject, None, prompts, codes)
    drawn = _drawn(subject.sampling, expected)
    likely = filtered(expected, subject.sampling).softmax(-1)
    floats = sum(2 * outputs * inputs for outputs, inputs in subject.shapes)
    for quantization in QUANTIZATIONS:
        logits = _guided(subject, quantization, prompts, codes)
        error = (logits - expected).var(-1).mean() / expected.var(-1).mean()
        moved = (filtered(logits, subject.sampling).softmax(-1) - likely).abs().sum(-1) / 2
        same = (_drawn(subject.sampling, logits) == drawn).float().mean(-1)
        size = sum(quantized_bytes(outputs, inputs, quantization) for outputs, inputs in subject.shapes) / floats
        yield Rounding(quantization, size, float(error.sqrt()), float(moved.mean()), mean(same.tolist()))


def _guided(
    subject: Subject, quantization: Quantization | None, prompts: Sequence[Sequence[int]], codes: Tensor
) -> Tensor:
    """Guided logits [pictures, places, V]; all codes are fed in one step of the decoder."""
    decoder = subject.decoder(quantization)
    count, places = codes.shape
    free = [unconditional_row(len(prompt), subject.ids) for prompt in prompts]
    prefixes = decoder.prefill([*prompts, *free])
    cache = decoder.cache(2 * count, max(map(len, prompts)) + places)
    for row, prefix in enumerate(prefixes):
        cache.begin(row, prefix)
    index = [row for row in range(2 * count) for _ in range(places - 1)]
    positions = [len(prompt) + place for prompt in (*prompts, *free) for place in range(places - 1)]
    fed = codes[:, :-1].reshape(-1).repeat(2)
    after = decoder.step(fed, Rows.of(index, positions, decoder.device), cache).view(2 * count, places - 1, -1)
    first = torch.stack([prefix.logits for prefix in prefixes])[:, None]
    given, without = torch.cat([first, after], dim=1).chunk(2)
    return guide(given, without, subject.sampling.guidance_scale)


def _drawn(sampling: SamplingParams, logits: Tensor) -> Tensor:
    """Codes [pictures, places] that are drawn of these logits, with the noise of a seed for each picture."""
    places = torch.arange(logits.shape[1])
    return torch.stack(
        [
            sample(own, sampling, seeds=torch.full_like(places, seed), positions=places)
            for seed, own in enumerate(logits)
        ]
    )
