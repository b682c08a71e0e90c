"""A super-resolution network from a file of weights, in any architecture that spandrel knows."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.checkpoints.tensors import read_content
from model.device import choose_device
from model.errors import CheckpointError, first_line
from serve.upscaling.messages import Upscaled
from serve.upscaling.tiles import run_in_tiles

_LARGEST_SCALE = 8  # bounds the memory of the last pass


class Network:
    """Enlarges pictures by repeated passes.

    Args:
        descriptor: spandrel's `ImageModelDescriptor`, which pads a picture that the architecture cannot take, by
            reflection, and cuts the result.
        device: where it is.
    """

    def __init__(self, descriptor: Any, device: torch.device) -> None:
        self._descriptor = descriptor
        self._device = device
        self.architecture: str = descriptor.architecture.name
        self.scale: int = descriptor.scale

    def enlarge(self, picture: Image.Image, side: int, check: Callable[[], None]) -> Upscaled:
        """Pass a square picture through the network until it has `side` pixels a side or more; then reduce it to that.

        Args:
            picture: the square.
            side: pixels.
            check: called before each tile; what it raises ends the work.

        Raises:
            ArithmeticError: an output is not finite.
        """

        def tile(part: Tensor) -> Tensor:
            check()
            return self._tile(part)

        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
        passes = 0
        while pixels.shape[-1] < side:
            pixels = run_in_tiles(tile, pixels, scale=self.scale)
            passes += 1
        enlarged = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        reduced = enlarged.width > side
        if reduced:
            enlarged = enlarged.resize((side, side), Image.Resampling.LANCZOS)
        return Upscaled(enlarged, passes, reduced)

    def _tile(self, part: Tensor) -> Tensor:
        """Enlarge a tile of bytes, [3, height, width]."""
        output: Tensor = self._descriptor(part[None].to(self._device, torch.float32) / 255)[0]
        if not output.isfinite().all():
            raise ArithmeticError("an output of the network is not finite")
        return (output * 255).round().to("cpu", torch.uint8)


def load_network(file: Path, device: str) -> Network:
    """Load a network, in float32.

    Raises:
        CheckpointError: the file is missing, damaged or unsafe, or holds no network that enlarges colour pictures; or
            this machine has no such device. The message names the file.
    """
    chosen = choose_device(device)
    content = read_content(file)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: is not a state dict (a mapping from names to tensors)")
    spandrel = _import_spandrel()
    try:
        descriptor = spandrel.ModelLoader(chosen).load_from_state_dict(content)
    except spandrel.UnsupportedModelError:
        raise CheckpointError(f"{file}: no architecture that spandrel {spandrel.__version__} knows") from None
    except Exception as error:  # whatever an architecture makes of tensors that do not fit
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"{file}: its tensors fit no network ({reason})") from None
    name = descriptor.architecture.name
    if descriptor.purpose != "SR":
        raise CheckpointError(f"{file}: {name} is for {descriptor.purpose}, and an upscaler must be for SR")
    channels = (descriptor.input_channels, descriptor.output_channels)
    if channels != (3, 3):
        raise CheckpointError(f"{file}: takes and makes {channels} channels, and an upscaler must have 3 of both")
    if not 2 <= descriptor.scale <= _LARGEST_SCALE:
        raise CheckpointError(f"{file}: enlarges {descriptor.scale} times; must be 2 to {_LARGEST_SCALE}")
    return Network(descriptor.eval(), chosen)


def _import_spandrel() -> Any:
    """Import spandrel, and not torchvision.

    Two of its architectures import functions of torchvision, which must match the build of PyTorch; neither enlarges
    pictures (LaMa fills holes, RestoreFormer restores faces), so `load_network` refuses them anyway.
    """
    absent = ModuleType("torchvision.transforms.functional")
    vars(absent).update(dict.fromkeys(("InterpolationMode", "normalize", "rotate")))
    ours = sys.modules.setdefault(absent.__name__, absent) is absent
    try:
        return importlib.import_module("spandrel")
    finally:
        if ours:
            del sys.modules[absent.__name__]
