"""Triton kernels that draw the next code of each image, with the codes of `model.sampling.sample`.

Everything that they read, place and seed included, lies on the device, so that a captured step can be replayed.
"""

import triton
import triton.language as tl
from torch import Tensor

from model.cuda.inputs import StepInputs
from model.sampler.state import SamplerState

_EXACT = {"enable_fp_fusion": False}  # a product and a sum are rounded one after the other, as on other devices
_WARPS = 16  # whose registers hold 16,384 logits and their probabilities
_BLOCK = 2048  # codes that are drawn from at once


@triton.jit
def _key_to_float(key):
    """Float whose place in the order of all floats is `key`, an int64: the inverse of `_float_to_key`."""
    bits = key.to(tl.int32)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def _float_to_key(number):
    """Place of a float in the order of all floats, an int64."""
    bits = number.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)


@triton.jit
def _guided_logits(
    logits, conditional, unconditional, guidance, temperature, image, code, inside, vocabulary
):  # fmt: skip
    """Guided logits of some codes, and the same divided by the temperature (unless that is 0); −∞ outside."""
    c, u = tl.load(conditional + image), tl.load(unconditional + image)
    given = tl.load(logits + c * vocabulary + code, mask=inside, other=-float("inf"))
    free = tl.load(logits + u * vocabulary + code, mask=inside, other=0.0)
    guided = (given - free) * tl.load(guidance + image).to(tl.float32) + free
    warmth = tl.load(temperature + image).to(tl.float32)
    # − 0 becomes + 0, which is the same number, but has another key
    return guided, tl.div_rn(guided, tl.where(warmth > 0, warmth, 1.0)) + 0.0


@triton.jit
def _find_thresholds(
    logits, conditional, unconditional, guidance, temperature, top_k, top_p, thresholds, last_kept, vocabulary,
    padded: tl.constexpr,
):  # fmt: skip
    """Smallest logit that the filters of an image keep, and the last code that is kept of those with this logit.

    Both filters are thresholds. They are found by bisection of the order of all floats, in 32 counts, or sums of
    probabilities in float64 as in `model.sampling.keep_top_p`.
    """
    image = tl.program_id(0)
    if tl.load(conditional + image) < 0:
        return
    k, p = tl.load(top_k + image), tl.load(top_p + image)
    if (k == 0) & (p >= 1):
        tl.store(thresholds + image, -float("inf"))
        tl.store(last_kept + image, vocabulary)
        return
    code = tl.arange(0, padded)
    logit = _guided_logits(
        logits, conditional, unconditional, guidance, temperature, image, code, code < vocabulary, vocabulary
    )[1]
    low = _float_to_key(tl.min(logit, axis=0))
    peak = tl.max(logit, axis=0)
    high = _float_to_key(peak)
    if k > 0:
        for _bit in range(32):
            middle = low + (high - low + 1) // 2
            enough = tl.sum((logit >= _key_to_float(middle)).to(tl.int32), axis=0) >= k
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle - 1)
    last = vocabulary
    if p < 1:
        share = tl.where(logit >= _key_to_float(low), tl.exp(logit.to(tl.float64) - peak.to(tl.float64)), 0.0)
        wanted = p * tl.sum(share, axis=0)
        high = _float_to_key(peak)
        for _bit in range(32):
            middle = low + (high - low + 1) // 2
            enough = tl.sum(tl.where(logit >= _key_to_float(middle), share, 0.0), axis=0) >= wanted
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle - 1)
        # of the codes with the smallest logit that is kept, the first ones are, until they reach the rest of p
        threshold = _key_to_float(low)
        rest = wanted - tl.sum(tl.where(logit > threshold, share, 0.0), axis=0)
        number = tl.ceil(rest / tl.max(tl.where(logit == threshold, share, 0.0), axis=0)).to(tl.int32)
        first, last = 0, vocabulary
        for _bit in range(32):
            middle = (first + last) // 2
            enough = tl.sum(((logit == threshold) & (code <= middle)).to(tl.int32), axis=0) >= number
            last = tl.where(enough, middle, last)
            first = tl.where(enough, first, tl.minimum(middle + 1, last))
    tl.store(thresholds + image, _key_to_float(low))
    tl.store(last_kept + image, last)


