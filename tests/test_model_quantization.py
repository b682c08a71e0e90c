"""Rounded weights: their values, products with them on a GPU or else in Triton's interpreter, and what a decoder makes of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from bench.cuda.micro import micro_janus
from model.attention import Rows
from model.checkpoints.footprint import footprint
from model.checkpoints.load import load
from model.decoder import Decoder
from model.decoder_weights import PackedMatrix
from model.errors import CheckpointError
from model.kv_cache import FP8, round_to_fp8
from model.quantization import QUANTIZATIONS, Quantization
from model.quantized_matrix import GROUP, QuantizedMatrix, quantized_bytes
from tests.tools import needs_compiler, needs_kernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
every = pytest.mark.parametrize("quantization", QUANTIZATIONS)


def weight_of(outputs: int, inputs: int) -> Tensor:
    """Weights whose outputs differ by nine orders of magnitude; one output is all zeros."""
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(inputs))
    weight *= torch.logspace(-6, 3, outputs)[:, None]
    weight[outputs // 2] = 0
    return weight


@every
@pytest.mark.parametrize("inputs", [GROUP, 200])
def test_weights_are_rounded_to_the_nearest_value(quantization: Quantization, inputs: int) -> None:
    """Integers: within half a step, of which the largest weight that shares its scale has 127, or 7.

    E4M3: within 1/16 of the weight, or half of the smallest value, 2⁻¹⁰ of a scale.
    """
    weight = weight_of(30, inputs)
    matrix = QuantizedMatrix.of(weight, quantization)
    error = (matrix.floats() - weight).abs()
    if quantization == "fp8":
        scale = weight.abs().amax(1, keepdim=True) / 448
        assert (error <= (weight.abs() / 16).maximum(scale * 2**-10) * 1.001).all()
    else:
        groups = torch.split(weight, GROUP if quantization == "int4" else inputs, dim=1)
        most = torch.cat([part.abs().amax(1, keepdim=True).expand_as(part) for part in groups], dim=1)
        steps = {"int8": 127, "int4": 7}[quantization]
        assert (error <= most / steps / 2 * 1.001).all()
        assert (error[weight.abs() == most] <= 1e-6 * most[weight.abs() == most]).all()
    assert matrix.shape == weight.shape
    assert matrix.quantization == quantization
    assert matrix.nbytes == quantized_bytes(30, inputs, quantization)


def test_int8_has_the_values_of_the_c_functions() -> None:
    weight = weight_of(33, 70)
    assert torch.equal(QuantizedMatrix.of(weight, "int8").floats(), PackedMatrix.of(weight, int8=True).floats())


@needs_kernels
@pytest.mark.parametrize("quantization", [None, *QUANTIZATIONS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_products_of_few_rows(quantization: Quantization | None, dtype: torch.dtype) -> None:
    """Rows, outputs and inputs that fill no block; inputs in one part and in several, of which the last may be empty."""
    from model.cuda.product import Blocks, multiply

    for rows, outputs, inputs, splits in ((1, 70, 200, 1), (3, 33, 300, 3), (17, 40, 129, 2), (70, 20, 256, 4)):
        x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows)).to(DEVICE, dtype)
        weight = (torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)) * inputs**-0.5).to(DEVICE)
        matrix = QuantizedMatrix.of(weight, quantization) if quantization else weight.to(dtype)
        floats = matrix.floats() if isinstance(matrix, QuantizedMatrix) else matrix.float()
        found = multiply(x, matrix, Blocks(32, GROUP, splits, warps=4, stages=2))
        assert found.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 2e-3
        torch.testing.assert_close(found.float(), x.float() @ floats.T, rtol=tolerance, atol=tolerance)


@needs_kernels
def test_blocks_fill_the_multiprocessors() -> None:
    from model.cuda.product import blocks_for

    for outputs, inputs in ((12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008), (16384, 4096)):
        for rows in (2, 128):
            blocks = blocks_for(rows, outputs, inputs, 132)
            assert outputs / blocks.outputs * blocks.splits >= 2 * 132 or blocks.splits == 8
            assert inputs / blocks.splits >= 4 * blocks.inputs


@needs_kernels
@every
def test_steps_and_prefill_use_the_rounded_weights(quantization: Quantization) -> None:
    """The logits are those of a network with the rounded weights. The network's own matrices are freed, and the bytes that are
    held equal the forecast."""
    rounded, changed = micro_janus(), micro_janus()
    decoder = Decoder(rounded, native=False, kernels=True, quantization=quantization, release=True)
    config = changed.network.config
    plain = Decoder(changed, native=False, kernels=False)
    with torch.no_grad():
        for matrix in plain.weights.matrices:
            assert isinstance(matrix, Tensor)
            matrix.copy_(QuantizedMatrix.of(matrix, quantization).floats())
    assert (decoder.cache(2, 20).keys.dtype == FP8) == (quantization == "fp8")
    needs = footprint(config, torch.float32, torch.device("cpu"), quantization=quantization)
    assert needs.weights == decoder.weight_bytes
    assert needs.per_image == decoder.cache(2, rounded.max_prompt_tokens + rounded.image_tokens).nbytes
    logits = []
    for one in (decoder, plain):
        cache = plain.cache(2, 20)
        for row, prefix in enumerate(one.prefill([[1, 5, 6], [1, 7, 8, 9, 10]])):
            cache.begin(row, prefix)
        logits.append(one.step(torch.tensor([3, 9]), Rows.of([0, 1], [3, 5], torch.device("cpu")), cache))
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


class RoundingCache(DynamicCache):  # type: ignore[misc]
    """transformers' cache; what it holds is rounded when a prompt was read, and what comes later as it comes."""

    rounding: Callable[[Tensor], Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *rest: Any, **names: Any) -> tuple[Tensor, Tensor]:
        if self.rounding:
            key_states, value_states = self.rounding(key_states), self.rounding(value_states)
        found: tuple[Tensor, Tensor] = super().update(key_states, value_states, *rest, **names)
        return found

    def begin_rounding(self, rounding: Callable[[Tensor], Tensor]) -> None:
        self.rounding = rounding
        for layer in self.layers:
            layer.keys, layer.values = rounding(layer.keys), rounding(layer.values)


