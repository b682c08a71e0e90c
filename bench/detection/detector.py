"""Objects in pictures, detected by a Mask2Former trained for instances of COCO's classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad
from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessorPil, PreTrainedModel

from bench.detection.checkpoint import digest, load_network, load_part, name_of
from bench.detection.errors import GenEvalError
from bench.detection.instances import instances
from bench.detection.names import OBJECT_NAMES, object_name
from bench.detection.objects import DetectedObject
from model.device import choose_device

_MULTIPLE = 32  # sides of the network's input
_PADDING = 128.0  # grey, from 0 to 255


@dataclass(frozen=True)
class InputSize:
    """Size that pictures are scaled to, keeping their proportions; the defaults are mmdetection's.

    Args:
        shorter: pixels of the shorter side, unless the longer side would exceed its limit.
        longer: most pixels of the longer side.
    """

    shorter: int = 800
    longer: int = 1333

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture after scaling."""
        scale = min(self.longer / max(height, width), self.shorter / min(height, width))
        return int(height * scale + 0.5), int(width * scale + 0.5)


OFFICIAL_SIZE = InputSize()


class Detector:
    """Detects objects in batches of pictures of one size, so that a picture never gets padding from a neighbour.

    Pictures are prepared as mmdetection does, which the official thresholds were chosen for. A checkpoint's image
    processor would scale to its own size and stretch sides to multiples of 32; only its mean and deviation are used.

    Args:
        network: in evaluation mode, on its device.
        name: of the checkpoint.
        mean: of the three colour channels, from 0 to 1.
        deviation: standard deviation of the channels.
        size: that pictures are scaled to.
        batch: pictures in one forward pass.
        least: score that objects must exceed; the smallest threshold that is used saves the most time.

    Raises:
        GenEvalError: a class of GenEval has no label in the checkpoint.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        *,
        name: str,
        mean: Sequence[float],
        deviation: Sequence[float],
        size: InputSize,
        batch: int,
        least: float,
    ) -> None:
        labels = network.config.id2label
        self._names = [object_name(labels[number]) for number in range(len(labels))]
        if missing := [one for one in OBJECT_NAMES if one not in self._names]:
            raise GenEvalError(f"{name}: has no label for {missing[0]}: must be trained for instances of COCO")
        self._network, self._name, self._size, self._batch, self._least = network, name, size, batch, least
        channels = (torch.tensor(values, device=network.device).view(3, 1, 1) * 255 for values in (mean, deviation))
        self._mean, self._deviation = channels

    @property
    def identity(self) -> Mapping[str, object]:
        """Everything that decides the detections."""
        return {
            "detector": self._name,
            "detector weights": digest(self._network),
            "detector input": f"{self._size.shorter} to {self._size.longer}",
        }

    def __call__(self, pictures: Sequence[Image.Image]) -> list[list[DetectedObject]]:
        """Objects of each picture (RGB)."""
        places: dict[tuple[int, int], list[int]] = {}
        for place, picture in enumerate(pictures):
            places.setdefault(picture.size, []).append(place)
        found: dict[int, list[DetectedObject]] = {}
        for same in places.values():
            for start in range(0, len(same), self._batch):
                batch = same[start : start + self._batch]
                found.update(zip(batch, self._detect([pictures[i] for i in batch]), strict=True))
        return [found[place] for place in range(len(pictures))]

    @torch.inference_mode()
    def _detect(self, pictures: Sequence[Image.Image]) -> list[list[DetectedObject]]:
        width, height = pictures[0].size
        scaled = self._size.of(height, width)
        inputs = torch.stack([self._prepare(picture, scaled) for picture in pictures])
        outputs = self._network(pixel_values=inputs)
        return [
            instances(
                class_logits,
                mask_logits,
                names=self._names,
                padded=(inputs.shape[2], inputs.shape[3]),
                scaled=scaled,
                size=(height, width),
                least=self._least,
            )
            for class_logits, mask_logits in zip(
                outputs.class_queries_logits, outputs.masks_queries_logits, strict=True
            )
        ]

    def _prepare(self, picture: Image.Image, scaled: tuple[int, int]) -> Tensor:
        """Scale, pad at the bottom and on the right, normalise: (3, height, width)."""
        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).to(self._network.device).permute(2, 0, 1).float()
        # bilinear without smoothing and whole levels, as OpenCV scales 8-bit pictures
        pixels = interpolate(pixels[None], size=scaled, mode="bilinear", align_corners=False)[0].round()
        bottom, right = (-side % _MULTIPLE for side in scaled)
        return (pad(pixels, (0, right, 0, bottom), value=_PADDING) - self._mean) / self._deviation


def load_detector(
    source: str,
    *,
    device: str = "auto",
    size: InputSize = OFFICIAL_SIZE,
    batch: int = 4,
    least: float = 0.0,
) -> Detector:
    """Load a detector from a folder or a hub id (downloaded, or from the hub's cache); see `Detector`.

    Raises:
        GenEvalError: it is no Mask2Former for COCO's instances, or a file is missing or damaged.
        CheckpointError: this machine has no such device.
    """
    network = load_network(
        source, Mask2FormerForUniversalSegmentation, model_type="mask2former", device=choose_device(device)
    )
    processor = load_part(source, "preprocessor_config.json", Mask2FormerImageProcessorPil.from_pretrained)
    return Detector(
        network,
        name=name_of(source),
        mean=processor.image_mean,
        deviation=processor.image_std,
        size=size,
        batch=batch,
        least=least,
    )