@triton.jit
def gumbel_noise(seed, place, start, vocabulary, block: tl.constexpr):
    """`model.noise.gumbel` of the codes start … start + block − 1 of one image, float32 [block]."""
    quads = start // 4 + tl.arange(0, block // 4)
    counter = (place * tl.cdiv(vocabulary, 4) + quads).to(tl.uint32)
    zero = tl.zeros_like(counter)
    low, high = (seed & 0xFFFFFFFF).to(tl.uint32), (seed >> 32).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox_impl(counter, zero, zero, zero, low + zero, high + zero, 10)
    words = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
    uniform = (words.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    # −log(1 − u), which must be precise for small u: by the series of 2 artanh(u / (2 − u))
    part = tl.div_rn(uniform, 2.0 - uniform)
    square = part * part
    series = 1.0 + square * (1.0 / 3 + square * (1.0 / 5 + square * (1.0 / 7 + square * (1.0 / 9 + square / 11))))
    exponential = tl.where(uniform < 0.25, 2.0 * part * series, -tl.log(1.0 - uniform))
    return -tl.log(tl.minimum(exponential, 32.0))


@triton.jit
def _draw(
    logits, conditional, unconditional, rows, seeds, places, guidance, temperature, thresholds, last_kept,
    codes, sums, logprobs, fed, positions, tokens, vocabulary,
    keep_logprobs: tl.constexpr, advance: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Draw the next code of one image, store it, and make it the input of the next step."""
    image = tl.program_id(0)
    c, u = tl.load(conditional + image), tl.load(unconditional + image)
    if c < 0:
        return
    seed, place, row = tl.load(seeds + image), tl.load(places + image), tl.load(rows + image)
    warm = tl.load(temperature + image) > 0
    threshold, last = tl.load(thresholds + image), tl.load(last_kept + image)
    lane = tl.arange(0, block)
    best = tl.full([block], -float("inf"), dtype=tl.float32)
    best_code = lane
    total = tl.zeros([block], dtype=tl.float32)
    peak = tl.full([block], -float("inf"), dtype=tl.float32)
    mass = tl.zeros([block], dtype=tl.float32)
    for start in range(0, vocabulary, block):
        code = start + lane
        inside = code < vocabulary
        guided, logit = _guided_logits(
            logits, conditional, unconditional, guidance, temperature, image, code, inside, vocabulary
        )
        total += tl.where(inside, guided, 0.0)
        noisy = logit
        if warm:
            kept = (logit > threshold) | ((logit == threshold) & (code <= last))
            noisy = logit + gumbel_noise(seed, place, start, vocabulary, block)
            noisy = tl.where(kept & inside, noisy, -float("inf"))
            if keep_logprobs:
                logit = tl.where(kept & inside, logit, -float("inf"))
                higher = tl.maximum(peak, logit)
                base = tl.where(higher == -float("inf"), 0.0, higher)
                mass = mass * tl.exp(peak - base) + tl.exp(logit - base)
                peak = higher
        better = noisy > best
        best = tl.where(better, noisy, best)
        best_code = tl.where(better, code, best_code)
    highest = tl.max(best, axis=0)
    drawn = tl.min(tl.where(best == highest, best_code, vocabulary - 1), axis=0)  # the lowest code wins a tie
    tl.store(codes + row * tokens + place, drawn.to(tl.int64))
    tl.store(sums + row, tl.load(sums + row) + tl.sum(total, axis=0))
    if keep_logprobs:
        chosen = 0.0
        if warm:
            top = tl.max(peak, axis=0)
            own = _guided_logits(
                logits, conditional, unconditional, guidance, temperature, image, drawn, drawn < vocabulary, vocabulary
            )[1]
            chosen = own - top - tl.log(tl.sum(mass * tl.exp(peak - top), axis=0))
        tl.store(logprobs + row * tokens + place, chosen)
    tl.store(places + image, place + 1)
    tl.store(fed + c, drawn.to(tl.int64))
    tl.store(fed + u, drawn.to(tl.int64))
    if advance:
        tl.store(positions + c, tl.load(positions + c) + 1)
        if u != c:
            tl.store(positions + u, tl.load(positions + u) + 1)


def draw(logits: Tensor, inputs: StepInputs, state: SamplerState, *, advance: bool) -> None:
    """Draw the next code of each image of a step.

    Args:
        logits: float32 [T, V], contiguous.
        inputs: of the step; its `codes` become those of the next step, its `places` are counted on.
        state: gains the codes, their log-probabilities if it keeps them, and the sums of all guided logits.
        advance: whether positions in the cache are counted on, too.
    """
    vocabulary, images = logits.shape[1], inputs.images
    padded = triton.next_power_of_2(vocabulary)
    _find_thresholds[images,](
        logits, inputs.conditional, inputs.unconditional, inputs.guidance, inputs.temperature, inputs.top_k,
        inputs.top_p, inputs.thresholds, inputs.last_kept, vocabulary,
        padded=padded, num_warps=_WARPS, **_EXACT,
    )  # fmt: skip
    _draw[images,](
        logits, inputs.conditional, inputs.unconditional, inputs.rows, inputs.seeds, inputs.places, inputs.guidance,
        inputs.temperature, inputs.thresholds, inputs.last_kept, state.codes, state.sums, state.logprobs,
        inputs.codes, inputs.positions, state.tokens, vocabulary,
        keep_logprobs=len(state.logprobs) > 0, advance=advance, block=min(_BLOCK, padded), num_warps=_WARPS, **_EXACT,
    )  # fmt: skip
