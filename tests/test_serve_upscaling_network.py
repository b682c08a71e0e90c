"""The upscaler's network: tiles, passes, and files that are refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from model.errors import CheckpointError
from serve.command import main
from serve.settings.reading import ConfigError, read_settings
from serve.settings.server import Settings
from serve.upscaling.network import load_network
from serve.upscaling.tiles import run_in_tiles
from tests.ended import Ended
from tests.upscaler_weights import compact, esrgan_x2, run_compact


def picture_of(side: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def never() -> None:
    """Cancel nothing."""


@pytest.mark.parametrize("tile", [1, 2, 5, 16, 22, 23, 64])
def test_tiles_make_the_whole_picture(tile: int) -> None:
    """Three convolutions of 3 × 3 see three pixels far: with that overlap nothing changes, and with less it does."""
    state = compact(scale=2, seed=1, convolutions=3)
    picture = torch.rand(3, 23, 37, generator=torch.Generator().manual_seed(2))
    whole = run_compact(state, picture)

    def tiled(overlap: int) -> Tensor:
        return run_in_tiles(lambda part: run_compact(state, part), picture, scale=2, tile=tile, overlap=overlap)

    assert torch.allclose(tiled(3), whole, rtol=0, atol=1e-5)
    assert torch.allclose(tiled(2), whole, rtol=0, atol=1e-3) == (tile >= 37)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_passes_equal_the_network_computed_by_hand(tmp_path: Path, name: str) -> None:
    """Two passes, in tiles of up to 256 pixels, of 120 → 240 → 480 pixels, and Lanczos's filter to 450."""
    state = compact(scale=2, seed=3)
    file = tmp_path / name
    if file.suffix == ".pth":
        torch.save({"params_ema": state}, file)  # as Real-ESRGAN's authors do
    else:
        save_file(state, file)
    network = load_network(file, "cpu")
    drawn = picture_of(120)
    expected = torch.from_numpy(np.array(drawn)).permute(2, 0, 1) / 255
    for _ in range(2):
        expected = (run_compact(state, expected).clamp(0, 1) * 255).round() / 255
    pixels = (expected * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    exact = network.enlarge(drawn, 480, never)
    assert (exact.passes, exact.reduced) == (2, False)
    assert np.abs(np.array(exact.picture).astype(int) - pixels).max() <= 1
    less = network.enlarge(drawn, 450, never)
    assert (less.passes, less.reduced) == (2, True)
    assert less.picture.tobytes() == exact.picture.resize((450, 450), Image.Resampling.LANCZOS).tobytes()


def test_sides_that_a_network_cannot_take_are_reflected(tmp_path: Path) -> None:
    """The network needs multiples of 4: after the rows 0 to 32 it is given 31, 30 and 29, of which it keeps 31."""
    file = tmp_path / "x2plus.pth"
    torch.save({"params_ema": esrgan_x2()}, file)
    network = load_network(file, "cpu")
    assert (network.architecture, network.scale) == ("ESRGAN", 2)
    drawn = picture_of(33)
    kept = [*range(1, 33, 2), 31]
    expected = np.array(drawn)[np.ix_(kept, kept)].repeat(4, axis=0).repeat(4, axis=1)[:66, :66]
    assert np.abs(np.array(network.enlarge(drawn, 66, never).picture).astype(int) - expected).max() <= 1


class _Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["MALICIOUS"],)


def _save(file: Path, content: object) -> None:
    torch.save(content, file)


def _cut(file: Path, content: object) -> None:
    torch.save(content, file)
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("write", "content", "said"),
    [
        (_save, {"params": _Malicious()}, "holds something other than tensors"),
        (_cut, compact(), "damaged or cut short"),
        (_save, [1, 2], "is not a state dict"),
        (_save, {"a.weight": torch.zeros(3)}, "no architecture that spandrel"),
        (_save, {"params": {}}, "no architecture that spandrel"),
        (_save, compact() | {"body.2.weight": torch.zeros(8, 9, 3, 3)}, "its tensors fit no network"),
        (_save, compact(scale=1), "is for Restoration"),
        (_save, compact(channels=1), "(1, 1) channels"),
        (_save, compact(scale=9), "enlarges 9 times"),
    ],
)
def test_a_file_that_is_no_upscaler_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path, object], None],
    content: object,
    said: str,
) -> None:
    monkeypatch.setenv("MALICIOUS", str(tmp_path / "made by the file"))
    file = tmp_path / "net.pth"
    write(file, content)
    with pytest.raises(CheckpointError) as error:
        load_network(file, "cpu")
    assert str(file) in str(error.value)
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == [file]


def test_an_output_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    torch.save(compact() | {"body.4.bias": torch.full((12,), float("nan"))}, file)
    with pytest.raises(ArithmeticError, match="not finite"):
        load_network(file, "cpu").enlarge(picture_of(8), 16, never)


@pytest.mark.parametrize(("name", "said"), [("none.pth", "no such file"), ("net.ckpt", ".pth or .safetensors")])
def test_a_missing_or_other_file_is_told_as_a_setting(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^upscaler: .*{said}"):
        read_settings(Settings, ["--upscaler", str(tmp_path / name)])


def test_a_server_with_a_bad_upscaler_ends_before_it_is_ready(
    tmp_path: Path, small_folder: Path, command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.logs.set_up_logging", lambda **_: None)  # keep the logging of the test's own process
    file = tmp_path / "net.pth"
    torch.save(compact(scale=1), file)
    ended = command(main, "--no-ui", "--model", small_folder, "--port", "0", "--upscaler", file)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert ended.err.startswith(f"error: upscaler: {file}: RealESRGAN Compact is for Restoration")
