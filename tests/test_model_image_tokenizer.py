"""The image tokenizer's native (C) decoder against transformers' own modules."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.janus.configuration_janus import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from model.checkpoints.load import load
from model.cpu.library import native_library
from model.cpu.pixels import NativePixelDecoder, planned_bytes
from model.image_tokenizer import ImageTokenizer
from model.janus import Janus
from tests.tools import needs_compiler

pytestmark = needs_compiler


def image_tokenizer(grid: int, *, base: int = 32, multiplier: tuple[int, ...] = (1, 2), outputs: int = 3) -> JanusVQVAE:
    torch.manual_seed(0)
    config = JanusVQVAEConfig(
        embed_dim=8,
        num_embeddings=64,
        latent_channels=32,
        base_channels=base,
        out_channels=outputs,
        channel_multiplier=list(multiplier),
        num_res_blocks=1,
        num_patches=grid,
    )
    vq = JanusVQVAE(config).eval().requires_grad_(False)
    for module in vq.modules():  # transformers' initial weights decode to uniform grey
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return vq


def native(vq: JanusVQVAE, pictures: int = 3) -> NativePixelDecoder:
    library = native_library()
    assert library is not None
    return NativePixelDecoder(library, vq, pictures=pictures)


def some_codes(vq: JanusVQVAE, count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(64, (count, vq.config.num_patches**2), generator=generator)


def reference(
    convolution: nn.Conv2d, x: Tensor, norm: nn.GroupNorm | None, residual: Tensor | None, doubled: bool
) -> Tensor:
    """Expected result of `NativePixelDecoder.convolve`, by PyTorch in float64."""
    x = x.double()
    if norm is not None:
        x = F.silu(F.group_norm(x, norm.num_groups, norm.weight.double(), norm.bias.double(), norm.eps))
    if doubled:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    assert convolution.bias is not None
    x = F.conv2d(x, convolution.weight.double(), convolution.bias.double(), padding=1)
    return x if residual is None else x + residual.double()


@pytest.fixture(scope="module")
def parts() -> tuple[NativePixelDecoder, JanusVQVAE]:
    vq = image_tokenizer(24, multiplier=(1, 1, 2))
    return native(vq), vq


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("grid", "multiplier", "outputs"), [(9, (1, 1), 48), (10, (1, 2), 3), (13, (2, 1), 20), (24, (1, 2, 2), 3)]
)
def test_pixels_equal_those_of_transformers(grid: int, multiplier: tuple[int, ...], outputs: int) -> None:
    """Sides of 18, 20, 26 and 96 pixels give whole and partial tiles; channels give partial vectors and blocks."""
    vq = image_tokenizer(grid, multiplier=multiplier, outputs=outputs)
    codes = some_codes(vq, 3)
    pixels = native(vq)(codes)
    expected = vq.double().decode(codes)
    assert expected.std() > 0.02
    torch.testing.assert_close(pixels.double(), expected, atol=2e-5, rtol=0)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(2, 31),
    width=st.integers(1, 31),
    count=st.integers(1, 3),
    which=st.integers(0, 3),
    normed=st.booleans(),
    doubled=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_convolution_equals_pytorchs(
    parts: tuple[NativePixelDecoder, JanusVQVAE],
    height: int,
    width: int,
    count: int,
    which: int,
    normed: bool,
    doubled: bool,
    seed: int,
) -> None:
    """Any size; 32 or 64 channels in and 3, 32 or 64 out; with and without norm, doubling and residual."""
    pixels, vq = parts
    first, last = vq.decoder.up[0].block[0], vq.decoder.up[1].block[0]
    assert (last.conv1.in_channels, last.conv1.out_channels) == (64, 32)
    convolution, norm = [
        (first.conv1, first.norm1),
        (last.conv1, last.norm1),
        (last.conv2, last.norm2),
        (vq.decoder.conv_out, vq.decoder.norm_out),
    ][which]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, convolution.in_channels, height, width, generator=generator)
    chosen = norm if normed else None
    sides = (height * (1 + doubled), width * (1 + doubled))
    residual = torch.randn(count, convolution.out_channels, *sides, generator=generator) if seed % 2 else None
    expected = reference(convolution, x, chosen, residual, doubled)
    if residual is not None:
        # at different alignments in memory
        place = torch.empty(residual.numel() + 1)[seed % 4 // 2 :][: residual.numel()]
        lines = residual.permute(0, 2, 3, 1)
        residual = place.view(lines.shape).copy_(lines).permute(0, 3, 1, 2)
    result = pixels.convolve(convolution, x, chosen, residual=residual, doubled=doubled)
    torch.testing.assert_close(result.double(), expected, atol=2e-4, rtol=0)


def test_convolutions_over_large_pictures_are_computed_in_c(
    parts: tuple[NativePixelDecoder, JanusVQVAE], monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 × 24 pixels are not below 9 · 64 channels: PyTorch computes conv_in, 1 × 1 convolutions and attention only."""
    pixels, vq = parts
    names = {module: name for name, module in vq.named_modules()}
    asked: list[str] = []

    def convolve(self: nn.Conv2d, x: Tensor) -> Tensor:
        asked.append(names[self])
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)

    monkeypatch.setattr(nn.Conv2d, "forward", convolve)
    pixels(some_codes(vq, 1))
    assert "decoder.conv_in" in asked
    assert [name for name in asked if "up." in name and "attn" not in name and "shortcut" not in name] == []
    assert "decoder.conv_out" not in asked