def as_fp8(numbers: Tensor) -> Tensor:
    values, scales = round_to_fp8(numbers)
    return values.float() * scales[..., None]


def as_bfloat16(numbers: Tensor) -> Tensor:
    return numbers.bfloat16().float()


@pytest.mark.parametrize(
    ("quantization", "rounding"), [("fp8", as_fp8), pytest.param("int8", as_bfloat16, marks=needs_compiler)]
)
@torch.inference_mode()
def test_keys_and_values_are_rounded_beside_rounded_weights(
    quantization: Quantization, rounding: Callable[[Tensor], Tensor]
) -> None:
    """The logits are those of transformers with rounded weights and a rounding cache, not those with a cache of floats.

    8-bit floats are computed by PyTorch, integers by the C functions."""
    janus, codes = load("tiny", device="cpu"), torch.randint(512, (1, 64), generator=torch.Generator().manual_seed(0))
    prompt = janus.encode("two red circles and one green square")
    decoder = Decoder(load("tiny", device="cpu"), native=quantization == "int8", quantization=quantization)
    cache = decoder.cache(3, len(prompt) + 64)
    (prefix,) = decoder.prefill([prompt])
    cache.begin(1, prefix)
    rows = Rows.of([1] * 63, range(len(prompt), len(prompt) + 63), torch.device("cpu"))
    logits = decoder.step(codes[0, :-1], rows, cache)

    language_model, head = janus.network.model.language_model, janus.network.model.generation_head
    for module in (*language_model.layers.modules(), *head.modules()):
        if isinstance(module, torch.nn.Linear):
            matrix = (
                PackedMatrix.of(module.weight, int8=True)
                if quantization == "int8"
                else QuantizedMatrix.of(module.weight, quantization)
            )
            module.weight.copy_(matrix.floats())
    inputs = (torch.tensor([prompt]), janus.network.prepare_embeddings_for_image_generation(codes[:, :-1]))
    found = {}
    for rounds in (True, False):
        kept = RoundingCache(config=language_model.config)
        language_model(inputs[0], past_key_values=kept, use_cache=True)
        if rounds:
            kept.begin_rounding(rounding)
        hidden = language_model(inputs_embeds=inputs[1], past_key_values=kept, use_cache=True).last_hidden_state
        found[rounds] = head(hidden)[0]
    right, wrong = ((logits - found[rounds]).std() for rounds in (True, False))
    # where a number lies between two that are kept, the order of a sum decides
    assert right < 2e-3 * found[True].std()
    assert wrong > 3 * right


@needs_kernels
@every
def test_other_weights_are_rounded_when_they_are_loaded(quantization: Quantization) -> None:
    """Into the same memory, so that captured steps stay valid."""
    decoder = Decoder(micro_janus(), native=False, kernels=True, quantization=quantization)
    places = [matrix.values.data_ptr() for matrix in decoder.weights.copies]
    other = micro_janus()
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.mul_(-0.7)
    decoder.load_weights(other.network)
    expected = Decoder(other, native=False, kernels=True, quantization=quantization).weights
    assert [matrix.values.data_ptr() for matrix in decoder.weights.copies] == places
    for mine, own in zip(decoder.weights.copies, expected.copies, strict=True):
        assert torch.equal(mine.floats(), own.floats())


@needs_compiler
def test_what_a_cpu_cannot_do_fast_is_refused(small_folder: Path) -> None:
    janus = load(small_folder, device="cpu")
    refused: tuple[Quantization, ...] = ("int4", "fp8")
    for quantization in refused:
        with pytest.raises(CheckpointError, match=f"{quantization} weights need an NVIDIA GPU: give int8"):
            Decoder(janus, quantization=quantization)
