"""Triton kernels that draw the next codes of each image, with the codes of `model.sampling.sample`.

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
_WIDEST = 64  # places of a window; a step of windows is not fed more codes


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
    codes, totals, logprobs, tokens, vocabulary,
    keep_logprobs: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Draw the code of one place of an image, and store it."""
    image = tl.program_id(0)
    if tl.load(conditional + image) < 0:
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
    tl.store(totals + image, tl.sum(total, axis=0))
    if keep_logprobs:
        chosen = 0.0
        if warm:
            top = tl.max(peak, axis=0)
            own = _guided_logits(
                logits, conditional, unconditional, guidance, temperature, image, drawn, drawn < vocabulary, vocabulary
            )[1]
            chosen = own - top - tl.log(tl.sum(mass * tl.exp(peak - top), axis=0))
        tl.store(logprobs + row * tokens + place, chosen)


@triton.jit
def _feed(
    codes, positions, places, windows, first_draws, first_fed, other_fed, lengths, other_lengths, sampled, confirmed,
    rows, totals, drawn, guessed, sums, tokens, grid,
    confirms: tl.constexpr, widest: tl.constexpr,
):  # fmt: skip
    """Confirm what was drawn of one image, if so wanted, and make the inputs of its next window."""
    image = tl.program_id(0)
    window = tl.load(windows + image)
    if window == 0:
        return
    lane = tl.arange(0, widest)
    first, fed, other = tl.load(first_draws + image), tl.load(first_fed + image), tl.load(other_fed + image)
    row, have = tl.load(rows + first), tl.load(sampled + image)
    known = tl.maximum(tl.load(guessed + row), have)
    if confirms:
        drawn_code = tl.load(drawn + row * tokens + have + lane, mask=lane < window, other=0)
        guess = tl.load(codes + fed + 1 + lane, mask=lane + 1 < window, other=0)
        wrong = (lane + 1 < window) & (drawn_code != guess)
        gained = tl.min(tl.where(wrong, lane, window - 1), axis=0) + 1
        # logits behind a wrong guess are not the image's
        total = tl.sum(tl.load(totals + first + lane, mask=lane < gained, other=0.0), axis=0)
        tl.store(sums + row, tl.load(sums + row) + total)
        tl.store(confirmed + image, gained)
        known = tl.maximum(known, have + window)
        tl.store(guessed + row, known)
        have += gained
        tl.store(sampled + image, have)
    place = have + lane
    # where nothing was drawn yet, the code above is the guess, or in the first line the one to the left
    source = place - 1
    up = tl.where(source >= known, tl.cdiv(source - known + 1, grid), 0)
    source = tl.where(source - up * grid < 0, known - 1, source - up * grid)
    inside = lane < window
    code = tl.load(drawn + row * tokens + source, mask=inside & (source >= 0) & (source < tokens), other=0)
    tl.store(codes + fed + lane, code, mask=inside)
    tl.store(codes + other + lane, code, mask=inside)
    tl.store(positions + fed + lane, tl.load(lengths + image) + place - 1, mask=inside)
    tl.store(positions + other + lane, tl.load(other_lengths + image) + place - 1, mask=inside)
    tl.store(places + first + lane, place, mask=inside)


def feed(inputs: StepInputs, state: SamplerState, *, confirms: bool = False) -> None:
    """Make the codes, positions and places of the next step.

    Args:
        inputs: of the step.
        state: has the codes, and guesses of those behind.
        confirms: whether a step was drawn, whose codes are confirmed first; `state` gains their sums of logits.
    """
    _feed[inputs.size,](
        inputs.codes, inputs.positions, inputs.places, inputs.windows, inputs.first_draws, inputs.first_fed,
        inputs.other_fed, inputs.lengths, inputs.other_lengths, inputs.sampled, inputs.confirmed, inputs.rows,
        inputs.totals, state.codes, state.guessed, state.sums, state.tokens, state.grid,
        confirms=confirms, widest=_WIDEST, num_warps=1,
    )  # fmt: skip


def draw(logits: Tensor, inputs: StepInputs, state: SamplerState) -> None:
    """Draw every place of the windows of a step, confirm codes, and make the inputs of the next step.

    Args:
        logits: float32 [T, V], contiguous.
        inputs: of the step.
        state: gains the codes, their log-probabilities if it keeps them, and the sums of the guided logits.
    """
    vocabulary = logits.shape[1]
    padded = triton.next_power_of_2(vocabulary)
    _find_thresholds[inputs.size,](
        logits, inputs.conditional, inputs.unconditional, inputs.guidance, inputs.temperature, inputs.top_k,
        inputs.top_p, inputs.thresholds, inputs.last_kept, vocabulary,
        padded=padded, num_warps=_WARPS, **_EXACT,
    )  # fmt: skip
    _draw[inputs.size,](
        logits, inputs.conditional, inputs.unconditional, inputs.rows, inputs.seeds, inputs.places, inputs.guidance,
        inputs.temperature, inputs.thresholds, inputs.last_kept, state.codes, inputs.totals, state.logprobs,
        state.tokens, vocabulary,
        keep_logprobs=len(state.logprobs) > 0, block=min(_BLOCK, padded), num_warps=_WARPS, **_EXACT,
    )  # fmt: skip
    feed(inputs, state, confirms=True)