def test_extreme_inputs_give_pytorchs_values(parts: tuple[NativePixelDecoder, JanusVQVAE]) -> None:
    """SiLU near ±10⁴, where e^x overflows; pictures of one colour, with variance 0; a picture with mean 30."""
    pixels, vq = parts
    norm, convolution = nn.GroupNorm(32, 32, eps=1e-6).requires_grad_(False), vq.decoder.up[1].block[0].conv2
    noise = torch.randn(1, 32, 12, 12, generator=torch.Generator().manual_seed(3))
    for x, weight, tolerance in (
        (noise, 1e4, 0.2),
        (torch.full_like(noise, 0.25), 1.0, 2e-5),
        (torch.zeros_like(noise), 1.0, 2e-5),
        (noise + 30, 1.0, 1e-3),
    ):
        norm.weight.fill_(weight)
        expected = reference(convolution, x, norm, None, False)
        torch.testing.assert_close(pixels.convolve(convolution, x, norm).double(), expected, atol=tolerance, rtol=0)


@pytest.mark.usefixtures("threads")
def test_a_convolution_is_bit_identical_for_any_batch_and_threads(parts: tuple[NativePixelDecoder, JanusVQVAE]) -> None:
    pixels, vq = parts
    block = vq.decoder.up[1].block[0]
    x = torch.randn(3, 64, 40, 28, generator=torch.Generator().manual_seed(4))
    together = pixels.convolve(block.conv1, x, block.norm1).clone()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        assert torch.equal(pixels.convolve(block.conv1, x, block.norm1), together)
        for i in range(3):
            assert torch.equal(pixels.convolve(block.conv1, x[i : i + 1], block.norm1)[0], together[i])


def test_load_weights_takes_over_changed_weights() -> None:
    vq = image_tokenizer(9, multiplier=(1, 1))
    pixels, codes = native(vq), some_codes(vq, 1)
    before = pixels(codes)
    with torch.no_grad():
        vq.decoder.up[1].block[1].conv2.weight.mul_(-1)
    pixels.load_weights()
    after = pixels(codes)
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(after, vq.decode(codes), atol=2e-5, rtol=0)


def test_a_result_is_not_overwritten_by_the_next_call() -> None:
    vq = image_tokenizer(9, multiplier=(1, 1))
    pixels = native(vq)
    first = pixels(some_codes(vq, 1))
    kept = first.clone()
    pixels(some_codes(vq, 1, seed=2))
    assert torch.equal(first, kept)


def test_planned_bytes_equal_the_bytes_held() -> None:
    with torch.device("meta"):
        planned = planned_bytes(image_tokenizer(13, multiplier=(1, 1)), pictures=2)
    assert planned == native(image_tokenizer(13, multiplier=(1, 1)), pictures=2).nbytes > 0


def test_pictures_beyond_one_batch_decode_as_each_alone() -> None:
    """Nine pictures of 64 × 64, decoded eight at a time with C, bit by bit; four at a time by PyTorch alone, rounded."""
    tiny: Janus = load("tiny", device="cpu", dtype="float32")
    codes = torch.randint(tiny.codebook_size, (9, tiny.image_tokens), generator=torch.Generator().manual_seed(5))
    tokenizer = ImageTokenizer(tiny)
    together = tokenizer.decode(codes)
    alone = torch.cat([tokenizer.decode(row[None]) for row in codes])
    assert torch.equal(together, alone)
    torch.testing.assert_close(together, ImageTokenizer(tiny, native=False).decode(codes), atol=1e-4, rtol=0)
